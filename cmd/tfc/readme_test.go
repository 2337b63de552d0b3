package main

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/compile"
	"github.com/tfc-dev/tfc/parser"
)

// The README names every command and every exit code, and its specs are good.
func TestReadme(t *testing.T) {
	data, err := os.ReadFile("../../README.md")
	if err != nil {
		t.Fatal(err)
	}
	readme := string(data)
	for _, c := range newRoot().Commands() {
		if !strings.Contains(readme, "| `tfc "+c.Name()) {
			t.Errorf("the README has no row for tfc %s", c.Name())
		}
	}
	for _, line := range strings.Split(exitCodes, "\n")[1:] {
		code, means, _ := strings.Cut(strings.TrimSpace(line), " ")
		row := "| " + code + " | " + strings.TrimSpace(means) + " |"
		if !strings.Contains(strings.ReplaceAll(readme, "`", ""), row) {
			t.Errorf("the README lacks %q", row)
		}
	}
	specs := regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(readme, -1)
	if len(specs) < 2 {
		t.Errorf("the README shows %d specs", len(specs))
	}
	for _, m := range specs {
		s, err := parser.Parse("readme.yaml", []byte(m[1]))
		if err == nil {
			_, err = compile.Package(s, "example.com/readme", "test", nil)
		}
		if err != nil {
			t.Errorf("%v in\n%s", err, m[1])
		}
	}
	if !strings.HasPrefix(readme, "# tfc, a transformer compiler\n\n    go run ./cmd/tfc run examples/specs/tiny.yaml ") {
		t.Error("the README does not begin with the command to begin with")
	}
}

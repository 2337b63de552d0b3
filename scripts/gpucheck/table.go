package main

import (
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"time"
)

// describe says what the table is of: commit, device, driver, CUDA and the command.
func describe(b *bench, wanted []string) string {
	commit, err := os.ReadFile(b.built("commit"))
	if err != nil {
		commit = []byte("unknown")
	}
	device := output("nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader")
	command := strings.TrimSpace("scripts/gpu.sh run " + strings.Join(wanted, " "))
	return fmt.Sprintf("%s; CUDA %s; commit %s; `%s`, %s", strings.ReplaceAll(device, "\n", "; "), cudaVersion(output("nvidia-smi")), strings.TrimSpace(string(commit)), command, time.Now().UTC().Format("2006-01-02"))
}

var cudaLine = regexp.MustCompile(`CUDA Version: *([0-9.]+)`)

// cudaVersion finds the version in what nvidia-smi prints.
func cudaVersion(text string) string {
	if m := cudaLine.FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return "unknown"
}

// output is what a command prints, or why it does not.
func output(name string, args ...string) string {
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		return fmt.Sprintf("unknown (%s: %v)", name, err)
	}
	return strings.TrimSpace(string(out))
}

// report is the table, in Markdown.
func report(head string, rows []result, took time.Duration) string {
	var t strings.Builder
	cases, failed := 0, 0
	fmt.Fprintf(&t, "# What holds on a GPU\n\n%s\n\n| part | of | cases | passed | failed | largest error, or ratio | s |\n|---|---|---|---|---|---|---|\n", head)
	for _, r := range rows {
		cases, failed = cases+r.cases, failed+r.failed
		fmt.Fprintf(&t, "| %s | %s | %d | %d | %d | %s | %.1f |\n", cell(r.part), cell(r.what), r.cases, r.cases-r.failed, r.failed, cell(r.note), r.took.Seconds())
	}
	fmt.Fprintf(&t, "| all | | %d | %d | %d | | %.1f |\n", cases, cases-failed, failed, took.Seconds())
	for _, r := range rows {
		for j, f := range r.failures {
			if j == 0 {
				fmt.Fprintf(&t, "\nFailed: %s, %s\n\n", r.part, r.what)
			}
			if j == failuresShown {
				fmt.Fprintf(&t, "- and %d more\n", len(r.failures)-j)
				break
			}
			fmt.Fprintf(&t, "- %s\n", shown(f))
		}
	}
	return t.String()
}

// cell is text that may stand in a table.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ").Replace(s)
}

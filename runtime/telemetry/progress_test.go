package telemetry

import (
	"bytes"
	"math"
	"os"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

// clock is a time that tests move.
type clock struct{ t time.Time }

func (c *clock) now() time.Time { return c.t }

func newTestProgress(width int) (*Progress, *bytes.Buffer, *clock) {
	var out bytes.Buffer
	c := &clock{time.Unix(1000, 0)}
	p := NewProgress(&out)
	p.now = c.now
	if width > 0 {
		p.bar, p.width = true, func() int { return width }
	}
	return p, &out, c
}

// lastLine returns what stands on the terminal's line.
func lastLine(out *bytes.Buffer) string {
	s := out.String()
	return strings.TrimSuffix(s[strings.LastIndexByte(s, '\r')+1:], "\x1b[K")
}

func TestBar(t *testing.T) {
	p, out, c := newTestProgress(100)
	p.Update(Stats{Steps: 5000, Step: 1000, Loss: 3.5, EvalLoss: math.NaN()})
	c.t = c.t.Add(10 * time.Second)
	p.Update(Stats{Steps: 5000, Step: 1200, Loss: 2.34567, EvalLoss: 2.40118, TokensPerSecond: 12345})
	want := "step 1200/5000 ━━━━━━──────────────────── 24%  loss 2.3457  eval 2.4012  12.3k tokens/s  3m10s left"
	if got := lastLine(out); got != want {
		t.Errorf("bar\n got %q\nwant %q", got, want)
	}
	if n := utf8.RuneCountInString(want); n > 99 {
		t.Errorf("the line has %d columns of 100", n)
	}
}

func TestBarFitsEveryWidth(t *testing.T) {
	for width := range 200 {
		for _, s := range []Stats{
			{Steps: 5000, Step: 1, Loss: 9.2, EvalLoss: math.NaN()},
			{Steps: 5000, Step: 4999, Loss: 1.5, EvalLoss: 1.6, TokensPerSecond: 99999},
			{Steps: 5000, Step: 123456789012, Loss: 1.234e300, EvalLoss: -123456789, TokensPerSecond: 1e30},
			{Steps: 5000, Step: 5000, Loss: math.Inf(1), EvalLoss: math.Inf(-1), TokensPerSecond: math.Inf(1)},
		} {
			for _, color := range []bool{false, true} {
				p, out, c := newTestProgress(max(width, 1))
				p.color = color
				p.Update(Stats{EvalLoss: math.NaN()})
				c.t = c.t.Add(time.Hour)
				p.Update(s)
				line := lastLine(out)
				if !color && strings.Contains(line, "\x1b") {
					t.Errorf("colour in %q", line)
				}
				for _, code := range []string{"\x1b[36m", "\x1b[2m", "\x1b[0m"} {
					line = strings.ReplaceAll(line, code, "")
				}
				if n := utf8.RuneCountInString(line); n > max(width-1, 0) || !utf8.ValidString(line) {
					t.Errorf("width %d: %d columns: %q", width, n, line)
				}
				if width >= 120 && !strings.Contains(line, "loss ") {
					t.Errorf("width %d lacks the loss: %q", width, line)
				}
			}
		}
	}
}

func TestPlainLinesComeAtIntervals(t *testing.T) {
	p, out, c := newTestProgress(0)
	nan := math.NaN()
	p.Update(Stats{Steps: 5000, Step: 1, Loss: 5, EvalLoss: nan})
	for step := 2; step <= 120; step++ { // one a second
		c.t = c.t.Add(time.Second)
		eval := nan
		if step >= 55 {
			eval = 2
		}
		p.Update(Stats{Steps: 5000, Step: step, Loss: 5, EvalLoss: eval, TokensPerSecond: 100})
	}
	p.Message("saved")
	p.Done()
	p.Done()
	lines := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	for _, l := range lines {
		if strings.ContainsAny(l, "\r\x1b━") {
			t.Errorf("not plain: %q", l)
		}
	}
	// 1, 11 … 51, then 55 for its evaluation, 65 … 115, the message, and 120 at the end.
	if len(lines) != 15 || lines[0] != "step 1/5000 0%  loss 5.0000" || lines[13] != "saved" ||
		!strings.HasPrefix(lines[6], "step 55/5000 1%  loss 5.0000  eval 2.0000  100 tokens/s  1h22m left") {
		t.Errorf("%d lines:\n%s", len(lines), out.String())
	}
}

func TestBarRedrawsTenTimesASecond(t *testing.T) {
	p, out, c := newTestProgress(80)
	for step := 1; step <= 1000; step++ { // one a millisecond
		p.Update(Stats{Steps: 5000, Step: step, EvalLoss: math.NaN()})
		c.t = c.t.Add(time.Millisecond)
	}
	if n := strings.Count(out.String(), "\r"); n != 10 {
		t.Errorf("%d draws in a second, want 10", n)
	}
	p.Message("warning: x")
	if s := out.String(); !strings.Contains(s, "\r\x1b[Kwarning: x\n\rstep 1000/5000") {
		t.Errorf("a message did not clear the bar and draw it again: %q", s[len(s)-200:])
	}
	p.Done()
	if !strings.HasSuffix(out.String(), "\x1b[K\n") {
		t.Error("Done did not end the line")
	}
}

func TestUpdateAllocatesNothing(t *testing.T) {
	p, out, c := newTestProgress(100)
	p.color = true
	step := 0
	update := func() {
		step++
		c.t = c.t.Add(time.Second)
		p.Update(Stats{Steps: 5000, Step: step, Loss: 1.5, EvalLoss: 2, TokensPerSecond: 1e4})
		out.Reset()
	}
	update()
	if n := testing.AllocsPerRun(100, update); n != 0 {
		t.Errorf("%v allocations an update", n)
	}
}

func TestTerminalIsAskedOnlyOfTerminals(t *testing.T) {
	f, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if NewProgress(f).bar || NewProgress(&bytes.Buffer{}).bar {
		t.Error("a bar where there is no terminal")
	}
}

func TestShortNumbers(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 7: "7", 999.4: "999", 999.6: "1.00k", 1234: "1.23k", 99949: "99.9k", 99951: "100k", 999499: "999k",
		999501: "1.00M", 4.56e6: "4.56M", 7.891e9: "7.89G", 1.5e12: "1.50T", 3e18: "3e+18",
	} {
		if got := string(appendCount(nil, v)); got != want {
			t.Errorf("count %v is %q, want %q", v, got, want)
		}
	}
	for d, want := range map[time.Duration]string{
		0: "0s", 59400 * time.Millisecond: "59s", 59600 * time.Millisecond: "1m00s", 187 * time.Second: "3m07s",
		3600 * time.Second: "1h00m", 5*time.Hour + 2*time.Minute: "5h02m", 291 * time.Hour: "12d03h",
		-time.Second: "0s",
	} {
		if got := string(appendDuration(nil, d)); got != want {
			t.Errorf("duration %v is %q, want %q", d, got, want)
		}
	}
	for v, want := range map[float64]string{2.34567: "2.3457", 999.99999: "1000.0000", 1234.56: "1235", 1e300: "1e+300"} {
		if got := string(appendLoss(nil, v)); got != want {
			t.Errorf("loss %v is %q, want %q", v, got, want)
		}
	}
}

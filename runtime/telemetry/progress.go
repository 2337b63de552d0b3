package telemetry

import (
	"io"
	"math"
	"os"
	"strconv"
	"time"
	"unicode/utf8"

	"golang.org/x/term"
)

// Progress shows one line about a training run. On a terminal the line is redrawn in place, with a bar; elsewhere plain
// lines are written at intervals. TERM=dumb and CI ask for plain lines, NO_COLOR (no-color.org) for a bar without colour.
// A Progress is used by one goroutine.
type Progress struct {
	w     io.Writer
	bar   bool
	color bool
	width func() int
	now   func() time.Time

	first   int       // steps done when the clock started
	started time.Time // zero until the first Update
	shown   time.Time
	last    Stats
	dirty   bool // last is newer than what was shown
	drawn   bool // a bar stands on the current line
	line    []byte
}

// Stats is what a Progress shows.
type Stats struct {
	Step            int
	Steps           int // in all
	Loss            float64
	EvalLoss        float64 // NaN before the first evaluation
	TokensPerSecond float64 // 0 where it is not known
}

const (
	redrawEvery = 100 * time.Millisecond // of a bar
	linesEvery  = 10 * time.Second       // between plain lines
)

// NewProgress returns the progress of a run, written to w.
func NewProgress(w io.Writer) *Progress {
	p := &Progress{w: w, now: time.Now, width: func() int { return 80 }}
	f, ok := w.(*os.File)
	if ok && term.IsTerminal(int(f.Fd())) && os.Getenv("TERM") != "dumb" && os.Getenv("CI") == "" {
		p.bar = true
		p.color = os.Getenv("NO_COLOR") == ""
		p.width = func() int {
			if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
				return w
			}
			return 80
		}
	}
	return p
}

// Update shows where the run stands. It may be called after every step: the line is redrawn ten times a second at most,
// and plain lines are written every ten seconds and after each evaluation. The clock behind the time left starts with
// the first call, so that the first, slow step of a run does not spoil it.
func (p *Progress) Update(s Stats) {
	now := p.now()
	first := p.started.IsZero()
	if first {
		p.started, p.first = now, s.Step
	}
	evaluated := !math.IsNaN(s.EvalLoss) && (first || s.EvalLoss != p.last.EvalLoss)
	p.last, p.dirty = s, true
	interval := linesEvery
	if p.bar {
		interval = redrawEvery
	}
	if first || evaluated || now.Sub(p.shown) >= interval {
		p.show(now)
	}
}

// Message writes a line of its own, above the bar.
func (p *Progress) Message(text string) {
	p.line = p.line[:0]
	if p.drawn {
		p.line = append(p.line, "\r\x1b[K"...)
		p.drawn = false
	}
	p.line = append(append(p.line, text...), '\n')
	_, _ = p.w.Write(p.line) // progress is best effort: a closed terminal must not end a run
	if p.bar && !p.started.IsZero() {
		p.show(p.now())
	}
}

// Done shows the last update and ends the line.
func (p *Progress) Done() {
	if p.dirty {
		p.show(p.now())
	}
	if p.drawn {
		_, _ = io.WriteString(p.w, "\n")
		p.drawn = false
	}
}

func (p *Progress) show(now time.Time) {
	p.shown, p.dirty = now, false
	b := p.line[:0]
	if p.bar {
		b = append(b, '\r')
		b = p.appendBar(b, now)
		b = append(b, "\x1b[K"...)
		p.drawn = true
	} else {
		b = p.appendPlain(b, now)
		b = append(b, '\n')
	}
	p.line = b
	_, _ = p.w.Write(b)
}

// The parts of the line, each with the gap before it.
const (
	partPercent = iota
	partLoss
	partEval
	partSpeed
	partLeft
	partCount
)

// dropOrder says which parts go first where the terminal is too narrow.
var dropOrder = [partCount]int{partPercent, partSpeed, partEval, partLeft, partLoss}

func (p *Progress) appendPart(b []byte, part int, now time.Time) []byte {
	switch part {
	case partPercent:
		if p.last.Steps > 0 {
			b = append(b, ' ')
			b = strconv.AppendInt(b, int64(math.Floor(100*p.share())), 10)
			b = append(b, '%')
		}
	case partLoss:
		b = appendLoss(append(b, "  loss "...), p.last.Loss)
	case partEval:
		if !math.IsNaN(p.last.EvalLoss) {
			b = appendLoss(append(b, "  eval "...), p.last.EvalLoss)
		}
	case partSpeed:
		if p.last.TokensPerSecond > 0 {
			b = append(appendCount(append(b, "  "...), p.last.TokensPerSecond), " tokens/s"...)
		}
	case partLeft:
		if left, ok := p.left(now); ok {
			b = append(appendDuration(append(b, "  "...), left), " left"...)
		}
	}
	return b
}

func (p *Progress) appendSteps(b []byte) []byte {
	b = strconv.AppendInt(append(b, "step "...), int64(p.last.Step), 10)
	return strconv.AppendInt(append(b, '/'), int64(p.last.Steps), 10)
}

func (p *Progress) appendPlain(b []byte, now time.Time) []byte {
	b = p.appendSteps(b)
	for part := range partCount {
		b = p.appendPart(b, part, now)
	}
	return b
}

const barMin, barMax = 8, 40 // characters

// appendBar writes the line with a bar, in at most width-1 columns, so that no terminal wraps it.
func (p *Progress) appendBar(b []byte, now time.Time) []byte {
	room := max(p.width()-1, 0)
	start := len(b)
	b = p.appendSteps(b)
	head := len(b)
	var dropped [partCount]bool
	for drop := 0; ; drop++ {
		b = b[:head]
		for part := range partCount {
			if !dropped[part] {
				b = p.appendPart(b, part, now)
			}
		}
		if utf8.RuneCount(b[start:]) <= room || drop == partCount {
			break
		}
		dropped[dropOrder[drop]] = true
	}
	used := utf8.RuneCount(b[start:])
	if used > room {
		return b[:start+room] // the line is ASCII so far
	}
	size := min(room-used-1, barMax)
	if size < barMin || p.last.Steps <= 0 {
		return b
	}
	// The bar goes between the steps and the rest. Behind it is written first, then turned to the front.
	rest := len(b)
	full := int(math.Floor(p.share() * float64(size)))
	b = p.appendRun(append(b, ' '), "\x1b[36m", "━", full)
	b = p.appendRun(b, "\x1b[2m", "─", size-full)
	rotate(b[head:], rest-head)
	return b
}

func (p *Progress) appendRun(b []byte, color, cell string, n int) []byte {
	if n == 0 {
		return b
	}
	if p.color {
		b = append(b, color...)
	}
	for range n {
		b = append(b, cell...)
	}
	if p.color {
		b = append(b, "\x1b[0m"...)
	}
	return b
}

// rotate moves the first n bytes behind the others.
func rotate(b []byte, n int) {
	reverse(b[:n])
	reverse(b[n:])
	reverse(b)
}

func reverse(b []byte) {
	for i, j := 0, len(b)-1; i < j; i, j = i+1, j-1 {
		b[i], b[j] = b[j], b[i]
	}
}

func (p *Progress) share() float64 {
	return min(max(float64(p.last.Step)/float64(p.last.Steps), 0), 1)
}

// left estimates the time that the steps left will take; it needs a step after the clock's start.
func (p *Progress) left(now time.Time) (time.Duration, bool) {
	done := p.last.Step - p.first
	if done <= 0 {
		return 0, false
	}
	seconds := now.Sub(p.started).Seconds() / float64(done) * float64(max(p.last.Steps-p.last.Step, 0))
	return time.Duration(min(seconds, 1e9) * float64(time.Second)), true
}

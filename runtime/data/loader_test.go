package data

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// counting returns the stream 0, 1, 2, …, so that a token tells its place.
func counting(n, width int) *Tokens {
	t := &Tokens{width: width}
	for i := range n {
		if width == 2 {
			t.ids = binary.LittleEndian.AppendUint16(t.ids, uint16(i))
		} else {
			t.ids = binary.LittleEndian.AppendUint32(t.ids, uint32(i))
		}
	}
	return t
}

func mustLoader(t testing.TB, tokens *Tokens, s Shape, seed uint64) *Loader {
	t.Helper()
	l, err := NewLoader(tokens, s, seed)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// starts returns the first token of each sequence of an epoch, and checks that each sequence is a window.
func starts(t *testing.T, l *Loader, epoch int) (out []int) {
	t.Helper()
	c, n, w := l.shape.Context, l.tokens.Len(), l.Windows()
	tokens, targets := make([]int32, c), make([]int32, c)
	for i := range w {
		l.sequence(uint64(epoch*w+i), tokens, targets)
		for j := range c {
			target := (int(tokens[0]) + j + 1) % n
			if j < l.shape.LossFrom {
				target = Ignored
			}
			if int(tokens[j]) != (int(tokens[0])+j)%n || int(targets[j]) != target {
				t.Fatalf("sequence %d: tokens %v, targets %v", i, tokens, targets)
			}
		}
		out = append(out, int(tokens[0]))
	}
	return out
}

// An epoch is a grid of windows, each visited once, and none of them overlap.
func TestEpochVisitsEveryWindowOnce(t *testing.T) {
	for _, width := range []int{2, 4} {
		for _, n := range []int{5, 8, 9, 11, 12, 13, 100, 4*257 + 3, 60000} {
			l := mustLoader(t, counting(n, width), Shape{Batch: 3, Context: 4, LossFrom: 1}, 7)
			if l.Windows() != n/4 {
				t.Fatalf("%d tokens: %d windows", n, l.Windows())
			}
			for epoch := range 3 {
				seen := make([]bool, n)
				grid := map[int]bool{}
				offset := int(l.epochOffset(epoch))
				for _, s := range starts(t, l, epoch) {
					for j := range 4 {
						if seen[(s+j)%n] {
							t.Fatalf("%d tokens, epoch %d: token %d comes twice", n, epoch, (s+j)%n)
						}
						seen[(s+j)%n] = true
					}
					grid[(s-offset+n)%n%4] = true
				}
				if len(grid) != 1 || !grid[0] {
					t.Errorf("%d tokens, epoch %d: windows off the grid: %v", n, epoch, grid)
				}
			}
		}
	}
}

func (l *Loader) epochOffset(number int) uint64 {
	return epoch{l.seed, uint32(number)}.offset(uint64(l.tokens.Len()))
}

func TestEpochsAndSeedsDiffer(t *testing.T) {
	l := mustLoader(t, counting(4000, 2), Shape{Batch: 1, Context: 4}, 1)
	other := mustLoader(t, counting(4000, 2), Shape{Batch: 1, Context: 4}, 2)
	orders := [][]int{starts(t, l, 0), starts(t, l, 1), starts(t, other, 0)}
	offsets := map[uint64]bool{}
	for i, a := range orders {
		for j, b := range orders[:i] {
			same := 0
			for k := range a {
				if a[k]/4 == b[k]/4 {
					same++
				}
			}
			if same > 12 { // of 1000, 1 is expected
				t.Errorf("orders %d and %d agree in %d places", i, j, same)
			}
		}
	}
	for e := range 20 {
		offsets[l.epochOffset(e)%4] = true
	}
	if len(offsets) != 4 {
		t.Errorf("offsets within the grid: %v", offsets)
	}
}

func TestPermuteIsBijective(t *testing.T) {
	for n := uint64(1); n < 300; n++ {
		seen := make([]bool, n)
		for i := range n {
			p := epoch{3, 5}.permute(i, n)
			if p >= n || seen[p] {
				t.Fatalf("%d of %d goes to %d, taken or too large", i, n, p)
			}
			seen[p] = true
		}
	}
	if p := (epoch{3, 5}).permute(1<<40, 1<<40+1); p > 1<<40 {
		t.Errorf("%d", p)
	}
}

// Over many epochs, every window comes in every place about as often: chi-squared over 16 windows.
func TestPermuteIsUniform(t *testing.T) {
	const n, epochs = 16, 8000
	var counts [n][n]float64
	for e := range uint32(epochs) {
		for i := range uint64(n) {
			counts[i][epoch{11, e}.permute(i, n)]++
		}
	}
	sum := 0.0
	for i := range n {
		for j := range n {
			d := counts[i][j] - epochs/n
			sum += d * d / (epochs / n)
		}
	}
	if free := float64((n - 1) * (n - 1)); math.Abs(sum-free) > 5*math.Sqrt(2*free) {
		t.Errorf("chi-squared %.0f with %.0f degrees of freedom", sum, free)
	}
}

// The batch of a step is its micro-batches one after the other, and the sequences of all steps are the endless order.
func TestBatchDependsOnItsNumberAlone(t *testing.T) {
	shape := Shape{Batch: 6, Context: 5, LossFrom: 2}
	l := mustLoader(t, counting(137, 2), shape, 9)
	again := mustLoader(t, counting(137, 4), shape, 9)
	for _, step := range []int{40, 1, 7, 2, 1} { // 4 and a half steps an epoch
		whole, wholeTargets := make([]int32, 30), make([]int32, 30)
		l.Batch(step, 0, whole, wholeTargets)
		var parts, partTargets []int32
		for micro := range 3 {
			tokens, targets := make([]int32, 10), make([]int32, 10)
			again.Batch(step, micro, tokens, targets)
			parts, partTargets = append(parts, tokens...), append(partTargets, targets...)
		}
		if !slices.Equal(whole, parts) || !slices.Equal(wholeTargets, partTargets) {
			t.Errorf("step %d: %v in one, %v in parts", step, whole, parts)
		}
		row, targets := make([]int32, 5), make([]int32, 5)
		l.sequence(uint64(step-1)*6+4, row, targets)
		if !slices.Equal(row, whole[20:25]) {
			t.Errorf("step %d: sequence 4 is %v, want %v", step, whole[20:25], row)
		}
	}
}

// The order is part of the format of a run: a resumed run must find it as it was.
func TestOrderIsPinned(t *testing.T) {
	l := mustLoader(t, counting(100, 2), Shape{Batch: 2, Context: 8}, 42)
	got := fmt.Sprint(starts(t, l, 0), starts(t, l, 1))
	if want := "[88 72 24 64 12 96 56 80 32 48 4 40] [49 1 85 57 41 73 9 33 93 17 65 25]"; got != want {
		t.Errorf("the order is now %s", got)
	}
}

func TestSteps(t *testing.T) {
	l := mustLoader(t, counting(105, 2), Shape{Batch: 4, Context: 10}, 1) // 10 windows, 2.5 steps
	for _, c := range []struct {
		epochs float64
		want   int
	}{{1, 3}, {2, 5}, {0.4, 1}, {0.5, 2}, {0, 1}, {1e300, math.MaxInt32}, {math.Inf(1), math.MaxInt32}} {
		if got := l.Steps(c.epochs); got != c.want {
			t.Errorf("%v epochs: %d steps, want %d", c.epochs, got, c.want)
		}
	}
}

func TestTooFewTokens(t *testing.T) {
	_, err := NewLoader(counting(8, 2), Shape{Batch: 1, Context: 8}, 1)
	if err == nil || !strings.Contains(err.Error(), "has 8 tokens") || !strings.Contains(err.Error(), "takes 9") {
		t.Errorf("%v", err)
	}
	mustLoader(t, counting(9, 2), Shape{Batch: 1, Context: 8}, 1)
	for _, s := range []Shape{{0, 4, 0}, {1, 0, 0}, {1, 4, -1}, {1, 4, 4}} {
		if _, err := NewLoader(counting(99, 2), s, 1); err == nil {
			t.Errorf("%+v is taken", s)
		}
		if _, err := EvalBatches(counting(99, 2), s); err == nil {
			t.Errorf("%+v is taken for evaluation", s)
		}
	}
}

func TestBatchAllocatesNothing(t *testing.T) {
	l := mustLoader(t, counting(5000, 2), Shape{Batch: 8, Context: 64, LossFrom: 3}, 1)
	tokens, targets := make([]int32, 512), make([]int32, 512)
	step := 0
	if n := testing.AllocsPerRun(100, func() { step++; l.Batch(step, 0, tokens, targets) }); n != 0 {
		t.Errorf("%v allocations a batch", n)
	}
}

func BenchmarkBatch(b *testing.B) {
	l := mustLoader(b, counting(60000, 2), Shape{Batch: 8, Context: 512}, 1)
	tokens, targets := make([]int32, 8*512), make([]int32, 8*512)
	b.ReportAllocs()
	for i := 1; b.Loop(); i++ {
		l.Batch(i, 0, tokens, targets)
	}
}

// Every token but the first is a target once, in order, whatever the rest of the last window.
func TestEvalBatchesCoverTheStream(t *testing.T) {
	for n := range 40 {
		batches, err := EvalBatches(counting(n, 2), Shape{Batch: 3, Context: 4})
		if err != nil {
			t.Fatal(err)
		}
		for range 2 {
			next, count := int32(1), 0
			for tokens, targets := range batches {
				count++
				if len(tokens) != 12 || len(targets) != 12 {
					t.Fatalf("%d tokens, %d targets", len(tokens), len(targets))
				}
				for i, target := range targets {
					if target == Ignored {
						if int(next) != n || tokens[i] != 0 {
							t.Fatalf("%d tokens: token %d has target %d after %d", n, tokens[i], target, next)
						}
						continue
					}
					if target != next || tokens[i] != next-1 {
						t.Fatalf("%d tokens: token %d has target %d, want %d", n, tokens[i], target, next)
					}
					next++
				}
			}
			if int(next) != max(n, 1) || count != (max(n, 1)-1+11)/12 {
				t.Errorf("%d tokens: %d targets in %d batches", n, next-1, count)
			}
		}
	}
}

func TestEvalBatchesLossFrom(t *testing.T) {
	batches, err := EvalBatches(counting(10, 2), Shape{Batch: 2, Context: 4, LossFrom: 2})
	if err != nil {
		t.Fatal(err)
	}
	var got []int32
	for _, targets := range batches {
		got = append(got, targets...)
	}
	const x = Ignored
	if want := []int32{x, x, 3, 4, x, x, 7, 8, x, x, x, x, x, x, x, x}; !slices.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
}

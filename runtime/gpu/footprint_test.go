package gpu

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/tfc-dev/tfc/runtime/cuda/cudatest"
	"github.com/tfc-dev/tfc/runtime/gpu/footprint"
	"github.com/tfc-dev/tfc/runtime/lm"
)

// TestFootprint holds what a trainer and a generator ask the driver for to the lists.
func TestFootprint(t *testing.T) {
	fake := cudatest.New(t)
	p := program(t)
	for _, element := range []DType{F32, BF16} {
		p.Element = element
		var want []int
		allocates := func(list []footprint.Buffer, do func()) {
			t.Helper()
			fake.Record()
			before := len(fake.Calls())
			do()
			var got []int
			for _, call := range fake.Calls()[before:] {
				var n int
				if rest, ok := strings.CutPrefix(call, "cuMemAlloc_v2 "); ok {
					if _, err := fmt.Sscanf(rest, "bytes=%d", &n); err != nil {
						t.Fatalf("%s: %v", call, err)
					}
					got = append(got, n)
				}
			}
			want = []int{footprint.Bytes(list)}
			if !slices.Equal(got, want) {
				t.Errorf("%v: allocates %v, listed are %v", element, got, want)
			}
		}
		on(t, p, func(d lm.Device) {
			allocates(footprint.Training(p.footprint()), func() {
				trainer, err := d.NewTrainer(make([]float32, 32), "")
				if err != nil {
					t.Fatal(err)
				}
				defer trainer.Close()
				if n := trainer.(lm.Sized).Bytes(); n != int64(footprint.Bytes(footprint.Training(p.footprint()))) {
					t.Errorf("the trainer says %d bytes", n)
				}
				if _, _, err := trainer.Step(make([]int32, 8), make([]int32, 8), lm.StepParams{Step: 1}); err != nil {
					t.Fatal(err)
				}
			})
			var g lm.Generator
			allocates(footprint.Generation(p.footprint(), 3), func() {
				var err error
				if g, err = d.NewGenerator(make([]float32, 32), 3, ""); err != nil {
					t.Fatal(err)
				}
				if _, err := g.Prefill(make([]int32, 2), 0, 0); err != nil {
					t.Fatal(err)
				}
			})
			defer g.Close()
			allocates(footprint.Sequences(p.footprint()), func() {
				if _, err := g.Logits(make([]int32, 2)); err != nil {
					t.Fatal(err)
				}
			})
		})
	}
}

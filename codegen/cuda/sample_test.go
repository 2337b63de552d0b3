package cudagen_test

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"testing"

	cudagen "github.com/tfc-dev/tfc/codegen/cuda"
	"github.com/tfc-dev/tfc/codegen/cuda/cudarun"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/cuda/kernelfile"
	"github.com/tfc-dev/tfc/runtime/rng"
)

// sampleCase is a vocabulary, of which the last ids may be no tokens.
type sampleCase struct {
	d                     ir.DType
	vocab, tokens, stride int
	parts                 int
}

const samplePart = 4096

func (c sampleCase) vec() int {
	n := 16 / c.d.Bytes()
	for c.vocab%n != 0 || c.stride%n != 0 {
		n /= 2
	}
	return n
}

// sources are the thin files of the kernels best_n and sample_n.
func (c sampleCase) sources(n int) []cudagen.Source {
	element := map[ir.DType]string{ir.F32: "float", ir.BF16: "bf16", ir.F16: "half"}[c.d]
	file := func(body, params, args string) cudagen.Source {
		return cudagen.Source{Name: fmt.Sprintf("%s_%d.cu", body, n), Data: fmt.Appendf(nil, `#include "sample.cuh"

struct Config {
    using T = %[1]s;
    static constexpr int vocab = %[2]d, stride = %[3]d, vec = %[4]d, parts = %[5]d, part = %[6]d, threads = 1024;
};

extern "C" __global__ void __launch_bounds__(1024) %[7]s_%[8]d(%[9]s, int rows) {
    %[7]s<Config>(rows, %[10]s);
}
`, element, c.vocab, c.stride, c.vec(), c.parts, samplePart, body, n, params, args)}
	}
	return []cudagen.Source{
		file("sample_best", "Whole *best, const "+element+" *logits, const SampleOptions *options", "best, logits, options"),
		file("sample", "int *token, int *positions, const "+element+" *logits, const SampleOptions *options, const Whole *best",
			"token, positions, logits, options, best"),
	}
}

// sampleOptions are SampleOptions of sample.cuh.
type sampleOptions struct {
	temperature, topP float64
	seed              uint64
	topK, sequence    int
	tokens            int
}

func (o sampleOptions) encode() []byte {
	b := binary.LittleEndian.AppendUint64(nil, math.Float64bits(o.temperature))
	b = binary.LittleEndian.AppendUint64(b, math.Float64bits(o.topP))
	b = binary.LittleEndian.AppendUint64(b, o.seed)
	b = binary.LittleEndian.AppendUint32(b, uint32(o.topK))
	b = binary.LittleEndian.AppendUint32(b, uint32(o.sequence))
	return binary.LittleEndian.AppendUint64(b, uint64(o.tokens))
}

// picks are the tokens that runtime/lm may draw, by a full sort: one, or those on both sides of a boundary that rounding may
// have moved. There is none where a logit is not finite.
func (o sampleOptions) picks(logits []float64, position int) []int {
	order := make([]int, len(logits))
	for i, v := range logits {
		order[i] = i
		if v != v || v > math.MaxFloat32 {
			return nil
		}
	}
	sort.SliceStable(order, func(a, b int) bool { return logits[order[a]] > logits[order[b]] })
	highest := logits[order[0]]
	switch {
	case math.IsInf(highest, -1):
		return nil
	case o.temperature == 0:
		return order[:1]
	}
	byK, byP := o.topK > 0 && o.topK < len(logits), o.topP > 0 && o.topP < 1
	if !byK && !byP {
		slices.Sort(order)
	}
	if byK {
		order = order[:o.topK]
	}
	weights, sum := make([]float64, len(order)), 0.0
	for r, i := range order {
		weights[r] = math.Exp((logits[i] - highest) / o.temperature)
		sum += weights[r]
	}
	w := rng.Key{Seed: o.seed, Step: uint32(o.sequence), Stream: 0x5A3B1E00}.Block(uint64(position))
	u := float64(uint64(w[0])<<21|uint64(w[1])>>11) / (1 << 53)
	found := map[int]bool{}
	for _, du := range []float64{-5e-7, 0, 5e-7} {
		for _, dp := range []float64{-5e-7, 0, 5e-7} {
			mass := sum
			if byP {
				mass = 0
				for r := 0; r < len(order) && (r == 0 || mass < o.topP*(1+dp)*sum); r++ {
					mass += weights[r]
				}
			}
			mark, reached, last := min(max(u+du, 0), 1-1e-15)*mass, 0.0, 0
			for r, i := range order {
				if weights[r] > 0 {
					last = i
					if reached += weights[r]; reached > mark {
						break
					}
				}
			}
			found[last] = true
		}
	}
	return slices.Collect(maps.Keys(found))
}

// sampleLogits draws a row of some kind: spread out, close together, all equal, with many ties, with tokens that must not
// be drawn, or damaged.
func sampleLogits(r *rand.Rand, kind, tokens int) []float64 {
	logits := make([]float64, tokens)
	for i := range logits {
		switch kind {
		case 0, 1, 2:
			logits[i] = 2 * r.NormFloat64()
		case 3:
			logits[i] = 20 + 0.02*r.NormFloat64()
		case 4:
			logits[i] = 0.75
		case 5:
			logits[i] = math.Floor(r.NormFloat64())
		case 6:
			logits[i] = math.Copysign(0, float64(r.IntN(2))-0.5)
		default:
			logits[i] = 30 * r.NormFloat64()
			if r.IntN(3) == 0 {
				logits[i] = math.Inf(-1)
			}
		}
	}
	switch at := r.IntN(tokens); kind {
	case 8:
		logits[at] = math.NaN()
	case 9:
		logits[at] = math.Inf(1)
	case 10:
		for i := range logits {
			logits[i] = math.Inf(-1)
		}
	}
	return logits
}

var sampleCases = []sampleCase{
	{ir.F32, 1, 1, 4, 1}, {ir.BF16, 31, 30, 31, 1}, {ir.F32, 4096, 4096, 4096, 1}, {ir.F16, 10007, 9001, 10007, 3}, {ir.BF16, 10000, 10000, 10008, 1},
	{ir.F32, 32768, 32767, 32768, 8}, {ir.BF16, 530008, 529999, 530008, 130},
}

// TestSample holds sampling on the device to the rule of runtime/lm.
func TestSample(t *testing.T) {
	code := &cudagen.Code{}
	for i, c := range sampleCases {
		code.Sources = append(code.Sources, c.sources(i)...)
	}
	for _, name := range []string{"sample.cuh", "rng.cuh", "state.cuh", "device.cuh"} {
		text, err := os.ReadFile(filepath.Join("kernels", name))
		if err != nil {
			t.Fatal(err)
		}
		code.Sources = append(code.Sources, cudagen.Source{Name: name, Data: text})
	}
	ctx, kernels := loadRaw(t, "sample.fatbin", code)
	stream, err := ctx.NewStream()
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range sampleCases {
		t.Run(fmt.Sprintf("%+v", c), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seedOf(uint64(i)), 1))
			rows := 44
			if c.vocab > 1<<18 { // the simulator is slow
				rows = 6
			}
			var options []sampleOptions
			var all []float64
			var encoded, positions []byte
			for n := range rows {
				padding := slices.Repeat([]float64{math.NaN()}, c.stride-c.tokens) // what is behind the tokens is not looked at
				all = append(append(all, sampleLogits(r, n%11, c.tokens)...), padding...)
				o := sampleOptions{
					temperature: []float64{0.8, 1, 0, 1.5, 0.05, 100, 1e-40, 1e300}[r.IntN(8)],
					topK:        []int{0, 0, 1, 5, 50, 500, 3000, c.tokens, c.tokens - 1}[r.IntN(9)],
					topP:        []float64{0, 0, 1, 0.95, 0.5, 0.1, 0.999, 1e-12}[r.IntN(8)],
					seed:        r.Uint64(), sequence: r.IntN(1 << 31), tokens: c.tokens,
				}
				options, encoded = append(options, o), append(encoded, o.encode()...)
				positions = binary.LittleEndian.AppendUint32(positions, uint32(1000*n))
			}
			data := cudarun.Encode(all, c.d)
			all = cudarun.Decode(data, c.d)
			upload := func(b []byte) cuda.Ptr {
				p, err := ctx.Alloc(len(b))
				if err == nil {
					err = ctx.Upload(p, b)
				}
				if err != nil {
					t.Fatal(err)
				}
				t.Cleanup(func() { ctx.Free(p) })
				return p
			}
			poison := func(n int) cuda.Ptr { return upload(slices.Repeat([]byte{0xff}, n)) }
			in, at, opts := upload(data), upload(positions), upload(encoded)
			token, best := poison(4*rows), poison(8*rows*c.parts)
			if c.parts > 1 {
				stream.Launch(kernels(fmt.Sprintf("sample_best_%d", i)), c.parts, rows, 1, best, in, opts, cuda.Arg(rows))
			}
			stream.Launch(kernels(fmt.Sprintf("sample_%d", i)), rows, 1, 1, token, at, in, opts, best, cuda.Arg(rows))
			if err := stream.Sync(); err != nil {
				t.Fatal(err)
			}
			read := func(p cuda.Ptr, n int) int {
				b := make([]byte, 4)
				if err := ctx.Download(b, p.At(4*n)); err != nil {
					t.Fatal(err)
				}
				return int(int32(binary.LittleEndian.Uint32(b)))
			}
			for n := range rows {
				want := options[n].picks(all[n*c.stride:][:c.tokens], 1000*n+1)
				if read(at, n) != 1000*n+1 {
					t.Errorf("row %d: the next position is %d, want %d", n, read(at, n), 1000*n+1)
				}
				if want == nil {
					want = []int{-1}
				}
				if !slices.Contains(want, read(token, n)) {
					t.Errorf("row %d: token %d, want one of %v under %+v", n, read(token, n), want, options[n])
				}
			}
		})
	}
}

// loadRaw compiles code for where kernels run, as compileFor does, and gives its kernels by their names.
func loadRaw(t *testing.T, name string, code *cudagen.Code) (*cuda.Context, func(entry string) cuda.Kernel) {
	t.Helper()
	_, modules, err := kernelfile.Unpack(imageFile(t, name, code))
	if err != nil {
		t.Fatal(err)
	}
	ctx, err := cuda.Open(0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ctx.Close() })
	kernels := map[string]cuda.Kernel{}
	for _, m := range modules {
		module, err := ctx.Load(m.Fatbin)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range m.Entries {
			if kernels[e], err = module.Kernel(cuda.KernelInfo{Entry: e, Threads: 1024, About: e}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return ctx, func(entry string) cuda.Kernel { return kernels[entry] }
}

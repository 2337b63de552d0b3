package weights

import (
	"hash/crc32"
	"math"
	"runtime"
	"slices"
	"testing"
)

func TestInitialiseMoments(t *testing.T) {
	const n = 400_001
	draw := func(kind string, scale float64) (mean, deviation, most float64) {
		values := make([]float32, n)
		if err := Initialise([]Info{{Name: "w", Shape: []int{n}, Init: Init{kind, scale}}}, values, 1); err != nil {
			t.Fatal(err)
		}
		for _, v := range values {
			mean += float64(v) / n
			most = max(most, math.Abs(float64(v)))
		}
		for _, v := range values {
			deviation += (float64(v) - mean) * (float64(v) - mean) / n
		}
		return mean, math.Sqrt(deviation), most
	}
	if mean, dev, most := draw("normal", 0.02); math.Abs(mean) > 1e-4 || math.Abs(dev-0.02) > 1e-4 || most > 0.02*5.78 || most < 0.02*4 {
		t.Errorf("normal: mean %v, deviation %v, extreme %v", mean, dev, most)
	}
	if mean, dev, most := draw("uniform", 3); math.Abs(mean) > 0.02 || math.Abs(dev-math.Sqrt(3)) > 0.02 || most > 3 || most < 2.999 {
		t.Errorf("uniform: mean %v, deviation %v, extreme %v", mean, dev, most)
	}
	if mean, dev, _ := draw("constant", 1); math.Abs(mean-1) > 1e-9 || dev > 1e-9 {
		t.Errorf("constant: mean %v, deviation %v", mean, dev)
	}
}

// The share of draws within 1, 2 and 3 deviations tells a normal distribution from others of the same deviation.
func TestInitialiseIsNormal(t *testing.T) {
	const n = 400_000
	values := make([]float32, n)
	if err := Initialise([]Info{{Name: "w", Shape: []int{n}, Init: Init{"normal", 1}}}, values, 2); err != nil {
		t.Fatal(err)
	}
	for k := 1.0; k <= 3; k++ {
		inside := 0
		for _, v := range values {
			if math.Abs(float64(v)) < k {
				inside++
			}
		}
		if got, want := float64(inside)/n, math.Erf(k/math.Sqrt2); math.Abs(got-want) > 0.003 {
			t.Errorf("within %v deviations: %v, want %v", k, got, want)
		}
	}
}

func TestInitialiseDependsOnNameIndexAndSeedAlone(t *testing.T) {
	normal := Init{"normal", 1}
	one := make([]float32, 200_000)
	if err := Initialise([]Info{{Name: "a", Shape: []int{200_000}, Init: normal}}, one, 7); err != nil {
		t.Fatal(err)
	}
	both := make([]float32, 150_010)
	table := []Info{{Name: "b", Shape: []int{10}, Init: normal}, {Name: "a", Shape: []int{150_000}, Offset: 10, Init: normal}}
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1)) // drawn above by all threads, below by one
	if err := Initialise(table, both, 7); err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(both[10:], one[:150_000]) {
		t.Error("weight a starts otherwise beside weight b")
	}
	if slices.Equal(both[:10], one[:10]) {
		t.Error("weights a and b start alike")
	}
	other := make([]float32, 200_000)
	if err := Initialise([]Info{{Name: "a", Shape: []int{200_000}, Init: normal}}, other, 8); err != nil {
		t.Fatal(err)
	}
	if slices.Equal(other[:10], one[:10]) {
		t.Error("seeds 7 and 8 start alike")
	}
}

// Parts of a buffer are those of the whole, wherever they begin, and what lies between weights is 0.
func TestDrawingInParts(t *testing.T) {
	table := []Info{
		{Name: "c", Shape: []int{70_001}, Offset: 100_000, Init: Init{"uniform", 1}},
		{Name: "a", Shape: []int{7}, Offset: 3, Init: Init{"constant", 2}},
		{Name: "b", Shape: []int{99_001}, Offset: 12, Init: Init{"normal", 1}},
		{Name: "none", Shape: []int{0}, Offset: 99_500, Init: Init{"normal", 1}},
	}
	const floats = 170_050
	d, err := NewDrawing(table, floats, 5)
	if err != nil {
		t.Fatal(err)
	}
	whole := make([]float32, floats)
	if err := Initialise(table, whole, 5); err != nil {
		t.Fatal(err)
	}
	for i, v := range whole {
		if between := i < 3 || i >= 10 && i < 12 || i >= 99_013 && i < 100_000 || i >= 170_001; (v == 0) != between {
			t.Fatalf("element %d is %v", i, v)
		}
	}
	for _, size := range []int{1001, 65_536, 70_002, floats} {
		for from := 0; from < floats; from += size {
			part := slices.Repeat([]float32{9}, min(size, floats-from))
			if d.Fill(part, from); !slices.Equal(part, whole[from:from+len(part)]) {
				t.Errorf("%d elements from %d on are others", size, from)
			}
		}
	}
}

// Known bits: a change to them changes every training run.
func TestInitialiseKnownBits(t *testing.T) {
	sum := crc32.NewIEEE()
	values := make([]float32, 10_000)
	if err := Initialise([]Info{{Name: "layers.0.q.weight", Shape: []int{100, 100}, Init: Init{"normal", 0.02}}}, values, 42); err != nil {
		t.Fatal(err)
	}
	for _, v := range values {
		b := math.Float32bits(v)
		sum.Write([]byte{byte(b), byte(b >> 8), byte(b >> 16), byte(b >> 24)})
	}
	if got := sum.Sum32(); got != 0x399bfd0b {
		t.Errorf("checksum %#x of the first values", got)
	}
}

func TestInitialiseRefuses(t *testing.T) {
	if err := Initialise([]Info{{Name: "w", Shape: []int{4}, Init: Init{"xavier", 1}}}, make([]float32, 4), 0); err == nil {
		t.Error("an unknown kind is accepted")
	}
	if err := Initialise([]Info{{Name: "w", Shape: []int{4}, Offset: 1, Init: Init{"normal", 1}}}, make([]float32, 4), 0); err == nil {
		t.Error("a weight outside of the buffer is accepted")
	}
}

func BenchmarkInitialise(b *testing.B) {
	const n = 1 << 24
	values := make([]float32, n)
	for _, kind := range []string{"normal", "uniform"} {
		b.Run(kind, func(b *testing.B) {
			b.SetBytes(4 * n)
			for b.Loop() {
				if err := Initialise([]Info{{Name: "w", Shape: []int{n}, Init: Init{kind, 0.02}}}, values, 1); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

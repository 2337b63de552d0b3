//go:build linux && (amd64 || arm64)

package cudatest

import (
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

// source is where a shuffle's value comes from, by the PTX ISA's description of shfl.sync.
func source(way string, lane, by, width int) int {
	low := lane / width * width
	from := lane
	switch way {
	case "index":
		return low + by&(width-1)
	case "xor":
		from = lane ^ by
	case "up":
		from = lane - by
	case "down":
		from = lane + by
	}
	if way == "xor" && from < low+width { // below its own segment is allowed
		return from
	}
	if from < low || from >= low+width {
		return lane
	}
	return from
}

func TestShuffles(t *testing.T) {
	a := open(t)
	a.load("collectives.cu", "")
	const ways = 5 * 6
	out := a.alloc(4 * 32 * ways)
	a.run("shuffles", oneBlock(32), out)
	var want []int32
	for width := 1; width <= 32; width *= 2 {
		for way := range 5 {
			for lane := range 32 {
				switch way {
				case 0:
					want = append(want, int32(source("index", lane, 5, width)))
				case 1:
					want = append(want, int32(source("index", lane, lane+1, width)))
				case 2:
					want = append(want, int32(source("xor", lane, 3, width)))
				case 3:
					want = append(want, int32(source("up", lane, 2, width)))
				case 4:
					want = append(want, int32(source("down", lane, 3, width)))
				}
			}
		}
	}
	equal(t, "shuffles", download[int32](a, out, 32*ways), want)

	big, small := a.alloc(8*32), a.alloc(2*32)
	a.run("wide", oneBlock(32), big, small)
	bigs, smalls := download[uint64](a, big, 32), download[uint16](a, small, 32)
	for i := range 32 {
		if want := uint64(i^1)<<40 | 7; bigs[i] != want {
			t.Errorf("lane %d has %x, not %x", i, bigs[i], want)
		}
		if want := uint16(math.Float32bits(float32(31-i)) >> 16); smalls[i] != want {
			t.Errorf("lane %d has %x, not %x", i, smalls[i], want)
		}
	}
}

func TestVotes(t *testing.T) {
	a := open(t)
	a.load("collectives.cu", "")
	out := a.alloc(4 * 4 * 64)
	for _, bits := range []uint32{0, 1, 0x80000000, 0xffffffff, 0x12345678} {
		a.run("vote", oneBlock(32), out, bits)
		truth := func(b bool) uint32 {
			if b {
				return 1
			}
			return 0
		}
		want := slices.Repeat([]uint32{bits, truth(bits != 0), truth(bits == 0xffffffff)}, 32)
		equal(t, "votes", download[uint32](a, out, 3*32), want)
	}
	a.run("leave", oneBlock(32), out)
	var want []uint32
	for lane := range 32 {
		if lane > 20 {
			want = append(want, 7, 7)
		} else {
			want = append(want, 1<<21-1, 20)
		}
	}
	equal(t, "what lanes know that stayed", download[uint32](a, out, 64), want)
	a.run("leave", oneBlock(40), out) // a warp of 8 lanes follows
	equal(t, "what a part of a warp knows", download[uint32](a, out+8*32, 2), []uint32{0xff, 0xffffffff})
}

func TestReductions(t *testing.T) {
	a := open(t)
	a.load("collectives.cu", "")
	for _, n := range []int{32, 256, 1024} {
		in := make([]float32, n)
		sum, most, least := float32(0), float32(math.Inf(-1)), float32(math.Inf(1))
		for i := range in {
			in[i] = float32(rand.IntN(2000) - 1000) // sums are exact
			sum, most, least = sum+in[i], max(most, in[i]), min(least, in[i])
		}
		out := a.alloc(16 * n)
		a.run(fmt.Sprintf("reduce%d", n), oneBlock(n), out, upload(a, in))
		equal(t, fmt.Sprintf("%d threads", n), download[float32](a, out, 4*n), slices.Repeat([]float32{sum, most, -sum, -least}, n))
	}
}

// Blocks run on all CPUs; each has its own shared memory.
func TestGrid(t *testing.T) {
	a := open(t)
	a.load("collectives.cu", "")
	s := shape{grid: [3]int{7, 5, 40}, block: [3]int{4, 8, 2}}
	n := s.grid[0] * s.grid[1] * s.grid[2]
	out := a.alloc(4 * 64 * n)
	sum := upload(a, []int32{0, -1})
	a.run("many", s, out, sum)
	want := make([]int32, 0, 64*n)
	for block := range n {
		for thread := range 64 {
			want = append(want, int32(100*block+thread))
		}
	}
	equal(t, "blocks", download[int32](a, out, 64*n), want)
	equal(t, "atomics", download[int32](a, sum, 2), []int32{int32(64 * n), int32(n - 1)})
}

func bf16Of(x float32) uint16 { return uint16(math.Float32bits(x) >> 16) } // exact for what tests use

// halfOf is for small integers and halves.
func halfOf(x float32) uint16 {
	if x == 0 {
		return 0
	}
	b := math.Float32bits(x)
	return uint16(b>>16&0x8000 | (b>>23&0xff-127+15)<<10 | b>>13&0x3ff)
}

// Fragments as the PTX ISA lays them out for mma.m16n8k16: element i of register r of a lane.
func rowA(lane, r int) int    { return lane/4 + 8*(r%2) }
func colA(lane, r, i int) int { return 2*(lane%4) + 8*(r/2) + i }
func rowB(lane, r, i int) int { return 2*(lane%4) + 8*r + i }
func colB(lane int) int       { return lane / 4 }
func rowD(lane, i int) int    { return lane/4 + 8*(i/2) }
func colD(lane, i int) int    { return 2*(lane%4) + i%2 }

func TestMMA(t *testing.T) {
	a := open(t)
	a.load("tensor.cu", "")
	for kernel, convert := range map[string]func(float32) uint16{"mma_bf16": bf16Of, "mma_half": halfOf} {
		var A [16][16]float32
		var B [16][8]float32
		var D [16][8]float32
		number := func() float32 { return float32(rand.IntN(31)-15) / 2 }
		for i := range 16 {
			for j := range 16 {
				A[i][j] = number()
			}
			for j := range 8 {
				B[i][j], D[i][j] = number(), number()
			}
		}
		left, right, d := make([]uint32, 32*4), make([]uint32, 32*2), make([]float32, 32*4)
		for lane := range 32 {
			for i := range 2 {
				for r := range 4 {
					left[4*lane+r] |= uint32(convert(A[rowA(lane, r)][colA(lane, r, i)])) << (16 * i)
				}
				for r := range 2 {
					right[2*lane+r] |= uint32(convert(B[rowB(lane, r, i)][colB(lane)])) << (16 * i)
				}
			}
			for i := range 4 {
				d[4*lane+i] = D[rowD(lane, i)][colD(lane, i)]
			}
		}
		out := upload(a, d)
		a.run(kernel, oneBlock(32), out, upload(a, left), upload(a, right))
		got := download[float32](a, out, 32*4)
		for lane := range 32 {
			for i := range 4 {
				row, col := rowD(lane, i), colD(lane, i)
				want := D[row][col]
				for k := range 16 {
					want += A[row][k] * B[k][col]
				}
				if got[4*lane+i] != want {
					t.Errorf("%s: row %d, column %d is %v, not %v", kernel, row, col, got[4*lane+i], want)
				}
			}
		}
	}
}

func TestLoadMatrix(t *testing.T) {
	a := open(t)
	a.load("tensor.cu", "")
	in := make([]uint16, 256)
	for i := range in {
		in[i] = uint16(i)
	}
	at := func(matrix, row, col int) uint32 { return uint32(in[64*matrix+8*row+col]) }
	p, out := upload(a, in), a.alloc(4*4*32)
	var plain, transposed []uint32
	for lane := range 32 {
		row, col := lane/4, 2*(lane%4)
		for m := range 4 {
			plain = append(plain, at(m, row, col)|at(m, row, col+1)<<16)
			transposed = append(transposed, at(m, col, row)|at(m, col+1, row)<<16)
		}
	}
	a.run("load_matrices", oneBlock(32), out, p)
	equal(t, "matrices", download[uint32](a, out, 128), plain)
	a.run("load_transposed", oneBlock(32), out, p)
	equal(t, "transposed matrices", download[uint32](a, out, 128), transposed)
	a.run("store_matrices", oneBlock(32), out, upload(a, plain))
	equal(t, "stored matrices", download[uint16](a, out, 256), in)
}

// Copies land when they are waited for and not before.
func TestAsyncCopies(t *testing.T) {
	a := open(t)
	a.load("tensor.cu", "")
	in := make([]float32, 3*128)
	for i := range in {
		in[i] = float32(i)
	}
	p, out := upload(a, in), a.alloc(4*5*3*32)
	a.run("copies", oneBlock(32), out, p)
	got := download[float32](a, out, 5*3*32)
	const old, flying, landed = "old", "flying", "landed"
	for step, groups := range [5][3]string{
		{old, old, old}, {flying, flying, flying}, {landed, flying, flying}, {landed, landed, flying}, {landed, landed, landed},
	} {
		for g, state := range groups {
			for lane := range 32 {
				x := got[(3*step+g)*32+lane]
				want := float32(128*g + 4*lane + 3)
				if g == 2 {
					want = 0 // not valid
				}
				if ok := map[string]bool{old: x == 5, flying: isNaN(x), landed: x == want}[state]; !ok {
					t.Fatalf("step %d, group %d, lane %d: %v is not %s", step, g, lane, x, state)
				}
			}
		}
	}
	a.run("uncommitted", oneBlock(32), out, p)
	for _, x := range download[float32](a, out, 32) {
		if !isNaN(x) {
			t.Fatalf("a copy in no group has landed: %v", x)
		}
	}
}

// Shared memory is NaN at the start of every block, and what is read without a barrier is NaN in one order of threads.
func TestPoison(t *testing.T) {
	a := open(t)
	a.load("faults.cu", "")
	out := a.alloc(4 * 8 * 32)
	s := blocks(4, 32)
	s.shared = 128
	a.run("fresh", s, out)
	for _, x := range download[float32](a, out, 8*32) {
		if !isNaN(x) {
			t.Fatalf("shared memory starts as %v", x)
		}
	}
	for _, by := range []int{1, -1} {
		a.run("neighbour", blocks(2, 64), out, by)
		got := download[float32](a, out, 128)
		if !slices.ContainsFunc(got, isNaN) {
			t.Errorf("the missing barrier does not show with neighbour %d", by)
		}
	}
	if p := a.alloc(1000); !slices.ContainsFunc(download[float32](a, p, 250), isNaN) {
		t.Error("device memory starts without NaNs")
	}
}

func TestFaults(t *testing.T) {
	dynamic := oneBlock(1)
	dynamic.shared = 256
	for _, c := range []struct {
		name   string
		shape  shape
		args   []any // after the output, which has 4096 bytes
		result int
		says   []string
	}{
		{"write", blocks(300, 32), []any{1020}, illegalAddress, []string{"kernel write, block (", " bytes past the end of 4096 bytes of device memory"}},
		{"stray", oneBlock(32), []any{4000}, illegalAddress, []string{"address 0xfa0, which is no device memory"}},
		{"array", oneBlock(1), []any{8}, launchFailed, []string{"index 8 is outside of the array (faults.cu:10)"}},
		{"array", oneBlock(1), []any{-1}, launchFailed, []string{"index -1 is outside of the array"}},
		{"dynamic", dynamic, []any{64}, illegalAddress, []string{"0 bytes past the dynamic shared memory"}},
		{"misaligned", oneBlock(1), []any{2}, misaligned, []string{"is not aligned for this access (device.cuh:"}},
		{"divide", oneBlock(1), []any{0}, launchFailed, []string{"integer division by zero (faults.cu:27)"}},
		{"recurse", oneBlock(1), []any{1000000}, illegalAddress, []string{"a thread's stack is full"}},
		{"returned", oneBlock(64), []any{40}, launchFailed, []string{"divergent barrier", "(faults.cu:38)"}},
		{"returned", blocks(2, 64), []any{1}, launchFailed, []string{"divergent barrier", "(faults.cu:38)"}},
		{"two_barriers", oneBlock(64), []any{32}, launchFailed, []string{"divergent barrier: others wait at another __syncthreads, of line 44 (faults.cu:46)"}},
		{"late", oneBlock(64), []any{33}, launchFailed, []string{"divergent barrier", "(faults.cu:51)"}},
		{"divergent_warp", oneBlock(64), []any{7}, launchFailed, []string{"divergent warp", "__shfl_xor_sync"}},
		{"two_collectives", oneBlock(64), []any{16}, launchFailed, []string{"lanes of a warp are at different collectives"}},
		{"half_a_warp", oneBlock(32), nil, launchFailed, []string{"a collective of a part of the warp"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := open(t)
			a.Quiet()
			a.load("faults.cu", "")
			out := a.alloc(4096)
			a.run(c.name, c.shape, append([]any{out}, c.args...)...)
			a.want(c.result, "cuCtxSynchronize")
			a.want(c.result, "cuMemAlloc_v2", addr(new(uintptr)), 16) // every later call fails
			faults := strings.Join(a.Faults(), "\n")
			for _, s := range c.says {
				if !strings.Contains(faults, s) {
					t.Errorf("%q does not say %q", faults, s)
				}
			}
		})
	}
}

func TestWildPointers(t *testing.T) {
	a := open(t)
	a.Quiet()
	a.load("faults.cu", "")
	a.run("write", oneBlock(1), addr(new([64]float32)), 0)
	a.want(illegalAddress, "cuCtxSynchronize")
	if f := a.Faults(); len(f) != 1 || !strings.Contains(f[0], "kernel write: argument 0 is address") {
		t.Errorf("faults %q", f)
	}
	a.Reset()
	a.makeCurrent()
	a.Quiet()
	a.load("faults.cu", "")
	p := a.alloc(4096)
	q := a.alloc(64)
	a.must("cuMemFree_v2", p)
	a.run("read", oneBlock(1), q, q, int(int64(p-q)/4)+7)
	a.want(illegalAddress, "cuCtxSynchronize")
	if f := a.Faults(); len(f) != 1 || !strings.Contains(f[0], "28 bytes into 4096 bytes of freed device memory") {
		t.Errorf("faults %q", f)
	}
}

// The switch of contexts by ucontext, which machines other than x86-64 use.
func TestUcontext(t *testing.T) {
	findCompiler(t)
	if os.Getenv("TFC_CUDATEST_UCONTEXT") != "" {
		t.Skip("this is it")
	}
	cmd := exec.Command(os.Args[0], "-test.run", "^Test(Shuffles|Reductions|Grid|MMA|AsyncCopies|Faults)$")
	cmd.Env = append(os.Environ(), "TFC_CUDATEST_UCONTEXT=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

func TestMain(m *testing.M) {
	if os.Getenv("TFC_CUDATEST_UCONTEXT") != "" {
		standard = append(standard, "-DTFC_SIM_UCONTEXT")
	}
	os.Exit(m.Run())
}

// Package cudagen lowers ir functions to CUDA: for every op the kernels and matrix products that compute it, and the .cu
// files of those kernels. A .cu file is thin: constants and one entry over a body from kernels/, which people wrote.
// Which body an op gets, and its tile, is the table (table.go). The Go generator writes the code that launches them.
package cudagen

import (
	"bytes"
	"embed"
	"fmt"
	"sort"
	"strings"

	"github.com/tfc-dev/tfc/ir"
)

//go:embed kernels/*.cuh
var bodies embed.FS

// Program is what is lowered: the functions of a model after all passes for a CUDA target.
type Program struct {
	Spec  string              // the spec's file, for the heads of .cu files
	Jobs  []string            // in the order in which kernels are named
	Funcs map[string]*ir.Func // by job
	Archs []string            // architectures that it is compiled for, as sm_80, sm_90a

	Element       ir.DType // of activations; "" for that of the embedding
	WeightFloats  int      // elements of the weight buffer, and of the gradients and moments
	DecayedFloats int      // of these, the first so many are subject to weight decay

	Picks bool // tokens are picked from the logits of prefill and decode
}

// Code is the CUDA side of a program.
type Code struct {
	Sources  []Source              // thin .cu files, by name, then the bodies they include
	Kernels  []*ir.Kernel          // by name
	Launches map[*ir.Op][]ir.Group // of every op that does something
	Pick     *ir.Op                // what picks tokens, with launches like any op of a job; nil for none
	Scratch  map[string]int        // bytes of workspace, by job; 0 for none; that of Pick is under its kind
	Rivals   []ir.Rival            // of the products
	Tables   []ir.RotaryTable      // that kernels read
	Element  ir.DType              // of activations and of the products' copies of the weights
}

// Source is a file below the package's folder kernels.
type Source struct {
	Name string
	Data []byte
	Arch string // the one architecture that it is for; "" for all
}

// Generate lowers a program. The same program gives the same bytes.
func Generate(p Program) (*Code, error) {
	g := &generator{Program: p, code: &Code{Launches: map[*ir.Op][]ir.Group{}, Scratch: map[string]int{}}, byText: map[string]*ir.Kernel{}, byEntry: map[string]string{},
		counts: map[string][]*ir.Kernel{}, names: map[string]bool{}, files: map[string]bool{}}
	for _, job := range p.Jobs {
		f := p.Funcs[job]
		if g.code.Element == "" {
			g.code.Element = p.Element
		}
		if g.code.Element == "" {
			g.code.Element = element(f)
		}
		e := &emitter{g: g, f: f}
		f.Walk(func(op *ir.Op) {
			if op.Loop == nil {
				e.lower(op)
			}
		})
		if e.err != nil {
			return nil, fmt.Errorf("%s: %w", job, e.err)
		}
		g.code.Scratch[job] = e.scratchBytes
	}
	if p.Picks {
		if err := g.pick(); err != nil {
			return nil, err
		}
	}
	g.name()
	sort.Slice(g.code.Kernels, func(i, j int) bool { return g.code.Kernels[i].Name < g.code.Kernels[j].Name })
	sort.Slice(g.code.Sources, func(i, j int) bool { return g.code.Sources[i].Name < g.code.Sources[j].Name })
	return g.code, g.include()
}

// element is the type of a function's activations.
func element(f *ir.Func) ir.DType {
	d := ir.F32
	f.Walk(func(op *ir.Op) {
		if op.Kind == "embed" {
			d = op.Result().Type.DType
		}
	})
	return d
}

type generator struct {
	Program
	code    *Code
	byText  map[string]*ir.Kernel   // kernels by all of their text but the name
	byEntry map[string]string       // the bodies' names
	counts  map[string][]*ir.Kernel // kernels by entry, one a cost
	names   map[string]bool
	files   map[string]bool     // bodies that are included
	rivals  map[ir.Product]bool // products whose rivals are made; About left out
}

// include adds the bodies, with all that they include.
func (g *generator) include() error {
	var names []string
	done := map[string]bool{}
	var add func(name string) error
	add = func(name string) error {
		if done[name] {
			return nil
		}
		done[name] = true
		data, err := bodies.ReadFile("kernels/" + name)
		if err != nil {
			return fmt.Errorf("there is no body %s: %w", name, err)
		}
		names = append(names, name)
		for _, line := range strings.Split(string(data), "\n") {
			if rest, ok := strings.CutPrefix(line, `#include "`); ok && strings.HasSuffix(rest, `.cuh"`) {
				if err := add(strings.TrimSuffix(rest, `"`)); err != nil {
					return err
				}
			}
		}
		return nil
	}
	var roots []string
	for f := range g.files {
		roots = append(roots, f)
	}
	sort.Strings(roots)
	for _, f := range roots {
		if err := add(f); err != nil {
			return err
		}
	}
	sort.Strings(names)
	for _, n := range names {
		data, err := bodies.ReadFile("kernels/" + n)
		if err != nil {
			return err
		}
		g.code.Sources = append(g.code.Sources, Source{Name: n, Data: data})
	}
	return nil
}

// table returns the number of a table, made at its first use.
func (g *generator) table(t ir.RotaryTable) int {
	for i, u := range g.code.Tables {
		if fmt.Sprint(u) == fmt.Sprint(t) {
			return i
		}
	}
	g.code.Tables = append(g.code.Tables, t)
	return len(g.code.Tables) - 1
}

// kernel returns the kernel of k under one config, made where no other op has the same. Its .cu file is
//
//	// Code generated by tfc from stories.yaml. DO NOT EDIT.
//	// layernorm  attn_in  stories.yaml:3
//	#include "norm.cuh"
//
//	struct Config { … };
//
//	extern "C" __global__ void __launch_bounds__(256) layernorm_attn_in(…) {
//	    grid_release();
//	    grid_wait();
//	    layernorm<Config>(…);
//	}
func (g *generator) kernel(op *ir.Op, k *kernel, config []constant, dynamic bool) *ir.Kernel {
	var body bytes.Buffer
	fmt.Fprintf(&body, "#include %q\n\nstruct Config {\n", k.file)
	for _, c := range config {
		fmt.Fprintf(&body, "    %s;\n", c)
	}
	body.WriteString("};\n\n")
	var decls, names []string
	for _, p := range k.params {
		decls = append(decls, p.ctype+p.name)
		names = append(names, p.name)
	}
	rows := "Config::rows"
	if dynamic {
		decls = append(decls, "int rows")
		rows = "rows"
	}
	begin := "grid_release();"
	if !k.waits {
		for _, p := range k.params {
			if dynamic && p.operand.Kind == ir.OperandWeight && p.moved.bytes <= 128*k.threads {
				begin += fmt.Sprintf("\n    prefetch<%d>(%s);", p.moved.bytes, p.name)
			}
		}
		begin += "\n    grid_wait();"
	}
	signature := fmt.Sprintf("(%s) {\n    %s\n    %s<Config>(%s);\n}\n", strings.Join(decls, ", "), begin, k.body, strings.Join(append([]string{rows}, names...), ", "))
	key := body.String() + signature + fmt.Sprint(k.threads, k.blocks, k.shared)
	if old := g.byText[key]; old != nil {
		return old
	}
	entry := unique(k.body+"_"+label(op), g.names)
	var text bytes.Buffer
	fmt.Fprintf(&text, "// Code generated by tfc from %s. DO NOT EDIT.\n// %s\n", base(g.Spec), about(op))
	text.Write(body.Bytes())
	bounds := fmt.Sprint(k.threads)
	if k.blocks > 0 {
		bounds += fmt.Sprintf(", %d", k.blocks)
	}
	fmt.Fprintf(&text, "extern \"C\" __global__ void __launch_bounds__(%s) %s%s", bounds, entry, signature)
	made := &ir.Kernel{Name: entry, Entry: entry, Threads: k.threads, Shared: k.shared, Arch: k.arch, About: about(op)}
	g.byText[key] = made
	g.byEntry[entry] = k.body
	g.files[k.file] = true
	g.code.Sources = append(g.code.Sources, Source{Name: entry + ".cu", Data: text.Bytes(), Arch: k.arch})
	return made
}

// about is an op and its place in the spec.
func about(op *ir.Op) string {
	text := op.Kind + "  " + label(op)
	if op.Pos.IsValid() {
		text += fmt.Sprintf("  %s:%d", base(op.Pos.File), op.Pos.Line)
	}
	return text
}

// label names what an op computes: its first result, or what it adds to.
func label(op *ir.Op) string {
	name := op.Kind
	switch {
	case len(op.Results) > 0:
		name = op.Results[0].Name
	case len(op.Into) > 0:
		name = op.Into[0].Name
	}
	var b strings.Builder
	for _, r := range name {
		if r == '.' || r == '-' {
			r = '_'
		}
		b.WriteRune(r)
	}
	return strings.TrimPrefix(b.String(), "layers_")
}

func unique(name string, taken map[string]bool) string {
	u := name
	for i := 2; taken[u]; i++ {
		u = fmt.Sprintf("%s_%d", name, i)
	}
	taken[u] = true
	return u
}

func base(file string) string { return file[strings.LastIndexByte(file, '/')+1:] }

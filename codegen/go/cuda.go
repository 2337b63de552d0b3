package gogen

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/dave/jennifer/jen"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/spec"
)

// CUDA is the program for GPUs, lowered to launches by the CUDA generator.
type CUDA struct {
	Funcs    map[string]*ir.Func // by job
	Kernels  []*ir.Kernel
	Launches map[*ir.Op][]ir.Group
	Rivals   []ir.Rival
	Pick     *ir.Op         // what picks tokens; nil where the host does
	Scratch  map[string]int // bytes of workspace, by job, and under its kind that of Pick
	Tables   []ir.RotaryTable
	Element  ir.DType // of activations, caches and the products' copies of the weights
	Files    []File   // of the folder kernels
}

// kernelFolder holds the .cu files and what they were compiled to.
const kernelFolder = "kernels"

func gpu(name string) *jen.Statement { return jen.Qual(gpuPath, name) }

// cudaFiles writes cuda.go, and a file a job.
func (g *generator) cudaFiles(files map[string]*jen.File) error {
	c := &cudaGenerator{generator: g, CUDA: g.CUDA}
	for _, job := range ir.Jobs {
		f, err := c.function(g.CUDA.Funcs[job])
		if err != nil {
			return fmt.Errorf("%s on CUDA: %w", job, err)
		}
		files["cuda_"+job+".go"] = f
	}
	if c.Pick != nil {
		files["cuda_pick.go"] = c.pick()
	}
	files["cuda.go"] = c.program()
	return nil
}

// cudaGenerator writes the CUDA half of a package.
type cudaGenerator struct {
	*generator
	*CUDA
	products []*ir.Product // distinct ones, in the order of their first use
	names    map[string]bool
	product  map[ir.Product]string // the constant of each, whatever it is about
}

// kernelName is the constant of a kernel: layernorm_attn_in is kLayernormAttnIn, act_y_2 kActY_2.
func kernelName(k *ir.Kernel) string { return "k" + camel(k.Name) }

// camel joins words; a number stays apart, so that different names stay different.
func camel(name string) string {
	out := ""
	for _, word := range strings.Split(name, "_") {
		switch {
		case word == "":
		case word[0] >= '0' && word[0] <= '9':
			out += "_" + word
		default:
			out += title(word)
		}
	}
	return out
}

// productName is the constant of a product, made at its first use.
func (c *cudaGenerator) productName(op *ir.Op, p *ir.Product) string {
	key := *p
	key.About = ""
	if name, ok := c.product[key]; ok {
		return name
	}
	if c.product == nil {
		c.product, c.names = map[ir.Product]string{}, map[string]bool{}
	}
	of := op.Kind
	if len(op.Results) > 0 {
		of = op.Results[0].Name
	} else if len(op.Into) > 0 {
		of = "d_" + op.Into[0].Name
	}
	of = strings.ReplaceAll(of, "layers.", "")
	name := unique("p"+camel(strings.NewReplacer(".", "_", "-", "_").Replace(of)), c.names)
	c.product[key] = name
	c.products = append(c.products, p)
	return name
}

// program writes what runtime/gpu is told about the CUDA code.
func (c *cudaGenerator) program() *jen.File {
	f := c.file()
	f.Comment("kernelFiles are the CUDA sources and, where nvcc was at hand when the package was built, what they were compiled to.")
	f.Comment("//")
	f.Comment("//go:embed " + kernelFolder)
	f.Var().Id("kernelFiles").Qual("embed", "FS")
	f.Line()
	f.Comment("The kernels, by their number in cudaProgram.")
	f.Const().DefsFunc(func(d *jen.Group) {
		for i, k := range c.Kernels {
			s := d.Id(kernelName(k))
			if i == 0 {
				s.Op("=").Iota()
			}
		}
	})
	f.Line()
	f.Comment("The matrix products, by their number in cudaProgram.")
	f.Const().DefsFunc(func(d *jen.Group) {
		for i, p := range c.products {
			s := d.Id(c.product[withoutAbout(p)])
			if i == 0 {
				s.Op("=").Iota()
			}
		}
	})
	f.Line()
	f.Comment("cudaProgram is the model's CUDA code, for package gpu to run.")
	lines := &fields{}
	lines.add("Files", raw("kernelFiles"))
	lines.add("Element", gpu(dtype(c.Element)))
	for _, n := range []string{"WeightFloats", "MicroBatches", "MicroBatch", "Context", "VocabSize", "MaxPositions", "MaxPrefill", "MaxDecode"} {
		lines.add(n, raw("%s", n))
	}
	if n := ir.Histories(c.Funcs["train"]); n > 0 {
		lines.add("Histories", jen.Lit(n))
	}
	lines.add("CacheWidths", jen.Index().Int().ValuesFunc(func(v *jen.Group) {
		for _, w := range CacheWidths(c.Spec, c.Funcs["decode"]) {
			v.Lit(w)
		}
	}))
	var kernels, products, tables []jen.Code
	for _, k := range c.Kernels {
		kernels = append(kernels, jen.Line(), jen.Values(kernelFields(k)...), jen.Op(","))
	}
	lines.add("Kernels", jen.Index().Add(gpu("Kernel")).Values(jen.Add(append(kernels, jen.Line())...)))
	lines.add("Waits", jen.True())
	for _, p := range c.products {
		products = append(products, jen.Line(), jen.Values(productFields(p)...), jen.Op(","))
	}
	lines.add("Products", jen.Index().Add(gpu("Product")).Values(jen.Add(append(products, jen.Line())...)))
	var rivals []jen.Code
	for _, r := range c.Rivals {
		if name, ok := c.product[r.Product]; ok {
			rivals = append(rivals, jen.Line(), jen.Values(jen.Id("Product").Op(":").Id(name), jen.Id("Kernel").Op(":").Id(kernelName(r.Kernel)),
				jen.Id("Rows").Op(":").Lit(r.Rows), jen.Id("Cols").Op(":").Lit(r.Cols)), jen.Op(","))
		}
	}
	if len(rivals) > 0 {
		lines.add("Rivals", jen.Index().Add(gpu("Rival")).Values(jen.Add(append(rivals, jen.Line())...)))
	}
	for _, t := range c.Tables {
		tables = append(tables, jen.Line(), jen.Values(jen.Id("Freqs").Op(":").Add(floats(t.Freqs)), jen.Id("Scale").Op(":").Add(num(t.Scale)),
			jen.Id("Max").Op(":").Add(raw("MaxPositions")), jen.Id("Sine").Op(":").Lit(t.Sine)), jen.Op(","))
	}
	if len(tables) > 0 {
		lines.add("Tables", jen.Index().Add(gpu("RotaryTable")).Values(jen.Add(append(tables, jen.Line())...)))
	}
	for _, job := range ir.Jobs {
		fn := c.Funcs[job]
		slots, n := ir.Scalars(fn)
		j := &fields{}
		j.add("Arena", jen.Lit(fn.Plan.Bytes))
		j.add("Scratch", jen.Lit(c.Scratch[job]))
		j.add("Scalars", jen.Lit(n))
		if len(fn.Results[0].Type.Dims) == 0 {
			j.add("Results", jen.Index().Int().ValuesFunc(func(v *jen.Group) {
				for _, r := range fn.Results {
					v.Lit(slots[r])
				}
			}))
		}
		j.add("Enqueue", raw("cuda%s", title(job)))
		lines.add(title(job), gpu("Job").Values(j.list()...))
	}
	if c.Pick != nil {
		lines.add("Pick", gpu("Job").Values(jen.Id("Scratch").Op(":").Lit(c.Scratch[c.Pick.Kind]), jen.Id("Enqueue").Op(":").Id("cudaPick")))
	}
	f.Var().Id("cudaProgram").Op("=").Op("&").Add(gpu("Program")).Values(jen.Add(lines.lines()...))
	f.Line()
	c.views(f)
	return f
}

func withoutAbout(p *ir.Product) ir.Product { q := *p; q.About = ""; return q }

// dtype is an element type as package gpu names it.
func dtype(d ir.DType) string {
	return map[ir.DType]string{ir.F32: "F32", ir.BF16: "BF16", ir.F16: "F16", ir.E4M3: "E4M3", ir.E5M2: "E5M2"}[d]
}

func kernelFields(k *ir.Kernel) []jen.Code {
	f := &fields{}
	f.add("Entry", jen.Lit(k.Entry))
	f.add("Threads", jen.Lit(k.Threads))
	if k.Arch != "" {
		f.add("Arch", jen.Lit(k.Arch))
	}
	c := k.Cost
	for _, n := range []struct {
		name string
		n    int
	}{{"Shared", k.Shared}, {"Bytes", c.Bytes}, {"RowBytes", c.RowBytes}, {"KeyBytes", c.KeyBytes}, {"FLOPs", c.FLOPs}, {"RowFLOPs", c.RowFLOPs}, {"KeyFLOPs", c.KeyFLOPs}} {
		if n.n > 0 {
			f.add(n.name, jen.Lit(n.n))
		}
	}
	if c.Keys != nil {
		f.add("Keys", maskExpr(*c.Keys))
	}
	f.add("About", jen.Lit(k.About))
	return f.list()
}

func productFields(p *ir.Product) []jen.Code {
	f := &fields{}
	for _, n := range []struct {
		name string
		n    int
	}{{"M", p.M}, {"N", p.N}, {"K", p.K}} {
		f.add(n.name, jen.Lit(n.n))
	}
	if p.Rows {
		f.add("Dynamic", jen.True())
	}
	if p.TransA {
		f.add("TransA", jen.True())
	}
	if p.TransB {
		f.add("TransB", jen.True())
	}
	for _, n := range []struct {
		name string
		n    int
	}{{"LDA", p.LDA}, {"LDB", p.LDB}, {"LDC", p.LDC}, {"LDD", p.LDD}, {"LDAux", p.LDAux}} {
		if n.n > 0 {
			f.add(n.name, jen.Lit(n.n))
		}
	}
	for _, d := range []struct {
		name string
		d    ir.DType
	}{{"A", p.A}, {"B", p.B}, {"C", p.C}, {"D", p.D}} {
		if d.d != "" {
			f.add(d.name, gpu(dtype(d.d)))
		}
	}
	if p.TF32 {
		f.add("Compute", gpu("ComputeTF32"))
	}
	if p.Beta != 0 {
		f.add("Beta", jen.Lit(p.Beta))
	}
	if p.Epilogue != "" {
		name := map[string]string{"bias": "Bias", "gelu_tanh": "GELUBias", "gelu_tanh_pre": "GELUAuxBias", "gelu_tanh_grad": "DGELU"}[p.Epilogue]
		f.add("Epilogue", gpu("Epilogue"+name))
	}
	if p.Own != "" {
		f.add("Own", gpu(map[string]string{"act": "OwnAct", "slope": "OwnSlope", "times": "OwnTimes"}[p.Own]))
	}
	if p.Act != "" {
		f.add("Act", jen.Lit(p.Act))
	}
	if p.Gated {
		f.add("Gated", jen.True())
	}
	if p.Sums {
		f.add("Sums", jen.True())
	}
	f.add("Align", jen.Lit(p.Align))
	f.add("About", jen.Lit(p.About))
	return f.list()
}

// CacheWidths are the elements of a key, all heads together, by layer, as the decode function of s has them.
func CacheWidths(s *spec.Spec, decode *ir.Func) []int {
	w := make([]int, s.Model.NumLayers)
	for _, p := range decode.Params {
		if p.Cache && strings.HasSuffix(p.Name, "k_cache") {
			for l := p.From; l < p.To; l++ {
				w[l] = p.Type.Cols()
			}
		}
	}
	return w
}

// views writes the addresses of weights, or of their gradients or copies, in a buffer.
func (c *cudaGenerator) views(f *jen.File) {
	f.Comment("cudaViews are the weights, their copies for products, or their gradients, as addresses in one buffer.")
	f.Type().Id("cudaViews").StructFunc(func(s *jen.Group) {
		for _, p := range c.params() {
			field := s.Id(goName(p.Name))
			if p.Axis != "" {
				field.Index(raw("NumLayers"))
			}
			field.Add(gpu("Ptr")).Comment(p.Type.String())
		}
	})
	f.Line()
	f.Comment("newCudaViews lays the views over a buffer whose elements have size bytes.")
	f.Func().Id("newCudaViews").Params(jen.Id("buffer").Add(gpu("Ptr")), raw("size int")).Id("cudaViews").BlockFunc(func(b *jen.Group) {
		b.Var().Id("v").Id("cudaViews")
		for _, p := range c.params() {
			name := "v." + goName(p.Name)
			if p.Axis == "" {
				b.Id(name).Op("=").Add(raw("buffer.At(%d * size)", c.offset(p, 0)))
				continue
			}
			at := fmt.Sprint(c.offset(p, p.From))
			if step := c.step(p); step > 0 {
				at = "(" + at + "+" + index("l", p.From) + fmt.Sprintf("*%d)", step)
			}
			b.Add(c.layers(p)).Block(jen.Id(name + "[l]").Op("=").Add(raw("buffer.At(%s * size)", at)))
		}
		b.Return(raw("v"))
	})
}

// function writes the Go function that puts a job's launches on a stream.
func (c *cudaGenerator) function(f *ir.Func) (*jen.File, error) {
	e := &cudaEmitter{cudaGenerator: c, emitter: &emitter{g: c.generator, f: f, mem: newMemory(f)}}
	e.slots, _ = ir.Scalars(f)
	file := c.file()
	e.mem.declareCUDA(file, f.Name)
	name := "cuda" + title(f.Name)
	doc := map[string]string{
		"train":   "is one optimizer step: every micro-batch forward and backward, then the update.",
		"eval":    "is the loss of one micro-batch.",
		"logits":  "gives the logits of every position of one sequence of r.Rows tokens.",
		"prefill": "puts r.Rows tokens into the key-value cache and gives the logits after the last.",
		"decode":  "puts one token into each of r.Rows slots of the cache and gives their logits.",
	}[f.Name]
	file.Comment(fmt.Sprintf("%s puts %s on a stream: it %s", name, f.Name, doc))
	results := []jen.Code{}
	if len(f.Results[0].Type.Dims) > 0 {
		results = append(results, gpu("Ptr"))
	}
	var body jen.Group
	e.walk(&body, f.Body)
	file.Func().Id(name).Params(jen.Id("r").Op("*").Add(gpu("Run"))).Add(gpu("Ptr")).BlockFunc(func(b *jen.Group) {
		b.Id("v").Op(":=").Add(raw("newCuda%sValues(r.Arena)", title(f.Name)))
		for _, u := range []struct{ name, buffer, size string }{{"w", "Weights", "4"}, {"c", "Copies", "gpu." + dtype(c.Element) + ".Size()"}, {"d", "Gradients", "4"}} {
			if e.used[u.name] {
				size := raw("%s", u.size)
				if u.name == "c" {
					size = gpu(dtype(c.Element)).Dot("Size").Call()
				}
				b.Id(u.name).Op(":=").Id("newCudaViews").Call(raw("r.%s", u.buffer), size)
			}
		}
		for _, in := range []string{"tokens", "targets"} {
			if e.used[in] {
				b.Id(in).Op(":=").Add(raw("r.%s", title(in)))
			}
		}
		e.walk(b, f.Body)
		if len(results) > 0 {
			b.Return(raw("%s", e.mem.ref(f.Results[0], f.Body)))
		} else {
			b.Return(jen.Lit(0))
		}
	})
	return file, e.err()
}

// pick writes the Go function that puts the picking of tokens on a stream.
func (c *cudaGenerator) pick() *jen.File {
	e := &cudaEmitter{cudaGenerator: c, emitter: &emitter{g: c.generator}}
	file := c.file()
	file.Comment("cudaPick puts the picking of tokens on a stream: from each of the r.Rows rows of r.Logits it draws the next one, as r.Options says.")
	file.Comment("Tokens and positions go where the next decode step reads them.")
	file.Func().Id("cudaPick").Params(jen.Id("r").Op("*").Add(gpu("Run"))).Add(gpu("Ptr")).BlockFunc(func(b *jen.Group) {
		e.launches(b, c.Pick)
		b.Return(raw("r.Tokens"))
	})
	return file
}

// declareCUDA writes the struct of a function's values as addresses, and the function that lays it over an arena.
func (m *memory) declareCUDA(file *jen.File, job string) {
	typeName := "cuda" + title(job) + "Values"
	file.Comment(fmt.Sprintf("%s are the values of %s, each in its planned place; those that share memory share a field.", typeName, job))
	file.Type().Id(typeName).StructFunc(func(s *jen.Group) {
		for _, fd := range m.fields {
			st := s.Id(fd.name)
			if n := fd.place.Buffer.Slots; n > 1 {
				st.Index(jen.Lit(n))
			}
			st.Add(gpu("Ptr")).Comment(fmt.Sprintf("%s %s", fd.typ, strings.Join(fd.values, ", ")))
		}
	})
	file.Line()
	file.Comment(fmt.Sprintf("new%s lays the values over an arena.", title(typeName)))
	file.Func().Id("new" + title(typeName)).Params(jen.Id("arena").Add(gpu("Ptr"))).Id(typeName).BlockFunc(func(b *jen.Group) {
		b.Var().Id("v").Id(typeName)
		for _, fd := range m.fields {
			at := fmt.Sprint(fd.place.Buffer.Offset + fd.place.Column*fd.typ.DType.Bytes())
			if fd.place.Buffer.Slots == 1 {
				b.Id("v." + fd.name).Op("=").Add(raw("arena.At(%s)", at))
				continue
			}
			at += fmt.Sprintf("+i*%d", fd.place.Buffer.Slot)
			b.For(raw("i := range v.%s", fd.name)).Block(raw("v.%s[i]", fd.name).Op("=").Add(raw("arena.At(%s)", at)))
		}
		b.Return(raw("v"))
	})
	file.Line()
}

// cudaEmitter writes the launches of one function.
type cudaEmitter struct {
	*cudaGenerator
	*emitter
	slots  map[*ir.Value]int
	used   map[string]bool // the locals w, c, d, tokens, targets
	failed error
}

func (e *cudaEmitter) err() error {
	if e.failed == nil {
		return e.emitter.err
	}
	return e.failed
}

func (e *cudaEmitter) use(local string) string {
	if e.used == nil {
		e.used = map[string]bool{}
	}
	e.used[local] = true
	return local
}

func (e *cudaEmitter) walk(b *jen.Group, block *ir.Block) {
	for _, op := range block.Ops {
		if op.Loop != nil {
			e.loop(b, op)
			continue
		}
		e.launches(b, op)
	}
}

// launches writes those of an op.
func (e *cudaEmitter) launches(b *jen.Group, op *ir.Op) {
	groups := e.Launches[op]
	if len(groups) == 0 {
		return
	}
	e.comment(b, op)
	for len(groups) > 0 {
		on, off := groups[0].On, groups[0].Off
		var same []ir.Group
		same, groups = cut(groups, on, off)
		body := func(b *jen.Group) { e.groups(b, op, same) }
		switch {
		case on != "":
			s := b.If(raw("r.On(%q)", on)).BlockFunc(body)
			if others, rest := cut(groups, "", on); len(others) > 0 {
				s.Else().BlockFunc(func(b *jen.Group) { e.groups(b, op, others) })
				groups = rest
			}
		case off != "":
			b.If(raw("!r.On(%q)", off)).BlockFunc(body)
		default:
			body(b)
		}
	}
}

// cut splits off the first groups, those for the same GPUs.
func cut(groups []ir.Group, on, off string) (same, rest []ir.Group) {
	n := slices.IndexFunc(groups, func(g ir.Group) bool { return g.On != on || g.Off != off })
	if n < 0 {
		n = len(groups)
	}
	return groups[:n], groups[n:]
}

func (e *cudaEmitter) groups(b *jen.Group, op *ir.Op, groups []ir.Group) {
	for _, gr := range groups {
		body := func(b *jen.Group) {
			for _, l := range gr.Launches {
				e.launch(b, op, l)
			}
		}
		switch {
		case gr.Measures:
			b.If(raw("r.Measures()")).BlockFunc(body)
		case gr.Times == 1:
			body(b)
		default:
			b.For(raw("i := range %d", gr.Times)).BlockFunc(body)
		}
	}
}

// loop writes a loop over micro-batches or layers.
func (e *cudaEmitter) loop(b *jen.Group, op *ir.Op) {
	l := op.Loop
	b.Line()
	for i, c := range l.Carries {
		if len(c.Type.Dims) == 0 {
			continue
		}
		start := *l
		if into := e.carried(c, &start, 0); into != e.mem.ref(op.Args[i], op.Block) {
			e.copy(b, c, op.Args[i], into, e.mem.ref(op.Args[i], op.Block))
		}
	}
	b.Comment(about(op))
	b.Add(e.header(l)).BlockFunc(func(body *jen.Group) {
		if l.Axis == "micro" {
			for _, in := range e.f.Inputs {
				if in.Axis == l.Axis && e.reads(l.Body, in) {
					body.Id(in.Name).Op(":=").Add(raw("%s.At(%s * 4*%s)", e.use(in.Name), l.Var, size(in.Type)))
				}
			}
		}
		e.walk(body, l.Body)
		for i, c := range l.Carries {
			if len(c.Type.Dims) == 0 {
				continue
			}
			if next, from := e.next(c, l), e.mem.ref(l.Yield[i], l.Body); next != from {
				e.copy(body, c, l.Yield[i], next, from)
			}
		}
	})
	b.Line()
}

func (e *cudaEmitter) reads(b *ir.Block, v *ir.Value) bool {
	found := false
	b.Walk(func(op *ir.Op) { found = found || slices.Contains(op.Args, v) && len(e.Launches[op]) > 0 })
	return found
}

// copy copies a carry to where the next iteration looks for it.
func (e *cudaEmitter) copy(b *jen.Group, to, from *ir.Value, into, out string) {
	for _, v := range []*ir.Value{to, from} {
		if p, ok := e.f.Plan.Places[v]; ok && p.Stride != v.Type.Cols() && e.failed == nil {
			e.failed = fmt.Errorf("%s is carried through columns of another value", v.Name)
		}
	}
	b.Add(raw("r.Copy(%s, %s, %d)", into, out, to.Type.Elems()*to.Type.DType.Bytes()))
}

// launch writes one launch: r.Launch(kernel, blocks, arguments), r.Multiply(product, D, A, B, C, bias, pre), r.MultiplySums with
// the address of sums, r.MultiplyScaled(product, D, A, B, C, bias, factor of A, factor of B), or r.MultiplyQuantized of a product that quantises.
func (e *cudaEmitter) launch(b *jen.Group, op *ir.Op, l ir.Launch) {
	var args []string
	for _, a := range l.Args {
		args = append(args, e.operand(op, a))
	}
	switch {
	case l.Product != nil && l.Product.Quantizes():
		args = slices.Delete(args, 3, 4) // C
		b.Add(raw("r.MultiplyQuantized(%s, %s, %s{Transposed: %s, Scale: %s, History: %s, Amax: %s, Top: %s})", e.productName(op, l.Product), strings.Join(args[:8], ", "),
			e.qualified("Quantized"), args[8], args[9], args[10], args[11], args[12]))
	case l.Product != nil && l.Product.Sums:
		b.Add(raw("r.MultiplySums(%s, %s)", e.productName(op, l.Product), strings.Join(args, ", ")))
	case l.Product != nil:
		method := "Multiply"
		if l.Product.Scaled { // which has factors in the place of a value before the activation
			method, args = "MultiplyScaled", slices.Delete(args, 5, 6)
		}
		b.Add(raw("r.%s(%s, %s)", method, e.productName(op, l.Product), strings.Join(args, ", ")))
	case l.Clear > 0:
		b.Add(raw("r.Clear(%s, %d)", args[0], l.Clear))
	default:
		k := kernelName(l.Kernels[0])
		if len(l.Kernels) > 1 {
			var names []string
			for _, x := range l.Kernels {
				names = append(names, kernelName(x))
			}
			at := loopVar(op, "layers")
			if len(names) < e.Spec.Model.NumLayers {
				at += fmt.Sprintf("%%%d", len(names))
			}
			k = fmt.Sprintf("[...]int{%s}[%s]", strings.Join(names, ", "), at)
		}
		var grid []string
		for _, n := range l.Grid {
			grid = append(grid, blockCount(n))
		}
		call := gpu("Grid").Values(raw("%s", strings.Join(grid, ", ")))
		params := []jen.Code{raw("%s", k), call}
		for _, a := range args {
			params = append(params, raw("%s", a))
		}
		b.Id("r.Launch").Call(params...)
	}
}

func blockCount(n ir.Count) string {
	switch {
	case n.Per == 0:
		return fmt.Sprint(n.N)
	case n.N == 1:
		return fmt.Sprintf("r.Blocks(%d)", n.Per)
	}
	return fmt.Sprintf("r.Blocks(%d)*%d", n.Per, n.N)
}

// operand is an argument as Go.
func (e *cudaEmitter) operand(op *ir.Op, a ir.Operand) string {
	var s string
	param := func(local string) string {
		s := e.use(local) + "." + goName(a.Value.Name)
		if l := ir.RefLoop(a.Value, op.Block); l != nil {
			s += "[" + l.Var + "]"
		}
		return s
	}
	number := func(n string) string { return e.qualified("Int") + "(" + n + ")" }
	switch a.Kind {
	case ir.OperandNull:
		return "0"
	case ir.OperandValue:
		switch v := a.Value; {
		case len(v.Type.Dims) == 0:
			s = fmt.Sprintf("r.Scalar(%d)", e.slots[v])
		case v.Block == nil && v.Axis == "" && (v.Name == "positions" || v.Name == "slots"):
			s = "r." + title(v.Name)
		case v.Block == nil:
			s = e.use(v.Name)
		default:
			s = e.mem.ref(v, op.Block)
		}
	case ir.OperandWeight:
		s = param("w")
	case ir.OperandCopy:
		s = param("c")
	case ir.OperandGrad:
		s = param("d")
	case ir.OperandCache:
		which := "Keys"
		if strings.HasSuffix(a.Value.Name, "v_cache") {
			which = "Values"
		}
		s = "r." + which + "[" + loopVar(op, "layers") + "]"
	case ir.OperandScratch:
		s = "r.Scratch"
	case ir.OperandState:
		s = "r.State"
	case ir.OperandTable:
		s = fmt.Sprintf("r.Tables[%d]", a.N)
	case ir.OperandBuffer:
		s = "r." + title(a.Name)
	case ir.OperandHistory:
		if l := loopVar(op, "layers"); l != "" {
			s = fmt.Sprintf("r.History.At(8 * (%d + %s))", a.N, l)
		} else {
			s = fmt.Sprintf("r.History.At(8 * %d)", a.N)
		}
	case ir.OperandNumber:
		return number(fmt.Sprint(a.N))
	case ir.OperandRows:
		return number("r.Rows")
	case ir.OperandLayer, ir.OperandMicro:
		v := loopVar(op, map[ir.OperandKind]string{ir.OperandLayer: "layers", ir.OperandMicro: "micro"}[a.Kind])
		if v == "" {
			v = "0"
		}
		return number(v)
	}
	switch {
	case a.Step > 0 && a.Offset > 0:
		s += fmt.Sprintf(".At(%d + i*%d)", a.Offset, a.Step)
	case a.Step > 0:
		s += fmt.Sprintf(".At(i * %d)", a.Step)
	case a.Offset > 0:
		s += fmt.Sprintf(".At(%d)", a.Offset)
	}
	if a.Found {
		s = "r.Found(" + s + ")"
	}
	return s
}

// qualified is a name of package gpu in raw text; the file imports the package for its other uses.
func (e *cudaEmitter) qualified(name string) string { return path.Base(gpuPath) + "." + name }

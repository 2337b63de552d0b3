package gpu

import (
	"errors"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/gpu/footprint"
	"github.com/tfc-dev/tfc/runtime/lm"
)

// generator is lm.Generator on a device, and with the methods of picker lm.Picker.
type generator struct {
	d      *device
	p      *Program
	memory *memory
	logits *memory // arena of whole sequences' logits, made at its first use
	code   *code
	stream *cuda.Stream
	run    Run
	slots  int

	decode map[decodeStep]*cuda.Graph

	inputs inputs
	output *cuda.Pinned // logits of a call, in the program's element type
	floats []float32
	picked []int32 // tokens of a call
}

// decodeStep is what a graph of a decode step depends on.
type decodeStep struct {
	rows int
	pick bool
}

func (d *device) NewGenerator(weights []float32, slots int, tuned string) (lm.Generator, error) {
	p := d.program
	g := &generator{d: d, p: p, slots: slots, decode: map[decodeStep]*cuda.Graph{}, picked: make([]int32, slots)}
	var workspace, tables Ptr
	var err error
	g.memory, err = d.allocate("generation", func(m *memory) {
		at := m.takeAll(footprint.Generation(p.footprint(), slots))
		g.run.lay(at)
		g.run.Slots, g.run.Options = at[footprint.Slots], at[footprint.Options]
		g.run.Keys, g.run.Values = nil, nil
		cache := at[footprint.Cache]
		for _, n := range footprint.CacheBytes(p.footprint(), slots) {
			values := cache.At(footprint.Round(n))
			g.run.Keys, g.run.Values = append(g.run.Keys, cache), append(g.run.Values, values)
			cache = values.At(footprint.Round(n))
		}
		tables, workspace = at[footprint.Tables], at[footprint.BLASWorkspace]
	})
	if err != nil {
		return nil, err
	}
	if err := g.start(weights, workspace, tables, tuned); err != nil {
		return nil, errors.Join(err, g.close())
	}
	if p.Pick.Enqueue != nil {
		return picker{g}, nil
	}
	return g, nil
}

func (g *generator) start(weights []float32, workspace, tables Ptr, tuned string) (err error) {
	ctx, p := g.d.ctx, g.p
	if g.stream, err = ctx.NewStream(); err != nil {
		return err
	}
	g.run.stream = g.stream
	if g.run.Tables, err = g.d.uploadTables(tables); err != nil {
		return err
	}
	if g.code, err = g.d.newCode(workspace, tuned); err != nil {
		return err
	}
	g.run.code = g.code
	if err := g.inputs.allocate(ctx, p); err != nil {
		return err
	}
	if g.output, err = ctx.Pinned(p.Element.Size() * g.slots * p.VocabSize); err != nil {
		return err
	}
	g.floats = make([]float32, g.slots*p.VocabSize)
	return g.d.upload(weights, g.run.Weights, g.run.Copies)
}

// Prefill implements lm.Generator.
func (g *generator) Prefill(tokens []int32, start, slot int) ([]float32, error) {
	return g.read(g.prefill(tokens, start, slot), 1)
}

// prefill puts a prefill on the stream, with options for what picks from its logits, and gives their address.
func (g *generator) prefill(tokens []int32, start, slot int, options ...lm.PickOptions) Ptr {
	n := len(tokens)
	positions, slots := make([]int32, n), make([]int32, n)
	for i := range n {
		positions[i], slots[i] = int32(start+i), int32(slot)
	}
	g.inputs.put(&g.run, tokens, positions, slots, options)
	g.run.Rows = n
	if err := g.run.prepare(&g.p.Prefill); err != nil {
		g.stream.Fail(err)
		return 0
	}
	return g.p.Prefill.Enqueue(&g.run)
}

// read returns rows of logits that lie one after another on the device.
func (g *generator) read(from Ptr, rows int) ([]float32, error) {
	n := rows * g.p.VocabSize
	g.stream.CopyOut(g.output, 0, from, n*g.p.Element.Size())
	if err := g.stream.Sync(); err != nil {
		return nil, err
	}
	decode(g.floats[:n], g.output.Bytes(), g.p.Element)
	return g.floats[:n], nil
}

// Decode implements lm.Generator.
func (g *generator) Decode(tokens, positions, slots []int32) ([]float32, error) {
	for at := 0; at < len(tokens); at += g.p.MaxDecode {
		end := min(at+g.p.MaxDecode, len(tokens))
		if err := g.step(tokens[at:end], positions[at:end], slots[at:end], nil); err != nil {
			return nil, err
		}
		decode(g.floats[at*g.p.VocabSize:end*g.p.VocabSize], g.output.Bytes(), g.p.Element)
	}
	return g.floats[:len(tokens)*g.p.VocabSize], nil
}

// step replays the graph of a decode step of so many rows, made at its first use: with options it picks tokens, without
// any it gives logits, which output has afterwards.
func (g *generator) step(tokens, positions, slots []int32, options []lm.PickOptions) (err error) {
	s := decodeStep{len(tokens), options != nil}
	g.inputs.put(&g.run, tokens, positions, slots, options)
	graph := g.decode[s]
	if graph == nil {
		g.run.Rows = s.rows
		graph, err = g.run.capture(&g.p.Decode, func(Ptr) {}, func(result Ptr) { g.after(s, result) })
		if err != nil {
			return err
		}
		g.decode[s] = graph
	}
	g.stream.Run(graph)
	return g.stream.Sync()
}

// after puts what follows a decode step's logits on the stream: picking, or their way to the host.
func (g *generator) after(s decodeStep, logits Ptr) {
	if s.pick {
		g.pick(g.run, logits)
	} else {
		g.stream.CopyOut(g.output, 0, logits, s.rows*g.p.VocabSize*g.p.Element.Size())
	}
}

// Logits implements lm.Generator.
func (g *generator) Logits(tokens []int32) ([]float32, error) {
	p := g.p
	run := g.run
	if g.logits == nil {
		var err error
		if g.logits, err = g.d.allocate("the logits of whole sequences", func(m *memory) { m.takeAll(footprint.Sequences(p.footprint())) }); err != nil {
			return nil, err
		}
	}
	run.Arena, run.Scratch = g.logits.base, g.logits.base.At(footprint.Round(p.Logits.Arena))
	n := len(tokens)
	positions := make([]int32, n)
	for i := range positions {
		positions[i] = int32(i)
	}
	g.inputs.put(&run, tokens, positions, nil, nil)
	run.Rows = n
	if err := run.prepare(&p.Logits); err != nil {
		return nil, err
	}
	from := p.Logits.Enqueue(&run)
	if err := g.stream.Sync(); err != nil {
		return nil, err
	}
	bytes := make([]byte, n*p.VocabSize*p.Element.Size())
	if err := g.d.ctx.Download(bytes, from); err != nil {
		return nil, err
	}
	out := make([]float32, n*p.VocabSize)
	inParallel(len(out), func(from, end int) { decode(out[from:end], bytes[from*p.Element.Size():], p.Element) })
	return out, nil
}

// MaxPrefill and Slots implement lm.Generator.
func (g *generator) MaxPrefill() int { return g.p.MaxPrefill }
func (g *generator) Slots() int      { return g.slots }

// Close implements lm.Generator.
func (g *generator) Close() { g.close() }

func (g *generator) close() error {
	var errs []error
	for _, graph := range g.decode {
		errs = append(errs, graph.Close())
	}
	if g.code != nil {
		errs = append(errs, g.code.blas.Close())
	}
	for _, p := range []*cuda.Pinned{g.inputs.ints, g.inputs.options, g.output} {
		if p != nil {
			errs = append(errs, p.Free())
		}
	}
	if g.stream != nil {
		errs = append(errs, g.stream.Close())
	}
	if g.logits != nil {
		errs = append(errs, g.logits.free())
	}
	return errors.Join(append(errs, g.memory.free())...)
}

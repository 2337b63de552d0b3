package gpu

import (
	"errors"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/lm"
)

// generator is lm.Generator on a device.
type generator struct {
	d      *device
	p      *Program
	memory *memory
	logits *memory // arena of whole sequences' logits, made at its first use
	code   *code
	stream *cuda.Stream
	run    Run
	slots  int

	decode map[int]*cuda.Graph // by rows

	input  *cuda.Pinned // tokens, positions and slots, of MaxPositions each
	output *cuda.Pinned // logits of a call, in the program's element type
	floats []float32
}

func (d *device) NewGenerator(weights []float32, slots int, tuned string) (lm.Generator, error) {
	p := d.program
	g := &generator{d: d, p: p, slots: slots, decode: map[int]*cuda.Graph{}}
	size := p.Element.Size()
	var workspace, tables Ptr
	var err error
	g.memory, err = d.allocate("generation", func(m *memory) {
		g.run.Weights = m.take(4 * p.WeightFloats)
		g.run.Copies = g.run.Weights
		if p.Element != F32 {
			g.run.Copies = m.take(size * p.WeightFloats)
		}
		g.run.Keys, g.run.Values = nil, nil
		for _, w := range p.CacheWidths {
			g.run.Keys = append(g.run.Keys, m.take(size*slots*p.MaxPositions*w))
			g.run.Values = append(g.run.Values, m.take(size*slots*p.MaxPositions*w))
		}
		g.run.State = m.take(stateBytes)
		g.run.scalars = m.take(4 * max(p.Prefill.Scalars, p.Decode.Scalars, p.Logits.Scalars))
		g.run.Tokens = m.take(4 * p.MaxPositions)
		g.run.Positions = m.take(4 * p.MaxPositions)
		g.run.Slots = m.take(4 * p.MaxPositions)
		tables = m.take(p.tableBytes())
		workspace = m.take(blasWorkspace)
		g.run.Arena = m.take(max(p.Prefill.Arena, p.Decode.Arena))
		g.run.Scratch = m.take(max(p.Prefill.Scratch, p.Decode.Scratch))
	})
	if err != nil {
		return nil, err
	}
	if err := g.start(weights, workspace, tables, tuned); err != nil {
		return nil, errors.Join(err, g.close())
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
	if g.input, err = ctx.Pinned(3 * 4 * p.MaxPositions); err != nil {
		return err
	}
	if g.output, err = ctx.Pinned(p.Element.Size() * g.slots * p.VocabSize); err != nil {
		return err
	}
	g.floats = make([]float32, g.slots*p.VocabSize)
	return g.d.upload(weights, g.run.Weights, g.run.Copies)
}

// inputs writes tokens, positions and slots where copyIn finds them.
func (g *generator) inputs(tokens, positions, slots []int32) {
	ints := g.input.Int32s()
	copy(ints, tokens)
	copy(ints[g.p.MaxPositions:], positions)
	copy(ints[2*g.p.MaxPositions:], slots)
}

func (g *generator) copyIn(n int) {
	for i, to := range []Ptr{g.run.Tokens, g.run.Positions, g.run.Slots} {
		g.stream.CopyIn(to, g.input, 4*i*g.p.MaxPositions, 4*n)
	}
}

// Prefill implements lm.Generator.
func (g *generator) Prefill(tokens []int32, start, slot int) ([]float32, error) {
	n := len(tokens)
	positions, slots := make([]int32, n), make([]int32, n)
	for i := range n {
		positions[i], slots[i] = int32(start+i), int32(slot)
	}
	g.inputs(tokens, positions, slots)
	g.run.Rows = n
	g.copyIn(n)
	logits := g.p.Prefill.Enqueue(&g.run)
	return g.read(logits, 1)
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
		if err := g.step(tokens[at:end], positions[at:end], slots[at:end], g.floats[at*g.p.VocabSize:]); err != nil {
			return nil, err
		}
	}
	return g.floats[:len(tokens)*g.p.VocabSize], nil
}

// step replays the graph of a decode step of so many rows, made at its first use.
func (g *generator) step(tokens, positions, slots []int32, logits []float32) (err error) {
	n := len(tokens)
	g.inputs(tokens, positions, slots)
	graph := g.decode[n]
	bytes := n * g.p.VocabSize * g.p.Element.Size()
	if graph == nil {
		g.run.Rows = n
		graph, err = g.run.capture(&g.p.Decode, func(Ptr) { g.copyIn(n) }, func(result Ptr) { g.stream.CopyOut(g.output, 0, result, bytes) })
		if err != nil {
			return err
		}
		g.decode[n] = graph
	}
	g.stream.Run(graph)
	if err := g.stream.Sync(); err != nil {
		return err
	}
	decode(logits[:n*g.p.VocabSize], g.output.Bytes(), g.p.Element)
	return nil
}

// Logits implements lm.Generator.
func (g *generator) Logits(tokens []int32) ([]float32, error) {
	p := g.p
	run := g.run
	if g.logits == nil {
		var err error
		if g.logits, err = g.d.allocate("the logits of whole sequences", func(m *memory) { m.take(p.Logits.Arena); m.take(p.Logits.Scratch) }); err != nil {
			return nil, err
		}
	}
	run.Arena, run.Scratch = g.logits.base, g.logits.base.At(roundUp(p.Logits.Arena))
	n := len(tokens)
	positions := make([]int32, n)
	for i := range positions {
		positions[i] = int32(i)
	}
	g.inputs(tokens, positions, nil)
	run.Rows = n
	g.copyIn(n)
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
	for _, p := range []*cuda.Pinned{g.input, g.output} {
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

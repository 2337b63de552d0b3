package gpu

import "github.com/tfc-dev/tfc/runtime/lm"

// picker is lm.Picker on a device: a generator whose program picks tokens.
type picker struct{ *generator }

// pick puts the picking from rows of logits on the stream. The tokens come back to where inputs has the device's.
func (g *generator) pick(run Run, logits Ptr) {
	run.Logits = logits
	g.stream.CopyOut(g.inputs.ints, 0, g.p.Pick.Enqueue(&run), 4*run.Rows)
}

// PrefillAndPick implements lm.Picker.
func (p picker) PrefillAndPick(tokens []int32, start, slot int, o lm.PickOptions) (int32, error) {
	logits := p.prefill(tokens, start, slot, o)
	last, run := len(tokens)-1, p.run
	run.Rows, run.Positions = 1, run.Positions.At(4*last)
	p.pick(run, logits)
	if err := p.stream.Sync(); err != nil {
		return 0, err
	}
	p.inputs.advance(last, last+1)
	return p.inputs.tokens()[0], nil
}

// DecodeAndPick implements lm.Picker.
func (p picker) DecodeAndPick(tokens, positions, slots []int32, o []lm.PickOptions) ([]int32, error) {
	for at := 0; at < len(tokens); at += p.p.MaxDecode {
		end := min(at+p.p.MaxDecode, len(tokens))
		if err := p.step(tokens[at:end], positions[at:end], slots[at:end], o[at:end]); err != nil {
			return nil, err
		}
		copy(p.picked[at:end], p.inputs.tokens())
		p.inputs.advance(0, end-at)
	}
	return p.picked[:len(tokens)], nil
}

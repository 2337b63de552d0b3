package lm

import "time"

// PickOptions say how the next token of one sequence is picked from its logits: see GenerateOptions. The zero value takes
// the likeliest token.
type PickOptions struct {
	Temperature, TopP float64
	TopK              int
	Seed              uint64
	Sequence          int
	Tokens            int // ids there are; rows of the vocabulary behind them are padding and never picked. 0: the whole vocabulary
}

// Picker is a Generator that also picks the next tokens. One on a device picks them there, so that no logits come back. A
// draw depends on seed, sequence and the position of the new token alone. A token is -1 where it cannot be picked: where a
// logit is NaN or +Inf, or all are -Inf.
type Picker interface {
	Generator
	// PrefillAndPick is Prefill, and returns the token that comes after the last.
	PrefillAndPick(tokens []int32, start, slot int, o PickOptions) (int32, error)
	// DecodeAndPick is Decode, and returns the next token of each slot. The result is valid until the next call.
	DecodeAndPick(tokens, positions, slots []int32, o []PickOptions) ([]int32, error)
}

// NewPicker returns g, where it is a Picker, or one that picks on the host from g's logits of so many columns.
func NewPicker(g Generator, vocabulary int) Picker {
	if p, ok := g.(Picker); ok {
		return p
	}
	return &hostPicker{g, newSampler(vocabulary), make([]int32, g.Slots()), vocabulary}
}

// hostPicker picks on the host.
type hostPicker struct {
	Generator
	sampler    *sampler
	picked     []int32
	vocabulary int
}

func (p *hostPicker) PrefillAndPick(tokens []int32, start, slot int, o PickOptions) (int32, error) {
	logits, err := p.Prefill(tokens, start, slot)
	if err != nil {
		return 0, err
	}
	return p.sampler.pick(logits, o, start+len(tokens)), nil
}

// ProfileDecode is that of the generator, with picking the likeliest tokens as its last launch.
func (p *hostPicker) ProfileDecode(tokens, positions, slots []int32, times int) (*Profile, error) {
	g, ok := p.Generator.(ProfiledGenerator)
	if !ok {
		return nil, nil
	}
	profile, err := g.ProfileDecode(tokens, positions, slots, times)
	if err != nil || profile == nil {
		return profile, err
	}
	logits, err := p.Decode(tokens, positions, slots)
	if err != nil {
		return nil, err
	}
	took := make([]time.Duration, times)
	for i := range took {
		begin := time.Now()
		for s := range tokens {
			p.sampler.pick(logits[s*p.vocabulary:][:p.vocabulary], PickOptions{}, int(positions[s])+1)
		}
		took[i] = time.Since(begin)
	}
	pick := Launch{Kernel: "pick", About: "the likeliest token", Bytes: 4 * float64(len(logits)), Time: middle(took)}
	profile.Launches = append(profile.Launches, pick)
	profile.Step += pick.Time
	return profile, nil
}

func (p *hostPicker) DecodeAndPick(tokens, positions, slots []int32, o []PickOptions) ([]int32, error) {
	logits, err := p.Decode(tokens, positions, slots)
	if err != nil {
		return nil, err
	}
	for i, at := range positions {
		p.picked[i] = p.sampler.pick(logits[i*p.vocabulary:][:p.vocabulary], o[i], int(at)+1)
	}
	return p.picked[:len(tokens)], nil
}

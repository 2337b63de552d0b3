package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"time"
)

// benchLine is a line of a model's bench --json.
type benchLine struct {
	What   string  `json:"what"`
	Device string  `json:"device"`
	Median float64 `json:"median_ms"`
	Least  float64 `json:"min_ms"`
	Most   float64 `json:"max_ms"`
	Speed  float64 `json:"tokens_per_second"`
}

// peerLine is what the PyTorch program train.py prints.
type peerLine struct {
	Median float64 `json:"ms"`
	Speed  float64 `json:"tokens_per_s"`
}

// peers are its variants: the Transformers model and one written by hand, both under torch.compile.
var peers = []string{"hf-compile", "lean-compile"}

// speed measures the models of bench/specs in turn, each beside its peers, where it has any.
func speed(b *bench) (rows []result) {
	for _, model := range []struct{ name, shape string }{{"stories", "stories"}, {"gpt2_124m", "gpt2-124m"}, {"llama_1b", "llama-1b"}, {"gpt2_124m_fp8", ""}, {"llama_1b_fp8", ""}} {
		rows = append(rows, b.measure(model.name, model.shape))
	}
	return rows
}

func (b *bench) measure(model, shape string) result {
	began := time.Now()
	r := result{part: b.part, what: model, cases: 1}
	out, err := b.run(process{log: "speed-" + model, limit: 2 * time.Minute, args: []string{b.built("models"), model, "bench", "--json", "--device", b.device}})
	ours, decode, bad := readBench(out)
	if err != nil || bad != nil {
		return b.fail(model, began, "bench: %v %v\n%s", err, bad, tail(out, 8))
	}
	r.note = fmt.Sprintf("%.4g ms a step (%.4g to %.4g), %.4g tokens/s; decode %.3g ms", ours.Median, ours.Least, ours.Most, ours.Speed, decode.Median)
	if shape == "" {
		r.took = time.Since(began)
		return r
	}
	if _, err := os.Stat(b.built("peers/train.py")); err != nil {
		r.note += "; no peers were built in"
		r.took = time.Since(began)
		return r
	}
	for _, variant := range peers {
		r.cases++
		out, err := b.run(process{log: "speed-" + shape + "-" + variant, limit: 2 * time.Minute, args: []string{"python3", b.built("peers/train.py"), shape, variant}})
		peer, bad := readPeer(out)
		if err != nil || bad != nil {
			r.failed++
			r.failures = append(r.failures, fmt.Sprintf("%s: %v %v\n%s", variant, err, bad, tail(out, 8)))
			continue
		}
		r.note += fmt.Sprintf("; %s %.4g ms, ratio %.2f", variant, peer.Median, ours.Speed/peer.Speed)
	}
	r.took = time.Since(began)
	return r
}

// readBench finds the lines of training and decoding among what bench printed.
func readBench(out string) (train, decode benchLine, err error) {
	for line := range strings.Lines(out) {
		var l benchLine
		if json.Unmarshal([]byte(line), &l) != nil {
			continue
		}
		switch l.What {
		case "train":
			train = l
		case "decode":
			decode = l
		}
	}
	switch {
	case !(train.Median > 0 && decode.Median > 0):
		err = fmt.Errorf("it printed no figures of training and decoding")
	case !strings.HasPrefix(train.Device, "cuda") || !strings.HasPrefix(decode.Device, "cuda"):
		err = fmt.Errorf("it ran on %s and %s", train.Device, decode.Device)
	}
	return train, decode, err
}

// readPeer finds the one line of JSON that train.py prints last.
func readPeer(out string) (l peerLine, err error) {
	for line := range strings.Lines(out) {
		var p peerLine
		if json.Unmarshal([]byte(line), &p) == nil && p.Median > 0 {
			l = p
		}
	}
	if !(l.Speed > 0) {
		err = fmt.Errorf("it printed no figures")
	}
	return l, err
}

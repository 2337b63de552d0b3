package lm

import (
	"encoding/json"
	"fmt"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/tfc-dev/tfc/runtime/peer"
)

// peerLine is what bench --peers says of one peer.
type peerLine struct {
	What    string  `json:"what"` // peer
	Job     string  `json:"job"`  // train, prefill or decode
	Peer    string  `json:"peer"`
	Missing string  `json:"missing,omitempty"` // why nothing was measured
	Type    string  `json:"type"`              // in which it multiplies or, generating, has its weights
	Version string  `json:"version,omitempty"`
	Steps   int     `json:"steps,omitempty"`
	Start   float64 `json:"start_s,omitempty"` // from the start of its process to the end of the first step
	Median  float64 `json:"median_ms,omitempty"`
	Least   float64 `json:"min_ms,omitempty"`
	Most    float64 `json:"max_ms,omitempty"`
	Speed   float64 `json:"tokens_per_second,omitempty"` // at the median
	Peak    int64   `json:"peak_bytes,omitempty"`        // of the GPU's memory
	Ratio   float64 `json:"ratio,omitempty"`             // of its median to ours
}

// peers is --peers: what to measure beside our own figures, once our memory is free.
type peers struct {
	*call
	wanted bool
	python string
	todo   []func() error
}

func (c *call) peersFlag() *peers {
	p := &peers{call: c}
	c.flags.BoolVar(&p.wanted, "peers", false, "measure the same model in PyTorch and llama.cpp too, where Python (TFC_PYTHON, or PATH's python3) has them")
	return p
}

// find looks for Python, before anything is measured.
func (p *peers) find() (err error) {
	if !p.wanted {
		return nil
	}
	if p.python, err = peer.Python(); err != nil {
		return inputError("--peers: %w", err)
	}
	return nil
}

// later notes that peers are to do what b was measured of.
func (p *peers) later(b benchmark, shape decodeShape) {
	if p.wanted {
		p.todo = append(p.todo, func() error { return p.measure(b, shape) })
	}
}

// run measures the peers, after it has closed the model.
func (p *peers) run(m *Model) error {
	if !p.wanted {
		return nil
	}
	m.Close()
	debug.FreeOSMemory()
	for _, do := range p.todo {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// measure measures the peers of what b tells of, and prints what came out, also of those that were done when ctx ended.
func (p *peers) measure(b benchmark, shape decodeShape) (err error) {
	r := p.cfg.peerRequest(b, shape)
	var lines []peerLine
	if !*p.json {
		defer func() {
			if len(lines) > 0 {
				if _, failed := fmt.Fprint(p.stdout, peerTable(b.What, r.Type, p.cfg.setting("train.precision"), lines)); err == nil {
					err = failed
				}
			}
		}()
	}
	for _, name := range peer.For(b.What, r.Device) {
		line := peerLine{What: "peer", Job: b.What, Peer: name, Type: r.Type, Missing: p.cfg.withoutPeers()}
		if line.Missing == "" {
			fmt.Fprintf(p.stderr, "%s: measuring %s, %s ...\n", p.cfg.Name, b.What, name)
			r.Peer = name
			f, err := r.Measure(p.ctx, p.python)
			if err != nil {
				return err
			}
			line.fill(f, b)
		}
		lines = append(lines, line)
		if *p.json {
			if err := p.printJSON(line); err != nil {
				return err
			}
		}
	}
	return nil
}

func (l *peerLine) fill(f peer.Figures, ours benchmark) {
	if l.Missing = f.Missing; f.Missing != "" {
		return
	}
	slices.Sort(f.Times)
	l.Version, l.Start, l.Peak, l.Steps = f.Version, f.Start, f.Peak, len(f.Times)
	l.Median, l.Least, l.Most = f.Times[len(f.Times)/2], f.Times[0], f.Times[len(f.Times)-1]
	l.Speed, l.Ratio = ratio(1e3*float64(ours.Tokens), l.Median), ratio(l.Median, ours.Median)
}

// withoutPeers says why a model has no peers; empty where it may have some.
func (cfg *Config) withoutPeers() string {
	var config struct {
		Type string `json:"model_type"`
	}
	if err := json.Unmarshal([]byte(cfg.HFConfig), &config); err != nil || config.Type == "" || config.Type == "tfc" {
		return "no library has this model: its settings are not those of a preset, so its config.json is tfc's own"
	}
	return ""
}

// peerRequest asks for what b was measured of.
func (cfg *Config) peerRequest(b benchmark, shape decodeShape) peer.Request {
	device, _, _ := strings.Cut(b.Device, ",") // cuda:0, NVIDIA ...
	r := peer.Request{
		Job: b.What, Config: cfg.HFConfig, Vocab: cfg.VocabSize, Device: device, Threads: runtime.GOMAXPROCS(0), Steps: b.Steps,
		Batch: cfg.Train.Batch, MicroBatch: cfg.Train.MicroBatch, Context: cfg.Train.Context, Clip: cfg.number("train.clip"), Prompt: shape.prompt,
		Dropout: peer.Dropout{
			Embedding: cfg.number("model.dropout.embedding"), Attention: cfg.number("model.dropout.attention"), Residual: cfg.number("model.dropout.residual"),
		},
	}
	for _, w := range cfg.Weights {
		r.Parameters += w.Size()
	}
	switch precision := cfg.setting("train.precision"); {
	case b.What != "train" && device == "cpu":
		r.Type = cfg.Generate.Weights
	case precision == "fp8":
		r.Type = "bf16"
	case precision == "bf16" || device != "cpu": // the others are f32 on the CPU, here and there
		r.Type = precision
	}
	if r.Type == "" {
		r.Type = "f32"
	}
	if b.What != "train" {
		r.Batch = shape.batch
	}
	return r
}

func (cfg *Config) setting(path string) string {
	for _, s := range cfg.Settings {
		if s.Path == path {
			return s.Value
		}
	}
	return ""
}

// number is a setting that is a number; 0 where there is none.
func (cfg *Config) number(path string) float64 {
	x, _ := strconv.ParseFloat(cfg.setting(path), 64)
	return x
}

// peerTable writes the lines for people.
func peerTable(job, kind, precision string, lines []peerLine) string {
	var b strings.Builder
	if precision == "fp8" && job == "train" {
		kind += ", as none of them trains in fp8"
	}
	fmt.Fprintf(&b, "\n%-26s %28s %9s %8s  %s\n", job+" elsewhere, "+kind, "ms a step (least to most)", "tokens/s", "start", "beside ours")
	for _, l := range lines {
		if l.Missing != "" {
			fmt.Fprintf(&b, "%-26s no peer: %s\n", l.Peer, strings.ReplaceAll(l.Missing, "\n", "\n    "))
			continue
		}
		times := fmt.Sprintf("%.4g (%.4g to %.4g)", l.Median, l.Least, l.Most)
		fmt.Fprintf(&b, "%-26s %28s %9.4g %6.1f s  %.2f x as long  (%s", l.Peer, times, l.Speed, l.Start, l.Ratio, l.Version)
		if l.Peak > 0 {
			fmt.Fprintf(&b, "; at most %s of the GPU", bytesText(l.Peak))
		}
		b.WriteString(")\n")
	}
	return b.String()
}

package lm

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/tfc-dev/tfc/runtime/telemetry"
)

// Backend is the compiled code of a model for one kind of device beside the CPU.
type Backend interface {
	// Find returns the first device that the code can run on, or why there is none, as a sentence.
	Find() (index int, err error)
	// Open takes a device into use.
	Open(index int) (Device, error)
}

// Device is a device in use.
type Device interface {
	// String names it, as in "cuda:0, NVIDIA H100 80GB HBM3, compute capability 9.0, 79.2 GiB".
	String() string
	// NewTrainer and NewGenerator are those of Config, on the device. tuned is a file that keeps what was measured here
	// and chosen, the algorithms of products, so that they stay the same; empty for none. The Generator may be a Picker.
	NewTrainer(weights []float32, tuned string) (Trainer, error)
	NewGenerator(weights []float32, slots int, tuned string) (Generator, error)
	// Tune times the products of the program anew, for this machine and for the file tuned; empty for none.
	Tune(tuned string) ([]Timing, error)
	// Notes returns sentences that the user should read, such as that a choice could not be kept, each once.
	Notes() []string
	Close() error
}

// Timing is how the algorithm of a matrix product was chosen.
type Timing struct {
	About      string        // the op, and its place in the spec
	Shape      string        // rows × columns × summed, and the type
	Candidates int           // algorithms that the library proposed
	Chosen     int           // number of the fastest among them, counted from 1
	First      time.Duration // of the first, which is taken where nothing is timed; 0 where it cannot be run
	Took       time.Duration // of the chosen one; 0 where there was no memory to time it
}

// Drawer is a Device that takes the first weights of a fresh model as they are drawn, so that the host need not hold them.
type Drawer interface {
	// NewDrawnTrainer is NewTrainer for weights that are still to be drawn: draw fills in len(dst) of them from an index on.
	// The buffer gets its values by the first Pull.
	NewDrawnTrainer(weights []float32, draw func(dst []float32, from int), tuned string) (Trainer, error)
}

// Monitored is a Device that tells how it does, for the log of a run.
type Monitored interface {
	// Figures returns what can be read beside the work that is under way. What costs time may be from a second ago.
	Figures() telemetry.GPU
}

// Use chooses the device that the model works on: "cpu", "cuda", "cuda:1" (the second GPU that CUDA_VISIBLE_DEVICES
// leaves), or "auto": the first GPU where there is one that the package has code for, otherwise the CPU. Without a call it
// is auto. A device that cannot be used is an error that says why.
func (m *Model) Use(device string) error {
	release, err := m.acquire()
	if err != nil {
		return err
	}
	defer release()
	m.leaveDevice()
	return m.useDevice(device)
}

func (m *Model) useDevice(device string) error {
	kind, index, err := parseDevice(device)
	if err != nil {
		return err
	}
	if kind != "cpu" {
		if m.device, err = m.openDevice(kind, index); err != nil && kind == "cuda" {
			return fmt.Errorf("device %s: %w", device, err)
		}
		m.whyCPU = err
	}
	m.placed = true
	return nil
}

// openDevice takes a GPU into use: that of the index, or for auto the first one that will do.
func (m *Model) openDevice(kind string, index int) (Device, error) {
	if m.cfg.CUDA == nil {
		return nil, errors.New("the package has no CUDA code: add cuda to target.devices of its spec and build it again")
	}
	first, err := m.cfg.CUDA.Find()
	if err != nil && (kind == "auto" || index == 0) {
		return nil, err
	}
	if kind == "auto" {
		index = first
	}
	return m.cfg.CUDA.Open(index)
}

// parseDevice reads auto, cpu, cuda or cuda:N.
func parseDevice(s string) (kind string, index int, err error) {
	const want = "give auto, cpu, cuda, or cuda:1 for the second GPU"
	name, number, numbered := strings.Cut(s, ":")
	switch lower := strings.ToLower(s); {
	case s == "auto" || s == "cpu" || s == "cuda":
		return s, 0, nil
	case name == "cuda" && numbered:
		if index, err = strconv.Atoi(number); err == nil && index >= 0 && strconv.Itoa(index) == number {
			return name, index, nil
		}
		return "", 0, inputError("device %q: after cuda: comes the number of a GPU, counted from 0, such as cuda:1", s)
	case lower == "gpu" || lower == "nvidia":
		return "", 0, inputError("there is no device %q; did you mean cuda?", s)
	case lower != s && (lower == "auto" || lower == "cpu" || strings.HasPrefix(lower, "cuda")):
		return "", 0, inputError("there is no device %q; did you mean %s?", s, lower)
	}
	return "", 0, inputError("there is no device %q; %s", s, want)
}

// leaveDevice frees what lives on the device.
func (m *Model) leaveDevice() {
	if m.generator != nil {
		m.generator.Close()
		m.generator = nil
	}
	if m.device != nil {
		m.noted = append(m.noted, m.device.Notes()...)
		m.device.Close()
		m.device = nil
	}
	m.placed = false
}

// notes returns what the device has to say to the user, once.
func (m *Model) notes() []string {
	notes := m.noted
	m.noted = nil
	if m.device != nil {
		notes = append(notes, m.device.Notes()...)
	}
	return notes
}

// place chooses a device where the user has not.
func (m *Model) place() error {
	if m.placed {
		return nil
	}
	return m.useDevice("auto")
}

// deviceName says where the model works.
func (m *Model) deviceName() string {
	if m.device != nil {
		return m.device.String()
	}
	return "cpu"
}

// newTrainer makes the training code where the model lives. tuned is as in Device.
func (m *Model) newTrainer(tuned string) (Trainer, error) {
	if err := m.place(); err != nil {
		return nil, err
	}
	if m.device == nil {
		return m.cfg.NewTrainer(m.values(), 0), nil
	}
	if m.generator != nil { // its memory is for the training
		m.generator.Close()
		m.generator = nil
	}
	if d, ok := m.device.(Drawer); ok && m.first != nil {
		return d.NewDrawnTrainer(m.weights, m.first.Fill, tuned)
	}
	return m.device.NewTrainer(m.values(), tuned)
}

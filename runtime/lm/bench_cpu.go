package lm

import (
	"fmt"
	"io"
	"strings"

	"github.com/tfc-dev/tfc/runtime/cpu"
)

// pooled is a Trainer whose kernels run on a pool of the CPU.
type pooled interface{ Pool() *cpu.Pool }

// benchCPU is bench cpu: bench train on the CPU, and first what the machine was measured to reach.
func (c *call) benchCPU() error { return c.profileTraining(true) }

// profileOnPool takes steps of which the pool tells where their time goes.
func (m *Model) profileOnPool(t Trainer, pool *cpu.Pool, tokens, targets []int32, p StepParams, times int) (*Profile, error) {
	profile, err := record(pool, times, func(i int) error {
		_, _, err := t.Step(tokens, targets, StepParams{LR: p.LR, Step: p.Step + i, Seed: p.Seed})
		return err
	})
	if err != nil {
		return nil, err
	}
	n := m.cfg.Train.MicroBatch * m.cfg.Train.Context
	pool.Record()
	_, _, err = t.Loss(tokens[:n], targets[:n])
	forward := pool.Recorded()
	if err != nil {
		return nil, err
	}
	profile.Planned = m.cfg.Memory.Train
	for _, k := range forward.Kernels { // its gradients take twice as much (Chowdhery et al., "PaLM", 2022, appendix B)
		profile.FLOPs += 3 * float64(m.cfg.Train.Batch/m.cfg.Train.MicroBatch) * k.FLOPs
	}
	return profile, nil
}

// machine is what bench cpu says of the machine.
type machine struct {
	What    string        `json:"what"` // machine
	Kernels string        `json:"kernels"`
	Workers int           `json:"workers"`
	Rates   []machineRate `json:"multiply_adds"`
	Reads   []machineRead `json:"reads"`
}

type machineRate struct {
	Type  string  `json:"type"`
	Width int     `json:"bits"`
	FLOPS float64 `json:"flop_per_second"`
}

type machineRead struct {
	Bytes     int     `json:"bytes"`
	Bandwidth float64 `json:"bytes_per_second"`
}

// measureCPU measures the machine: for people, and as the roofline of products of a type.
func measureCPU(pool *cpu.Pool) (machine, Roofline) {
	measured := pool.Measure()
	m := machine{What: "machine", Kernels: cpu.Variant(), Workers: pool.Workers()}
	r := Roofline{Product: pool.Factors(), Rates: map[string]float64{}}
	for _, x := range measured.Rates {
		m.Rates = append(m.Rates, machineRate(x))
		r.Rates[x.Type] = measured.FLOPS(x.Type)
	}
	r.FLOPS = measured.FLOPS(r.Product)
	r.Rates[r.Product] = r.FLOPS
	for _, x := range measured.Reads {
		m.Reads = append(m.Reads, machineRead(x))
		r.Caches = append(r.Caches, Cache{float64(x.Bytes), x.Bandwidth})
	}
	last := r.Caches[len(r.Caches)-1]
	r.Bandwidth, r.Caches = last.Bandwidth, r.Caches[:len(r.Caches)-1]
	return m, r
}

// sayMachine prints what was measured of the machine.
func (c *call) sayMachine(m machine) error {
	if *c.json {
		return c.printJSON(m)
	}
	return m.print(c.stdout)
}

func (m machine) print(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s kernels, %d workers, all at once:\n", m.Kernels, m.Workers)
	for _, r := range m.Rates {
		fmt.Fprintf(&b, "%10.1f  GFLOP/s of %s multiply-adds on registers of %d bits\n", r.FLOPS/1e9, r.Type, r.Width)
	}
	for _, r := range m.Reads {
		size := bytesText(int64(r.Bytes))
		if r.Bytes < 1<<20 {
			size = fmt.Sprintf("%d KiB", r.Bytes>>10)
		}
		fmt.Fprintf(&b, "%10.1f  GB/s read from %s\n", r.Bandwidth/1e9, size)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

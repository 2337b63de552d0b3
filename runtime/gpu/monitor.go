package gpu

import (
	"fmt"
	"time"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/nvml"
	"github.com/tfc-dev/tfc/runtime/telemetry"
)

// monitor asks NVML about a device. NVML takes milliseconds to answer, so it is asked once a second at most.
type monitor struct {
	library *nvml.Library // nil before the first question, and where this program or this machine has none
	asked   time.Time
	figures telemetry.GPU // of that time: those that only NVML knows
}

// Figures implements lm.Monitored. The name and the memory come from CUDA, the rest from NVML.
func (d *device) Figures() telemetry.GPU {
	at := d.ctx.Device()
	f := d.monitor.ask(at.PCI, time.Now())
	f.Name, f.Capability, f.MemoryTotal = at.Name, capability(at), at.Memory
	if free, total, err := d.ctx.MemInfo(); err == nil {
		f.MemoryUsed, f.MemoryTotal = total-free, total
	}
	return f
}

func capability(d cuda.Device) string { return fmt.Sprintf("%d.%d", d.Major, d.Minor) }

// ask returns what NVML knows of the GPU at a PCI bus id, nothing where it cannot be asked.
func (m *monitor) ask(busID string, now time.Time) telemetry.GPU {
	if now.Sub(m.asked) < time.Second {
		return m.figures
	}
	if m.asked.IsZero() {
		m.library, _ = nvml.Open() // figures for people: a run goes on without them, and doctor says why there are none
	}
	m.asked, m.figures = now, telemetry.GPU{}
	if m.library == nil {
		return m.figures
	}
	if v, err := m.library.At(busID); err == nil {
		m.figures = telemetry.GPU{SMClock: v.SMClock, Power: v.Power, Temperature: v.Temperature, ECC: v.Uncorrected, Throttle: v.Throttle}
	}
	return m.figures
}

func (m *monitor) close() error {
	if m.library == nil {
		return nil
	}
	err := m.library.Close()
	m.library = nil
	return err
}

package main

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	cpufeatures "golang.org/x/sys/cpu"

	"github.com/tfc-dev/tfc/cmd/tfc/internal/gomod"
	"github.com/tfc-dev/tfc/compile"
	"github.com/tfc-dev/tfc/runtime/cpu"
)

func doctorCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Show what this machine has of what tfc uses",
		Long: `Show what this machine has of what tfc uses. Only the go command is needed; without it the exit code is 4. GPUs are shown with
what their driver tells at this moment.`,
		Args:              cobra.NoArgs,
		ValidArgsFunction: cobra.NoFileCompletions,
	}
	asJSON := jsonFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		m := examine(c.Context())
		err := m.show(c, *asJSON)
		if err == nil && m.Go == "" {
			return errNoGo
		}
		return err
	}
	return c
}

// machine is what doctor finds.
type machine struct {
	Tfc         string   `json:"tfc"`
	Go          string   `json:"go"`           // version of the go command in PATH, "" where there is none
	ModuleCache string   `json:"module_cache"` // its folder
	Platform    string   `json:"platform"`
	Features    []string `json:"cpu_features"` // that kernels are written for or may be
	Kernels     string   `json:"kernels"`      // the variant in use
	Cores       int      `json:"cores"`        // that the kernels use
	Memory      int64    `json:"memory"`       // bytes of the machine; 0 where it is not known
	cudaMachine
}

func examine(ctx context.Context) machine {
	m := machine{
		Tfc: gomod.Self().Version, Platform: runtime.GOOS + "/" + runtime.GOARCH, Features: features(), Kernels: cpu.Variant(),
		Cores: runtime.GOMAXPROCS(0), Memory: memorySize("/proc/meminfo"), cudaMachine: examineCUDA(ctx),
	}
	if out, err := exec.Command("go", "env", "GOVERSION", "GOMODCACHE").Output(); err == nil {
		lines := strings.Split(strings.TrimSpace(string(out)), "\n")
		if len(lines) == 2 {
			m.Go, m.ModuleCache = lines[0], lines[1]
		}
	}
	return m
}

func (m machine) show(c *cobra.Command, asJSON bool) error {
	if asJSON {
		return printJSON(c.OutOrStdout(), m)
	}
	memory := "not known"
	if m.Memory > 0 {
		memory = compile.FormatBytes(m.Memory)
	}
	w := tabwriter.NewWriter(c.OutOrStdout(), 0, 0, 2, ' ', 0)
	for _, row := range [][2]string{
		{"tfc", m.Tfc + " " + m.Platform},
		{"go command", or(m.Go, "none: tfc run needs it")},
		{"module cache", or(m.ModuleCache, "none")},
		{"cpu features", or(strings.Join(m.Features, " "), "none that kernels are written for")},
		{"cpu kernels", m.Kernels},
		{"cores", strconv.Itoa(m.Cores)},
		{"memory", memory},
	} {
		fmt.Fprintf(w, "%s\t%s\n", row[0], row[1])
	}
	for _, row := range m.rows() {
		fmt.Fprintf(w, "%s\t%s\n", row[0], row[1])
	}
	return w.Flush()
}

// features lists the vector instructions of this CPU.
func features() []string {
	list := []string{}
	for _, f := range []struct {
		name string
		has  bool
	}{
		{"avx2", cpufeatures.X86.HasAVX2}, {"fma", cpufeatures.X86.HasFMA}, {"avx512f", cpufeatures.X86.HasAVX512F},
		{"avx512bw", cpufeatures.X86.HasAVX512BW}, {"avx512dq", cpufeatures.X86.HasAVX512DQ}, {"avx512vl", cpufeatures.X86.HasAVX512VL},
		{"avx512bf16", cpufeatures.X86.HasAVX512BF16}, {"amx_bf16", cpufeatures.X86.HasAMXBF16}, {"asimd", cpufeatures.ARM64.HasASIMD},
	} {
		if f.has {
			list = append(list, f.name)
		}
	}
	return list
}

// memorySize reads the machine's memory from Linux's meminfo.
func memorySize(meminfo string) int64 {
	f, err := os.Open(meminfo)
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if rest, ok := strings.CutPrefix(lines.Text(), "MemTotal:"); ok {
			kB, _ := strconv.ParseInt(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(rest), "kB")), 10, 64)
			return kB << 10
		}
	}
	return 0
}

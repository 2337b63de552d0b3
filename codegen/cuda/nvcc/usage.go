package nvcc

import (
	"regexp"
	"strconv"
	"strings"
)

// Usage is what a kernel needs on one architecture, by ptxas.
type Usage struct {
	Registers   int `json:"registers"` // of a thread
	Shared      int `json:"shared"`    // bytes of static shared memory of a block
	Barriers    int `json:"barriers"`
	Stack       int `json:"stack"`        // bytes of a thread, with that of the functions it calls
	SpillStores int `json:"spill_stores"` // bytes that a thread stores because registers do not suffice
	SpillLoads  int `json:"spill_loads"`
}

// Spills says whether registers did not suffice.
func (u Usage) Spills() bool { return u.SpillStores > 0 || u.SpillLoads > 0 }

// ptxas -v writes, for each kernel:
//
//	ptxas info    : Compiling entry function 'norm' for 'sm_90a'
//	ptxas info    : Function properties for norm
//	    400 bytes stack frame, 740 bytes spill stores, 744 bytes spill loads
//	ptxas info    : Used 64 registers, used 1 barriers, 400 bytes cumulative stack size, 256 bytes smem, 376 bytes cmem[0]
//
// and the properties of a function that is called, not inlined, after those of a kernel.
var (
	entryLine  = regexp.MustCompile(`Compiling entry function '(\S+)' for '`)
	framesLine = regexp.MustCompile(`(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads`)
	usedLine   = regexp.MustCompile(`: Used (\d+) registers(.*)`)
	usedParts  = map[string]*regexp.Regexp{
		"barriers": regexp.MustCompile(`used (\d+) barriers`),
		"stack":    regexp.MustCompile(`(\d+) bytes cumulative stack size`),
		"shared":   regexp.MustCompile(`(\d+)(?:\+\d+)? bytes smem`),
	}
)

// usages reads what ptxas -v says about the kernels of a file. What a called function spills counts for the kernel before it.
func usages(out string) map[string]Usage {
	all := map[string]Usage{}
	entry := ""
	for line := range strings.Lines(out) {
		if m := entryLine.FindStringSubmatch(line); m != nil {
			entry = m[1]
			all[entry] = Usage{}
		}
		if entry == "" {
			continue
		}
		u := all[entry]
		if m := framesLine.FindStringSubmatch(line); m != nil {
			u.Stack = max(u.Stack, number(m[1]))
			u.SpillStores += number(m[2])
			u.SpillLoads += number(m[3])
		}
		if m := usedLine.FindStringSubmatch(line); m != nil {
			part := func(name string) int {
				if p := usedParts[name].FindStringSubmatch(m[2]); p != nil {
					return number(p[1])
				}
				return 0
			}
			u.Registers = number(m[1])
			u.Barriers, u.Shared, u.Stack = part("barriers"), part("shared"), max(u.Stack, part("stack"))
		}
		all[entry] = u
	}
	return all
}

// number reads digits.
func number(digits string) int {
	n, _ := strconv.Atoi(digits)
	return n
}

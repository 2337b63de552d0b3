package cuda

import (
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// A fatbin, as nvcc -fatbin writes it, is a container of machine code (cubin) and intermediate code (PTX) for several
// architectures. Its format is not documented; this is what the files of nvcc 12 and 13 show, all little-endian:
//
//	header:  0 magic 0xBA55ED50 u32 · 4 version u16 (1) · 6 bytes of the header u16 (16) · 8 bytes of all entries u64
//	entry:   0 kind u16 (1 PTX, 2 cubin) · 2 version u16 · 4 bytes of the entry's header u32 (64 or more)
//	         8 bytes that follow the header u64 · 28 architecture u32 (90 is sm_90) · 40 flags u64
//	flags:   0x100000 runs on this architecture only (sm_90a) · 0x200000 on its family (sm_100f)
//
// The reader wants the header to be as above, and takes nothing from entries of a kind that it does not know.
const (
	fatbinMagic       = 0xBA55ED50
	fatbinVersion     = 1
	fatbinHeader      = 16
	fatbinEntry       = 64 // the least bytes of an entry's header
	fatbinPTX         = 1
	fatbinCubin       = 2
	fatbinFlagExact   = 0x100000
	fatbinFlagFamily  = 0x200000
	fatbinMostEntries = 1 << 12
)

// code is one entry of a fatbin.
type code struct {
	ptx           bool // compiled by the driver for the device
	arch          int  // 90 for compute capability 9.0
	exact, family bool
}

// String returns the architecture as nvcc names it.
func (c code) String() string {
	kind, suffix, note := "sm", "", ""
	if c.ptx {
		kind, note = "compute", " (PTX)"
	}
	switch {
	case c.exact:
		suffix = "a"
	case c.family:
		suffix = "f"
	}
	return fmt.Sprintf("%s_%d%s%s", kind, c.arch, suffix, note)
}

// runs reports whether a device of compute capability major.minor can run c: machine code runs on its own major version
// from its minor version on, PTX on everything from its version on.
func (c code) runs(major, minor int) bool {
	device := 10*major + minor
	switch {
	case c.exact:
		return device == c.arch
	case c.family || !c.ptx:
		return major == c.arch/10 && device >= c.arch
	}
	return device >= c.arch
}

// errNotFatbin is an image that is something else, such as a single cubin.
var errNotFatbin = errors.New("not a fatbin")

// readFatbin lists the entries of a fatbin.
func readFatbin(image []byte) ([]code, error) {
	if len(image) < fatbinHeader || binary.LittleEndian.Uint32(image) != fatbinMagic {
		return nil, errNotFatbin
	}
	version, header := binary.LittleEndian.Uint16(image[4:]), binary.LittleEndian.Uint16(image[6:])
	if version != fatbinVersion || header != fatbinHeader {
		return nil, fmt.Errorf("fatbin of an unknown version (%d, header of %d bytes)", version, header)
	}
	rest := image[fatbinHeader:]
	if n := binary.LittleEndian.Uint64(image[8:]); n <= uint64(len(rest)) {
		rest = rest[:n]
	} else {
		return nil, fmt.Errorf("fatbin is cut short: %d of %d bytes", len(rest), n)
	}
	var codes []code
	for len(rest) > 0 {
		if len(rest) < fatbinEntry || len(codes) == fatbinMostEntries {
			return nil, fmt.Errorf("fatbin is damaged at byte %d", len(image)-len(rest))
		}
		header, body := uint64(binary.LittleEndian.Uint32(rest[4:])), binary.LittleEndian.Uint64(rest[8:])
		left := uint64(len(rest))
		if header < fatbinEntry || header > left || body > left-header {
			return nil, fmt.Errorf("fatbin is damaged at byte %d", len(image)-len(rest))
		}
		kind, flags := binary.LittleEndian.Uint16(rest), binary.LittleEndian.Uint64(rest[40:])
		if kind == fatbinPTX || kind == fatbinCubin {
			codes = append(codes, code{
				ptx:    kind == fatbinPTX,
				arch:   int(binary.LittleEndian.Uint32(rest[28:])),
				exact:  flags&fatbinFlagExact != 0,
				family: flags&fatbinFlagFamily != 0,
			})
		}
		rest = rest[header+body:]
	}
	return codes, nil
}

// Archs lists what a fatbin has code for, as nvcc names it: "sm_80", "sm_90a", "compute_90 (PTX)".
func Archs(fatbin []byte) ([]string, error) {
	codes, err := readFatbin(fatbin)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, c := range codes {
		if name := c.String(); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names, nil
}

// ErrNoCode is a package without code that the device can run. The error at hand is a *NoCodeError.
var ErrNoCode = errors.New("no code for this device")

// NoCodeError says which code a device needs, and which there is.
type NoCodeError struct {
	Device Device
	Archs  []string // what there is code for; empty where the image could not be read
	Err    error    // what the driver said; nil where it was not asked
}

func (e *NoCodeError) Error() string {
	need := e.Device.Arch()
	if e.Device.Major < 8 {
		return fmt.Sprintf("%s has compute capability %d.%d, tfc's kernels need 8.0 or later (Ampere): use another device, or the CPU",
			e.Device, e.Device.Major, e.Device.Minor)
	}
	there := "no code that can be read"
	if len(e.Archs) > 0 {
		there = "code for " + strings.Join(e.Archs, ", ")
	}
	driver := ""
	if e.Err != nil {
		driver = fmt.Sprintf(" (%s)", e.Err)
	}
	return fmt.Sprintf("this package has no code for %s: it has %s, the device needs %s%s; write `target: {arch: [%s]}` "+
		"in the spec and run `tfc build`", e.Device, there, need, driver, need)
}

// Is makes errors.Is(err, ErrNoCode) true.
func (e *NoCodeError) Is(target error) bool { return target == ErrNoCode }

func (e *NoCodeError) Unwrap() error { return e.Err }

// Runs returns nil where the device can run code of the fatbin, and a *NoCodeError where it cannot. An image that is no
// fatbin is for the driver to judge: nil.
func (d Device) Runs(fatbin []byte) error {
	codes, err := readFatbin(fatbin)
	if err != nil {
		return nil
	}
	for _, c := range codes {
		if c.runs(d.Major, d.Minor) {
			return nil
		}
	}
	archs, _ := Archs(fatbin)
	return &NoCodeError{Device: d, Archs: archs}
}

// Package kernelfile reads and writes the file of a package's compiled kernels.
//
// kernels.fatbin is an ELF object file (64 bits, little-endian), as nvcc makes them, so that cuobjdump and nvdisasm read it:
//
//	.nv_fatbin    the fatbins, each of some .cu files that were compiled together, one behind the other, each filled up with zeros to a multiple of 8 bytes; a
//	              fatbin holds a cubin for every architecture
//	.tfc_kernels  the index, JSON: {"format": 1, "nvcc": "13.0.88", "modules": [{"file": "norm.group.cu", "offset": 0, "size": 2576,
//	              "crc32c": 305419896, "entries": ["norm"]}]}, by file name; an entry has one module
//
// The runtime finds a kernel's module by the index and gives its fatbin to the driver (cuModuleLoadData), which takes the
// cubin of the GPU that is there. Pack writes the file and Unpack reads it.
package kernelfile

import (
	"bytes"
	"cmp"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"slices"
	"strings"
)

// Module is the code of .cu files that were compiled together.
type Module struct {
	File    string   // its name
	Entries []string // its kernels, sorted
	Fatbin  []byte   // NVIDIA's container of a cubin for each architecture
}

// The file of kernels.
const (
	indexFormat   = 1
	fatbinSection = ".nv_fatbin" // as nvcc names it, so that cuobjdump finds it
	indexSection  = ".tfc_kernels"
	alignment     = 8 // of a fatbin, which is read in words of that size
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

type index struct {
	Format  int           `json:"format"`
	NVCC    string        `json:"nvcc"`
	Modules []indexModule `json:"modules"`
}

type indexModule struct {
	File    string   `json:"file"`
	Offset  int      `json:"offset"` // in .nv_fatbin
	Size    int      `json:"size"`
	CRC     uint32   `json:"crc32c"`
	Entries []string `json:"entries"`
}

// Pack writes the file of kernels that the package's comment describes; version is that of the nvcc that compiled them.
func Pack(version string, modules []Module) ([]byte, error) {
	modules = slices.SortedFunc(slices.Values(modules), func(a, b Module) int { return cmp.Compare(a.File, b.File) })
	var code []byte
	dir := index{Format: indexFormat, NVCC: version, Modules: []indexModule{}}
	of := map[string]string{} // entry to file
	for _, m := range modules {
		entries := slices.Sorted(slices.Values(m.Entries))
		for _, e := range entries {
			if other, twice := of[e]; twice {
				return nil, fmt.Errorf("kernel %s is in both %s and %s; a kernel's name must be its own", e, other, m.File)
			}
			of[e] = m.File
		}
		dir.Modules = append(dir.Modules, indexModule{m.File, len(code), len(m.Fatbin), crc32.Checksum(m.Fatbin, castagnoli), entries})
		code = padded(append(code, m.Fatbin...))
	}
	text, err := json.Marshal(dir)
	if err != nil {
		return nil, err
	}
	return object([]section{{fatbinSection, code}, {indexSection, text}}), nil
}

func padded(b []byte) []byte { return append(b, make([]byte, -len(b)&(alignment-1))...) }

type section struct {
	name string
	data []byte
}

// object writes an ELF object file: header, sections, section table.
func object(sections []section) []byte {
	names := "\x00"
	for _, s := range sections {
		names += s.name + "\x00"
	}
	const nameTable = ".shstrtab"
	names += nameTable + "\x00"
	sections = append(sections, section{nameTable, []byte(names)})

	header := elf.Header64{
		Type: uint16(elf.ET_REL), Machine: uint16(elf.EM_X86_64), Version: uint32(elf.EV_CURRENT),
		Ehsize: 64, Shentsize: 64, Shnum: uint16(len(sections) + 1), Shstrndx: uint16(len(sections)),
	}
	copy(header.Ident[:], elf.ELFMAG)
	header.Ident[elf.EI_CLASS], header.Ident[elf.EI_DATA] = byte(elf.ELFCLASS64), byte(elf.ELFDATA2LSB)
	header.Ident[elf.EI_VERSION] = byte(elf.EV_CURRENT)

	table := make([]elf.Section64, 1, len(sections)+1) // the first is none
	body := make([]byte, header.Ehsize)
	for _, s := range sections {
		kind, flags := elf.SHT_PROGBITS, elf.SectionFlag(0)
		switch s.name {
		case fatbinSection:
			flags = elf.SHF_ALLOC
		case nameTable:
			kind = elf.SHT_STRTAB
		}
		table = append(table, elf.Section64{
			Name: uint32(strings.Index(names, "\x00"+s.name+"\x00") + 1), Type: uint32(kind), Flags: uint64(flags),
			Off: uint64(len(body)), Size: uint64(len(s.data)), Addralign: alignment,
		})
		body = padded(append(body, s.data...))
	}
	header.Shoff = uint64(len(body))
	// Encode fails for values of no fixed size alone.
	_, _ = binary.Encode(body, binary.LittleEndian, header)
	body, _ = binary.Append(body, binary.LittleEndian, table)
	return body
}

// Unpack reads a file of kernels. The modules share its memory.
func Unpack(file []byte) (version string, modules []Module, err error) {
	f, err := elf.NewFile(bytes.NewReader(file))
	if err != nil {
		return "", nil, fmt.Errorf("this is no file of kernels that tfc wrote: %w", err)
	}
	code, err := sectionOf(f, file, fatbinSection)
	if err != nil {
		return "", nil, err
	}
	text, err := sectionOf(f, file, indexSection)
	if err != nil {
		return "", nil, err
	}
	var dir index
	if err := json.Unmarshal(text, &dir); err != nil {
		return "", nil, fmt.Errorf("the index of the file of kernels: %w", err)
	}
	if dir.Format != indexFormat {
		return "", nil, fmt.Errorf("the file of kernels is of format %d, and this tfc reads %d; build the package again", dir.Format, indexFormat)
	}
	for _, m := range dir.Modules {
		if m.Offset < 0 || m.Offset > len(code) || m.Size < 0 || m.Size > len(code)-m.Offset {
			return "", nil, fmt.Errorf("the index of the file of kernels: %s lies outside of it", m.File)
		}
		fatbin := code[m.Offset : m.Offset+m.Size : m.Offset+m.Size]
		if crc32.Checksum(fatbin, castagnoli) != m.CRC {
			return "", nil, fmt.Errorf("the file of kernels is damaged: the checksum of %s differs; build the package again", m.File)
		}
		modules = append(modules, Module{m.File, m.Entries, fatbin})
	}
	return dir.NVCC, modules, nil
}

// sectionOf returns the bytes of a section in the file.
func sectionOf(f *elf.File, file []byte, name string) ([]byte, error) {
	s := f.Section(name)
	if s == nil || s.Type != elf.SHT_PROGBITS || s.Flags&elf.SHF_COMPRESSED != 0 {
		return nil, fmt.Errorf("this is no file of kernels that tfc wrote: it has no section %s", name)
	}
	if s.Offset > uint64(len(file)) || s.FileSize > uint64(len(file))-s.Offset {
		return nil, errors.New("the file of kernels is cut off; build the package again")
	}
	return file[s.Offset : s.Offset+s.FileSize], nil
}

// Package compile takes a spec through the whole compiler: ir.Build, the passes and the generator, in memory. It also
// explains what the passes did and where memory goes.
package compile

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	cudagen "github.com/tfc-dev/tfc/codegen/cuda"
	gogen "github.com/tfc-dev/tfc/codegen/go"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/passes"
	"github.com/tfc-dev/tfc/spec"
)

// ManifestFile is the file of a package that lists the others.
const ManifestFile = "manifest.json"

// Manifest is what ManifestFile says, as far as a later build needs it.
type Manifest struct {
	Tfc   string            `json:"tfc"`   // version that wrote the package
	Files map[string]string `json:"files"` // SHA-256 of every other file, by path
}

// Func compiles one job of s: its function after the pass named last (after all, where last is empty). watch, if not
// nil, sees the function as built, with a nil pass, and after each pass. A memory budget that no plan meets is a
// spec.Errors with the budget's place.
func Func(s *spec.Spec, job string, o passes.Options, last string, watch func(p *passes.Pass, f *ir.Func, rewrites int)) (*ir.Func, error) {
	f := ir.Build(s, job)
	if watch != nil {
		watch(nil, f, 0)
	}
	err := passes.Run(f, o, last, watch)
	var budget *passes.BudgetError
	switch {
	case errors.As(err, &budget):
		return nil, spec.Errors{{Pos: s.Source.At("train.checkpointing"), Text: budget.Error()}}
	case err != nil:
		return nil, fmt.Errorf("%s: %w", job, err)
	}
	return f, nil
}

// Fatbin compiles the .cu files among sources, all for one package, for the GPU architectures that the spec lists. What it
// returns joins them in the package's folder kernels.
type Fatbin func(sources []cudagen.Source, arch []string) ([]cudagen.Source, error)

// Package writes the Go package of s, to be imported as importPath: for the CPU and, where the spec lists cuda among its
// devices, for GPUs, with what fatbin makes of the CUDA sources (nil: with the sources alone). version is that of tfc, for
// the manifest. The same arguments give the same bytes.
func Package(s *spec.Spec, importPath, version string, fatbin Fatbin) ([]gogen.File, error) {
	p := gogen.Program{
		Spec: s, SpecText: []byte(strings.Join(s.Source.Lines, "\n")), Funcs: map[string]*ir.Func{},
		ImportPath: importPath, Version: version,
	}
	for _, job := range ir.Jobs {
		f, err := Func(s, job, passes.OptionsFor(s, ir.TargetNamed("cpu")), "", nil)
		if err != nil {
			return nil, err
		}
		p.Funcs[job] = f
	}
	if slices.Contains(s.Target.Devices, "cuda") {
		var err error
		if p.CUDA, err = CUDA(s, nil, fatbin); err != nil {
			return nil, err
		}
	}
	files, err := gogen.Generate(p)
	if err != nil {
		return nil, err
	}
	return files, listFiles(files)
}

// CUDA compiles s for GPUs, with some passes off. Passes look at the first architecture that the spec lists; kernels run on
// all of them.
func CUDA(s *spec.Spec, off map[string]bool, fatbin Fatbin) (*gogen.CUDA, error) {
	o := passes.OptionsFor(s, ir.TargetNamed(s.Target.Arch[0]))
	o.Off = off
	funcs := map[string]*ir.Func{}
	for _, job := range ir.Jobs {
		f, err := Func(s, job, o, "", nil)
		if err != nil {
			return nil, err
		}
		funcs[job] = f
	}
	floats, decayed := ir.WeightFloats(ir.WeightTable(s, funcs["train"]))
	code, err := cudagen.Generate(cudagen.Program{Spec: s.Source.File, Jobs: ir.Jobs, Funcs: funcs, WeightFloats: floats, DecayedFloats: decayed, Picks: true})
	if err != nil {
		return nil, err
	}
	sources := code.Sources
	if fatbin != nil {
		made, err := fatbin(sources, s.Target.Arch)
		if err != nil {
			return nil, err
		}
		sources = append(slices.Clone(sources), made...)
	}
	c := &gogen.CUDA{Funcs: funcs, Kernels: code.Kernels, Launches: code.Launches, Pick: code.Pick, Scratch: code.Scratch, Tables: code.Tables, Element: code.Element}
	for _, f := range sources {
		c.Files = append(c.Files, gogen.File{Path: f.Name, Data: f.Data})
	}
	return c, nil
}

// listFiles adds the hashes of all files to the manifest among them.
func listFiles(files []gogen.File) error {
	var manifest *gogen.File
	hashes := map[string]string{}
	for i := range files {
		if files[i].Path == ManifestFile {
			manifest = &files[i]
			continue
		}
		hashes[files[i].Path] = Hash(files[i].Data)
	}
	var m map[string]any
	if err := json.Unmarshal(manifest.Data, &m); err != nil {
		return fmt.Errorf("%s: %w", ManifestFile, err)
	}
	m["files"] = hashes
	data, err := json.MarshalIndent(m, "", "  ")
	manifest.Data = append(data, '\n')
	return err
}

// Hash is the SHA-256 of a file's data, as the manifest writes it.
func Hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

package gpu

import (
	"errors"
	"fmt"
	"io/fs"

	"github.com/tfc-dev/tfc/runtime/cuda"
	"github.com/tfc-dev/tfc/runtime/cuda/kernelfile"
	"github.com/tfc-dev/tfc/runtime/gpu/footprint"
)

// imageFile is what the .cu files were compiled to.
const imageFile = "kernels/kernels.fatbin"

// image returns the compiled kernels.
func (p *Program) image() ([]byte, error) {
	data, err := fs.ReadFile(p.Files, imageFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errors.New("the package was built without nvcc, so its CUDA kernels are not compiled: install the CUDA toolkit (tfc doctor says what is found) and run tfc build again")
	}
	return data, err
}

// load puts the kernels on the device.
func (d *device) load(image []byte) error {
	_, modules, err := kernelfile.Unpack(image)
	if err != nil {
		return err
	}
	of := map[string]*cuda.Module{}
	for _, m := range modules {
		if d.program.elsewhere(m.Entries[0], d.ctx.Device().Arch()) {
			continue
		}
		module, err := d.ctx.Load(m.Fatbin)
		if err != nil {
			return err
		}
		for _, e := range m.Entries {
			of[e] = module
		}
	}
	for _, k := range d.program.Kernels {
		if k.Arch != "" && k.Arch != d.ctx.Device().Arch() {
			d.kernels = append(d.kernels, cuda.Kernel{}) // never launched
			continue
		}
		module := of[k.Entry]
		if module == nil {
			return fmt.Errorf("the compiled kernels have no %s: the package is not of one build; run tfc build again", k.Entry)
		}
		loaded, err := module.Kernel(cuda.KernelInfo{Entry: k.Entry, Threads: k.Threads, Shared: k.Shared, Waits: d.program.Waits, About: k.About})
		if err != nil {
			return err
		}
		d.kernels = append(d.kernels, loaded)
	}
	return nil
}

// elsewhere says whether a kernel, and so all that were compiled with it, is for another architecture.
func (p *Program) elsewhere(entry, arch string) bool {
	for _, k := range p.Kernels {
		if k.Entry == entry {
			return k.Arch != "" && k.Arch != arch
		}
	}
	return false
}

// code is the program ready to run.
type code struct {
	d       *device
	program *Program
	arch    string // of the device
	kernels []cuda.Kernel
	blas    *cuda.BLAS
	lock    *cuda.Lock
	rivals  map[int][]cuda.Rival // by product
}

// newCode makes the program ready. tuned is the run's lock of products, "" for none.
func (d *device) newCode(workspace Ptr, tuned string) (*code, error) {
	c := &code{d: d, program: d.program, arch: d.ctx.Device().Arch(), kernels: d.kernels, rivals: d.rivals()}
	var err error
	if c.lock, err = d.openLock(tuned); err != nil {
		return nil, err
	}
	if c.blas, err = d.ctx.NewBLAS(workspace, footprint.Workspace, c.lock); err != nil {
		return nil, err
	}
	return c, nil
}

// rivals returns the kernels of the program that make products on this device, by product.
func (d *device) rivals() map[int][]cuda.Rival {
	all := map[int][]cuda.Rival{}
	for _, r := range d.program.Rivals {
		if d.program.Kernels[r.Kernel].Arch == d.ctx.Device().Arch() {
			all[r.Product] = append(all[r.Product], cuda.Rival{Kernel: d.kernels[r.Kernel], Rows: r.Rows, Cols: r.Cols})
		}
	}
	return all
}

// product returns product p ready for a call of so many rows. Of those whose rows change, the ones over a whole chunk of a
// prompt come again and again, and so have their algorithm chosen as all others.
func (c *code) product(p, rows int) (*cuda.Prepared, error) {
	q := c.program.Products[p]
	if q.Dynamic {
		q.M, q.Dynamic = rows, rows != c.d.program.MaxPrefill
	}
	return c.blas.Prepare(q, c.rivals[p]...)
}

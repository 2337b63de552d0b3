package cuda

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/tfc-dev/tfc/runtime/internal/disk"
)

// Lock says how products are computed: it holds the algorithms that were chosen for them, so that the same product is made
// in the same way, to the bit, whenever a program runs again with the same device and library. It is up to two JSON files:
// the run's, kept beside the weights, which decides, and the machine's, which all programs share:
//
//	{"format": 1, "devices": {"NVIDIA H100 80GB HBM3, cuBLASLt 13.1.0": {
//	  "m=32768 n=1536 k=512 nt …": {"algorithm": "2a00…", "microseconds": 41.7, "check": "91c4…"}}}}
//
// The run's has every product that was prepared, the machine's those that were timed. Entries of other devices and versions
// are kept and not used. What cannot be read is left out, and with that replaced by the next Save. A Lock is safe for use by
// several goroutines at once, except that its fields are set before.
type Lock struct {
	// Tune lets BLAS.Prepare time the products that the lock does not hold.
	Tune bool
	// Anew has products timed that the lock holds, and their entries replaced.
	Anew bool

	mu           sync.Mutex
	run, machine *lockFile // nil for none
	notes        []string
}

// lockFile is one of the files. Its path may be followed by ".lock" for the file that processes exclude each other with.
type lockFile struct {
	path    string
	entries lockDevices
	added   lockDevices // since the last save
	refused lockDevices // what cannot be used here, though it is in the file
	unlock  func()      // not nil while this process alone may choose
}

type (
	lockDevices  map[string]lockProducts // by device and library
	lockProducts map[string]lockEntry    // by product
)

type lockEntry struct {
	Algorithm    string  `json:"algorithm"`    // hexadecimal
	Microseconds float64 `json:"microseconds"` // 0 where it was not timed
	Check        string  `json:"check"`        // of the rest, against damage
}

// lockText is what a file holds.
type lockText struct {
	Format  int         `json:"format"`
	Devices lockDevices `json:"devices"`
}

const (
	lockFormat   = 1
	maxLockBytes = 16 << 20
	lockWait     = 30 * time.Second // for another process that times products
)

// OpenLock reads the lock of a run and that of the machine; "" stands for none, and neither file need exist. Whatever cannot
// be used of them is left out, see Notes.
func OpenLock(run, machine string) *Lock {
	l := &Lock{}
	open := func(path string) *lockFile {
		if path == "" {
			return nil
		}
		f := &lockFile{path: path, added: lockDevices{}, refused: lockDevices{}}
		var note string
		if f.entries, note = readLock(path); note != "" {
			l.notes = append(l.notes, note)
		}
		return f
	}
	l.run, l.machine = open(run), open(machine)
	return l
}

// Notes returns what the user should know since the last call: what of the files could not be used or written, and why.
func (l *Lock) Notes() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	notes := l.notes
	l.notes = nil
	return notes
}

// Paths returns the files of the lock, the run's first.
func (l *Lock) Paths() (paths []string) {
	for _, f := range []*lockFile{l.run, l.machine} {
		if f != nil {
			paths = append(paths, f.path)
		}
	}
	return paths
}

// readLock returns the entries of a file that are whole.
func readLock(path string) (devices lockDevices, note string) {
	data, err := disk.ReadFile(disk.OS{}, path, maxLockBytes)
	if errors.Is(err, fs.ErrNotExist) {
		return lockDevices{}, ""
	}
	var file struct {
		Format  int
		Devices map[string]map[string]json.RawMessage
	}
	if err == nil {
		err = json.Unmarshal(data, &file)
	}
	if err == nil && file.Format != lockFormat {
		err = fmt.Errorf("format %d is not known, %d is", file.Format, lockFormat)
	}
	if err != nil {
		return lockDevices{}, fmt.Sprintf("the lock of products %s is not used: %v", path, err)
	}
	devices = lockDevices{}
	bad := 0
	for where, products := range file.Devices {
		for product, raw := range products {
			var e lockEntry
			if json.Unmarshal(raw, &e) != nil || e.Check != e.sum(where, product) {
				bad++
				continue
			}
			devices.put(where, product, e)
		}
	}
	if bad > 0 {
		note = fmt.Sprintf("the lock of products %s has %d damaged entries, which are not used", path, bad)
	}
	return devices, note
}

func (d lockDevices) put(where, product string, e lockEntry) {
	if d[where] == nil {
		d[where] = lockProducts{}
	}
	d[where][product] = e
}

// sum returns what Check must be.
func (e lockEntry) sum(where, product string) string {
	sum := sha256.Sum256([]byte(where + "\n" + product + "\n" + e.Algorithm))
	return hex.EncodeToString(sum[:8])
}

// decode returns the algorithm of an entry.
func (e lockEntry) decode() (a algorithm, ok bool) {
	raw, err := hex.DecodeString(e.Algorithm)
	if err != nil || len(raw) != binary.Size(a) {
		return a, false
	}
	for i := range a {
		a[i] = binary.LittleEndian.Uint64(raw[8*i:])
	}
	return a, true
}

// find returns the algorithm of a product: the run's, or else the machine's, which the run then keeps. usable says whether
// one can be used here.
func (l *Lock) find(where, product string, usable func(algorithm) bool) (a algorithm, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range []*lockFile{l.run, l.machine} {
		if f == nil {
			continue
		}
		e, ok := f.entries[where][product]
		if !ok || e == f.refused[where][product] {
			continue
		}
		if a, ok := e.decode(); ok && usable(a) {
			if f == l.machine && l.run != nil {
				l.run.put(where, product, e)
			}
			return a, true
		}
		f.refused.put(where, product, e)
	}
	return a, false
}

// choosing has the process be the only one on the machine that times products, from now to the Save, and takes over what
// others have chosen by now. Products are timed best when nothing else is, and a choice that is made once is everyone's.
func (l *Lock) choosing() {
	l.mu.Lock()
	defer l.mu.Unlock()
	f := l.machine
	if f == nil || f.unlock != nil {
		return
	}
	var err error
	if f.unlock, err = f.exclude(); err != nil {
		f.unlock = func() {} // not again until the Save, which says it
	}
	f.entries, _ = readLock(f.path)
	for where, products := range f.added {
		for product, e := range products {
			f.entries.put(where, product, e)
		}
	}
}

// exclude keeps other processes from choosing and saving.
func (f *lockFile) exclude() (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(f.path), 0o777); err != nil {
		return nil, err
	}
	return disk.Lock(f.path+".lock", lockWait)
}

// put keeps a choice, for the machine only where it was timed.
func (l *Lock) put(where, product string, a algorithm, took time.Duration) {
	var raw []byte
	for _, word := range a {
		raw = binary.LittleEndian.AppendUint64(raw, word)
	}
	e := lockEntry{Algorithm: hex.EncodeToString(raw), Microseconds: float64(took.Nanoseconds()) / 1000}
	e.Check = e.sum(where, product)
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.run != nil {
		l.run.put(where, product, e)
	}
	if l.machine != nil && took > 0 {
		l.machine.put(where, product, e)
	}
}

func (f *lockFile) put(where, product string, e lockEntry) {
	f.entries.put(where, product, e)
	f.added.put(where, product, e)
}

// Save writes what Prepare added since, together with what is in the files by now: aside, then renamed, so that a reader
// sees the old file or the new one. What another process chose first stays, unless Anew is set. Without anything added it
// does nothing. A file that cannot be written is for Notes to say: the choices are good all the same, and the next Save tries
// again.
func (l *Lock) Save() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, f := range []*lockFile{l.run, l.machine} {
		if f == nil {
			continue
		}
		if err := f.save(l.Anew); err != nil {
			l.notes = append(l.notes, fmt.Sprintf("the lock of products %s cannot be saved, so another run may choose other algorithms: %v", f.path, err))
		}
	}
}

func (f *lockFile) save(anew bool) error {
	defer func() {
		if f.unlock != nil {
			f.unlock()
			f.unlock = nil
		}
	}()
	if len(f.added) == 0 {
		return nil
	}
	if f.unlock == nil {
		if unlock, err := f.exclude(); err == nil { // otherwise, if the file can be written, it is better without than not at all
			f.unlock = unlock
		}
	}
	devices, _ := readLock(f.path)
	for where, products := range f.added {
		for product, e := range products {
			if old, ok := devices[where][product]; !ok || anew || old == f.refused[where][product] {
				devices.put(where, product, e)
			}
		}
	}
	text, err := json.MarshalIndent(lockText{lockFormat, devices}, "", "  ")
	if err != nil {
		return err
	}
	err = disk.WriteFile(disk.OS{}, f.path, func(w io.Writer) error {
		_, err := w.Write(append(text, '\n'))
		return err
	})
	if err != nil {
		return err
	}
	clear(f.added)
	return nil
}

// MachineLock returns the path of the machine's lock: products.json in the folder that TFC_CACHE names, otherwise in tfc in
// the user's folder of caches.
func MachineLock() (string, error) {
	dir := os.Getenv("TFC_CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			return "", fmt.Errorf("the lock of products has no folder: %w; set TFC_CACHE to one", err)
		}
		dir = filepath.Join(user, "tfc")
	}
	return filepath.Join(dir, "products.json"), nil
}

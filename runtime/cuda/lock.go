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
	"maps"
	"sync"
	"time"

	"github.com/tfc-dev/tfc/runtime/internal/disk"
)

// Lock holds the algorithms of products that were timed, so that the same product is made in the same way, to the bit,
// whenever the program runs again with the same device and library. It is a JSON file, to be kept beside the weights:
//
//	{"format": 1, "devices": {"NVIDIA H100 80GB HBM3, cuBLASLt 13.1.0": {
//	  "m=32768 n=1536 k=512 nt …": {"algorithm": "2a00…", "microseconds": 41.7, "check": "91c4…"}}}}
//
// Entries of other devices and versions are kept and not used. What cannot be read is left out, and with that replaced by
// the next Save. A Lock is safe for use by several goroutines at once, except that Tune is set before.
type Lock struct {
	// Tune lets BLAS.Prepare time the products that the lock does not hold.
	Tune bool

	path    string
	note    string
	mu      sync.Mutex
	entries lockDevices
	added   lockDevices // since the last Save
}

type (
	lockDevices  map[string]lockProducts // by device and library
	lockProducts map[string]lockEntry    // by product
)

type lockEntry struct {
	Algorithm    string  `json:"algorithm"` // hexadecimal
	Microseconds float64 `json:"microseconds"`
	Check        string  `json:"check"` // of the rest, against damage
}

type lockFile struct {
	Format  int         `json:"format"`
	Devices lockDevices `json:"devices"`
}

const (
	lockFormat   = 1
	maxLockBytes = 16 << 20
)

// OpenLock reads the lock at path; the file need not exist. Whatever cannot be used of it is left out, see Note.
func OpenLock(path string) *Lock {
	l := &Lock{path: path, added: lockDevices{}}
	l.entries, l.note = readLock(path)
	return l
}

// Note says what of the file could not be used and why, for the user to see. It is empty where all is well.
func (l *Lock) Note() string { return l.note }

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

// find returns the algorithm of a product.
func (l *Lock) find(where, product string) (a algorithm, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e, ok := l.entries[where][product]
	if !ok {
		return a, false
	}
	raw, err := hex.DecodeString(e.Algorithm)
	if err != nil || len(raw) != binary.Size(a) {
		return a, false
	}
	for i := range a {
		a[i] = binary.LittleEndian.Uint64(raw[8*i:])
	}
	return a, true
}

func (l *Lock) put(where, product string, a algorithm, took time.Duration) {
	var raw []byte
	for _, word := range a {
		raw = binary.LittleEndian.AppendUint64(raw, word)
	}
	e := lockEntry{Algorithm: hex.EncodeToString(raw), Microseconds: float64(took.Nanoseconds()) / 1000}
	e.Check = e.sum(where, product)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.entries.put(where, product, e)
	l.added.put(where, product, e)
}

// saving keeps the Locks of this process from writing over each other's entries.
var saving sync.Mutex

// Save writes what Prepare added since, together with what is in the file by now: aside, then renamed, so that a reader
// sees the old file or the new one. Without anything added it does nothing.
func (l *Lock) Save() error {
	saving.Lock()
	defer saving.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.added) == 0 {
		return nil
	}
	devices, _ := readLock(l.path)
	for where, products := range l.added {
		for product, e := range products {
			devices.put(where, product, e)
		}
	}
	text, err := json.MarshalIndent(lockFile{lockFormat, devices}, "", "  ")
	if err != nil {
		return err
	}
	err = disk.WriteFile(disk.OS{}, l.path, func(w io.Writer) error {
		_, err := w.Write(append(text, '\n'))
		return err
	})
	if err != nil {
		return fmt.Errorf("the lock of products cannot be saved: %w", err)
	}
	maps.DeleteFunc(l.added, func(string, lockProducts) bool { return true })
	return nil
}

package lm

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/tfc-dev/tfc/runtime/checkpoint"
	"github.com/tfc-dev/tfc/runtime/cpu"
	"github.com/tfc-dev/tfc/runtime/internal/disk"
	"github.com/tfc-dev/tfc/runtime/tokenizer"
	"github.com/tfc-dev/tfc/runtime/weights"
)

// Model is a language model in memory. It does one thing at a time: a call while another one runs, a Stream being read
// among them, returns ErrBusy.
type Model struct {
	cfg       Config
	seed      uint64
	weights   []float32            // by values; until then they may not be there yet
	first     *weights.Drawing     // what they are to be; nil once they are there
	tokenizer *tokenizer.Tokenizer // nil until the first training of a fresh model
	device    Device               // nil for the CPU
	placed    bool                 // the device is chosen
	whyCPU    error                // why auto chose the CPU
	tuned     string               // file as in Device, of the run or folder that the weights are from
	noted     []string             // by devices that were left, for the user
	generator Picker               // nil until it is needed, and after a training
	busy      atomic.Bool          // stays set once closed
	closed    atomic.Bool
}

const (
	configFile    = "config.json"
	tokenizerFile = "tokenizer.json"
)

// Errors of a Model that is not free.
var (
	ErrBusy   = errors.New("the model is at work: wait for the other call, or break out of its stream, first")
	ErrClosed = errors.New("the model is closed")
)

// New returns a fresh model, its weights drawn from the seed. Training it draws the order of the data and dropout from
// the same seed. The model gets its tokenizer when it is trained. The weights are drawn when something needs them, on a
// device while they go there: until then they take no memory.
func New(cfg Config, seed uint64) (*Model, error) {
	first, err := weights.NewDrawing(cfg.Weights, cfg.WeightFloats, seed)
	if err != nil {
		return nil, fmt.Errorf("draw the first weights: %w", err)
	}
	return &Model{cfg: cfg, seed: seed, weights: cpu.Floats(cfg.WeightFloats), first: first}, nil
}

// values returns the weights.
func (m *Model) values() []float32 {
	if m.first != nil {
		m.first.Fill(m.weights, 0)
		m.first = nil
	}
	return m.weights
}

// pull brings the weights up to date with a trainer's.
func (m *Model) pull(t Trainer) error {
	if err := t.Pull(); err != nil {
		return err
	}
	m.first = nil
	return nil
}

// Open returns a trained model: the newest save of a run, given the run's folder, or a Hugging Face folder with
// model.safetensors (or its shards), config.json and tokenizer.json, such as one save of a run. A folder whose settings
// or weights are not those of the program is an error (ErrFile) that names the differences. Without a tokenizer.json
// the model works on tokens only, until it is trained.
func Open(cfg Config, dir string) (*Model, error) {
	if fileExists(filepath.Join(dir, configFile)) {
		m, err := openFolder(cfg, dir)
		if err == nil && fileExists(filepath.Join(dir, tunedFile)) { // nothing is written into a folder that is not a run's
			m.tuned = filepath.Join(dir, tunedFile)
		}
		return m, err
	}
	save, state, err := checkpoint.Latest(dir, nil)
	return openSave(cfg, dir, save, state, err)
}

// OpenBest is Open for the save of a run that has the lowest evaluation loss.
func OpenBest(cfg Config, run string) (*Model, error) {
	save, state, err := checkpoint.Best(run)
	return openSave(cfg, run, save, state, err)
}

func openSave(cfg Config, run, save string, state checkpoint.State, err error) (*Model, error) {
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fileError("%s holds neither the saves of a run nor a model (%s): train first, or give another folder: %w", run, configFile, err)
	}
	if err != nil {
		return nil, fileError("open %s: %w", run, err)
	}
	var s runState
	if err := json.Unmarshal(state.Extra, &s); err != nil {
		return nil, fileError("%s: the state of the run: %w", save, err)
	}
	var wrong []string
	for _, d := range differences(s.Settings, cfg.Settings) {
		// How weights start and what is dropped in training changes nothing in a trained model.
		if strings.HasPrefix(d, "model.") && !strings.HasPrefix(d, "model.init.") && !strings.HasPrefix(d, "model.dropout.") {
			wrong = append(wrong, d)
		}
	}
	if len(wrong) > 0 {
		return nil, fileError("%s holds another model:\n  %s", save, strings.Join(wrong, "\n  "))
	}
	m, err := openFolder(cfg, save)
	if err != nil {
		return nil, err
	}
	m.seed, m.tuned = s.Seed, filepath.Join(run, tunedFile)
	return m, nil
}

func fileExists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// openFolder reads a model folder.
func openFolder(cfg Config, dir string) (*Model, error) {
	if err := weights.CompareConfig(dir, []byte(cfg.HFConfig)); err != nil {
		return nil, fileError("%w", err)
	}
	m := &Model{cfg: cfg, seed: cfg.Train.Seed, weights: cpu.Floats(cfg.WeightFloats)}
	if err := weights.Load(dir, cfg.Weights, m.weights); err != nil {
		return nil, fileError("%w", err)
	}
	var err error
	m.tokenizer, err = loadTokenizer(cfg, dir)
	return m, err
}

// loadTokenizer reads a folder's tokenizer.json; it returns nil where there is none.
func loadTokenizer(cfg Config, dir string) (*tokenizer.Tokenizer, error) {
	path := filepath.Join(dir, tokenizerFile)
	if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return readTokenizer(cfg, path)
}

func readTokenizer(cfg Config, path string) (*tokenizer.Tokenizer, error) {
	t, err := tokenizer.Load(path)
	if err != nil {
		return nil, fileError("%w", err)
	}
	if t.VocabSize() > cfg.VocabSize {
		return nil, fileError("%s has %d tokens; the model's vocabulary has %d", path, t.VocabSize(), cfg.VocabSize)
	}
	return t, nil
}

// Tokenizer returns the model's tokenizer, nil where it has none yet.
func (m *Model) Tokenizer() *tokenizer.Tokenizer { return m.tokenizer }

// Save writes the model as a Hugging Face folder, made if missing: model.safetensors (or shards), config.json,
// generation_config.json and, where the model has a tokenizer, tokenizer.json and tokenizer_config.json.
func (m *Model) Save(dir string) error {
	release, err := m.acquire()
	if err != nil {
		return err
	}
	defer release()
	if err := os.MkdirAll(filepath.Dir(filepath.Clean(dir)), 0o777); err != nil {
		return fmt.Errorf("save the model: %w", err)
	}
	if err := m.writeFolder(dir); err != nil {
		return fmt.Errorf("save the model: %w", err)
	}
	return nil
}

func (m *Model) writeFolder(dir string) error {
	if err := weights.Save(dir, m.cfg.Weights, m.values(), []byte(m.cfg.HFConfig)); err != nil {
		return err
	}
	o := m.cfg.Generate.Options
	// top_k 0 means all tokens; left out, it means 50.
	generation := map[string]any{"do_sample": o.Temperature > 0, "top_k": o.TopK}
	if o.Temperature > 0 {
		generation["temperature"] = o.Temperature
	}
	if o.TopP > 0 {
		generation["top_p"] = o.TopP
	}
	if o.MaxNewTokens > 0 {
		generation["max_new_tokens"] = o.MaxNewTokens
	}
	if m.tokenizer != nil {
		if err := m.tokenizer.Save(filepath.Join(dir, tokenizerFile)); err != nil {
			return err
		}
		config := map[string]any{"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": m.cfg.Context, "clean_up_tokenization_spaces": false}
		if end, ok := m.tokenizer.EndOfText(); ok {
			generation["eos_token_id"] = end
			config["eos_token"] = m.tokenizer.Token(end)
		}
		if err := writeJSON(filepath.Join(dir, "tokenizer_config.json"), config); err != nil {
			return err
		}
	}
	return writeJSON(filepath.Join(dir, "generation_config.json"), generation)
}

func writeJSON(path string, v any) error {
	text, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return err
	}
	return disk.WriteFile(disk.OS{}, path, func(w io.Writer) error {
		_, err := w.Write(append(text, '\n'))
		return err
	})
}

// Close gives back the model's memory. It must not be called while the model is at work, and not used afterwards.
func (m *Model) Close() {
	if _, err := m.acquire(); err != nil {
		return // closed already
	}
	m.leaveDevice()
	m.weights = nil
	m.closed.Store(true)
}

// acquire takes the model for one call.
func (m *Model) acquire() (release func(), err error) {
	if !m.busy.CompareAndSwap(false, true) {
		if m.closed.Load() {
			return nil, ErrClosed
		}
		return nil, ErrBusy
	}
	return func() { m.busy.Store(false) }, nil
}

// generation returns the generator, made at its first use.
func (m *Model) generation() (Picker, error) {
	if m.generator != nil {
		return m.generator, nil
	}
	if err := m.place(); err != nil {
		return nil, err
	}
	slots := max(m.cfg.Generate.Batch, 1)
	var g Generator
	if m.device == nil {
		g = m.cfg.NewGenerator(m.values(), slots, 0)
	} else {
		var err error
		if g, err = m.device.NewGenerator(m.values(), slots, m.tuned); err != nil {
			return nil, err
		}
	}
	m.generator = NewPicker(g, m.cfg.VocabSize)
	return m.generator, nil
}

package checkpoint

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"

	"github.com/tfc-dev/tfc/runtime/internal/strictjson"
)

const (
	stateFile     = "state.json"
	formatVersion = 1
	maxState      = 64 << 20 // bytes
)

// errNewer marks a save whose format this program does not know: it is not damaged, and must not be passed over.
var errNewer = errors.New("written by a newer version of tfc")

// stateJSON is the text form of State.
type stateJSON struct {
	Version       int             `json:"version"`
	Step          int             `json:"step"`
	SpecHash      string          `json:"spec_hash"`
	TokenizerHash string          `json:"tokenizer_hash"`
	DataHash      string          `json:"data_hash"`
	Metric        *float64        `json:"metric,omitempty"`
	Extra         json.RawMessage `json:"extra,omitempty"`
}

func encodeState(s State) ([]byte, error) {
	if s.Step < 0 {
		return nil, fmt.Errorf("step %d cannot be saved", s.Step)
	}
	f := stateJSON{formatVersion, s.Step, s.SpecHash, s.TokenizerHash, s.DataHash, nil, s.Extra}
	if s.HasMetric {
		if math.IsNaN(s.Metric) || math.IsInf(s.Metric, 0) {
			return nil, fmt.Errorf("step %d is not saved: its metric is %v", s.Step, s.Metric)
		}
		f.Metric = &s.Metric
	}
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false) // Extra comes back as it was given
	e.SetIndent("", "  ")
	if err := e.Encode(f); err != nil {
		return nil, fmt.Errorf("step %d is not saved: state: %w", s.Step, err)
	}
	text := b.Bytes()
	if back, err := decodeState(text); err != nil { // Extra may nest too deep or repeat a name
		return nil, fmt.Errorf("step %d is not saved: state: %w", s.Step, err)
	} else if back.Step != s.Step || len(text) > maxState {
		return nil, fmt.Errorf("step %d is not saved: a state of %d bytes is too large", s.Step, len(text))
	}
	return text, nil
}

func decodeState(text []byte) (s State, err error) {
	r := strictjson.NewReader(text)
	version := uint64(0)
	number := func() (float64, error) {
		n, err := r.Number()
		if err != nil {
			return 0, err
		}
		return strconv.ParseFloat(string(n), 64)
	}
	err = r.Object(func(name string) (err error) {
		switch name {
		case "version":
			if version, err = r.Uint(); err == nil && version > formatVersion {
				err = fmt.Errorf("%w: format %d, this one reads %d", errNewer, version, formatVersion)
			}
		case "step":
			var step uint64
			if step, err = r.Uint(); err == nil && step > math.MaxInt {
				err = fmt.Errorf("step %d is out of range", step)
			}
			s.Step = int(step)
		case "spec_hash":
			s.SpecHash, err = r.String()
		case "tokenizer_hash":
			s.TokenizerHash, err = r.String()
		case "data_hash":
			s.DataHash, err = r.String()
		case "metric":
			s.HasMetric = true
			s.Metric, err = number()
		case "extra":
			var raw []byte
			if raw, err = r.Raw(); err == nil {
				var b bytes.Buffer
				err = json.Compact(&b, raw)
				s.Extra = b.Bytes()
			}
		default:
			err = fmt.Errorf("unknown field %q", name)
		}
		return err
	})
	if err == nil {
		err = r.End()
	}
	if err == nil && version == 0 {
		err = errors.New("no version")
	}
	return s, err
}

// Package parser reads specs: YAML whose values are a small language of arithmetic, calls, attention patterns and
// schedules. It fills in presets and defaults, and finds everything wrong at once, each with its place in the text.
package parser

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/tfc-dev/tfc/spec"
)

// Load reads the spec in the file path. Errors in the spec are spec.Errors; the returned Spec then holds nothing but its
// Source, to explain them with.
func Load(path string) (*spec.Spec, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, err
	}
	return Parse(path, text)
}

// Parse reads a spec from a text; file is its name in positions, and names the spec where the text does not.
func Parse(file string, text []byte) (*spec.Spec, error) {
	doc, errs := readYAML(file, text)
	if errs == nil {
		d := newDecoder(doc, doc.src)
		s := d.spec()
		if errs = append(d.errs, d.settle(s)...); len(errs) == 0 {
			errs = spec.Check(s)
		}
		if len(errs) == 0 {
			return s, nil
		}
	}
	return &spec.Spec{Source: doc.src}, errs.Err()
}

// nameOf makes the name of a package from a file's: small letters, digits and underscores.
func nameOf(file string) string {
	base := strings.TrimSuffix(filepath.Base(file), filepath.Ext(file))
	return strings.Map(func(r rune) rune {
		switch {
		case 'A' <= r && r <= 'Z':
			return r - 'A' + 'a'
		case 'a' <= r && r <= 'z', '0' <= r && r <= '9':
			return r
		}
		return '_'
	}, base)
}

// settle fills in the numbers that follow from others once all are known.
func (d *decoder) settle(s *spec.Spec) (errs spec.Errors) {
	if s.Name == "" {
		s.Name = nameOf(d.src.File)
	}
	given := func(path string) (spec.Pos, bool) { p, ok := d.src.Pos[path]; return p, ok }
	steps, hasSteps := given("train.steps")
	epochs, hasEpochs := given("train.epochs")
	switch {
	case hasSteps && hasEpochs:
		first, second := steps, epochs
		if second.Line < first.Line || second.Line == first.Line && second.Col < first.Col {
			first, second = second, first
		}
		errs = append(errs, &spec.Error{Pos: second, Text: "steps and epochs both say how long to train; give one",
			Notes: []spec.Note{{Pos: first, Text: "the other is here"}}})
	case hasEpochs:
		s.Train.Steps = 0
	}
	_, hasTrain := given("tokenizer.train")
	if file, hasFile := given("tokenizer.file"); hasFile && hasTrain && s.Tokenizer.Train != "" {
		errs = append(errs, &spec.Error{Pos: file, Text: "a tokenizer is trained or read from a file; give one of the two keys",
			Notes: []spec.Note{{Pos: d.src.Pos["tokenizer.train"], Text: "the other is here"}}})
	} else if hasFile {
		s.Tokenizer.Train = ""
	}
	if s.Train.MicroBatch == 0 && s.Train.Context > 0 {
		s.Train.MicroBatch = s.Train.Batch.Sequences(s.Train.Context)
	}
	for i := range s.Model.Positions {
		sc := &s.Model.Positions[i].Scaling
		if (sc.Kind == "yarn" || sc.Kind == "llama3") && sc.OriginalMax == 0 && sc.Factor > 0 {
			sc.OriginalMax = max(1, int(float64(s.Model.MaxPositionEmbeddings)/sc.Factor))
		}
	}
	return errs
}

// enumerate writes words as "a, b or c", with the last two joined by link.
func enumerate(words []string, link string) string {
	if len(words) == 1 {
		return words[0]
	}
	return fmt.Sprintf("%s %s %s", strings.Join(words[:len(words)-1], ", "), link, words[len(words)-1])
}

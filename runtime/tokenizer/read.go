package tokenizer

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"strings"

	"github.com/tfc-dev/tfc/runtime/internal/disk"
	"github.com/tfc-dev/tfc/runtime/internal/strictjson"
)

// maxFile is the size of a tokenizer.json, at most.
const maxFile = 128 << 20

// Load reads a tokenizer.json; see Read.
func Load(path string) (*Tokenizer, error) {
	file, err := disk.ReadFile(disk.OS{}, path, maxFile)
	if err != nil {
		return nil, fmt.Errorf("read tokenizer: %w", err)
	}
	t, err := parse(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return t, nil
}

// Read reads a tokenizer.json as Hugging Face's tokenizers library writes it. It takes byte-level BPE models: a BPE
// model with all 256 bytes; a pre-tokenizer ByteLevel, or a Sequence of Splits by the patterns of GPT-2, Llama 3, Qwen 2
// or GPT-4o and a ByteLevel; decoder ByteLevel; normalizer NFC or none. Anything else that would change a token is an
// error that names it. What only frames or cuts whole inputs (post_processor, truncation, padding) is kept and not
// applied. Ids must run from 0 without holes; added tokens have at most 512 bytes.
func Read(r io.Reader) (*Tokenizer, error) {
	file, err := io.ReadAll(io.LimitReader(r, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("read tokenizer: %w", err)
	}
	if len(file) > maxFile {
		return nil, fmt.Errorf("read tokenizer: more than %d bytes", maxFile)
	}
	return parse(file)
}

// parser is a tokenizer.json half read.
type parser struct {
	*strictjson.Reader
	t      *Tokenizer
	merges [][2]string
	added  []addedToken
}

func parse(file []byte) (*Tokenizer, error) {
	p := parser{Reader: strictjson.NewReader(file), t: &Tokenizer{file: file, words: map[string][]int32{}, end: -1}}
	seen := map[string]bool{}
	err := p.Object(func(name string) error {
		seen[name] = true
		switch name {
		case "model":
			return p.model()
		case "added_tokens":
			return p.Array(func(int) error { return p.addedToken() })
		case "normalizer":
			return p.normalizer()
		case "pre_tokenizer":
			return p.preTokenizer(true)
		case "decoder":
			return p.decoder()
		}
		return p.Skip()
	})
	if err == nil {
		err = p.End()
	}
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"model", "pre_tokenizer", "decoder"} {
		if !seen[name] {
			return nil, fmt.Errorf("%s is missing; byte-level BPE needs it", name)
		}
	}
	if err := p.finish(); err != nil {
		return nil, err
	}
	return p.t, nil
}

func (p *parser) model() error {
	kind := "BPE" // old files leave it out
	seen := map[string]bool{}
	err := p.Object(func(name string) (err error) {
		seen[name] = true
		switch name {
		case "type":
			kind, err = p.String()
		case "vocab":
			if p.Peek() != '{' {
				return p.Errorf("model.vocab is no table of tokens and ids: only BPE models are supported")
			}
			p.t.ids = map[string]int32{}
			err = p.Object(func(token string) error {
				id, err := p.id(token)
				p.t.ids[token] = id
				return err
			})
		case "merges":
			err = p.Array(func(i int) error { return p.merge(i) })
		case "dropout":
			err = p.only("model.dropout", `null`, `0`, `0.0`)
		case "continuing_subword_prefix", "end_of_word_suffix":
			err = p.only("model."+name, `null`, `""`)
		case "ignore_merges":
			p.t.ignoreMerges, err = p.bool()
		default: // what remains tells what to do with bytes that are no tokens; all of them are
			err = p.Skip()
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case kind != "BPE":
		return p.Errorf("a model of type %q is not supported; only BPE is", kind)
	case !seen["vocab"] || !seen["merges"]:
		return p.Errorf("the model lacks vocab or merges")
	}
	return nil
}

func (p *parser) id(token string) (int32, error) {
	id, err := p.Uint()
	if err == nil && id > math.MaxInt32 {
		err = p.Errorf("token %q has id %d, out of range", token, id)
	}
	return int32(id), err
}

// merge reads a merge, "left right" or ["left", "right"].
func (p *parser) merge(i int) error {
	var m [2]string
	if p.Peek() == '[' {
		n := 0
		err := p.Array(func(j int) (err error) {
			if n++; n > 2 {
				return p.Errorf("merge %d has more than two parts", i)
			}
			m[j], err = p.String()
			return err
		})
		if err != nil {
			return err
		}
	} else {
		text, err := p.String()
		if err != nil {
			return err
		}
		m[0], m[1], _ = strings.Cut(text, " ")
	}
	if m[0] == "" || m[1] == "" {
		return p.Errorf("merge %d does not have two parts", i)
	}
	p.merges = append(p.merges, m)
	return nil
}

func (p *parser) addedToken() error {
	t := addedToken{id: -1, normalized: true}
	err := p.Object(func(name string) (err error) {
		switch name {
		case "id":
			t.id, err = p.id("")
		case "content":
			t.content, err = p.String()
		case "single_word":
			t.singleWord, err = p.bool()
		case "lstrip":
			t.lstrip, err = p.bool()
		case "rstrip":
			t.rstrip, err = p.bool()
		case "normalized":
			t.normalized, err = p.bool()
		case "special":
			t.special, err = p.bool()
		default:
			err = p.Skip()
		}
		return err
	})
	switch {
	case err != nil:
		return err
	case t.id < 0 || t.content == "":
		return p.Errorf("an added token without id or content")
	case len(t.content) > maxAdded:
		return p.Errorf("the added token %.20q... has %d bytes, at most %d are supported", t.content, len(t.content), maxAdded)
	}
	p.added = append(p.added, t)
	return nil
}

func (p *parser) normalizer() error {
	if p.Peek() != '{' {
		return p.only("normalizer", `null`)
	}
	p.t.nfc = true
	return p.kind("a normalizer", "NFC")
}

func (p *parser) decoder() error { return p.kind("a decoder", "ByteLevel") }

// kind reads an object of which nothing but the type counts.
func (p *parser) kind(what, want string) error {
	kind := ""
	err := p.Object(func(name string) (err error) {
		if name == "type" {
			kind, err = p.String()
			return err
		}
		return p.Skip()
	})
	if err == nil && kind != want {
		err = p.Errorf("%s of type %q is not supported; only %s is", what, kind, want)
	}
	return err
}

// maxSplits is how many Splits a pre-tokenizer may have.
const maxSplits = 16

// preTokenizer reads a pre-tokenizer, or an item of a Sequence of them.
func (p *parser) preTokenizer(top bool) error {
	if p.Peek() != '{' {
		return p.Errorf("a pre_tokenizer is needed, ByteLevel or a Sequence that ends in one: this is not byte-level BPE")
	}
	var (
		kind, pattern, behavior = "", "", ""
		invert                  = false
		useRegex, prefix        = true, true // if left out
	)
	err := p.Object(func(name string) (err error) {
		switch name {
		case "type":
			if kind, err = p.String(); err == nil && kind != "ByteLevel" && kind != "Split" && kind != "Sequence" {
				err = p.Errorf("a pre_tokenizer of type %q is not supported; only ByteLevel, Split and Sequence are", kind)
			}
		case "pretokenizers":
			if !top {
				return p.Errorf("a Sequence in a Sequence is not supported")
			}
			err = p.Array(func(int) error { return p.preTokenizer(false) })
		case "pattern":
			err = p.Object(func(name string) (err error) {
				if name != "Regex" {
					return p.Errorf("a Split by a %s is not supported; only by a Regex", name)
				}
				pattern, err = p.String()
				return err
			})
		case "behavior":
			behavior, err = p.String()
		case "invert":
			invert, err = p.bool()
		case "add_prefix_space":
			prefix, err = p.bool()
		case "use_regex":
			useRegex, err = p.bool()
		default:
			err = p.Skip()
		}
		return err
	})
	if err != nil {
		return err
	}
	if kind != "Sequence" && p.t.wordSplit != nil {
		return p.Errorf("a pre_tokenizer after ByteLevel is not supported")
	}
	switch kind {
	case "ByteLevel":
		p.t.prefixSpace = prefix
		p.t.wordSplit = splitNothing
		if useRegex {
			p.t.wordSplit = splitGPT2
		}
	case "Split":
		split, known := patterns[pattern]
		switch {
		case behavior != "Isolated" || invert:
			return p.Errorf("a Split of behavior %q, invert %t is not supported; only Isolated, false is", behavior, invert)
		case !known:
			return p.Errorf("a Split by the pattern %.400q is not supported; only those of GPT-2, Llama 3, Qwen 2 and GPT-4o are", pattern)
		case len(p.t.splits) == maxSplits:
			return p.Errorf("a pre_tokenizer of more than %d Splits is not supported", maxSplits)
		}
		p.t.splits = append(p.t.splits, split)
	case "":
		return p.Errorf("a pre_tokenizer without a type")
	}
	if top && p.t.wordSplit == nil {
		return p.Errorf("the pre_tokenizer does not end in ByteLevel: this is not byte-level BPE")
	}
	return nil
}

func (p *parser) bool() (bool, error) {
	switch p.Peek() {
	case 't':
		return true, p.Skip()
	case 'f':
		return false, p.Skip()
	}
	return false, p.Errorf("true or false is expected")
}

// only reads a value that must be one of those given, as it is written.
func (p *parser) only(name string, texts ...string) error {
	raw, err := p.Raw()
	if err != nil {
		return err
	}
	for _, text := range texts {
		if bytes.Equal(raw, []byte(text)) {
			return nil
		}
	}
	return p.Errorf("%s %.60s is not supported; only %s is", name, raw, texts[0])
}

// finish checks what was read and builds the tables from it.
func (p *parser) finish() error {
	t := p.t
	for _, a := range p.added {
		if id, ok := t.ids[a.content]; ok && id != a.id {
			return fmt.Errorf("the added token %q has id %d, and %d elsewhere", a.content, a.id, id)
		}
		t.ids[a.content] = a.id
	}
	if err := t.nameAll(); err != nil {
		return err
	}
	for b := range 256 {
		id, ok := t.ids[string(byteRunes[b])]
		if !ok {
			return fmt.Errorf("no token for byte 0x%02x (%q): this is not byte-level BPE", b, byteRunes[b])
		}
		t.bytes[b] = id
	}
	t.merges = make(map[pair]merge, len(p.merges))
	for i, m := range p.merges {
		left, ok1 := t.ids[m[0]]
		right, ok2 := t.ids[m[1]]
		to, ok3 := t.ids[m[0]+m[1]]
		if !ok1 || !ok2 || !ok3 {
			return fmt.Errorf("merge %d, of %q and %q: these and their join must all be tokens", i, m[0], m[1])
		}
		t.merges[makePair(left, right)] = merge{int32(i), to} // of a pair given twice, the last counts
	}
	var sets [2][]addedToken
	for _, a := range p.added {
		set := 0
		if a.normalized {
			set = 1
			if t.nfc {
				a.content = toNFC(a.content)
				t.text[a.id] = unspell(a.content) // so it is decoded by the library, too
			}
		}
		sets[set] = append(sets[set], a)
	}
	for i, set := range sets {
		t.added[i] = newAddedSet(set)
	}
	for _, name := range endOfText {
		if id, ok := t.ids[name]; ok {
			t.end = id
			break
		}
	}
	return nil
}

// nameAll fills names and text from ids, which must be 0 to len(ids)-1.
func (t *Tokenizer) nameAll() error {
	t.names = make([]string, len(t.ids))
	t.text = make([]string, len(t.ids))
	taken := make([]bool, len(t.ids))
	for name, id := range t.ids {
		if int(id) >= len(t.ids) {
			continue // reported below, as the hole that it leaves
		}
		if taken[id] {
			a, b := min(name, t.names[id]), max(name, t.names[id])
			return fmt.Errorf("the tokens %q and %q have the same id %d", a, b, id)
		}
		taken[id] = true
		t.names[id], t.text[id] = name, unspell(name)
	}
	for id, ok := range taken {
		if !ok {
			return fmt.Errorf("no token has id %d: %d tokens must have the ids 0 to %d", id, len(taken), len(taken)-1)
		}
	}
	return nil
}

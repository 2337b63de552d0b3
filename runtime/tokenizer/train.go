package tokenizer

import (
	"bytes"
	"container/heap"
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"math"
	"slices"
	"strings"
)

// Options says how to learn a tokenizer.
type Options struct {
	VocabSize    int      // tokens, at most
	Special      []string // special tokens, which no text becomes; EndOfText where nil
	MinFrequency int      // a pair that is seen less often becomes no token; 2 where 0
}

// maxVocab is how many tokens can be learned.
const maxVocab = 1 << 20

// train learns a tokenizer and returns its tokenizer.json.
func train(ctx context.Context, docs iter.Seq[string], o Options) ([]byte, error) {
	if o.Special == nil {
		o.Special = []string{EndOfText}
	}
	if o.MinFrequency == 0 {
		o.MinFrequency = 2
	}
	l := learner{ids: map[string]int32{}, pairs: map[pair]*occurrences{}, merged: map[pair]bool{}}
	for _, s := range o.Special {
		if s == "" || len(s) > maxAdded || strings.ToValidUTF8(s, "") != s {
			return nil, fmt.Errorf("the special token %.20q must be valid text of 1 to %d bytes", s, maxAdded)
		}
		if _, dup := l.ids[s]; dup {
			return nil, fmt.Errorf("the special token %q is given twice", s)
		}
		l.token(s)
	}
	for _, c := range slices.Sorted(slices.Values(byteRunes[:])) {
		if _, dup := l.ids[string(c)]; dup {
			return nil, fmt.Errorf("the special token %q is how a single byte is spelled: choose a longer one", string(c))
		}
		l.bytes[runeBytes[c]] = l.token(string(c))
	}
	if o.VocabSize < len(l.names) || o.VocabSize > maxVocab {
		return nil, fmt.Errorf("a vocabulary of %d tokens: it takes %d (256 bytes and %d special tokens) to %d",
			o.VocabSize, len(l.names), len(o.Special), maxVocab)
	}
	counts, err := countWords(ctx, docs)
	if err != nil {
		return nil, err
	}
	if err := l.addWords(counts); err != nil {
		return nil, err
	}
	if err := l.learn(ctx, o); err != nil {
		return nil, err
	}
	return l.file(o.Special), nil
}

func countWords(ctx context.Context, docs iter.Seq[string]) (map[string]int64, error) {
	counts := map[string]*int64{}
	for doc := range docs {
		for n := 0; doc != ""; n++ {
			if n%4096 == 0 {
				if err := ctx.Err(); err != nil {
					return nil, err
				}
			}
			size := splitGPT2(doc)
			if c, ok := counts[doc[:size]]; ok {
				*c++
			} else {
				one := int64(1)
				counts[strings.Clone(doc[:size])] = &one
			}
			doc = doc[size:]
		}
	}
	out := make(map[string]int64, len(counts))
	for word, c := range counts {
		out[word] = *c
	}
	return out, nil
}

// learner holds all distinct words, one after the other, as lists of tokens.
type learner struct {
	ids    map[string]int32
	names  []string
	bytes  [256]int32
	merges [][2]int32
	merged map[pair]bool // a merged pair comes back where a later merge spells one of its tokens again

	symbols []symbol // as in encoding; positions are those in the words
	weights []int32  // by position, the index of its word's count
	counts  []int64  // by word
	pairs   map[pair]*occurrences
	queue   queue
}

// occurrences tells where a pair is or was, and how often it is now.
type occurrences struct {
	count int64
	at    []int32 // positions of the left token
}

func (l *learner) token(name string) int32 {
	id := int32(len(l.names))
	l.ids[name] = id
	l.names = append(l.names, name)
	return id
}

func (l *learner) addWords(counts map[string]int64) error {
	for _, word := range slices.Sorted(maps.Keys(counts)) { // any order that is always the same
		from := len(l.symbols)
		if from+len(word) > math.MaxInt32 {
			return fmt.Errorf("the distinct words of the text have more than %d bytes: learn the tokenizer from less text", math.MaxInt32)
		}
		for i := range len(word) {
			at := int32(from + i)
			l.symbols = append(l.symbols, symbol{l.bytes[word[i]], at - 1, at + 1})
			l.weights = append(l.weights, int32(len(l.counts)))
		}
		l.symbols[from].prev, l.symbols[len(l.symbols)-1].next = -1, -1
		l.counts = append(l.counts, counts[word])
	}
	for at := range l.symbols {
		l.add(int32(at), 1)
	}
	for p, o := range l.pairs {
		l.queue = append(l.queue, queued{o.count, p})
	}
	heap.Init(&l.queue)
	return nil
}

// add counts the pair at a position, if there is one, or with sign -1 takes it back. It returns the pair.
func (l *learner) add(at int32, sign int64) (pair, bool) {
	s := l.symbols[at]
	if s.next < 0 {
		return 0, false
	}
	p := makePair(s.id, l.symbols[s.next].id)
	o := l.pairs[p]
	if o == nil {
		o = &occurrences{}
		l.pairs[p] = o
	}
	o.count += sign * l.counts[l.weights[at]]
	if sign > 0 {
		o.at = append(o.at, at)
	}
	return p, true
}

// learn makes the merges. Each token of text is touched once for each merge that it takes part in, so that long words
// cost no more than short ones.
func (l *learner) learn(ctx context.Context, o Options) error {
	for n := 0; len(l.names) < o.VocabSize && len(l.queue) > 0; n++ {
		if n%64 == 0 {
			if err := ctx.Err(); err != nil {
				return err
			}
		}
		top := l.queue[0]
		found := l.pairs[top.pair]
		if found == nil || found.count != top.count { // noted before it changed
			if found == nil || found.count <= 0 {
				heap.Pop(&l.queue)
			} else {
				l.queue[0].count = found.count
				heap.Fix(&l.queue, 0)
			}
			continue
		}
		if found.count < int64(o.MinFrequency) {
			break
		}
		heap.Pop(&l.queue)
		delete(l.pairs, top.pair)
		l.merge(top.pair, found.at)
	}
	return nil
}

func (l *learner) merge(p pair, at []int32) {
	left, right := int32(p>>32), int32(uint32(p))
	name := l.names[left] + l.names[right]
	id, ok := l.ids[name] // two pairs may spell the same token
	if !ok {
		id = l.token(name)
	}
	if !l.merged[p] {
		l.merged[p] = true
		l.merges = append(l.merges, [2]int32{left, right})
	}
	slices.Sort(at)
	changed := map[pair]bool{}
	for _, i := range slices.Compact(at) {
		s := &l.symbols[i]
		if s.id != left || s.next < 0 || l.symbols[s.next].id != right {
			continue // merged otherwise meanwhile
		}
		if s.prev >= 0 {
			l.add(s.prev, -1)
		}
		l.add(s.next, -1)
		gone := &l.symbols[s.next]
		s.id, s.next = id, gone.next
		gone.id, gone.next = -1, -1
		if s.next >= 0 {
			l.symbols[s.next].prev = i
		}
		if s.prev >= 0 {
			if p, ok := l.add(s.prev, 1); ok {
				changed[p] = true
			}
		}
		if p, ok := l.add(i, 1); ok {
			changed[p] = true
		}
	}
	delete(l.pairs, p) // a run of one token, as in aaaa, took some of it back
	for _, p := range slices.Sorted(maps.Keys(changed)) {
		if o := l.pairs[p]; o != nil && o.count > 0 {
			heap.Push(&l.queue, queued{o.count, p})
		}
	}
}

// queued is a pair with the count that it had.
type queued struct {
	count int64
	pair  pair
}

// queue is a heap: the pair of highest count first, of equals the one of lower ids.
type queue []queued

func (q queue) Len() int { return len(q) }
func (q queue) Less(i, j int) bool {
	return q[i].count > q[j].count || q[i].count == q[j].count && q[i].pair < q[j].pair
}
func (q queue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *queue) Push(x any)   { *q = append(*q, x.(queued)) }
func (q *queue) Pop() any {
	last := len(*q) - 1
	x := (*q)[last]
	*q = (*q)[:last]
	return x
}

// file writes tokenizer.json.
func (l *learner) file(special []string) []byte {
	type token struct {
		ID         int    `json:"id"`
		Content    string `json:"content"`
		SingleWord bool   `json:"single_word"`
		Lstrip     bool   `json:"lstrip"`
		Rstrip     bool   `json:"rstrip"`
		Normalized bool   `json:"normalized"`
		Special    bool   `json:"special"`
	}
	var b bytes.Buffer
	write := func(v any) {
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(v); err != nil {
			panic(err) // strings and numbers
		}
		b.Truncate(b.Len() - 1) // newline
	}
	lines := func(n int, line func(i int)) {
		for i := range n {
			if i > 0 {
				b.WriteString(",")
			}
			b.WriteString("\n      ")
			line(i)
		}
	}
	b.WriteString("{\n  \"version\": \"1.0\",\n  \"truncation\": null,\n  \"padding\": null,\n  \"added_tokens\": [")
	lines(len(special), func(i int) { write(token{ID: i, Content: special[i], Special: true}) })
	b.WriteString(`
  ],
  "normalizer": null,
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
  "post_processor": null,
  "decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
  "model": {
    "type": "BPE",
    "dropout": null,
    "unk_token": null,
    "continuing_subword_prefix": null,
    "end_of_word_suffix": null,
    "fuse_unk": false,
    "byte_fallback": false,
    "ignore_merges": false,
    "vocab": {`)
	lines(len(l.names), func(i int) {
		write(l.names[i])
		fmt.Fprintf(&b, ": %d", i)
	})
	b.WriteString("\n    },\n    \"merges\": [")
	lines(len(l.merges), func(i int) {
		write([2]string{l.names[l.merges[i][0]], l.names[l.merges[i][1]]})
	})
	b.WriteString("\n    ]\n  }\n}\n")
	return b.Bytes()
}

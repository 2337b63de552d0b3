package tokenizer

// pair is two neighbouring tokens, the left one in the high half.
type pair uint64

func makePair(left, right int32) pair { return pair(uint32(left))<<32 | pair(uint32(right)) }

// merge is what a pair becomes.
type merge struct{ rank, id int32 }

// merger encodes words. Its slices are kept from one word to the next.
type merger struct {
	symbols []symbol
	heap    []candidate
}

// symbol is a token of the word that is being merged, in a list from left to right.
type symbol struct {
	id         int32 // -1 once merged into the one on its left
	prev, next int32 // -1 at the ends
}

// candidate is a merge that was possible when it was noted: of lowest rank, then leftmost, goes first.
type candidate struct{ rank, left, id int32 }

func (a candidate) before(b candidate) bool {
	return a.rank < b.rank || a.rank == b.rank && a.left < b.left
}

// merge appends the tokens of a word: from single bytes, the possible merge of lowest rank is made until there is none.
// A word of n bytes takes O(n log n).
func (m *merger) merge(t *Tokenizer, word string, out []int32) []int32 {
	if t.ignoreMerges {
		if id, ok := t.ids[spell(word)]; ok {
			return append(out, id)
		}
	}
	m.symbols, m.heap = m.symbols[:0], m.heap[:0]
	for i := range len(word) {
		m.symbols = append(m.symbols, symbol{t.bytes[word[i]], int32(i) - 1, int32(i) + 1})
	}
	m.symbols[len(word)-1].next = -1
	for i := range len(word) - 1 {
		m.note(t, int32(i))
	}
	for len(m.heap) > 0 {
		c := m.pop()
		left := &m.symbols[c.left]
		if left.id < 0 || left.next < 0 {
			continue
		}
		right := &m.symbols[left.next]
		if to, ok := t.merges[makePair(left.id, right.id)]; !ok || to.id != c.id {
			continue // noted before one of the two changed
		}
		left.id, left.next, right.id = c.id, right.next, -1
		if left.next >= 0 {
			m.symbols[left.next].prev = c.left
			m.note(t, c.left)
		}
		if left.prev >= 0 {
			m.note(t, left.prev)
		}
	}
	for i := int32(0); i >= 0; i = m.symbols[i].next {
		out = append(out, m.symbols[i].id)
	}
	return out
}

// note adds the merge of a symbol with the one on its right, if there is such a merge.
func (m *merger) note(t *Tokenizer, left int32) {
	s := m.symbols[left]
	to, ok := t.merges[makePair(s.id, m.symbols[s.next].id)]
	if !ok {
		return
	}
	c := candidate{to.rank, left, to.id}
	i := len(m.heap)
	m.heap = append(m.heap, c)
	for i > 0 {
		up := (i - 1) / 2
		if !c.before(m.heap[up]) {
			break
		}
		m.heap[i] = m.heap[up]
		i = up
	}
	m.heap[i] = c
}

func (m *merger) pop() candidate {
	top := m.heap[0]
	last := len(m.heap) - 1
	c := m.heap[last]
	m.heap = m.heap[:last]
	i := 0
	for {
		down := 2*i + 1
		if down >= last {
			break
		}
		if down+1 < last && m.heap[down+1].before(m.heap[down]) {
			down++
		}
		if !m.heap[down].before(c) {
			break
		}
		m.heap[i] = m.heap[down]
		i = down
	}
	if last > 0 {
		m.heap[i] = c
	}
	return top
}

package cpu

// Cache holds the keys and values of every position of every slot, each [Slots][MaxT][Width] with
// Width = KVHeads*HeadDim. A slot serves one sequence.
type Cache struct {
	K, V               []float32
	Slots, MaxT, Width int
}

// AttentionCached is Attention for generation. Row n of q, k, v and o is the token at position positions[n] of slot
// slots[n]. Every row's k and v are stored in the cache first; then each row attends to the stored positions that Mask
// allows, from 0 to the last one that this call stored for its slot. Any mixture of whole prompts and single tokens will do;
// consecutive positions of a slot in consecutive rows are computed together. a.Batch, a.T and dropout are not used.
// Slots and positions must lie within the cache. A row's result depends on the rows of its own slot alone.
func AttentionCached(p *Pool, o, q, k, v Mat, cache Cache, positions, slots []int32, a *AttentionParams) {
	t := &p.attentionCached
	t.AttentionParams, t.o, t.q, t.cache = *a, o, q, cache
	t.Dropout, t.tiling = 0, p.tiling()
	t.plan(positions, slots)
	p.note("AttentionCached", cost{bytes: moved(o, q, k, v, k, v)})
	p.cacheWrite = cacheWrite{k: k, v: v, to: t}
	p.run(&p.cacheWrite, len(t.runs))
	p.run(t, len(t.runs)*a.KVHeads)
}

type attentionCached struct {
	AttentionParams
	o, q   Mat
	cache  Cache
	runs   []run // kept from call to call, as is stored
	stored []int // [slot] one more than the last position that this call stores
}

// run is a stretch of at most queryTile rows at consecutive positions of one slot.
type run struct{ row, n, slot, position int }

// cacheWrite stores keys and values, a part for each run.
type cacheWrite struct {
	k, v Mat
	to   *attentionCached
}

func (k *cacheWrite) part(i int, _ *scratch) {
	r, c := k.to.runs[i], &k.to.cache
	for n := range r.n {
		at := (r.slot*c.MaxT + r.position + n) * c.Width
		copy(c.K[at:at+c.Width], k.k.Row(r.row+n))
		copy(c.V[at:at+c.Width], k.v.Row(r.row+n))
	}
}

// part computes the query heads of one key-value head, for one run of rows: head by head where the run is long, all
// heads at once where it is a single row.
func (t *attentionCached) part(i int, s *scratch) {
	r, kv := t.runs[i/t.KVHeads], i%t.KVHeads
	group := t.Heads / t.KVHeads
	keys, values := t.cache.head(t.cache.K, r.slot, kv, t.HeadDim, t.stored[r.slot]), t.cache.head(t.cache.V, r.slot, kv, t.HeadDim, t.stored[r.slot])
	if r.n > 1 {
		for h := kv * group; h < (kv+1)*group; h++ {
			rows := queries{n: r.n, head: h, position: r.position, step: 1}
			t.attend(rows, s, nil, t.head(t.o, h).RowRange(r.row, r.row+r.n), t.head(t.q, h).RowRange(r.row, r.row+r.n), keys, values)
		}
		return
	}
	for h := kv * group; h < (kv+1)*group; h += queryTile {
		n := min(queryTile, (kv+1)*group-h)
		rows := queries{n: n, head: h, position: r.position}
		t.attend(rows, s, nil, t.heads(t.o, r.row, h, n), t.heads(t.q, r.row, h, n), keys, values)
	}
}

// heads views n heads of one row as the rows of a matrix.
func (a *AttentionParams) heads(m Mat, row, h, n int) Mat {
	return NewMat(m.Row(row)[h*a.HeadDim:], n, a.HeadDim)
}

// head views the first n positions of a head in a slot.
func (c *Cache) head(data []float32, slot, h, dim, n int) Mat {
	all := Mat{Data: data[slot*c.MaxT*c.Width:], Rows: n, Cols: c.Width, Stride: c.Width}
	return all.Columns(h*dim, (h+1)*dim)
}

// plan cuts the rows into runs. It does not depend on the number of workers.
func (t *attentionCached) plan(positions, slots []int32) {
	t.runs = t.runs[:0]
	if len(t.stored) < t.cache.Slots {
		t.stored = make([]int, t.cache.Slots)
	}
	clear(t.stored)
	for n, slot := range slots {
		position := int(positions[n])
		t.stored[slot] = max(t.stored[slot], position+1)
		if l := len(t.runs); l > 0 {
			last := &t.runs[l-1]
			if last.slot == int(slot) && last.position+last.n == position && last.n < queryTile {
				last.n++
				continue
			}
		}
		t.runs = append(t.runs, run{row: n, n: 1, slot: int(slot), position: position})
	}
}

package cpu

import "github.com/tfc-dev/tfc/runtime/mask"

// AttentionCached is Attention for generation. Row n of q, k, v and o is the token at position positions[n] of slot
// slots[n]. Every row's k and v are stored in the cache first, in its element type; then each row attends to the stored
// positions that Mask allows, from 0 to the last one that this call stored for its slot. Any mixture of whole prompts and
// single tokens will do; consecutive positions of a slot in consecutive rows are computed together. a.Batch, a.T and dropout
// are not used. Slots and positions must lie within the cache. A row's result depends on the rows of its own slot alone.
func AttentionCached(p *Pool, o, q, k, v Mat, cache *Cache, positions, slots []int32, a *AttentionParams) {
	t := &p.attentionCached
	t.AttentionParams, t.o, t.q, t.k, t.v, t.cache = *a, o, q, k, v, cache
	t.Dropout = 0
	t.plan(positions, slots)
	p.note("AttentionCached", t.cost())
	if !t.alone {
		p.run((*cacheWrite)(t), len(t.runs)*a.KVHeads)
	}
	p.run(t, len(t.runs)*a.KVHeads)
}

// cost counts what is stored, read and multiplied.
func (t *attentionCached) cost() cost {
	seen, pairs := 0, 0
	for _, r := range t.runs {
		seen += t.stored[r.slot]
		pairs += r.n * t.stored[r.slot]
	}
	element := float64(blockBytes / t.cache.block())
	return cost{
		bytes: moved(t.o, t.q, t.k, t.v) + 2*element*float64((seen+t.k.Rows)*t.KVHeads*t.HeadDim),
		flops: 4 * float64(pairs*t.Heads*t.HeadDim), in: "f32",
	}
}

type attentionCached struct {
	AttentionParams
	o, q, k, v Mat
	cache      *Cache
	runs       []run // kept from call to call, as is stored
	stored     []int // [slot] one more than the last position that this call stores
	alone      bool  // no two runs are of one slot: each may store what it needs itself
}

// run is a stretch of at most runRows rows at consecutive positions of one slot.
type run struct{ row, n, slot, position int }

const (
	runRows    = 32 // rows of a prompt that one part computes
	attendRows = 8  // rows in the largest tile
)

// cacheWrite stores keys and values, a part for each head of each run.
type cacheWrite attentionCached

func (k *cacheWrite) part(i int, s *scratch) {
	t := (*attentionCached)(k)
	t.store(t.runs[i/t.KVHeads], i%t.KVHeads, s)
}

func (t *attentionCached) store(r run, kv int, s *scratch) {
	k, v := t.head(t.k, kv), t.head(t.v, kv)
	for n := range r.n {
		t.cache.store(r.slot, kv, r.position+n, k.Row(r.row+n), v.Row(r.row+n), s)
	}
}

// part computes the query heads of one key-value head, for one run of rows: head by head where the run is long, all
// heads at once where it is a single row.
func (t *attentionCached) part(i int, s *scratch) {
	r, kv := t.runs[i/t.KVHeads], i%t.KVHeads
	group := t.Heads / t.KVHeads
	if t.alone {
		t.store(r, kv, s)
	}
	if r.n == 1 {
		t.tiles(queries{n: group, head: kv * group, position: r.position}, r, kv, t.heads(t.o, r.row, kv*group, group), t.heads(t.q, r.row, kv*group, group), s)
		return
	}
	for h := kv * group; h < (kv+1)*group; h++ {
		t.tiles(queries{n: r.n, head: h, position: r.position, step: 1}, r, kv, t.head(t.o, h).RowRange(r.row, r.row+r.n), t.head(t.q, h).RowRange(r.row, r.row+r.n), s)
	}
}

// heads views n heads of one row as the rows of a matrix.
func (a *AttentionParams) heads(m Mat, row, h, n int) Mat {
	return NewMat(m.Row(row)[h*a.HeadDim:], n, a.HeadDim)
}

// tiles cuts query rows into as many as a kernel takes.
func (t *attentionCached) tiles(rows queries, r run, kv int, o, q Mat, s *scratch) {
	kernels := &active.attend.f32
	if t.cache.bf16 {
		kernels = &active.attend.bf16
	}
	for i := 0; i < rows.n; {
		k := 0
		for kernels.rows[k] > rows.n-i {
			k++
		}
		n := kernels.rows[k]
		part := queries{n: n, step: rows.step}
		part.head, part.position = rows.at(i)
		t.tile(kernels.kernels[k], part, r.slot, kv, o.RowRange(i, i+n), q.RowRange(i, i+n), s)
		i += n
	}
}

// tile computes the output of as many rows as kernel takes, with a running softmax as attend does.
func (t *attentionCached) tile(kernel attendKernel, rows queries, slot, kv int, o, q Mat, s *scratch) {
	c, n := t.cache, rows.n
	wide := c.valueBlocks() * c.block()
	buf := s.floats(attendRows * (spanLine + t.HeadDim + wide + 2))
	scaled, buf := NewMat(buf, n, t.HeadDim), buf[attendRows*t.HeadDim:]
	sums, buf := buf[:n*wide], buf[attendRows*wide:]
	top, sum := buf[:n], buf[attendRows:][:n] // of each row's scores so far
	probs := Mat{Data: buf[2*attendRows:], Rows: n, Stride: spanLine}
	for r := range n {
		top[r], sum[r] = -inf, 0
		scaleTo(scaled.Row(r), q.Row(r), t.Scale)
	}
	stored := t.stored[slot]
	first := true
	for j := 0; j < stored; {
		var covers [spanTiles]mask.Cover
		keys := t.span(&covers, rows, j, stored)
		if keys == 0 {
			j += keyTile
			continue
		}
		for b := 0; b < keys; b += c.block() {
			kernel(1, t.HeadDim, c.keys(slot, kv, j+b), blockBytes, &scaled.Data[0], t.HeadDim*4, &probs.Data[b], spanLine*4)
		}
		probs.Cols = keys
		for r := range n {
			row := probs.Row(r)
			t.score(row, rows, r, j, &covers, nil)
			high := maxOf(row)
			if high == -inf {
				clear(row)
				continue
			}
			if high > top[r] {
				old := exp32(top[r] - high)
				top[r] = high
				sum[r] *= old
				if !first {
					out := o.Row(r)
					scaleTo(out, out, old)
				}
			}
			sum[r] += expRow(row, row, top[r])
		}
		kernel(c.valueBlocks(), keys, c.values(slot, kv, j), c.valueBlocks()*blockBytes, &probs.Data[0], spanLine*4, &sums[0], wide*4)
		for r := range n {
			out, more := o.Row(r), sums[r*wide:][:t.HeadDim]
			if first {
				copy(out, more)
			} else {
				addTo(out, out, more)
			}
		}
		first = false
		j += keys
	}
	for r := range n {
		out := o.Row(r)
		if sum[r] == 0 {
			clear(out)
		} else {
			scaleTo(out, out, 1/sum[r])
		}
	}
}

// plan cuts the rows into runs. It does not depend on the number of workers.
func (t *attentionCached) plan(positions, slots []int32) {
	t.runs = t.runs[:0]
	if len(t.stored) < t.cache.slots {
		t.stored = make([]int, t.cache.slots)
	}
	clear(t.stored)
	t.alone = true
	for n, slot := range slots {
		position := int(positions[n])
		seen := t.stored[slot] > 0
		t.stored[slot] = max(t.stored[slot], position+1)
		if l := len(t.runs); l > 0 {
			last := &t.runs[l-1]
			if last.slot == int(slot) && last.position+last.n == position && last.n < runRows {
				last.n++
				continue
			}
		}
		t.alone = t.alone && !seen
		t.runs = append(t.runs, run{row: n, n: 1, slot: int(slot), position: position})
	}
}

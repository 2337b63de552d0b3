package passes

import (
	"fmt"
	"slices"
	"sort"
	"strings"

	"github.com/tfc-dev/tfc/ir"
)

// align is where buffers start and rows of slots end: a cache line.
const align = 64

// planMemory gives every value that needs memory a place: first which values share a buffer (views of one matrix,
// results written over a dead argument, what a loop hands from one iteration to the next), then how long each buffer
// lives, then offsets: largest first into the lowest gap (Pisarchyk and Lee, arXiv 2001.03288, greedy by size).
// Scalars are variables of the generated code, not memory.
func planMemory(f *ir.Func, _ Options) (int, error) {
	p := newPlanner(f)
	p.share(f.Body)
	if p.err != nil {
		return 0, p.err
	}
	p.lifetimes()
	f.Plan = p.pack()
	return len(f.Plan.Buffers), nil
}

// storage is the buffer in the making that values share.
type storage struct {
	name        string
	bytes       int // of one slot
	slots       int
	home        *ir.Block // the block whose ops its life is counted in
	ring        bool      // passes from one iteration of a loop to the next
	first, last int
	members     []*ir.Value
}

// spot is a value's place in the making.
type spot struct {
	in     *storage
	column int
	stride int
	loop   *ir.Loop
	shift  int
}

type planner struct {
	f       *ir.Func
	uses    map[*ir.Value][]*ir.Op
	foreign map[*ir.Value]bool // read by a later loop, by its own index
	when    map[*ir.Op][2]int  // the times at which an op starts and ends
	spots   map[*ir.Value]*spot
	err     error // why there is no plan
}

func newPlanner(f *ir.Func) *planner {
	p := &planner{f: f, uses: f.Uses(), foreign: map[*ir.Value]bool{}, when: ir.Times(f), spots: map[*ir.Value]*spot{}}
	f.Walk(func(op *ir.Op) {
		for _, a := range op.Args {
			if a != nil && a.Block != nil && !a.Block.Encloses(op.Block) {
				p.foreign[a] = true
			}
		}
	})
	return p
}

// needs says whether v takes memory: it has rows, and some op reads it or its kernel cannot do without it.
func (p *planner) needs(v *ir.Value) bool {
	return v.Block != nil && len(v.Type.Dims) > 0 && (len(p.uses[v]) > 0 || workspace(v))
}

func workspace(v *ir.Value) bool {
	if v.Op == nil || v.Op.Loop != nil {
		return false
	}
	names := ir.Table[v.Op.Kind].Results
	for i, r := range v.Op.Results {
		if r == v && i < len(names) {
			// A kernel with several results works row by row of the first, whoever reads it.
			return i == 0 && len(v.Op.Results) > 1 || strings.HasSuffix(names[i], "!")
		}
	}
	return false
}

func roundUp(n, to int) int { return (n + to - 1) / to * to }

// own gives v a storage of its own.
func (p *planner) own(v *ir.Value) *spot {
	s := &storage{name: v.Name, bytes: roundUp(v.Type.Elems()*v.Type.DType.Bytes(), align), slots: 1, home: v.Block}
	return p.put(v, &spot{in: s, stride: v.Type.Cols()})
}

func (p *planner) put(v *ir.Value, s *spot) *spot {
	p.spots[v] = s
	s.in.members = append(s.in.members, v)
	return s
}

// whole says whether v is all that its storage's slots hold.
func (p *planner) whole(v *ir.Value) bool {
	s := p.spots[v]
	return s.column == 0 && s.stride == v.Type.Cols()
}

// lastUse returns the time, in block b's ops, after which v is not read; its definition's time when nobody reads it.
func (p *planner) lastUse(v *ir.Value, b *ir.Block) int {
	last := -1
	if v.Op != nil {
		last = p.when[v.Op][0]
	}
	for _, u := range p.uses[v] {
		last = max(last, p.readAt(u, b))
	}
	return last
}

// readAt returns when op u's read is over, seen from block b: a loop inside b that holds u must end first.
// A nil op is the function's return.
func (p *planner) readAt(u *ir.Op, b *ir.Block) int {
	if u == nil {
		return 1 << 30
	}
	if u.Loop != nil && u.Loop.Body == b {
		return p.when[u][1] // b's own loop yields it
	}
	if u.Block == b {
		if u.Loop != nil {
			return p.when[u][1] // the loop's start values and yields: until it ends
		}
		return p.when[u][0]
	}
	for u.Block != nil && u.Block != b {
		if u.Block.Loop == nil {
			return 1 << 30 // read outside of b: v is no value of b's own
		}
		u = u.Block.Loop
	}
	return p.when[u][1]
}

func (p *planner) share(b *ir.Block) {
	for _, op := range b.Ops {
		switch {
		case op.Loop != nil:
			p.loop(op)
		case op.Kind == "split":
			p.split(op)
		case op.Kind == "concat":
			if p.needs(op.Result()) {
				p.concat(op)
			}
		default:
			for i, r := range op.Results {
				if !p.needs(r) || i == 0 && p.inPlace(op, r) {
					continue
				}
				p.own(r)
			}
		}
	}
}

// split makes the parts views of the whole.
func (p *planner) split(op *ir.Op) {
	s := p.spots[op.Args[0]]
	column := s.column
	for _, r := range op.Results {
		if p.needs(r) {
			p.put(r, &spot{in: s.in, column: column, stride: s.stride, loop: s.loop, shift: s.shift})
		}
		column += r.Type.Cols()
	}
}

// concat makes its operands, where they live by themselves, columns of the result; the others are copied by the op.
func (p *planner) concat(op *ir.Op) {
	r := p.own(op.Result())
	column := 0
	for _, a := range op.Args {
		if s := p.spots[a]; s != nil && a.Block == op.Block && !s.in.ring && !p.foreign[a] && p.whole(a) && p.lastUse(a, op.Block) <= p.when[op][0] && p.sameWidth(s.in, a) {
			for _, m := range s.in.members {
				ms := p.spots[m]
				ms.column, ms.stride = column, r.stride
				ms.in = r.in
				r.in.members = append(r.in.members, m)
			}
		}
		column += a.Type.Cols()
	}
}

// sameWidth says whether every value of s is as wide as v and lives in the same block: s can become columns of another.
func (p *planner) sameWidth(s *storage, v *ir.Value) bool {
	for _, m := range s.members {
		if m.Type.Cols() != v.Type.Cols() || m.Block != v.Block || p.foreign[m] {
			return false
		}
	}
	return true
}

// inPlace lets r take the memory of an argument that dies here, if the op's row allows it.
func (p *planner) inPlace(op *ir.Op, r *ir.Value) bool {
	for _, i := range ir.Table[op.Kind].InPlace {
		a := op.Args[i]
		s := p.spots[a]
		if s == nil || a.Block != op.Block || p.foreign[a] || s.in.ring && p.anyForeign(s.in) || !a.Type.Same(r.Type) || p.lastUse(a, op.Block) > p.when[op][0] {
			continue
		}
		if p.overlapsLive(a, op) {
			continue
		}
		same := false // another operand in the same memory would be overwritten while it is read
		for j, other := range op.Args {
			if j != i && other != nil && p.spots[other] != nil && p.spots[other].in == s.in && p.touch(a, other) {
				same = true
			}
		}
		if same {
			continue
		}
		p.put(r, &spot{in: s.in, column: s.column, stride: s.stride, loop: s.loop, shift: s.shift})
		return true
	}
	return false
}

// touch says whether the columns of two values in one storage overlap, in the same slot.
func (p *planner) touch(a, b *ir.Value) bool {
	s, t := p.spots[a], p.spots[b]
	return s.loop == t.loop && s.shift == t.shift && s.column < t.column+b.Type.Cols() && t.column < s.column+a.Type.Cols()
}

// anyForeign says whether a later loop reads some value of s.
func (p *planner) anyForeign(s *storage) bool {
	for _, m := range s.members {
		if p.foreign[m] {
			return true
		}
	}
	return false
}

// overlapsLive says whether a's memory holds another value that is read after op: the whole a is a view of, or a value
// of before that a later loop reads.
func (p *planner) overlapsLive(a *ir.Value, op *ir.Op) bool {
	for _, m := range p.spots[a].in.members {
		if m == a || !p.touch(a, m) {
			continue
		}
		if p.foreign[m] || m.Block == op.Block && p.lastUse(m, op.Block) > p.when[op][0] {
			return true
		}
	}
	return false
}

// loop places what a loop carries, then what its body computes.
func (p *planner) loop(op *ir.Op) {
	l := op.Loop
	for _, c := range l.Carries {
		if len(c.Type.Dims) > 0 { // a carry has a place even if only its yield matters
			s := p.own(c)
			s.in.home, s.in.ring, s.loop = op.Block, true, l
		}
	}
	p.share(l.Body)
	several := p.placedCarries(l) > 1 // their next values are copied one by one, never over one that is still to be read
	for i, c := range l.Carries {
		if len(c.Type.Dims) == 0 {
			continue
		}
		s, y := p.spots[c], l.Yield[i]
		ys := p.spots[y]
		switch {
		case ys != nil && ys.in == s.in && ys.column == s.column && ys.shift == s.shift:
			// The body writes the next value over this one: one slot.
		case p.joins(op, i):
			s.in.slots = p.ringSlots(l, c, y)
			for _, m := range ys.in.members {
				ms := p.spots[m]
				ms.in, ms.loop, ms.shift = s.in, l, 1
				s.in.members = append(s.in.members, m)
			}
		case p.foreign[c]: // the next value is copied at the end of each iteration
			s.in.slots = l.Iterations() + 1
		}
		if several && s.in.slots == 1 {
			s.in.slots = 2
		}
		if r := op.Results[i]; p.needs(r) {
			p.put(r, &spot{in: s.in, stride: s.stride, shift: p.lastSlot(op, i)})
		}
		p.start(op, i)
	}
}

// placedCarries counts the carries of l that take memory.
func (p *planner) placedCarries(l *ir.Loop) (n int) {
	for _, c := range l.Carries {
		if p.spots[c] != nil {
			n++
		}
	}
	return n
}

// lastSlot returns the slot that holds carry i's value when the loop has ended. It must be one for all segments, of
// which the last may be shorter.
func (p *planner) lastSlot(op *ir.Op, i int) int {
	slots := p.spots[op.Loop.Carries[i]].in.slots
	if op.Loop.Within != "" && slots > 1 && p.err == nil {
		p.err = fmt.Errorf("%s: the end of %v has no place of its own in a segment that may be shorter", ir.PrintOp(op), op.Results[i])
	}
	return op.Loop.Iterations() % slots
}

// ringSlots returns how many values of carry c, whose next is y, live at once: all where a later loop reads them, one
// where c and what was written over it are dead before y is written, two in turns otherwise.
func (p *planner) ringSlots(l *ir.Loop, c, y *ir.Value) int {
	ring, next := p.spots[c].in, p.spots[y].in
	if p.foreign[c] || p.anyForeign(next) {
		return l.Iterations() + 1
	}
	for _, m := range ring.members {
		if p.lastUse(m, l.Body) >= p.firstWrite(next) {
			return 2
		}
	}
	return 1
}

// joins says whether the next value of carry i may live in the carry's ring: a value of the body, alone in its storage.
func (p *planner) joins(op *ir.Op, i int) bool {
	l := op.Loop
	y := l.Yield[i]
	ys := p.spots[y]
	if ys == nil || y.Block != l.Body || ys.in.ring || !p.whole(y) {
		return false
	}
	for j, other := range l.Yield {
		if j != i && other == y {
			return false
		}
	}
	for _, m := range ys.in.members {
		if m.Block != l.Body || m.Type.Cols() != y.Type.Cols() {
			return false
		}
	}
	// The last segment may be shorter than the others: where its loop's result is read, it must be in a known slot.
	return l.Within == "" || !p.needs(op.Results[i]) || p.ringSlots(l, l.Carries[i], y) == 1
}

func (p *planner) firstWrite(s *storage) int {
	first := 1 << 30
	for _, m := range s.members {
		if m.Op != nil {
			first = min(first, p.when[m.Op][0])
		}
	}
	return first
}

// start lets the value a carry starts from be written to the ring at once, where it dies with the loop's start and is
// alone in its storage; otherwise the loop copies it.
func (p *planner) start(op *ir.Op, i int) {
	v, s := op.Args[i], p.spots[op.Loop.Carries[i]]
	vs := p.spots[v]
	if vs == nil || v.Block != op.Block || vs.in.ring || p.foreign[v] || !p.whole(v) || len(p.uses[v]) != 1 {
		return
	}
	for _, m := range vs.in.members {
		if m.Block != op.Block || m.Type.Cols() != v.Type.Cols() || p.foreign[m] || p.lastUse(m, op.Block) > p.when[op][1] {
			return
		}
	}
	for _, m := range vs.in.members {
		ms := p.spots[m]
		ms.in, ms.loop, ms.shift = s.in, nil, 0
		s.in.members = append(s.in.members, m)
	}
}

// storages lists the storages in use, in the order of the values in the program.
func (p *planner) storages() []*storage {
	var list []*storage
	seen := map[*storage]bool{}
	add := func(v *ir.Value) {
		if s := p.spots[v]; s != nil && !seen[s.in] {
			seen[s.in] = true
			list = append(list, s.in)
		}
	}
	p.f.Walk(func(op *ir.Op) {
		if op.Loop != nil {
			for _, c := range op.Loop.Carries {
				add(c)
			}
		}
		for _, r := range op.Results {
			add(r)
		}
	})
	return list
}

// lifetimes counts how long each storage is needed, in the ops of its home block; one that keeps an instance for each
// iteration lives at home outside of the loop, from the loop's start to the end of the last loop that reads it.
func (p *planner) lifetimes() {
	for _, s := range p.storages() {
		for _, m := range s.members {
			if p.foreign[m] && !s.ring {
				l := m.Block.Loop.Loop
				if s.home == m.Block {
					s.home, s.slots = m.Block.Parent(), l.Iterations()
				}
				for _, other := range s.members {
					p.spots[other].loop = l
				}
			}
		}
		s.first, s.last = 1<<30, -1
		for _, m := range s.members {
			first, last := p.life(m, s.home)
			s.first, s.last = min(s.first, first), max(s.last, last)
		}
	}
}

// life returns the first write and last read of v, seen from block home.
func (p *planner) life(v *ir.Value, home *ir.Block) (first, last int) {
	first, last = 1<<30, -1
	at := v.Op
	if at == nil { // a carry: from its loop's start
		at = v.Block.Loop
	}
	if at.Loop != nil && at.Block == home && v.Op != nil { // a loop's result: written as the loop ends
		first, last = p.when[at][1], p.when[at][1]
	} else {
		for at.Block != home {
			at = at.Block.Loop
		}
		first, last = p.when[at][0], p.when[at][1]
		if at.Loop == nil {
			last = first
		}
	}
	for _, u := range p.uses[v] {
		last = max(last, p.readAt(u, home))
	}
	return first, last
}

// pack gives the storages their offsets.
func (p *planner) pack() *ir.Plan {
	plan := &ir.Plan{Places: map[*ir.Value]ir.Place{}}
	buffer := map[*storage]*ir.Buffer{}
	for _, s := range p.storages() {
		b := &ir.Buffer{Name: s.name, Slot: s.bytes, Slots: s.slots, First: s.first, Last: s.last}
		buffer[s] = b
		plan.Buffers = append(plan.Buffers, b)
	}
	plan.Bytes = arrange(plan.Buffers)
	for v, s := range p.spots {
		plan.Places[v] = ir.Place{Buffer: buffer[s.in], Column: s.column, Stride: s.stride, Loop: s.loop, Shift: s.shift}
	}
	return plan
}

// rounds is how often arrange tries again.
const rounds = 8

// arrange gives the buffers offsets and returns where the last one ends. They are placed largest first, each in the
// lowest gap; where this takes more than the buffers that live at one time need, those that stick out go first in
// another round. The best round stands.
func arrange(buffers []*ir.Buffer) int {
	order := append([]*ir.Buffer(nil), buffers...)
	sort.SliceStable(order, func(i, j int) bool { return order[i].Bytes() > order[j].Bytes() })
	floor, best := mostAlive(buffers), 0
	offsets := make([]int, len(buffers))
	for round := range rounds {
		size := placeInOrder(order)
		if round == 0 || size < best {
			best = size
			for i, b := range buffers {
				offsets[i] = b.Offset
			}
		}
		if best == floor {
			break
		}
		sort.SliceStable(order, func(i, j int) bool {
			return order[i].Offset+order[i].Bytes() > floor && order[j].Offset+order[j].Bytes() <= floor
		})
	}
	for i, b := range buffers {
		b.Offset = offsets[i]
	}
	return best
}

// placeInOrder gives each buffer the lowest offset that those before it leave free while it lives.
func placeInOrder(order []*ir.Buffer) (size int) {
	var placed []*ir.Buffer // by offset
	for _, b := range order {
		at := 0
		for _, q := range placed {
			if q.First > b.Last || b.First > q.Last {
				continue
			}
			if at+b.Bytes() <= q.Offset {
				break
			}
			at = max(at, q.Offset+q.Bytes())
		}
		b.Offset = at
		size = max(size, at+b.Bytes())
		i := sort.Search(len(placed), func(i int) bool { return placed[i].Offset > at })
		placed = slices.Insert(placed, i, b)
	}
	return size
}

// mostAlive returns the most bytes that live at one time: no arrangement is smaller.
func mostAlive(buffers []*ir.Buffer) int {
	starts := append([]*ir.Buffer(nil), buffers...)
	ends := append([]*ir.Buffer(nil), buffers...)
	sort.Slice(starts, func(i, j int) bool { return starts[i].First < starts[j].First })
	sort.Slice(ends, func(i, j int) bool { return ends[i].Last < ends[j].Last })
	most, alive, ended := 0, 0, 0
	for _, b := range starts {
		for ends[ended].Last < b.First {
			alive -= ends[ended].Bytes()
			ended++
		}
		alive += b.Bytes()
		most = max(most, alive)
	}
	return most
}

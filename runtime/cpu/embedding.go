package cpu

// Embed writes row r of y as scale times row ids[r] of table. Every id must be a row of table.
func Embed(p *Pool, y, table Mat, ids []int32, scale float32) {
	p.note("Embed", cost{bytes: 2 * moved(y)}) // as many rows of the table
	p.runRows(y.Rows, y.Cols, rowwise{row: rowEmbed, y: y, a: table, ids: ids, scale: scale})
}

func rowEmbed(k *rowwise, r int, _ *scratch) { scaleTo(k.y.Row(r), k.a.Row(int(k.ids[r])), k.scale) }

// AddPositions writes row r of y as row r of x plus row positions[r] of table. y may be x.
func AddPositions(p *Pool, y, x, table Mat, positions []int32) {
	p.note("AddPositions", cost{bytes: moved(y, x)})
	p.runRows(y.Rows, y.Cols, rowwise{row: rowAddPositions, y: y, a: x, b: table, ids: positions})
}

func rowAddPositions(k *rowwise, r int, _ *scratch) {
	addTo(k.y.Row(r), k.a.Row(r), k.b.Row(int(k.ids[r])))
}

// EmbedGrad adds scale times row r of dy to row ids[r] of dtable, in the order of r.
func EmbedGrad(p *Pool, dtable, dy Mat, ids []int32, scale float32) {
	p.note("EmbedGrad", cost{bytes: moved(dy)})
	p.embedGrad = embedGrad{dtable: dtable, dy: dy, ids: ids, scale: scale}
	p.run(&p.embedGrad, (dy.Cols+embedColumns-1)/embedColumns)
}

// PositionsGrad adds row r of dy to row positions[r] of dtable, in the order of r.
func PositionsGrad(p *Pool, dtable, dy Mat, positions []int32) {
	EmbedGrad(p, dtable, dy, positions, 1)
}

// embedColumns is the number of columns that one part owns: two parts never write one element, nor one cache line
// where rows start at one.
const embedColumns = 32

type embedGrad struct {
	dtable, dy Mat
	ids        []int32
	scale      float32
}

func (k *embedGrad) part(i int, _ *scratch) {
	from, to := i*embedColumns, min((i+1)*embedColumns, k.dy.Cols)
	for r := range k.dy.Rows {
		d := k.dtable.Row(int(k.ids[r]))[from:to]
		addScaledTo(d, d, k.dy.Row(r)[from:to], k.scale)
	}
}

package compile

import (
	"fmt"
	"html"
	"io"
	"strings"
)

// colours of the categories, told apart by people who see colours differently (Wong, Nature Methods 8, 441, 2011).
var colours = map[string]string{keptForward: "#0072b2", forward: "#56b4e9", backward: "#e69f00"}

// MemorySVG draws the arena of a report: every buffer as a rectangle over the ops it lives through and the addresses
// it takes. Hovering over one names it.
func MemorySVG(w io.Writer, r *Report) error {
	const width, height, left, top, bottom = 960, 540, 90, 50, 50
	m := &r.Memory
	x := func(t int) float64 { return left + float64(t)/float64(max(1, m.Times))*(width-left-20) }
	y := func(at int) float64 {
		return height - bottom - float64(at)/float64(max(1, m.Arena))*(height-top-bottom)
	}
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", width, height)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="#ffffff"/>`+"\n", width, height)
	fmt.Fprintf(&b, `<text x="%d" y="20" font-size="15">%s %s on %s: an arena of %s</text>`+"\n", left, html.EscapeString(r.Name), r.Job, r.Target, FormatBytes(m.Arena))
	at := left
	for _, c := range m.Categories {
		fmt.Fprintf(&b, `<rect x="%d" y="30" width="12" height="12" fill="%s"/><text x="%d" y="40">%s</text>`+"\n", at, colours[c.Name], at+17, c.Name)
		at += 40 + 7*len(c.Name)
	}
	for i := range 5 {
		mark := m.Arena * i / 4
		fmt.Fprintf(&b, `<line x1="%d" y1="%.1f" x2="%d" y2="%.1f" stroke="#dddddd"/>`, left, y(mark), width-20, y(mark))
		fmt.Fprintf(&b, `<text x="%d" y="%.1f" text-anchor="end">%s</text>`+"\n", left-6, y(mark)+4, FormatBytes(mark))
	}
	for _, u := range m.Buffers {
		fmt.Fprintf(&b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s" fill-opacity="0.75" stroke="#ffffff" stroke-width="0.5"><title>%s: %s at %s, ops %d to %d, %s</title></rect>`+"\n",
			x(u.First), y(u.Offset+u.Bytes), x(u.Last+1)-x(u.First), y(u.Offset)-y(u.Offset+u.Bytes), colours[u.Category],
			html.EscapeString(u.Name), FormatBytes(u.Bytes), FormatBytes(u.Offset), u.First, u.Last, u.Category)
	}
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">ops of the function in order, 0 to %d; the body of a loop once</text>`+"\n", (left+width-20)/2, height-15, m.Times-1)
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

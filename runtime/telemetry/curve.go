package telemetry

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"math"
	"strconv"
)

// Series is one line of a chart.
type Series struct {
	Name   string
	Points []Point // in ascending X
}

// Point is a place on a chart: a step and a loss.
type Point struct{ X, Y float64 }

// Curves returns the training loss and the evaluation loss of a log, as series for CurveSVG. A series without points is
// left out.
func Curves(records []Record) []Series {
	train, eval := Series{Name: "train loss"}, Series{Name: "eval loss"}
	for _, r := range records {
		train.Points = append(train.Points, Point{float64(r.Step), r.Loss})
		if r.EvalLoss != nil {
			eval.Points = append(eval.Points, Point{float64(r.Step), *r.EvalLoss})
		}
	}
	var out []Series
	for _, s := range []Series{train, eval} {
		if len(s.Points) > 0 {
			out = append(out, s)
		}
	}
	return out
}

// The picture, in SVG units.
const (
	svgWidth, svgHeight                      = 760, 400
	plotLeft, plotTop, plotRight, plotBottom = 64, 40, 736, 352
	maxPoints                                = 600   // of one line; more are averaged
	huge                                     = 1e100 // no loss
)

// Colours that can be told apart on a light and on a dark page, by colour-blind readers too.
var svgColors = []string{"#3f83c8", "#d9822b", "#4a9e6b", "#a86fb5"}

// CurveSVG draws the series over the step. Points that are not finite are left out. The same series give the same bytes.
// The background is transparent, and the colours stand on light and on dark pages.
func CurveSVG(w io.Writer, series ...Series) error {
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" font-family="system-ui, sans-serif" font-size="13" fill="none">`+"\n",
		svgWidth, svgHeight, svgWidth, svgHeight)
	lines := make([][]Point, len(series))
	xs, ys := newRange(), newRange()
	for i, s := range series {
		lines[i] = thin(s.Points)
		for _, p := range lines[i] {
			xs.add(p.X)
			ys.add(p.Y)
		}
	}
	xTicks, yTicks := xs.ticks(8), ys.ticks(6)
	x := func(v float64) float64 { return plotLeft + (v-xs.min)/(xs.max-xs.min)*(plotRight-plotLeft) }
	y := func(v float64) float64 { return plotBottom - (v-ys.min)/(ys.max-ys.min)*(plotBottom-plotTop) }

	fmt.Fprintf(&b, "<g stroke=\"#808890\" stroke-opacity=\"0.25\">\n")
	for _, t := range yTicks {
		fmt.Fprintf(&b, "<path d=\"M%d %sH%d\"/>\n", plotLeft, coord(y(t)), plotRight)
	}
	fmt.Fprintf(&b, "</g>\n<path d=\"M%d %dH%d\" stroke=\"#808890\"/>\n", plotLeft, plotBottom, plotRight)
	fmt.Fprintf(&b, "<g fill=\"#808890\" text-anchor=\"end\">\n")
	for _, t := range yTicks {
		fmt.Fprintf(&b, "<text x=\"%d\" y=\"%s\">%s</text>\n", plotLeft-8, coord(y(t)+4.5), tickLabel(t))
	}
	fmt.Fprintf(&b, "</g>\n<g fill=\"#808890\" text-anchor=\"middle\">\n")
	for _, t := range xTicks {
		fmt.Fprintf(&b, "<text x=\"%s\" y=\"%d\">%s</text>\n", coord(x(t)), plotBottom+20, tickLabel(t))
	}
	fmt.Fprintf(&b, "<text x=\"%d\" y=\"%d\">step</text>\n</g>\n", (plotLeft+plotRight)/2, svgHeight-10)

	legend := float64(plotLeft)
	for i, s := range series {
		color := svgColors[i%len(svgColors)]
		fmt.Fprintf(&b, "<path d=\"M%s 20h22\" stroke=\"%s\" stroke-width=\"2.5\"/>", coord(legend), color)
		fmt.Fprintf(&b, "<text x=\"%s\" y=\"24.5\" fill=\"#808890\">", coord(legend+28))
		if err := xml.EscapeText(&b, []byte(s.Name)); err != nil {
			return err
		}
		fmt.Fprintf(&b, "</text>\n")
		legend += 28 + 7.5*float64(len([]rune(s.Name))) + 24
		drawLine(&b, lines[i], color, x, y)
	}
	b.WriteString("</svg>\n")
	if _, err := w.Write(b.Bytes()); err != nil {
		return fmt.Errorf("write the loss curve: %w", err)
	}
	return nil
}

func drawLine(b *bytes.Buffer, points []Point, color string, x, y func(float64) float64) {
	switch len(points) {
	case 0:
		return
	case 1:
		fmt.Fprintf(b, "<circle cx=\"%s\" cy=\"%s\" r=\"3\" fill=\"%s\"/>\n", coord(x(points[0].X)), coord(y(points[0].Y)), color)
		return
	}
	fmt.Fprintf(b, "<path stroke=\"%s\" stroke-width=\"2\" stroke-linejoin=\"round\" d=\"", color)
	for i, p := range points {
		if i == 0 {
			b.WriteByte('M')
		} else {
			b.WriteByte('L')
		}
		b.WriteString(coord(x(p.X)))
		b.WriteByte(' ')
		b.WriteString(coord(y(p.Y)))
	}
	b.WriteString("\"/>\n")
}

// thin drops points that are not finite, or too large for the arithmetic of axes, and averages neighbours until at most maxPoints are left. The first and the last
// stay as they are.
func thin(points []Point) []Point {
	var finite []Point
	for _, p := range points {
		if math.Abs(p.X) < huge && math.Abs(p.Y) < huge { // NaN is not
			finite = append(finite, p)
		}
	}
	if len(finite) <= maxPoints {
		return finite
	}
	inner := finite[1 : len(finite)-1]
	out := []Point{finite[0]}
	for i := range maxPoints - 2 {
		part := inner[i*len(inner)/(maxPoints-2) : (i+1)*len(inner)/(maxPoints-2)]
		var mean Point
		for _, p := range part {
			mean.X += p.X / float64(len(part))
			mean.Y += p.Y / float64(len(part))
		}
		out = append(out, mean)
	}
	return append(out, finite[len(finite)-1])
}

// span is the range of an axis.
type span struct{ min, max float64 }

func newRange() *span { return &span{math.Inf(1), math.Inf(-1)} }

func (s *span) add(v float64) {
	s.min, s.max = min(s.min, v), max(s.max, v)
}

// ticks widens the range to round numbers and returns about n of them: multiples of 1, 2 or 5 times a power of ten.
func (s *span) ticks(n int) []float64 {
	if s.min > s.max {
		s.min, s.max = 0, 1
	}
	// A range too small to be told apart in float64 is opened up around its value.
	if size := max(math.Abs(s.min), math.Abs(s.max)); s.max-s.min <= 1e-9*size || s.max == s.min {
		pad := max(size*0.1, 0.5)
		s.min, s.max = s.min-pad, s.max+pad
	}
	raw := (s.max - s.min) / float64(n)
	unit := math.Pow(10, math.Floor(math.Log10(raw)))
	step := 10 * unit
	for _, m := range []float64{1, 2, 5} {
		if m*unit >= raw*0.999 {
			step = m * unit
			break
		}
	}
	lo, hi := math.Floor(s.min/step+1e-9), math.Ceil(s.max/step-1e-9)
	s.min, s.max = lo*step, hi*step
	var out []float64
	for i := lo; i <= hi; i++ {
		out = append(out, i*step)
	}
	return out
}

func tickLabel(v float64) string {
	switch a := math.Abs(v); {
	case a >= 1e4:
		for _, u := range []struct {
			size float64
			name string
		}{{1e9, "G"}, {1e6, "M"}, {1e3, "k"}} {
			if a >= u.size && a < u.size*1e4 {
				return strconv.FormatFloat(v/u.size, 'g', 5, 64) + u.name
			}
		}
	case a < 1e-12:
		return "0"
	}
	return strconv.FormatFloat(v, 'g', 5, 64)
}

// coord writes a place with two decimals, and no minus before zero.
func coord(v float64) string {
	return strconv.FormatFloat(math.Round(v*100)/100+0, 'f', -1, 64)
}

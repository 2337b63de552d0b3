package telemetry

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

func svg(t *testing.T, series ...Series) string {
	t.Helper()
	var b bytes.Buffer
	if err := CurveSVG(&b, series...); err != nil {
		t.Fatal(err)
	}
	d := xml.NewDecoder(bytes.NewReader(b.Bytes()))
	for {
		if _, err := d.Token(); err == io.EOF {
			break
		} else if err != nil {
			t.Fatalf("not XML: %v\n%s", err, b.String())
		}
	}
	if s := b.String(); strings.Contains(s, "NaN") || strings.Contains(s, "Inf") {
		t.Fatalf("not a number in\n%s", s)
	}
	return b.String()
}

// places returns the coordinates of the lines drawn.
func places(t *testing.T, s string) [][]Point {
	t.Helper()
	var out [][]Point
	for _, m := range regexp.MustCompile(`linejoin="round" d="M([^"]*)"`).FindAllStringSubmatch(s, -1) {
		var line []Point
		for pair := range strings.SplitSeq(m[1], "L") {
			xs, ys, _ := strings.Cut(pair, " ")
			x, err1 := strconv.ParseFloat(xs, 64)
			y, err2 := strconv.ParseFloat(ys, 64)
			if err := errors.Join(err1, err2); err != nil {
				t.Fatal(err)
			}
			line = append(line, Point{x, y})
		}
		out = append(out, line)
	}
	return out
}

func TestCurve(t *testing.T) {
	s := svg(t,
		Series{"train loss", []Point{{0, 9}, {500, 4}, {1000, 3}}},
		Series{"eval <loss> & co", []Point{{0, 8}, {1000, 3.5}}})
	lines := places(t, s)
	if len(lines) != 2 || len(lines[0]) != 3 || len(lines[1]) != 2 {
		t.Fatalf("lines %v", lines)
	}
	if lines[0][0].X != plotLeft || lines[0][2].X != plotRight || lines[0][1].X != (plotLeft+plotRight)/2 {
		t.Errorf("steps 0, 500, 1000 stand at %v", lines[0])
	}
	if lines[0][0].Y != plotTop || lines[0][2].Y != plotBottom { // 3 to 9 are themselves ticks
		t.Errorf("losses 9 and 3 stand at %v", lines[0])
	}
	for _, want := range []string{">0<", ">200<", ">1000<", ">3<", ">9<", ">step<", ">train loss<", "eval &lt;loss&gt; &amp; co"} {
		if !strings.Contains(s, want) {
			t.Errorf("lacks %s", want)
		}
	}
	if s != svg(t, Series{"train loss", []Point{{0, 9}, {500, 4}, {1000, 3}}}, Series{"eval <loss> & co", []Point{{0, 8}, {1000, 3.5}}}) {
		t.Error("the same series gave other bytes")
	}
}

func TestCurveOfOddSeries(t *testing.T) {
	nan, inf := math.NaN(), math.Inf(1)
	for name, series := range map[string][]Series{
		"nothing":     nil,
		"no points":   {{Name: "a"}},
		"one point":   {{"a", []Point{{10, 2}}}},
		"flat":        {{"a", []Point{{10, 2}, {20, 2}}}},
		"nearly flat": {{"a", []Point{{10, 1e9}, {20, math.Nextafter(1e9, 2e9)}}}},
		"not finite":  {{"a", []Point{{1, nan}, {2, inf}, {nan, 3}, {-inf, 1}, {3, -inf}, {4, 1}, {5, 2}}}},
		"wide":        {{"a", []Point{{1e12, -1e90}, {2e12, 1e90}}}},
		"beyond":      {{"a", []Point{{1, -math.MaxFloat64}, {2, math.MaxFloat64}}}},
		"small":       {{"a", []Point{{1, 1e-300}, {2, 2e-300}}}},
		"negative":    {{"a", []Point{{1, -3}, {2, -1}}}},
	} {
		t.Run(name, func(t *testing.T) {
			s := svg(t, series...)
			if n := strings.Count(s, "<text"); n < 4 || n > 40 {
				t.Errorf("%d labels", n)
			}
			for _, line := range places(t, s) {
				for _, p := range line {
					if p.X < plotLeft || p.X > plotRight || p.Y < plotTop || p.Y > plotBottom {
						t.Errorf("%v is off the plot", p)
					}
				}
			}
		})
	}
}

func TestLongCurveIsThinned(t *testing.T) {
	var points []Point
	for i := range 1_000_000 {
		points = append(points, Point{float64(i), 5 + math.Sin(float64(i)/1e5)})
	}
	s := svg(t, Series{"a", points})
	line := places(t, s)[0]
	if len(line) != maxPoints || len(s) > 20_000 {
		t.Fatalf("%d points, %d bytes", len(line), len(s))
	}
	if line[0].X != plotLeft || math.Abs(line[len(line)-1].X-plotRight) > 0.1 {
		t.Errorf("the ends moved: %v, %v", line[0], line[len(line)-1])
	}
}

func TestCurves(t *testing.T) {
	got := Curves([]Record{record(1), record(2), record(3)})
	if len(got) != 2 || len(got[0].Points) != 3 || len(got[1].Points) != 1 || got[1].Points[0] != (Point{2, 2.5}) {
		t.Errorf("%v", got)
	}
	if got := Curves([]Record{record(1)}); len(got) != 1 {
		t.Errorf("a series without points: %v", got)
	}
}

type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errors.New("no space") }

func TestCurveWriteError(t *testing.T) {
	if err := CurveSVG(broken{}); err == nil || !strings.Contains(err.Error(), "no space") {
		t.Errorf("got %v", err)
	}
}

func TestTickLabels(t *testing.T) {
	for v, want := range map[float64]string{
		0: "0", 0.25: "0.25", 1000: "1000", 9999: "9999", 10000: "10k", 12500: "12.5k", 2e6: "2M", 2e7: "20M", 3e10: "30G",
		-20000: "-20k", 1e90: "1e+90", 1e-5: "1e-05", math.Copysign(1e-17, -1): "0",
	} {
		if got := tickLabel(v); got != want {
			t.Errorf("%v is %q, want %q", v, got, want)
		}
	}
}

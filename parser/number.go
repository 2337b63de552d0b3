package parser

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"
)

// num is a number of the dimension arithmetic: an exact fraction, or a float64 once a root was not whole.
type num struct {
	r    *big.Rat // nil for an inexact number
	f    float64
	unit string // "", "%" or "bytes"
}

// maxBits bounds the numerator and the denominator of a fraction.
const maxBits = 4096

var byteUnits = map[string]int64{"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}

// parseNumber reads a number with its unit.
func parseNumber(text string) (num, string) {
	digits := strings.TrimRight(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_%")
	unit := text[len(digits):]
	plain := strings.ReplaceAll(digits, "_", "")
	if len(plain) > 1 && plain[0] == '0' && plain[1] >= '0' && plain[1] <= '9' {
		return num{}, fmt.Sprintf("number %s starts with a zero", text)
	}
	f, err := strconv.ParseFloat(plain, 64)
	if err != nil {
		return num{}, fmt.Sprintf("number %s is too large", text)
	}
	if f == 0 && strings.ContainsAny(strings.SplitN(strings.ToLower(plain), "e", 2)[0], "123456789") {
		return num{}, fmt.Sprintf("number %s is too small", text)
	}
	r, ok := new(big.Rat).SetString(plain)
	if !ok {
		return num{}, fmt.Sprintf("%q is not a number", text)
	}
	n := num{r: r}
	switch size, known := byteUnits[unit]; {
	case unit == "":
	case unit == "%":
		n.unit = "%"
		n.r.Quo(n.r, big.NewRat(100, 1))
	case known:
		n.unit = "bytes"
		n.r.Mul(n.r, new(big.Rat).SetInt64(size))
	default:
		return num{}, fmt.Sprintf("unknown unit %q; bytes are B, KiB, MiB, GiB or TiB, shares are %%", unit)
	}
	return n, ""
}

func intNum(i int64) num { return num{r: new(big.Rat).SetInt64(i)} }

// floatNum returns f, which must be finite, as an exact fraction.
func floatNum(f float64) num { return num{r: new(big.Rat).SetFloat64(f)} }

// float returns the nearest float64.
func (n num) float() float64 {
	if n.r == nil {
		return n.f
	}
	f, _ := n.r.Float64()
	return f
}

// whole returns n as an integer, if it is one that float64 or the fraction holds exactly.
func (n num) whole() (*big.Int, bool) {
	if n.r == nil {
		if n.f != math.Trunc(n.f) || math.Abs(n.f) >= 1<<53 {
			return nil, false
		}
		return big.NewInt(int64(n.f)), true
	}
	return n.r.Num(), n.r.IsInt()
}

// String writes n as a user would: whole numbers as such, others with the digits that identify them.
func (n num) String() string {
	if i, ok := n.whole(); ok && i.BitLen() <= 64 {
		return i.String()
	}
	return strconv.FormatFloat(n.float(), 'g', 10, 64)
}

func (n num) cmp(m num) int {
	if n.r != nil && m.r != nil {
		return n.r.Cmp(m.r)
	}
	switch a, b := n.float(), m.float(); {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// checked refuses numbers that grew out of all proportion.
func checked(n num) (num, string) {
	if n.r == nil && (math.IsInf(n.f, 0) || math.IsNaN(n.f)) {
		return num{}, "is not a finite number"
	}
	if n.r != nil && n.r.Num().BitLen()+n.r.Denom().BitLen() > maxBits {
		return num{}, "is too large a number"
	}
	return n, ""
}

// arithmetic applies an operator. It returns what is wrong with the result, or "".
func arithmetic(op string, a, b num) (num, string) {
	if a.unit == "%" || b.unit == "%" {
		return num{}, "is a share, which arithmetic does not take"
	}
	out := num{}
	switch {
	case a.unit == b.unit:
		if out.unit = a.unit; op == "*" && a.unit != "" {
			return num{}, "multiplies bytes by bytes"
		} else if op == "/" {
			out.unit = ""
		}
	case op == "*" || op == "/" && b.unit == "":
		out.unit = a.unit + b.unit
	default:
		return num{}, "mixes bytes with plain numbers"
	}
	if op == "/" && b.cmp(intNum(0)) == 0 {
		return num{}, "divides by zero"
	}
	if a.r != nil && b.r != nil {
		out.r = new(big.Rat)
		switch op {
		case "+":
			out.r.Add(a.r, b.r)
		case "-":
			out.r.Sub(a.r, b.r)
		case "*":
			out.r.Mul(a.r, b.r)
		case "/":
			out.r.Quo(a.r, b.r)
		}
		return checked(out)
	}
	x, y := a.float(), b.float()
	out.f = map[string]float64{"+": x + y, "-": x - y, "*": x * y, "/": x / y}[op]
	return checked(out)
}

// functions are those of the dimension arithmetic, with the number of their arguments, -1 for one or more.
var functions = map[string]struct {
	args int
	call func(a []num) (num, string)
}{
	"min": {-1, func(a []num) (num, string) { return extreme(a, -1), "" }},
	"max": {-1, func(a []num) (num, string) { return extreme(a, 1), "" }},
	"sqrt": {1, func(a []num) (num, string) {
		x := a[0]
		if x.cmp(intNum(0)) < 0 {
			return num{}, "takes the root of a negative number"
		}
		if x.r != nil {
			p, q := new(big.Int).Sqrt(x.r.Num()), new(big.Int).Sqrt(x.r.Denom())
			root := new(big.Rat).SetFrac(p, q)
			if new(big.Rat).Mul(root, root).Cmp(x.r) == 0 {
				return num{r: root}, ""
			}
		}
		return checked(num{f: math.Sqrt(x.float())})
	}},
	"floor": {1, func(a []num) (num, string) { return floor(a[0]) }},
	"round_up": {2, func(a []num) (num, string) {
		if a[1].cmp(intNum(0)) <= 0 {
			return num{}, "rounds up to a multiple of " + a[1].String()
		}
		q, wrong := arithmetic("/", a[0], a[1])
		if wrong != "" {
			return num{}, wrong
		}
		q, _ = arithmetic("*", q, intNum(-1))
		if q, wrong = floor(q); wrong != "" {
			return num{}, wrong
		}
		q, _ = arithmetic("*", q, intNum(-1))
		return arithmetic("*", q, a[1])
	}},
}

func extreme(a []num, sign int) num {
	best := a[0]
	for _, x := range a[1:] {
		if x.cmp(best)*sign > 0 {
			best = x
		}
	}
	return best
}

func floor(x num) (num, string) {
	if x.r == nil {
		return checked(num{f: math.Floor(x.f), unit: x.unit})
	}
	q, m := new(big.Int).DivMod(x.r.Num(), x.r.Denom(), new(big.Int))
	_ = m // Euclidean: not negative, so q is the floor
	return num{r: new(big.Rat).SetInt(q), unit: x.unit}, ""
}

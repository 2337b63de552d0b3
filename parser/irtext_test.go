package parser

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/spec"
	"github.com/tfc-dev/tfc/spec/spectest"
)

// roundTrip checks that the text of each of a spec's functions reads back as the same text.
func roundTrip(t *testing.T, s *spec.Spec) {
	t.Helper()
	for _, job := range ir.Jobs {
		f := ir.Build(s, job)
		if err := ir.Verify(f); err != nil {
			t.Fatal(err)
		}
		text := ir.Print(f)
		g, err := IR(job, text)
		if err != nil {
			t.Fatalf("%v\n%s", err, text)
		}
		if diff := cmp.Diff(text, ir.Print(g)); diff != "" {
			t.Errorf("%s: print ∘ parse changes the text (-first +second):\n%s", job, diff)
		}
	}
}

func TestPrintedIRParsesBack(t *testing.T) {
	files, err := filepath.Glob("../examples/specs/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	for _, file := range files {
		s, err := Load(file)
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, s)
	}
	for seed := range uint64(15) {
		// A file's name may look like the comment around it.
		s, err := Parse(fmt.Sprintf("by hand/%d: by me.yaml", seed), []byte("name: m\n"+spectest.Random(seed)))
		if err != nil {
			t.Fatal(err)
		}
		roundTrip(t, s)
	}
}

// looped is the start of a function with loops in loops.
func looped(depth int, between string) string {
	var b strings.Builder
	b.WriteString("dims A=2\nfunc f() {\n")
	for i := range depth {
		fmt.Fprintf(&b, "for i%d in a%d 0..2 {%s", i, i, between)
	}
	b.WriteString(strings.Repeat("}"+between, depth) + "return\n}\n")
	return b.String()
}

// TestIRErrors checks what is wrong before a function can be verified.
func TestIRErrors(t *testing.T) {
	f := func(params, body string) string {
		return "dims A=2\n" + params + "func f(%x f32[A]) {\n" + body + "return\n}\n"
	}
	for _, c := range []struct{ text, want string }{
		{strings.Repeat(" ", maxIRText+1), "x:1:1: the text is 8388609 bytes, more than 8388608"},
		{looped(15, "\n"), ""},
		{looped(16, "\n"), "x:1:1: loops are nested 17 deep, more than 16"},
		{looped(100000, " "), "more than 16"},
		{"", "x:1:1: unexpected token"},
		{"dims A=0\nfunc f() {\nreturn\n}\n", "x:1:6: the size of A, 0, is not a whole number above 0"},
		{"dims A=1.5\nfunc f() {\nreturn\n}\n", "is not a whole number above 0"},
		{"dims A=99999999999999999999\nfunc f() {\nreturn\n}\n", "is not a whole number above 0"},
		{"dims A=2 A=3\nfunc f() {\nreturn\n}\n", "x:1:10: the size of A is given twice"},
		{f("param @w f32[B]\n", ""), `x:2:1: dimension "B": no symbol B`},
		{f("param @w f32[A,A-1]\n", ""), `dimension "A-1": only + and * of symbols and numbers`},
		{f("param @w f32[A(1)]\n", ""), `only + and * of symbols and numbers`},
		{f("param @w f32[0]\n", ""), `x:2:1: dimension "0" is 0, in a value of 0 elements`},
		{f("param @w f32[A,]\n", ""), `dimension "": the expression ends too soon`},
		{f("param @w f32[4294967296,4294967296]\n", ""), "in a value of 1.8446744073709552e+19 elements"},
		{f("param @w f32["+strings.Repeat("(", 30)+"1"+strings.Repeat(")", 30)+"]\n", ""), "brackets are nested more than 24 deep"},
		{f("param @w f32[A] per layers 4..4\n", ""), "x:2:1: 4..4 is not a range of layers such as 0..8"},
		{f("param @w f32[A] per layers s..s+2\n", ""), "s..s+2 is not a range of layers such as 0..8"},
		{f("param @w f32[A] per layers 0..9999999999\n", ""), "0..9999999999 is not a range of layers"},
		{f("param @w f32[A] = rows(@v)\n", ""), "x:2:1: no parameter @v to pack"},
		{f("", "for l in layers 0..9999999999 {\n}\n"), "x:3:1: 0..9999999999 is not a range such as 0..8, 8..0 or s..s+2"},
		{f("", "for l in layers s..t+2 {\n}\n"), "s..t+2 is not a range"},
		{f("", "for l in layers 0..8 step 0 {\n}\n"), "x:3:1: 0 is not a number of indices"},
		{f("", "for l in layers 0..8 step 1.5 {\n}\n"), "1.5 is not a number of indices"},
		{f("", "%y f32[A] = for l in layers 0..8 carry %c f32[A] = _ {\nyield %c\n}\n"), "a carry starts as a value, not _"},
		{f("", "%y f32[A] = for l in layers 0..8 carry %c f32[A] = %x {\nyield _\n}\n"), "a loop yields values, not _"},
		{f("", "%y f32[A] = scale(%z) {by: 2.0}\n"), "x:3:19: no value %z before this"},
		{f("", "%y f32[A] = scale(%x[l]) {by: 2.0}\n"), "x:3:19: %x[l] is %x here"},
		{f("", "%x f32[A] = scale(%x) {by: 2.0}\n"), "x:3:1: %x is defined twice"},
		{f("", "%y f32[A] = scale(%x) {by: 1e999}\n"), "by: 1e999 is not a number"},
		{f("", "%y f32[A] = scale(%x) {by: \"\\q\"}\n"), `by: "\q" is not a text`},
		{f("", "%y f32[A] = scale(%x) {by: [\"a\", \"\\q\"]}\n"), `by: "\q" is not a text`},
		{f("", "%y f32[A] = scale(%x) {mask: [\"casual\"]}\n"), "x:3:24: mask: unknown pattern \"casual\""},
		{f("", "%y f32[A] = scale(%x) {by: 2.0\n"), "x:4:1: unexpected token"},
		{f("param @w f32[A] per layers 0..2 {init: \"zero\"}\n", "for l in layers 0..2 {\n%y f32[A] = bias(%x, @w)\n}\n"), "@w is @w[l] here"},
	} {
		_, err := IR("x", c.text)
		if c.want == "" {
			if err != nil {
				t.Errorf("%v\n%s", err, c.text)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.300q\ngot  %v\nwant %s", c.text, err, c.want)
		}
	}
}

func FuzzIR(f *testing.F) {
	s, err := Parse("m.yaml", []byte(spectest.Random(3)))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(ir.Print(ir.Build(s, "decode")))
	f.Add("dims A=2 T=3\nparam @w f32[T,T] per layers 0..2 {decay: true, init: \"normal\", scale: 0.5}\nfunc f(%x f32[A,T], %n i32[A] per micro) {\n" +
		"%y f32[A,T] = for l in layers 2..0 step 2 carry %c f32[A,T] = %x { // m.yaml:3:4 by grad\n%z f32[A,T] = linear(%c, @w[l], _, _)\n" +
		"%p f32[A,1], %q f32[A,2] = split(%z) {parts: [\"1\", \"2\"]}\nlinear_dw(%z, %c) into @w[l]\nyield %z\n}\nreturn %y\n}\n")
	f.Add(looped(3, " "))
	f.Add("dims N<=8 S=2\ncache @k f32[S,N,2*(N+1)] per layers 0..2\nfunc f(%x bf16[] per micro) {\n%y f32[] = scale(%x) {by: -Inf} // a.yaml:1:2 by grad\nreturn %y\n}")
	f.Fuzz(func(t *testing.T, text string) {
		g, err := IR("fuzz", text)
		if err != nil {
			return
		}
		first := ir.Print(g)
		again, err := IR("fuzz", first)
		if err != nil {
			t.Fatalf("accepted text prints as text that is not: %v\n%s", err, first)
		}
		if second := ir.Print(again); second != first {
			t.Fatalf("print ∘ parse changes\n%s\nto\n%s", first, second)
		}
	})
}

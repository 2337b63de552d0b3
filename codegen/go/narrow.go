package gogen

import (
	"fmt"

	"github.com/dave/jennifer/jen"
	"github.com/tfc-dev/tfc/ir"
)

// narrowType is the type that generation reads weights in; "" where it is that of training.
func (g *generator) narrowType() string {
	t, _ := ir.NarrowWeights(g.Funcs["decode"])
	return t
}

// narrowParams lists the parameters that generation reads in that type.
func (g *generator) narrowParams() []*ir.Param {
	read := map[string]bool{}
	for _, job := range []string{"prefill", "decode"} {
		g.Funcs[job].Walk(func(op *ir.Op) {
			if op.Str("weights") != "" {
				read[op.Args[1].Param.Name] = true
			}
		})
	}
	var list []*ir.Param
	for _, p := range g.params() {
		if read[p.Name] {
			list = append(list, p)
		}
	}
	return list
}

// narrowBytes is the memory of all of them.
func (g *generator) narrowBytes() int {
	_, n := ir.NarrowWeights(g.Funcs["decode"])
	return n
}

// narrow writes the weights of generation, where they have a type of their own.
//
//	type narrow struct {
//		qkv [NumLayers]cpu.Narrow // [H*E+2*G*E,D]
//	}
func (g *generator) narrow(f *jen.File) {
	t := g.narrowType()
	if t == "" {
		return
	}
	f.Line()
	f.Comment(fmt.Sprintf("narrow are the weights that prefill and decode read in %s. They are copies: of changes to the buffer they know nothing.", t))
	f.Type().Id("narrow").StructFunc(func(s *jen.Group) {
		for _, p := range g.narrowParams() {
			field := s.Id(goName(p.Name))
			if p.Axis != "" {
				field.Index(raw("NumLayers"))
			}
			field.Add(cpu("Narrow"))
		}
	})
	f.Line()
	f.Func().Id("newNarrow").Params(jen.Id("pool").Op("*").Add(cpu("Pool")), raw("w *views")).Id("narrow").BlockFunc(func(b *jen.Group) {
		b.Var().Id("n").Id("narrow")
		b.Id("memory").Op(":=").Add(cpu("NewMemory").Call(raw("NarrowBytes")))
		for _, p := range g.narrowParams() {
			name := goName(p.Name)
			kind := cpu(map[string]string{"bf16": "BF16", "int8": "Int8", "int4": "Int4"}[t])
			if p.Axis == "" {
				b.Id("n."+name).Op("=").Add(cpu("NewNarrow")).Call(raw("pool"), raw("memory"), kind, raw("w.%s", name))
				continue
			}
			b.Add(g.layers(p)).Block(raw("n.%s[l]", name).Op("=").Add(cpu("NewNarrow")).Call(raw("pool"), raw("memory"), kind, raw("w.%s[l]", name)))
		}
		b.Return(raw("n"))
	})
}

// table is the matrix of weights that is argument i, as op reads it.
func (e *emitter) table(op *ir.Op, i int) *jen.Statement {
	if op.Str("weights") == "" {
		return e.weight(op, i)
	}
	return jen.Op("&").Add(e.param("g.narrow", op, op.Args[i]))
}

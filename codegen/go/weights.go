package gogen

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/dave/jennifer/jen"
	"github.com/tfc-dev/tfc/ir"
)

func hash(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}

// params lists the parameters that some function reads, once each, in the order of the functions.
func (g *generator) params() []*ir.Param {
	var list []*ir.Param
	seen := map[string]bool{}
	for _, job := range ir.Jobs {
		f := g.Funcs[job]
		used := map[*ir.Value]bool{}
		f.Walk(func(op *ir.Op) {
			for _, v := range append(append([]*ir.Value(nil), op.Args...), op.Into...) {
				if v != nil && v.Param != nil {
					used[v] = true
				}
			}
		})
		for _, p := range f.Params {
			if used[p.Value] && !p.Cache && !seen[p.Name] {
				seen[p.Name] = true
				list = append(list, p)
			}
		}
	}
	return list
}

// weights writes the weight table, and the views of a buffer that is laid out by it.
//
//	var weightTable = []weights.Info{{Name: "wte", Shape: []int{V, D}, Offset: 0, …}, …}
//
//	type views struct {
//		wte cpu.Mat            // [V,D]
//		qkv [NumLayers]cpu.Mat // [H*E+2*G*E,D]
//	}
func (g *generator) weights() *jen.File {
	f := g.file()
	f.Comment("weightTable says where every weight lives: in the program's buffer, and in a Hugging Face file.")
	var rows []jen.Code
	for _, w := range g.table {
		rows = append(rows, jen.Line(), weightInfo(w), jen.Op(","))
	}
	f.Var().Id("weightTable").Op("=").Index().Qual(weightsPath, "Info").Values(jen.Add(append(rows, jen.Line())...))
	f.Line()
	f.Comment("views are the weights, or their gradients, as matrices [out, in] and vectors over one buffer.")
	f.Type().Id("views").StructFunc(func(s *jen.Group) {
		for _, p := range g.params() {
			field := s.Id(goName(p.Name))
			if p.Axis != "" {
				field.Index(raw("NumLayers"))
			}
			if len(p.Type.Dims) == 1 {
				field.Index().Float32()
			} else {
				field.Add(cpu("Mat"))
			}
			text := p.Type.String()
			for i, part := range p.Parts {
				if i == 0 {
					text += ": the rows of "
				} else {
					text += ", "
				}
				text += goName(part.Name)
			}
			field.Comment(text)
		}
	})
	f.Line()
	f.Func().Id("newViews").Params(raw("buffer []float32")).Id("views").BlockFunc(func(b *jen.Group) {
		b.Var().Id("v").Id("views")
		for _, p := range g.params() {
			name := "v." + goName(p.Name)
			if p.Axis == "" {
				b.Id(name).Op("=").Add(place(p, fmt.Sprint(g.offset(p, 0))))
				continue
			}
			at := fmt.Sprint(g.offset(p, p.From))
			if step := g.step(p); step > 0 {
				at += "+" + index("l", p.From) + fmt.Sprintf("*%d", step)
			}
			b.Add(g.layers(p)).Block(jen.Id(name + "[l]").Op("=").Add(place(p, at)))
		}
		b.Return(raw("v"))
	})
	g.narrow(f)
	return f
}

// layers is a loop over the members of a family.
func (g *generator) layers(p *ir.Param) *jen.Statement {
	if p.From == 0 && p.To == g.Spec.Model.NumLayers {
		return jen.For(raw("l := range NumLayers"))
	}
	return jen.For(raw("l := %d", p.From), raw("l < %d", p.To), raw("l++"))
}

// place views parameter p of a buffer from an offset on.
func place(p *ir.Param, offset string) *jen.Statement {
	if len(p.Type.Dims) == 1 {
		return raw("buffer[%s:][:%s]", offset, expr(p.Type.Dims[0].Expr))
	}
	cols := expr(p.Type.Last().Expr)
	return cpu("At").Call(raw("buffer"), raw("%s", offset), raw("%s", expr(p.Type.Dims[0].Expr)), raw("%s", cols), raw("%s", cols))
}

// offset is where member l of p starts in the buffer.
func (g *generator) offset(p *ir.Param, l int) int {
	return g.offsets[p.Leaves()[0].Member(l)]
}

// step is how far apart the members of family p are; 0 where there is one. Members must be evenly apart.
func (g *generator) step(p *ir.Param) int {
	if p.Members() == 1 {
		return 0
	}
	return g.offset(p, p.From+1) - g.offset(p, p.From)
}

// weightInfo writes one row of the weight table.
func weightInfo(w ir.Weight) *jen.Statement {
	shape := make([]string, len(w.Shape))
	for i, n := range w.Shape {
		shape[i] = fmt.Sprint(n)
	}
	text := fmt.Sprintf("{Name: %q, Shape: []int{%s}, Offset: %d, Init: weights.Init{Kind: %q, Scale: %v}", w.Name, strings.Join(shape, ", "), w.Offset, w.Init.Kind, w.Init.Scale)
	if w.Decay {
		text += ", Decay: true"
	}
	text += fmt.Sprintf(", File: %q", w.File)
	if w.FileTransposed {
		text += ", FileTransposed: true"
	}
	if w.FileGroup > 0 {
		text += fmt.Sprintf(", FileRows: %d, FileRow: %d, FileGroup: %d, FileStride: %d", w.FileRows, w.FileRow, w.FileGroup, w.FileStride)
	}
	return raw("%s}", text)
}

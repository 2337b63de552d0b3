package ir_test

import (
	"testing"

	"github.com/tfc-dev/tfc/ir"
)

func TestTableIsWhole(t *testing.T) {
	if len(ir.Table) < 40 {
		t.Errorf("the table has %d rows", len(ir.Table))
	}
	docs := map[string]string{}
	for kind, d := range ir.Table {
		if kind != d.Kind || d.Doc == "" || d.Shape == nil || d.FLOPs == nil || d.Eval == nil {
			t.Errorf("%s: kind %q, doc %q, shape %v, flops %v, eval %v", kind, d.Kind, d.Doc, d.Shape != nil, d.FLOPs != nil, d.Eval != nil)
		}
		if (d.Grad == nil) != d.NoGrad {
			t.Errorf("%s: has a gradient %v, says it has none %v", kind, d.Grad != nil, d.NoGrad)
		}
		if other := docs[d.Doc]; other != "" {
			t.Errorf("%s and %s have one doc", kind, other)
		}
		docs[d.Doc] = kind
		for _, i := range d.InPlace {
			if i >= len(d.Args) || len(d.Results) == 0 {
				t.Errorf("%s: works in place on argument %d of %d", kind, i, len(d.Args))
			}
		}
		names := map[string]bool{"kernel": true}
		for _, a := range d.Attrs {
			if names[a.Name] {
				t.Errorf("%s: attribute %s is there twice", kind, a.Name)
			}
			names[a.Name] = true
		}
	}
}

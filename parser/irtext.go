package parser

import (
	"errors"
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/alecthomas/participle/v2"
	"github.com/alecthomas/participle/v2/lexer"
	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/spec"
)

// The printed form of a function, as ir.Print writes it.
type (
	irFile struct {
		Symbols []*irSymbol `parser:"'dims' @@*"`
		Params  []*irParam  `parser:"@@*"`
		Name    string      `parser:"'func' @Ident '('"`
		Inputs  []*irInput  `parser:"( @@ ( ',' @@ )* )? ')' '{'"`
		Body    []*irStmt   `parser:"@@*"`
		Results []*irRef    `parser:"'return' ( @@ ( ',' @@ )* )? '}'"`
	}
	irSymbol struct {
		Pos     lexer.Position
		Name    string `parser:"@Ident"`
		Dynamic bool   `parser:"( '=' | @'<=' )"`
		Size    string `parser:"@Number"`
	}
	irParam struct {
		Pos     lexer.Position
		Kind    string    `parser:"@( 'param' | 'cache' )"`
		Name    string    `parser:"@Param"`
		Type    string    `parser:"@Type"`
		Axis    string    `parser:"( 'per' @Ident"`
		Range   string    `parser:"  @Range )?"`
		Parts   []string  `parser:"( '=' 'rows' '(' @Param ( ',' @Param )* ')'"`
		Attrs   []*irAttr `parser:"| '{' @@ ( ',' @@ )* '}' )?"`
		Comment string    `parser:"@Comment?"`
	}
	irInput struct {
		Pos  lexer.Position
		Name string `parser:"@Value"`
		Type string `parser:"@Type"`
		Axis string `parser:"( 'per' @Ident )?"`
	}
	irStmt struct {
		Pos     lexer.Position
		Results []*irTyped `parser:"( @@ ( ',' @@ )* '=' )?"`
		Loop    *irLoop    `parser:"( 'for' @@"`
		Op      *irOp      `parser:"| @@ )"`
	}
	irTyped struct {
		Name string `parser:"@Value"`
		Type string `parser:"@Type"`
	}
	irOp struct {
		Kind    string    `parser:"@Ident '('"`
		Args    []*irRef  `parser:"( @@ ( ',' @@ )* )? ')'"`
		Into    []*irRef  `parser:"( 'into' @@ ( ',' @@ )* )?"`
		Attrs   []*irAttr `parser:"( '{' @@ ( ',' @@ )* '}' )?"`
		Comment string    `parser:"@Comment?"`
	}
	irLoop struct {
		Var     string     `parser:"@Ident 'in'"`
		Axis    string     `parser:"@Ident"`
		Range   string     `parser:"@Range"`
		Limit   string     `parser:"( 'below' @Number )?"`
		Step    string     `parser:"( 'step' @Number )?"`
		Carries []*irCarry `parser:"( 'carry' @@ ( ',' @@ )* )? '{'"`
		Comment string     `parser:"@Comment?"`
		Body    []*irStmt  `parser:"@@*"`
		Yield   []*irRef   `parser:"( 'yield' @@ ( ',' @@ )* )? '}'"`
	}
	irCarry struct {
		Value *irTyped `parser:"@@ '='"`
		Init  *irRef   `parser:"@@"`
	}
	irRef struct {
		Pos   lexer.Position
		Name  string `parser:"@( Value | Param | '_' )"`
		Index string `parser:"( '[' @Ident ']' )?"`
	}
	irAttr struct {
		Pos   lexer.Position
		Name  string       `parser:"@Ident ':'"`
		Value *irAttrValue `parser:"@@"`
	}
	irAttrValue struct {
		Number string   `parser:"  @( Number | 'Inf' | 'NaN' )"`
		Bool   string   `parser:"| @( 'true' | 'false' )"`
		Text   *string  `parser:"| @String"`
		List   []string `parser:"| '[' @String ( ',' @String )* ']'"`
	}
)

var irLexer = lexer.MustSimple([]lexer.SimpleRule{
	{Name: "Comment", Pattern: `//[^\n]*`},
	{Name: "Type", Pattern: `(f32|bf16|f16|e4m3|e5m2|i32|u64)\[[^\]\n]*\]`},
	{Name: "Param", Pattern: `@[A-Za-z_][A-Za-z0-9_.\-]*`},
	{Name: "Value", Pattern: `%[A-Za-z_][A-Za-z0-9_]*`},
	{Name: "Range", Pattern: `([0-9]+|[a-z][a-z0-9]*(\+[0-9]+)?)\.\.([0-9]+|[a-z][a-z0-9]*(\+[0-9]+)?)`},
	{Name: "Number", Pattern: `[-+]?([0-9]+(\.[0-9]+)?([eE][-+]?[0-9]+)?|Inf)`},
	{Name: "String", Pattern: `"(\\.|[^"\\\n])*"`},
	{Name: "Ident", Pattern: `[A-Za-z_][A-Za-z0-9_]*`},
	{Name: "Punct", Pattern: `<=|[-=(){}\[\],:_]`},
	{Name: "Space", Pattern: `\s+`},
	{Name: "Other", Pattern: `.`},
})

var irGrammar = participle.MustBuild[irFile](participle.Lexer(irLexer), participle.Elide("Space"), participle.UseLookahead(3))

// Limits of the text of one function.
const (
	maxIRText    = 8 << 20       // bytes
	maxIRNesting = 16            // loops in loops
	maxIRIndex   = math.MaxInt32 // of a loop or a family
	maxIRElems   = 1 << 48       // of a value
)

// IR reads a function in the form that ir.Print writes, and verifies it. Errors name the place in the text.
func IR(file, text string) (*ir.Func, error) {
	fail := func(pos lexer.Position, format string, args ...any) error {
		return &spec.Error{Pos: spec.Pos{File: file, Line: max(pos.Line, 1), Col: max(pos.Column, 1)}, Text: fmt.Sprintf(format, args...)}
	}
	if len(text) > maxIRText {
		return nil, fail(lexer.Position{}, "the text is %d bytes, more than %d", len(text), maxIRText)
	}
	if depth := braceDepth(text); depth > maxIRNesting {
		return nil, fail(lexer.Position{}, "loops are nested %d deep, more than %d", depth, maxIRNesting)
	}
	tree, err := irGrammar.ParseString(file, text)
	if err != nil {
		var perr participle.Error
		if errors.As(err, &perr) {
			return nil, fail(perr.Position(), "%s", perr.Message())
		}
		return nil, fail(lexer.Position{}, "%v", err)
	}
	r := &irReader{f: &ir.Func{Name: tree.Name, Body: &ir.Block{}}, values: map[string]*ir.Value{}, fail: fail}
	if err := r.file(tree); err != nil {
		return nil, err
	}
	if err := ir.Verify(r.f); err != nil {
		return nil, fail(lexer.Position{}, "%v", err)
	}
	return r.f, nil
}

// braceDepth returns how deep braces are nested, outside of texts and comments.
func braceDepth(text string) (deepest int) {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '\n':
			quoted = false
		case c == '"':
			quoted = !quoted
		case quoted:
		case strings.HasPrefix(text[i:], "//"):
			if end := strings.IndexByte(text[i:], '\n'); end >= 0 {
				i += end
			} else {
				i = len(text)
			}
		case c == '{':
			depth++
			deepest = max(deepest, depth)
		case c == '}':
			depth--
		}
	}
	return deepest
}

type irReader struct {
	f      *ir.Func
	values map[string]*ir.Value
	fail   func(pos lexer.Position, format string, args ...any) error
}

func (r *irReader) file(t *irFile) error {
	for _, s := range t.Symbols {
		n, err := strconv.Atoi(s.Size)
		if err != nil || n < 1 {
			return r.fail(s.Pos, "the size of %s, %s, is not a whole number above 0", s.Name, s.Size)
		}
		if r.f.Symbol(s.Name) > 0 {
			return r.fail(s.Pos, "the size of %s is given twice", s.Name)
		}
		r.f.Symbols = append(r.f.Symbols, ir.Symbol{Name: s.Name, Size: n, Dynamic: s.Dynamic})
	}
	for _, p := range t.Params {
		if err := r.param(p); err != nil {
			return err
		}
	}
	for _, in := range t.Inputs {
		typ, err := r.typ(in.Pos, in.Type)
		if err != nil {
			return err
		}
		v := &ir.Value{Name: in.Name[1:], Type: typ, Axis: in.Axis}
		r.f.Inputs = append(r.f.Inputs, v)
		r.values[in.Name] = v
	}
	if err := r.block(r.f.Body, t.Body); err != nil {
		return err
	}
	var err error
	r.f.Results, err = r.refs(t.Results, r.f.Body)
	return err
}

func (r *irReader) param(p *irParam) error {
	typ, err := r.typ(p.Pos, p.Type)
	if err != nil {
		return err
	}
	q := &ir.Param{Name: p.Name[1:], Type: typ, Axis: p.Axis, Cache: p.Kind == "cache"}
	if p.Axis != "" {
		if _, err := fmt.Sscanf(p.Range, "%d..%d", &q.From, &q.To); err != nil || q.From >= q.To || q.To > maxIRIndex {
			return r.fail(p.Pos, "%s is not a range of %s such as 0..8", p.Range, p.Axis)
		}
	}
	for _, name := range p.Parts {
		part := r.f.Param(name[1:])
		if part == nil {
			return r.fail(p.Pos, "no parameter %s to pack", name)
		}
		q.Parts = append(q.Parts, part)
		q.Decay = part.Decay
	}
	attrs, err := r.attrs(p.Attrs)
	if err != nil {
		return err
	}
	if !q.Cache && len(q.Parts) == 0 {
		q.Init.Kind, _ = attrs["init"].(string)
		q.Init.Scale, _ = attrs["scale"].(float64)
		q.Decay, _ = attrs["decay"].(bool)
	}
	q.Pos, _ = origin(p.Comment)
	q.Value = &ir.Value{Name: q.Name, Type: q.Type, Param: q}
	r.f.Params = append(r.f.Params, q)
	r.values[p.Name] = q.Value
	return nil
}

// comments have the place in the spec, and the pass that wrote the op.
var commentForm = regexp.MustCompile(`^//(?: (.+):([0-9]{1,9}):([0-9]{1,9}))?(?: by ([a-z-]+))?$`)

// origin reads the comment after an op.
func origin(comment string) (pos spec.Pos, by string) {
	m := commentForm.FindStringSubmatch(comment)
	if m == nil {
		return pos, ""
	}
	if m[1] != "" {
		pos.File = m[1]
		pos.Line, _ = strconv.Atoi(m[2])
		pos.Col, _ = strconv.Atoi(m[3])
	}
	return pos, m[4]
}

// typ reads f32[B,T,H*E].
func (r *irReader) typ(pos lexer.Position, text string) (ir.Type, error) {
	name, dims, _ := strings.Cut(strings.TrimSuffix(text, "]"), "[")
	t := ir.Type{DType: ir.DType(name)}
	if strings.TrimSpace(dims) == "" {
		return t, nil
	}
	elems := 1.0
	for _, expr := range strings.Split(dims, ",") {
		expr = strings.TrimSpace(expr)
		tree, fault := parseExpression(expr)
		if fault != nil {
			return t, r.fail(pos, "dimension %q: %s", expr, fault.text)
		}
		n, err := r.dim(tree)
		if err != nil {
			return t, r.fail(pos, "dimension %q: %v", expr, err)
		}
		if elems *= n; !(n >= 1) || n != math.Trunc(n) || elems > maxIRElems {
			return t, r.fail(pos, "dimension %q is %g, in a value of %g elements", expr, n, elems)
		}
		t.Dims = append(t.Dims, ir.Dim{Expr: expr, Size: int(n)})
	}
	return t, nil
}

// dim evaluates a dimension over the function's symbols.
func (r *irReader) dim(t *term) (float64, error) {
	if t.op == "number" {
		return strconv.ParseFloat(t.text, 64)
	}
	if t.op == "call" && !t.open {
		for _, s := range r.f.Symbols {
			if s.Name == t.text {
				return float64(s.Size), nil
			}
		}
		return 0, fmt.Errorf("no symbol %s", t.text)
	}
	if len(t.args) != 2 {
		return 0, fmt.Errorf("only + and * of symbols and numbers")
	}
	a, err := r.dim(t.args[0])
	if err != nil {
		return 0, err
	}
	b, err := r.dim(t.args[1])
	if err != nil {
		return 0, err
	}
	switch t.op {
	case "+":
		return a + b, nil
	case "*":
		return a * b, nil
	}
	return 0, fmt.Errorf("only + and * of symbols and numbers")
}

// refs finds the values that an op in block from reads.
func (r *irReader) refs(list []*irRef, from *ir.Block) ([]*ir.Value, error) {
	var vs []*ir.Value
	for _, ref := range list {
		if ref.Name == "_" && ref.Index == "" {
			vs = append(vs, nil)
			continue
		}
		v := r.values[ref.Name]
		if v == nil {
			return nil, r.fail(ref.Pos, "no value %s before this", ref.Name)
		}
		written := ref.Name
		if ref.Index != "" {
			written += "[" + ref.Index + "]"
		}
		if want := ir.Ref(v, from); written != want {
			return nil, r.fail(ref.Pos, "%s is %s here", written, want)
		}
		vs = append(vs, v)
	}
	return vs, nil
}

func (r *irReader) define(v *irTyped, at lexer.Position, b *ir.Block, op *ir.Op) (*ir.Value, error) {
	typ, err := r.typ(at, v.Type)
	if err != nil {
		return nil, err
	}
	if r.values[v.Name] != nil {
		return nil, r.fail(at, "%s is defined twice", v.Name)
	}
	x := &ir.Value{Name: v.Name[1:], Type: typ, Op: op, Block: b}
	r.values[v.Name] = x
	return x, nil
}

func (r *irReader) block(b *ir.Block, stmts []*irStmt) error {
	for _, s := range stmts {
		op := &ir.Op{Block: b, Attrs: ir.Attrs{}}
		var err error
		if s.Loop != nil {
			err = r.loop(op, s)
		} else {
			err = r.op(op, s.Op)
		}
		if err != nil {
			return err
		}
		for _, v := range s.Results {
			x, err := r.define(v, s.Pos, b, op)
			if err != nil {
				return err
			}
			op.Results = append(op.Results, x)
		}
		b.Ops = append(b.Ops, op)
	}
	return nil
}

func (r *irReader) op(op *ir.Op, t *irOp) (err error) {
	op.Kind = t.Kind
	if op.Args, err = r.refs(t.Args, op.Block); err != nil {
		return err
	}
	if op.Into, err = r.refs(t.Into, op.Block); err != nil {
		return err
	}
	if op.Attrs, err = r.attrs(t.Attrs); err != nil {
		return err
	}
	op.Pos, op.By = origin(t.Comment)
	return nil
}

func (r *irReader) attrs(list []*irAttr) (ir.Attrs, error) {
	out := ir.Attrs{}
	for _, a := range list {
		switch v := a.Value; {
		case v.Number != "":
			if n, err := strconv.Atoi(v.Number); err == nil {
				out[a.Name] = n
				continue
			}
			x, err := strconv.ParseFloat(v.Number, 64)
			if err != nil {
				return nil, r.fail(a.Pos, "%s: %s is not a number", a.Name, v.Number)
			}
			out[a.Name] = x
		case v.Bool != "":
			out[a.Name] = v.Bool == "true"
		case v.Text != nil:
			s, err := strconv.Unquote(*v.Text)
			if err != nil {
				return nil, r.fail(a.Pos, "%s: %s is not a text", a.Name, *v.Text)
			}
			out[a.Name] = s
		default:
			texts := make([]string, len(v.List))
			for i, q := range v.List {
				s, err := strconv.Unquote(q)
				if err != nil {
					return nil, r.fail(a.Pos, "%s: %s is not a text", a.Name, q)
				}
				texts[i] = s
			}
			if a.Name != "mask" {
				out[a.Name] = texts
				continue
			}
			patterns := make([]spec.Pattern, len(texts))
			for i, s := range texts {
				p, err := Pattern(s)
				if err != nil {
					return nil, r.fail(a.Pos, "%s: %v", a.Name, err)
				}
				patterns[i] = p
			}
			out[a.Name] = patterns
		}
	}
	return out, nil
}

func (r *irReader) loop(op *ir.Op, s *irStmt) error {
	t := s.Loop
	l := &ir.Loop{Var: t.Var, Axis: t.Axis, Step: 1, Body: &ir.Block{Loop: op}}
	op.Kind, op.Loop = "for", l
	op.Pos, op.By = origin(t.Comment)
	lo, hi, _ := strings.Cut(t.Range, "..")
	from, within, err1 := bound(lo)
	to, within2, err2 := bound(hi)
	if err1 != nil || err2 != nil || within != within2 || from > maxIRIndex || to > maxIRIndex {
		return r.fail(s.Pos, "%s is not a range such as 0..8, 8..0 or s..s+2", t.Range)
	}
	if from > to {
		from, to, l.Reverse = to, from, true
	}
	l.From, l.To, l.Within = from, to, within
	for _, n := range []struct {
		text string
		to   *int
	}{{t.Step, &l.Step}, {t.Limit, &l.Limit}} {
		if n.text == "" {
			continue
		}
		x, err := strconv.Atoi(n.text)
		if err != nil || x < 1 || x > maxIRIndex {
			return r.fail(s.Pos, "%s is not a number of indices", n.text)
		}
		*n.to = x
	}
	for _, c := range t.Carries {
		inits, err := r.refs([]*irRef{c.Init}, op.Block)
		if err != nil {
			return err
		}
		if inits[0] == nil {
			return r.fail(c.Init.Pos, "a carry starts as a value, not _")
		}
		op.Args = append(op.Args, inits[0])
		v, err := r.define(c.Value, s.Pos, l.Body, nil)
		if err != nil {
			return err
		}
		l.Carries = append(l.Carries, v)
	}
	if err := r.block(l.Body, t.Body); err != nil {
		return err
	}
	yield, err := r.refs(t.Yield, l.Body)
	if err != nil {
		return err
	}
	for i, y := range yield {
		if y == nil {
			return r.fail(t.Yield[i].Pos, "a loop yields values, not _")
		}
	}
	l.Yield = yield
	return nil
}

// bound reads one end of a range: 8, s or s+2.
func bound(text string) (n int, within string, err error) {
	if text[0] >= '0' && text[0] <= '9' {
		n, err = strconv.Atoi(text)
		return n, "", err
	}
	within, plus, ok := strings.Cut(text, "+")
	if ok {
		n, err = strconv.Atoi(plus)
	}
	return n, within, err
}

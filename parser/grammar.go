package parser

import (
	"errors"
	"fmt"
	"strings"

	"github.com/alecthomas/participle/v2"
	"github.com/alecthomas/participle/v2/lexer"
)

// The small language inside a spec's values: arithmetic, calls, lists, attention patterns and schedules. It has one
// grammar, so that a slip is told in the words of the value it stands in, and not as bad syntax.
//
//	phases   = either { "->" either }            warmup(100) -> cosine(to: 0.1)
//	either   = both { "|" both }                 window(128) | global(16)
//	both     = sum { "&" sum }                   causal & window(256)
//	sum      = product { ("+" | "-") product }
//	product  = unary { ("*" | "/") unary }
//	unary    = [ "-" ] primary
//	primary  = Number | call | list | "(" phases ")"
//	call     = Ident [ "(" [ arg { "," arg } [ "," ] ] ")" ]
//	arg      = [ Ident ":" ] phases
//	list     = "[" [ phases { "," phases } [ "," ] ] "]"
type (
	phasesNode struct {
		Terms []*eitherNode `parser:"@@ ( '->' @@ )*"`
	}
	eitherNode struct {
		Terms []*bothNode `parser:"@@ ( '|' @@ )*"`
	}
	bothNode struct {
		Terms []*sumNode `parser:"@@ ( '&' @@ )*"`
	}
	sumNode struct {
		First *productNode `parser:"@@"`
		Rest  []*sumTail   `parser:"@@*"`
	}
	sumTail struct {
		Op   string       `parser:"@( '+' | '-' )"`
		Term *productNode `parser:"@@"`
	}
	productNode struct {
		First *unaryNode     `parser:"@@"`
		Rest  []*productTail `parser:"@@*"`
	}
	productTail struct {
		Op   string     `parser:"@( '*' | '/' )"`
		Term *unaryNode `parser:"@@"`
	}
	unaryNode struct {
		Pos   lexer.Position
		Minus bool         `parser:"@'-'?"`
		Value *primaryNode `parser:"@@"`
	}
	primaryNode struct {
		Pos    lexer.Position
		Number string      `parser:"  @Number"`
		Call   *callNode   `parser:"| @@"`
		List   *listNode   `parser:"| @@"`
		Paren  *phasesNode `parser:"| '(' @@ ')'"`
	}
	callNode struct {
		Name string     `parser:"@Ident"`
		Open bool       `parser:"( @'('"`
		Args []*argNode `parser:"  ( @@ ( ',' @@ )* ','? )? ')' )?"`
	}
	argNode struct {
		Pos   lexer.Position
		Name  string      `parser:"( @Ident ':' )?"`
		Value *phasesNode `parser:"@@"`
	}
	listNode struct {
		Open  string        `parser:"@'['"`
		Items []*phasesNode `parser:"( @@ ( ',' @@ )* ','? )? ']'"`
	}
)

var expressionLexer = lexer.MustSimple([]lexer.SimpleRule{
	{Name: "Number", Pattern: `([0-9][0-9_]*(\.[0-9]+)?|\.[0-9]+)([eE][-+]?[0-9]+)?([A-Za-z_]+|%)?`},
	{Name: "Ident", Pattern: `[A-Za-z_][A-Za-z0-9_]*`},
	{Name: "Punct", Pattern: `->|[-+*/&|()\[\],:]`},
	{Name: "Space", Pattern: `\s+`},
	{Name: "Other", Pattern: `.`},
})

var expressionParser = participle.MustBuild[phasesNode](
	participle.Lexer(expressionLexer), participle.Elide("Space"), participle.UseLookahead(2))

// Limits of one expression.
const (
	maxExpression = 4096 // bytes
	maxNesting    = 24   // brackets in brackets
)

// term is an expression. Its op is number, call (a bare name too), list, neg, or an infix operator.
type term struct {
	op    string
	off   int    // first byte in the expression's text
	text  string // of a number, or the name of a call
	open  bool   // a call with parentheses
	args  []*term
	names []argName // of a call's arguments
}

// argName is the name before an argument, or "".
type argName struct {
	text string
	off  int
}

// syntaxFault says what is wrong with an expression, and at which byte.
type syntaxFault struct {
	off  int
	text string
}

func (f *syntaxFault) Error() string { return f.text }

// parseExpression parses a value's text.
func parseExpression(text string) (*term, *syntaxFault) {
	if len(text) > maxExpression {
		return nil, &syntaxFault{0, fmt.Sprintf("the expression is longer than %d bytes; a list can stand as YAML items, one a line", maxExpression)}
	}
	depth := 0
	for i, r := range text {
		switch r {
		case '(', '[':
			if depth++; depth > maxNesting {
				return nil, &syntaxFault{i, fmt.Sprintf("brackets are nested more than %d deep", maxNesting)}
			}
		case ')', ']':
			depth--
		}
	}
	tree, err := expressionParser.ParseString("", text)
	if err == nil {
		return tree.term(), nil
	}
	var unexpected *participle.UnexpectedTokenError
	if errors.As(err, &unexpected) && !unexpected.Unexpected.EOF() {
		return nil, &syntaxFault{unexpected.Unexpected.Pos.Offset, fmt.Sprintf("unexpected %q in an expression", unexpected.Unexpected.Value)}
	}
	return nil, &syntaxFault{len(text), "the expression ends too soon"}
}

// infix joins terms by one operator that takes any number of operands.
func infix[T interface{ term() *term }](op string, nodes []T) *term {
	first := nodes[0].term()
	if len(nodes) == 1 {
		return first
	}
	t := &term{op: op, off: first.off, args: []*term{first}}
	for _, n := range nodes[1:] {
		t.args = append(t.args, n.term())
	}
	return t
}

func (n *phasesNode) term() *term { return infix("->", n.Terms) }
func (n *eitherNode) term() *term { return infix("|", n.Terms) }
func (n *bothNode) term() *term   { return infix("&", n.Terms) }

func (n *sumNode) term() *term {
	t := n.First.term()
	for _, r := range n.Rest {
		t = &term{op: r.Op, off: t.off, args: []*term{t, r.Term.term()}}
	}
	return t
}

func (n *productNode) term() *term {
	t := n.First.term()
	for _, r := range n.Rest {
		t = &term{op: r.Op, off: t.off, args: []*term{t, r.Term.term()}}
	}
	return t
}

func (n *unaryNode) term() *term {
	t := n.Value.term()
	if n.Minus {
		return &term{op: "neg", off: n.Pos.Offset, args: []*term{t}}
	}
	return t
}

func (n *primaryNode) term() *term {
	switch {
	case n.Call != nil:
		t := &term{op: "call", off: n.Pos.Offset, text: n.Call.Name, open: n.Call.Open}
		for _, a := range n.Call.Args {
			t.args = append(t.args, a.Value.term())
			t.names = append(t.names, argName{a.Name, a.Pos.Offset})
		}
		return t
	case n.List != nil:
		t := &term{op: "list", off: n.Pos.Offset}
		for _, item := range n.List.Items {
			t.args = append(t.args, item.term())
		}
		return t
	case n.Paren != nil:
		t := n.Paren.term()
		inner := *t
		inner.off = n.Pos.Offset
		return &inner
	}
	return &term{op: "number", off: n.Pos.Offset, text: n.Number}
}

// precedence orders the operators; what binds tighter is higher.
var precedence = map[string]int{"->": 1, "|": 2, "&": 3, "+": 4, "-": 4, "*": 5, "/": 5, "neg": 6, "number": 7, "call": 7, "list": 7}

// String writes the term in the canonical layout.
func (t *term) String() string { return t.print(nil) }

// print writes the term, with the names that value knows replaced by what it returns.
func (t *term) print(value func(name string) string) string {
	var b strings.Builder
	t.write(&b, value)
	return b.String()
}

func (t *term) write(b *strings.Builder, value func(name string) string) {
	operand := func(a *term, least int) {
		if precedence[a.op] < least {
			b.WriteByte('(')
			defer b.WriteByte(')')
		}
		a.write(b, value)
	}
	switch t.op {
	case "number":
		b.WriteString(t.text)
	case "neg":
		b.WriteByte('-')
		operand(t.args[0], precedence["neg"]+1)
	case "call", "list":
		brackets := "()"
		if t.op == "list" {
			brackets = "[]"
		} else if !t.open {
			brackets = ""
			if s := t.text; value == nil || value(s) == "" {
				b.WriteString(s)
			} else {
				b.WriteString(value(s))
			}
		} else {
			b.WriteString(t.text)
		}
		if brackets == "" {
			return
		}
		b.WriteByte(brackets[0])
		for i, a := range t.args {
			if i > 0 {
				b.WriteString(", ")
			}
			if t.op == "call" && t.names[i].text != "" {
				b.WriteString(t.names[i].text + ": ")
			}
			a.write(b, value)
		}
		b.WriteByte(brackets[1])
	default:
		p := precedence[t.op]
		for i, a := range t.args {
			least := p
			if i > 0 {
				b.WriteString(" " + t.op + " ")
				least++ // a - (b + c), and a nested list of phases keeps its parentheses
			}
			operand(a, least)
		}
	}
}

// bareNames lists the bare names in the term, in the order of the text, with their places.
func (t *term) bareNames() []argName {
	if t.op == "call" && !t.open {
		return []argName{{t.text, t.off}}
	}
	var names []argName
	for _, a := range t.args {
		names = append(names, a.bareNames()...)
	}
	return names
}

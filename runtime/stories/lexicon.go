package stories

import (
	"bufio"
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"sync"
)

//go:embed data/*.txt plots/*.txt
var files embed.FS

// lexicon is all that stories are made of.
type lexicon struct {
	tables  map[string][]*entry
	phrases map[string][]template
	plots   []*plot
	words   irregular
}

// entry is a row of a table: what it is called, whom it may stand beside, and what belongs to it.
type entry struct {
	word  string // as written in the table
	head  template
	attrs map[string][]template
	tags  []string
	sex   int // index into a pair of pronouns, or thing
}

const thing = -1

func (e *entry) person() bool { return e.sex != thing }

// plot is a kind of story: what to draw, then the beats, each a list of sentences to choose from; nil starts a
// paragraph.
type plot struct {
	name  string
	draws []draw
	beats [][]template
}

// draw binds a slot to an entry that has all tags.
type draw struct {
	slot string
	from []*entry
	tags []string
}

// grammar reads the tables once. They are part of the program, so a mistake in them is a mistake in the program.
var grammar = sync.OnceValue(func() *lexicon {
	g, err := load(files)
	if err != nil {
		panic("stories: " + err.Error())
	}
	return g
})

func load(f fs.FS) (*lexicon, error) {
	g := &lexicon{tables: map[string][]*entry{}, phrases: map[string][]template{}, words: irregular{
		plural: map[string]string{}, past: map[string]string{}, participle: map[string]string{}}}
	read := func(pattern string, line func(name, line string) error) error {
		names, err := fs.Glob(f, pattern)
		if err != nil {
			return err
		}
		for _, name := range names {
			if err := readLines(f, name, line); err != nil {
				return err
			}
		}
		return nil
	}
	if err := read("data/*.txt", g.dataLine()); err != nil {
		return nil, err
	}
	if err := g.expand(); err != nil {
		return nil, err
	}
	return g, read("plots/*.txt", g.plotLine())
}

// readLines calls line with the name of the file, without folder and extension, and each line that is no comment.
func readLines(f fs.FS, file string, line func(name, line string) error) error {
	r, err := f.Open(file)
	if err != nil {
		return err
	}
	defer r.Close()
	name := strings.TrimSuffix(path.Base(file), ".txt")
	s := bufio.NewScanner(r)
	for n := 1; s.Scan(); n++ {
		if strings.HasPrefix(s.Text(), "#") {
			continue
		}
		if err := line(name, strings.TrimSpace(s.Text())); err != nil {
			return fmt.Errorf("%s:%d: %w", file, n, err)
		}
	}
	return s.Err()
}

// dataLine reads tables: [name] starts one, and what it holds follows from the file that it stands in.
func (g *lexicon) dataLine() func(file, line string) error {
	section := ""
	return func(file, line string) error {
		if line == "" {
			return nil
		}
		if s, ok := strings.CutPrefix(line, "["); ok && strings.HasSuffix(s, "]") && !strings.ContainsAny(s, "| ") {
			section = strings.TrimSuffix(s, "]")
			return nil
		}
		switch file {
		case "irregular":
			from, to, ok := strings.Cut(line, " ")
			m := map[string]map[string]string{"plural": g.words.plural, "past": g.words.past, "participle": g.words.participle}[section]
			if !ok || m == nil {
				return fmt.Errorf("%q is not a word and its form under [plural], [past] or [participle]", line)
			}
			m[from] = to
		case "phrases":
			t, err := parseTemplate(line)
			if err != nil {
				return err
			}
			g.phrases[section] = append(g.phrases[section], t)
		default:
			e, err := parseEntry(line)
			if err != nil {
				return err
			}
			g.tables[section] = append(g.tables[section], e)
		}
		return nil
	}
}

// parseEntry reads "head; tag tag; attribute=value|value; ...". The tags male and female make a person.
func parseEntry(line string) (*entry, error) {
	e := &entry{attrs: map[string][]template{}, sex: thing}
	for i, part := range strings.Split(line, ";") {
		part = strings.TrimSpace(part)
		if i == 0 {
			e.word = part
			var err error
			if e.head, err = parseTemplate(part); err != nil {
				return nil, err
			}
			continue
		}
		key, values, ok := strings.Cut(part, "=")
		if !ok {
			e.tags = append(e.tags, strings.Fields(part)...)
			continue
		}
		for _, v := range strings.Split(values, "|") {
			t, err := parseTemplate(strings.TrimSpace(v))
			if err != nil {
				return nil, err
			}
			e.attrs[key] = append(e.attrs[key], t)
		}
	}
	for _, tag := range e.tags {
		switch tag {
		case "male":
			e.sex, e.tags = 0, append(e.tags, "he")
		case "female":
			e.sex, e.tags = 1, append(e.tags, "she")
		}
	}
	return e, nil
}

// expand replaces a value @table by the heads of that table.
func (g *lexicon) expand() error {
	for _, table := range g.tables {
		for _, e := range table {
			for key, values := range e.attrs {
				var all []template
				for _, v := range values {
					name, ok := "", false
					if len(v) == 1 {
						name, ok = strings.CutPrefix(v[0].lit, "@")
					}
					if !ok {
						all = append(all, v)
						continue
					}
					if g.tables[name] == nil {
						return fmt.Errorf("%s: %s: no table %q", e.word, key, name)
					}
					for _, other := range g.tables[name] {
						all = append(all, other.head)
					}
				}
				e.attrs[key] = all
			}
		}
	}
	return nil
}

// plotLine reads plots. First come the draws: "slot = table tag tag" or "slot: entry", one line for each entry that only
// this plot knows. Then, after empty lines, the beats, a line for each way to tell it; --- starts a paragraph.
func (g *lexicon) plotLine() func(file, line string) error {
	var p *plot
	fresh := false
	return func(file, line string) error {
		if p == nil || p.name != file {
			p = &plot{name: file}
			g.plots, fresh = append(g.plots, p), false
		}
		switch {
		case line == "":
			fresh = true
			return nil
		case !fresh && len(p.beats) == 0:
			return g.drawLine(p, line)
		case line == "---":
			p.beats, fresh = append(p.beats, nil), true
			return nil
		}
		t, err := parseTemplate(line)
		if err != nil {
			return err
		}
		if fresh {
			p.beats, fresh = append(p.beats, nil), false
		}
		beat := &p.beats[len(p.beats)-1]
		*beat = append(*beat, t)
		return nil
	}
}

func (g *lexicon) drawLine(p *plot, line string) error {
	if slot, row, ok := strings.Cut(line, ": "); ok && !strings.ContainsAny(slot, " =;") {
		e, err := parseEntry(row)
		if err != nil {
			return err
		}
		if n := len(p.draws); n == 0 || p.draws[n-1].slot != slot {
			p.draws = append(p.draws, draw{slot: slot})
		}
		d := &p.draws[len(p.draws)-1]
		d.from = append(d.from, e)
		return nil
	}
	slot, from, ok := strings.Cut(line, " = ")
	words := strings.Fields(from)
	if !ok || len(words) == 0 || g.tables[words[0]] == nil {
		return fmt.Errorf("%q is not slot = table tags", line)
	}
	p.draws = append(p.draws, draw{slot, g.tables[words[0]], words[1:]})
	return nil
}

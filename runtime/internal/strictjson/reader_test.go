package strictjson

import (
	"encoding/json"
	"reflect"
	"strings"
	"testing"
)

func parse(text string) (any, error) {
	r := NewReader([]byte(text))
	v, err := r.Any()
	if err == nil {
		err = r.End()
	}
	return v, err
}

func TestAccepts(t *testing.T) {
	cases := map[string]any{
		` {"n": 1, "N": 2} `:            map[string]any{"n": json.Number("1"), "N": json.Number("2")},
		`[]`:                            []any{},
		`{}`:                            map[string]any{},
		`[true, false, null, ""]`:       []any{true, false, nil, ""},
		`"aé\n\u00e9\ud83d\ude00\"/\/"`: "aé\né😀\"//",
		`-0.5e+10`:                      json.Number("-0.5e+10"),
		`[0, -1]`:                       []any{json.Number("0"), json.Number("-1")},
	}
	for text, want := range cases {
		if got, err := parse(text); err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %#v, %v, want %#v", text, got, err, want)
		}
	}
}

func TestRefuses(t *testing.T) {
	nine := `{"a":1,"b":1,"c":1,"d":1,"e":1,"f":1,"g":1,"h":1,"i":1,`
	cases := []struct{ text, want string }{
		{`{"a":1,"a":2}`, `"a" is given twice`},
		{`{"a":1,"\u0061":2}`, `"a" is given twice`},
		{nine + `"i":1}`, `"i" is given twice`},
		{nine + `"a":1}`, `"a" is given twice`},
		{`{} {}`, "more text after the end"},
		{"\"\xff\"", "not valid UTF-8"},
		{"\"\\n\xff\"", "not valid UTF-8"},
		{`"\ud800"`, "surrogate"},
		{`"\ud800\u0041"`, "surrogate"},
		{`"\udc00"`, "surrogate"},
		{`"\x"`, "unknown escape"},
		{`"\u12g4"`, "hexadecimal"},
		{`"\u12`, "ends inside a string"},
		{`"\`, "ends inside a string"},
		{"\"\n\"", "control character"},
		{`"a`, "ends inside a string"},
		{`01`, "a value is expected"},
		{`1.`, "a value is expected"},
		{`.5`, "a value is expected"},
		{`1e`, "a value is expected"},
		{`+1`, "a value is expected"},
		{`NaN`, "a value is expected"},
		{``, "the text ends"},
		{`[1,]`, "a value is expected"},
		{`[1 2]`, `',' is expected`},
		{`{"a":1,}`, `'"' is expected`},
		{`{"a" 1}`, `':' is expected`},
		{`{a:1}`, `'"' is expected`},
		{`{"a":`, "the text ends"},
		{strings.Repeat("[", 100_000), "nested more than 64"},
		{strings.Repeat(`{"a":`, 100_000), "nested more than 64"},
	}
	for _, c := range cases {
		if _, err := parse(c.text); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%.40s: got %v, want an error with %q", c.text, err, c.want)
		}
		if err := NewReader([]byte(c.text)).Skip(); err == nil && c.want != "more text after the end" {
			t.Errorf("%.40s: Skip accepts it", c.text)
		}
	}
}

func TestUint(t *testing.T) {
	for text, want := range map[string]uint64{"0": 0, "18446744073709551615": 1<<64 - 1} {
		if got, err := NewReader([]byte(text)).Uint(); err != nil || got != want {
			t.Errorf("%s: got %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"-1", "1.0", "1e3", "18446744073709551616", "null", `"1"`, "00"} {
		if got, err := NewReader([]byte(text)).Uint(); err == nil {
			t.Errorf("%s: read as %d", text, got)
		}
	}
}

// encoding/json is the looser reader: whatever this one accepts, it accepts too, with the same meaning.
func FuzzAny(f *testing.F) {
	for _, s := range []string{`{"a":[1,2.5e-3,"x\u00e9"],"b":null}`, `{"a":1,"a":2}`, `"\ud83d\ude00"`, `[[[]]]`, `00`, `tru`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, err := parse(text)
		if err != nil {
			return
		}
		d := json.NewDecoder(strings.NewReader(text))
		d.UseNumber()
		var want any
		if err := d.Decode(&want); err != nil {
			t.Fatalf("encoding/json refuses %q: %v", text, err)
		}
		if !reflect.DeepEqual(got, want) {
			t.Fatalf("%q: got %#v, encoding/json reads %#v", text, got, want)
		}
	})
}

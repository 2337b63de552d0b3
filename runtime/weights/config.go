package weights

import (
	"encoding/json"
	"fmt"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/tfc-dev/tfc/runtime/internal/disk"
	"github.com/tfc-dev/tfc/runtime/internal/strictjson"
)

// CompareConfig compares a model folder's config.json with the settings that a program was compiled for, a JSON object.
// Every setting wanted must be in the file with the same value (numbers by value: 1e-05 is 0.00001, and null is the same
// as absent); settings that only the file has are not looked at, and nothing that the file names is opened or run. The
// error lists the fields that differ, as "n_layer: 16 in the file, 12 in the program".
func CompareConfig(dir string, want []byte) error {
	path, err := inside(dir, configFile)
	if err != nil {
		return err
	}
	data, err := disk.ReadFile(disk.OS{}, path, maxConfig)
	if err != nil {
		return err
	}
	have, err := parseConfig(data)
	if err != nil {
		return fmt.Errorf("%s: %w", filepath.Join(dir, configFile), err)
	}
	wanted, err := parseConfig(want)
	if err != nil {
		return fmt.Errorf("the program's settings: %w", err)
	}
	var wrong problems
	compareSettings(&wrong, "", have, wanted)
	return wrong.err(filepath.Join(dir, configFile))
}

func parseConfig(data []byte) (settings map[string]any, err error) {
	r := strictjson.NewReader(data)
	if r.Peek() != '{' {
		return nil, r.Errorf("an object is expected")
	}
	v, err := r.Any()
	if err == nil {
		err = r.End()
	}
	if err != nil {
		return nil, err
	}
	return v.(map[string]any), nil
}

func compareSettings(wrong *problems, prefix string, have, want map[string]any) {
	for _, key := range slices.Sorted(maps.Keys(want)) {
		h, w := have[key], want[key]
		inner, isObject := w.(map[string]any)
		if haveInner, ok := h.(map[string]any); ok && isObject {
			compareSettings(wrong, prefix+key+".", haveInner, inner)
		} else if !sameSetting(h, w) {
			wrong.add("%s%s: %s in the file, %s in the program", prefix, key, show(have, key), show(want, key))
		}
	}
}

func sameSetting(a, b any) bool {
	switch a := a.(type) {
	case json.Number:
		b, ok := b.(json.Number)
		return ok && sameNumber(string(a), string(b))
	case []any:
		b, ok := b.([]any)
		return ok && slices.EqualFunc(a, b, sameSetting)
	}
	return reflect.DeepEqual(a, b)
}

// sameNumber compares whole numbers exactly and others as float64.
func sameNumber(a, b string) bool {
	if i, err := strconv.ParseInt(a, 10, 64); err == nil {
		if j, err := strconv.ParseInt(b, 10, 64); err == nil {
			return i == j
		}
	}
	x, errX := strconv.ParseFloat(a, 64)
	y, errY := strconv.ParseFloat(b, 64)
	return errX == nil && errY == nil && x == y || a == b
}

// show prints a setting, cut short where it is long.
func show(settings map[string]any, key string) string {
	v, ok := settings[key]
	if !ok {
		return "absent"
	}
	text, err := json.Marshal(v)
	if err != nil {
		return fmt.Sprint(v)
	}
	if len(text) > 80 {
		return strings.ToValidUTF8(string(text[:80]), "") + "…"
	}
	return string(text)
}

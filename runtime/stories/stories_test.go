package stories

import "testing"

func TestShow(t *testing.T) {
	for s := range Generate(1, 40) {
		t.Log("\n" + s)
	}
}

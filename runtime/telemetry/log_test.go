package telemetry

import (
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func record(step int) Record {
	r := Record{Step: step, Loss: 1 / float64(step), GradNorm: 0.5, LR: 1e-3, TokensPerSecond: 1000, Elapsed: float64(step)}
	if step%2 == 0 {
		loss := 2.5
		r.EvalLoss = &loss
	}
	return r
}

func writeRecords(t *testing.T, path string, after, first, last int) {
	t.Helper()
	l, err := OpenLog(path, after)
	if err != nil {
		t.Fatal(err)
	}
	for s := first; s <= last; s++ {
		if err := l.Write(record(s)); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestLogContinuesAsIfUnbroken(t *testing.T) {
	dir := t.TempDir()
	whole := filepath.Join(dir, "whole.jsonl")
	writeRecords(t, whole, 0, 1, 9)
	want, _ := os.ReadFile(whole)
	for stop := 0; stop <= 9; stop++ {
		for _, torn := range []string{"", "{\"step\":", "{}\n", "\n", "\x00\x00", "{\"step\":3}", strings.Repeat("x", 1<<20)} {
			path := filepath.Join(dir, "broken.jsonl")
			os.Remove(path)
			writeRecords(t, path, 0, 1, 7)
			if f, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0); err != nil {
				t.Fatal(err)
			} else if _, err = f.WriteString(torn); err != nil {
				t.Fatal(err)
			} else if err = f.Close(); err != nil {
				t.Fatal(err)
			}
			writeRecords(t, path, stop, min(stop, 7)+1, 9)
			if got, _ := os.ReadFile(path); string(got) != string(want) {
				t.Errorf("stopped after step %d with the tail %.20q: log\n%s", stop, torn, got)
			}
		}
	}
	records, err := ReadLog(whole)
	if err != nil || len(records) != 9 || !reflect.DeepEqual(records[3], record(4)) {
		t.Errorf("read %v, %v", records, err)
	}
}

func TestLogErrors(t *testing.T) {
	if r, err := ReadLog(filepath.Join(t.TempDir(), "none")); r != nil || err != nil {
		t.Errorf("a missing log gives %v, %v", r, err)
	}
	dir := t.TempDir()
	if _, err := ReadLog(dir); err == nil || !strings.Contains(err.Error(), dir) {
		t.Errorf("reading a folder: %v", err)
	}
	if _, err := OpenLog(filepath.Join(dir, "no", "log"), 0); err == nil || !strings.Contains(err.Error(), "no/log") {
		t.Errorf("no folder: %v", err)
	}
	if _, err := os.Stat("/dev/full"); err == nil {
		if f, err := os.OpenFile("/dev/full", os.O_WRONLY, 0); err == nil {
			l := &Log{f: f, path: "/dev/full"}
			if err := l.Write(record(1)); err == nil || !strings.Contains(err.Error(), "/dev/full") {
				t.Errorf("a full disk: %v", err)
			}
			f.Close()
		}
	}
}

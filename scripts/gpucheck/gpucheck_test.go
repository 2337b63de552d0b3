package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func read(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// script writes a program that stands for one which is not here.
func script(t *testing.T, file, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("#!/bin/sh\n"+text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// newBench is a bench in a folder of the test's own.
func newBench(t *testing.T, part string) *bench {
	t.Helper()
	dir := t.TempDir()
	b := &bench{ctx: t.Context(), part: part, root: dir, folder: filepath.Join(dir, "built"), results: filepath.Join(dir, "out"), device: "cuda"}
	for _, d := range []string{b.folder, filepath.Join(b.results, "logs"), filepath.Join(dir, "codegen/cuda"), filepath.Join(dir, "codegen/go")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func TestTestLog(t *testing.T) {
	r := testResult("ops", "ops", read(t, "testdata/tests.log"), errors.New("exit status 1"), time.Second)
	if r.cases != 5 || r.failed != 3 {
		t.Errorf("%d of %d failed, want 3 of 5: add and TestSample pass, bias fails, scale is skipped, TestOps fails by itself", r.failed, r.cases)
	}
	all := strings.Join(r.failures, "\n")
	for _, want := range []string{"FAIL: TestOps/f32/bias_[33_31]\na_test.go:10: result y: element 3 of [33 31] is 1, want 2:\nfn(x) {\n", "SKIP: TestOps/f32/scale\na_test.go:12: no GPU", "FAIL: TestOps\na_test.go:14: gpt2: Sync"} {
		if !strings.Contains(all, want) {
			t.Errorf("no %q in\n%s", want, all)
		}
	}
	if want := "largest error +Inf of what is allowed: TestOps/f32/scale"; r.note != want {
		t.Errorf("%s, want %s", r.note, want)
	}
}

// A run that was killed has a failure more than those of its tests, or nobody sees what it did not come to.
func TestKilledRun(t *testing.T) {
	log := "=== RUN   TestA\n    a_test.go:1: off\n--- FAIL: TestA (0.00s)\n=== RUN   TestB\n"
	err := fmt.Errorf("killed after 1 s: %w", context.DeadlineExceeded)
	if r := testResult("ops", "ops", log, err, 0); r.failed != 2 || !strings.Contains(strings.Join(r.failures, "\n"), "killed after 1 s") {
		t.Errorf("%d failed: %q", r.failed, r.failures)
	}
}

func TestTestsThatDidNotRun(t *testing.T) {
	for log, err := range map[string]error{
		"testing: warning: no tests to run\nPASS\n":                    nil,
		"=== RUN   TestA\n--- PASS: TestA (0.00s)\npanic: out of it\n": errors.New("exit status 2"),
	} {
		if r := testResult("ops", "ops", log, err, 0); r.failed != 1 || !strings.Contains(r.failures[0], strings.TrimSpace(tail(log, 1))) {
			t.Errorf("%q: %d failed: %q", log, r.failed, r.failures)
		}
	}
}

// Logs of CUDA 13.0's compute-sanitizer on an H100.
func TestSanitizerLogs(t *testing.T) {
	for _, c := range []struct {
		file         string
		ours, others int
		failed       int
		say          string
	}{
		{"memcheck-clean", 0, 0, 0, ""},
		{"initcheck-ours", 3, 0, 1, "3 times: Uninitialized __global__ memory read of size 16 bytes at attention_mma_attn"},
		{"racecheck-cublaslt", 0, 8, 0, "nvjet_sm90"},
		{"racecheck-crash", 1, 0, 1, "Internal Sanitizer Error"},
	} {
		l := readSanitizer(read(t, "testdata/"+c.file+".log"))
		r := result{cases: 1}
		l.count(&r)
		if total(l.ours) != c.ours || total(l.others) != c.others || r.failed != c.failed || l.missing != 0 {
			t.Errorf("%s: %d of ours, %d of others, %d failed, %d missing", c.file, total(l.ours), total(l.others), r.failed, l.missing)
		}
		if text := strings.Join(r.failures, "\n") + r.note; !strings.Contains(text, c.say) {
			t.Errorf("%s: no %q in\n%s", c.file, c.say, text)
		}
	}
}

// What a sanitizer leaves out or cannot say counts as failed.
func TestSanitizerFailsClosed(t *testing.T) {
	race := func(a, b string) string {
		return "========= Error: Race reported between Read access at " + a + "+0x10\n=========     and Write access at " + b + "+0x20 in norm.cuh:30 [3 hazards]\n========= \n"
	}
	for _, c := range []struct{ log, say string }{
		{"", "did not come to its summary"},
		{race("nvjet_a", "nvjet_a"), "did not come to its summary"},
		{race("nvjet_a", "rmsnorm_x") + "========= RACECHECK SUMMARY: 1 hazard displayed (1 error, 0 warnings)\n", "Race reported between Read access at rmsnorm_x"},
		{race("void cublasLt::splitKreduce_kernel<(int)32>(T1)", "gemmk1_kernel") + "========= RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)\n", "1 reports were not shown"},
		{"========= Invalid __global__ write of size 4 bytes\n=========     at add_y+0x160\n=========     by thread (0,0,0) in block (0,0,0)\n=========     Access at 0x7f00 is misaligned\n=========         Host Frame: nvjet_x+0x10\n========= \n========= ERROR SUMMARY: 1 error\n",
			"1 times: Invalid __global__ write of size 4 bytes at add_y"},
		{"========= Program hit CUDA_ERROR_ILLEGAL_ADDRESS (error 700)\n========= \n========= ERROR SUMMARY: 1 error\n", "Program hit CUDA_ERROR_ILLEGAL_ADDRESS"},
	} {
		r := result{cases: 1}
		readSanitizer(c.log).count(&r)
		if text := strings.Join(r.failures, "\n"); r.failed != 1 || !strings.Contains(text, c.say) {
			t.Errorf("%d failed, no %q in\n%s\nof\n%s", r.failed, c.say, text, c.log)
		}
	}
}

// No kernel of this project may have a name that counts as others'.
func TestOursAreNotOthers(t *testing.T) {
	files, err := filepath.Glob("../../golden/gen/*/kernels/*.cu")
	if err != nil || len(files) < 100 {
		t.Fatalf("%d kernels found: %v", len(files), err)
	}
	for _, f := range files {
		if name := filepath.Base(f); others.MatchString(name) {
			t.Errorf("a report in %s would not count", name)
		}
	}
}

// sanitize passes the tests of ops on to the tool, tells those of programs to start the programs under it, and reads all logs.
func TestSanitize(t *testing.T) {
	b := newBench(t, "memcheck")
	home := t.TempDir()
	t.Setenv("CUDA_HOME", home)
	log, err := filepath.Abs("testdata/initcheck-ours.log")
	if err != nil {
		t.Fatal(err)
	}
	script(t, filepath.Join(home, "bin/compute-sanitizer"), `
tool=$2
while [ "$1" != --log-file ]; do shift; done
report=$(echo "$2" | sed "s/%p/$$/")
shift 2
case $1 in
*ops.test) cp `+log+` "$report" ;;
*) echo "========= ERROR SUMMARY: 0 errors" >"$report" ;;
esac
exec "$@" "$tool" $(pwd)
`)
	script(t, b.built("ops.test"), `
case "$*" in
*-test.short*-test.run*memcheck*codegen*) echo "--- PASS: TestOps ($TFC_GPU)" ;;
*) echo "--- FAIL: TestOps (arguments $*)" ;;
esac
`)
	script(t, b.built("programs.test"), `
IFS='
'
for program in true true; do $TFC_GPU_UNDER "$program"; done
case "$*" in
*-test.short*-test.run*) echo "--- PASS: TestCUDAPrograms ($TFC_GPU)" ;;
*) echo "--- FAIL: TestCUDAPrograms (arguments $*)" ;;
esac
`)
	rows := memcheck(b)
	if len(rows) != 2 || rows[0].failed != 1 || rows[1].failed != 0 || rows[1].cases != 1 {
		t.Errorf("%+v", rows)
	}
	if logs := sanitizerLogs(b, "memcheck-1"); len(logs) != 2 {
		t.Errorf("the logs of two programs are %q", logs)
	}
}

func TestSpeed(t *testing.T) {
	b := newBench(t, "speed")
	script(t, b.built("models"), `
echo '{"what":"train","device":"cuda:0, NVIDIA H100 80GB HBM3","tokens":32768,"median_ms":20,"min_ms":19,"max_ms":21,"tokens_per_second":1640000}'
echo '{"what":"decode","device":"cuda:0, NVIDIA H100 80GB HBM3","median_ms":0.25,"tokens_per_second":4000}'
`)
	if r := b.measure("stories", "stories"); r.failed != 0 || !strings.Contains(r.note, "20 ms a step") || !strings.Contains(r.note, "no peers") {
		t.Errorf("%+v", r)
	}
	script(t, b.built("peers/train.py"), "")
	bin := t.TempDir()
	t.Setenv("PATH", bin+":"+os.Getenv("PATH"))
	script(t, filepath.Join(bin, "python3"), `
[ "$3" = lean-compile ] && exit 1
echo 'W1125 some warning {'
echo '{"job": "train", "shape": "stories", "ms": 25.0, "tokens_per_s": 1312000}'
`)
	r := b.measure("stories", "stories")
	if r.cases != 3 || r.failed != 1 || !strings.Contains(r.note, "hf-compile 25 ms, ratio 1.25") || !strings.Contains(r.failures[0], "lean-compile: exit status 1") {
		t.Errorf("%+v", r)
	}
	script(t, b.built("models"), `echo '{"what":"train","device":"cpu","median_ms":20,"tokens_per_second":16}
{"what":"decode","device":"cpu","median_ms":20,"tokens_per_second":16}'`)
	if r := b.measure("stories", "stories"); r.failed != 1 || !strings.Contains(r.failures[0], "it ran on cpu") {
		t.Errorf("%+v", r)
	}
}

// TestAll runs the parts that are named, with the tests of the binaries that were built, and no others.
func TestAll(t *testing.T) {
	b := newBench(t, "")
	if err := os.MkdirAll(filepath.Join(b.root, "runtime/cuda"), 0o755); err != nil {
		t.Fatal(err)
	}
	script(t, b.built("driver.test"), `echo "--- PASS: TestGPU ($TFC_TEST_GPU)"; echo "    --- PASS: TestGPU/launch (0.1s)"`)
	script(t, b.built("ops.test"), `
echo "=== RUN   TestOps/f32/add"
echo "=== ATTR  TestOps/f32/add off 0.5"
for i in 1 2 3 4 5 6 7 8 9 10 11 12; do echo "    cases_test.go:$i: wrong"; done
echo "--- FAIL: TestOps/f32/add (0.1s)"
exit 1`)
	var out strings.Builder
	rows := b.all(&out, []string{"ops", "driver"})
	if len(rows) != 2 || rows[0].part != "driver" || rows[0].cases != 1 || rows[0].failed != 0 || rows[1].part != "ops" || rows[1].failed != 1 {
		t.Errorf("%+v", rows)
	}
	for _, want := range []string{"== driver: ", "driver, cuBLASLt: 0 of 1 failed", "ops against Eval: 1 of 1 failed; largest error 0.5 of what is allowed: TestOps/f32/add", "FAILED FAIL: TestOps/f32/add\n    cases_test.go:1: wrong", "and 3 lines more"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in\n%s", want, out.String())
		}
	}
}

// A process that does not end is killed with all that it started.
func TestProcessLimit(t *testing.T) {
	b := newBench(t, "ops")
	began := time.Now()
	out, err := b.run(process{log: "slow", limit: 300 * time.Millisecond, args: []string{"sh", "-c", "echo begun; sleep 60 & sleep 60"}})
	if err == nil || !strings.Contains(err.Error(), "killed") || !strings.Contains(out, "begun") || time.Since(began) > 20*time.Second {
		t.Errorf("%v after %v: %q", err, time.Since(began), out)
	}
	if log := read(t, filepath.Join(b.results, "logs/slow.log")); !strings.HasPrefix(log, "$ sh -c") || !strings.Contains(log, "begun\n") {
		t.Errorf("log %q", log)
	}
}

func TestReport(t *testing.T) {
	rows := []result{
		{part: "ops", what: "a | b", cases: 10, failed: 1, note: "largest error 2 of what is allowed", took: 1500 * time.Millisecond, failures: []string{"FAIL: x\nlong story"}},
		{part: "speed", what: "stories", cases: 1, note: "ratio 1.2"},
	}
	want := `# What holds on a GPU

device

| part | of | cases | passed | failed | largest error, or ratio | s |
|---|---|---|---|---|---|---|
| ops | a \| b | 10 | 9 | 1 | largest error 2 of what is allowed | 1.5 |
| speed | stories | 1 | 1 | 0 | ratio 1.2 | 0.0 |
| all | | 11 | 10 | 1 | | 3.0 |

Failed: ops, a | b

- FAIL: x
    long story
`
	if got := report("device", rows, 3*time.Second); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
	if v := cudaVersion("| NVIDIA-SMI 580.159.04   Driver Version: 580.159.04     CUDA Version: 13.0     |"); v != "13.0" {
		t.Errorf("CUDA %s", v)
	}
}

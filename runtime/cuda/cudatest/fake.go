package cudatest

import (
	"strconv"
	"strings"
	"testing"
)

// Fake steers and watches the fakes, which are one device for the whole process: tests that use it cannot run in
// parallel. Numbers of results are CUresult's, or cublasStatus_t's for the functions of cuBLASLt.
type Fake struct {
	Libraries
	t  testing.TB
	do func(command string) string
}

// New compiles the fakes, makes runtime/cuda load them for the rest of the test, and resets them now and when the test
// ends. It skips the test where there is no g++.
//
// runtime/cuda keeps a library that it has loaded, and what it knows of it; a test of another device or another version of
// the driver than the test before needs it to forget them.
func New(t testing.TB) *Fake {
	t.Helper()
	f := &Fake{Libraries: Build(t), t: t}
	do, err := connect(f.CUDA)
	if err != nil {
		t.Skip(err)
	}
	f.do = do
	f.Setenv(t)
	f.Reset()
	t.Cleanup(f.Reset)
	return f
}

func (f *Fake) command(words ...string) string {
	f.t.Helper()
	answer := f.do(strings.Join(words, " "))
	if text, wrong := strings.CutPrefix(answer, "error: "); wrong {
		f.t.Fatalf("cudatest: %s", text)
	}
	return answer
}

func (f *Fake) lines(command string) []string {
	f.t.Helper()
	return strings.FieldsFunc(f.command(command), func(r rune) bool { return r == '\n' })
}

// Reset drops all work, memory, objects, counts, failures and settings. Handles and addresses from before are invalid.
func (f *Fake) Reset() { f.command("reset") }

// Set changes a setting:
//
//	memory      bytes of the device (4 GiB)
//	devices     their number (1)
//	major minor compute capability (9 0)
//	sms         multiprocessors (8)
//	driver      cuDriverGetVersion (13000)
//	blaslt      cublasLtGetVersion (130000)
//	algorithms  that the heuristic of cuBLASLt knows (3)
//	workspace   bytes that the first of them needs (4096); the others need none
//	pace0 …     to pace7: microseconds on the device's clock that a product takes, by algorithm (100), beside
//	flops       floating-point operations a microsecond of products (2000)
//	bandwidth   bytes a microsecond of copies (1000)
func (f *Fake) Set(name string, value int) { f.command("set", name, strconv.Itoa(value)) }

// FailNth makes the nth call from now of a function return a result, and do nothing. 1 is the next call.
func (f *Fake) FailNth(function string, nth, result int) {
	f.command("fail", function, strconv.Itoa(nth), strconv.Itoa(result))
}

// Fault makes the device be at fault: every call that needs it returns the result from now on, until the Reset.
func (f *Fake) Fault(result int) { f.command("fault", strconv.Itoa(result)) }

// Record starts to keep a line for each call, with its main arguments and its result if that is not 0, and for each piece
// of work when it runs ("run " and the kernel's name, "copy", …).
func (f *Fake) Record() { f.command("record on") }

// Calls returns the lines since Record.
func (f *Fake) Calls() []string { return f.lines("calls") }

// Count returns how often a function has been called since the Reset.
func (f *Fake) Count(function string) int {
	n, err := strconv.Atoi(f.command("count", function))
	if err != nil {
		f.t.Fatal(err)
	}
	return n
}

// Leaks lists what has been created or allocated and not given back.
func (f *Fake) Leaks() []string { return f.lines("leaks") }

// Faults lists what went wrong on the device since the Reset, with all that is known about it.
func (f *Fake) Faults() []string { return f.lines("faults") }

// Quiet keeps faults from being printed to stderr, for tests that want them.
func (f *Fake) Quiet() { f.command("quiet on") }

// Environ returns the environment, as NAME=value, by which a process that the test starts loads the fakes and obeys
// commands first: "set NAME NUMBER", "fail FUNCTION NTH RESULT", "fault RESULT", "quiet on".
func (f *Fake) Environ(commands ...string) []string {
	return append(f.Libraries.Environ(), "TFC_FAKE="+strings.Join(commands, ";"))
}

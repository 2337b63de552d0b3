package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// testLog is what the log of go test -v says.
type testLog struct {
	verdict  map[string]string // PASS, FAIL or SKIP, by test
	messages map[string]string // that it printed
	off      float64           // the largest share of what is allowed that a result was off, and of which test
	offTest  string
}

var (
	verdictLine = regexp.MustCompile(`^\s*--- (PASS|FAIL|SKIP): (\S+) \(`)
	markerLine  = regexp.MustCompile(`^=== (RUN|NAME|CONT|PAUSE) +(\S+)`)
	attrLine    = regexp.MustCompile(`^=== ATTR +(\S+) off (\S+)`)
)

func readTests(log string) testLog {
	l := testLog{verdict: map[string]string{}, messages: map[string]string{}, off: -1}
	current := ""
	for line := range strings.Lines(log) {
		line = strings.TrimRight(line, "\n")
		if m := verdictLine.FindStringSubmatch(line); m != nil {
			l.verdict[m[2]], current = m[1], ""
		} else if m := markerLine.FindStringSubmatch(line); m != nil {
			current = m[2]
		} else if m := attrLine.FindStringSubmatch(line); m != nil {
			off, err := strconv.ParseFloat(m[2], 64)
			if err != nil || math.IsNaN(off) {
				off = math.Inf(1)
			}
			if off > l.off {
				l.off, l.offTest = off, m[1]
			}
		} else if current != "" && strings.HasPrefix(line, "    ") {
			l.messages[current] += strings.TrimSpace(line) + "\n"
		}
	}
	return l
}

// leaves are the tests that have no tests inside, sorted.
func (l testLog) leaves() (names []string) {
	inner := map[string]bool{}
	for name := range l.verdict {
		for i := strings.LastIndexByte(name, '/'); i > 0; i = strings.LastIndexByte(name[:i], '/') {
			inner[name[:i]] = true
		}
	}
	for name := range l.verdict {
		if !inner[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// count adds the tests of a log to a result. Nothing may be skipped on a GPU: that would be a check that was not made.
func (l testLog) count(r *result) {
	leaves := l.leaves()
	for _, name := range leaves {
		r.cases++
		if v := l.verdict[name]; v != "PASS" {
			r.failed++
			r.failures = append(r.failures, fmt.Sprintf("%s: %s\n%s", v, name, l.messages[name]))
		}
	}
	for name, v := range l.verdict { // a group that failed beside its tests
		if v == "FAIL" && !slices.Contains(leaves, name) && l.messages[name] != "" {
			r.cases, r.failed = r.cases+1, r.failed+1
			r.failures = append(r.failures, fmt.Sprintf("FAIL: %s\n%s", name, l.messages[name]))
		}
	}
	slices.Sort(r.failures)
	if l.offTest != "" {
		r.note = fmt.Sprintf("largest error %.2g of what is allowed: %s", l.off, l.offTest)
	}
}

// testResult is what a test binary's log and end amount to.
func testResult(part, what, log string, err error, took time.Duration) result {
	r := result{part: part, what: what, took: took}
	readTests(log).count(&r)
	switch {
	case err != nil && (r.failed == 0 || errors.Is(err, context.DeadlineExceeded)): // it crashed, or was killed, whatever failed before
		r.cases, r.failed = r.cases+1, r.failed+1
		r.failures = append(r.failures, fmt.Sprintf("%v\n%s", err, tail(log, 30)))
	case r.cases == 0:
		r.cases, r.failed = 1, 1
		r.failures = append(r.failures, "no test ran\n"+tail(log, 10))
	}
	return r
}

// test runs tests of a binary in their package's folder.
func (b *bench) test(what, binary, folder, pattern string, limit time.Duration, env ...string) []result {
	began := time.Now()
	log, err := b.run(process{
		log: b.part, dir: folder, limit: limit, env: append(env, "TFC_GPU="+b.folder),
		args: []string{b.built(binary), "-test.v", "-test.timeout=0", "-test.run", pattern},
	})
	return []result{testResult(b.part, what, log, err, time.Since(began))}
}

// opTests are the tests of codegen/cuda that run kernels.
const opTests = "^Test(Ops|Hopper.*|FP8|Quantize|Optimizer.*|Generation|Sample)$"

func driver(b *bench) []result {
	return b.test("driver, cuBLASLt", "driver.test", "runtime/cuda", "^TestGPU$", 2*time.Minute, "TFC_TEST_GPU=1")
}

func ops(b *bench) []result {
	return b.test("ops against Eval", "ops.test", "codegen/cuda", opTests, 9*time.Minute)
}

// programTests are those of codegen/go that run whole programs; programTest is the one in f32.
const (
	programTests = "^TestCUDAPrograms(AgreeWithEval|Rounded)$"
	programTest  = "^TestCUDAProgramsAgreeWithEval$"
)

func programs(b *bench) []result {
	return b.test("programs against Eval", "programs.test", "codegen/go", programTests, 3*time.Minute)
}

func fixtures(b *bench) []result {
	return b.test("nine families and two training runs, f32", "fixtures.test", "golden/numeric", "^TestCUDAProgramsAgreeWithTransformers$", 3*time.Minute)
}

package main

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// sanitizerLog is what compute-sanitizer says: its reports of this project's kernels and of others, each by what it is and
// where, with how often.
type sanitizerLog struct {
	ours, others map[string]int
	summary      string // its last word; "" where it had none
	missing      int    // reports that the summary counts and the log does not show
	unfinished   int    // logs without a summary
}

// others are the kernels of cuBLASLt and CUTLASS, which are not this project's to mend. A kernel by any other name is.
var others = regexp.MustCompile(`^(void )?(nvjet_|cutlass|cublas|gemm|gemv|splitK|sm[0-9]+_|ampere_|hopper_|dot_kernel|reduce_1Block_kernel)`)

var (
	reportPlace  = regexp.MustCompile(`(?:^|\s)at (.+)\+0x[0-9a-f]+(?: in \S+)?(?: \[\d+ hazards\])?$`)
	summaryCount = regexp.MustCompile(`SUMMARY: (\d+) (?:error|hazard)`)
)

// readSanitizer reads a log. A report is some lines that begin with =========; the first says what it is, one that has
// " at KERNEL+0x…" where.
func readSanitizer(log string) sanitizerLog {
	l := sanitizerLog{ours: map[string]int{}, others: map[string]int{}}
	var block []string
	shown, counted := 0, 0
	end := func() {
		if len(block) == 0 {
			return
		}
		var kernels []string
		for _, line := range block {
			if m := reportPlace.FindStringSubmatch(line); m != nil {
				kernels = append(kernels, m[1])
			}
		}
		what := block[0]
		if i := strings.Index(what, " at "); i > 0 {
			what = what[:i]
		}
		into, ours := l.ours, slices.IndexFunc(kernels, func(k string) bool { return !others.MatchString(k) })
		if ours < 0 && len(kernels) > 0 {
			into = l.others
		}
		if len(kernels) > 0 {
			what += " at " + kernels[max(ours, 0)]
		}
		into[what]++
		shown, block = shown+1, nil
	}
	for line := range strings.Lines(log) {
		text, ok := strings.CutPrefix(strings.TrimRight(line, "\n "), "=========")
		switch {
		case !ok || strings.TrimSpace(text) == "" || strings.Contains(text, "COMPUTE-SANITIZER"):
			if ok {
				end()
			}
		case strings.Contains(text, "SUMMARY"):
			end()
			l.summary = strings.TrimSpace(text)
			if m := summaryCount.FindStringSubmatch(text); m != nil {
				if n, err := strconv.Atoi(m[1]); err == nil {
					counted = max(counted, n)
				}
			}
		case strings.Contains(text, "Target application returned an error"): // its own log says which
		case strings.HasPrefix(text, "  "):
			if strings.HasPrefix(text, "         ") || len(block) == 0 { // a frame of the host
				continue
			}
			block = append(block, strings.TrimSpace(text))
		default:
			end()
			block = append(block, strings.TrimSpace(text))
		}
	}
	end()
	l.missing = max(0, counted-shown)
	if l.summary == "" {
		l.unfinished = 1
	}
	return l
}

// sanitizerLogs are the logs of a run, one a process.
func sanitizerLogs(b *bench, name string) []string {
	files, _ := filepath.Glob(filepath.Join(b.results, "logs", name+".*.sanitizer.log")) // the pattern is well-formed
	return files
}

// add adds the log of another process.
func (l *sanitizerLog) add(o sanitizerLog) {
	for what, n := range o.ours {
		l.ours[what] += n
	}
	for what, n := range o.others {
		l.others[what] += n
	}
	l.missing += o.missing
	l.unfinished += o.unfinished
}

// lines are reports for people, the most frequent first.
func lines(reports map[string]int) (all []string) {
	for _, what := range slices.SortedFunc(maps.Keys(reports), func(a, b string) int {
		return cmp.Or(cmp.Compare(reports[b], reports[a]), cmp.Compare(a, b))
	}) {
		all = append(all, fmt.Sprintf("%d times: %s", reports[what], what))
	}
	return all
}

func total(reports map[string]int) (n int) {
	for _, k := range reports {
		n += k
	}
	return n
}

// count adds what the sanitizer says to the result of the tests that it watched.
func (l sanitizerLog) count(r *result) {
	r.failed += len(l.ours)
	r.failures = append(r.failures, lines(l.ours)...)
	if l.unfinished > 0 {
		r.failed++
		r.failures = append(r.failures, "compute-sanitizer did not come to its summary")
	}
	if l.missing > 0 {
		r.failed++
		r.failures = append(r.failures, fmt.Sprintf("%d reports were not shown, so that nobody knows of which kernels they are", l.missing))
	}
	r.cases = max(r.cases, r.failed)
	r.note = fmt.Sprintf("%d reports in kernels of ours, %d in others'", total(l.ours), total(l.others))
	for _, o := range lines(l.others) {
		r.note += "; " + o
		break
	}
}

func memcheck(b *bench) []result {
	return b.sanitize(watched{what: "ops", tests: opTests}, watched{what: "programs", tests: programTests})
}

func racecheck(b *bench) []result { return memcheck(b) }
func synccheck(b *bench) []result { return memcheck(b) }

// initcheck leaves out what is multiplied in 16 bits: it does not see what cuBLASLt's kernels and ours store (by TMA), and reports
// whoever reads that.
func initcheck(b *bench) []result {
	return b.sanitize(
		watched{what: "ops; products in f32 only", tests: opTests, skip: "^TestOps$/16$/^(linear|head_loss)|^TestHopper(Products|Slopes)$|^TestFP8$", unwritten: true},
		watched{what: "programs, f32 only", tests: programTest},
	)
}

// watched is tests that run under compute-sanitizer.
type watched struct {
	what, tests, skip string
	unwritten         bool // tests leave memory that nobody has written
}

// sanitize runs tests, in short, under the tool that the part is named after.
func (b *bench) sanitize(all ...watched) (results []result) {
	for i, w := range all {
		began := time.Now()
		name, dir, binary := fmt.Sprintf("%s-%d", b.part, i), "codegen/cuda", "ops.test"
		if w.tests != opTests {
			dir, binary = "codegen/go", "programs.test"
		}
		for _, earlier := range sanitizerLogs(b, name) {
			_ = os.Remove(earlier)
		}
		env := []string{"TFC_GPU=" + b.folder}
		if w.unwritten {
			env = append(env, "TFC_GPU_UNWRITTEN=1")
		}
		watch := []string{
			sanitizer(), "--tool", b.part, "--report-api-errors", "no", "--show-backtrace", "no", "--print-limit", "100000",
			"--log-file", filepath.Join(b.results, "logs", name+".%p.sanitizer.log"),
		}
		args := []string{b.built(binary), "-test.short", "-test.v", "-test.timeout=0", "-test.run", w.tests}
		if w.tests == opTests {
			args = append(watch, args...)
		} else { // whose tests start the programs
			env = append(env, "TFC_GPU_UNDER="+strings.Join(watch, "\n"))
		}
		if w.skip != "" {
			args = append(args, "-test.skip", w.skip)
		}
		log, err := b.run(process{log: name, dir: dir, env: env, args: args, limit: 4 * time.Minute})
		r := testResult(b.part, w.what, log, err, time.Since(began))
		files := sanitizerLogs(b, name)
		said := sanitizerLog{ours: map[string]int{}, others: map[string]int{}}
		for _, file := range files {
			text, _ := os.ReadFile(file) // one that cannot be read has no summary
			said.add(readSanitizer(string(text)))
		}
		if len(files) == 0 {
			said.unfinished++
		}
		said.count(&r)
		results = append(results, r)
	}
	return results
}

// sanitizer is compute-sanitizer's path.
func sanitizer() string {
	const name = "compute-sanitizer"
	for _, dir := range []string{filepath.Join(os.Getenv("CUDA_HOME"), "bin"), "/usr/local/cuda/bin"} {
		if path, err := exec.LookPath(filepath.Join(dir, name)); err == nil {
			return path
		}
	}
	return name
}

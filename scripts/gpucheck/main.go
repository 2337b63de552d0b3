// Command gpucheck runs what scripts/gpu.sh has built for a machine with a GPU, and writes a table of what held there.
//
//	gpucheck FOLDER RESULTS [part...]
//
// It runs in the module's root. FOLDER is what gpu.sh built; RESULTS gets results.md, the table, and logs, the output of every
// process. Without names of parts all run: at once, for they are short of time more than of GPU, and then those that measure,
// alone. The exit code is 1 where anything failed, 2 where the command line is wrong.
package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"
)

// limit is the time for all parts; what has not ended by then is killed and counts as failed.
const limit = 570 * time.Second

// part is a row of the table below.
type part struct {
	name, doc string
	alone     bool // nothing runs beside it: it measures
	run       func(b *bench) []result
}

var parts = []part{
	{"driver", "the driver and cuBLASLt by way of runtime/cuda", false, driver},
	{"ops", "every op, the optimizer, decoding and sampling against ir.Eval, in f32, bf16 and f16, and products of 8 bits", false, ops},
	{"programs", "whole generated programs against ir.Eval", false, programs},
	{"fixtures", "whole generated programs, in f32, against Hugging Face's reference cases", false, fixtures},
	{"curves", "training runs: bf16 beside f32, the same bits again, stopped and resumed, from CPU to GPU and back", false, curves},
	{"seeds", "training runs of several seeds on a real text: fp8 beside bf16", false, seeds},
	{"memcheck", "compute-sanitizer: accesses outside of memory", false, memcheck},
	{"initcheck", "compute-sanitizer: reads of what nobody wrote", false, initcheck},
	{"racecheck", "compute-sanitizer: races in shared memory", false, racecheck},
	{"synccheck", "compute-sanitizer: wrong use of barriers", false, synccheck},
	{"speed", "steps and tokens a second, beside PyTorch where its programs were built in", true, speed},
}

// result is a row of the table that comes out.
type result struct {
	part, what    string
	cases, failed int
	note          string // the largest error or the ratio, in words
	took          time.Duration
	failures      []string // all that people need to know
}

// bench is where parts run.
type bench struct {
	ctx     context.Context
	part    string
	root    string   // of the module
	folder  string   // of what was built
	results string   // folder of logs and the table
	device  string   // that models are told to use
	env     []string // for every process
}

// fail returns a result that is nothing but a failure.
func (b *bench) fail(what string, began time.Time, format string, args ...any) result {
	return result{part: b.part, what: what, cases: 1, failed: 1, took: time.Since(began), failures: []string{fmt.Sprintf(format, args...)}}
}

func main() {
	if len(os.Args) < 3 {
		usage("too few arguments")
	}
	wanted := os.Args[3:]
	for _, name := range wanted {
		if !slices.ContainsFunc(parts, func(p part) bool { return p.name == name }) {
			usage(fmt.Sprintf("there is no part %q", name))
		}
	}
	root, err := os.Getwd()
	if err != nil {
		fatal(err)
	}
	folder, err := filepath.Abs(os.Args[1])
	if err != nil {
		fatal(err)
	}
	results, err := filepath.Abs(os.Args[2])
	if err != nil {
		fatal(err)
	}
	if err := os.MkdirAll(filepath.Join(results, "logs"), 0o755); err != nil {
		fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	began := time.Now()
	b := bench{ctx: ctx, root: root, folder: folder, results: results, device: "cuda"}
	rows := b.all(os.Stdout, wanted)
	text := report(describe(&b, wanted), rows, time.Since(began))
	fmt.Printf("\n%s", text)
	if err := os.WriteFile(filepath.Join(results, "results.md"), []byte(text), 0o644); err != nil {
		fatal(err)
	}
	for _, r := range rows {
		if r.failed > 0 {
			os.Exit(1)
		}
	}
}

func usage(text string) {
	fmt.Fprintf(os.Stderr, "gpucheck: %s\nusage: gpucheck FOLDER RESULTS [part...]; the parts are\n", text)
	for _, p := range parts {
		fmt.Fprintf(os.Stderr, "  %-10s %s\n", p.name, p.doc)
	}
	os.Exit(2)
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, "gpucheck:", err)
	os.Exit(1)
}

// all runs the parts that are wanted, all where none is named, and says on w how each went as it ends. Results come in the
// order of the table of parts.
func (b *bench) all(w io.Writer, wanted []string) []result {
	results := make([][]result, len(parts))
	var mu sync.Mutex
	start := func(i int) {
		inside := *b
		inside.part = parts[i].name
		began := time.Now()
		rows := inside.guarded(parts[i])
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprintf(w, "\n== %s: %s (%.0f s)\n", parts[i].name, parts[i].doc, time.Since(began).Seconds())
		for _, r := range rows {
			printResult(w, r)
		}
		results[i] = rows
	}
	for _, alone := range []bool{false, true} {
		var running sync.WaitGroup
		for i, p := range parts {
			switch {
			case len(wanted) > 0 && !slices.Contains(wanted, p.name) || p.alone != alone:
			case alone:
				start(i)
			default:
				running.Go(func() { start(i) })
			}
		}
		running.Wait()
	}
	return slices.Concat(results...)
}

// guarded runs a part; a part that panics has failed, and the others go on.
func (b *bench) guarded(p part) (rows []result) {
	began := time.Now()
	defer func() {
		if r := recover(); r != nil {
			rows = append(rows, b.fail("the check itself", began, "panic: %v\n%s", r, debug.Stack()))
		}
	}()
	return p.run(b)
}

// How much of failures is printed; the logs have all.
const (
	failuresShown = 25  // of a result
	linesShown    = 10  // of a failure
	bytesShown    = 240 // of a line
)

// shown is a failure as it is printed, its lines after the first indented.
func shown(failure string) string {
	lines := strings.Split(strings.TrimRight(failure, "\n"), "\n")
	if len(lines) > linesShown {
		lines = append(lines[:linesShown], fmt.Sprintf("and %d lines more", len(lines)-linesShown))
	}
	for i, line := range lines {
		if len(line) > bytesShown {
			lines[i] = strings.ToValidUTF8(line[:bytesShown], "") + "…"
		}
	}
	return strings.Join(lines, "\n    ")
}

func printResult(w io.Writer, r result) {
	fmt.Fprintf(w, "%s: %d of %d failed", r.what, r.failed, r.cases)
	if r.note != "" {
		fmt.Fprintf(w, "; %s", r.note)
	}
	fmt.Fprintf(w, " (%.1f s)\n", r.took.Seconds())
	for i, f := range r.failures {
		if i == failuresShown {
			fmt.Fprintf(w, "  and %d more\n", len(r.failures)-i)
			break
		}
		fmt.Fprintf(w, "  FAILED %s\n", shown(f))
	}
}

// Command embed is a Go program with a language model inside: it trains the model of stories.yaml, whose package tfc
// generated into the folder stories, opens what came of it, and lets it write a story as it comes and some at once.
//
//	go run ./examples/embed
//
// Run again, it goes on from where it was, and once the model is trained it only writes.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"

	"github.com/tfc-dev/tfc/examples/embed/stories"
)

//go:generate go run github.com/tfc-dev/tfc/cmd/tfc build stories.yaml

func main() {
	run := flag.String("run", "runs/stories", "`folder` of the training run")
	steps := flag.Int("steps", 0, "optimizer steps (default: those of stories.yaml)")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt) // Ctrl-C ends training, which saves
	defer stop()
	if err := tell(ctx, os.Stdout, *run, *steps); err != nil {
		fmt.Fprintln(os.Stderr, "embed:", err)
		os.Exit(1)
	}
}

func tell(ctx context.Context, out io.Writer, run string, steps int) error {
	if err := train(ctx, out, run, steps); err != nil {
		return err
	}
	model, err := stories.Open(run)
	if err != nil {
		return err
	}
	defer model.Close()

	// As it comes.
	const beginning = "One morning"
	fmt.Fprint(out, beginning)
	options := model.Defaults()
	for piece, err := range model.Stream(ctx, beginning, options) {
		if err != nil {
			return err
		}
		fmt.Fprint(out, piece)
	}
	fmt.Fprint(out, "\n\n")

	// All at once, and always the likeliest word.
	options.Temperature = 0
	for _, prompt := range []string{"Once upon a time", "There was a"} {
		text, err := model.Generate(ctx, prompt, options)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%s%s\n\n", prompt, text)
	}
	return nil
}

// train learns until the run has all its steps; a run that has them is not touched.
func train(ctx context.Context, out io.Writer, run string, steps int) error {
	model, err := stories.New(1)
	if err != nil {
		return err
	}
	defer model.Close()
	result, err := model.Train(ctx, stories.TrainOptions{Run: run, Steps: steps, Progress: os.Stderr})
	if err != nil {
		return err
	}
	if result.Interrupted {
		return fmt.Errorf("stopped after step %d; run again to go on", result.Step)
	}
	fmt.Fprintf(out, "%d steps\n\n", result.Step)
	return nil
}

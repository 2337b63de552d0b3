package gogen

import (
	"fmt"
	"sort"

	"github.com/tfc-dev/tfc/ir"
	"github.com/tfc-dev/tfc/spec"
)

// Settings lists what decides the numbers of a training run, by its place in the spec: a run goes on only under the
// settings it was begun with. How long it learns, and when it logs, saves and evaluates, may change.
func Settings(s *spec.Spec) [][2]string {
	t := s.Train
	list := [][2]string{
		{"data.train", fmt.Sprint(s.Data.Train)},
		{"data.eval", fmt.Sprint(s.Data.Eval)},
		{"tokenizer", fmt.Sprint(s.Tokenizer.Train, s.Tokenizer.File)},
		{"train.batch", fmt.Sprint(ir.MicroBatches(s) * ir.MicroBatch(s))},
		{"train.micro_batch", fmt.Sprint(ir.MicroBatch(s))},
		{"train.context", fmt.Sprint(t.Context)},
		{"train.precision", t.Precision},
		{"train.optimizer", fmt.Sprint(t.Optimizer)},
		{"train.schedule", fmt.Sprint(t.Schedule)},
		{"train.clip", fmt.Sprint(t.Clip)},
		{"train.seed", fmt.Sprint(t.Seed)},
	}
	for path, v := range s.Model.Settings() {
		list = append(list, [2]string{"model." + path, fmt.Sprint(v)})
	}
	sort.Slice(list, func(i, j int) bool { return list[i][0] < list[j][0] })
	return list
}

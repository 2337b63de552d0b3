package data

import (
	"context"
	"fmt"

	"github.com/tfc-dev/tfc/runtime/stories"
)

// grammar is text drawn from the story grammar.
type grammar struct {
	seed  uint64
	count int
}

// Stories returns the built-in corpus: count stories drawn from the story grammar, each a document.
func Stories(ctx context.Context, seed uint64, count int) (*Text, error) {
	if count < 1 {
		return nil, fmt.Errorf("the number of stories is %d; it must be at least 1", count)
	}
	return newText(ctx, grammar{seed, count})
}

func (g grammar) each(ctx context.Context, f func(piece []byte, end bool) error) error {
	for story := range stories.Generate(g.seed, g.count) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := f([]byte(story), true); err != nil {
			return err
		}
	}
	return nil
}

package cuda

import (
	"errors"
	"fmt"
	"time"
	"unsafe"
)

// Event is a point in the work of a stream, with its time.
type Event struct {
	ctx    *Context
	handle uintptr
	closed bool
}

// NewEvent makes an event. Before Stream.Record it counts as reached.
func (c *Context) NewEvent() (*Event, error) {
	e := &Event{ctx: c}
	if err := c.do(&c.drv.eventCreate, uintptr(unsafe.Pointer(&e.handle)), 0); err != nil {
		return nil, earlier(err)
	}
	c.add(e)
	return e, nil
}

// Close frees the event. A second Close does nothing.
func (e *Event) Close() error { return e.ctx.discard(e) }

func (e *Event) release() error {
	e.closed = true
	return e.ctx.do(&e.ctx.drv.eventDestroy, e.handle)
}

var errEventClosed = errors.New("the event is closed")

// Sync waits until the event is reached.
func (e *Event) Sync() error {
	if e.closed {
		return errEventClosed
	}
	if err := e.ctx.do(&e.ctx.drv.eventSynchronize, e.handle); err != nil {
		return earlier(err)
	}
	return nil
}

// Elapsed waits for b and returns the time from a to b, to about half a microsecond. Both must have been recorded: by Record
// outside of Capture, or by the Run of a graph that they were given to by Mark.
func Elapsed(a, b *Event) (time.Duration, error) {
	if a.closed || a.ctx != b.ctx {
		return 0, fmt.Errorf("time between events: %w, or of another context", errEventClosed)
	}
	if err := b.Sync(); err != nil {
		return 0, err
	}
	var ms float32
	if err := a.ctx.do(&a.ctx.drv.eventElapsedTime, uintptr(unsafe.Pointer(&ms)), a.handle, b.handle); err != nil {
		return 0, fmt.Errorf("time between events: %w", earlier(err))
	}
	return time.Duration(float64(ms) * float64(time.Millisecond)), nil
}

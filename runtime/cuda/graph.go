package cuda

import (
	"errors"
	"fmt"
	"unsafe"
)

// Graph is the work that a stream was given inside Capture, to be replayed by Run in one call, with the same addresses and
// numbers each time.
type Graph struct {
	ctx    *Context
	handle uintptr // CUgraphExec
	info   KernelInfo
	closed bool
}

// captureRelaxed leaves other calls of the process alone while a stream captures (CU_STREAM_CAPTURE_MODE_RELAXED):
// cuBLASLt loads its kernels when they are first used, which may be there.
const captureRelaxed = 2

// Capture calls f and makes a graph of what f puts on the stream; nothing of it runs. Synchronous calls of the Context on
// data of that work see the state before it, and Sync inside f is an error. A failure is the stream's error, too.
func (s *Stream) Capture(f func()) (*Graph, error) {
	if s.err == nil && s.capturing {
		s.err = errors.New("Capture inside Capture")
	}
	if s.err != nil {
		return nil, s.err
	}
	c := s.ctx
	if err := c.do(&c.drv.streamBeginCapture, s.handle, captureRelaxed); err != nil {
		s.err = s.blame(err, "Capture")
		return nil, s.err
	}
	s.capturing, s.captured, s.behind = true, 0, false
	graph, err := s.endCapture(f)
	if s.err == nil && err != nil {
		s.err = s.blame(err, "Capture")
	}
	if s.err != nil {
		c.destroyGraph(graph)
		return nil, s.err
	}
	g := &Graph{ctx: c, info: KernelInfo{Entry: "a graph", About: fmt.Sprintf("%d launches", s.captured)}}
	err = c.do(&c.drv.graphInstantiate, uintptr(unsafe.Pointer(&g.handle)), graph, 0)
	c.destroyGraph(graph)
	if err == nil {
		c.add(g)
		// So the first Run is as fast as all others.
		if err = c.do(&c.drv.graphUpload, g.handle, s.handle); err != nil {
			err = errors.Join(err, g.Close())
		}
	}
	if err != nil {
		s.err = s.blame(err, fmt.Sprintf("making a graph of %d launches", s.captured))
		return nil, s.err
	}
	return g, nil
}

// endCapture calls f and takes the stream out of its capture, also where f panics.
func (s *Stream) endCapture(f func()) (graph uintptr, err error) {
	returned := false
	defer func() {
		s.capturing, s.behind = false, false
		err = s.ctx.do(&s.ctx.drv.streamEndCapture, s.handle, uintptr(unsafe.Pointer(&graph)))
		if !returned {
			s.ctx.destroyGraph(graph)
		}
	}()
	f()
	returned = true
	return
}

// destroyGraph frees a CUgraph that is not needed, or not any more. What could fail here failed before.
func (c *Context) destroyGraph(graph uintptr) {
	if graph != 0 {
		_ = c.do(&c.drv.graphDestroy, graph)
	}
}

// Close frees the graph. Runs of it must be done. A second Close does nothing.
func (g *Graph) Close() error { return g.ctx.discard(g) }

func (g *Graph) release() error {
	g.closed = true
	return g.ctx.do(&g.ctx.drv.graphExecDestroy, g.handle)
}

// Run replays a graph. It allocates nothing.
func (s *Stream) Run(g *Graph) {
	if s.err != nil {
		return
	}
	if g == nil || g.closed || g.ctx != s.ctx {
		s.err = errors.New("Run of a graph that is closed or of another context")
		return
	}
	a := &s.scratch.args
	a[0], a[1] = g.handle, s.handle
	s.note(&g.info)
	if err := s.put(&s.ctx.drv.graphLaunch, 2); err != nil {
		s.err = s.blame(err, "Run of a graph ("+g.info.About+")")
	}
}

// Streams, events and graphs. Work is put on a stream and runs only when something waits for it, after no more than it
// is declared to come after: so work that needs an event and has none sees what is not there yet.
#pragma once

#include "fault.h"

#include <functional>
#include <memory>
#include <vector>

using Work = std::function<void(Fault &)>;

struct Task;
using TaskRef = std::shared_ptr<Task>;

// Task is work on a stream. Once done it forgets what it came after.
struct Task {
    std::string what;
    Work work; // may be empty
    std::vector<TaskRef> after;
    bool done = false;
    bool visited = false;
    double time = 0; // when it was done, in milliseconds
};

struct Event;

// Node is work in a graph, after others by their index.
struct Node {
    std::string what;
    Work work;
    std::vector<int> after;
    Event *event = nullptr; // that the node records
};

struct Graph {
    std::vector<Node> nodes;
};

struct Stream;

// Capture is a graph that streams record into.
struct Capture {
    std::shared_ptr<Graph> graph = std::make_shared<Graph>();
    Stream *origin = nullptr;
    int mode = 0;
    long thread = 0;
    bool invalid = false;
    std::vector<Stream *> streams; // that take part
};

struct Stream {
    bool blocking = true; // with the null stream
    TaskRef tail;
    std::shared_ptr<Capture> capture;
    std::vector<int> at; // the nodes that the next one comes after
};

struct Event {
    bool timing = true;
    TaskRef task; // its last record
    std::shared_ptr<Capture> capture; // where it was recorded in a capture
    std::vector<int> at;
};

namespace stream {

// fault is the context's, which every later call returns; result is success where there is none.
extern Fault fault;

Result create(bool blocking, Stream **);
Result destroy(Stream *);
Result create(bool timing, Event **);
Result destroy(Event *);

// find gives the stream of a handle: nullptr and 1 are the null stream.
Stream *find(void *);
Event *find_event(void *);

// enqueue puts work on a stream, or into the graph that it captures.
Result enqueue(Stream *, const std::string &what, Work);

// wait_for runs all that is on a stream; on all of them where it is nullptr.
Result wait_for(Stream *);
Result wait_for_all();

// pending is whether there is work that has not run.
bool pending(Stream *);

Result record(Event *, Stream *);

// record_external puts a node that records an event into the graph that a stream captures.
Result record_external(Event *, Stream *);
Result wait_event(Stream *, Event *);
Result synchronize(Event *);
Result query(Event *);
Result elapsed(float *, Event *, Event *);

// unsafe is the error of a call that must not be made while a stream captures, and success where none does. The capture
// is invalid afterwards.
Result unsafe();

// implicit is the error of using the null stream while a stream that blocks with it captures.
Result implicit();

Result begin_capture(Stream *, int mode);
Result end_capture(Stream *, Graph **);
int capture_status(Stream *);

// GraphExec is a graph that can be launched.
struct GraphExec {
    std::shared_ptr<Graph> graph;
};
Result instantiate(Graph *, GraphExec **);
Result launch(GraphExec *, Stream *);
Result destroy(Graph *);
Result destroy(GraphExec *);
bool known(GraphExec *);

// clear drops everything.
void clear();

} // namespace stream

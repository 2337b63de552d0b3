#include "stream.h"

#include "control.h"
#include "device.h"
#include "pool.h"
#include "shared.h"

#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <set>

namespace stream {

Fault fault;

namespace {

Stream null_stream;
std::vector<Stream *> streams; // in the order of their creation
std::vector<TaskRef> orphans;  // what destroyed streams had still to do
std::set<Event *> events;
std::map<Graph *, std::shared_ptr<Graph>> graphs;
std::set<GraphExec *> execs;
std::vector<std::shared_ptr<Capture>> captures; // in progress

// now is the device's clock in milliseconds: it goes on by what work is said to take, a microsecond or what spend adds, so
// that times are the same in each run.
double now = 0;

void finish(Task &t) {
    if (fault.result == success && t.work) {
        if (control::recording()) control::record("run " + t.what);
        now += 1e-3;
        t.work(fault);
        if (fault.result != success) {
            if (fault.text.find(t.what) == std::string::npos) fault.text = t.what + ": " + fault.text;
            control::report(fault.text);
        }
    }
    t.work = nullptr;
    t.time = now;
    t.done = true;
}

// complete runs tasks and all they come after. What is declared last runs first, where the order is free.
void complete(std::vector<TaskRef> stack) {
    while (!stack.empty()) {
        const TaskRef t = stack.back();
        if (t->done) {
            stack.pop_back();
        } else if (!t->visited) {
            t->visited = true;
            for (const TaskRef &a : t->after)
                if (!a->done) stack.push_back(a);
        } else {
            finish(*t);
            t->after.clear();
            stack.pop_back();
        }
    }
}

Result run(std::vector<TaskRef> tasks) {
    std::erase_if(tasks, [](const TaskRef &t) { return t == nullptr || t->done; });
    if (!tasks.empty()) pool::execute([&] { complete(tasks); });
    return fault.result;
}

void add(std::vector<TaskRef> &to, const TaskRef &t) {
    if (t && !t->done && std::find(to.begin(), to.end(), t) == to.end()) to.push_back(t);
}

// before is what new work on a stream comes after: what is on it, and by the rules of the null stream others' work.
std::vector<TaskRef> before(Stream *s) {
    std::vector<TaskRef> after;
    add(after, s->tail);
    if (s == &null_stream) {
        for (Stream *other : streams)
            if (other->blocking) add(after, other->tail);
    } else if (s->blocking) {
        add(after, null_stream.tail);
    }
    return after;
}

TaskRef append(Stream *s, const std::string &what, Work work, std::vector<TaskRef> after) {
    const auto t = std::make_shared<Task>();
    t->what = what;
    t->work = std::move(work);
    t->after = std::move(after);
    return s->tail = t;
}

long thread() { return long(syscall(SYS_gettid)); }

// leave takes a stream out of its capture.
void leave(Stream *s) {
    if (s->capture) std::erase(s->capture->streams, s);
    s->capture = nullptr;
    s->at.clear();
}

void end(const std::shared_ptr<Capture> &c) {
    while (!c->streams.empty()) leave(c->streams.back());
    std::erase(captures, c);
}

Result in_capture(const Stream *s) { return s->capture->invalid ? capture_invalidated : success; }

} // namespace

Result create(bool blocking, Stream **s) {
    *s = new Stream;
    (*s)->blocking = blocking;
    streams.push_back(*s);
    control::object("streams", 1);
    return success;
}

Result destroy(Stream *s) {
    if (s == nullptr || s == &null_stream) return invalid_handle;
    if (s->capture) s->capture->invalid = true;
    leave(s);
    if (s->tail && !s->tail->done) orphans.push_back(s->tail);
    std::erase(streams, s);
    delete s;
    control::object("streams", -1);
    return success;
}

Result create(bool timing, Event **e) {
    *e = new Event;
    (*e)->timing = timing;
    events.insert(*e);
    control::object("events", 1);
    return success;
}

Result destroy(Event *e) {
    if (e == nullptr) return invalid_handle;
    events.erase(e);
    delete e;
    control::object("events", -1);
    return success;
}

Stream *find(void *handle) {
    if (handle == nullptr || handle == reinterpret_cast<void *>(1)) return &null_stream;
    const auto i = std::find(streams.begin(), streams.end(), handle);
    return i == streams.end() ? nullptr : *i;
}

Event *find_event(void *handle) {
    const auto i = events.find(static_cast<Event *>(handle));
    return i == events.end() ? nullptr : *i;
}

Result enqueue(Stream *s, const std::string &what, Work work) {
    if (s->capture) {
        if (const Result r = in_capture(s)) return r;
        std::vector<Node> &nodes = s->capture->graph->nodes;
        nodes.push_back({what, std::move(work), s->at});
        s->at = {int(nodes.size()) - 1};
        return success;
    }
    if (s == &null_stream)
        if (const Result r = implicit()) return r;
    append(s, what, std::move(work), before(s));
    return success;
}

Result wait_for(Stream *s) {
    if (s->capture) {
        s->capture->invalid = true;
        return capture_unsupported;
    }
    return run(s == &null_stream ? before(s) : std::vector<TaskRef>{s->tail});
}

Result wait_for_all() {
    std::vector<TaskRef> all = orphans;
    orphans.clear();
    add(all, null_stream.tail);
    for (Stream *s : streams) add(all, s->tail);
    return run(all);
}

bool pending(Stream *s) { return s->tail && !s->tail->done; }

Result record(Event *e, Stream *s) {
    if (s->capture) {
        if (const Result r = in_capture(s)) return r;
        e->task = nullptr;
        e->capture = s->capture;
        e->at = s->at;
        return success;
    }
    if (s == &null_stream)
        if (const Result r = implicit()) return r;
    e->capture = nullptr;
    e->at.clear();
    e->task = append(s, "event", nullptr, before(s));
    return success;
}

Result record_external(Event *e, Stream *s) {
    if (!s->capture) return invalid_value;
    if (const Result r = enqueue(s, "event", nullptr)) return r;
    s->capture->graph->nodes.back().event = e;
    return success;
}

Result wait_event(Stream *s, Event *e) {
    if (e->capture) {
        const std::shared_ptr<Capture> c = e->capture;
        if (std::find(captures.begin(), captures.end(), c) == captures.end()) return s->capture ? capture_isolation : captured_event;
        if (s == &null_stream) return capture_implicit;
        if (s->capture && s->capture != c) {
            s->capture->invalid = c->invalid = true;
            return capture_merge;
        }
        if (!s->capture) {
            s->capture = c;
            c->streams.push_back(s);
        }
        for (int i : e->at)
            if (std::find(s->at.begin(), s->at.end(), i) == s->at.end()) s->at.push_back(i);
        return success;
    }
    if (s->capture) {
        if (e->task == nullptr) return success; // never recorded: nothing to wait for
        s->capture->invalid = true;
        return capture_isolation;
    }
    if (e->task == nullptr) return success;
    std::vector<TaskRef> after = before(s);
    add(after, e->task);
    append(s, "wait", nullptr, std::move(after));
    return success;
}

Result synchronize(Event *e) {
    if (e->capture) return captured_event;
    return run({e->task});
}

Result query(Event *e) {
    if (e->capture) return captured_event;
    if (!e->task || e->task->done) return success;
    if (const Result r = run({e->task})) return r; // it makes progress, but not before the caller has seen it wait
    return not_ready;
}

Result elapsed(float *ms, Event *from, Event *to) {
    if (!from->timing || !to->timing || !from->task || !to->task) return invalid_handle;
    if (!from->task->done || !to->task->done) return not_ready;
    *ms = float(to->task->time - from->task->time);
    return success;
}

Result unsafe() {
    for (const auto &c : captures) {
        if (c->mode == 2 || (c->mode == 1 && c->thread != thread())) continue; // relaxed, or another thread's own
        c->invalid = true;
        return capture_unsupported;
    }
    return success;
}

Result implicit() {
    for (const auto &c : captures)
        for (const Stream *s : c->streams)
            if (s->blocking) {
                c->invalid = true;
                return capture_implicit;
            }
    return success;
}

Result begin_capture(Stream *s, int mode) {
    if (mode < 0 || mode > 2) return invalid_value;
    if (s == &null_stream) return capture_unsupported;
    if (s->capture) return illegal_state;
    const auto c = std::make_shared<Capture>();
    c->origin = s;
    c->mode = mode;
    c->thread = thread();
    c->streams = {s};
    s->capture = c;
    s->at.clear();
    captures.push_back(c);
    return success;
}

Result end_capture(Stream *s, Graph **g) {
    *g = nullptr;
    if (!s->capture) return illegal_state;
    const std::shared_ptr<Capture> c = s->capture;
    if (c->origin != s) return capture_unmatched;
    if (c->mode != 2 && c->thread != thread()) return capture_wrong_thread;
    // Whatever other streams recorded must come before what this one did last.
    const std::vector<Node> &nodes = c->graph->nodes;
    std::vector<bool> joined(nodes.size());
    for (int i : s->at) joined[size_t(i)] = true;
    for (size_t i = nodes.size(); i-- > 0;)
        if (joined[i])
            for (int a : nodes[i].after) joined[size_t(a)] = true;
    const bool all = std::find(joined.begin(), joined.end(), false) == joined.end();
    const bool invalid = c->invalid;
    end(c);
    if (invalid) return capture_invalidated;
    if (!all) return capture_unjoined;
    *g = c->graph.get();
    graphs[*g] = c->graph;
    control::object("graphs", 1);
    return success;
}

int capture_status(Stream *s) { return !s->capture ? 0 : s->capture->invalid ? 2 : 1; }

Result instantiate(Graph *g, GraphExec **e) {
    const auto i = graphs.find(g);
    if (i == graphs.end()) return invalid_value;
    *e = new GraphExec{std::make_shared<Graph>(*i->second)};
    execs.insert(*e);
    control::object("executable graphs", 1);
    return success;
}

bool known(GraphExec *e) { return execs.contains(e); }

Result launch(GraphExec *e, Stream *s) {
    if (!known(e)) return invalid_handle;
    if (s->capture) return not_supported; // a graph in a graph
    if (s == &null_stream)
        if (const Result r = implicit()) return r;
    const std::vector<TaskRef> first = before(s);
    std::vector<TaskRef> tasks;
    std::vector<bool> last(e->graph->nodes.size(), true);
    for (const Node &n : e->graph->nodes) {
        const auto t = std::make_shared<Task>();
        t->what = n.what;
        t->work = n.work;
        if (n.after.empty()) t->after = first;
        for (int a : n.after) {
            t->after.push_back(tasks[size_t(a)]);
            last[size_t(a)] = false;
        }
        tasks.push_back(t);
        if (events.contains(n.event)) {
            n.event->task = t;
            n.event->capture = nullptr;
        }
    }
    std::vector<TaskRef> ends;
    for (size_t i = 0; i < tasks.size(); i++)
        if (last[i]) ends.push_back(tasks[i]);
    append(s, "graph", nullptr, ends.empty() ? first : ends);
    return success;
}

Result destroy(Graph *g) {
    if (graphs.erase(g) == 0) return invalid_value;
    control::object("graphs", -1);
    return success;
}

Result destroy(GraphExec *e) {
    if (execs.erase(e) == 0) return invalid_value;
    delete e;
    control::object("executable graphs", -1);
    return success;
}

namespace {
// drop forgets what a task comes after, without recursion.
void drop(TaskRef t) {
    std::vector<TaskRef> stack;
    if (t) stack.push_back(std::move(t));
    while (!stack.empty()) {
        const TaskRef x = std::move(stack.back());
        stack.pop_back();
        x->done = true;
        for (TaskRef &a : x->after) stack.push_back(std::move(a));
        x->after.clear();
    }
}
} // namespace

void clear() {
    now = 0;
    while (!captures.empty()) end(captures.back());
    for (TaskRef &t : orphans) drop(t);
    orphans.clear();
    drop(null_stream.tail);
    null_stream = Stream{};
    for (Stream *s : streams) {
        drop(s->tail);
        delete s;
    }
    streams.clear();
    for (Event *e : events) {
        drop(e->task);
        delete e;
    }
    events.clear();
    graphs.clear();
    for (GraphExec *e : execs) delete e;
    execs.clear();
    fault = Fault{};
}

} // namespace stream

extern "C" int tfc_fake_enqueue(void *handle, const char *what, const char *(*run)(const void *), const void *data, size_t bytes) {
    std::lock_guard lock(control::mutex);
    if (const Result r = device::ready()) return r;
    Stream *s = stream::find(handle);
    if (s == nullptr) return invalid_handle;
    const auto copy = std::make_shared<std::vector<double>>((bytes + 7) / 8); // of doubles, so that data stays aligned
    memcpy(copy->data(), data, bytes);
    return stream::enqueue(s, what, [copy, run](Fault &fault) {
        if (const char *text = run(copy->data())) fault = {illegal_address, text};
    });
}

extern "C" void tfc_fake_spend(double ms) { stream::now += ms; }

extern "C" void tfc_fake_everywhere(void (*run)(void *, int), void *context) {
    pool::everywhere([&](int i) { run(context, i); });
}

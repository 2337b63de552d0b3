// The driver API: streams, events and graphs.
#include "api.h"

// STREAM is READY for a call on a stream, which it calls s.
#define STREAM(handle, ...)            \
    READY(__VA_ARGS__);                \
    Stream *s = stream::find(handle);  \
    if (s == nullptr) return call(invalid_handle)

#define EVENT(handle)                      \
    Event *e = stream::find_event(handle); \
    if (e == nullptr) return call(invalid_handle)

API cuStreamCreate(Stream **s, unsigned flags) {
    READY("flags=%u", flags);
    if (s == nullptr || flags > 1) return call(invalid_value);
    return call(stream::create(flags == 0, s));
}

API cuStreamCreateWithPriority(Stream **s, unsigned flags, int priority) {
    READY("flags=%u priority=%d", flags, priority);
    if (s == nullptr || flags > 1) return call(invalid_value);
    return call(stream::create(flags == 0, s));
}

API cuStreamDestroy_v2(void *handle) {
    STREAM(handle, "%s", "");
    return call(stream::destroy(s));
}

API cuStreamSynchronize(void *handle) {
    STREAM(handle, "%s", "");
    return call(stream::wait_for(s));
}

// A query of work that has not run says so, and lets it run: the next one finds it done.
API cuStreamQuery(void *handle) {
    STREAM(handle, "%s", "");
    if (!stream::pending(s)) return call(success);
    if (const Result r = stream::wait_for(s)) return call(r);
    return call(not_ready);
}

API cuStreamWaitEvent(void *handle, void *event, unsigned flags) {
    STREAM(handle, "flags=%u", flags);
    EVENT(event);
    if (flags > 1) return call(invalid_value);
    return call(stream::wait_event(s, e));
}

API cuEventCreate(Event **e, unsigned flags) {
    READY("flags=%u", flags);
    if (e == nullptr || flags > 7) return call(invalid_value);
    return call(stream::create((flags & 2) == 0, e));
}

API cuEventDestroy_v2(void *event) {
    READY("%s", "");
    EVENT(event);
    return call(stream::destroy(e));
}

API cuEventRecord(void *event, void *handle) {
    STREAM(handle, "%s", "");
    EVENT(event);
    return call(stream::record(e, s));
}

API cuEventRecordWithFlags(void *event, void *handle, unsigned flags) {
    STREAM(handle, "flags=%u", flags);
    EVENT(event);
    if (flags > 1) return call(invalid_value);
    return call(flags == 0 ? stream::record(e, s) : stream::record_external(e, s));
}

API cuEventSynchronize(void *event) {
    READY("%s", "");
    EVENT(event);
    return call(stream::synchronize(e));
}

API cuEventQuery(void *event) {
    READY("%s", "");
    EVENT(event);
    return call(stream::query(e));
}

namespace {
Result elapsed(Call &call, float *ms, void *from, void *to) {
    Event *a = stream::find_event(from), *b = stream::find_event(to);
    if (a == nullptr || b == nullptr) return call(invalid_handle);
    if (ms == nullptr) return call(invalid_value);
    return call(stream::elapsed(ms, a, b));
}
} // namespace

API cuEventElapsedTime(float *ms, void *from, void *to) {
    READY("%s", "");
    return elapsed(call, ms, from, to);
}

API cuEventElapsedTime_v2(float *ms, void *from, void *to) {
    READY("%s", "");
    return elapsed(call, ms, from, to);
}

API cuStreamBeginCapture_v2(void *handle, int mode) {
    STREAM(handle, "mode=%d", mode);
    return call(stream::begin_capture(s, mode));
}

API cuStreamEndCapture(void *handle, Graph **g) {
    STREAM(handle, "%s", "");
    if (g == nullptr) return call(invalid_value);
    return call(stream::end_capture(s, g));
}

API cuStreamIsCapturing(void *handle, int *status) {
    STREAM(handle, "%s", "");
    if (status == nullptr) return call(invalid_value);
    *status = stream::capture_status(s);
    return call(success);
}

API cuGraphInstantiateWithFlags(stream::GraphExec **e, Graph *g, unsigned long long flags) {
    READY("flags=%llu", flags);
    if (e == nullptr) return call(invalid_value);
    return call(stream::instantiate(g, e));
}

API cuGraphGetNodes(Graph *g, void **nodes, size_t *count) {
    READY("%s", "");
    if (count == nullptr || nodes != nullptr) return call(invalid_value); // only their number
    *count = g->nodes.size();
    return call(success);
}

API cuGraphUpload(stream::GraphExec *e, void *handle) {
    STREAM(handle, "%s", "");
    return call(stream::known(e) ? success : invalid_handle);
}

API cuGraphLaunch(stream::GraphExec *e, void *handle) {
    STREAM(handle, "%s", "");
    return call(stream::launch(e, s));
}

API cuGraphDestroy(Graph *g) {
    READY("%s", "");
    return call(stream::destroy(g));
}

API cuGraphExecDestroy(stream::GraphExec *e) {
    READY("%s", "");
    return call(stream::destroy(e));
}

// The driver API: memory, copies and fills.
#include "api.h"

#include "control.h"
#include "memory.h"
#include "shared.h"
#include "simulator.h"

#include <string.h>

#include <memory>

using DevicePtr = unsigned long long;

namespace {

void *host(DevicePtr p) { return reinterpret_cast<void *>(p); }

bool on_device(DevicePtr p, size_t bytes) { return memory::inside(memory::device, host(p), bytes); }

Work copy(void *to, const void *from, size_t bytes) {
    return [=](Fault &fault) {
        tfc_fake_spend(1e-3 * double(bytes) / double(settings.bandwidth));
        simulator::guarded("copy", fault, [&] { memmove(to, from, bytes); });
    };
}

// staged copies what is at from now, and puts it at to when it runs.
Work staged(void *to, const void *from, size_t bytes) {
    const auto buffer = std::make_shared<std::string>(static_cast<const char *>(from), bytes);
    return [=](Fault &fault) { simulator::guarded("copy", fault, [&] { memcpy(to, buffer->data(), bytes); }); };
}

template <class T> Work fill(void *to, T value, size_t count) {
    return [=](Fault &fault) {
        simulator::guarded("fill", fault, [&] { std::fill_n(static_cast<T *>(to), count, value); });
    };
}

Stream *null_stream() { return stream::find(nullptr); }

// page_locked tells whether the driver copies from or to host memory in the background.
bool page_locked(const void *p, size_t bytes) { return memory::inside(memory::pinned, p, bytes); }

} // namespace

API cuMemGetInfo_v2(size_t *free, size_t *total) {
    READY("%s", "");
    if (free) *free = memory::free();
    if (total) *total = memory::total();
    return call(success);
}

API cuMemAlloc_v2(DevicePtr *p, size_t bytes) {
    READY("bytes=%zu", bytes);
    if (const Result r = stream::unsafe()) return call(r);
    if (p == nullptr) return call(invalid_value);
    void *memory = nullptr;
    const Result r = memory::allocate(memory::device, bytes, &memory);
    *p = reinterpret_cast<DevicePtr>(memory);
    return call(r);
}

API cuMemFree_v2(DevicePtr p) {
    READY("%s", "");
    if (p == 0) return call(success);
    if (const Result r = stream::unsafe()) return call(r);
    if (const Result r = stream::wait_for_all()) return call(r);
    std::string text;
    const Result r = memory::release(memory::device, host(p), text);
    if (!text.empty()) control::report(text);
    return call(r);
}

API cuMemHostAlloc(void **p, size_t bytes, unsigned flags) {
    READY("bytes=%zu flags=%u", bytes, flags);
    if (const Result r = stream::unsafe()) return call(r);
    if (p == nullptr || flags > 7) return call(invalid_value);
    return call(memory::allocate(memory::pinned, bytes, p));
}

API cuMemFreeHost(void *p) {
    READY("%s", "");
    if (const Result r = stream::wait_for_all()) return call(r);
    std::string text;
    const Result r = memory::release(memory::pinned, p, text);
    if (!text.empty()) control::report(text);
    return call(r);
}

// From pageable memory the call returns when the bytes have been read; they may arrive later, in the null stream's order.
API cuMemcpyHtoD_v2(DevicePtr to, const void *from, size_t bytes) {
    READY("bytes=%zu", bytes);
    if (!on_device(to, bytes) || (from == nullptr && bytes)) return call(invalid_value);
    if (const Result r = stream::implicit()) return call(r);
    if (const Result r = stream::wait_for(null_stream())) return call(r);
    const bool locked = page_locked(from, bytes);
    if (const Result r = stream::enqueue(null_stream(), "copy in", locked ? copy(host(to), from, bytes) : staged(host(to), from, bytes))) return call(r);
    return call(locked ? stream::wait_for(null_stream()) : success);
}

API cuMemcpyDtoH_v2(void *to, DevicePtr from, size_t bytes) {
    READY("bytes=%zu", bytes);
    if (!on_device(from, bytes) || (to == nullptr && bytes)) return call(invalid_value);
    if (const Result r = stream::enqueue(null_stream(), "copy out", copy(to, host(from), bytes))) return call(r);
    return call(stream::wait_for(null_stream()));
}

API cuMemcpyDtoD_v2(DevicePtr to, DevicePtr from, size_t bytes) {
    READY("bytes=%zu", bytes);
    if (!on_device(to, bytes) || !on_device(from, bytes)) return call(invalid_value);
    return call(stream::enqueue(null_stream(), "copy", copy(host(to), host(from), bytes)));
}

API cuMemcpyHtoDAsync_v2(DevicePtr to, const void *from, size_t bytes, void *handle) {
    READY("bytes=%zu", bytes);
    Stream *s = stream::find(handle);
    if (s == nullptr) return call(invalid_handle);
    if (!on_device(to, bytes) || (from == nullptr && bytes)) return call(invalid_value);
    if (page_locked(from, bytes) || s->capture) return call(stream::enqueue(s, "copy in", copy(host(to), from, bytes)));
    return call(stream::enqueue(s, "copy in", staged(host(to), from, bytes)));
}

API cuMemcpyDtoHAsync_v2(void *to, DevicePtr from, size_t bytes, void *handle) {
    READY("bytes=%zu", bytes);
    Stream *s = stream::find(handle);
    if (s == nullptr) return call(invalid_handle);
    if (!on_device(from, bytes) || (to == nullptr && bytes)) return call(invalid_value);
    if (const Result r = stream::enqueue(s, "copy out", copy(to, host(from), bytes))) return call(r);
    return call(page_locked(to, bytes) || s->capture ? success : stream::wait_for(s));
}

API cuMemcpyDtoDAsync_v2(DevicePtr to, DevicePtr from, size_t bytes, void *handle) {
    READY("bytes=%zu", bytes);
    Stream *s = stream::find(handle);
    if (s == nullptr) return call(invalid_handle);
    if (!on_device(to, bytes) || !on_device(from, bytes)) return call(invalid_value);
    return call(stream::enqueue(s, "copy", copy(host(to), host(from), bytes)));
}

API cuMemsetD8Async(DevicePtr to, unsigned char value, size_t count, void *handle) {
    READY("value=%d count=%zu", value, count);
    Stream *s = stream::find(handle);
    if (s == nullptr) return call(invalid_handle);
    if (!on_device(to, count)) return call(invalid_value);
    return call(stream::enqueue(s, "fill", fill(host(to), value, count)));
}

API cuMemsetD32Async(DevicePtr to, unsigned value, size_t count, void *handle) {
    READY("value=%u count=%zu", value, count);
    Stream *s = stream::find(handle);
    if (s == nullptr) return call(invalid_handle);
    if (to % 4 != 0 || count > SIZE_MAX / 4 || !on_device(to, 4 * count)) return call(invalid_value);
    return call(stream::enqueue(s, "fill", fill(host(to), value, count)));
}

API cuMemsetD8_v2(DevicePtr to, unsigned char value, size_t count) {
    READY("value=%d count=%zu", value, count);
    if (!on_device(to, count)) return call(invalid_value);
    return call(stream::enqueue(null_stream(), "fill", fill(host(to), value, count)));
}

API cuMemsetD32_v2(DevicePtr to, unsigned value, size_t count) {
    READY("value=%u count=%zu", value, count);
    if (to % 4 != 0 || count > SIZE_MAX / 4 || !on_device(to, 4 * count)) return call(invalid_value);
    return call(stream::enqueue(null_stream(), "fill", fill(host(to), value, count)));
}

extern "C" __attribute__((visibility("default"))) int tfc_fake_inside(const void *p, size_t bytes) {
    return memory::inside(memory::device, p, bytes);
}

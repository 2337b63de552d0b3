// The driver API: modules, functions and launches.
#include "api.h"

#include "memory.h"
#include "module.h"

#include <string.h>

#include <memory>

API cuModuleLoadData(Module **m, const char *image) {
    READY("%s", "");
    if (const Result r = stream::unsafe()) return call(r);
    if (m == nullptr) return call(invalid_value);
    return call(module::load(image, m));
}

API cuModuleLoadFatBinary(Module **m, const char *image) {
    READY("%s", "");
    if (const Result r = stream::unsafe()) return call(r);
    if (m == nullptr) return call(invalid_value);
    return call(module::load(image, m));
}

API cuModuleUnload(Module *m) {
    READY("%s", "");
    if (const Result r = stream::unsafe()) return call(r);
    if (const Result r = stream::wait_for_all()) return call(r);
    return call(module::unload(m));
}

API cuModuleGetFunction(Function **f, Module *m, const char *name) {
    READY("name=%s", name);
    if (f == nullptr || name == nullptr) return call(invalid_value);
    return call(module::find(m, name, f));
}

namespace {
enum FunctionAttribute { threads = 0, static_shared = 1, local = 3, registers = 4, dynamic_shared = 8, carveout = 9 };
} // namespace

API cuFuncGetAttribute(int *value, int which, const Function *f) {
    READY("attribute=%d", which);
    if (value == nullptr) return call(invalid_value);
    if (!module::known(f)) return call(invalid_handle);
    switch (which) {
    case threads: *value = f->code.entry->bound; break;
    case static_shared: *value = int(f->code.static_shared); break;
    case registers: *value = 32; break;
    case local: *value = 0; break;
    case dynamic_shared: *value = int(f->most_dynamic); break;
    default: *value = 0;
    }
    return call(success);
}

API cuFuncSetAttribute(Function *f, int which, int value) {
    READY("attribute=%d value=%d", which, value);
    if (!module::known(f)) return call(invalid_handle);
    if (which == carveout) return call(success);
    if (which != dynamic_shared || value < 0 || value + f->code.static_shared > device::shared_optin()) return call(invalid_value);
    f->most_dynamic = value;
    return call(success);
}

// cuFuncGetParamInfo gives an argument's place; invalid_value after the last one.
API cuFuncGetParamInfo(const Function *f, size_t index, size_t *offset, size_t *size) {
    READY("index=%zu", index);
    if (!module::known(f)) return call(invalid_handle);
    if (offset == nullptr || index >= size_t(f->code.entry->count)) return call(invalid_value);
    size_t at = 0;
    for (size_t i = 0;; i++) {
        const size_t n = f->code.entry->sizes[i] & 0x7fff, align = n > 64 ? 64 : n;
        at = (at + align - 1) / align * align;
        if (i == index) {
            *offset = at;
            if (size) *size = n;
            return call(success);
        }
        at += n;
    }
}

namespace {

// check_pointers says which pointer of a launch is not one of the device; nullptr is, where a kernel takes it.
void check_pointers(const Launch &l, Fault &fault) {
    size_t next = 0;
    for (int i = 0; i < l.code->entry->count; i++) {
        const size_t at = next;
        next += tfc_sim::room(l.code->entry->sizes[i]);
        if (l.code->entry->sizes[i] != tfc_sim::pointer_size) continue;
        void *p;
        memcpy(&p, l.data.data() + at, sizeof p);
        if (p == nullptr || memory::inside(memory::device, p, 0) || memory::inside(memory::pinned, p, 0)) continue;
        fault = {illegal_address, format("kernel %s: argument %d is %s", l.code->name.c_str(), i, memory::describe(reinterpret_cast<uintptr_t>(p)).c_str())};
        return;
    }
}

// launch is what is left of a launch once its call is recorded.
Result launch(Function *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, void *handle,
              void **arguments, void **extra) {
    if (!module::known(f)) return invalid_handle;
    Stream *s = stream::find(handle);
    if (s == nullptr) return invalid_handle;
    const tfc_sim::Entry &e = *f->code.entry;
    if (gx == 0 || gy == 0 || gz == 0 || gx > 0x7fffffff || gy > 65535 || gz > 65535) return invalid_value;
    if (bx == 0 || by == 0 || bz == 0 || bx > 1024 || by > 1024 || bz > 64 || uint64_t(bx) * by * bz > tfc_sim::max_threads) return invalid_value;
    if (bx * by * bz > unsigned(e.bound)) return launch_out_of_resources;
    if (shared > unsigned(f->most_dynamic)) return invalid_value;
    if (extra != nullptr || (arguments == nullptr && e.count)) return invalid_value;
    const auto l = std::make_shared<Launch>(Launch{&f->code, {gx, gy, gz}, {bx, by, bz}, shared, {}});
    for (int i = 0; i < e.count; i++) {
        const size_t at = l->data.size();
        l->data.resize(at + tfc_sim::room(e.sizes[i]));
        memcpy(l->data.data() + at, arguments[i], e.sizes[i] & 0x7fff);
    }
    return stream::enqueue(s, f->code.name, [f, l](Fault &fault) {
        if (!module::known(f)) { // a graph can outlive it
            fault = {invalid_handle, "the kernel's module has been unloaded"};
            return;
        }
        check_pointers(*l, fault);
        if (fault.result == success) simulator::run(*l, fault);
    });
}

const char *name(const Function *f) { return module::known(f) ? f->code.name.c_str() : "?"; }

} // namespace

API cuLaunchKernel(Function *f, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void *handle, void **arguments, void **extra) {
    READY("name=%s grid=%u,%u,%u block=%u,%u,%u shared=%u", name(f), gx, gy, gz, bx, by, bz, shared);
    return call(launch(f, gx, gy, gz, bx, by, bz, shared, handle, arguments, extra));
}

// LaunchConfig is CUlaunchConfig, and LaunchAttribute CUlaunchAttribute.
struct LaunchAttribute {
    int id, padding;
    int value[16];
};
struct LaunchConfig {
    unsigned grid[3], block[3], shared;
    void *stream;
    const LaunchAttribute *attributes;
    unsigned count;
};

// cuLaunchKernelEx knows one attribute, programmatic stream serialization, which changes nothing here: a kernel runs when all before it
// have.
API cuLaunchKernelEx(const LaunchConfig *c, Function *f, void **arguments, void **extra) {
    bool early = false;
    for (unsigned i = 0; c && i < c->count; i++) early = early || (c->attributes[i].id == 6 && c->attributes[i].value[0] != 0);
    READY("name=%s%s", name(f), early ? " early" : "");
    if (c == nullptr || c->count > 1 || (c->count == 1 && c->attributes[0].id != 6)) return call(invalid_value);
    if (early && settings.major < 9) return call(not_supported);
    return call(launch(f, c->grid[0], c->grid[1], c->grid[2], c->block[0], c->block[1], c->block[2], c->shared, c->stream, arguments, extra));
}

// cuTensorMapEncodeTiled describes what kernels here use: bytes, or elements of 16 bits, in tiles whose rows are as long as what their swizzle moves chunks in.
API cuTensorMapEncodeTiled(TensorMap *map, int type, unsigned rank, void *base, const uint64_t *sizes, const uint64_t *strides, const unsigned *box,
                           const unsigned *steps, int interleave, int swizzle, int, int fill) {
    READY("rank=%u base=%p", rank, base);
    if (map == nullptr || reinterpret_cast<uintptr_t>(map) % 64 != 0 || reinterpret_cast<uintptr_t>(base) % 16 != 0) return call(invalid_value);
    if ((type != 0 && type != 6 && type != 9) || rank < 2 || rank > 5 || interleave != 0 || (swizzle != 2 && swizzle != 3) || fill != 0) return call(not_supported);
    TensorMap m = {0x7fc0a441ull << 32, static_cast<unsigned char *>(base), rank, type == 0 ? 1u : 2u, swizzle == 2 ? 64u : 128u};
    for (unsigned d = 0; d < rank; d++) {
        const uint64_t stride = d == 0 ? m.bytes : strides[d - 1];
        if (steps[d] != 1) return call(not_supported);
        if (sizes[d] == 0 || sizes[d] > 1ull << 32 || box[d] == 0 || box[d] > 256 || (d > 0 && stride % 16 != 0)) return call(invalid_value);
        m.sizes[d] = sizes[d], m.tile[d] = uint16_t(box[d]);
        if (d > 0) m.strides[d - 1] = stride;
    }
    if (m.tile[0] * m.bytes != m.swizzle || strides[rank - 2] < sizes[0] * m.bytes) return call(invalid_value);
    *map = m;
    return call(success);
}

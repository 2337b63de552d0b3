#include "simulator.h"

#include "async.h"
#include "copies.h"
#include "memory.h"
#include "mma.h"
#include "pool.h"
#include "switch.h"

#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <functional>
#include <mutex>

// The C library's: where a thread's part of a library's thread-local memory is.
struct TLSIndex {
    size_t module, offset;
};
extern "C" void *__tls_get_addr(TLSIndex *);

namespace simulator {
namespace {

using namespace tfc_sim;

// Grid is a launch in progress.
struct Grid {
    const Launch &launch;
    Fault &fault;
    const uint64_t blocks;
    std::vector<void *> arguments;
    std::atomic<uint64_t> next = 0;
    std::atomic<bool> stop = false;
    std::mutex mutex; // of fault

    Grid(const Launch &l, Fault &f) : launch(l), fault(f), blocks(uint64_t(l.grid.x) * l.grid.y * l.grid.z) {
        size_t at = 0;
        for (int i = 0; i < l.code->entry->count; i++) {
            arguments.push_back(const_cast<unsigned char *>(l.data.data()) + at);
            at += room(l.code->entry->sizes[i]);
        }
    }
};

// Core is one of the pool's threads as a Worker: it starts the arena that holds the stacks.
struct Core : Worker {
    Grid *grid;
    Fiber host; // the context that runs the blocks
    int stacks; // that can be used
    unsigned char *shared_end;
    sigjmp_buf escape; // out of a fault
    bool escapes;      // whether escape is set
    bool in_block;     // a fiber runs
    int signal;        // of a fault, or 0
    uintptr_t address; // of the access
    Fiber *guilty;     // or nullptr
    char text[512];
};
static_assert(sizeof(Core) <= first_slot * slot_size);

constexpr size_t shared_guard = 1 << 20; // bytes that nobody can access, behind the shared memory

Core *cores[pool::most];

[[noreturn]] void die(const char *what) {
    perror(what);
    abort();
}

void *reserve(size_t bytes) {
    void *p = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) die("tfc's simulator: mmap");
    return p;
}

void allow(void *p, size_t bytes) {
    if (mprotect(p, bytes, PROT_READ | PROT_WRITE) != 0) die("tfc's simulator: mprotect");
}

extern const Services services;

Core &make_core() {
    unsigned char *p = static_cast<unsigned char *>(reserve(2 * arena_size));
    const uintptr_t at = (reinterpret_cast<uintptr_t>(p) + arena_size - 1) & ~(arena_size - 1);
    allow(reinterpret_cast<void *>(at), (sizeof(Core) + 4095) & ~size_t(4095));
    Core &c = *new (reinterpret_cast<void *>(at)) Core{};
    c.services = &services;
    const size_t page = size_t(sysconf(_SC_PAGESIZE));
    const size_t bytes = (most_shared + page - 1) / page * page;
    unsigned char *shared = static_cast<unsigned char *>(reserve(bytes + shared_guard));
    allow(shared, bytes);
    c.shared_end = shared + bytes;
    return c;
}

Core &core(int index) {
    if (cores[index] == nullptr) cores[index] = &make_core();
    return *cores[index];
}

// stack is the end of a fiber's stack. Fibers use different offsets in their slots, lest all their frames fall into the
// same few lines of the caches.
unsigned char *stack(Core &c, int i) {
    constexpr unsigned stride = 832, most = 1 << 14;
    return reinterpret_cast<unsigned char *>(&c) + (first_slot + i + 1) * slot_size - (i * stride % most & ~63u);
}

// need_stacks makes stacks usable, each but for a guard at its low end.
void need_stacks(Core &c, int n) {
    const size_t guard = std::max<size_t>(1 << 14, size_t(sysconf(_SC_PAGESIZE)));
    for (; c.stacks < n; c.stacks++)
        allow(reinterpret_cast<unsigned char *>(&c) + (first_slot + c.stacks) * slot_size + guard, slot_size - guard);
}

int first(uint32_t bits, bool backward) { return backward ? 31 - __builtin_clz(bits) : __builtin_ctz(bits); }

// after is the next one of bits after i, around.
int after(uint32_t bits, int i, bool backward) {
    const uint32_t rest = backward ? bits & ((1u << i) - 1) : bits & ~(2u * (1u << i) - 1);
    return first(rest ? rest : bits, backward);
}

[[noreturn]] void deadlock(Worker &w);

// next is the fiber that goes on when one of warp cannot: a lane of the same warp, or else another warp's.
Fiber &next(Worker &w, int warp, int lane) {
    if (const uint32_t r = w.warps[warp].runnable) return w.fibers[warp * lanes + after(r, lane, w.backward)];
    w.ready &= ~(1u << warp);
    if (w.ready == 0) deadlock(w);
    warp = after(w.ready, warp, w.backward);
    return w.fibers[warp * lanes + first(w.warps[warp].runnable, w.backward)];
}

void suspend(Worker &w, Fiber &f) { context::change(f, next(w, f.warp, f.lane)); }

[[noreturn]] void escape(Core &c, Fiber *guilty) {
    c.guilty = guilty;
    siglongjmp(c.escape, 1);
}

[[noreturn]] void fail_kernel(const char *what, Place at, int64_t number) {
    Core &c = static_cast<Core &>(worker());
    c.signal = 0;
    int n = 0;
    if (const char *d = strstr(what, "%d"))
        n = snprintf(c.text, sizeof c.text, "%.*s%lld%s", int(d - what), what, static_cast<long long>(number), d + 2);
    else
        n = snprintf(c.text, sizeof c.text, "%s", what);
    if (at.file && n > 0 && size_t(n) < sizeof c.text)
        snprintf(c.text + n, sizeof c.text - n, at.line ? " (%s:%d)" : " (%s)", at.file, at.line);
    escape(c, &fiber());
}

void deadlock(Worker &w) {
    for (int i = 0; i * lanes < w.threads; i++)
        if (w.warps[i].arrived) fail("divergent warp: the lanes that are not at a collective wait elsewhere; warp %d", {w.warps[i].kind, 0}, i);
    if (w.waiting == 0) fail("all threads wait: for arrivals that do not come, or at barriers of a group");
    fail("divergent barrier: %d threads wait, the others cannot go on", w.barrier, w.waiting);
}

// live is what a fiber runs. It returns to the host when all threads have returned.
void live() {
    Core &c = static_cast<Core &>(worker());
    Fiber &f = fiber();
    c.grid->launch.code->entry->call(c.grid->arguments.data());
    if (c.waiting) tfc_sim::fail("divergent barrier: a thread returned while %d wait", c.barrier, c.waiting);
    Warp &w = c.warps[f.warp];
    w.alive &= ~(1u << f.lane);
    w.runnable &= ~(1u << f.lane);
    c.alive--;
    if (w.arrived && w.arrived == w.alive) complete(w);
    context::change(f, c.alive == 0 ? c.host : next(c, f.warp, f.lane));
    __builtin_unreachable();
}

// run_block runs a block. Odd ones run their threads backward: a missing barrier shows in one of the two orders.
void run_block(Core &c, uint64_t index) {
    const Grid &g = *c.grid;
    const Launch &l = g.launch;
    c.block_index = {unsigned(index % l.grid.x), unsigned(index / l.grid.x % l.grid.y), unsigned(index / l.grid.x / l.grid.y)};
    c.backward = index % 2 != 0;
    c.alive = c.threads;
    c.waiting = c.changed = c.registers = 0;
    memset(c.dynamic_shared, 0xff, c.shared_end - c.dynamic_shared);
    if (l.code->tls_bytes) {
        TLSIndex at{l.code->tls_module, 0};
        memset(__tls_get_addr(&at), 0xff, l.code->tls_bytes);
    }
    c.ready = 0;
    for (int i = 0; i * lanes < c.threads; i++) {
        Warp &w = c.warps[i];
        const int n = c.threads - i * lanes;
        w.alive = w.runnable = n >= lanes ? 0xffffffffu : (1u << n) - 1;
        w.arrived = w.met = w.parity = 0;
        w.kind = nullptr;
        c.ready |= 1u << i;
    }
    for (int i = 0; i < c.threads; i++) {
        Fiber &f = c.fibers[i];
        context::prepare(f, stack(c, i), live);
        if (f.copies) copies::clear(f);
    }
    async::clear(c);
    const int warp = first(c.ready, c.backward);
    context::change(c.host, c.fibers[warp * lanes + first(c.warps[warp].runnable, c.backward)]);
}

void take_blocks(Core &c) {
    Grid &g = *c.grid;
    const Launch &l = g.launch;
    c.block_size = l.block;
    c.grid_size = l.grid;
    c.threads = int(l.block.x * l.block.y * l.block.z);
    c.dynamic_shared = c.shared_end - (l.shared + 127) / 128 * 128;
    need_stacks(c, c.threads);
    for (int i = 0; i < c.threads; i++) {
        const unsigned u = unsigned(i);
        c.fibers[i].thread = {u % l.block.x, u / l.block.x % l.block.y, u / l.block.x / l.block.y};
        c.fibers[i].lane = u % lanes;
        c.fibers[i].warp = u / lanes;
    }
    c.in_block = true;
    while (!g.stop) {
        const uint64_t i = g.next++;
        if (i >= g.blocks) break;
        run_block(c, i);
    }
    c.in_block = false;
}

// describe says what happened to c, which has escaped.
Fault describe(Core &c) {
    Fault f;
    switch (c.signal) {
    case 0:
        f = {launch_failed, c.text};
        if (strstr(c.text, "not aligned")) f.result = misaligned_address;
        break;
    case SIGFPE: f = {launch_failed, "integer division by zero"}; break;
    case SIGILL: f = {launch_failed, "illegal instruction"}; break;
    default: {
        const uintptr_t base = reinterpret_cast<uintptr_t>(&c), end = reinterpret_cast<uintptr_t>(c.shared_end);
        f.result = illegal_address;
        if (c.address >= base && c.address < base + arena_size)
            f.text = "a thread's stack is full";
        else if (c.address >= end && c.address < end + shared_guard)
            f.text = format("access %zu bytes past the dynamic shared memory", size_t(c.address - end));
        else
            f.text = "access to " + memory::describe(c.address);
    }
    }
    return f;
}

void note(Grid &g, Core &c) {
    Fault f = describe(c);
    const Launch &l = g.launch;
    std::string where = format("kernel %s, block (%u, %u, %u) of (%u, %u, %u)", l.code->name.c_str(), c.block_index.x, c.block_index.y,
                               c.block_index.z, l.grid.x, l.grid.y, l.grid.z);
    if (c.guilty) where += format(", thread (%u, %u, %u)", c.guilty->thread.x, c.guilty->thread.y, c.guilty->thread.z);
    f.text = where + ": " + f.text;
    std::lock_guard lock(g.mutex);
    if (g.fault.result == success) g.fault = f;
    g.stop = true;
}

// attempt calls f, and says whether it came back.
bool attempt(Core &c, const std::function<void()> &f) {
    if (sigsetjmp(c.escape, 1) != 0) {
        c.escapes = c.in_block = false;
        return false;
    }
    c.escapes = true;
    f();
    c.escapes = false;
    return true;
}

struct sigaction before[65];

// handle turns a fault of a core into an escape. Others' are not ours.
void handle(int signal, siginfo_t *info, void *context) {
    const int i = pool::index();
    if (i >= 0 && cores[i] && cores[i]->escapes) {
        Core &c = *cores[i];
        c.signal = signal;
        c.address = reinterpret_cast<uintptr_t>(info->si_addr);
        Fiber *guilty = nullptr;
#if defined(__x86_64__)
        const uintptr_t sp = uintptr_t(static_cast<ucontext_t *>(context)->uc_mcontext.gregs[REG_RSP]) - reinterpret_cast<uintptr_t>(&c);
        if (c.in_block && sp < arena_size && (sp >> slot_bits) >= first_slot) guilty = &c.fibers[(sp >> slot_bits) - first_slot];
#endif
        escape(c, guilty);
    }
    struct sigaction &old = before[signal];
    if (old.sa_flags & SA_SIGINFO) {
        old.sa_sigaction(signal, info, context);
    } else if (old.sa_handler == SIG_DFL || old.sa_handler == SIG_IGN) {
        sigaction(signal, &old, nullptr); // the instruction runs again and the default happens
    } else {
        old.sa_handler(signal);
    }
}

void install_handlers() {
    static std::once_flag once;
    std::call_once(once, [] {
        for (int s : {SIGSEGV, SIGBUS, SIGILL, SIGFPE}) {
            struct sigaction a{};
            a.sa_sigaction = handle;
            a.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
            sigfillset(&a.sa_mask);
            sigaction(s, &a, &before[s]);
        }
    });
}

const Services services = {suspend, fail_kernel, tensor_core::multiply, copies::begin, copies::commit, copies::wait,
                            async::init, async::arrive, async::await, async::fetch, async::store, async::commit, async::leave, async::barrier,
                            async::bulk_fetch};

} // namespace

void run(const Launch &l, Fault &fault) {
    install_handlers();
    Grid g(l, fault);
    const auto work = [&](int index) {
        Core &c = core(index);
        c.grid = &g;
        if (!attempt(c, [&] { take_blocks(c); })) note(g, c);
    };
    const uint64_t threads = g.blocks * l.block.x * l.block.y * l.block.z;
    if (g.blocks > 1 && threads > 4096)
        pool::everywhere(work);
    else
        work(0);
}

void guarded(const char *what, Fault &fault, const std::function<void()> &f) {
    install_handlers();
    Core &c = core(pool::index());
    if (attempt(c, f)) return;
    fault = describe(c);
    fault.text = std::string(what) + ": " + fault.text;
}

} // namespace simulator

std::string format(const char *text, ...) {
    char buffer[1024];
    va_list list;
    va_start(list, text);
    vsnprintf(buffer, sizeof buffer, text, list);
    va_end(list);
    return buffer;
}

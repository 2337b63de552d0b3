#include "async.h"

#include <string.h>

#include <map>
#include <vector>

namespace tfc_sim {

struct Tile { // a copy between shared memory and a matrix, or plain bytes
    TensorMap map;
    unsigned char *shared;
    TileAt at;
    const void *global = nullptr; // of plain bytes, which are fetched
    int bytes = 0;
};

struct Async {
    struct Phase {
        unsigned long long *at;
        int count, pending, phase = 0;
        long bytes = 0;            // announced, and not come
        std::vector<Tile> fetches; // under way
        std::vector<Fiber *> waiting;
    };
    struct Stores {
        std::vector<std::vector<Tile>> groups;
        std::vector<Tile> open;
    };
    struct Group {
        int threads = 0;
        std::vector<Fiber *> waiting;
    };
    std::vector<Phase> arrivals;
    std::map<Fiber *, Stores> stores;
    Group groups[16 + max_threads / 128]; // those of group_barrier, then the warpgroups at a wgmma_wait
};

} // namespace tfc_sim

namespace async {

namespace {

using namespace tfc_sim;

constexpr unsigned long long mark = 0x7fc0a441ull << 32; // of the number of an arrival

Async &of(Worker &w) {
    if (w.async == nullptr) w.async = new Async; // a worker's for good
    return *w.async;
}

Async::Phase &find(Worker &w, const unsigned long long *a) {
    Async &x = of(w);
    const unsigned long long i = *a ^ mark;
    if (i >= x.arrivals.size() || x.arrivals[i].at != a) fail("an arrival that arrival_init has not made");
    return x.arrivals[i];
}

void wake(Worker &w, std::vector<Fiber *> &fibers) {
    for (Fiber *f : fibers) {
        w.warps[f->warp].runnable |= 1u << f->lane;
        w.ready |= 1u << f->warp;
    }
    fibers.clear();
}

void sleep(Worker &w, Fiber &f, std::vector<Fiber *> &in) {
    in.push_back(&f);
    w.warps[f.warp].runnable &= ~(1u << f.lane);
    w.services->suspend(w, f);
}

// settle ends the phase if all has come.
void settle(Worker &w, Async::Phase &p) {
    if (p.pending > 0 || p.bytes != 0) return;
    p.phase ^= 1;
    p.pending = p.count;
    wake(w, p.waiting);
}

long bytes_of(const TensorMap &m) {
    long n = m.bytes;
    for (uint32_t d = 0; d < m.rank; d++) n *= m.tile[d];
    return n;
}

// move copies one way or the other. What is outside of a matrix is zero, or stays.
void move(const Tile &t, bool store) {
    if (t.global != nullptr) {
        memcpy(t.shared, t.global, t.bytes);
        return;
    }
    const TensorMap &m = t.map;
    const long elements = bytes_of(m) / m.bytes;
    for (long e = 0; e < elements; e++) {
        long left = e;
        unsigned char *there = m.base;
        bool inside = true;
        for (uint32_t d = 0; d < m.rank; d++) {
            const int64_t i = t.at.index[d] + left % m.tile[d];
            left /= m.tile[d];
            inside = inside && i >= 0 && i < int64_t(m.sizes[d]);
            there += i * int64_t(d == 0 ? m.bytes : m.strides[d - 1]);
        }
        const uintptr_t offset = uintptr_t(e) * m.bytes; // bits from 4 on change with those from 7 on, as many as the swizzle has chunks
        unsigned char *const here = t.shared + (offset ^ (offset >> 7 & (m.swizzle / 16 - 1)) << 4);
        if (!inside)
            store ? void() : void(memset(here, 0, m.bytes));
        else
            store ? memcpy(there, here, m.bytes) : memcpy(here, there, m.bytes);
    }
}

void check(const TensorMap &m, const void *shared, const TileAt &at) {
    if (m.magic != mark) fail("a copy by a map that cuTensorMapEncodeTiled has not made");
    if (uint32_t(at.rank) != m.rank) fail("a copy by %d indices, by a map that has others", {nullptr, 0}, at.rank);
    if (reinterpret_cast<uintptr_t>(shared) % (8 * m.swizzle) != 0) fail("a tile in shared memory that does not start where its swizzle does: at a multiple of %d bytes", {nullptr, 0}, 8 * m.swizzle);
}

void land(Worker &w, Async::Phase &p) {
    for (const Tile &t : p.fetches) {
        move(t, false);
        p.bytes -= t.global != nullptr ? t.bytes : bytes_of(t.map);
    }
    const bool any = !p.fetches.empty();
    p.fetches.clear();
    if (any) settle(w, p);
}

} // namespace

void init(Worker &w, unsigned long long *a, int count) {
    Async &x = of(w);
    *a = mark ^ x.arrivals.size();
    x.arrivals.push_back({a, count, count});
}

void arrive(Worker &w, unsigned long long *a, int bytes) {
    Async::Phase &p = find(w, a);
    if (p.pending == 0) fail("more arrivals in a phase than %d", {nullptr, 0}, p.count);
    p.pending--;
    p.bytes += bytes;
    settle(w, p);
}

void await(Worker &w, Fiber &f, unsigned long long *a, int phase) {
    while (find(w, a).phase == phase) {
        land(w, find(w, a));
        Async::Phase &p = find(w, a);
        if (p.phase == phase) sleep(w, f, p.waiting);
    }
}

void fetch(Worker &w, void *shared, const TensorMap &m, unsigned long long *a, TileAt at) {
    check(m, shared, at);
    Async::Phase &p = find(w, a);
    memset(shared, 0xff, size_t(bytes_of(m)));
    p.fetches.push_back({m, static_cast<unsigned char *>(shared), at});
    if (!p.waiting.empty()) land(w, p);
}

void store(Worker &w, Fiber &f, const void *shared, const TensorMap &m, TileAt at) {
    check(m, shared, at);
    of(w).stores[&f].open.push_back({m, static_cast<unsigned char *>(const_cast<void *>(shared)), at});
}

void commit(Worker &w, Fiber &f) {
    Async::Stores &s = of(w).stores[&f];
    s.groups.push_back(std::move(s.open));
    s.open.clear();
}

void leave(Worker &w, Fiber &f, int youngest) {
    Async::Stores &s = of(w).stores[&f];
    while (s.groups.size() > size_t(youngest)) {
        for (const Tile &t : s.groups.front()) move(t, true);
        s.groups.erase(s.groups.begin());
    }
}

void barrier(Worker &w, Fiber &f, int id, int threads) {
    if (id < 1 || id >= int(sizeof of(w).groups / sizeof *of(w).groups) || threads % lanes != 0) fail("group_barrier %d: ids are 1 to 15, threads whole warps", {nullptr, 0}, id);
    Async::Group &g = of(w).groups[id];
    if (g.waiting.empty()) g.threads = threads;
    if (g.threads != threads) fail("group_barrier: others wait for %d threads", {nullptr, 0}, g.threads);
    if (int(g.waiting.size()) + 1 == threads)
        wake(w, g.waiting);
    else
        sleep(w, f, g.waiting);
}

void bulk_fetch(Worker &w, void *shared, const void *global, int bytes, unsigned long long *a) {
    if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global) | uintptr_t(bytes)) % 16 != 0) fail("a bulk copy that is not aligned to 16 bytes");
    Async::Phase &p = find(w, a);
    memset(shared, 0xff, size_t(bytes));
    p.fetches.push_back({{}, static_cast<unsigned char *>(shared), {}, global, bytes});
    if (!p.waiting.empty()) land(w, p);
}

void clear(Worker &w) {
    if (w.async == nullptr) return;
    w.async->arrivals.clear();
    w.async->stores.clear();
    for (Async::Group &g : w.async->groups) g.waiting.clear();
}

} // namespace async

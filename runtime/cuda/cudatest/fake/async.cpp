#include "async.h"

#include <string.h>

#include <map>
#include <vector>

namespace tfc_sim {

struct Tile { // a copy between shared memory and a matrix, or plain bytes
    TensorMap map;
    unsigned char *shared;
    int column, row;
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
constexpr int panel = 128;                              // bytes of a tile's row

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

// move copies one way or the other. What is outside of a matrix is zero, or stays.
void move(const Tile &t, bool store) {
    if (t.global != nullptr) {
        memcpy(t.shared, t.global, t.bytes);
        return;
    }
    for (uint64_t r = 0; r < t.map.tile_rows; r++) {
        for (int c = 0; c < 64; c++) {
            const int64_t row = int64_t(t.row) + int64_t(r), column = int64_t(t.column) + c;
            const bool inside = row >= 0 && row < int64_t(t.map.rows) && column >= 0 && column < int64_t(t.map.columns);
            unsigned char *const here = t.shared + r * panel + ((c / 8) ^ int(r & 7)) * 16 + c % 8 * 2;
            unsigned char *const there = t.map.base + row * int64_t(t.map.stride) + column * 2;
            if (!inside)
                store ? void() : void(memset(here, 0, 2));
            else
                store ? memcpy(there, here, 2) : memcpy(here, there, 2);
        }
    }
}

// part is the map of one half of m's columns, or m where it has no halves.
TensorMap part(const TensorMap &m, const void *shared, int half) {
    if (m.magic != mark) fail("a copy by a map that cuTensorMapEncodeTiled has not made");
    if ((half < 0) != (m.halves == 1) || half > 1) fail("a copy of half %d, by a map that has others", {nullptr, 0}, half);
    if (reinterpret_cast<uintptr_t>(shared) % 1024 != 0) fail("a tile in shared memory that does not start at a multiple of 1024 bytes");
    TensorMap p = m;
    if (half > 0) p.base += m.apart;
    return p;
}

void land(Worker &w, Async::Phase &p) {
    for (const Tile &t : p.fetches) {
        move(t, false);
        p.bytes -= t.global != nullptr ? t.bytes : long(t.map.tile_rows) * panel;
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

void fetch(Worker &w, void *shared, const TensorMap &m, unsigned long long *a, int column, int half, int row) {
    const TensorMap one = part(m, shared, half);
    Async::Phase &p = find(w, a);
    memset(shared, 0xff, m.tile_rows * panel);
    p.fetches.push_back({one, static_cast<unsigned char *>(shared), column, row});
    if (!p.waiting.empty()) land(w, p);
}

void store(Worker &w, Fiber &f, const void *shared, const TensorMap &m, int column, int half, int row) {
    of(w).stores[&f].open.push_back({part(m, shared, half), static_cast<unsigned char *>(const_cast<void *>(shared)), column, row});
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
    p.fetches.push_back({{}, static_cast<unsigned char *>(shared), 0, 0, global, bytes});
    if (!p.waiting.empty()) land(w, p);
}

void clear(Worker &w) {
    if (w.async == nullptr) return;
    w.async->arrivals.clear();
    w.async->stores.clear();
    for (Async::Group &g : w.async->groups) g.waiting.clear();
}

} // namespace async

// Collectives of a warp: each lane hands something in and waits until all that have not returned are there.
#pragma once

namespace tfc_sim {

// complete ends the collective in progress: its lanes go on.
inline void complete(Warp &w) {
    if (w.finish) w.finish(w, int(w.parity));
    w.met = w.arrived;
    w.arrived = 0;
    w.parity ^= 1;
    w.runnable = w.alive;
}

struct Meeting {
    Warp &warp;
    int lane, parity;

    // of is what a lane handed in, or what finish made of it; NaN bytes where the lane has returned.
    template <class T> T of(int lane) const {
        T x;
        if (warp.met >> lane & 1)
            memcpy(&x, warp.exchange[parity][lane], sizeof x);
        else
            memset(&x, 0xff, sizeof x);
        return x;
    }
};

// meet hands in x. kind is one pointer for each sort of collective: lanes that meet in different ones are an error.
template <class T> inline Meeting meet(const char *kind, const T &x, Finish finish = nullptr) {
    static_assert(sizeof x <= exchange_bytes);
    Worker &b = worker();
    Fiber &f = fiber();
    Warp &w = b.warps[f.warp];
    const Meeting m{w, f.lane, int(w.parity)};
    if (w.arrived == 0) {
        w.kind = kind;
        w.finish = finish;
    } else if (w.kind != kind && strcmp(w.kind, kind) != 0) {
        fail("lanes of a warp are at different collectives", {kind, 0});
    }
    memcpy(w.exchange[m.parity][m.lane], &x, sizeof x);
    w.arrived |= 1u << m.lane;
    if (w.arrived == w.alive) {
        complete(w);
    } else {
        w.runnable &= ~(1u << m.lane);
        b.services->suspend(b, f);
    }
    return m;
}

inline void whole(unsigned mask) {
    if (mask != 0xffffffffu) fail("a collective of a part of the warp, mask %d", {nullptr, 0}, mask);
}

struct Nothing {};

} // namespace tfc_sim

inline void __syncwarp(unsigned mask = 0xffffffffu) {
    tfc_sim::whole(mask);
    tfc_sim::meet("__syncwarp", tfc_sim::Nothing{});
}

template <class V> inline V __shfl_sync(unsigned mask, V x, int from, int width = 32) {
    static_assert(sizeof(V) <= 8);
    tfc_sim::whole(mask);
    const tfc_sim::Meeting m = tfc_sim::meet("__shfl_sync", x);
    return m.of<V>((m.lane & -width) | (from & (width - 1)));
}
template <class V> inline V __shfl_xor_sync(unsigned mask, V x, int with, int width = 32) {
    static_assert(sizeof(V) <= 8);
    tfc_sim::whole(mask);
    const tfc_sim::Meeting m = tfc_sim::meet("__shfl_xor_sync", x);
    const int from = m.lane ^ with;
    return from > (m.lane | (width - 1)) ? x : m.of<V>(from & 31);
}
template <class V> inline V __shfl_up_sync(unsigned mask, V x, unsigned by, int width = 32) {
    static_assert(sizeof(V) <= 8);
    tfc_sim::whole(mask);
    const tfc_sim::Meeting m = tfc_sim::meet("__shfl_up_sync", x);
    const int from = m.lane - int(by);
    return from < (m.lane & -width) ? x : m.of<V>(from);
}
template <class V> inline V __shfl_down_sync(unsigned mask, V x, unsigned by, int width = 32) {
    static_assert(sizeof(V) <= 8);
    tfc_sim::whole(mask);
    const tfc_sim::Meeting m = tfc_sim::meet("__shfl_down_sync", x);
    const int from = m.lane + int(by);
    return from > (m.lane | (width - 1)) ? x : m.of<V>(from);
}

inline unsigned __ballot_sync(unsigned mask, int p) {
    tfc_sim::whole(mask);
    const tfc_sim::Meeting m = tfc_sim::meet("__ballot_sync", p != 0);
    unsigned r = 0;
    for (int i = 0; i < 32; i++)
        if (m.warp.met >> i & 1 && m.of<bool>(i)) r |= 1u << i;
    return r;
}
inline int __any_sync(unsigned mask, int p) { return __ballot_sync(mask, p) != 0; }
inline int __all_sync(unsigned mask, int p) { return __ballot_sync(mask, !p) == 0; }

// Which keys a query attends to, as types: Causal<>, Window<256>, And<Causal<>, Or<Window<128>, Global<16>>>. They are
// those of package runtime/mask, answer for answer, and fold to a few instructions where they are used. A pattern has
//
//   allowed(i, j)               whether query i attends to key j
//   tile(i0, i1, j0, j1)        how much of queries i0 … i1-1 and keys j0 … j1-1 is allowed; exact for atoms, partial also
//                               where a combination cannot tell
//   key_range(i0, i1)           a range that holds every key of queries i0 … i1-1
//   query_range(j0, j1)         a range that holds every query of keys j0 … j1-1
//   gapless                     no tile within these ranges is empty as far as tile can tell
//   past_only                   every allowed j is at most i
//
// Tiles are not empty; positions and ends of ranges are from 0 to last_position. The last number of an atom is its block: positions are
// divided by it, rounded down, before they are compared.
#pragma once
#include "device.cuh"

enum class Cover { partial, empty, full };

struct Range {
    int from, to; // to is exclusive; empty where from >= to
};

constexpr int last_position = 1 << 29;

// clamped is a pattern's number: beyond last_position it makes no difference, and sums and products stay in range.
constexpr __host__ __device__ int clamped(long long n) { return n < last_position ? static_cast<int>(n) : last_position; }

constexpr __host__ __device__ Cover cover(bool full, bool empty) { return full ? Cover::full : empty ? Cover::empty : Cover::partial; }

// Blocks turns positions into blocks, and ranges of blocks into ranges of positions.
template <int Block> struct Blocks {
    static constexpr int block = clamped(Block);
    static_assert(Block >= 1, "a block has at least one position");

    static __device__ constexpr int of(int position) { return position / block; }
    static __device__ constexpr int last(int end) { return (end - 1) / block; } // of a range that ends before end
    static __device__ constexpr int start(int b) { return b <= 0 ? 0 : clamped(static_cast<long long>(b) * block); }
    static __device__ constexpr Range range(int from, int to) { return {start(from), start(to)}; }
};

constexpr Range all_positions = {0, last_position};

// Causal: j <= i.
template <int Block = 1> struct Causal {
    using B = Blocks<Block>;
    static constexpr bool gapless = true, past_only = Block == 1;

    static __device__ constexpr bool allowed(int i, int j) { return B::of(j) <= B::of(i); }
    static __device__ constexpr Cover tile(int i0, int i1, int j0, int j1) {
        return cover(B::of(i0) >= B::last(j1), B::last(i1) < B::of(j0));
    }
    static __device__ constexpr Range key_range(int, int i1) { return B::range(0, B::last(i1) + 1); }
    static __device__ constexpr Range query_range(int j0, int) { return {B::start(B::of(j0)), last_position}; }
};

// Window: |i-j| < N.
template <int N, int Block = 1> struct Window {
    using B = Blocks<Block>;
    static constexpr int n = clamped(N);
    static constexpr bool gapless = true, past_only = Block == 1 && N == 1;

    static __device__ constexpr bool allowed(int i, int j) {
        const int ahead = B::of(i) - B::of(j);
        return ahead < n && -ahead < n;
    }
    static __device__ constexpr Cover tile(int i0, int i1, int j0, int j1) {
        const int least = B::of(i0) - B::last(j1), most = B::last(i1) - B::of(j0);
        return cover(-n < least && most < n, most <= -n || n <= least);
    }
    static __device__ constexpr Range key_range(int i0, int i1) { return B::range(B::of(i0) - n + 1, B::last(i1) + n); }
    static __device__ constexpr Range query_range(int j0, int j1) { return key_range(j0, j1); }
};

// Global: j < N or i < N.
template <int N, int Block = 1> struct Global {
    using B = Blocks<Block>;
    static constexpr int n = clamped(N);
    static constexpr bool gapless = true, past_only = false;

    static __device__ constexpr bool allowed(int i, int j) { return B::of(j) < n || B::of(i) < n; }
    static __device__ constexpr Cover tile(int i0, int i1, int j0, int j1) {
        return cover(B::last(i1) < n || B::last(j1) < n, B::of(i0) >= n && B::of(j0) >= n);
    }
    static __device__ constexpr Range key_range(int i0, int) { return B::of(i0) < n ? Range{0, last_position} : B::range(0, n); }
    static __device__ constexpr Range query_range(int j0, int j1) { return key_range(j0, j1); }
};

// Stride: (i-j) mod N = 0.
template <int N, int Block = 1> struct Stride {
    using B = Blocks<Block>;
    static constexpr int n = clamped(N);
    static constexpr bool gapless = false, past_only = false;

    static __device__ constexpr bool allowed(int i, int j) { return (B::of(i) - B::of(j)) % n == 0; }
    static __device__ constexpr Cover tile(int i0, int i1, int j0, int j1) {
        const int least = B::of(i0) - B::last(j1), most = B::last(i1) - B::of(j0);
        const int over = (most % n + n) % n; // from the largest multiple of n that is not above most
        return cover(n == 1 || (least == most && over == 0), most - over < least);
    }
    static __device__ constexpr Range key_range(int, int) { return {0, last_position}; }
    static __device__ constexpr Range query_range(int, int) { return {0, last_position}; }
};

// Prefix: j <= max(i, N-1).
template <int N, int Block = 1> struct Prefix {
    using B = Blocks<Block>;
    static constexpr int n = clamped(N);
    static constexpr bool gapless = true, past_only = Block == 1 && N == 1;

    static __device__ constexpr int reach(int bi) { return bi > n - 1 ? bi : n - 1; }
    static __device__ constexpr bool allowed(int i, int j) { return B::of(j) <= reach(B::of(i)); }
    static __device__ constexpr Cover tile(int i0, int i1, int j0, int j1) {
        return cover(B::last(j1) <= reach(B::of(i0)), B::of(j0) > reach(B::last(i1)));
    }
    static __device__ constexpr Range key_range(int, int i1) { return B::range(0, reach(B::last(i1)) + 1); }
    static __device__ constexpr Range query_range(int j0, int) {
        return {B::of(j0) <= n - 1 ? 0 : B::start(B::of(j0)), last_position};
    }
};

__device__ constexpr Range intersection(Range a, Range b) { return {a.from > b.from ? a.from : b.from, a.to < b.to ? a.to : b.to}; }

// hull is the smallest range that holds both.
__device__ constexpr Range hull(Range a, Range b) {
    if (a.from >= a.to) return b;
    if (b.from >= b.to) return a;
    return {a.from < b.from ? a.from : b.from, a.to > b.to ? a.to : b.to};
}

// And allows what every one of its patterns allows; And<> everything.
template <class... M> struct And {
    static constexpr bool gapless = (M::gapless && ...), past_only = (M::past_only || ...);

    static __device__ constexpr bool allowed(int i, int j) { return (M::allowed(i, j) && ...); }
    static __device__ constexpr Cover tile(int i0, int i1, int j0, int j1) {
        bool full = true, empty = false;
        (((full = full && M::tile(i0, i1, j0, j1) == Cover::full), (empty = empty || M::tile(i0, i1, j0, j1) == Cover::empty)), ...);
        return cover(full, empty);
    }
    static __device__ constexpr Range key_range(int i0, int i1) {
        Range r = {0, last_position};
        ((r = intersection(r, M::key_range(i0, i1))), ...);
        return r;
    }
    static __device__ constexpr Range query_range(int j0, int j1) {
        Range r = {0, last_position};
        ((r = intersection(r, M::query_range(j0, j1))), ...);
        return r;
    }
};

// Or allows what at least one of its patterns allows; Or<> nothing.
template <class... M> struct Or {
    static constexpr bool gapless = sizeof...(M) <= 1 && (M::gapless && ...), past_only = (M::past_only && ...);

    static __device__ constexpr bool allowed(int i, int j) { return (M::allowed(i, j) || ...); }
    static __device__ constexpr Cover tile(int i0, int i1, int j0, int j1) {
        bool full = false, empty = true;
        (((full = full || M::tile(i0, i1, j0, j1) == Cover::full), (empty = empty && M::tile(i0, i1, j0, j1) == Cover::empty)), ...);
        return cover(full, empty);
    }
    static __device__ constexpr Range key_range(int i0, int i1) {
        Range r = {0, 0};
        ((r = hull(r, M::key_range(i0, i1))), ...);
        return r;
    }
    static __device__ constexpr Range query_range(int j0, int j1) {
        Range r = {0, 0};
        ((r = hull(r, M::query_range(j0, j1))), ...);
        return r;
    }
};

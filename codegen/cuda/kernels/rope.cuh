// Rotary positions (Su et al., arXiv 2104.09864).
#pragma once
#include "elementwise.cuh"

// RopeItems is the grid of items that a rope of Config C makes accesses for: those of a row as its columns.
template <class C> struct RopeItems {
    static constexpr int turns = C::pairs / C::vec, rest = C::in_place ? 0 : (C::head_dim - 2 * C::pairs) / C::vec; // of a head
    static constexpr int rows = C::rows, cols = C::heads * (turns + rest), vec = 1, threads = C::threads;
    static_assert(C::pairs % C::vec == 0 && C::head_dim % C::vec == 0, "accesses fill the pairs and the rest of a head");
};

// rope turns each of the heads in every row of x by the angles of the row's position: of a head, entries a and b of pair
// i become a*cos - b*sin and b*cos + a*sin, with the cosines and sines of row positions[n] of the tables, [any, pairs]
// float. The pairs are (i, i+pairs), or (2i, 2i+1) where interleaved; what of a head is in no pair is copied. inverse
// turns back, which takes dy to dx. y may be x, element for element; then in_place says so, and nothing is copied.
//   Config  T, rows, heads, head_dim, pairs (at most head_dim/2), vec (divides pairs and head_dim), interleaved, inverse,
//           in_place, y_stride, x_stride, threads
//   grid    x: at least ceil(rows*items / threads), items = heads * (pairs/vec + rest/vec), rest = 0 where in_place, else
//           head_dim - 2*pairs; an item is vec pairs or vec entries
//   bytes   x and y once (in place: 2*pairs entries a head); the tables' rows come from the cache
template <class C>
__device__ void rope(int rows, typename C::T *y, const typename C::T *x, const float *cos, const float *sin, const int *positions) {
    using Items = RopeItems<C>;
    constexpr int vec = C::vec, turns = Items::turns, rest = Items::rest;
    each_access<Items>(rows, [&](int row, int item) {
        const int head = item / (turns + rest), i = item % (turns + rest);
        const typename C::T *from = place(x, row, C::x_stride, head * C::head_dim);
        typename C::T *to = place(y, row, C::y_stride, head * C::head_dim);
        if (i >= turns) {
            float v[vec];
            load(v, from + 2 * C::pairs + (i - turns) * vec);
            store(to + 2 * C::pairs + (i - turns) * vec, v);
            return;
        }
        float c[vec], s[vec];
        load(c, place(cos, positions[row], C::pairs, i * vec));
        load(s, place(sin, positions[row], C::pairs, i * vec));
        if constexpr (C::inverse) {
#pragma unroll
            for (int j = 0; j < vec; j++) s[j] = -s[j];
        }
        // Interleaved, u and v are neighbours that hold vec pairs between them; else the first and second of each pair.
        const int at = C::interleaved ? 2 * i * vec : i * vec, next = C::interleaved ? vec : C::pairs;
        float u[vec], v[vec];
        load(u, from + at);
        load(v, from + at + next);
        if constexpr (C::interleaved) {
            float w[2 * vec];
#pragma unroll
            for (int j = 0; j < vec; j++) {
                w[j] = u[j];
                w[vec + j] = v[j];
            }
#pragma unroll
            for (int j = 0; j < vec; j++) {
                const float a = w[2 * j], b = w[2 * j + 1];
                w[2 * j] = a * c[j] - b * s[j];
                w[2 * j + 1] = b * c[j] + a * s[j];
            }
#pragma unroll
            for (int j = 0; j < vec; j++) {
                u[j] = w[j];
                v[j] = w[vec + j];
            }
        } else {
#pragma unroll
            for (int j = 0; j < vec; j++) {
                const float a = u[j], b = v[j];
                u[j] = a * c[j] - b * s[j];
                v[j] = b * c[j] + a * s[j];
            }
        }
        store(to + at, u);
        store(to + at + next, v);
    });
}

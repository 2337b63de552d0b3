// Kernels that compute each element from the elements at its place: sums, scaling, activations, gates, caps, dropout,
// copies, table lookups.
//
// All of them: T is the element type. A value is [rows, cols] with the rows of operand o o_stride elements apart; the
// result may be an operand of the same stride, element for element. A thread makes one access of vec elements.
//   Config  T, rows, cols, vec (divides cols and what columns and strides start at), threads, o_stride of each operand
//   grid    x: at least ceil(rows*cols/vec / threads)        threads: any        shared memory: none
//   bytes   every operand once, the result once
#pragma once
#include "activation.cuh"
#include "device.cuh"
#include "rng.cuh"

template <bool Small> struct IndexType {
    using type = unsigned;
};
template <> struct IndexType<false> {
    using type = unsigned long long;
};

// each_access calls f(row, first column) for the access of this thread, if it has one.
template <class C, class F> __device__ inline void each_access(int rows, F f) {
    constexpr int accesses = C::cols / C::vec;
    static_assert(C::cols % C::vec == 0, "accesses fill the columns");
    using Index = typename IndexType<(1ull * C::rows * accesses < 0x80000000ull)>::type;
    const Index i = static_cast<Index>(blockIdx.x) * C::threads + threadIdx.x;
    if (i < static_cast<Index>(rows) * accesses) f(static_cast<int>(i / accesses), static_cast<int>(i % accesses) * C::vec);
}

// place is element (row, col) of a matrix whose rows are stride apart.
template <class P> __device__ inline P *place(P *p, int row, int stride, int col) { return p + static_cast<size_t>(row) * stride + col; }

// map1 stores y = f(x).
template <class C, class F> __device__ inline void map1(int rows, typename C::T *y, const typename C::T *x, F f) {
    each_access<C>(rows, [&](int row, int col) {
        float v[C::vec];
        load(v, place(x, row, C::x_stride, col));
#pragma unroll
        for (int i = 0; i < C::vec; i++) v[i] = f(v[i]);
        store(place(y, row, C::y_stride, col), v);
    });
}

// map2 stores y = f(a, b).
template <class C, class F> __device__ inline void map2(int rows, typename C::T *y, const typename C::T *a, const typename C::T *b, F f) {
    each_access<C>(rows, [&](int row, int col) {
        float u[C::vec], v[C::vec];
        load(u, place(a, row, C::a_stride, col));
        load(v, place(b, row, C::b_stride, col));
#pragma unroll
        for (int i = 0; i < C::vec; i++) u[i] = f(u[i], v[i]);
        store(place(y, row, C::y_stride, col), u);
    });
}

// add: y = a + by*b. y may be a or b.
//   Config  by (float, 1 where it is a plain sum), y_stride, a_stride, b_stride
template <class C> __device__ void add(int rows, typename C::T *y, const typename C::T *a, const typename C::T *b) {
    map2<C>(rows, y, a, b, [](float u, float v) { return C::by == 1.0f ? u + v : u + C::by * v; });
}

// scale: y = by*x. y may be x.
//   Config  by (float), y_stride, x_stride
template <class C> __device__ void scale(int rows, typename C::T *y, const typename C::T *x) {
    map1<C>(rows, y, x, [](float v) { return C::by * v; });
}

// softcap: y = cap*tanh(x/cap), which keeps y within ±cap (Gemma 2, 2024). y may be x.
//   Config  cap (float), y_stride, x_stride
template <class C> __device__ void softcap(int rows, typename C::T *y, const typename C::T *x) {
    map1<C>(rows, y, x, [](float v) { return C::cap * tanhf(v * (1 / C::cap)); });
}

// softcap_grad: dx = dy*(1 - tanh²(x/cap)). y is dx, a is dy, b is x; dx may be either.
//   Config  cap (float), y_stride, a_stride, b_stride
template <class C> __device__ void softcap_grad(int rows, typename C::T *y, const typename C::T *a, const typename C::T *b) {
    map2<C>(rows, y, a, b, [](float d, float v) {
        const float t = tanhf(v * (1 / C::cap));
        return d * (1 - t * t);
    });
}

// act: y = fn(x). y may be x.
//   Config  fn (Activation), y_stride, x_stride
template <class C> __device__ void act(int rows, typename C::T *y, const typename C::T *x) {
    map1<C>(rows, y, x, [](float v) { return activate<C::fn>(v); });
}

// act_grad: dx = dy*fn'(x). y is dx, a is dy, b is x; dx may be either.
//   Config  fn (Activation), y_stride, a_stride, b_stride
template <class C> __device__ void act_grad(int rows, typename C::T *y, const typename C::T *a, const typename C::T *b) {
    map2<C>(rows, y, a, b, [](float d, float v) { return d * slope<C::fn>(v); });
}

// glu: y = fn(gate)*up, the gated linear unit (Shazeer, arXiv 2002.05202). a is gate, b is up; y may be either.
//   Config  fn (Activation), y_stride, a_stride, b_stride
template <class C> __device__ void glu(int rows, typename C::T *y, const typename C::T *a, const typename C::T *b) {
    map2<C>(rows, y, a, b, [](float gate, float up) { return activate<C::fn>(gate) * up; });
}

// glu_grad: dgate = dy*up*fn'(gate), dup = dy*fn(gate). Results may be operands.
//   Config  fn (Activation), dgate_stride, dup_stride, dy_stride, gate_stride, up_stride
template <class C>
__device__ void glu_grad(int rows, typename C::T *dgate, typename C::T *dup, const typename C::T *dy, const typename C::T *gate, const typename C::T *up) {
    each_access<C>(rows, [&](int row, int col) {
        float d[C::vec], g[C::vec], u[C::vec];
        load(d, place(dy, row, C::dy_stride, col));
        load(g, place(gate, row, C::gate_stride, col));
        load(u, place(up, row, C::up_stride, col));
#pragma unroll
        for (int i = 0; i < C::vec; i++) {
            u[i] *= d[i] * slope<C::fn>(g[i]);
            g[i] = d[i] * activate<C::fn>(g[i]);
        }
        store(place(dgate, row, C::dgate_stride, col), u);
        store(place(dup, row, C::dup_stride, col), g);
    });
}

// bias: y = x + b for every row; b is [cols] float. y may be x.
//   Config  y_stride, x_stride
template <class C> __device__ void bias(int rows, typename C::T *y, const typename C::T *x, const float *b) {
    each_access<C>(rows, [&](int row, int col) {
        float v[C::vec], c[C::vec];
        load(v, place(x, row, C::x_stride, col));
        load(c, b + col);
#pragma unroll
        for (int i = 0; i < C::vec; i++) v[i] += c[i];
        store(place(y, row, C::y_stride, col), v);
    });
}

// finish: y = acc + b + residual, rounded once: what is left of a product that cuBLASLt gives in float. acc is float, b
// [cols] float; residual may be null where has_residual says so. y may be residual.
//   Config  y_stride, acc_stride, has_residual, residual_stride
template <class C>
__device__ void finish(int rows, typename C::T *y, const float *acc, const float *b, const typename C::T *residual) {
    each_access<C>(rows, [&](int row, int col) {
        float x[C::vec], v[C::vec];
        load(x, place(acc, row, C::acc_stride, col));
        load(v, b + col);
#pragma unroll
        for (int j = 0; j < C::vec; j++) x[j] += v[j];
        if constexpr (C::has_residual) {
            load(v, place(residual, row, C::residual_stride, col));
#pragma unroll
            for (int j = 0; j < C::vec; j++) x[j] += v[j];
        }
        store(place(y, row, C::y_stride, col), x);
    });
}

// dropout: y = x/(1-p) where the stream keeps element row*cols+col, else 0 (Srivastava et al. 2014). The gradient is the
// same launch on dy. y may be x. Ten rounds of Philox give the numbers of four elements.
//   Config  p (float, in [0, 1)), stream, y_stride, x_stride
template <class C> __device__ void dropout(int rows, typename C::T *y, const typename C::T *x, const State *state, int micro, int layer) {
    const Key key(state, C::stream, micro, layer);
    each_access<C>(rows, [&](int row, int col) {
        float v[C::vec], factor[C::vec];
        load(v, place(x, row, C::x_stride, col));
        keep_factors(factor, key, static_cast<unsigned long long>(row) * C::cols + col, C::p);
#pragma unroll
        for (int i = 0; i < C::vec; i++) v[i] *= factor[i];
        store(place(y, row, C::y_stride, col), v);
    });
}

// copy: y = x, as the parts of a concatenation and rows between strides.
//   Config  y_stride, x_stride
template <class C> __device__ void copy(int rows, typename C::T *y, const typename C::T *x) {
    map1<C>(rows, y, x, [](float v) { return v; });
}

// last: y [1, cols] = row rows-1 of x.
//   Config  x_stride
//   grid    x: at least ceil(cols/vec / threads)
template <class C> __device__ void last(int rows, typename C::T *y, const typename C::T *x) {
    each_access<C>(1, [&](int, int col) {
        float v[C::vec];
        load(v, place(x, rows - 1, C::x_stride, col));
        store(y + col, v);
    });
}

// cast: y = x in another element type, rounded to nearest even.
//   Config  To, From, y_stride, x_stride; no T
template <class C> __device__ void cast(int rows, typename C::To *y, const typename C::From *x) {
    each_access<C>(rows, [&](int row, int col) {
        float v[C::vec];
        load(v, place(x, row, C::x_stride, col));
        store(place(y, row, C::y_stride, col), v);
    });
}

// embed: row n of y = scale * row tokens[n] of the table, [any, cols] float.
//   Config  scale (float), y_stride
//   bytes   a row of the table and of y for each token; frequent tokens' rows come from the cache
template <class C> __device__ void embed(int rows, typename C::T *y, const int *tokens, const float *table) {
    each_access<C>(rows, [&](int row, int col) {
        float v[C::vec];
        load(v, place(table, tokens[row], C::cols, col));
#pragma unroll
        for (int i = 0; i < C::vec; i++) v[i] *= C::scale;
        store(place(y, row, C::y_stride, col), v);
    });
}

// add_positions: row n of y = row n of x + row positions[n] of the table, [any, cols] float. y may be x.
//   Config  y_stride, x_stride
template <class C> __device__ void add_positions(int rows, typename C::T *y, const typename C::T *x, const float *table, const int *positions) {
    each_access<C>(rows, [&](int row, int col) {
        float v[C::vec], w[C::vec];
        load(v, place(x, row, C::x_stride, col));
        load(w, place(table, positions[row], C::cols, col));
#pragma unroll
        for (int i = 0; i < C::vec; i++) v[i] += w[i];
        store(place(y, row, C::y_stride, col), v);
    });
}

// Attention without tensor cores, forward and backward, for every element type and head width up to 512: products and
// sums in float. Formulas, shapes and the fields of Config that all attention has: attention.cuh. Further fields:
//
//           vec   elements of an access to q, k, v, o and gradients: 1, 2, 4 or 8, 16 bytes at most
//
// A block is 16 × 8 threads. It owns `owned` rows, 8 for each row of a thread, and streams `streamed` rows at a time through shared
// memory. Thread (across, down) computes the scores of owned rows down, down+8, … and of n = streamed/16 neighbouring streamed rows,
// then columns of the results, which stay in its registers.
#pragma once
#include "attention.cuh"

// Panel is the layout of rows of Columns floats in shared memory, padded with zeros to a multiple of 16, and which of the
// columns a thread has: pieces of `wide` columns, 16*wide apart. Results is how many matrices of results a block keeps.
template <int Columns, int Results> struct Panel {
    static_assert(Columns >= 1 && Columns <= 512, "wider heads do not fit the registers");
    static constexpr int padded = round_up(Columns, 16), pitch = padded + 4;
    static constexpr int wide = padded % 64 == 0 ? 4 : padded % 32 == 0 ? 2 : 1, pieces = padded / (16 * wide);
    static constexpr int rows = (padded <= 64 ? 8 : padded <= 128 ? 4 : padded <= 256 ? 2 : 1) * (Results == 1 && padded > 64 ? 2 : 1);
    static constexpr int n = padded <= 128 ? 4 : padded <= 256 ? 2 : 1;
    static constexpr int owned = 8 * rows, streamed = 16 * n;
    static constexpr int score_pitch = streamed + 4;
    static constexpr int threads = 128;

    static __device__ int across() { return threadIdx.x % 16; }
    static __device__ int down() { return threadIdx.x / 16; }
    // place is where streamed row r lies: threads' neighbouring rows are 16 apart, so that reads do not collide.
    static __device__ int place(int r) { return r % n * 16 + r / n; }

    // read copies Rows rows of x, from row `first` on, into a panel; rows from `end` on become zeros.
    template <int Rows, bool Streamed, int Vec, class T> static __device__ void read(float *panel, const T *x, int stride, int first, int end) {
        static_assert(Columns % Vec == 0, "accesses stay within the columns");
#pragma unroll 4
        for (int i = threadIdx.x; i < Rows * (padded / Vec); i += threads) {
            const int row = i / (padded / Vec), col = i % (padded / Vec) * Vec;
            float v[Vec] = {};
            if (first + row < end && col < Columns) load(v, x + (static_cast<size_t>(first + row) * stride + col));
            float *const to = panel + (Streamed ? place(row) : row) * pitch + col;
#pragma unroll
            for (int e = 0; e < Vec; e++) to[e] = v[e];
        }
    }

    // product gives s[a][b] = owned row down+8a · streamed row n*across+b.
    static __device__ void product(float (&s)[rows][n], const float *own, const float *stream) {
#pragma unroll
        for (int a = 0; a < rows; a++)
#pragma unroll
            for (int b = 0; b < n; b++) s[a][b] = 0;
#pragma unroll 1
        for (int e = 0; e < padded; e += 4) {
            float4 y[n];
#pragma unroll
            for (int b = 0; b < n; b++) y[b] = *reinterpret_cast<const float4 *>(stream + (across() + 16 * b) * pitch + e);
#pragma unroll
            for (int a = 0; a < rows; a++) {
                const float4 x = *reinterpret_cast<const float4 *>(own + (down() + 8 * a) * pitch + e);
#pragma unroll
                for (int b = 0; b < n; b++) s[a][b] = fmaf(x.w, y[b].w, fmaf(x.z, y[b].z, fmaf(x.y, y[b].y, fmaf(x.x, y[b].x, s[a][b]))));
            }
        }
    }

    // keep stores the thread's scores in a [owned, streamed] array, for accumulate.
    static __device__ void keep(float *scores, const float (&s)[rows][n]) {
#pragma unroll
        for (int a = 0; a < rows; a++) store(scores + (down() + 8 * a) * score_pitch + across() * n, s[a]);
    }

    // accumulate adds scores · stream to the thread's rows and columns of results.
    static __device__ void accumulate(float (&acc)[rows][pieces][wide], const float *scores, const float *stream) {
#pragma unroll 1
        for (int r = 0; r < streamed; r += 4) {
            float p[rows][4];
#pragma unroll
            for (int a = 0; a < rows; a++) load(p[a], scores + (down() + 8 * a) * score_pitch + r);
#pragma unroll
            for (int x = 0; x < 4; x++)
#pragma unroll
                for (int c = 0; c < pieces; c++) {
                    float v[wide];
                    load(v, stream + place(r + x) * pitch + (c * 16 + across()) * wide);
#pragma unroll
                    for (int a = 0; a < rows; a++)
#pragma unroll
                        for (int w = 0; w < wide; w++) acc[a][c][w] = fmaf(p[a][x], v[w], acc[a][c][w]);
                }
        }
    }

    // write stores the thread's results times by, one factor for each of its rows, to the rows of y before `end`.
    template <class T> static __device__ void write(T *y, int stride, int first, int end, const float (&acc)[rows][pieces][wide], const float (&by)[rows]) {
#pragma unroll
        for (int a = 0; a < rows; a++) {
            const int row = first + down() + 8 * a;
            if (row >= end) continue;
#pragma unroll
            for (int c = 0; c < pieces; c++)
#pragma unroll
                for (int w = 0; w < wide; w++) {
                    const int col = (c * 16 + across()) * wide + w;
                    if (col < Columns) y[static_cast<size_t>(row) * stride + col] = from_float<T>(acc[a][c][w] * by[a]);
                }
        }
    }
};

// drop_bits gives dropout's decisions for query i and N keys from j on, or for key j and N queries from i on: bit b is of the
// b-th.
template <bool Keys, int N, class D> __device__ inline uint32_t drop_bits(const D &drops, int i, int j) {
    if constexpr (!Keys && N == 4 && D::aligned) return drops.nibble(i, j);
    uint32_t bits = 0;
#pragma unroll
    for (int b = 0; b < N; b++) bits |= (drops.keep(i + (Keys ? b : 0), j + (Keys ? 0 : b)) ? 1u : 0u) << b;
    return bits;
}

// attention_tiled: o and lse. Let P = Panel<head_dim, 1>.
//
//   grid    x: batch * heads * ceil(T / P::owned)
//   threads 128        shared: 4 * ((P::owned + P::streamed) * P::pitch + P::owned * P::score_pitch)
//   bytes   q, o and lse once; k and v once from memory, and from the L2 cache for each block of a head
template <class C, class... Draw>
__device__ void attention_tiled(int rows, typename C::T *o, float *lse, const typename C::T *q, const typename C::T *k, const typename C::T *v,
                                Draw... draw) {
    using M = typename C::Mask;
    using P = Panel<C::head_dim, 1>;
    SHARED_DYNAMIC(shared);
    float *const queries = reinterpret_cast<float *>(shared), *const stream = queries + P::owned * P::pitch, *const probabilities = stream + P::streamed * P::pitch;

    const int positions = rows / C::batch, blocks = ceil_div(positions, P::owned);
    constexpr int section = section_of(C::batch * C::kv_heads, 2ll * sizeof(typename C::T) * C::context * C::head_dim) * (C::heads / C::kv_heads);
    const Work work = work_of(blockIdx.x, C::batch * C::heads, blocks, section);
    const int b = work.unit / C::heads, h = work.unit % C::heads, g = h / (C::heads / C::kv_heads);
    const int i0 = (blocks - 1 - work.task) * P::owned, i1 = i0 + P::owned < positions ? i0 + P::owned : positions;
    const size_t row = static_cast<size_t>(b) * positions;
    q += row * C::q_stride + h * C::head_dim;
    k += row * C::k_stride + g * C::head_dim;
    v += row * C::v_stride + g * C::head_dim;
    o += row * C::o_stride + h * C::head_dim;
    lse += row * C::heads + h;

    const Scores<C> scores(h);
    Drops<C> drops(draw...);
    drops.enter(work.unit, positions);
    P::template read<P::owned, false, C::vec>(queries, q, C::q_stride, i0, positions);

    float acc[P::rows][P::pieces][P::wide] = {}, sum[P::rows] = {}, top[P::rows];
#pragma unroll
    for (int a = 0; a < P::rows; a++) top[a] = -1e38f;

    const Range range = M::key_range(i0, i1);
    const int last = range.to < positions ? range.to : positions;
    for (int j0 = range.from / P::streamed * P::streamed; j0 < last; j0 += P::streamed) {
        const Cover cover = M::tile(i0, i1, j0, j0 + P::streamed);
        if (cover == Cover::empty) continue;
        __syncthreads();
        P::template read<P::streamed, true, C::vec>(stream, k, C::k_stride, j0, positions);
        __syncthreads();
        float s[P::rows][P::n];
        P::product(s, queries, stream);
        const bool all = cover == Cover::full && j0 + P::streamed <= positions;
#pragma unroll
        for (int a = 0; a < P::rows; a++) {
            const int i = i0 + P::down() + 8 * a, j = j0 + P::across() * P::n;
            float high = -infinity;
#pragma unroll
            for (int x = 0; x < P::n; x++) {
                s[a][x] = all || (j + x < positions && M::allowed(i, j + x)) ? scores.of(s[a][x], i, j + x) : -infinity;
                high = fmaxf(high, s[a][x]);
            }
            high = fmaxf(warp_max<16>(high), top[a]);
            const float by = exp2_fast(top[a] - high);
            top[a] = high;
            sum[a] *= by;
#pragma unroll
            for (int c = 0; c < P::pieces; c++)
#pragma unroll
                for (int w = 0; w < P::wide; w++) acc[a][c][w] *= by;
            uint32_t bits = 0;
            if constexpr (C::dropout > 0) bits = drop_bits<false, P::n>(drops, i, j);
#pragma unroll
            for (int x = 0; x < P::n; x++) {
                const float p = exp2_fast(s[a][x] - high);
                sum[a] += p;
                s[a][x] = C::dropout > 0 && !(bits >> x & 1) ? 0 : p;
            }
        }
        P::keep(probabilities, s);
        __syncthreads();
        P::template read<P::streamed, true, C::vec>(stream, v, C::v_stride, j0, positions);
        __syncthreads();
        P::accumulate(acc, probabilities, stream);
    }

    float by[P::rows];
#pragma unroll
    for (int a = 0; a < P::rows; a++) {
        const float all = warp_sum<16>(sum[a]);
        const int i = i0 + P::down() + 8 * a;
        by[a] = all == 0 ? 0 : keep_factor(C::dropout) / all;
        if (P::across() == 0 && i < positions) lse[static_cast<size_t>(i) * C::heads] = all == 0 ? -infinity : (top[a] + log2f(all)) * ln_2;
    }
    P::write(o, C::o_stride, i0, positions, acc, by);
}

// TiledBackward computes the gradients of the rows a block owns, keys (Keys) or queries: see Backward in attention_mma.cuh, of
// whose sums it makes all.
template <class C, bool Keys> struct TiledBackward {
    using T = typename C::T;
    using M = typename C::Mask;
    using P = Panel<C::head_dim, 2>;
    static constexpr int group = Keys ? C::heads / C::kv_heads : 1;
    static constexpr int own1_stride = Keys ? C::k_stride : C::q_stride, own2_stride = Keys ? C::v_stride : C::do_stride;
    static constexpr int stream1_stride = Keys ? C::q_stride : C::k_stride, stream2_stride = Keys ? C::do_stride : C::v_stride;

    int positions, first, end; // the block's rows
    int head;                  // of all sequences: the first that is streamed, or the one that is owned

    template <class... Draw>
    __device__ void run(T *d1, T *d2, const T *own1, const T *own2, const T *stream1, const T *stream2, const float2 *stats, Draw... draw) const {
        SHARED_DYNAMIC(shared);
        float *const tile1 = reinterpret_cast<float *>(shared), *const tile2 = tile1 + P::owned * P::pitch, *const stream = tile2 + P::owned * P::pitch;
        float *const kept = stream + P::streamed * P::pitch;
        stats += static_cast<size_t>(head) * positions;
        P::template read<P::owned, false, C::vec>(tile1, own1, own1_stride, first, positions);
        P::template read<P::owned, false, C::vec>(tile2, own2, own2_stride, first, positions);
        Drops<C> drops(draw...);
        float acc1[P::rows][P::pieces][P::wide] = {}, acc2[P::rows][P::pieces][P::wide] = {};

        const Range range = Keys ? M::query_range(first, end) : M::key_range(first, end);
        const int last = range.to < positions ? range.to : positions;
        for (int h = 0; h < group; h++, stream1 += C::head_dim, stream2 += C::head_dim, stats += positions) {
            const Scores<C> scores((head + h) % C::heads);
            drops.enter(head + h, positions);
            for (int r0 = range.from / P::streamed * P::streamed; r0 < last; r0 += P::streamed) {
                const int r1 = r0 + P::streamed;
                const Cover cover = Keys ? M::tile(r0, r1, first, end) : M::tile(first, end, r0, r1);
                if (cover == Cover::empty) continue;
                float p[P::rows][P::n], ds[P::rows][P::n];
                __syncthreads();
                P::template read<P::streamed, true, C::vec>(stream, stream1, stream1_stride, r0, positions);
                __syncthreads();
                P::product(p, tile1, stream);
                __syncthreads();
                P::template read<P::streamed, true, C::vec>(stream, stream2, stream2_stride, r0, positions);
                __syncthreads();
                P::product(ds, tile2, stream);
#pragma unroll
                for (int a = 0; a < P::rows; a++) {
                    const int own = first + P::down() + 8 * a, other = r0 + P::across() * P::n;
                    uint32_t bits = 0;
                    if constexpr (C::dropout > 0) bits = drop_bits<Keys, P::n>(drops, Keys ? other : own, Keys ? own : other);
#pragma unroll
                    for (int x = 0; x < P::n; x++) {
                        const int i = Keys ? other + x : own, j = Keys ? own : other + x;
                        const bool inside = own < positions && other + x < positions && (cover == Cover::full || M::allowed(i, j));
                        const float2 s = inside ? stats[i] : make_float2(infinity, 0);
                        float slope;
                        const float score = scores.of(p[a][x], i, j, slope);
                        const float prob = exp2_fast((inside ? score : 0) - s.x);
                        const bool drop = C::dropout > 0 && !(bits >> x & 1);
                        p[a][x] = drop ? 0 : prob;
                        ds[a][x] = prob * ((drop ? 0 : C::dropout > 0 ? ds[a][x] * keep_factor(C::dropout) : ds[a][x]) - s.y) * slope;
                    }
                }
                if constexpr (Keys) {
                    P::keep(kept, p);
                    __syncthreads();
                    P::accumulate(acc2, kept, stream);
                }
                __syncthreads();
                P::keep(kept, ds);
                P::template read<P::streamed, true, C::vec>(stream, stream1, stream1_stride, r0, positions);
                __syncthreads();
                P::accumulate(acc1, kept, stream);
            }
        }
        float by1[P::rows], by2[P::rows];
#pragma unroll
        for (int a = 0; a < P::rows; a++) by1[a] = C::scale, by2[a] = keep_factor(C::dropout);
        P::write(d1, Keys ? C::dk_stride : C::dq_stride, first, positions, acc1, by1);
        if constexpr (Keys) P::write(d2, C::dv_stride, first, positions, acc2, by2);
    }
};

// attention_tiled_grad: dq, dk, dv from do, q, k, v and what attention_stats made of do, o and lse, with padding 1. Blocks of
// keys sum dk and dv, blocks of queries dq, each in registers and in a fixed order. Let P = Panel<head_dim, 2>.
//
//   grid    x: batch * kv_heads * ceil(T / P::owned) * (1 + heads/kv_heads)
//   threads 128        shared: 4 * ((2*P::owned + P::streamed) * P::pitch + P::owned * P::score_pitch)
//   bytes   do, q, k, v, stats, dq, dk and dv once from memory; the streamed rows from the L2 cache for each block of a head
template <class C, class... Draw>
__device__ void attention_tiled_grad(int rows, typename C::T *dq, typename C::T *dk, typename C::T *dv, const typename C::T *d_o, const typename C::T *q,
                                     const typename C::T *k, const typename C::T *v, const float2 *stats, Draw... draw) {
    using P = Panel<C::head_dim, 2>;
    constexpr int group = C::heads / C::kv_heads;
    constexpr int section = section_of(C::batch * C::kv_heads, 2ll * sizeof(typename C::T) * (1 + group) * C::context * C::head_dim);
    const int positions = rows / C::batch, blocks = ceil_div(positions, P::owned);
    const Work work = work_of(blockIdx.x, C::batch * C::kv_heads, blocks * (1 + group), section);
    const int b = work.unit / C::kv_heads, g = work.unit % C::kv_heads, of_queries = work.task - blocks;
    const int h = g * group + (of_queries < 0 ? 0 : of_queries % group);
    const int first = (of_queries < 0 ? work.task : blocks - 1 - of_queries / group) * P::owned;
    const int end = first + P::owned < positions ? first + P::owned : positions, head = b * C::heads + h;

    const size_t row = static_cast<size_t>(b) * positions;
    q += row * C::q_stride + h * C::head_dim;
    d_o += row * C::do_stride + h * C::head_dim;
    k += row * C::k_stride + g * C::head_dim;
    v += row * C::v_stride + g * C::head_dim;
    dq += row * C::dq_stride + h * C::head_dim;
    dk += row * C::dk_stride + g * C::head_dim;
    dv += row * C::dv_stride + g * C::head_dim;
    if (of_queries >= 0)
        TiledBackward<C, false>{positions, first, end, head}.run(dq, dq, q, d_o, k, v, stats, draw...);
    else
        TiledBackward<C, true>{positions, first, end, head}.run(dk, dv, k, v, q, d_o, stats, draw...);
}

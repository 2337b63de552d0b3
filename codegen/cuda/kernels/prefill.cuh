// Attention of a prompt, or a part of one, over the key-value cache (kv_cache.cuh). All rows of a call belong to one slot and
// are its tokens positions[0], positions[0]+1, …; kv_append has stored their keys and values. These are flash attention as in
// attention_mma.cuh and attention_tiled.cuh, whose queries start somewhere in the sequence of their keys.
//
// A row's keys are taken in steps that start at multiples of the step, so its result does not depend on how a prompt is
// cut into calls.
#pragma once
#include "attention_mma.cuh"
#include "attention_tiled.cuh"
#include "kv_cache.cuh"

// prefill_attention_mma works on the tensor cores. A block owns 16*warps queries of one head, and streams the keys and values
// of its slot through shared memory.
//
//   Config    that of kv_cache.cuh, and
//             warps   of a block
//             tile    keys in shared memory at a time, a multiple of step
//             step    of these, keys computed at a time: 16, 32 or 64
//             keep    whether queries stay in registers, as fragments, or are read from shared memory each step
//             T is bf16 or half
//   grid      x: heads * ceil(rows / (16*warps))
//   threads   32*warps     shared: TileOf<head_dim>::bytes(16*warps + 4*tile)
//   bytes     q, o once; keys and values from memory once, and from the L2 cache for each block
template <class C>
__device__ void prefill_attention_mma(int rows, typename C::T *o, const typename C::T *q, const typename C::T *k_cache, const typename C::T *v_cache,
                                      const int *positions, const int *slots) {
    using T = typename C::T;
    using M = typename C::Mask;
    using L = TileOf<C::head_dim>;
    using S = Scores<C>;
    constexpr int threads = C::warps * warp_size, owned = 16 * C::warps, n_step = C::step / 8, width = C::kv_heads * C::head_dim;
    static_assert(C::step % 16 == 0 && C::tile % C::step == 0, "fragments are 16 wide");

    SHARED_DYNAMIC(shared);
    const int blocks = ceil_div(rows, owned), h = blockIdx.x % C::heads, kv = h / (C::heads / C::kv_heads);
    const int row0 = (blocks - 1 - static_cast<int>(blockIdx.x) / C::heads) * owned; // most masks let later queries see more
    if (row0 < 0) return;                                                            // the whole block
    const int start = positions[0], length = start + rows;
    const int i0 = start + row0, i1 = min(i0 + owned, length);
    const size_t slot = static_cast<size_t>(slots[0]) * C::context * width + kv * C::head_dim;
    q += h * C::head_dim, o += h * C::head_dim, k_cache += slot, v_cache += slot;

    unsigned char *const queries = shared, *const stages = shared + L::bytes(owned); // a stage: keys, then values
    const Range range = M::key_range(i0, i1);
    const int last = ceil_div(min(range.to, length), C::tile);
    const auto next = [&](int t) { // the first tile from t on that is not empty
        if constexpr (!M::gapless)
            while (t < last && M::tile(i0, i1, t * C::tile, t * C::tile + C::tile) == Cover::empty) t++;
        return t;
    };
    const auto fetch = [&](int t, int stage) {
        unsigned char *const to = stages + stage * 2 * L::bytes(C::tile);
        copy_rows<C::head_dim, C::tile, threads, C::vec>(to, k_cache, width, t * C::tile, length);
        copy_rows<C::head_dim, C::tile, threads, C::vec>(to + L::bytes(C::tile), v_cache, width, t * C::tile, length);
    };

    const int lane = lane_index(), first_row = row0 + warp_index() * 16, first = start + first_row; // this warp's
    unsigned char *const own = queries + L::bytes(warp_index() * 16);
    const typename L::Across across;
    const typename L::Down down;
    const S scores(h);

    int t = next(range.from / C::tile), stage = 0;
    copy_rows<C::head_dim, owned, threads, C::vec>(queries, q, C::q_stride, row0, rows);
    if (t < last) fetch(t, 0);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();
    uint32_t a[C::keep ? L::steps : 1][4];
    if constexpr (C::keep) {
#pragma unroll
        for (int e = 0; e < L::steps; e++) ldmatrix(a[e], own + down.at_step(e));
    }

    float acc[L::chunks][4] = {}, sum[2] = {}, top[2] = {-1e38f, -1e38f};
    while (t < last) {
        const int after = next(t + 1);
        if (after < last) fetch(after, stage ^ 1);
        copy_async_commit();
#pragma unroll 1
        for (int part = 0; part < C::tile; part += C::step) {
            const int j0 = t * C::tile + part;
            Cover cover = first < length ? M::tile(first, first + 16, j0, j0 + C::step) : Cover::empty;
            if (cover == Cover::empty) continue;
            if (!M::past_only && j0 + C::step > length) cover = Cover::partial;
            const unsigned char *const keys = stages + stage * 2 * L::bytes(C::tile) + part * L::pitch, *const values = keys + L::bytes(C::tile);

            float s[n_step][4] = {};
#pragma unroll
            for (int e = 0; e < L::steps; e++) {
                if constexpr (!C::keep) ldmatrix(a[0], own + down.at_step(e));
#pragma unroll
                for (int n = 0; n < n_step; n += 2) {
                    uint32_t f[4];
                    ldmatrix(f, keys + L::bytes(8 * n) + across.at_step(e));
                    mma<T>(s[n], a[C::keep ? e : 0], f[0], f[1]);
                    mma<T>(s[n + 1], a[C::keep ? e : 0], f[2], f[3]);
                }
            }

            // Element x of accumulator n is for query(x) and key(n, x).
            const auto query = [&](int x) { return first + lane / 4 + x / 2 * 8; };
            const auto key = [&](int n, int x) { return j0 + 8 * n + lane % 4 * 2 + x % 2; };
            float high[2] = {-infinity, -infinity};
#pragma unroll
            for (int n = 0; n < n_step; n++) {
#pragma unroll
                for (int x = 0; x < 4; x++) {
                    s[n][x] = scores.of(s[n][x], query(x), key(n, x));
                    if (cover == Cover::partial && (!M::allowed(query(x), key(n, x)) || (!M::past_only && key(n, x) >= length))) s[n][x] = -infinity;
                    high[x / 2] = fmaxf(high[x / 2], s[n][x]);
                }
            }
            if (votes(high[0] > top[0] + exponents_rise || high[1] > top[1] + exponents_rise)) {
#pragma unroll
                for (int r = 0; r < 2; r++) { // a row's fate depends on its own scores only
                    const float seen = warp_max<4>(high[r]), old = top[r];
                    if (seen > old + exponents_rise) top[r] = seen;
                    const float by = exp2_fast(old - top[r]);
                    sum[r] *= by;
#pragma unroll
                    for (int n = 0; n < L::chunks; n++) acc[n][2 * r] *= by, acc[n][2 * r + 1] *= by;
                }
            }
#pragma unroll
            for (int n = 0; n < n_step; n++) {
#pragma unroll
                for (int x = 0; x < 4; x++) {
                    s[n][x] = exp2_fast(s[n][x] - top[x / 2]);
                    sum[x / 2] += s[n][x];
                }
            }
#pragma unroll
            for (int n = 0; n < n_step; n += 2) {
                uint32_t p[4];
                accumulators_to_a<T>(p, s[n], s[n + 1]);
#pragma unroll
                for (int e = 0; e < L::steps; e++) {
                    uint32_t f[4];
                    ldmatrix_transposed(f, values + L::bytes(8 * n) + down.at_step(e));
                    mma<T>(acc[2 * e], p, f[0], f[1]);
                    mma<T>(acc[2 * e + 1], p, f[2], f[3]);
                }
            }
        }
        t = after;
        stage ^= 1;
        copy_async_wait<0>();
        __syncthreads();
    }

    const float all[2] = {warp_sum<4>(sum[0]), warp_sum<4>(sum[1])};
    write_strip<C::head_dim, C::vec>(o, C::o_stride, first_row, rows, own, acc, all[0] == 0 ? 0 : 1 / all[0], all[1] == 0 ? 0 : 1 / all[1]);
}

// prefill_attention works on any type and width, in float. Let P = Panel<head_dim, 1>.
//
//   Config    that of kv_cache.cuh
//   grid      x: heads * ceil(rows / P::owned)
//   threads   128     shared: 4 * ((P::owned + P::streamed) * P::pitch + P::owned * P::score_pitch)
//   bytes     q, o once; keys and values from memory once, and from the L2 cache for each block
template <class C>
__device__ void prefill_attention(int rows, typename C::T *o, const typename C::T *q, const typename C::T *k_cache, const typename C::T *v_cache,
                                  const int *positions, const int *slots) {
    using M = typename C::Mask;
    using P = Panel<C::head_dim, 1>;
    constexpr int width = C::kv_heads * C::head_dim;
    SHARED_DYNAMIC(shared);
    float *const queries = reinterpret_cast<float *>(shared), *const stream = queries + P::owned * P::pitch;
    float *const probabilities = stream + P::streamed * P::pitch;

    const int blocks = ceil_div(rows, P::owned), h = blockIdx.x % C::heads, kv = h / (C::heads / C::kv_heads);
    const int row0 = (blocks - 1 - static_cast<int>(blockIdx.x) / C::heads) * P::owned;
    if (row0 < 0) return; // the whole block
    const int start = positions[0], length = start + rows;
    const int i0 = start + row0, i1 = min(i0 + P::owned, length);
    const size_t slot = static_cast<size_t>(slots[0]) * C::context * width + kv * C::head_dim;
    q += h * C::head_dim, o += h * C::head_dim, k_cache += slot, v_cache += slot;
    const Scores<C> scores(h);
    P::template read<P::owned, false, C::vec>(queries, q, C::q_stride, row0, rows);

    float acc[P::rows][P::pieces][P::wide] = {}, sum[P::rows] = {}, top[P::rows];
#pragma unroll
    for (int a = 0; a < P::rows; a++) top[a] = -1e38f;

    const Range range = M::key_range(i0, i1);
    const int last = min(range.to, length);
    for (int j0 = range.from / P::streamed * P::streamed; j0 < last; j0 += P::streamed) {
        const Cover cover = M::tile(i0, i1, j0, j0 + P::streamed);
        if (cover == Cover::empty) continue;
        __syncthreads();
        P::template read<P::streamed, true, C::vec>(stream, k_cache, width, j0, length);
        __syncthreads();
        float s[P::rows][P::n];
        P::product(s, queries, stream);
        const bool all = cover == Cover::full && j0 + P::streamed <= length;
#pragma unroll
        for (int a = 0; a < P::rows; a++) {
            const int i = i0 + P::down() + 8 * a, j = j0 + P::across() * P::n;
            float high = -infinity;
#pragma unroll
            for (int x = 0; x < P::n; x++) {
                s[a][x] = all || (j + x < length && M::allowed(i, j + x)) ? scores.of(s[a][x], i, j + x) : -infinity;
                high = fmaxf(high, s[a][x]);
            }
            high = fmaxf(warp_max<16>(high), top[a]);
            const float by = exp2_fast(top[a] - high);
            top[a] = high;
            sum[a] *= by;
#pragma unroll
            for (int c = 0; c < P::pieces; c++) {
#pragma unroll
                for (int w = 0; w < P::wide; w++) acc[a][c][w] *= by;
            }
#pragma unroll
            for (int x = 0; x < P::n; x++) {
                s[a][x] = exp2_fast(s[a][x] - high);
                sum[a] += s[a][x];
            }
        }
        P::keep(probabilities, s);
        __syncthreads();
        P::template read<P::streamed, true, C::vec>(stream, v_cache, width, j0, length);
        __syncthreads();
        P::accumulate(acc, probabilities, stream);
    }

    float by[P::rows];
#pragma unroll
    for (int a = 0; a < P::rows; a++) {
        const float all = warp_sum<16>(sum[a]);
        by[a] = all == 0 ? 0 : 1 / all;
    }
    P::write(o, C::o_stride, row0, rows, acc, by);
}

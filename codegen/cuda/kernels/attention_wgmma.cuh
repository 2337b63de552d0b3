// Attention in bf16 or half on Hopper's matrix units: flash attention as in attention_mma.cuh, with warpgroups in the place of warps (Shah
// et al. 2024, "FlashAttention-3"); attention_wgmma_grad.cuh has the gradient. Several blocks, or groups of one, share a multiprocessor: while the
// scores of one become probabilities, another multiplies. Formulas, shapes and the fields of Config that all attention has:
// attention.cuh. Columns are padded to panels of 64; rows start at multiples of 16 bytes.
//
//   Config  further fields of the bodies here:
//           groups   warpgroups of a block; each owns 64 rows
//           tile     rows that a block streams through shared memory at a time, a multiple of 64
//           stages   tiles in shared memory: one is read, the others are on their way
#pragma once
#include "attention.cuh"
#include "keep_bits.cuh"
#include "panel_tile.cuh"

// attention_wgmma: o and lse. A block owns 64*groups queries of one head, and streams their keys and values.
//
//   grid    x: batch * heads * ceil(T / (64*groups))
//   threads 128*groups      shared: Panels<head_dim, 64*groups>::bytes + 2*stages * Panels<head_dim, tile>::bytes
//   bytes   q, o and lse once; k and v once from memory, and from the L2 cache for each block of a head
template <class C, class... Draw>
__device__ void attention_wgmma(int rows, typename C::T *o, float *lse, const typename C::T *q, const typename C::T *k, const typename C::T *v,
                                Draw... draw) {
    using T = typename C::T;
    using M = typename C::Mask;
    using S = Scores<C>;
    constexpr int threads = 128 * C::groups, owned = 64 * C::groups;
    using Own = Panels<C::head_dim, owned>;
    using Tile = Panels<C::head_dim, C::tile>;
    static_assert(C::tile % 64 == 0 && C::stages >= 2, "a step has 64 rows, and a tile is read while the next comes");

    SHARED_PANELS(shared);
    const int positions = rows / C::batch, blocks = ceil_div(positions, owned);
    constexpr int section = section_of(C::batch * C::kv_heads, 4ll * C::context * C::head_dim) * (C::heads / C::kv_heads);
    const Work work = work_of(blockIdx.x, C::batch * C::heads, blocks, section);
    const int b = work.unit / C::heads, h = work.unit % C::heads, g = h / (C::heads / C::kv_heads);
    const int i0 = (blocks - 1 - work.task) * owned; // most masks let later queries see more
    const int i1 = i0 + owned < positions ? i0 + owned : positions;
    q += static_cast<size_t>(b) * positions * C::q_stride + h * C::head_dim;
    k += static_cast<size_t>(b) * positions * C::k_stride + g * C::head_dim;
    v += static_cast<size_t>(b) * positions * C::v_stride + g * C::head_dim;
    o += static_cast<size_t>(b) * positions * C::o_stride + h * C::head_dim;
    lse += static_cast<size_t>(b) * positions * C::heads + h;

    unsigned char *const stages = shared + Own::bytes; // a stage: keys, then values
    const Range range = M::key_range(i0, i1);
    const int last = ceil_div(range.to < positions ? range.to : positions, C::tile);
    auto next = [&](int t) { // the first tile from t on that is not empty
        if constexpr (!M::gapless)
            while (t < last && M::tile(i0, i1, t * C::tile, t * C::tile + C::tile) == Cover::empty) t++;
        return t;
    };
    const int lane = lane_index(), group = warp_index() / 4, place = warp_index() * 16;
    const int group_first = i0 + group * 64, mine = i0 + place; // the first query of this group, and of this warp
    Drops<C> drops(draw...);
    drops.enter(work.unit, positions);
    const S scores(h);

    int t = next(range.from / C::tile), stage = 0, ahead = t, ahead_stage = 0;
    auto fetch = [&] { // the tile ahead
        if (ahead < last) {
            unsigned char *const to = stages + ahead_stage * 2 * Tile::bytes;
            copy_panels<C::head_dim, C::tile, threads>(to, k, C::k_stride, ahead * C::tile, positions);
            copy_panels<C::head_dim, C::tile, threads>(to + Tile::bytes, v, C::v_stride, ahead * C::tile, positions);
            ahead = next(ahead + 1);
        }
        copy_async_commit();
        ahead_stage = ahead_stage + 1 == C::stages ? 0 : ahead_stage + 1;
    };
    copy_panels<C::head_dim, owned, threads>(shared, q, C::q_stride, i0, positions);
#pragma unroll
    for (int n = 0; n < C::stages - 1; n++) fetch();
    const Matrix queries = matrix_at(shared + group * 64 * 128);

    float acc[Own::count][8][4] = {}, sum[2] = {}, top[2] = {-1e38f, -1e38f};
    copy_async_wait<C::stages - 2>();
    fence_async();
    __syncthreads();
    while (t < last) {
        fetch();
#pragma unroll 1
        for (int part = 0; part < C::tile; part += 64) {
            const int j0 = t * C::tile + part;
            Cover cover = group_first < positions ? M::tile(group_first, group_first + 64, j0, j0 + 64) : Cover::empty;
            if (cover == Cover::empty) continue;
            if (!M::past_only && j0 + 64 > positions) cover = Cover::partial;
            const Matrix keys = matrix_at(stages + stage * 2 * Tile::bytes + part * 128), values = matrix_moved(keys, Tile::bytes);
            float s[8][4];
            wgmma_fresh(s);
            wgmma_begin();
#pragma unroll
            for (int e = 0; e < Own::steps; e++) wgmma<T>(s, matrix_moved(queries, Own::at_step(e)), matrix_moved(keys, Tile::at_step(e)), e > 0);
            wgmma_commit();
            wgmma_wait<0>();
            wgmma_done(s);

            // Element x of accumulator n is for query(x) and key(n, x).
            auto query = [&](int x) { return mine + lane / 4 + x / 2 * 8; };
            auto key = [&](int n, int x) { return j0 + 8 * n + lane % 4 * 2 + x % 2; };
            if constexpr (!S::linear) {
#pragma unroll
                for (int n = 0; n < 8; n++)
#pragma unroll
                    for (int x = 0; x < 4; x++) s[n][x] = scores.of(s[n][x], query(x), key(n, x));
            }
            constexpr float factor = S::linear ? S::factor : 1;
            if (cover == Cover::partial) {
#pragma unroll
                for (int n = 0; n < 8; n++)
#pragma unroll
                    for (int x = 0; x < 4; x++)
                        if (!M::allowed(query(x), key(n, x)) || (!M::past_only && key(n, x) >= positions)) s[n][x] = -infinity;
            }
            float high[2];
            bool rises = false;
#pragma unroll
            for (int r = 0; r < 2; r++) {
                high[r] = fmaxf(s[0][2 * r], s[0][2 * r + 1]);
#pragma unroll
                for (int n = 1; n < 8; n++) high[r] = fmaxf(high[r], fmaxf(s[n][2 * r], s[n][2 * r + 1]));
                high[r] *= factor;
                rises |= high[r] > top[r] + exponents_rise;
            }
            if (votes(rises)) {
#pragma unroll
                for (int r = 0; r < 2; r++) { // a row's fate depends on its own scores only
                    const float seen = warp_max<4>(high[r]), old = top[r];
                    if (seen > old + exponents_rise) top[r] = seen;
                    const float by = exp2_fast(old - top[r]);
                    sum[r] *= by;
#pragma unroll
                    for (int p = 0; p < Own::count; p++)
#pragma unroll
                        for (int n = 0; n < 8; n++) acc[p][n][2 * r] *= by, acc[p][n][2 * r + 1] *= by;
                }
            }
#pragma unroll
            for (int n = 0; n < 8; n++)
#pragma unroll
                for (int x = 0; x < 4; x++) {
                    s[n][x] = exp2_fast(s[n][x] * factor - top[x / 2]);
                    sum[x / 2] += s[n][x];
                }
            if constexpr (C::dropout > 0) {
                const uint32_t bits = keep_bits<false, 8>(drops, mine, j0);
#pragma unroll
                for (int x = 0; x < 32; x++)
                    if (!(bits >> x & 1)) s[x / 4][x % 4] = 0;
            }
            uint32_t p[4][4];
#pragma unroll
            for (int e = 0; e < 4; e++) accumulators_to_a<T>(p[e], s[2 * e], s[2 * e + 1]);
            wgmma_begin();
#pragma unroll
            for (int e = 0; e < 4; e++)
#pragma unroll
                for (int n = 0; n < Own::count; n++) wgmma_rows<T>(acc[n], p[e], matrix_moved(values, n * Tile::panel + e * 16 * 128));
            wgmma_commit();
            wgmma_wait<0>();
#pragma unroll
            for (int n = 0; n < Own::count; n++) wgmma_done(acc[n]);
        }
        t = next(t + 1);
        stage = stage + 1 == C::stages ? 0 : stage + 1;
        copy_async_wait<C::stages - 2>();
        fence_async();
        __syncthreads();
    }

    constexpr float kept_factor = keep_factor(C::dropout);
    float by[2];
#pragma unroll
    for (int r = 0; r < 2; r++) {
        const float all = warp_sum<4>(sum[r]);
        const int i = mine + lane / 4 + 8 * r;
        by[r] = all == 0 ? 0 : kept_factor / all;
        if (lane % 4 == 0 && i < positions) lse[static_cast<size_t>(i) * C::heads] = all == 0 ? -infinity : (top[r] + log2f(all)) * ln_2;
    }
    write_panels<C::head_dim, owned>(o, C::o_stride, mine, positions, shared, place, acc, by[0], by[1]);
}

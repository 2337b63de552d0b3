// Attention in bf16 or half on Hopper's matrix units, forward and backward: flash attention as in attention_mma.cuh, with warpgroups
// in the place of warps (Shah et al. 2024, "FlashAttention-3"). Several blocks, or groups of one, share a multiprocessor: while the
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

// GroupBackward computes, for the rows a block owns, keys (Keys) or queries, sums over the queries or keys that it streams:
//
//   d1 = scale * sum of ds * stream1      dk = scale * dsᵀ·q, dq = scale * ds·k
//   d2 = sum of p * drop * stream2        dv = (p∘drop)ᵀ·do, for keys only
//
// with ds as in attention_mma.cuh. own1, own2 and stream1, stream2 are k, v and q, do, or the other way round. A block of keys streams
// the queries of every head of its group, one head after another.
template <class C, bool Keys> struct GroupBackward {
    using T = typename C::T;
    using M = typename C::Mask;
    using S = Scores<C>;
    static constexpr int threads = 128 * C::groups, owned = 64 * C::groups, group = Keys ? C::heads / C::kv_heads : 1;
    using Own = Panels<C::head_dim, owned>;
    using Tile = Panels<C::head_dim, C::tile>;
    static_assert(C::tile % 64 == 0 && C::tile / 2 <= threads && C::stages >= 2, "a step has 64 rows, and a tile is read while the next comes");
    static constexpr int stage_bytes = 2 * Tile::bytes, stats_bytes = C::tile * static_cast<int>(sizeof(float2));
    static constexpr int own1_stride = Keys ? C::k_stride : C::q_stride, own2_stride = Keys ? C::v_stride : C::do_stride;
    static constexpr int stream1_stride = Keys ? C::q_stride : C::k_stride, stream2_stride = Keys ? C::do_stride : C::v_stride;
    static constexpr int d1_stride = Keys ? C::dk_stride : C::dq_stride, d2_stride = C::dv_stride;
    static constexpr int sum_columns = (C::heads + 2 * C::kv_heads) * C::head_dim;

    int positions, first, end; // the block's rows
    int b, h, g;               // its sequence; its query head, or the first of those that it streams; its key-value head

    // Outcome is what blocks of queries know of the forward pass, of which they make the stats (attention_stats) for blocks of keys.
    struct Outcome {
        const T *o;
        const float *lse;
        float2 *stats;
    };

    // stats_of_query gives those of one of this warp's queries, whose row four lanes add up, and keeps them; queries that pad are {infinity, 0}.
    __device__ float2 stats_of_query(const Outcome &out, const T *d_o, int i, int padded) const {
        const bool valid = i < positions;
        const size_t row = static_cast<size_t>(b) * positions + i;
        float sum = 0;
        if (valid) {
#pragma unroll
            for (int col = lane_index() % 4 * 8; col < C::head_dim; col += 32) {
                float x[8], y[8];
                load(x, d_o + (row * C::do_stride + h * C::head_dim + col));
                load(y, out.o + (row * C::o_stride + h * C::head_dim + col));
#pragma unroll
                for (int e = 0; e < 8; e++) sum += x[e] * y[e];
            }
        }
        sum = warp_sum<4>(sum);
        const float lse = valid ? out.lse[row * C::heads + h] : -infinity;
        const float2 s = lse == -infinity ? make_float2(infinity, 0) : make_float2(lse * log2_e, sum);
        if (lane_index() % 4 == 0 && i < padded) out.stats[(static_cast<size_t>(b) * C::heads + h) * padded + i] = s;
        return s;
    }

    // Places are kept in shared memory, because the loop needs all registers.
    struct Places {
        const T *stream1, *stream2;
        const float2 *stats;
        T *d1, *d2;
        float *sums; // of this block's rows, in partial
    };

    __device__ Cover cover(int from, int to, int streamed, int streamed_to) const {
        return Keys ? M::tile(streamed, streamed_to, from, to) : M::tile(from, to, streamed, streamed_to);
    }

    // head is where head `index` of this sequence starts in x.
    template <class X> __device__ X *head(X *x, int stride, int index) const {
        return x + (static_cast<size_t>(b) * positions * stride + index * C::head_dim);
    }

    // run's stats are those of attention_stats for blocks of keys, an Outcome for blocks of queries.
    template <class Stats, class... Draw>
    __device__ void run(T *d1, T *d2, float *partial, const T *own1, const T *own2, const T *stream1, const T *stream2, Stats stats, Draw... draw) const {
        SHARED_PANELS(shared);
        unsigned char *const stages = shared + 2 * Own::bytes;                // a stage: stream1, stream2
        unsigned char *const stage_stats = stages + C::stages * stage_bytes;  // of the stages, one after another
        const int padded = round_up(positions, C::tile), query_head = b * C::heads + h;
        const int owner = Keys ? g : h, streamed_head = Keys ? h : g;
        __shared__ Places places;
        if (threadIdx.x == 0)
            places = {head(stream1, stream1_stride, streamed_head), head(stream2, stream2_stride, streamed_head), nullptr, head(d1, d1_stride, owner), head(d2, d2_stride, owner),
                      partial + (static_cast<size_t>(b) * ceil_div(positions, 64) + first / 64) * sum_columns + ((Keys ? C::heads : 0) + owner) * C::head_dim};
        if constexpr (Keys)
            if (threadIdx.x == 0) places.stats = stats + static_cast<size_t>(query_head) * padded;

        const Range range = Keys ? M::query_range(first, end) : M::key_range(first, end);
        const int from = range.from / C::tile, last = ceil_div(range.to < positions ? range.to : positions, C::tile);
        auto next = [&](int t) { // the first tile from t on that is not empty
            if constexpr (!M::gapless)
                while (t < last && cover(first, end, t * C::tile, t * C::tile + C::tile) == Cover::empty) t++;
            return t;
        };
        struct At {
            int t, n; // a tile, of the n-th streamed head
        };
        auto after = [&](At at) {
            at.t = next(at.t + 1);
            if (group > 1 && at.t >= last && at.n + 1 < group) at = {next(from), at.n + 1};
            return at;
        };
        At at = {next(from), 0}, ahead = at;
        int stage = 0, ahead_stage = 0;
        auto fetch = [&] { // the tile ahead
            if (ahead.t < last) {
                unsigned char *const to = stages + ahead_stage * stage_bytes;
                copy_panels<C::head_dim, C::tile, threads>(to, places.stream1 + ahead.n * C::head_dim, stream1_stride, ahead.t * C::tile, positions);
                copy_panels<C::head_dim, C::tile, threads>(to + Tile::bytes, places.stream2 + ahead.n * C::head_dim, stream2_stride, ahead.t * C::tile, positions);
                if constexpr (Keys) {
                    const float2 *const s = places.stats + static_cast<size_t>(ahead.n) * padded + ahead.t * C::tile;
                    if (const int i = threadIdx.x; i < C::tile / 2) copy_async(stage_stats + ahead_stage * stats_bytes + 16 * i, s + 2 * i, true);
                }
                ahead = after(ahead);
            }
            copy_async_commit();
            ahead_stage = ahead_stage + 1 == C::stages ? 0 : ahead_stage + 1;
        };

        const int lane = lane_index(), wg = warp_index() / 4, place = warp_index() * 16;
        const int group_first = first + wg * 64, mine = first + place; // the first row of this group, and of this warp
        S scores(h);
        Drops<C> drops(draw...);
        drops.enter(query_head, positions);
        __syncthreads(); // for places
        copy_panels<C::head_dim, owned, threads>(shared, head(own1, own1_stride, owner), own1_stride, first, positions);
        copy_panels<C::head_dim, owned, threads>(shared + Own::bytes, head(own2, own2_stride, owner), own2_stride, first, positions);
#pragma unroll
        for (int n = 0; n < C::stages - 1; n++) fetch();
        float lse[2], delta[2];
        if constexpr (!Keys) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const float2 s = stats_of_query(stats, own2, mine + lane / 4 + 8 * r, padded);
                lse[r] = s.x, delta[r] = s.y;
            }
        }
        const Matrix rows1 = matrix_at(shared + wg * 64 * 128), rows2 = matrix_moved(rows1, Own::bytes);
        float acc1[Own::count][8][4] = {}, acc2[Keys ? Own::count : 1][8][4] = {};
        copy_async_wait<C::stages - 2>();
        fence_async();
        __syncthreads();

        while (at.t < last) {
            fetch();
#pragma unroll 1
            for (int part = 0; part < C::tile; part += 64) {
                const int streamed = at.t * C::tile + part; // the first row of this step
                Cover cover = group_first < positions && streamed < positions ? this->cover(group_first, group_first + 64, streamed, streamed + 64) : Cover::empty;
                if (cover == Cover::empty) continue;
                if (!Keys && !M::past_only && streamed + 64 > positions) cover = Cover::partial;
                const Matrix tile1 = matrix_at(stages + stage * stage_bytes + part * 128), tile2 = matrix_moved(tile1, Tile::bytes);

                // p is own1·stream1ᵀ, then probabilities; dp is own2·stream2ᵀ, then ds.
                float p[8][4], dp[8][4];
                wgmma_fresh(p);
                wgmma_fresh(dp);
                wgmma_begin();
#pragma unroll
                for (int e = 0; e < Own::steps; e++) wgmma<T>(p, matrix_moved(rows1, Own::at_step(e)), matrix_moved(tile1, Tile::at_step(e)), e > 0);
                wgmma_commit();
#pragma unroll
                for (int e = 0; e < Own::steps; e++) wgmma<T>(dp, matrix_moved(rows2, Own::at_step(e)), matrix_moved(tile2, Tile::at_step(e)), e > 0);
                wgmma_commit();
                wgmma_wait<Keys ? 0 : 1>(); // blocks of keys, short of registers, turn p and dp into operands bit by bit
                wgmma_done(p);

                // Element x of accumulator n is for query(n, x) and key(n, x).
                auto own = [&](int x) { return mine + lane / 4 + x / 2 * 8; };
                auto other = [&](int n, int x) { return streamed + 8 * n + lane % 4 * 2 + x % 2; };
                auto query = [&](int n, int x) { return Keys ? other(n, x) : own(x); };
                auto key = [&](int n, int x) { return Keys ? own(x) : other(n, x); };
                float slope[8][4]; // of the cap
                if constexpr (!S::linear) {
#pragma unroll
                    for (int n = 0; n < 8; n++)
#pragma unroll
                        for (int x = 0; x < 4; x++) p[n][x] = scores.of(p[n][x], query(n, x), key(n, x), slope[n][x]);
                }
                if (cover == Cover::partial) {
#pragma unroll
                    for (int n = 0; n < 8; n++)
#pragma unroll
                        for (int x = 0; x < 4; x++)
                            if (!M::allowed(query(n, x), key(n, x)) || (!Keys && !M::past_only && key(n, x) >= positions)) p[n][x] = -infinity;
                }
                constexpr float factor = S::linear ? S::factor : 1;
                uint32_t bits = 0;
                if constexpr (C::dropout > 0) bits = Keys ? keep_bits<true, 8>(drops, streamed, mine) : keep_bits<false, 8>(drops, mine, streamed);
                auto dropped = [&](int n, int x) { return C::dropout > 0 && !(bits >> (4 * n + x) & 1); };
                const unsigned char *const step_stats = stage_stats + stage * stats_bytes + (part + lane % 4 * 2) * sizeof(float2);
                auto stats_of = [&](int n) { // of two queries: lse and delta of the one, then of the other
                    if constexpr (Keys) return *reinterpret_cast<const float4 *>(step_stats + n * 8 * sizeof(float2));
                    else return float4{0, 0, 0, 0};
                };
                auto probabilities = [&](int n) {
                    const float4 s = stats_of(n);
#pragma unroll
                    for (int x = 0; x < 4; x++) p[n][x] = exp2_fast(p[n][x] * factor - (Keys ? (x % 2 ? s.z : s.x) : lse[x / 2]));
                };
                auto gradients = [&](int n) {
                    const float4 s = stats_of(n);
#pragma unroll
                    for (int x = 0; x < 4; x++) {
                        const float up = dropped(n, x) ? 0 : C::dropout > 0 ? dp[n][x] * keep_factor(C::dropout) : dp[n][x];
                        dp[n][x] = p[n][x] * (up - (Keys ? (x % 2 ? s.w : s.y) : delta[x / 2]));
                        if constexpr (C::softcap != 0) dp[n][x] *= slope[n][x];
                    }
                };
                uint32_t a1[4][4], a2[4][4];
                if constexpr (Keys) {
                    wgmma_done(dp);
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        probabilities(2 * e), probabilities(2 * e + 1);
                        float kept[2][4];
#pragma unroll
                        for (int x = 0; x < 8; x++) kept[x / 4][x % 4] = dropped(2 * e + x / 4, x % 4) ? 0 : p[2 * e + x / 4][x % 4];
                        accumulators_to_a<T>(a2[e], kept[0], kept[1]);
                        gradients(2 * e), gradients(2 * e + 1);
                        accumulators_to_a<T>(a1[e], dp[2 * e], dp[2 * e + 1]);
                    }
                    wgmma_begin();
#pragma unroll
                    for (int e = 0; e < 4; e++)
#pragma unroll
                        for (int n = 0; n < Own::count; n++) wgmma_rows<T>(acc2[n], a2[e], matrix_moved(tile2, n * Tile::panel + e * 16 * 128));
                } else {
#pragma unroll
                    for (int n = 0; n < 8; n++) probabilities(n);
                    wgmma_wait<0>();
                    wgmma_done(dp);
#pragma unroll
                    for (int n = 0; n < 8; n++) gradients(n);
#pragma unroll
                    for (int e = 0; e < 4; e++) accumulators_to_a<T>(a1[e], dp[2 * e], dp[2 * e + 1]);
                    wgmma_begin();
                }
#pragma unroll
                for (int e = 0; e < 4; e++)
#pragma unroll
                    for (int n = 0; n < Own::count; n++) wgmma_rows<T>(acc1[n], a1[e], matrix_moved(tile1, n * Tile::panel + e * 16 * 128));
                wgmma_commit();
                wgmma_wait<0>();
#pragma unroll
                for (int n = 0; n < Own::count; n++) {
                    wgmma_done(acc1[n]);
                    if constexpr (Keys) wgmma_done(acc2[n]);
                }
            }
            const int n = at.n;
            at = after(at);
            if (group > 1 && at.n != n) {
                scores = S(h + at.n);
                drops.enter(query_head + at.n, positions);
            }
            stage = stage + 1 == C::stages ? 0 : stage + 1;
            copy_async_wait<C::stages - 2>();
            fence_async();
            __syncthreads();
        }
        write_panels<C::head_dim, owned>(places.d1, d1_stride, mine, positions, shared, place, acc1, C::scale, C::scale);
        constexpr float kept_factor = keep_factor(C::dropout);
        if constexpr (Keys) write_panels<C::head_dim, owned>(places.d2, d2_stride, mine, positions, shared + Own::bytes, place, acc2, kept_factor, kept_factor);
        if constexpr (C::column_sums) {
            // A warp sums 32 columns of a warpgroup's rows, as they were left in shared memory, a lane two columns of every other row.
            constexpr int ways = Keys ? 2 : 1, parts = Own::count * 2;
            __syncthreads();
            for (int x = warp_index(); x < C::groups * ways * parts; x += threads / warp_size) {
                const int of = x / (ways * parts), way = x / parts % ways, c = x % parts * 32 + lane % 16 * 2, end = positions - first < of * 64 + 64 ? positions - first : of * 64 + 64;
                float sum[2] = {};
                for (int i = of * 64 + lane / 16; i < end; i += 2) {
                    float two[2];
                    unpack2<T>(two, *reinterpret_cast<const uint32_t *>(shared + way * Own::bytes + Own::at(i, c / 8) + c % 8 * 2));
                    sum[0] += two[0], sum[1] += two[1];
                }
                sum[0] += shuffle_xor(sum[0], 16), sum[1] += shuffle_xor(sum[1], 16);
                if (lane < 16 && c < C::head_dim && of * 64 < end) store(places.sums + of * sum_columns + way * C::kv_heads * C::head_dim + c, sum);
            }
        }
    }
};

// attention_wgmma_dkv: dk and dv from do, q, k, v and what attention_wgmma_dq made of do, o and lse. Each is summed in registers, in a
// fixed order. With column_sums the columns of dk and dv are summed over each 64 rows of a sequence, behind those of dq: partial
// [batch, ceil(T/64), heads and twice kv_heads] of head_dim floats.
//
//   grid    x: batch * kv_heads * ceil(T / (64*groups))
//   threads 128*groups      shared: 2 * Panels<head_dim, 64*groups>::bytes + stages * (2 * Panels<head_dim, tile>::bytes + 8*tile)
//   bytes   k, v, dk and dv once, and do, q and stats once from memory; the streamed rows from the L2 cache for each block of a head
template <class C, class... Draw>
__device__ void attention_wgmma_dkv(int rows, typename C::T *dk, typename C::T *dv, float *partial, const typename C::T *d_o, const typename C::T *q, const typename C::T *k,
                                    const typename C::T *v, const float2 *stats, Draw... draw) {
    constexpr int group = C::heads / C::kv_heads, owned = 64 * C::groups;
    constexpr int section = section_of(C::batch * C::kv_heads, 4ll * (1 + group) * C::context * C::head_dim);
    const int positions = rows / C::batch, blocks = ceil_div(positions, owned);
    const Work work = work_of(blockIdx.x, C::batch * C::kv_heads, blocks, section); // early keys have most to do
    const int b = work.unit / C::kv_heads, g = work.unit % C::kv_heads;
    const int first = work.task * owned, end = first + owned < positions ? first + owned : positions;
    GroupBackward<C, true>{positions, first, end, b, g * group, g}.run(dk, dv, partial, k, v, q, d_o, stats, draw...);
}

// attention_wgmma_dq: dq, and the stats that attention_stats describes, padded to a multiple of 64, from do, q, k, v, o and lse. The scores
// are computed once more: no sum is shared between blocks. With column_sums it sums the columns of dq, as attention_wgmma_dkv does.
//
//   grid    x: batch * heads * ceil(T / (64*groups))
//   threads 128*groups      shared: as attention_wgmma_dkv
//   bytes   q, do, o, lse, stats and dq once, k and v once from memory, and from the L2 cache for each block of a head
template <class C, class... Draw>
__device__ void attention_wgmma_dq(int rows, typename C::T *dq, float *partial, float2 *stats, const typename C::T *d_o, const typename C::T *q, const typename C::T *k,
                                   const typename C::T *v, const typename C::T *o, const float *lse, Draw... draw) {
    constexpr int group = C::heads / C::kv_heads, owned = 64 * C::groups;
    constexpr int section = section_of(C::batch * C::kv_heads, 4ll * C::context * C::head_dim) * group;
    const int positions = rows / C::batch, blocks = ceil_div(positions, owned);
    const Work work = work_of(blockIdx.x, C::batch * C::heads, blocks, section);
    const int b = work.unit / C::heads, h = work.unit % C::heads;
    const int first = (blocks - 1 - work.task) * owned, end = first + owned < positions ? first + owned : positions;
    using Backward = GroupBackward<C, false>;
    Backward{positions, first, end, b, h, h / group}.run(dq, dq, partial, q, d_o, k, v, typename Backward::Outcome{o, lse, stats}, draw...);
}

// Attention in bf16 or half on the tensor cores, forward and backward: flash attention (Dao et al. 2022; Dao 2023), whose
// scores never leave the registers. Formulas, shapes and the fields of Config that all attention has: attention.cuh.
//
//   Config  further fields of the bodies here:
//           warps, warp_rows   warps of a block; the rows a warp owns, 16 or 32
//           tile               rows that a block streams through shared memory at a time, a multiple of step
//           step               of these, rows that a warp computes at a time: 16, 32 or 64
//           keep               how many of the operands whose rows a warp owns (q; for gradients q and do, or k and v) stay in registers,
//                              as fragments; the others are read from shared memory each step. Blocks of dq keep one more
//           vec                elements of an access to q, k, v, o (and gradients): 8 where all rows start at multiples of 16 bytes
#pragma once
#include "attention.cuh"
#include "keep_bits.cuh"
#include "mma_tile.cuh"

// place_of_warp is which of the block's rows this warp owns, in units of its rows: by its index, or in half of the blocks from the
// last on. Under causal masks warps differ in work, and the n-th warps of all blocks on a multiprocessor share a scheduler.
template <int Warps> __device__ inline int place_of_warp() {
    return blockIdx.x * 0x9E3779B9u >> 31 ? Warps - 1 - warp_index() : warp_index();
}

// attention_mma: o and lse. A block owns warps*warp_rows queries of one head, and streams their keys and values.
//
//   grid    x: batch * heads * ceil(T / (warps*warp_rows))
//   threads 32*warps        shared: TileOf<head_dim>::bytes(warps*warp_rows + 4*tile)
//   bytes   q, o and lse once; k and v once from memory, and from the L2 cache for each block of a head
template <class C, class... Draw>
__device__ void attention_mma(int rows, typename C::T *o, float *lse, const typename C::T *q, const typename C::T *k, const typename C::T *v,
                              Draw... draw) {
    using T = typename C::T;
    using M = typename C::Mask;
    using L = TileOf<C::head_dim>;
    using S = Scores<C>;
    constexpr int threads = C::warps * warp_size, owned = C::warps * C::warp_rows, strips = C::warp_rows / 16;
    constexpr int n_step = C::step / 8; // accumulators of a step
    static_assert(C::warp_rows % 16 == 0 && C::step % 16 == 0 && C::tile % C::step == 0, "fragments are 16 wide");

    SHARED_DYNAMIC(shared);
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

    unsigned char *const queries = shared, *const stages = shared + L::bytes(owned); // a stage: keys, then values
    const Range range = M::key_range(i0, i1);
    const int last = ceil_div(range.to < positions ? range.to : positions, C::tile);
    auto next = [&](int t) { // the first tile from t on that is not empty
        if constexpr (!M::gapless)
            while (t < last && M::tile(i0, i1, t * C::tile, t * C::tile + C::tile) == Cover::empty) t++;
        return t;
    };
    auto fetch = [&](int t, int stage) {
        unsigned char *const to = stages + stage * 2 * L::bytes(C::tile);
        copy_rows<C::head_dim, C::tile, threads, C::vec>(to, k, C::k_stride, t * C::tile, positions);
        copy_rows<C::head_dim, C::tile, threads, C::vec>(to + L::bytes(C::tile), v, C::v_stride, t * C::tile, positions);
    };

    const int lane = lane_index(), place = place_of_warp<C::warps>() * C::warp_rows;
    const int mine = i0 + place; // this warp's first query
    unsigned char *const own = queries + L::bytes(place);
    const typename L::Across across;
    const typename L::Down down;
    Drops<C> drops(draw...);
    drops.enter(work.unit, positions);
    const S scores(h);

    int t = next(range.from / C::tile), stage = 0;
    copy_rows<C::head_dim, owned, threads, C::vec>(queries, q, C::q_stride, i0, positions);
    if (t < last) fetch(t, 0);
    copy_async_commit();
    copy_async_wait<0>();
    __syncthreads();

    constexpr bool keep = C::keep > 0;
    uint32_t a[strips][keep ? L::steps : 1][4];
    if constexpr (keep) {
#pragma unroll
        for (int m = 0; m < strips; m++)
#pragma unroll
            for (int e = 0; e < L::steps; e++) ldmatrix(a[m][e], own + L::bytes(16 * m) + down.at_step(e));
    }

    float acc[strips][L::chunks][4] = {}, sum[strips][2] = {}, top[strips][2];
#pragma unroll
    for (int m = 0; m < strips; m++) top[m][0] = top[m][1] = -1e38f;

    while (t < last) {
        const int after = next(t + 1);
        if (after < last) fetch(after, stage ^ 1);
        copy_async_commit();
#pragma unroll 1
        for (int part = 0; part < C::tile; part += C::step) {
            const int j0 = t * C::tile + part;
            Cover cover = mine < positions ? M::tile(mine, mine + C::warp_rows, j0, j0 + C::step) : Cover::empty;
            if (cover == Cover::empty) continue;
            if (!M::past_only && j0 + C::step > positions) cover = Cover::partial;
            const unsigned char *const keys = stages + stage * 2 * L::bytes(C::tile) + part * L::pitch, *const values = keys + L::bytes(C::tile);

            float s[strips][n_step][4] = {};
#pragma unroll
            for (int e = 0; e < L::steps; e++) {
                if constexpr (!keep) {
#pragma unroll
                    for (int m = 0; m < strips; m++) ldmatrix(a[m][0], own + L::bytes(16 * m) + down.at_step(e));
                }
#pragma unroll
                for (int n = 0; n < n_step; n += 2) {
                    uint32_t f[4];
                    ldmatrix(f, keys + L::bytes(8 * n) + across.at_step(e));
#pragma unroll
                    for (int m = 0; m < strips; m++) {
                        mma<T>(s[m][n], a[m][keep ? e : 0], f[0], f[1]);
                        mma<T>(s[m][n + 1], a[m][keep ? e : 0], f[2], f[3]);
                    }
                }
            }

            // Element x of accumulator n of strip m is for query(m, x) and key(n, x).
            auto query = [&](int m, int x) { return mine + 16 * m + lane / 4 + x / 2 * 8; };
            auto key = [&](int n, int x) { return j0 + 8 * n + lane % 4 * 2 + x % 2; };
            if constexpr (!S::linear) {
#pragma unroll
                for (int m = 0; m < strips; m++)
#pragma unroll
                    for (int n = 0; n < n_step; n++)
#pragma unroll
                        for (int x = 0; x < 4; x++) s[m][n][x] = scores.of(s[m][n][x], query(m, x), key(n, x));
            }
            constexpr float factor = S::linear ? S::factor : 1;
            if (cover == Cover::partial) {
#pragma unroll
                for (int m = 0; m < strips; m++)
#pragma unroll
                    for (int n = 0; n < n_step; n++)
#pragma unroll
                        for (int x = 0; x < 4; x++)
                            if (!M::allowed(query(m, x), key(n, x)) || (!M::past_only && key(n, x) >= positions)) s[m][n][x] = -infinity;
            }

            float high[strips][2];
            bool rises = false;
#pragma unroll
            for (int m = 0; m < strips; m++)
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    high[m][r] = fmaxf(s[m][0][2 * r], s[m][0][2 * r + 1]);
#pragma unroll
                    for (int n = 1; n < n_step; n++) high[m][r] = fmaxf(high[m][r], fmaxf(s[m][n][2 * r], s[m][n][2 * r + 1]));
                    high[m][r] *= factor;
                    rises |= high[m][r] > top[m][r] + exponents_rise;
                }
            if (votes(rises)) {
#pragma unroll
                for (int m = 0; m < strips; m++)
#pragma unroll
                    for (int r = 0; r < 2; r++) { // a row's fate depends on its own scores only
                        const float seen = warp_max<4>(high[m][r]), old = top[m][r];
                        if (seen > old + exponents_rise) top[m][r] = seen;
                        const float by = exp2_fast(old - top[m][r]);
                        sum[m][r] *= by;
#pragma unroll
                        for (int n = 0; n < L::chunks; n++) acc[m][n][2 * r] *= by, acc[m][n][2 * r + 1] *= by;
                    }
            }
#pragma unroll
            for (int m = 0; m < strips; m++)
#pragma unroll
                for (int n = 0; n < n_step; n++)
#pragma unroll
                    for (int x = 0; x < 4; x++) {
                        s[m][n][x] = exp2_fast(s[m][n][x] * factor - top[m][x / 2]);
                        sum[m][x / 2] += s[m][n][x];
                    }
            if constexpr (C::dropout > 0) {
#pragma unroll
                for (int m = 0; m < strips; m++) {
                    const uint32_t bits = keep_bits<false, n_step>(drops, mine + 16 * m, j0);
#pragma unroll
                    for (int x = 0; x < 4 * n_step; x++)
                        if (!(bits >> x & 1)) s[m][x / 4][x % 4] = 0;
                }
            }
#pragma unroll
            for (int n = 0; n < n_step; n += 2) {
                uint32_t p[strips][4];
#pragma unroll
                for (int m = 0; m < strips; m++) accumulators_to_a<T>(p[m], s[m][n], s[m][n + 1]);
#pragma unroll
                for (int e = 0; e < L::steps; e++) {
                    uint32_t f[4];
                    ldmatrix_transposed(f, values + L::bytes(8 * n) + down.at_step(e));
#pragma unroll
                    for (int m = 0; m < strips; m++) {
                        mma<T>(acc[m][2 * e], p[m], f[0], f[1]);
                        mma<T>(acc[m][2 * e + 1], p[m], f[2], f[3]);
                    }
                }
            }
        }
        t = after;
        stage ^= 1;
        copy_async_wait<0>();
        __syncthreads();
    }

    constexpr float kept_factor = keep_factor(C::dropout);
#pragma unroll
    for (int m = 0; m < strips; m++) {
        float by[2];
#pragma unroll
        for (int r = 0; r < 2; r++) {
            const float all = warp_sum<4>(sum[m][r]);
            const int i = mine + 16 * m + lane / 4 + 8 * r;
            by[r] = all == 0 ? 0 : kept_factor / all;
            if (lane % 4 == 0 && i < positions) lse[static_cast<size_t>(i) * C::heads] = all == 0 ? -infinity : (top[m][r] + log2f(all)) * ln_2;
        }
        write_strip<C::head_dim, C::vec>(o, C::o_stride, mine + 16 * m, positions, own + L::bytes(16 * m), acc[m], by[0], by[1]);
    }
}

// Backward computes, for the rows a block owns, keys (Keys) or queries, sums over the queries or keys that it streams:
//
//   First   d1 = scale * sum of ds * stream1      dk = scale * dsᵀ·q, dq = scale * ds·k
//   Second  d2 = sum of p * drop * stream2        dv = (p∘drop)ᵀ·do
//
// with ds_ij = p_ij * (drop_ij * do_i·v_j - do_i·o_i), times the derivative of the cap. own1, own2 and stream1, stream2 are k, v and
// q, do, or the other way round. A block of keys streams the queries of every head of its group, one head after another.
template <class C, bool Keys, bool First, bool Second> struct Backward {
    using T = typename C::T;
    using M = typename C::Mask;
    using L = TileOf<C::head_dim>;
    using S = Scores<C>;
    static constexpr int threads = C::warps * warp_size, owned = C::warps * C::warp_rows, strips = C::warp_rows / 16;
    static constexpr int n_step = C::step / 8, group = Keys ? C::heads / C::kv_heads : 1;
    static constexpr int own1_stride = Keys ? C::k_stride : C::q_stride, own2_stride = Keys ? C::v_stride : C::do_stride;
    static constexpr int stream1_stride = Keys ? C::q_stride : C::k_stride, stream2_stride = Keys ? C::do_stride : C::v_stride;
    static constexpr int d1_stride = Keys ? C::dk_stride : C::dq_stride, d2_stride = C::dv_stride;
    static_assert(C::warp_rows % 16 == 0 && C::step % 16 == 0 && C::tile % C::step == 0, "fragments are 16 wide");

    int positions, first, end; // the block's rows
    int b, h, g;               // its sequence; its query head, or the first of those that it streams; its key-value head

    // Places are kept in shared memory, because the loop needs all registers.
    struct Places {
        const T *stream1, *stream2;
        const float2 *stats;
        T *d1, *d2;
    };

    __device__ Cover cover(int from, int to, int streamed, int streamed_to) const {
        return Keys ? M::tile(streamed, streamed_to, from, to) : M::tile(from, to, streamed, streamed_to);
    }

    // head is where head `index` of this sequence starts in x.
    template <class X> __device__ X *head(X *x, int stride, int index) const {
        return x + (static_cast<size_t>(b) * positions * stride + index * C::head_dim);
    }

    template <class... Draw>
    __device__ void run(T *d1, T *d2, const T *own1, const T *own2, const T *stream1, const T *stream2, const float2 *stats, Draw... draw) const {
        SHARED_DYNAMIC(shared);
        const int padded = round_up(positions, C::tile), query_head = b * C::heads + h;
        const int owner = Keys ? g : h, streamed = Keys ? h : g;
        const Places places = {head(stream1, stream1_stride, streamed), head(stream2, stream2_stride, streamed),
                               stats + static_cast<size_t>(query_head) * padded, head(d1, d1_stride, owner), head(d2, d2_stride, owner)};
        __shared__ Places kept_places;
        if (threadIdx.x == 0) kept_places = places;
        constexpr int stage_bytes = L::bytes(2 * C::tile) + C::tile * static_cast<int>(sizeof(float2));
        unsigned char *const stages = shared + L::bytes(2 * owned); // a stage: stream1, stream2, stats

        const Range range = Keys ? M::query_range(first, end) : M::key_range(first, end);
        const int from = range.from / C::tile, last = ceil_div(range.to < positions ? range.to : positions, C::tile);
        auto next = [&](int t) { // the first tile from t on that is not empty
            if constexpr (!M::gapless)
                while (t < last && cover(first, end, t * C::tile, t * C::tile + C::tile) == Cover::empty) t++;
            return t;
        };
        auto fetch = [&](const Places &from, int n, int t, int stage) { // of the n-th streamed head
            unsigned char *const to = stages + stage * stage_bytes;
            copy_rows<C::head_dim, C::tile, threads, C::vec>(to, from.stream1 + n * C::head_dim, stream1_stride, t * C::tile, positions);
            copy_rows<C::head_dim, C::tile, threads, C::vec>(to + L::bytes(C::tile), from.stream2 + n * C::head_dim, stream2_stride, t * C::tile, positions);
            if constexpr (Keys) {
                const float2 *const s = from.stats + static_cast<size_t>(n) * padded + t * C::tile;
                for (int i = threadIdx.x; i < C::tile / 2; i += threads) copy_async(to + L::bytes(2 * C::tile) + 16 * i, s + 2 * i, true);
            }
        };

        const int lane = lane_index(), place = place_of_warp<C::warps>() * C::warp_rows;
        const int mine = first + place; // this warp's first row
        unsigned char *const tile1 = shared + L::bytes(place), *const tile2 = tile1 + L::bytes(owned);
        const typename L::Across across;
        const typename L::Down down;
        S scores(h);

        int n_head = 0, t = next(from), stage = 0;
        copy_rows<C::head_dim, owned, threads, C::vec>(shared, head(own1, own1_stride, owner), own1_stride, first, positions);
        if constexpr (First) copy_rows<C::head_dim, owned, threads, C::vec>(shared + L::bytes(owned), head(own2, own2_stride, owner), own2_stride, first, positions);
        if (t < last) fetch(places, 0, t, 0);
        copy_async_commit();

        float lse[strips][2], delta[strips][2];
        if constexpr (!Keys) {
#pragma unroll
            for (int m = 0; m < strips; m++)
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const int i = mine + 16 * m + lane / 4 + 8 * r;
                    const float2 s = i < positions ? places.stats[i] : make_float2(infinity, 0);
                    lse[m][r] = s.x, delta[m][r] = s.y;
                }
        }
        Drops<C> drops(draw...);
        drops.enter(query_head, positions);
        copy_async_wait<0>();
        __syncthreads();

        constexpr int keep = C::keep + (Keys || C::head_dim > 128 ? 0 : 1); // blocks of queries have half the sums
        constexpr bool keep1 = keep > 0, keep2 = keep > 1;
        uint32_t a1[strips][keep1 ? L::steps : 1][4], a2[First ? strips : 1][keep2 ? L::steps : 1][4];
        auto read1 = [&](int to, int e) {
#pragma unroll
            for (int m = 0; m < strips; m++) ldmatrix(a1[m][to], tile1 + L::bytes(16 * m) + down.at_step(e));
        };
        auto read2 = [&](int to, int e) {
            if constexpr (First) {
#pragma unroll
                for (int m = 0; m < strips; m++) ldmatrix(a2[m][to], tile2 + L::bytes(16 * m) + down.at_step(e));
            }
        };
#pragma unroll
        for (int e = 0; e < L::steps; e++) {
            if constexpr (keep1) read1(e, e);
            if constexpr (keep2) read2(e, e);
        }
        float acc1[First ? strips : 1][L::chunks][4] = {}, acc2[Second ? strips : 1][L::chunks][4] = {};

        while (t < last) {
            int after = next(t + 1), after_head = n_head;
            if (after >= last && n_head + 1 < group) {
                after = next(from);
                after_head++;
            }
            if (after < last) fetch(kept_places, after_head, after, stage ^ 1);
            copy_async_commit();
#pragma unroll 1
            for (int part = 0; part < C::tile; part += C::step) {
                const int streamed = t * C::tile + part; // the first row of this step
                Cover cover = mine < positions && streamed < positions ? this->cover(mine, mine + C::warp_rows, streamed, streamed + C::step) : Cover::empty;
                if (cover == Cover::empty) continue;
                if (!Keys && !M::past_only && streamed + C::step > positions) cover = Cover::partial;
                const unsigned char *const tile = stages + stage * stage_bytes;
                const unsigned char *const rows1 = tile + part * L::pitch, *const rows2 = rows1 + L::bytes(C::tile);

                // p is own1·stream1ᵀ, then probabilities; dp is own2·stream2ᵀ.
                float p[strips][n_step][4] = {}, dp[strips][n_step][4] = {};
#pragma unroll
                for (int e = 0; e < L::steps; e++) {
                    if constexpr (!keep1) read1(0, e);
                    if constexpr (!keep2) read2(0, e);
#pragma unroll
                    for (int n = 0; n < n_step; n += 2) {
                        uint32_t f1[4], f2[4];
                        ldmatrix(f1, rows1 + L::bytes(8 * n) + across.at_step(e));
                        if constexpr (First) ldmatrix(f2, rows2 + L::bytes(8 * n) + across.at_step(e));
#pragma unroll
                        for (int m = 0; m < strips; m++) {
                            mma<T>(p[m][n], a1[m][keep1 ? e : 0], f1[0], f1[1]);
                            mma<T>(p[m][n + 1], a1[m][keep1 ? e : 0], f1[2], f1[3]);
                            if constexpr (First) {
                                mma<T>(dp[m][n], a2[m][keep2 ? e : 0], f2[0], f2[1]);
                                mma<T>(dp[m][n + 1], a2[m][keep2 ? e : 0], f2[2], f2[3]);
                            }
                        }
                    }
                }

                // Element x of accumulator n of strip m is for query(m, n, x) and key(m, n, x).
                auto own = [&](int m, int x) { return mine + 16 * m + lane / 4 + x / 2 * 8; };
                auto other = [&](int n, int x) { return streamed + 8 * n + lane % 4 * 2 + x % 2; };
                auto query = [&](int m, int n, int x) { return Keys ? other(n, x) : own(m, x); };
                auto key = [&](int m, int n, int x) { return Keys ? own(m, x) : other(n, x); };
                float slope[strips][n_step][4]; // of the cap
                if constexpr (!S::linear) {
#pragma unroll
                    for (int m = 0; m < strips; m++)
#pragma unroll
                        for (int n = 0; n < n_step; n++)
#pragma unroll
                            for (int x = 0; x < 4; x++) p[m][n][x] = scores.of(p[m][n][x], query(m, n, x), key(m, n, x), slope[m][n][x]);
                }
                if (cover == Cover::partial) {
#pragma unroll
                    for (int m = 0; m < strips; m++)
#pragma unroll
                        for (int n = 0; n < n_step; n++)
#pragma unroll
                            for (int x = 0; x < 4; x++)
                                if (!M::allowed(query(m, n, x), key(m, n, x)) || (!Keys && !M::past_only && key(m, n, x) >= positions)) p[m][n][x] = -infinity;
                }
                constexpr float factor = S::linear ? S::factor : 1;
                uint32_t bits[strips];
                if constexpr (C::dropout > 0) {
#pragma unroll
                    for (int m = 0; m < strips; m++)
                        bits[m] = Keys ? keep_bits<true, n_step>(drops, streamed, mine + 16 * m) : keep_bits<false, n_step>(drops, mine + 16 * m, streamed);
                }
#pragma unroll
                for (int n = 0; n < n_step; n++) {
                    float4 s = {0, 0, 0, 0}; // of two queries
                    if constexpr (Keys) s = *reinterpret_cast<const float4 *>(tile + L::bytes(2 * C::tile) + (part + 8 * n + lane % 4 * 2) * sizeof(float2));
#pragma unroll
                    for (int m = 0; m < strips; m++)
#pragma unroll
                        for (int x = 0; x < 4; x++) {
                            const float l = Keys ? (x % 2 ? s.z : s.x) : lse[m][x / 2], d = Keys ? (x % 2 ? s.w : s.y) : delta[m][x / 2];
                            const float prob = exp2_fast(p[m][n][x] * factor - l);
                            const bool drop = C::dropout > 0 && !(bits[m] >> (4 * n + x) & 1);
                            p[m][n][x] = drop ? 0 : prob;
                            if constexpr (First) {
                                const float up = drop ? 0 : C::dropout > 0 ? dp[m][n][x] * keep_factor(C::dropout) : dp[m][n][x];
                                dp[m][n][x] = prob * (up - d);
                                if constexpr (C::softcap != 0) dp[m][n][x] *= slope[m][n][x];
                            }
                        }
                }
#pragma unroll
                for (int n = 0; n < n_step; n += 2) {
                    uint32_t b1[strips][4], b2[strips][4];
#pragma unroll
                    for (int m = 0; m < strips; m++) {
                        if constexpr (First) accumulators_to_a<T>(b1[m], dp[m][n], dp[m][n + 1]);
                        if constexpr (Second) accumulators_to_a<T>(b2[m], p[m][n], p[m][n + 1]);
                    }
#pragma unroll
                    for (int e = 0; e < L::steps; e++) {
                        uint32_t f1[4], f2[4];
                        if constexpr (First) ldmatrix_transposed(f1, rows1 + L::bytes(8 * n) + down.at_step(e));
                        if constexpr (Second) ldmatrix_transposed(f2, rows2 + L::bytes(8 * n) + down.at_step(e));
#pragma unroll
                        for (int m = 0; m < strips; m++) {
                            if constexpr (First) {
                                mma<T>(acc1[m][2 * e], b1[m], f1[0], f1[1]);
                                mma<T>(acc1[m][2 * e + 1], b1[m], f1[2], f1[3]);
                            }
                            if constexpr (Second) {
                                mma<T>(acc2[m][2 * e], b2[m], f2[0], f2[1]);
                                mma<T>(acc2[m][2 * e + 1], b2[m], f2[2], f2[3]);
                            }
                        }
                    }
                }
            }
            t = after;
            if (after_head != n_head) {
                n_head = after_head;
                scores = S(h + n_head);
                drops.enter(query_head + n_head, positions);
            }
            stage ^= 1;
            copy_async_wait<0>();
            __syncthreads();
        }
#pragma unroll
        for (int m = 0; m < strips; m++) {
            const int row = mine + 16 * m;
            if constexpr (First) write_strip<C::head_dim, C::vec>(kept_places.d1, d1_stride, row, positions, tile1 + L::bytes(16 * m), acc1[m], C::scale, C::scale);
            constexpr float kept_factor = keep_factor(C::dropout);
            if constexpr (Second) write_strip<C::head_dim, C::vec>(kept_places.d2, d2_stride, row, positions, tile1 + L::bytes(16 * m), acc2[m], kept_factor, kept_factor);
        }
    }
};

// attention_mma_grad: dq, dk, dv from do, q, k, v and what attention_stats made of do, o and lse. Blocks of keys sum dk and dv,
// blocks of queries dq, each in registers and in a fixed order; both compute the scores again. Heads wider than 128 have
// blocks for dk and for dv.
//
//   grid    x: batch * kv_heads * ceil(T / (warps*warp_rows)) * (heads/kv_heads + (head_dim > 128 ? 2 : 1))
//   threads 32*warps        shared: TileOf<head_dim>::bytes(2*warps*warp_rows + 4*tile) + 16*tile
//   bytes   do, q, k, v, stats, dq, dk and dv once from memory; the streamed rows from the L2 cache for each block of a head
template <class C, class... Draw>
__device__ void attention_mma_grad(int rows, typename C::T *dq, typename C::T *dk, typename C::T *dv, const typename C::T *d_o, const typename C::T *q,
                                   const typename C::T *k, const typename C::T *v, const float2 *stats, Draw... draw) {
    constexpr int group = C::heads / C::kv_heads, owned = C::warps * C::warp_rows, passes = C::head_dim > 128 ? 2 : 1;
    constexpr int section = section_of(C::batch * C::kv_heads, 4ll * (1 + group) * C::context * C::head_dim);
    const int positions = rows / C::batch, blocks = ceil_div(positions, owned);
    const Work work = work_of(blockIdx.x, C::batch * C::kv_heads, blocks * (passes + group), section);
    const int b = work.unit / C::kv_heads, g = work.unit % C::kv_heads, of_queries = work.task - blocks * passes;
    const int h = g * group + (of_queries < 0 ? 0 : of_queries % group);
    const int block = of_queries < 0 ? work.task / passes : blocks - 1 - of_queries / group; // early keys, late queries have most to do
    const int first = block * owned, end = first + owned < positions ? first + owned : positions;
    if (of_queries >= 0)
        Backward<C, false, true, false>{positions, first, end, b, h, g}.run(dq, dq, q, d_o, k, v, stats, draw...);
    else if constexpr (passes == 1)
        Backward<C, true, true, true>{positions, first, end, b, h, g}.run(dk, dv, k, v, q, d_o, stats, draw...);
    else if (work.task % 2 == 0)
        Backward<C, true, true, false>{positions, first, end, b, h, g}.run(dk, dv, k, v, q, d_o, stats, draw...);
    else
        Backward<C, true, false, true>{positions, first, end, b, h, g}.run(dk, dv, k, v, q, d_o, stats, draw...);
}

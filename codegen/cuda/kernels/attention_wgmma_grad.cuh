// The gradient of attention in bf16 or half on Hopper's matrix units (Shah et al. 2024, "FlashAttention-3"), for heads of up to 128 columns, in two
// passes over the scores: blocks of queries make dq, and then blocks of keys dk and dv, so that no sum is shared between blocks. Formulas, shapes and
// the fields of Config that all attention has: attention.cuh. Columns are padded to panels of 64; rows start at multiples of 16 bytes.
//
// Blocks stay, and take rows of a head, those with most to do first, by a ticket. The last warpgroup of a block copies: the rows
// that the block owns, for the next turn while it works on one, and what it streams, into a ring. Each of the others owns 64 rows and waits for
// nobody else, so that while the scores of one become probabilities, those of another are multiplied.
//
//   Config  further fields of the bodies here:
//           groups   warpgroups that multiply: 3, or 2 where those need more registers
//           stages   tiles of 64 streamed rows in shared memory
#pragma once
#include "attention.cuh"
#include "hopper.cuh"
#include "keep_bits.cuh"

// GradTiles is a block's shared memory. A block of queries owns rows of q, do and o, one of keys of k and v.
template <class C, bool Keys> struct GradTiles {
    static constexpr int owned = 64 * C::groups, streamed = 64, copying = 128; // copying: threads that copy
    using Own = Panels<C::head_dim, owned>;
    using Tile = Panels<C::head_dim, streamed>;
    static constexpr int own_stages = Own::count == 1 ? 2 : 1, own_bytes = (Keys ? 2 : 3) * Own::bytes, stage_bytes = 2 * Tile::bytes;
    static constexpr int stats_bytes = Keys ? streamed * 8 : 0, sum_bytes = C::column_sums ? (Keys ? 2 : 1) * 4 * 64 * Own::count * 4 : 0; // sums: of a warpgroup
    static constexpr int tiles = own_stages * own_bytes, stats = tiles + C::stages * stage_bytes, sums = stats + C::stages * stats_bytes;
    static constexpr int arrivals = sums + C::groups * sum_bytes, turns = arrivals + 16 * (own_stages + C::stages), shared = round_up(turns + 8 * own_stages, 1024);
    static_assert(shared <= 227 * 1024, "more than a block has");
};

// GroupGrad computes, for the rows a block owns, keys (Keys) or queries, sums over the queries or keys that it streams:
//
//   d1 = scale * sum of ds * stream1      dk = scale * dsᵀ·q, dq = scale * ds·k
//   d2 = sum of p * drop * stream2        dv = (p∘drop)ᵀ·do, for keys only
//
// with ds as in attention_mma.cuh. own1, own2 and stream1, stream2 are k, v and q, do, or the other way round. A block of keys streams
// the queries of every head of its group, one head after another.
template <class C, bool Keys> struct GroupGrad {
    using T = typename C::T;
    using M = typename C::Mask;
    using S = Scores<C>;
    using L = GradTiles<C, Keys>;
    static constexpr int group = C::heads / C::kv_heads, streams = Keys ? group : 1, units = C::batch * (Keys ? C::kv_heads : C::heads), count = L::Own::count;
    static constexpr int own1_stride = Keys ? C::k_stride : C::q_stride, own2_stride = Keys ? C::v_stride : C::do_stride;
    static constexpr int stream1_stride = Keys ? C::q_stride : C::k_stride, stream2_stride = Keys ? C::do_stride : C::v_stride;
    static constexpr int d1_stride = Keys ? C::dk_stride : C::dq_stride, d2_stride = C::dv_stride;
    // A block begins with as many registers as it can have in all, a multiple of 8 for each thread; so many are of a thread that multiplies, and the
    // rest of those that copy.
    static constexpr int all_registers = 512 / (C::groups + 1) / 8 * 8 * (C::groups + 1), registers = C::groups == 3 ? (Keys ? 160 : 152) : Keys ? 224 : 216;
    static constexpr int sum_columns = (C::heads + 2 * C::kv_heads) * C::head_dim;

    // Turn is what a block does at a time.
    struct Turn {
        int b, h, g, first, end; // its sequence; its query head, or the first of those that it streams; its key-value head; its rows
        __device__ int owner() const { return Keys ? g : h; }
        __device__ int streamed() const { return Keys ? h : g; }
    };
    // At is a step of a turn: a tile, of the n-th streamed head; none where t < 0.
    struct At {
        int t, n;
    };
    // Outcome is what blocks of queries know of the forward pass, of which they make the stats (attention_stats) for blocks of keys.
    struct Outcome {
        const T *o;
        const float *lse;
        float2 *stats;
    };

    int positions, blocks, padded; // padded: positions that there are stats for

    __device__ explicit GroupGrad(int rows) : positions(rows / C::batch), blocks(ceil_div(positions, L::owned)), padded(round_up(positions, L::streamed)) {}

    __device__ int turns() const { return units * blocks; }
    __device__ Turn turn(int index) const {
        constexpr int section = Keys ? section_of(units, 4ll * (1 + group) * C::context * C::head_dim) : section_of(C::batch * C::kv_heads, 4ll * C::context * C::head_dim) * group;
        const Work work = work_of(index, units, blocks, section); // early keys and late queries have most to do
        const int first = (Keys ? work.task : blocks - 1 - work.task) * L::owned, end = first + L::owned < positions ? first + L::owned : positions;
        constexpr int heads = Keys ? C::kv_heads : C::heads;
        const int own = work.unit % heads;
        return {work.unit / heads, Keys ? own * group : own, Keys ? own : own / group, first, end};
    }

    __device__ Cover cover(int from, int to, int streamed, int streamed_to) const {
        return Keys ? M::tile(streamed, streamed_to, from, to) : M::tile(from, to, streamed, streamed_to);
    }
    // from is the first step of the n-th head, from tile t on or from the first of those that the mask names, that is not empty.
    __device__ At from(const Turn &x, int t, int n) const {
        const Range range = Keys ? M::query_range(x.first, x.end) : M::key_range(x.first, x.end);
        const int last = ceil_div(range.to < positions ? range.to : positions, L::streamed);
        if (t < 0) t = range.from / L::streamed;
        if constexpr (!M::gapless)
            while (t < last && cover(x.first, x.end, t * L::streamed, t * L::streamed + L::streamed) == Cover::empty) t++;
        return {t < last ? t : -1, n};
    }
    __device__ At begin(const Turn &x) const { return from(x, -1, 0); }
    __device__ At after(const Turn &x, At at) const {
        const At next = from(x, at.t + 1, at.n);
        return streams > 1 && next.t < 0 && at.n + 1 < streams ? from(x, -1, at.n + 1) : next;
    }

    // head is where head `index` of the turn's sequence starts in p.
    template <class X> __device__ X *head(const Turn &x, X *p, int stride, int index) const {
        return p + (static_cast<size_t>(x.b) * positions * stride + index * C::head_dim);
    }

    // copy starts to copy Rows rows of x, from row `first` on, to a tile of panels. A thread's rows are 16 apart and all in one order, so
    // that it needs few registers.
    template <int Rows> __device__ void copy(unsigned char *tile, const T *x, int stride, int first, int thread) const {
        constexpr int step = L::copying / 8;
        static_assert(Rows % step == 0 && step % 8 == 0, "the permutation of a row repeats after 8");
        const int top = thread / 8, chunk = thread % 8;
#pragma unroll
        for (int p = 0; p < count; p++) {
            unsigned char *const to = tile + Panels<C::head_dim, Rows>::at(top, p * 8 + chunk);
            const char *const from = reinterpret_cast<const char *>(x + (static_cast<size_t>(first + top) * stride + p * 64 + chunk * 8));
            const bool column = C::head_dim % 64 == 0 || p * 64 + chunk * 8 < C::head_dim;
#pragma unroll
            for (int n = 0; n < Rows; n += step) copy_async(to + n * 128, from + static_cast<uint32_t>(n * stride) * 2, first + top + n < positions && column);
        }
    }

    // dot is do_i·o_i of one of the rows that a block of queries owns, which four lanes add up.
    __device__ float dot(const unsigned char *own, int row) const {
        float sum = 0;
#pragma unroll
        for (int c = lane_index() % 4; c < count * 8; c += 4) {
            float x[8], y[8];
            const unsigned char *const d_o = own + L::Own::bytes + L::Own::at(row, c);
            load(x, reinterpret_cast<const T *>(d_o));
            load(y, reinterpret_cast<const T *>(d_o + L::Own::bytes));
#pragma unroll
            for (int e = 0; e < 8; e++) sum += x[e] * y[e];
        }
        return warp_sum<4>(sum);
    }

    // run's stats are those of attention_stats for blocks of keys, an Outcome for blocks of queries; ticket counts turns, from 0 on.
    template <class Stats, class... Draw>
    __device__ void run(T *d1, T *d2, float *partial, const T *own1, const T *own2, const T *stream1, const T *stream2, Stats stats, unsigned *ticket, Draw... draw) const {
        SHARED_PANELS(shared);
        Arrival *const own_full = reinterpret_cast<Arrival *>(shared + L::arrivals), *const own_empty = own_full + L::own_stages;
        Arrival *const full = own_empty + L::own_stages, *const empty = full + C::stages;
        int *const taken = reinterpret_cast<int *>(shared + L::turns); // of each own stage, the turn
        const int lane = lane_index(), wg = shuffle(warp_index() / 4, 0); // which the compiler then knows to be one for a warp
        if (threadIdx.x == 0) {
            for (int i = 0; i < L::own_stages; i++) arrival_init(own_full + i, L::copying), arrival_init(own_empty + i, 4 * C::groups);
            for (int i = 0; i < C::stages; i++) arrival_init(full + i, L::copying), arrival_init(empty + i, 4 * C::groups);
            arrivals_ready();
        }
        __syncthreads();

        if (wg == C::groups) {
            registers_down<all_registers - C::groups * registers>();
            const int thread = threadIdx.x - 128 * C::groups;
            int step = 0;
            for (int n = 0;; n++) {
                const int stage = n % L::own_stages;
                arrival_wait(own_empty + stage, n / L::own_stages % 2 ^ 1);
                if (thread == 0) taken[stage] = static_cast<int>(atomicAdd(ticket, 1u));
                group_barrier(1, L::copying);
                const int index = taken[stage];
                if (index >= turns()) {
                    arrival_arrive(own_full + stage);
                    break;
                }
                const Turn x = turn(index);
                unsigned char *const own = shared + stage * L::own_bytes;
                copy<L::owned>(own, head(x, own1, own1_stride, x.owner()), own1_stride, x.first, thread);
                copy<L::owned>(own + L::Own::bytes, head(x, own2, own2_stride, x.owner()), own2_stride, x.first, thread);
                if constexpr (!Keys) copy<L::owned>(own + 2 * L::Own::bytes, head(x, stats.o, C::o_stride, x.h), C::o_stride, x.first, thread);
                copy_async_arrive(own_full + stage);
                for (At at = begin(x); at.t >= 0; at = after(x, at), step++) {
                    const int slot = step % C::stages, first = at.t * L::streamed;
                    unsigned char *const to = shared + L::tiles + slot * L::stage_bytes;
                    arrival_wait(empty + slot, step / C::stages % 2 ^ 1);
                    copy<L::streamed>(to, head(x, stream1, stream1_stride, x.streamed() + at.n), stream1_stride, first, thread);
                    copy<L::streamed>(to + L::Tile::bytes, head(x, stream2, stream2_stride, x.streamed() + at.n), stream2_stride, first, thread);
                    if constexpr (Keys) {
                        const float2 *const s = stats + (static_cast<size_t>(x.b * C::heads + x.h + at.n) * padded + first);
                        if (thread < L::streamed / 2) copy_async(shared + L::stats + slot * L::stats_bytes + 16 * thread, s + 2 * thread, true);
                    }
                    copy_async_arrive(full + slot);
                }
            }
            return;
        }

        registers_up<registers>();
        const int place = warp_index() * 16, row_in = lane / 4, column_in = lane % 4 * 2;
        Drops<C> drops(draw...);
        int step = 0;
        for (int turned = 0;; turned++) {
            const int stage = turned % L::own_stages;
            arrival_wait(own_full + stage, turned / L::own_stages % 2);
            const int index = taken[stage];
            if (index >= turns()) break;
            const Turn x = turn(index);
            const int group_first = x.first + wg * 64, mine = x.first + place; // the first row of this group, and of this warp
            unsigned char *const own = shared + stage * L::own_bytes;
            const Matrix rows1 = matrix_at(own + wg * 64 * 128), rows2 = matrix_moved(rows1, L::Own::bytes);
            float lse[2], delta[2];
            if constexpr (!Keys) {
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const int i = mine + row_in + 8 * r;
                    lse[r] = i < positions ? stats.lse[(static_cast<size_t>(x.b) * positions + i) * C::heads + x.h] : -infinity;
                }
#pragma unroll
                for (int r = 0; r < 2; r++) {
                    const int i = mine + row_in + 8 * r;
                    const float sum = dot(own, place + row_in + 8 * r);
                    const bool none = lse[r] == -infinity;
                    lse[r] = none ? infinity : lse[r] * log2_e, delta[r] = none ? 0 : sum;
                    if (lane % 4 == 0 && i < padded) stats.stats[(static_cast<size_t>(x.b) * C::heads + x.h) * padded + i] = make_float2(lse[r], delta[r]);
                }
            }
            float acc1[count][8][4] = {}, acc2[Keys ? count : 1][8][4] = {};
            fence_async();
            for (At at = begin(x); at.t >= 0; at = after(x, at), step++) {
                const int slot = step % C::stages, streamed = at.t * L::streamed;
                arrival_wait(full + slot, step / C::stages % 2);
                fence_async();
                Cover cover = group_first < positions ? this->cover(group_first, group_first + 64, streamed, streamed + 64) : Cover::empty;
                if (cover != Cover::empty) {
                    if (!Keys && !M::past_only && streamed + 64 > positions) cover = Cover::partial;
                    const Matrix tile1 = matrix_at(shared + L::tiles + slot * L::stage_bytes), tile2 = matrix_moved(tile1, L::Tile::bytes);

                    // p is own1·stream1ᵀ, then probabilities; dp is own2·stream2ᵀ, then ds.
                    float p[8][4], dp[8][4];
                    wgmma_fresh(p);
                    wgmma_fresh(dp);
                    wgmma_begin();
#pragma unroll
                    for (int e = 0; e < L::Own::steps; e++) wgmma<T>(p, matrix_moved(rows1, L::Own::at_step(e)), matrix_moved(tile1, L::Tile::at_step(e)), e > 0);
                    wgmma_commit();
#pragma unroll
                    for (int e = 0; e < L::Own::steps; e++) wgmma<T>(dp, matrix_moved(rows2, L::Own::at_step(e)), matrix_moved(tile2, L::Tile::at_step(e)), e > 0);
                    wgmma_commit();
                    wgmma_wait<1>();
                    wgmma_done(p);

                    // Element y of accumulator n is for query(n, y) and key(n, y).
                    auto mine_of = [&](int y) { return mine + row_in + y / 2 * 8; };
                    auto other = [&](int n, int y) { return streamed + 8 * n + column_in + y % 2; };
                    auto query = [&](int n, int y) { return Keys ? other(n, y) : mine_of(y); };
                    auto key = [&](int n, int y) { return Keys ? mine_of(y) : other(n, y); };
                    float slope[8][4]; // of the cap
                    if constexpr (!S::linear) {
                        const S scores(x.h + at.n);
#pragma unroll
                        for (int n = 0; n < 8; n++)
#pragma unroll
                            for (int y = 0; y < 4; y++) p[n][y] = scores.of(p[n][y], query(n, y), key(n, y), slope[n][y]);
                    }
                    if (cover == Cover::partial) {
#pragma unroll
                        for (int n = 0; n < 8; n++)
#pragma unroll
                            for (int y = 0; y < 4; y++)
                                if (!M::allowed(query(n, y), key(n, y)) || (!Keys && !M::past_only && key(n, y) >= positions)) p[n][y] = -infinity;
                    }
                    constexpr float factor = S::linear ? S::factor : 1;
                    uint32_t bits = 0;
                    if constexpr (C::dropout > 0) {
                        drops.enter(x.b * C::heads + x.h + at.n, positions);
                        bits = Keys ? keep_bits<true, 8>(drops, streamed, mine) : keep_bits<false, 8>(drops, mine, streamed);
                    }
                    auto dropped = [&](int n, int y) { return C::dropout > 0 && !(bits >> (4 * n + y) & 1); };
                    const unsigned char *const step_stats = shared + L::stats + slot * L::stats_bytes + column_in * sizeof(float2);
                    auto stats_of = [&](int n) { // of two queries: lse and delta of the one, then of the other
                        if constexpr (Keys) return *reinterpret_cast<const float4 *>(step_stats + n * 8 * sizeof(float2));
                        else return float4{0, 0, 0, 0};
                    };
#pragma unroll
                    for (int n = 0; n < 8; n++) {
                        const float4 s = stats_of(n);
#pragma unroll
                        for (int y = 0; y < 4; y++) p[n][y] = exp2_fast(p[n][y] * factor - (Keys ? (y % 2 ? s.z : s.x) : lse[y / 2]));
                    }
                    wgmma_wait<0>();
                    wgmma_done(dp);
                    uint32_t a1[4][4], a2[4][4]; // ds and p as operands
#pragma unroll
                    for (int e = 0; e < 4; e++) {
                        float kept[2][4];
#pragma unroll
                        for (int half = 0; half < 2; half++) {
                            const int n = 2 * e + half;
                            const float4 s = stats_of(n);
#pragma unroll
                            for (int y = 0; y < 4; y++) {
                                kept[half][y] = dropped(n, y) ? 0 : p[n][y];
                                const float up = dropped(n, y) ? 0 : C::dropout > 0 ? dp[n][y] * keep_factor(C::dropout) : dp[n][y];
                                dp[n][y] = p[n][y] * (up - (Keys ? (y % 2 ? s.w : s.y) : delta[y / 2]));
                                if constexpr (C::softcap != 0) dp[n][y] *= slope[n][y];
                            }
                        }
                        if constexpr (Keys) accumulators_to_a<T>(a2[e], kept[0], kept[1]);
                        accumulators_to_a<T>(a1[e], dp[2 * e], dp[2 * e + 1]);
                    }
                    wgmma_begin();
#pragma unroll
                    for (int e = 0; e < 4; e++)
#pragma unroll
                        for (int n = 0; n < count; n++)
                            if constexpr (Keys) wgmma_rows<T>(acc2[n], a2[e], matrix_moved(tile2, n * L::Tile::panel + e * 16 * 128));
#pragma unroll
                    for (int e = 0; e < 4; e++)
#pragma unroll
                        for (int n = 0; n < count; n++) wgmma_rows<T>(acc1[n], a1[e], matrix_moved(tile1, n * L::Tile::panel + e * 16 * 128));
                    wgmma_commit();
                    wgmma_wait<0>();
#pragma unroll
                    for (int n = 0; n < count; n++) {
                        wgmma_done(acc1[n]);
                        if constexpr (Keys) wgmma_done(acc2[n]);
                    }
                }
                __syncwarp();
                if (lane == 0) arrival_arrive(empty + slot);
            }
            // The rows of own1 and own2 are free: only this warp's products read them.
            constexpr float kept_factor = keep_factor(C::dropout);
            write_panels<C::head_dim, L::owned>(head(x, d1, d1_stride, x.owner()), d1_stride, mine, x.end, own, place, acc1, C::scale, C::scale);
            if constexpr (Keys)
                write_panels<C::head_dim, L::owned>(head(x, d2, d2_stride, x.owner()), d2_stride, mine, x.end, own + L::Own::bytes, place, acc2, kept_factor, kept_factor);
            __syncwarp();
            if (lane == 0) arrival_arrive(own_empty + stage);
            if constexpr (C::column_sums) {
                float *const sums = reinterpret_cast<float *>(shared + L::sums + wg * L::sum_bytes), *to = nullptr;
                sum_columns_of(sums, acc1, mine, C::scale);
                if constexpr (Keys) sum_columns_of(sums + 4 * 64 * count, acc2, mine, kept_factor);
                group_barrier(2 + wg, 128);
                if (group_first < positions) to = partial + ((static_cast<size_t>(x.b) * ceil_div(positions, 64) + group_first / 64) * sum_columns + ((Keys ? C::heads : 0) + x.owner()) * C::head_dim);
                for (int c = threadIdx.x % 128; to != nullptr && c < (Keys ? 2 : 1) * 64 * count; c += 128) {
                    const int way = c / (64 * count), column = c % (64 * count);
                    const float *const s = sums + way * 4 * 64 * count + column;
                    if (column < C::head_dim) to[way * C::kv_heads * C::head_dim + column] = s[0] + s[64 * count] + s[2 * 64 * count] + s[3 * 64 * count];
                }
                group_barrier(2 + wg, 128);
            }
        }
    }

    // sum_columns_of leaves the sums of this warp's rows, times factor, where its warpgroup adds them up: [4, columns].
    __device__ void sum_columns_of(float *sums, const float (&d)[count][8][4], int mine, float factor) const {
        const int lane = lane_index(), row = mine + lane / 4;
#pragma unroll
        for (int p = 0; p < count; p++) {
            float t[8][2], two[2];
#pragma unroll
            for (int n = 0; n < 8; n++) {
#pragma unroll
                for (int i = 0; i < 2; i++) t[n][i] = (row < positions ? d[p][n][i] : 0) + (row + 8 < positions ? d[p][n][2 + i] : 0);
            }
            spread_sums(two, t);
            float *const to = sums + (warp_index() % 4 * 64 * count + p * 64 + lane / 4 * 8 + lane % 4 * 2);
            to[0] = two[0] * factor, to[1] = two[1] * factor;
        }
    }
};

// attention_wgmma_dkv: dk and dv from do, q, k, v and what attention_wgmma_dq made of do, o and lse. Each is summed in registers, in a
// fixed order. With column_sums the columns of dk and dv, before they are rounded, are summed over each 64 rows of a sequence, behind those of dq: partial
// [batch, ceil(T/64), heads and twice kv_heads] of head_dim floats. ticket is 0 at first.
//
//   grid    x: as many blocks as run at once, or batch * kv_heads * ceil(T / (64*groups))
//   threads 128*groups + 128      shared: GradTiles<Config, true>::shared
//   bytes   k, v, dk and dv once, and do, q and stats once from memory; the streamed rows from the L2 cache for each block of a head
template <class C, class... Draw>
__device__ void attention_wgmma_dkv(int rows, typename C::T *dk, typename C::T *dv, float *partial, unsigned *ticket, const typename C::T *d_o, const typename C::T *q,
                                    const typename C::T *k, const typename C::T *v, const float2 *stats, Draw... draw) {
    GroupGrad<C, true>(rows).run(dk, dv, partial, k, v, q, d_o, stats, ticket, draw...);
}

// attention_wgmma_dq: dq, and the stats that attention_stats describes, padded to a multiple of 64, from do, q, k, v, o and lse. With
// column_sums it sums the columns of dq, as attention_wgmma_dkv does.
//
//   grid    x: as many blocks as run at once, or batch * heads * ceil(T / (64*groups))
//   threads 128*groups + 128      shared: GradTiles<Config, false>::shared
//   bytes   q, do, o, lse, stats and dq once, k and v once from memory, and from the L2 cache for each block of a head
template <class C, class... Draw>
__device__ void attention_wgmma_dq(int rows, typename C::T *dq, float *partial, unsigned *ticket, float2 *stats, const typename C::T *d_o, const typename C::T *q,
                                   const typename C::T *k, const typename C::T *v, const typename C::T *o, const float *lse, Draw... draw) {
    using Grad = GroupGrad<C, false>;
    Grad(rows).run(dq, dq, partial, q, d_o, k, v, typename Grad::Outcome{o, lse, stats}, ticket, draw...);
}

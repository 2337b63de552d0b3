// The gradient of attention in bf16 or half on Hopper's matrix units, in one pass over the scores (Shah et al. 2024, "FlashAttention-3"), for heads
// of up to 64 columns and sequences whose gradients of queries stay in the L2 cache; attention_wgmma.cuh has the gradient in two passes for
// all others. Formulas, shapes and the fields of Config that all attention has: attention.cuh. Rows start at multiples of 16 bytes.
//
// A block takes whole key-value heads of a sequence: 128 keys at a time, for which it streams the queries that see them, 64 a step, and adds up dk
// and dv in registers. What a step adds to dq goes to memory, in float, to what earlier keys have left there; the last keys that a tile of
// queries sees make dq of it. So every sum has one order, and no block waits for another.
//
// Two warpgroups multiply, 64 keys each; while the scores of one become probabilities, the other's are multiplied. Two warps copy, and two
// see to the sums of dq: each to those of every other tile.
#pragma once
#include "attention.cuh"
#include "hopper.cuh"
#include "keep_bits.cuh"

template <class C> struct GradTiles {
    static constexpr int keys = 128, queries = 64, copying = 64; // a block's keys at a time, a step's queries; threads that copy
    using Keys = Panels<C::head_dim, keys>;
    using Queries = Panels<C::head_dim, queries>;
    static_assert(Keys::count == 1, "heads have 64 columns at most");
    static constexpr int key_stages = 2, stages = 3, ds_stages = 4;
    static constexpr int key_bytes = 2 * Keys::bytes, bytes = 2 * Queries::bytes, ds_bytes = keys * 128, sum_bytes = queries * 64 * 4, stats_bytes = queries * 8;
    static constexpr int tiles = key_stages * key_bytes, ds = tiles + stages * bytes, sums = ds + ds_stages * ds_bytes, stats = sums + 2 * sum_bytes;
    static constexpr int arrivals = stats + stages * stats_bytes;
    static constexpr int shared = round_up(arrivals + 256, 1024);
};

// copy_tile starts to copy Rows rows of x, from row `first` on, to a panel, as copy_panels does, by the threads that copy; `thread` numbers them. A
// thread's rows are 8 apart and all in one order, so that it needs few registers.
template <class C, int Rows> __device__ inline void copy_tile(unsigned char *panel, const typename C::T *x, int stride, int first, int end, int thread) {
    constexpr int step = GradTiles<C>::copying / 8;
    static_assert(Rows % step == 0 && step % 8 == 0, "the permutation of a row repeats after 8");
    const int top = thread / 8, chunk = thread % 8;
    unsigned char *const to = panel + Panels<C::head_dim, Rows>::at(top, chunk);
    const char *const from = reinterpret_cast<const char *>(x + (static_cast<size_t>(first + top) * stride + chunk * 8));
#pragma unroll
    for (int n = 0; n < Rows; n += step)
        copy_async(to + n * 128, from + static_cast<uint32_t>(n * stride) * 2, first + top + n < end && (C::head_dim % 64 == 0 || chunk * 8 < C::head_dim));
}

// GradSteps are the steps of a block: its heads one after another, 128 keys after 128 keys, for each the tiles of queries that see them from the
// last on, and of each tile the heads of the group in turn.
template <class C> struct GradSteps {
    using L = GradTiles<C>;
    using M = typename C::Mask;
    static constexpr int group = C::heads / C::kv_heads, heads = C::batch * C::kv_heads;
    struct At {
        int t, n; // a tile, of the n-th head of the group; none where t < 0
    };

    int positions, blocks, tiles;

    __device__ explicit GradSteps(int positions) : positions(positions), blocks(ceil_div(positions, L::keys)), tiles(ceil_div(positions, L::queries)) {}
    // takes says whether tile t has queries that may see keys of a block.
    __device__ bool takes(int t, int block) const {
        const int first = block * L::keys, end = first + L::keys < positions ? first + L::keys : positions;
        const Range range = M::query_range(first, end);
        return t >= range.from / L::queries && t < ceil_div(range.to < positions ? range.to : positions, L::queries) &&
               M::tile(t * L::queries, t * L::queries + L::queries, first, end) != Cover::empty;
    }
    __device__ At from(int block, int t) const {
        while (t >= 0 && !takes(t, block)) t--;
        return {t, 0};
    }
    __device__ At begin(int block) const { return from(block, tiles - 1); }
    __device__ At after(int block, At at) const { return at.n + 1 < group ? At{at.t, at.n + 1} : from(block, at.t - 1); }
    // half says which warpgroup and which warp see to what a step adds to dq.
    static __device__ int half(At at) { return (at.t + at.n) % 2; }
};

// A GradSums is a warp that adds to the sums of every other tile of queries.
template <class C> struct GradSums {
    using T = typename C::T;
    using L = GradTiles<C>;
    using Steps = GradSteps<C>;
    using At = typename Steps::At;
    static constexpr int added = 1, last = 2; // what a buffer of sums is for: earlier keys have added to them; no later ones will

    struct Step {
        int head, block;
        At at;
    };

    const Steps &steps;
    unsigned char *buffer; // in shared memory, of the sums of one step
    int which;             // of the two warps

    // settle goes on to the first step of this warp from x on, where head >= Steps::heads that has none.
    __device__ Step settle(Step x) const {
        while (x.head < Steps::heads && (x.at.t < 0 || Steps::half(x.at) != which)) {
            if (x.at.t >= 0) {
                x.at = steps.after(x.block, x.at);
            } else {
                if (++x.block == steps.blocks) x.block = 0, x.head += gridDim.x;
                x.at = steps.begin(x.block);
            }
        }
        return x;
    }
    __device__ Step begin() const { return settle({static_cast<int>(blockIdx.x), 0, steps.begin(0)}); }
    __device__ Step after(Step x) const {
        x.at = steps.after(x.block, x.at);
        return settle(x);
    }
    // tile numbers the tiles of all heads.
    __device__ size_t tile(const Step &x) const { return static_cast<size_t>(x.head * Steps::group + x.at.n) * steps.tiles + x.at.t; }

    // taking gives, as bits, which of 32 blocks of keys from `from` on take tile t.
    __device__ uint32_t taking(int t, int from) const { return votes(from + lane_index() < steps.blocks && steps.takes(t, from + lane_index())); }

    // kind says what the buffer is for, for tile t and keys of a block that it takes.
    __device__ int kind(int t, int block) const {
        int k = last;
        for (int from = 0; from < steps.blocks; from += warp_size) {
            const uint32_t here = taking(t, from);
            const int before = block - from;
            const uint32_t earlier = before <= 0 ? 0 : before >= 32 ? ~0u : (1u << before) - 1, own = before >= 0 && before < 32 ? 1u << before : 0;
            if (here & earlier) k |= added;
            if (here & ~earlier & ~own) k &= ~last;
        }
        return k;
    }

    // run does all that is to be done for this block: `ready` says that the buffer is, for the kind of sums that `now` gives, `arrived` that a step
    // has used it.
    __device__ void run(float *sums, int *now, Arrival *ready, Arrival *arrived) const {
        const int lane = lane_index();
        int n = 0;
        for (Step x = begin(); x.head < Steps::heads; x = after(x), n++) {
            float *const there = sums + tile(x) * (L::sum_bytes / 4);
            const int k = kind(x.at.t, x.block);
            if (lane == 0) {
                *now = k;
                if (k == (added | last)) {
                    arrival_announce(ready, L::sum_bytes);
                    bulk_fetch(buffer, there, L::sum_bytes, ready);
                } else {
                    arrival_arrive(ready);
                }
            }
            __syncwarp();
            arrival_wait(arrived, n % 2);
            if (lane == 0 && !(k & last)) {
                if (k & added) bulk_add(there, buffer, L::sum_bytes);
                else bulk_store(there, buffer, L::sum_bytes);
                tile_store_commit();
                tile_store_done(); // before this warp comes to the tile again
            }
            __syncwarp();
        }
    }

    // leave_zeros writes dq of the tiles that see no keys at all.
    __device__ void leave_zeros(T *dq) const {
        for (int head = blockIdx.x; head < Steps::heads; head += gridDim.x) {
            for (int t = which; t < steps.tiles; t += 2) {
                uint32_t seen = 0;
                for (int from = 0; from < steps.blocks; from += warp_size) seen |= taking(t, from);
                const int end = (t + 1) * L::queries < steps.positions ? (t + 1) * L::queries : steps.positions;
                for (int i = t * L::queries + lane_index(); seen == 0 && i < end; i += warp_size) {
                    T *const row = dq + ((static_cast<size_t>(head / C::kv_heads) * steps.positions + i) * C::dq_stride + head % C::kv_heads * Steps::group * C::head_dim);
                    for (int c = 0; c < Steps::group * C::head_dim; c++) row[c] = from_float<T>(0);
                }
            }
        }
    }
};

// attention_wgmma_grad: dq, dk and dv from do, q, k, v and the stats that attention_stats describes, padded to a multiple of 64. sums has room for whole
// tiles of all heads, of 64 columns of float. With column_sums the columns of dq, dk and dv, side by side, are summed over shares of a sequence's rows:
// partial [batch, 8, heads and twice kv_heads] of head_dim floats.
//
//   grid    x: as many blocks as run at once, or batch * kv_heads      threads 384      shared: GradTiles::shared
//   bytes   all operands once from memory; q, do and sums from the L2 cache for each 128 keys
template <class C, class... Draw>
__device__ void attention_wgmma_grad(int rows, typename C::T *dq, typename C::T *dk, typename C::T *dv, float *partial, float *sums, const typename C::T *d_o,
                                     const typename C::T *q, const typename C::T *k, const typename C::T *v, const float2 *stats, Draw... draw) {
    using T = typename C::T;
    using M = typename C::Mask;
    using S = Scores<C>;
    using L = GradTiles<C>;
    using Steps = GradSteps<C>;
    using Sums = GradSums<C>;
    using At = typename Steps::At;
    constexpr int group_heads = Steps::group;
    SHARED_PANELS(shared);
    Arrival *const keys_full = reinterpret_cast<Arrival *>(shared + L::arrivals), *const keys_empty = keys_full + L::key_stages;
    Arrival *const full = keys_empty + L::key_stages, *const empty = full + L::stages;
    Arrival *const ds_full = empty + L::stages;
    Arrival *const sum_ready = ds_full + L::ds_stages, *const sum_full = sum_ready + 2;
    int *const sum_kinds = reinterpret_cast<int *>(sum_full + 2); // of GradSums

    const Steps steps(rows / C::batch);
    const int positions = steps.positions, lane = lane_index(), wg = shuffle(warp_index() / 4, 0); // which the compiler then knows to be one for a warp
    if (threadIdx.x == 0) {
        for (int i = 0; i < L::key_stages; i++) arrival_init(keys_full + i, L::copying), arrival_init(keys_empty + i, 256);
        for (int i = 0; i < L::stages; i++) arrival_init(full + i, L::copying), arrival_init(empty + i, 256);
        for (int i = 0; i < L::ds_stages; i++) arrival_init(ds_full + i, 256);
        for (int i = 0; i < 2; i++) arrival_init(sum_ready + i, 1), arrival_init(sum_full + i, 128);
        arrivals_ready();
    }
    __syncthreads();

    if (wg == 2) {
        registers_down<40>();
        const int thread = threadIdx.x - 256;
        if (thread < L::copying) {
            int step = 0, stages = 0;
            for (int head = blockIdx.x; head < Steps::heads; head += gridDim.x) {
                const int g = head % C::kv_heads;
                const size_t row = static_cast<size_t>(head / C::kv_heads) * positions;
                for (int block = 0; block < steps.blocks; block++, stages++) {
                    const int stage = stages % L::key_stages, first = block * L::keys;
                    unsigned char *const own = shared + stage * L::key_bytes;
                    arrival_wait(keys_empty + stage, stages / L::key_stages % 2 ^ 1);
                    copy_tile<C, L::keys>(own, k + (row * C::k_stride + g * C::head_dim), C::k_stride, first, positions, thread);
                    copy_tile<C, L::keys>(own + L::Keys::bytes, v + (row * C::v_stride + g * C::head_dim), C::v_stride, first, positions, thread);
                    copy_async_arrive(keys_full + stage);
                    for (At at = steps.begin(block); at.t >= 0; at = steps.after(block, at), step++) {
                        const int slot = step % L::stages, h = g * group_heads + at.n, i = at.t * L::queries;
                        const size_t tile = static_cast<size_t>(head * group_heads + at.n) * steps.tiles + at.t;
                        unsigned char *const to = shared + L::tiles + slot * L::bytes;
                        arrival_wait(empty + slot, step / L::stages % 2 ^ 1);
                        copy_tile<C, L::queries>(to, q + (row * C::q_stride + h * C::head_dim), C::q_stride, i, positions, thread);
                        copy_tile<C, L::queries>(to + L::Queries::bytes, d_o + (row * C::do_stride + h * C::head_dim), C::do_stride, i, positions, thread);
                        if (thread < L::queries / 2) copy_async(shared + L::stats + slot * L::stats_bytes + 16 * thread, stats + tile * L::queries + 2 * thread, true);
                        copy_async_arrive(full + slot);
                    }
                }
            }
        } else {
            const int which = warp_index() - 10;
            const Sums mine{steps, shared + L::sums + which * L::sum_bytes, which};
            mine.run(sums, sum_kinds + which, sum_ready + which, sum_full + which);
            mine.leave_zeros(dq);
        }
        return;
    }

    registers_up<232>();
    const int place = warp_index() * 16, row_in = lane / 4, column_in = lane % 4 * 2; // this warp's first key
    Drops<C> drops(draw...);
    int step = 0, uses = 0; // of this warpgroup's buffer of sums
    for (int turn = 0, turns = ceil_div(Steps::heads - static_cast<int>(blockIdx.x), gridDim.x) * steps.blocks; turn < turns; turn++) {
        const int head = blockIdx.x + turn / steps.blocks * gridDim.x, block = turn % steps.blocks, b = head / C::kv_heads, g = head % C::kv_heads;
        const int stage = turn % L::key_stages, first = block * L::keys, end = first + L::keys < positions ? first + L::keys : positions;
        const int mine = first + place; // the first key of this warp
        unsigned char *const own = shared + stage * L::key_bytes;
        const Matrix own_keys = matrix_at(own + wg * 64 * 128), own_values = matrix_moved(own_keys, L::Keys::bytes);
        // covers says how the keys of this warpgroup and the queries of a tile meet.
        auto covers = [&](int t) {
            const int from = first + wg * 64, i = t * L::queries;
            return from < positions ? M::tile(i, i + L::queries, from, from + 64) : Cover::empty;
        };
        float acc1[1][8][4] = {}, acc2[1][8][4] = {}; // dk, dv

        // A warp has a row of partial for each sequence, and a lane two columns of each head of it.
        float *const warp_sums = partial + static_cast<size_t>(b * 8 + warp_index()) * (C::heads + 2 * C::kv_heads) * C::head_dim + row_in * 8 + column_in;
        auto sum_at = [&](int index) { return reinterpret_cast<float2 *>(warp_sums + index * C::head_dim); }; // of head `index` of dq, then dk, then dv
        auto add_sums = [&](int index, const float(&d)[8][4], float factor) {
            float t[8][2], two[2];
#pragma unroll
            for (int n = 0; n < 8; n++) t[n][0] = d[n][0] + d[n][2], t[n][1] = d[n][1] + d[n][3];
            spread_sums(two, t);
            if (row_in * 8 < C::head_dim) {
                const float2 x = *sum_at(index);
                *sum_at(index) = make_float2(x.x + two[0] * factor, x.y + two[1] * factor);
            }
        };
        if (C::column_sums && block == 0 && row_in * 8 < C::head_dim) {
            for (int n = 0; n < group_heads; n++) *sum_at(g * group_heads + n) = make_float2(0, 0);
            *sum_at(C::heads + g) = *sum_at(C::heads + C::kv_heads + g) = make_float2(0, 0);
        }

        // add_up sums what a step adds to dq, a step later, when the other warpgroup, too, has written its ds.
        auto add_up = [&](At at, int step) {
            arrival_wait(ds_full + step % L::ds_stages, step / L::ds_stages % 2);
            if (Steps::half(at) != wg) return; // the other warpgroup does
            const Matrix ds = matrix_turned(shared + L::ds + step % L::ds_stages * L::ds_bytes), panel = matrix_turned(own);
            float sum[1][8][4];
            wgmma_fresh(sum[0]);
            wgmma_begin();
#pragma unroll
            for (int e = 0; e < L::keys / 16; e++) wgmma_turned<T>(sum, matrix_moved(ds, e * 16 * 128), matrix_moved(panel, e * 16 * 128), e > 0);
            wgmma_commit();
            wgmma_wait<0>();
            wgmma_done(sum[0]);
            const int warp = warp_index() % 4;
            unsigned char *const buffer = shared + L::sums + wg * L::sum_bytes + warp * 512;
            float4 *const chunks = reinterpret_cast<float4 *>(buffer) + lane;
            arrival_wait(sum_ready + wg, uses++ % 2);
            const int kind = sum_kinds[wg];
            if (!(kind & Sums::last)) {
#pragma unroll
                for (int c = 0; c < 8; c++) chunks[c * 128] = make_float4(sum[0][c][0], sum[0][c][1], sum[0][c][2], sum[0][c][3]);
            } else {
                if (kind & Sums::added) {
#pragma unroll
                    for (int c = 0; c < 8; c++) {
                        const float4 x = chunks[c * 128];
                        sum[0][c][0] += x.x, sum[0][c][1] += x.y, sum[0][c][2] += x.z, sum[0][c][3] += x.w;
                    }
                }
                if constexpr (C::column_sums) add_sums(g * group_heads + at.n, sum[0], C::scale);
                // Rows of 64 columns, four in each of the warp's pieces of the buffer.
                auto line = [&](int row, int chunk) { return buffer + row / 4 * 2048 + row % 4 * 128 + 16 * (chunk ^ (row & 7)); };
                __syncwarp();
#pragma unroll
                for (int c = 0; c < 8; c++)
#pragma unroll
                    for (int half = 0; half < 2; half++)
                        *reinterpret_cast<uint32_t *>(line(row_in + 8 * half, c) + column_in * 2) = pack2<T>(sum[0][c][2 * half] * C::scale, sum[0][c][2 * half + 1] * C::scale);
                __syncwarp();
                const int i0 = at.t * L::queries + warp * 16, h = g * group_heads + at.n;
#pragma unroll
                for (int x = lane; x < 16 * 8; x += warp_size) {
                    const int row = x / 8, c = x % 8 * 8;
                    if (i0 + row < positions && c < C::head_dim)
                        *reinterpret_cast<Pack<T, 8> *>(dq + ((static_cast<size_t>(b) * positions + i0 + row) * C::dq_stride + h * C::head_dim + c)) =
                            *reinterpret_cast<const Pack<T, 8> *>(line(row, x % 8));
                }
            }
            fence_async();
            arrival_arrive(sum_full + wg);
        };

        arrival_wait(keys_full + stage, turn / L::key_stages % 2);
        fence_async();
        At before = {-1, 0}; // the step whose ds is not multiplied yet
        for (At at = steps.begin(block); at.t >= 0; at = steps.after(block, at), step++) {
            const int slot = step % L::stages;
            unsigned char *const tile1 = shared + L::tiles + slot * L::bytes, *const ds = shared + L::ds + step % L::ds_stages * L::ds_bytes;
            const Matrix queries = matrix_at(tile1), d_outs = matrix_moved(queries, L::Queries::bytes);
            Cover cover = covers(at.t);
            arrival_wait(full + slot, step / L::stages % 2);
            fence_async();
            auto written = [&] { // ds
                fence_async();
                arrival_arrive(ds_full + step % L::ds_stages);
            };
            auto place_of = [&](int n, int half) { return reinterpret_cast<uint32_t *>(ds + (place + row_in + 8 * half) * 128 + 16 * (n ^ row_in) + column_in * 2); };

            if (cover == Cover::empty) {
#pragma unroll
                for (int n = 0; n < 8; n++) *place_of(n, 0) = *place_of(n, 1) = 0;
                written();
            } else {
                // p is k·qᵀ, then probabilities; dp is v·doᵀ, then ds.
                float p[8][4], dp[8][4];
                wgmma_fresh(p);
                wgmma_fresh(dp);
                wgmma_begin();
#pragma unroll
                for (int e = 0; e < L::Keys::steps; e++) wgmma<T>(p, matrix_moved(own_keys, L::Keys::at_step(e)), matrix_moved(queries, L::Queries::at_step(e)), e > 0);
                wgmma_commit();
#pragma unroll
                for (int e = 0; e < L::Keys::steps; e++) wgmma<T>(dp, matrix_moved(own_values, L::Keys::at_step(e)), matrix_moved(d_outs, L::Queries::at_step(e)), e > 0);
                wgmma_commit();
                wgmma_wait<1>();
                wgmma_done(p);

                // Element x of accumulator n is for query(n, x) and key(x).
                const int streamed = at.t * L::queries, h = g * group_heads + at.n;
                auto key = [&](int x) { return mine + row_in + x / 2 * 8; };
                auto query = [&](int n, int x) { return streamed + 8 * n + column_in + x % 2; };
                float slope[8][4]; // of the cap
                if constexpr (!S::linear) {
                    const S scores(h);
#pragma unroll
                    for (int n = 0; n < 8; n++)
#pragma unroll
                        for (int x = 0; x < 4; x++) p[n][x] = scores.of(p[n][x], query(n, x), key(x), slope[n][x]);
                }
                if (!M::past_only && mine + 16 > positions) cover = Cover::partial;
                if (cover == Cover::partial) {
#pragma unroll
                    for (int n = 0; n < 8; n++)
#pragma unroll
                        for (int x = 0; x < 4; x++)
                            if (!M::allowed(query(n, x), key(x)) || (!M::past_only && key(x) >= positions)) p[n][x] = -infinity;
                }
                constexpr float factor = S::linear ? S::factor : 1;
                uint32_t bits = 0;
                if constexpr (C::dropout > 0) {
                    drops.enter(b * C::heads + h, positions);
                    bits = keep_bits<true, 8>(drops, streamed, mine);
                }
                auto dropped = [&](int n, int x) { return C::dropout > 0 && !(bits >> (4 * n + x) & 1); };
                const unsigned char *const step_stats = shared + L::stats + slot * L::stats_bytes + column_in * sizeof(float2);
                auto stats_of = [&](int n) { return *reinterpret_cast<const float4 *>(step_stats + n * 8 * sizeof(float2)); }; // lse and delta of two queries
#pragma unroll
                for (int n = 0; n < 8; n++) {
                    const float4 s = stats_of(n);
#pragma unroll
                    for (int x = 0; x < 4; x++) p[n][x] = exp2_fast(p[n][x] * factor - (x % 2 ? s.z : s.x));
                }
                wgmma_wait<0>();
                wgmma_done(dp);
                uint32_t a1[4][4], a2[4][4]; // ds and p as operands
#pragma unroll
                for (int n = 0; n < 8; n++) {
                    const float4 s = stats_of(n);
                    float kept[4];
#pragma unroll
                    for (int x = 0; x < 4; x++) {
                        kept[x] = dropped(n, x) ? 0 : p[n][x];
                        const float up = dropped(n, x) ? 0 : C::dropout > 0 ? dp[n][x] * keep_factor(C::dropout) : dp[n][x];
                        dp[n][x] = p[n][x] * (up - (x % 2 ? s.w : s.y));
                        if constexpr (C::softcap != 0) dp[n][x] *= slope[n][x];
                    }
#pragma unroll
                    for (int half = 0; half < 2; half++) {
                        a2[n / 2][n % 2 * 2 + half] = pack2<T>(kept[2 * half], kept[2 * half + 1]);
                        const uint32_t d = pack2<T>(dp[n][2 * half], dp[n][2 * half + 1]);
                        a1[n / 2][n % 2 * 2 + half] = d;
                        *place_of(n, half) = d;
                    }
                }
                written();
                wgmma_begin();
#pragma unroll
                for (int e = 0; e < 4; e++) wgmma_rows<T>(acc2[0], a2[e], matrix_moved(d_outs, e * 16 * 128));
#pragma unroll
                for (int e = 0; e < 4; e++) wgmma_rows<T>(acc1[0], a1[e], matrix_moved(queries, e * 16 * 128));
                wgmma_commit();
                wgmma_wait<0>();
                wgmma_done(acc1[0]);
                wgmma_done(acc2[0]);
            }
            arrival_arrive(empty + slot);
            if (before.t >= 0) add_up(before, step - 1);
            before = at;
        }
        if (before.t >= 0) add_up(before, step - 1);

        // The rows of v, which only this warp's products read, are free.
        const size_t row = static_cast<size_t>(b) * positions;
        constexpr float kept_factor = keep_factor(C::dropout);
        write_panels<C::head_dim, L::keys>(dv + (row * C::dv_stride + g * C::head_dim), C::dv_stride, mine, end, own + L::Keys::bytes, place, acc2, kept_factor, kept_factor);
        write_panels<C::head_dim, L::keys>(dk + (row * C::dk_stride + g * C::head_dim), C::dk_stride, mine, end, own + L::Keys::bytes, place, acc1, C::scale, C::scale);
        arrival_arrive(keys_empty + stage);
        if constexpr (C::column_sums) {
            add_sums(C::heads + g, acc1[0], C::scale);
            add_sums(C::heads + C::kv_heads + g, acc2[0], kept_factor);
        }
    }
}

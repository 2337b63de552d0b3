// Attention of a decode step: single rows over the key-value cache (kv_cache.cuh), split over its positions (flash
// decoding; Dao, Haziza, Massa, Sizov 2023).
//
// The cache is cut into stretches of as many positions as a block takes at once. Split s of a row does stretches s,
// s+splits, s+2*splits, …, in this order, and decode_combine adds up the splits of each row in theirs. All this is fixed when the code is
// generated, so that a row's result does not depend on what else a step computes. Splits without keys leave at once.
// All query heads of a key-value head are computed together: keys and values are read once.
//
//   Config  that of kv_cache.cuh, and
//           warps      of a block
//           splits     1 … 64. With 1 the result goes to o; else, for each row, head and split,
//                        sums   [rows, heads, splits, head_dim] float   sum of 2^(x_j - top) * v_j
//                        stats  [rows, heads, splits] float2            top, and sum of 2^(x_j - top)
//                      which is read by decode_combine. x_j are scores times log2(e), top their maximum.
//
// Where own_slots is set, a row's k and v are stored by these kernels, and taken from k and v; else kv_append runs before.
#pragma once
#include "chunk.cuh"
#include "kv_cache.cuh"

// first_stretch is the first stretch of a split that has keys of a range, and last_stretch the end of such stretches: a
// split whose first is not before it has nothing to do.
template <int Splits> __device__ inline int first_stretch(Range keys, int stretch, int split) {
    const int s = keys.from / stretch;
    return s + (split + Splits - s % Splits) % Splits;
}
__device__ inline int last_stretch(Range keys, int stretch) { return ceil_div(keys.to, stretch); }

// store_row puts row `row` of k and v of one key-value head into the cache. All threads of the block take part.
template <class C>
__device__ inline void store_row(const CachedRow &r, int row, int head, const typename C::T *k, const typename C::T *v, typename C::T *k_cache,
                                 typename C::T *v_cache) {
    using P = Pack<typename C::T, C::vec>;
    constexpr int accesses = C::head_dim / C::vec;
    const size_t to = (static_cast<size_t>(r.slot) * C::context + r.position) * (C::kv_heads * C::head_dim) + head * C::head_dim;
    for (int i = threadIdx.x; i < 2 * accesses; i += blockDim.x) {
        const bool value = i >= accesses;
        const int col = i % accesses * C::vec;
        const typename C::T *const from = value ? v + static_cast<size_t>(row) * C::v_stride : k + static_cast<size_t>(row) * C::k_stride;
        *reinterpret_cast<P *>((value ? v_cache : k_cache) + to + col) = *reinterpret_cast<const P *>(from + head * C::head_dim + col);
    }
}

// Partial is what the warps of a block found out about Heads heads: each its maximum, the sum of its powers, and its sums.
template <int Warps, int Heads, int Columns> struct Partial {
    float top[Warps][Heads], power[Warps][Heads], sum[Warps][Heads][Columns];

    // finish adds up the warps in their order, and writes columns from `column` on of the heads from `head` on, of which there are
    // `heads`. All threads of the block take part.
    template <class C>
    __device__ void finish(int row, int head, int heads, int column, int split, typename C::T *o, float *sums, float2 *stats) const {
        __syncthreads();
        for (int i = threadIdx.x; i < heads * Columns; i += blockDim.x) {
            const int h = i / Columns, col = i % Columns;
            if (column + col >= C::head_dim) continue;
            float most = top[0][h];
#pragma unroll
            for (int w = 1; w < Warps; w++) most = fmaxf(most, top[w][h]);
            float total = 0, powers = 0;
            if (most > -infinity) {
#pragma unroll
                for (int w = 0; w < Warps; w++) {
                    const float by = exp2_fast(top[w][h] - most);
                    if (by > 0) { // a warp without keys has no sums
                        total += by * sum[w][h][col];
                        powers += by * power[w][h];
                    }
                }
            }
            if constexpr (C::splits == 1) {
                o[static_cast<size_t>(row) * C::o_stride + (head + h) * C::head_dim + column + col] =
                    from_float<typename C::T>(powers == 0 ? 0.0f : total / powers);
            } else {
                const size_t at = (static_cast<size_t>(row) * C::heads + head + h) * C::splits + split;
                sums[at * C::head_dim + column + col] = total;
                if (column + col == 0) stats[at] = make_float2(most, powers);
            }
        }
    }
};

// decode_attention_mma works on the tensor cores: the heads of a group are the rows of the first operand, 16 keys at a time
// are the columns of q·kᵀ and the inner dimension of p·v. Keys and values come from memory as fragments (chunk.cuh), without
// shared memory in between. Wide heads have their value columns shared out among blocks, 128 each.
//
//   Config    pieces   of 16 keys that a warp has on their way at once; a stretch is 16*pieces*warps positions
//             T is bf16 or half, head_dim a multiple of 8 up to 256, vec 8
//   grid      x: splits   y: kv_heads * ceil(heads/kv_heads / 16) * ceil(head_dim / 128)   z: rows
//   threads   32*warps
//   shared    static, about 4 * warps * min(heads/kv_heads, 16) * min(head_dim, 128) bytes, at most 48 KiB
//   bytes     the keys and values of each row's positions once, q, k, v, o
template <class C>
__device__ void decode_attention_mma(int rows, typename C::T *o, float *sums, float2 *stats, const typename C::T *q, const typename C::T *k,
                                     const typename C::T *v, typename C::T *k_cache, typename C::T *v_cache, const int *positions, const int *slots) {
    using T = typename C::T;
    using M = typename C::Mask;
    constexpr int group = C::heads / C::kv_heads, tile = group < 16 ? group : 16, tiles = ceil_div(group, 16);
    constexpr int columns = C::head_dim < 128 ? C::head_dim : 128, parts = ceil_div(C::head_dim, 128); // of values
    constexpr int key_chunks = ceil_div(C::head_dim, 32), value_chunks = ceil_div(columns, 64);
    constexpr int width = C::kv_heads * C::head_dim, stretch = 16 * C::pieces * C::warps;
    static_assert(C::vec == 8 && C::head_dim % 8 == 0 && C::head_dim <= 256, "heads of whole chunks");

    const int row = blockIdx.z, split = blockIdx.x;
    const int part = blockIdx.y % parts, first_head = blockIdx.y / parts % tiles * 16, kv = blockIdx.y / (parts * tiles);
    const int heads = min(16, group - first_head), head = kv * group + first_head;
    const CachedRow r = cached_row<C>(row, rows, positions, slots);
    if (C::own_slots && first_head == 0 && part == 0 && r.position / stretch % C::splits == split) store_row<C>(r, row, kv, k, v, k_cache, v_cache);
    const int last = last_stretch(r.keys, stretch);
    int s = first_stretch<C::splits>(r.keys, stretch, split);
    if (C::splits > 1 && s >= last) return;

    const int lane = lane_index(), g = lane / 4, c = lane % 4;
    Chunk query[key_chunks][2];
#pragma unroll
    for (int e = 0; e < key_chunks; e++) {
#pragma unroll
        for (int half = 0; half < 2; half++) {
            const int h = g + 8 * half, col = 32 * e + 8 * c;
            query[e][half] = load_chunk(q + static_cast<size_t>(row) * C::q_stride + (head + h) * C::head_dim + col,
                                        (half == 0 || tile > 8) && h < heads && col < C::head_dim);
        }
    }
    const T *const keys = k_cache + static_cast<size_t>(r.slot) * C::context * width + kv * C::head_dim;
    const T *const values = v_cache + static_cast<size_t>(r.slot) * C::context * width + kv * C::head_dim + 128 * part;
    const T *const own_key = k + static_cast<size_t>(row) * C::k_stride + kv * C::head_dim;
    const T *const own_value = v + static_cast<size_t>(row) * C::v_stride + kv * C::head_dim + 128 * part;

    // Of a piece: bit j of live says whether key j of it is allowed. This lane has columns 8c … 8c+7 of every 32 of keys g
    // and g+8, and columns 8g … 8g+7 of every 64 of values 2c, 2c+1, 2c+8, 2c+9.
    uint32_t live[C::pieces];
    Chunk key[C::pieces][2][key_chunks], value[C::pieces][4][value_chunks];
    const auto start_of = [&](int p) { return s * stretch + (warp_index() * C::pieces + p) * 16; };
    const auto fetch = [&] {
#pragma unroll
        for (int p = 0; p < C::pieces; p++) {
            const int j0 = start_of(p), j = j0 + lane % 16;
            live[p] = votes(r.keys.from <= j && j < r.keys.to && M::allowed(r.position, j)) & 0xffff;
#pragma unroll
            for (int n = 0; n < 2; n++) {
                const int at = 8 * n + g;
                const T *const from = C::own_slots && j0 + at == r.position ? own_key : keys + static_cast<size_t>(j0 + at) * width;
#pragma unroll
                for (int e = 0; e < key_chunks; e++) {
                    const int col = 32 * e + 8 * c;
                    key[p][n][e] = load_chunk(from + col, (live[p] >> at & 1) && (C::head_dim % 32 == 0 || col < C::head_dim));
                }
            }
#pragma unroll
            for (int n = 0; n < 4; n++) {
                const int at = 2 * c + n % 2 + n / 2 * 8;
                const T *const from = C::own_slots && j0 + at == r.position ? own_value : values + static_cast<size_t>(j0 + at) * width;
#pragma unroll
                for (int e = 0; e < value_chunks; e++) {
                    const int col = 64 * e + 8 * g;
                    value[p][n][e] = load_chunk(from + col, (live[p] >> at & 1) && (C::head_dim % 64 == 0 || 128 * part + col < C::head_dim));
                }
            }
        }
    };

    using S = Scores<C>;
    const S upper_scores(head + min(g, heads - 1)), lower_scores(head + min(g + 8, heads - 1));
    float top[2] = {-infinity, -infinity}, power[2] = {}, sum[8 * value_chunks][4] = {};
    const auto attend = [&](int p) {
        float x[2][4] = {};
#pragma unroll
        for (int e = 0; e < key_chunks; e++) {
#pragma unroll
            for (int w = 0; w < 2; w++) {
                const uint32_t a[4] = {query[e][0].v[2 * w], query[e][1].v[2 * w], query[e][0].v[2 * w + 1], query[e][1].v[2 * w + 1]};
#pragma unroll
                for (int n = 0; n < 2; n++) mma<T>(x[n], a, key[p][n][e].v[2 * w], key[p][n][e].v[2 * w + 1]);
            }
        }
        // x[n][i] is for head g + i/2*8 and key 8n + 2c + i%2.
        float most[2] = {top[0], top[1]};
#pragma unroll
        for (int n = 0; n < 2; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                const int at = 8 * n + 2 * c + i % 2;
                const float score = (i < 2 ? upper_scores : lower_scores).of(x[n][i], r.position, start_of(p) + at);
                x[n][i] = live[p] >> at & 1 ? score : -infinity;
                most[i / 2] = fmaxf(most[i / 2], x[n][i]);
            }
        }
        most[0] = warp_max<4>(most[0]), most[1] = warp_max<4>(most[1]);
        if (votes(most[0] > top[0] || most[1] > top[1])) {
#pragma unroll
            for (int half = 0; half < 2; half++) {
                const float by = exp2_fast(top[half] - most[half]);
                top[half] = most[half];
                power[half] *= by;
#pragma unroll
                for (int n = 0; n < 8 * value_chunks; n++) sum[n][2 * half] *= by, sum[n][2 * half + 1] *= by;
            }
        }
#pragma unroll
        for (int n = 0; n < 2; n++) {
#pragma unroll
            for (int i = 0; i < 4; i++) {
                x[n][i] = exp2_fast(x[n][i] - top[i / 2]);
                power[i / 2] += x[n][i];
            }
        }
        const uint32_t a[4] = {pack2<T>(x[0][0], x[0][1]), pack2<T>(x[0][2], x[0][3]), pack2<T>(x[1][0], x[1][1]), pack2<T>(x[1][2], x[1][3])};
#pragma unroll
        for (int e = 0; e < value_chunks; e++) {
#pragma unroll
            for (int d = 0; d < 8; d++) { // column d of the lanes' eight: values of two keys side by side
                constexpr uint32_t low = 0x5410, high = 0x7632;
                const uint32_t b0 = __byte_perm(value[p][0][e].v[d / 2], value[p][1][e].v[d / 2], d % 2 ? high : low);
                const uint32_t b1 = __byte_perm(value[p][2][e].v[d / 2], value[p][3][e].v[d / 2], d % 2 ? high : low);
                mma<T>(sum[8 * e + d], a, b0, b1);
            }
        }
    };

    if (s < last) fetch();
    while (s < last) {
#pragma unroll
        for (int p = 0; p < C::pieces; p++)
            if (live[p]) attend(p);
        s += C::splits;
        if (s < last) fetch();
    }

    // sum[8e+d][i] is for head g + i/2*8 and column 64e + 16c + 8*(i%2) + d.
    __shared__ Partial<C::warps, tile, columns> partial;
    static_assert(sizeof(partial) <= 48 * 1024, "shared memory");
#pragma unroll
    for (int half = 0; half < 2; half++) {
        const int h = g + 8 * half;
        const float powers = warp_sum<4>(power[half]);
        if (h >= heads) continue;
        if (c == 0) partial.top[warp_index()][h] = top[half], partial.power[warp_index()][h] = powers;
#pragma unroll
        for (int i = 0; i < 2; i++) {
#pragma unroll
            for (int n = 0; n < 8 * value_chunks; n++) {
                const int col = n / 8 * 64 + 16 * c + 8 * i + n % 8;
                if (columns % 64 == 0 || col < columns) partial.sum[warp_index()][h][col] = sum[n][2 * half + i];
            }
        }
    }
    partial.template finish<C>(row, head, heads, 128 * part, split, o, sums, stats);
}

// decode_attention works on any type and width, in float: a few lanes share a key, and keep their columns of the heads'
// queries and sums in registers.
//
//   Config    heads_at_once   heads of a group that a block takes, 1 … 8; their queries and sums are heads_at_once * 2 *
//                             head_dim / (lanes of a key) registers
//             stretch         positions that a block takes at once
//   grid      x: splits   y: kv_heads * ceil(heads/kv_heads / heads_at_once)   z: rows
//   threads   32*warps
//   shared    static, about 4 * warps * heads_at_once * head_dim bytes, at most 48 KiB
//   bytes     the keys and values of each row's positions once for each heads_at_once heads of a group, q, k, v, o
template <class C>
__device__ void decode_attention(int rows, typename C::T *o, float *sums, float2 *stats, const typename C::T *q, const typename C::T *k,
                                 const typename C::T *v, typename C::T *k_cache, typename C::T *v_cache, const int *positions, const int *slots) {
    using T = typename C::T;
    using M = typename C::Mask;
    constexpr int group = C::heads / C::kv_heads, n_heads = C::heads_at_once, tiles = ceil_div(group, n_heads), vec = C::vec;
    constexpr int accesses = C::head_dim / vec;
    constexpr int lanes = accesses > 16 ? 32 : accesses > 8 ? 16 : accesses > 4 ? 8 : accesses > 2 ? 4 : accesses > 1 ? 2 : 1; // of a key
    constexpr int per_lane = ceil_div(accesses, lanes), teams = C::warps * warp_size / lanes;
    constexpr int width = C::kv_heads * C::head_dim, stretch = C::stretch;

    const int row = blockIdx.z, split = blockIdx.x, kv = blockIdx.y / tiles, first_head = blockIdx.y % tiles * n_heads;
    const int heads = min(n_heads, group - first_head), head = kv * group + first_head;
    const CachedRow r = cached_row<C>(row, rows, positions, slots);
    if (C::own_slots && first_head == 0 && r.position / stretch % C::splits == split) store_row<C>(r, row, kv, k, v, k_cache, v_cache);
    const int last = last_stretch(r.keys, stretch);
    int s = first_stretch<C::splits>(r.keys, stretch, split);
    if (C::splits > 1 && s >= last) return;

    // Access a of this lane is of columns (a*lanes + lane % lanes) * vec on.
    const int team = threadIdx.x / lanes, mine = lane_index() % lanes;
    const auto column = [&](int a) { return (a * lanes + mine) * vec; };
    const auto has = [&](int a) { return accesses % lanes == 0 || column(a) < C::head_dim; };
    float query[n_heads][per_lane][vec] = {}, sum[n_heads][per_lane][vec] = {}, top[n_heads], power[n_heads] = {};
#pragma unroll
    for (int h = 0; h < n_heads; h++) {
        top[h] = -infinity;
#pragma unroll
        for (int a = 0; a < per_lane; a++)
            if (h < heads && has(a)) load(query[h][a], q + static_cast<size_t>(row) * C::q_stride + (head + h) * C::head_dim + column(a));
    }
    const T *const keys = k_cache + static_cast<size_t>(r.slot) * C::context * width + kv * C::head_dim;
    const T *const values = v_cache + static_cast<size_t>(r.slot) * C::context * width + kv * C::head_dim;
    const T *const own_key = k + static_cast<size_t>(row) * C::k_stride + kv * C::head_dim;
    const T *const own_value = v + static_cast<size_t>(row) * C::v_stride + kv * C::head_dim;

    constexpr int at_once = 2; // keys of a team whose loads are on their way together
    for (; s < last; s += C::splits) {
#pragma unroll 1
        for (int first = team; first < stretch + team; first += at_once * teams) { // as often for all teams
            uint32_t live = 0; // a bit each
            float key[at_once][per_lane][vec] = {}, value[at_once][per_lane][vec] = {};
            const auto position_of = [&](int u) { return s * stretch + first + u * teams; };
#pragma unroll
            for (int u = 0; u < at_once; u++) {
                const int j = position_of(u);
                const bool allowed = first + u * teams < stretch && r.keys.from <= j && j < r.keys.to && M::allowed(r.position, j);
                live |= (allowed ? 1u : 0u) << u;
                const bool own = C::own_slots && j == r.position;
                const T *const key_row = own ? own_key : keys + static_cast<size_t>(j) * width;
                const T *const value_row = own ? own_value : values + static_cast<size_t>(j) * width;
#pragma unroll
                for (int a = 0; a < per_lane; a++)
                    if (allowed && has(a)) load(key[u][a], key_row + column(a)), load(value[u][a], value_row + column(a));
            }
#pragma unroll
            for (int u = 0; u < at_once; u++) {
                if (!votes(live >> u & 1)) continue;
#pragma unroll
                for (int h = 0; h < n_heads; h++) {
                    float x = 0;
#pragma unroll
                    for (int a = 0; a < per_lane; a++) {
#pragma unroll
                        for (int i = 0; i < vec; i++) x = fmaf(query[h][a][i], key[u][a][i], x);
                    }
                    x = Scores<C>(head + min(h, heads - 1)).of(warp_sum<lanes>(x), r.position, position_of(u));
                    if (live >> u & 1) {
                        const float most = fmaxf(top[h], x), by = exp2_fast(top[h] - most), p = exp2_fast(x - most);
                        top[h] = most;
                        power[h] = fmaf(power[h], by, p);
#pragma unroll
                        for (int a = 0; a < per_lane; a++) {
#pragma unroll
                            for (int i = 0; i < vec; i++) sum[h][a][i] = fmaf(sum[h][a][i], by, p * value[u][a][i]);
                        }
                    }
                }
            }
        }
    }

    // The teams of a warp meet in its registers, the warps in shared memory.
    __shared__ Partial<C::warps, n_heads, C::head_dim> partial;
    static_assert(sizeof(partial) <= 48 * 1024, "shared memory");
#pragma unroll
    for (int h = 0; h < n_heads; h++) {
#pragma unroll
        for (int m = lanes; m < warp_size; m *= 2) {
            const float other = shuffle_xor(top[h], m), most = fmaxf(top[h], other), base = most == -infinity ? 0.0f : most;
            const float by = exp2_fast(top[h] - base), other_by = exp2_fast(other - base);
            top[h] = most;
            power[h] = power[h] * by + shuffle_xor(power[h], m) * other_by;
#pragma unroll
            for (int a = 0; a < per_lane; a++) {
#pragma unroll
                for (int i = 0; i < vec; i++) sum[h][a][i] = sum[h][a][i] * by + shuffle_xor(sum[h][a][i], m) * other_by;
            }
        }
        if (h >= heads || lane_index() >= lanes) continue;
        if (mine == 0) partial.top[warp_index()][h] = top[h], partial.power[warp_index()][h] = power[h];
#pragma unroll
        for (int a = 0; a < per_lane; a++) {
#pragma unroll
            for (int i = 0; i < vec; i++)
                if (has(a)) partial.sum[warp_index()][h][column(a) + i] = sum[h][a][i];
        }
    }
    partial.template finish<C>(row, head, heads, 0, split, o, sums, stats);
}

// decode_combine adds up the splits of each row and head: o = sum of 2^(top_s - top) * sums_s / sum of 2^(top_s - top) *
// power_s, in the order of the splits. A warp has one head.
//
//   Config    stretch, as the kernel before had it; warps
//   grid      x: ceil(heads / warps)   y: rows
//   threads   32*warps
//   shared    none
//   bytes     the sums of splits that have keys, o
template <class C>
__device__ void decode_combine(int rows, typename C::T *o, const float *sums, const float2 *stats, const int *positions, const int *slots) {
    constexpr int per_lane = ceil_div(C::head_dim, warp_size);
    static_assert(C::splits > 1 && C::splits <= 64, "a lane has two splits");
    const int row = blockIdx.y, head = blockIdx.x * C::warps + warp_index(), lane = lane_index();
    if (head >= C::heads) return; // the whole warp
    const CachedRow r = cached_row<C>(row, rows, positions, slots);
    const int last = last_stretch(r.keys, C::stretch);
    const size_t at = (static_cast<size_t>(row) * C::heads + head) * C::splits;

    float2 mine[2];
#pragma unroll
    for (int i = 0; i < 2; i++) {
        const int split = lane + i * warp_size;
        const bool live = split < C::splits && first_stretch<C::splits>(r.keys, C::stretch, split) < last;
        mine[i] = live ? stats[at + split] : make_float2(-infinity, 0.0f);
    }
    const float top = warp_max(fmaxf(mine[0].x, mine[1].x)), base = top == -infinity ? 0.0f : top;
    const float by[2] = {exp2_fast(mine[0].x - base), exp2_fast(mine[1].x - base)}; // 0 for splits without keys
    const float power = warp_sum(by[0] * mine[0].y + by[1] * mine[1].y);
    float sum[per_lane] = {};
#pragma unroll 8
    for (int split = 0; split < C::splits; split++) {
        const float factor = shuffle(split < warp_size ? by[0] : by[1], split % warp_size);
#pragma unroll
        for (int i = 0; i < per_lane; i++) {
            const int col = lane + i * warp_size;
            if (factor > 0 && col < C::head_dim) sum[i] = fmaf(factor, sums[(at + split) * C::head_dim + col], sum[i]);
        }
    }
#pragma unroll
    for (int i = 0; i < per_lane; i++) {
        const int col = lane + i * warp_size;
        if (col < C::head_dim)
            o[static_cast<size_t>(row) * C::o_stride + head * C::head_dim + col] = from_float<typename C::T>(power == 0 ? 0.0f : sum[i] / power);
    }
}

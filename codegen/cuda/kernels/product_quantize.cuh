// Matrix products of e4m3 on Hopper whose ends quantise: an activation, or a gradient times the derivative that the forward product kept,
// leaves the chip in 8 bits alone, as it lies and with its rows as columns. One thread fetches tiles by descriptor into a ring of shared
// memory, two warpgroups multiply them (wgmma); blocks stay and take tiles in turn, and while one warpgroup ends its tile the other
// multiplies, as in product_wgmma.cuh.
//
// Operands come into shared memory with their rows in another order (interleaved_fetch4, interleaved_fetch5), so that of each 16 rows and 16
// columns of P a lane has two neighbouring rows and four neighbouring columns: words of q and halfwords of t need no exchange between lanes.
#pragma once
#include "activation.cuh"
#include "hopper.cuh"
#include "quantize.cuh"

// product_quantize: P [rows, cols] = A [rows, terms] · Bᵀ · a_scale · b_scale + bias, for A and B [cols, terms] of e4m3. Forward D = fn(P), and
// kept = fn'(P) with keeps; with times D = P · kept. D becomes q, t, scale as quantize has them (quantize.cuh), and raises the history's
// largest magnitude of now, or with top set *top, and then the kernel does nothing where the history gives a scale. sums
// [4*ceil(rows/128), columns of D] float get those of each four sixteenths of 128 rows.
//
// With gated P is gate and up side by side, D [rows, cols/2] = fn(gate)·up, and kept both derivatives. With times D [rows, 2*cols] is P
// times the one, and beside it P times the other. What is kept lies in blocks of 16 rows and columns, one behind another along the
// rows: of each the 8 elements of a lane, of both derivatives one behind the other.
//
// Sums are the matrix units' own: of products of e4m3 they keep 13 bits, which vanish beside the 3 that D keeps.
//
//   Config  T (of bias and kept), terms, cols, has_bias, fn, keeps, times, sums, gated; rows, terms, and cols of one of gate and up are multiples of 16
//   maps    of a and b in tiles of 128 rows (of gate and up 64 each), of q in tiles of 16 rows of 64 columns and of t in those of 16 rows of 128; of these
//           a dimension is what D has side by side
//   grid    as many blocks as run at once; threads 384; shared: QuantizeTiles::shared
//   tile    128 × 128 of P
template <class C> struct QuantizeTiles {
    static constexpr bool joins = C::gated && !C::times;
    static constexpr int rows = 128, ways = C::gated && C::times ? 2 : 1, derivatives = C::gated ? 2 : 1; // ways: columns of D of one of P
    static constexpr int span = joins ? C::cols / 2 : C::cols, wide = joins ? 64 : 128, across = ceil_div(span, wide), parts = wide / 64;
    static constexpr int box = 128 * 64, sets = ways == 2 ? 1 : parts; // box: 128 rows of 64 columns; sets: parts that there are boxes for
    static constexpr int stage = 2 * 128 * 128, fixed = 2 * sets * ways * 2 * box + 1024, stages = (227 * 1024 - fixed) / stage, shared = stages * stage + fixed;
    static constexpr int steps = ceil_div(C::terms, 128), band = 16;

    // place is ProductTiles'.
    static __device__ int2 place(int t, int down) {
        const int b = t / (band * across), rest = t % (band * across), high = down - b * band < band ? down - b * band : band;
        return make_int2((b * band + rest % high) * rows, rest / high * wide);
    }
};

template <class C>
__device__ void product_quantize(int rows, const TensorMap &map_a, const TensorMap &map_b, const TensorMap &map_q, const TensorMap &map_t, const typename C::T *bias,
                                 Pack<uint32_t, 4> *kept, const float *a_scale, const float *b_scale, float *scale, float *sums, unsigned *history,
                                 const unsigned *amax, unsigned *top) {
    using T = typename C::T;
    using L = QuantizeTiles<C>;
    SHARED_PANELS(ring);
    unsigned char *const all_boxes = ring + L::stages * L::stage;
    Arrival *const full = reinterpret_cast<Arrival *>(all_boxes + 4 * L::sets * L::ways * L::box), *const empty = full + L::stages, *const turn = empty + L::stages;
    const int group = warp_index() / 4, down = ceil_div(rows, L::rows), tiles = down * L::across;
    if (threadIdx.x == 0) {
        for (int i = 0; i < L::stages; i++) {
            arrival_init(full + i, 1);
            arrival_init(empty + i, 1);
        }
        for (int i = 0; i < 2; i++) arrival_init(turn + i, 1);
        arrivals_ready();
    }
    __syncthreads();
    grid_wait();
    const unsigned before = twice(history);
    if (top != nullptr && before != 0) return;

    if (group == 2) {
        registers_down<24>();
        if (threadIdx.x == 256) {
            int slot = 0, phase = 1;
            for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
                const int2 at = L::place(t, down);
#pragma unroll 1
                for (int s = 0; s < L::steps; s++) {
                    unsigned char *const a = ring + slot * L::stage, *const b = a + L::stage / 2;
                    arrival_wait(empty + slot, phase);
                    arrival_announce(full + slot, L::stage);
                    interleaved_fetch4(a, map_a, full + slot, s * 128, at.x);
                    interleaved_fetch5(b, map_b, full + slot, s * 128, at.y);
                    if constexpr (L::joins) interleaved_fetch5(b + L::stage / 4, map_b, full + slot, s * 128, L::span + at.y);
                    if (++slot == L::stages) slot = 0, phase ^= 1;
                }
            }
        }
        return;
    }

    registers_up<240>();
    const int lane = lane_index(), warp = warp_index() % 4, low = lane % 8, matrix = lane / 8; // matrix: whose row `low` this lane addresses
    const int boxes = 2 * group * L::sets * L::ways * L::box, q_line = boxes + (matrix / 2 * 64 + warp * 16 + 2 * low + matrix % 2) * 64 + low % 4 * 16, t_row = 4 * (low / 2) + low % 2 + matrix % 2 * 2;
    const int t_line = boxes + L::box + t_row * 128 + 16 * ((4 * (matrix / 2) + warp) ^ (t_row % 8));
    T *const biases = reinterpret_cast<T *>(all_boxes + 4 * L::sets * L::ways * L::box + 512) + 128 * group;
    const bool leads = threadIdx.x % 128 == 0;
    const Scale s8 = scale_of<8>(before == 0 && amax != nullptr ? *amax : before);
    if (blockIdx.x == 0 && threadIdx.x == 0) *scale = s8.by;
    const float by = *a_scale * *b_scale;
    float most = 0;
    int turns = 0;
    for (int t = blockIdx.x; t < tiles; t += gridDim.x, turns++) {
        if (turns % 2 != group) continue;
        const int2 at = L::place(t, down);
        int slot = turns * L::steps % L::stages, phase = turns * L::steps / L::stages % 2, last = 0; // last: the slot before
        // A piece is 16 columns of D; what was kept of it is fetched some pieces ahead.
        constexpr int pieces = L::wide / 16, ahead = L::ways == 1 ? 4 : C::sums ? 1 : 2; // as registers allow
        constexpr int summed = 4 / L::ways; // pieces whose sums a warp spreads over its lanes at once
        const auto piece_at = [&](int piece, int r) { // where the lane's part of what is kept of it lies, in 16 bytes; negative beyond the matrix
            const int row = at.x + r * 64 + warp * 16, column = at.y + piece * 16;
            return row < rows && (L::span % L::wide == 0 || column < L::span) ? (row / 16 * (L::span / 16) + column / 16) * (32 * L::derivatives) + lane : -1;
        };
        Pack<uint32_t, 4> fetched[C::times ? ahead : 1][2][L::derivatives];
        const auto fetch = [&](int piece) {
#pragma unroll
            for (int r = 0; r < 2; r++) {
                const int from = piece_at(piece, r);
#pragma unroll
                for (int d = 0; d < L::derivatives; d++) fetched[piece % ahead][r][d] = from < 0 ? Pack<uint32_t, 4>{} : kept[from + 32 * d];
            }
        };
        if constexpr (C::times) {
#pragma unroll
            for (int i = 0; i < ahead; i++) fetch(i);
        }
        if constexpr (C::has_bias) { // of the tile's columns, for after the next barrier
            const int c = threadIdx.x % 128, column = at.y + c % L::wide;
            biases[c] = column < L::span ? bias[c / L::wide * L::span + column] : from_float<T>(0);
        }
        float acc[2][2][8][4];
        if (turns > 0) arrival_wait(turn + group, (turns - 1) / 2 % 2);
#pragma unroll 1
        for (int s = 0; s < L::steps; s++) {
            const unsigned char *const a = ring + slot * L::stage;
            arrival_wait(full + slot, phase);
            const Matrix ma = matrix_at(a), mb = matrix_at(a + L::stage / 2);
            wgmma_begin();
#pragma unroll
            for (int e = 0; e < 4; e++) { // 32 terms
                const Matrix x = matrix_moved(ma, e * 32), y = matrix_moved(mb, e * 32);
                wgmma_bytes(acc[0], x, y, s > 0 || e > 0);
                wgmma_bytes(acc[1], matrix_moved(x, 64 * 128), y, s > 0 || e > 0);
            }
            wgmma_commit();
            if (s > 0) {
                wgmma_wait<1>();
                if (leads) arrival_arrive(empty + last);
            }
            last = slot;
            if (++slot == L::stages) slot = 0, phase ^= 1;
        }
        if (leads) arrival_arrive(turn + (1 - group)); // whose products queue up behind these
        wgmma_wait<0>();
#pragma unroll
        for (int r = 0; r < 2; r++) {
#pragma unroll
            for (int p = 0; p < 2; p++) wgmma_done(acc[r][p]);
        }
        if (leads) arrival_arrive(empty + last);

#pragma unroll
        for (int part = 0; part < L::parts; part++) {
            unsigned char *const box = all_boxes + part % L::sets * L::ways * 2 * L::box; // of the first warpgroup
            float total[8][2] = {};
            if (lane < L::ways) tile_store_read<L::sets - 1>(); // the part that had the box last must have left
            group_barrier(1 + group, 128);
#pragma unroll
            for (int m = 0; m < 4; m++) {
                const int piece = part * 4 + m;
                if (at.y + piece * 16 < L::span) {
                    float b[L::derivatives][4] = {};
                    if constexpr (C::has_bias) {
#pragma unroll
                        for (int d = 0; d < L::derivatives; d++) load(b[d], biases + d * 64 + piece * 16 + lane % 4 * 4);
                    }
#pragma unroll
                    for (int w = 0; w < L::ways; w++) {
                        uint32_t q[4], columns[4];
#pragma unroll
                        for (int r = 0; r < 2; r++) {
                            const int place = piece_at(piece, r);
                            const auto product = [&](int side, int c, int i) { return acc[r][L::joins ? side : part][m * 2 + i / 2][2 * c + i % 2] * by; };
                            float v[2][4];
                            if constexpr (C::times) {
#pragma unroll
                                for (int i = 0; i < 8; i += 2) {
                                    float two[2];
                                    unpack2<T>(two, fetched[piece % ahead][r][w].v[i / 2]);
                                    v[i / 4][i % 4] = product(0, i / 4, i % 4) * two[0], v[i / 4][i % 4 + 1] = product(0, i / 4, i % 4 + 1) * two[1];
                                }
                            } else {
                                float slope[L::derivatives][8];
#pragma unroll
                                for (int i = 0; i < 8; i++) {
                                    const float x = product(0, i / 4, i % 4) + b[0][i % 4];
                                    float &y = v[i / 4][i % 4];
                                    if constexpr (C::keeps)
                                        y = activate_slope_fast<C::fn>(x, slope[0][i]);
                                    else
                                        y = activate_fast<C::fn>(x);
                                    if constexpr (C::gated) {
                                        const float up = product(1, i / 4, i % 4) + b[1][i % 4];
                                        if constexpr (C::keeps) slope[0][i] *= up, slope[1][i] = y;
                                        y *= up;
                                    }
                                }
                                if constexpr (C::keeps) {
#pragma unroll
                                    for (int d = 0; d < L::derivatives; d++) {
                                        Pack<uint32_t, 4> keep;
#pragma unroll
                                        for (int i = 0; i < 4; i++) keep.v[i] = pack2<T>(slope[d][2 * i], slope[d][2 * i + 1]);
                                        if (place >= 0) kept[place + 32 * d] = keep;
                                    }
                                }
                            }
                            float largest = 0;
#pragma unroll
                            for (int i = 0; i < 8; i++) largest = max_magnitude(largest, v[i / 4][i % 4]);
                            most = max_magnitude(most, C::has_bias && place < 0 ? 0 : largest); // beyond the rows D is 0 but where it has a bias
                            if constexpr (C::sums) {
#pragma unroll
                                for (int i = 0; i < 4; i++) {
                                    float &to = total[w * 4 + m % summed * 2 + i / 2][i % 2];
                                    to += v[0][i] + v[1][i];
                                }
                            }
#pragma unroll
                            for (int c = 0; c < 2; c++) {
#pragma unroll
                                for (int i = 0; i < 4; i++) { // an infinity must not saturate: it becomes NaN
                                    v[c][i] *= s8.inverse;
                                    v[c][i] = fmaf(v[c][i], -0.0f, v[c][i]);
                                }
                                q[2 * r + c] = pack4<false>(v[c][0], v[c][1], v[c][2], v[c][3]);
                            }
                            columns[2 * r] = __byte_perm(q[2 * r], q[2 * r + 1], 0x5140);
                            columns[2 * r + 1] = __byte_perm(q[2 * r], q[2 * r + 1], 0x7362);
                        }
                        unsigned char *const to = box + w * 2 * L::box;
                        stmatrix(to + (q_line ^ 16 * m), q);
                        stmatrix_transposed(to + t_line + m * 16 * 128, columns);
                    }
                }
                if constexpr (C::sums) {
                    if (m % summed == summed - 1) {
                        float two[2];
                        spread_sums(two, total);
#pragma unroll
                        for (int n = 0; n < 8; n++) total[n][0] = total[n][1] = 0;
                        const int n = lane / 4, column = at.y + (piece - m % summed + n % (2 * summed) / 2) * 16 + lane % 4 * 4 + n % 2 * 2;
                        if (column < L::span) store(sums + (static_cast<size_t>(at.x / 32 + warp) * L::ways + n / (2 * summed)) * L::span + column, two);
                    }
                }
                if constexpr (C::times) {
                    if (piece + ahead < pieces) fetch(piece + ahead);
                }
            }
            fence_async();
            group_barrier(1 + group, 128);
            const int column = at.y + part * 64;
            if (lane < L::ways) { // each of one of the results side by side
                unsigned char *const from = box + boxes + lane * 2 * L::box;
#pragma unroll
                for (int r = 0; r < 2; r++) half_store(map_q, from + (r * 64 + warp * 16) * 64, column, lane, at.x + r * 64 + warp * 16);
                half_store(map_t, from + L::box + warp * 16 * 128, at.x, column + warp * 16, lane);
                tile_store_commit();
            }
        }
    }
    const unsigned noted = warp_largest(__float_as_uint(most));
    unsigned *const to = top == nullptr ? history + 1 : top;
    if (lane == 0 && noted > __ldcg(to)) atomicMax(to, noted);
    if (lane < L::ways) tile_store_done();
}

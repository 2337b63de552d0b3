// Matrix products of 16 bits on Hopper, with what belongs to their ends: a bias, a summand, an activation or its derivative, column
// sums. One thread fetches tiles by descriptor into a ring of shared memory, two warpgroups multiply them (wgmma); blocks stay and take
// tiles of D in turn. In pairs (ping-pong), a warpgroup has a tile of D for itself, and while one ends its tile the other
// multiplies; together, they have halves of a wider tile, which needs fewer bytes from the L2 cache a multiplication.
// (CUTLASS's "warp-specialized persistent" kernels, "ping-pong" and "cooperative", are built so.)
#pragma once
#include "activation.cuh"
#include "hopper.cuh"

// product_wgmma: D [rows, cols] = A [rows, terms] · B, where B is [cols, terms], or where across is set [terms, cols]; then, as Config
// says and in this order, P = bias + D + C; D = fn(P), and other = fn'(P) with slope. With times, D = P · other. With sums, the columns
// of D, before they are rounded, are summed over every 32 rows: four sums for each 128, [4*ceil(rows/128), columns of D] float, in a fixed order.
//
// With gated, P or other is gate and up side by side. D [rows, cols/2] = fn(gate)·up, and with slope other [rows, cols] = up·fn'(gate),
// fn(gate): the derivatives by both. With times, D [rows, 2*cols] = P · other's left half, P · its right half.
//
//   Config  T, terms, cols, across, pairs, panels, has_bias, has_c, has_fn, fn, slope, times, sums, gated
//   maps    of a with 128 rows a tile, of b with the columns of a tile (across: 64; gated: half of them), of d with the 16 that a warp has, in
//           halves where a gated one has them. other is C, or the activation's derivative, which is written with slope, by 16 rows, and read with
//           times: what a layer's two products keep between them. What is read has 64 rows a tile
//   grid    as many blocks as run at once; threads 384; shared: ProductTiles::shared
//   tile    128 × 64*panels of P
template <class C> struct ProductTiles {
    static constexpr int rows = 128, cols = 64 * C::panels, box = 64 * 128;    // box: 64 rows of 64 columns, in bytes
    static constexpr bool input = C::has_c || C::times, joins = C::gated && !C::times; // joins: two columns of P make one of D
    static constexpr int span = C::cols / (joins ? 2 : 1), wide = cols / (joins ? 2 : 1), across = ceil_div(span, wide);
    static constexpr int halves = C::pairs ? 2 : 1, parts = halves * wide / 64; // of a warpgroup's tile: 64 rows of 64 columns each, one below another
    static constexpr int own = (C::slope ? 2 : 1) + (C::gated && (C::slope || C::times)); // boxes of a part
    static constexpr int most = input ? (C::gated ? 2 : parts) : C::slope ? (C::gated && !C::pairs ? 1 : 2) : C::pairs ? 4 : 2;
    static constexpr int sets = most < parts ? most : parts;                   // parts that a warpgroup has boxes for
    static constexpr int stage = (rows + cols) * 128, fixed = 2 * sets * own * box + 1024;
    static constexpr int stages = (227 * 1024 - fixed) / stage, shared = stages * stage + fixed;
    static constexpr int steps = ceil_div(C::terms, 64), band = 16;
    static_assert(parts % sets == 0, "a part has the same boxes in all tiles");

    // place is the first row and column of tile t: bands of 16 tiles down are taken one after another, each from left to right, so
    // that what runs at once shares rows and columns.
    static __device__ int2 place(int t, int down) {
        const int b = t / (band * across), rest = t % (band * across), high = down - b * band < band ? down - b * band : band;
        return make_int2((b * band + rest % high) * rows, rest / high * wide);
    }
};

template <class C>
__device__ void product_wgmma(int rows, const TensorMap &map_a, const TensorMap &map_b, const TensorMap &map_d, const TensorMap &map_other,
                              const typename C::T *bias, float *sums) {
    using T = typename C::T;
    using L = ProductTiles<C>;
    static_assert(C::has_c + C::times + C::slope <= 1, "one more matrix at most");
    static_assert(!C::gated || !C::has_c && !(L::joins && C::across), "a gated end has no C");
    static_assert(!C::sums || C::times && C::pairs, "sums are of a gradient, by blocks in pairs");
    SHARED_PANELS(ring);
    unsigned char *const all_boxes = ring + L::stages * L::stage;
    Arrival *const full = reinterpret_cast<Arrival *>(all_boxes + 2 * L::sets * L::own * L::box), *const empty = full + L::stages;
    Arrival *const turn = empty + L::stages, *const came = turn + 2, *const left = came + 2 * L::sets; // of each warpgroup: it may multiply; boxes have come, are free
    const int group = warp_index() / 4, down = ceil_div(rows, L::rows), tiles = down * L::across;
    if (threadIdx.x == 0) {
        for (int i = 0; i < L::stages; i++) {
            arrival_init(full + i, 1);
            arrival_init(empty + i, C::pairs ? 1 : 2);
        }
        for (int i = 0; i < 2; i++) arrival_init(turn + i, 1);
        for (int i = 0; i < 2 * L::sets; i++) {
            arrival_init(came + i, 1);
            arrival_init(left + i, 4); // by each warp
        }
        arrivals_ready();
    }
    __syncthreads();
    grid_wait();

    if (group == 2) {
        registers_down<24>();
        if (threadIdx.x == 256) { // fetches A and B
            int step = 0; // of this block
            for (int t = blockIdx.x; t < tiles; t += gridDim.x) {
                const int2 at = L::place(t, down);
#pragma unroll 1
                for (int s = 0; s < L::steps; s++, step++) {
                    const int slot = step % L::stages;
                    unsigned char *const a = ring + slot * L::stage, *const b = a + L::rows * 128;
                    arrival_wait(empty + slot, step / L::stages % 2 ^ 1);
                    arrival_announce(full + slot, L::stage);
                    tile_fetch(a, map_a, full + slot, s * 64, at.x);
                    if constexpr (C::across) {
#pragma unroll
                        for (int p = 0; p < L::cols / 64; p++) tile_fetch(b + p * 64 * 128, map_b, full + slot, at.y + p * 64, s * 64);
                    } else {
                        tile_fetch(b, map_b, full + slot, s * 64, at.y);
                        if constexpr (L::joins) tile_fetch(b + L::wide * 128, map_b, full + slot, s * 64, L::span + at.y);
                    }
                }
            }
        }
        if constexpr (L::input) {
            if (threadIdx.x == 288) { // fetches what the ends of products read, a part at a time
                int turns = 0;
                for (int t = blockIdx.x; t < tiles; t += gridDim.x, turns++) {
                    const int2 at = L::place(t, down);
#pragma unroll 1
                    for (int b = 0; b < L::parts; b++) {
                        const int row = at.x + b % L::halves * 64, column = at.y + b / L::halves * 64;
#pragma unroll 1
                        for (int g = C::pairs ? turns % 2 : 0; g < (C::pairs ? turns % 2 + 1 : 2); g++) {
                            const int used = (C::pairs ? turns / 2 : turns) * L::parts + b, set = g * L::sets + used % L::sets;
                            unsigned char *const box = all_boxes + set * L::own * L::box;
                            arrival_wait(left + set, used / L::sets % 2 ^ 1);
                            arrival_announce(came + set, L::own * L::box);
#pragma unroll 1
                            for (int h = 0; h < L::own; h++) {
                                if constexpr (C::gated)
                                    half_fetch(box + h * L::box, map_other, came + set, column, h, row + (C::pairs ? 0 : g * 64));
                                else
                                    tile_fetch(box, map_other, came + set, column, row + (C::pairs ? 0 : g * 64));
                            }
                        }
                    }
                }
            }
        }
        return;
    }

    registers_up<240>();
    unsigned char *const boxes = all_boxes + group * L::sets * L::own * L::box;
    const int lane = lane_index(), warp = warp_index() % 4, row_in = lane / 4, column_in = lane % 4 * 2; // of an accumulator
    const int mine = warp * 16 * 128, line = mine + lane % 16 * 128, chunk = lane / 16 ^ lane % 8; // of a box: a warp's rows, and what a lane addresses of 16 × 16 of them
    const bool leads = threadIdx.x % 128 == 0;
    int turns = 0;
    for (int t = blockIdx.x; t < tiles; t += gridDim.x, turns++) {
        if (C::pairs && turns % 2 != group) continue;
        const int2 at = L::place(t, down);
        int step = turns * L::steps;
        constexpr int panels = L::wide / 64; // of D; of P the gates' come first, and those of up behind them
        float acc[C::pairs ? 2 : 1][C::panels][8][4]; // of the warpgroup's part of P, which begins as bias
        if constexpr (C::has_bias) {
#pragma unroll
            for (int n = 0; n < L::cols / 8; n++) {
                const int column = at.y + n % (8 * panels) * 8 + column_in;
                float two[2];
                unpack2<T>(two, column < L::span ? *reinterpret_cast<const uint32_t *>(bias + n / (8 * panels) * L::span + column) : 0);
#pragma unroll
                for (int i = 0; i < 4; i++) {
                    acc[0][n / 8][n % 8][i] = two[i % 2];
                    if constexpr (C::pairs) acc[1][n / 8][n % 8][i] = two[i % 2];
                }
            }
        }
        if (C::pairs && turns > 0) arrival_wait(turn + group, (turns - 1) / 2 % 2);
#pragma unroll 1
        for (int s = 0; s < L::steps; s++, step++) {
            const int slot = step % L::stages;
            const unsigned char *const a = ring + slot * L::stage, *const b = a + L::rows * 128;
            arrival_wait(full + slot, step / L::stages % 2);
            const Matrix ma = matrix_at(a + (C::pairs ? 0 : group * 64 * 128)), mb = C::across ? matrix_across(b, 64 * 128) : matrix_at(b);
            wgmma_begin();
#pragma unroll
            for (int e = 0; e < 4; e++) { // 16 terms
                const Matrix x = matrix_moved(ma, e * 32), y = matrix_moved(mb, e * (C::across ? 16 * 128 : 32));
                wgmma_columns<T, C::across>(acc[0], x, y, C::has_bias || s > 0 || e > 0);
                if constexpr (C::pairs) wgmma_columns<T, C::across>(acc[1], matrix_moved(x, 64 * 128), y, C::has_bias || s > 0 || e > 0);
            }
            wgmma_commit();
            if (s > 0) {
                wgmma_wait<1>();
                if (leads) arrival_arrive(empty + (step - 1) % L::stages);
            }
        }
        if (C::pairs && leads) arrival_arrive(turn + (1 - group)); // whose products queue up behind these
        wgmma_wait<0>();
#pragma unroll
        for (int r = 0; r < (C::pairs ? 2 : 1); r++) {
#pragma unroll
            for (int p = 0; p < C::panels; p++) wgmma_done(acc[r][p]);
        }
        if (leads) arrival_arrive(empty + (step - 1) % L::stages);

        // A warp ends its 16 rows of each part by itself.
        constexpr int ways = C::gated ? 2 : 1; // sums: of both gradients of a gated activation
        float total[ways][8][2];
#pragma unroll
        for (int b = 0; b < L::parts; b++) {
            const int panel = b / L::halves, half_tile = b % L::halves, row = at.x + (C::pairs ? half_tile : group) * 64 + warp * 16, column = at.y + panel * 64;
            const int used = (C::pairs ? turns / 2 : turns) * L::parts + b, set = b % L::sets;
            unsigned char *const box = boxes + set * L::own * L::box;
            auto place = [&](int n, int i) { return box + i * L::box + line + 16 * (n ^ chunk); }; // for columns 8n to 8n+15
            if constexpr (L::input) {
                arrival_wait(came + group * L::sets + set, used / L::sets % 2);
            } else { // the part that had the boxes last must have left
                if (lane == 0) tile_store_read<L::sets - 1>();
                __syncwarp();
            }
            constexpr int at_once = L::input ? 8 / L::own : 8; // columns of 8 that are read before any of them is written
#pragma unroll
            for (int from = 0; from < 8; from += at_once) {
                uint32_t read[L::own][at_once / 2][4];
                if constexpr (L::input) {
#pragma unroll
                    for (int n = 0; n < at_once; n += 2) {
#pragma unroll
                        for (int i = 0; i < L::own; i++) ldmatrix(read[i][n / 2], place(from + n, i));
                    }
                    __syncwarp();
                }
#pragma unroll
                for (int n = from; n < from + at_once; n += 2) {
                    uint32_t out[L::own][4];
#pragma unroll
                    for (int e = 0; e < 4; e++) { // two columns each: of 8 rows and the 8 below, then of the next 8 columns
                        const int of = n + e / 2, half = e % 2;
                        auto accumulated = [&](int side, float (&v)[2]) {
                            v[0] = acc[half_tile][side * panels + panel][of][2 * half], v[1] = acc[half_tile][side * panels + panel][of][2 * half + 1];
                        };
                        auto add = [&](int way, const float (&v)[2]) {
                            if constexpr (C::sums) {
#pragma unroll
                                for (int i = 0; i < 2; i++) {
                                    float &to = total[way][of][i];
                                    to = half_tile == 0 && half == 0 ? v[i] : to + v[i];
                                }
                            }
                        };
                        float v[2], o[2];
                        accumulated(0, v);
                        if constexpr (L::joins) {
                            float up[2];
                            accumulated(1, up);
                            if constexpr (C::slope) {
                                v[0] = activate_slope_fast<C::fn>(v[0], o[0]), v[1] = activate_slope_fast<C::fn>(v[1], o[1]);
                                out[1][e] = pack2<T>(up[0] * o[0], up[1] * o[1]);
                                out[2][e] = pack2<T>(v[0], v[1]);
                            } else {
                                v[0] = activate_fast<C::fn>(v[0]), v[1] = activate_fast<C::fn>(v[1]);
                            }
                            v[0] *= up[0], v[1] *= up[1];
                        } else if constexpr (C::times) {
                            if constexpr (C::gated) {
                                unpack2<T>(o, read[1][(n - from) / 2][e]);
                                const float w[2] = {v[0] * o[0], v[1] * o[1]};
                                out[1][e] = pack2<T>(w[0], w[1]);
                                add(1, w);
                            }
                            unpack2<T>(o, read[0][(n - from) / 2][e]);
                            v[0] *= o[0], v[1] *= o[1];
                            add(0, v);
                        } else {
                            if constexpr (C::has_c) {
                                unpack2<T>(o, read[0][(n - from) / 2][e]);
                                v[0] += o[0], v[1] += o[1];
                            }
                            if constexpr (C::slope) {
                                v[0] = activate_slope_fast<C::fn>(v[0], o[0]), v[1] = activate_slope_fast<C::fn>(v[1], o[1]);
                                out[1][e] = pack2<T>(o[0], o[1]);
                            } else if constexpr (C::has_fn) {
                                v[0] = activate_fast<C::fn>(v[0]), v[1] = activate_fast<C::fn>(v[1]);
                            }
                        }
                        out[0][e] = pack2<T>(v[0], v[1]);
                    }
#pragma unroll
                    for (int i = 0; i < L::own; i++) stmatrix(place(n, i), out[i]);
                }
            }
            fence_async();
            __syncwarp();
            if (lane == 0) {
                if constexpr (C::gated && C::times) {
                    half_store(map_d, box + mine, column, 0, row);
                    half_store(map_d, box + L::box + mine, column, 1, row);
                } else {
                    tile_store(map_d, box + mine, column, row);
                    if constexpr (C::slope && C::gated) {
                        half_store(map_other, box + L::box + mine, column, 0, row);
                        half_store(map_other, box + 2 * L::box + mine, column, 1, row);
                    } else if constexpr (C::slope) {
                        tile_store(map_other, box + L::box + mine, column, row);
                    }
                }
                tile_store_commit();
                if constexpr (L::input) {
                    if (b > 0) {
                        tile_store_read<1>();
                        arrival_arrive(left + group * L::sets + (b - 1) % L::sets);
                    }
                }
            }
            if (C::sums && half_tile == 1) {
#pragma unroll
                for (int way = 0; way < ways; way++) {
                    float two[2];
                    spread_sums(two, total[way]);
                    const int c = column + row_in * 8 + column_in;
                    if (c < C::cols) store(sums + (static_cast<size_t>(at.x / 32 + warp) * ways + way) * C::cols + c, two);
                }
            }
        }
        if constexpr (L::input) {
            if (lane == 0) {
                tile_store_read<0>();
                arrival_arrive(left + group * L::sets + (L::parts - 1) % L::sets);
            }
        }
    }
    if (lane == 0) tile_store_done();
}

// Products of few rows, as a decode step has them: y = act(x·wᵀ + bias) + residual, where
//
//   x         [rows, in]   T, rows x_stride apart
//   w         [out, in]    T; with glu [2*out, in], the gates' rows first
//   bias      [out]        float, or null; with glu [2*out]
//   residual  [rows, out]  T, rows residual_stride apart, or null
//   y         [rows, out]  T, rows y_stride apart; may be the residual
//
// and with glu y = act(x·gateᵀ + bias) * (x·upᵀ + bias) + residual.
//
// The time is that of reading w: a block takes a tile of outputs and rows, and its warps share out the inner dimension, so
// that matrices of a few hundred rows keep the whole device busy. An element of y is summed in an order that depends on
// Config alone: the same bits whatever the number of rows, and whatever the other rows hold.
//
//   bytes     w once for each tile of rows, from the second on out of the cache; x, y, bias, residual
//   Config    T, rows, in, out, x_stride, y_stride, residual_stride, active (bool: whether there is an activation),
//             fn (Activation), glu (bool)
#pragma once
#include "activation.cuh"
#include "chunk.cuh"
#include "device.cuh"

// linear_result is an element of y from its sum, with glu from those of gate and up.
template <class C> __device__ inline float linear_result(float sum, float up) {
    if constexpr (C::active) sum = activate<C::fn>(sum);
    return C::glu ? sum * up : sum;
}

// small_linear_mma works on the tensor cores, with the weights as their first operand and eight rows of x as the second:
// each access of 16 bytes of w is a fragment (chunk.cuh) that nothing else waits for, and there is no copy in shared
// memory. Where rows are fewer than eight the rest of a product is idle, at no cost: w arrives no faster.
//
//   Config    m_tiles   tiles of outputs that a warp takes
//             halves    2 for tiles of 16 outputs, 1 for tiles of 8, which leave half of a product idle: for small matrices
//             n_tiles   tiles of 8 rows that a block takes
//             warps_m   warps side by side over outputs: 8*halves*m_tiles*warps_m outputs a block, which divides threads
//             warps_k   warps that share the inner dimension, 64 columns in turn
//             depth     steps of 64 columns whose loads are on their way at once
//             T is bf16 or half; in, x_stride and the start of x are multiples of 8
//   grid      x: ceil(out / outputs a block)   y: ceil(rows / (8*n_tiles))
//   threads   32*warps_m*warps_k
//   shared    static, 4*warps_k*8*n_tiles*(outputs a block, twice with glu, + 4) bytes, at most 48 KiB
template <class C>
__device__ void small_linear_mma(int rows, typename C::T *y, const typename C::T *x, const typename C::T *w, const float *bias,
                                 const typename C::T *residual) {
    using T = typename C::T;
    constexpr int parts = C::glu ? 2 : 1, m_tiles = C::m_tiles * parts, n_tiles = C::n_tiles;
    constexpr int halves = C::halves, height = 8 * halves; // outputs of a tile
    constexpr int tile_m = height * C::m_tiles * C::warps_m, tile_n = 8 * n_tiles, threads = warp_size * C::warps_m * C::warps_k;
    constexpr int step = 64, stride = step * C::warps_k; // columns of a warp at once, of all of them
    constexpr int steps = ceil_div(C::in, stride), depth = C::depth < steps ? C::depth : steps;
    constexpr bool whole = C::in % stride == 0;
    static_assert(C::in % 8 == 0 && C::x_stride % 8 == 0, "rows of whole chunks");
    static_assert(threads % tile_m == 0, "a thread finishes elements of one output");
    constexpr int per_thread = ceil_div(tile_m * tile_n, threads);
    constexpr bool early = per_thread <= 4; // few enough to have their residuals read before the products

    const int lane = lane_index(), g = lane / 4, c = lane % 4;
    const int warp_m = warp_index() % C::warps_m, warp_k = warp_index() / C::warps_m;
    const int m0 = blockIdx.x * tile_m, n0 = blockIdx.y * tile_n;
    const int column = warp_k * step + 8 * c;

    // The rows of w that this lane reads; outputs beyond the last read the last one's, and are dropped.
    const T *weight[m_tiles][halves];
#pragma unroll
    for (int t = 0; t < m_tiles; t++) {
#pragma unroll
        for (int half = 0; half < halves; half++) {
            const int m = min(m0 + height * (C::m_tiles * warp_m + t / parts) + 8 * half + g, C::out - 1);
            weight[t][half] = w + static_cast<size_t>(t % parts * C::out + m) * C::in + column;
        }
    }
    const T *input[n_tiles];
#pragma unroll
    for (int t = 0; t < n_tiles; t++) input[t] = x + static_cast<size_t>(n0 + 8 * t + g) * C::x_stride + column;

    Chunk a[depth][m_tiles][halves][2], b[depth][n_tiles][2]; // the last index is the half of a step
    const auto in_row = [&](int i, int k) { return whole || column + i * stride + 32 * k < C::in; };
    const auto fetch_weights = [&](int slot, int i) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
#pragma unroll
            for (int t = 0; t < m_tiles; t++) {
#pragma unroll
                for (int half = 0; half < halves; half++)
                    a[slot][t][half][k] = stream_chunk(weight[t][half] + i * stride + 32 * k, in_row(i, k));
            }
        }
    };
    const auto fetch_input = [&](int slot, int i) {
#pragma unroll
        for (int t = 0; t < n_tiles; t++) {
#pragma unroll
            for (int k = 0; k < 2; k++)
                b[slot][t][k] = load_chunk(input[t] + i * stride + 32 * k, n0 + 8 * t + g < rows && in_row(i, k));
        }
    };
#pragma unroll
    for (int s = 0; s < depth; s++) fetch_weights(s, s);
    // What the end of the kernel needs from memory is on its way with the first weights.
    const int own_m = threadIdx.x % tile_m, own_n = threadIdx.x / tile_m, output = m0 + own_m;
    const bool mine = output < C::out;
    const float own_bias = bias && mine ? bias[output] : 0.0f, up_bias = C::glu && bias && mine ? bias[C::out + output] : 0.0f;
    grid_wait(); // no kernel of a decode step writes weights: they come while the one before ends
#pragma unroll
    for (int s = 0; s < depth; s++) fetch_input(s, s);
    const auto residual_of = [&](int n) {
        return residual && mine && n < rows ? to_float(residual[static_cast<size_t>(n) * C::residual_stride + output]) : 0.0f;
    };
    float added[early ? per_thread : 1];
    if constexpr (early) {
#pragma unroll
        for (int i = 0; i < per_thread; i++) added[i] = residual_of(n0 + own_n + i * (threads / tile_m));
    }

    // That gridDim.z is 1 the compiler does not know: where it knows that the loop below runs once, it moves each load to its
    // use, and they wait for memory one after another.
    const int turns = steps * gridDim.z;

    float sum[m_tiles][n_tiles][4] = {};
    const auto multiply = [&](int slot) {
#pragma unroll
        for (int k = 0; k < 2; k++) {
#pragma unroll
            for (int q = 0; q < 2; q++) {
#pragma unroll
                for (int t = 0; t < m_tiles; t++) {
                    const Chunk upper = a[slot][t][0][k], lower = halves == 2 ? a[slot][t][halves - 1][k] : Chunk{{0, 0, 0, 0}};
                    const uint32_t fragment[4] = {upper.v[2 * q], lower.v[2 * q], upper.v[2 * q + 1], lower.v[2 * q + 1]};
#pragma unroll
                    for (int n = 0; n < n_tiles; n++) mma<T>(sum[t][n], fragment, b[slot][n][k].v[2 * q], b[slot][n][k].v[2 * q + 1]);
                }
            }
        }
    };
#pragma unroll 1
    for (int i = 0; i < turns; i += depth) {
#pragma unroll
        for (int s = 0; s < depth; s++) {
            if (steps % depth == 0 || i + s < turns) multiply(s);
            if (i + s + depth < turns) {
                fetch_weights(s, i + s + depth);
                fetch_input(s, i + s + depth);
            }
        }
    }

    // The warps' sums meet in shared memory, and are added in the order of the inner dimension.
    constexpr int line = tile_m * parts + 4;
    __shared__ float partial[C::warps_k][tile_n][line];
    static_assert(sizeof(partial) <= 48 * 1024, "shared memory");
#pragma unroll
    for (int t = 0; t < m_tiles; t++) {
        const int m = t % parts * tile_m + height * (C::m_tiles * warp_m + t / parts) + g;
#pragma unroll
        for (int n = 0; n < n_tiles; n++) {
#pragma unroll
            for (int i = 0; i < 2 * halves; i++) partial[warp_k][8 * n + 2 * c + i % 2][m + i / 2 * 8] = sum[t][n][i];
        }
    }
    __syncthreads();
    const auto total = [&](int n, int m) {
        float s = 0;
#pragma unroll
        for (int k = 0; k < C::warps_k; k++) s += partial[k][n][m];
        return s;
    };
#pragma unroll
    for (int i = 0; i < per_thread; i++) {
        const int n = own_n + i * (threads / tile_m);
        if (!mine || n >= tile_n || n0 + n >= rows) break;
        const float up = C::glu ? total(n, tile_m + own_m) + up_bias : 0.0f;
        const float v = linear_result<C>(total(n, own_m) + own_bias, up) + (early ? added[early ? i : 0] : residual_of(n0 + n));
        y[static_cast<size_t>(n0 + n) * C::y_stride + output] = from_float<T>(v);
    }
}

// linear_rows is small_linear, below, for R rows from n0 on, of which those beyond the last are read as the last.
template <class C, int R>
__device__ inline void linear_rows(int n0, int rows, typename C::T *y, const typename C::T *x, const typename C::T *w, const float *bias,
                                   const typename C::T *residual) {
    using T = typename C::T;
    constexpr int parts = C::glu ? 2 : 1, columns = C::columns, vec = C::vec;
    constexpr int unroll = columns * parts >= 4 || R >= 8 ? 1 : 4;
    const int lane = lane_index(), m0 = (blockIdx.x * C::warps + warp_index()) * columns;
    if (m0 >= C::out) return; // the whole warp

    // Lane r*columns+m finishes output m of row r; what it needs is read first.
    const int own_n = n0 + lane / columns, own_m = m0 + lane % columns;
    const bool mine = lane < R * columns && own_n < rows && own_m < C::out;
    const float own_bias = bias && mine ? bias[own_m] : 0.0f, up_bias = C::glu && bias && mine ? bias[C::out + own_m] : 0.0f;
    const float added = residual && mine ? to_float(residual[static_cast<size_t>(own_n) * C::residual_stride + own_m]) : 0.0f;

    float sum[parts][columns][R] = {};
#pragma unroll 1
    for (int k0 = lane * vec; k0 < C::in; k0 += warp_size * vec * unroll) {
        float a[unroll][parts][columns][vec], b[unroll][R][vec];
#pragma unroll
        for (int u = 0; u < unroll; u++) {
            const int k = k0 + u * warp_size * vec;
            if (k < C::in) {
#pragma unroll
                for (int p = 0; p < parts; p++) {
#pragma unroll
                    for (int m = 0; m < columns; m++) load(a[u][p][m], w + static_cast<size_t>(p * C::out + min(m0 + m, C::out - 1)) * C::in + k);
                }
#pragma unroll
                for (int r = 0; r < R; r++) load(b[u][r], x + static_cast<size_t>(min(n0 + r, rows - 1)) * C::x_stride + k);
            }
        }
#pragma unroll
        for (int u = 0; u < unroll; u++) {
            if (k0 + u * warp_size * vec < C::in) {
#pragma unroll
                for (int p = 0; p < parts; p++) {
#pragma unroll
                    for (int m = 0; m < columns; m++) {
#pragma unroll
                        for (int r = 0; r < R; r++) {
#pragma unroll
                            for (int i = 0; i < vec; i++) sum[p][m][r] = fmaf(a[u][p][m][i], b[u][r][i], sum[p][m][r]);
                        }
                    }
                }
            }
        }
    }

    float own = 0, up = 0;
#pragma unroll
    for (int m = 0; m < columns; m++) {
#pragma unroll
        for (int r = 0; r < R; r++) {
            const bool here = lane == r * columns + m;
            const float s = warp_sum(sum[0][m][r]);
            own = here ? s : own;
            if constexpr (C::glu) {
                const float t = warp_sum(sum[1][m][r]);
                up = here ? t : up;
            }
        }
    }
    if (mine) y[static_cast<size_t>(own_n) * C::y_stride + own_m] = from_float<T>(linear_result<C>(own + own_bias, up + up_bias) + added);
}

// small_linear works on any type and shape: a warp takes some outputs, and its lanes the inner dimension.
//
//   Config    vec      elements an access of x and w takes
//             columns  outputs a warp takes; columns*8 is at most 32
//             warps    of a block
//   grid      x: ceil(out / (warps*columns))   y: ceil(rows / 8)
//   threads   32*warps
//   shared    none
template <class C>
__device__ void small_linear(int rows, typename C::T *y, const typename C::T *x, const typename C::T *w, const float *bias,
                             const typename C::T *residual) {
    static_assert(C::columns * 8 <= warp_size, "a lane for each result");
    const int n0 = blockIdx.y * 8, left = rows - n0;
    if (left <= 0) return;
    if (left == 1) {
        linear_rows<C, 1>(n0, rows, y, x, w, bias, residual);
    } else if constexpr (C::rows > 1) {
        if (left == 2) {
            linear_rows<C, 2>(n0, rows, y, x, w, bias, residual);
        } else if constexpr (C::rows > 2) {
            if (left <= 4)
                linear_rows<C, 4>(n0, rows, y, x, w, bias, residual);
            else
                linear_rows<C, 8>(n0, rows, y, x, w, bias, residual);
        }
    }
}

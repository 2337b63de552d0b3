// Operands of products in 8 bits: a tensor divided by a scale and rounded, as it lies and with its rows as columns.
//
// What is quantised may be computed of operands x, x2, x3 on the way: the source. All have T as elements, and the rows of o o_stride
// elements apart.
#pragma once
#include "activation.cuh"
#include "device.cuh"

enum class Source {
    value,    // x
    act,      // fn(x)
    act_grad, // x*fn'(x2)
    glu,      // fn(x)*x2
    glu_grad, // x*x3*fn'(x2), and beside it as many columns of x*fn(x2)
};

constexpr __host__ __device__ bool doubles(Source s) { return s == Source::glu_grad; }

// source computes what it has of N columns of a row of the operands, from col on: where it has two halves N of the second behind N of the first.
template <class C, int N>
__device__ inline void source(float (&v)[doubles(C::of) ? 2 * N : N], int row, int col, const typename C::T *x, const typename C::T *x2, const typename C::T *x3) {
    constexpr Source of = C::of;
#pragma unroll
    for (int at = 0; at < N; at += C::vec) {
        float a[C::vec], b[C::vec], c[C::vec];
        load(a, x + static_cast<size_t>(row) * C::x_stride + col + at);
        if constexpr (of == Source::act_grad || of == Source::glu || of == Source::glu_grad) load(b, x2 + static_cast<size_t>(row) * C::x2_stride + col + at);
        if constexpr (of == Source::glu_grad) load(c, x3 + static_cast<size_t>(row) * C::x3_stride + col + at);
#pragma unroll
        for (int i = 0; i < C::vec; i++) {
            if constexpr (of == Source::value) v[at + i] = a[i];
            if constexpr (of == Source::act) v[at + i] = activate_fast<C::fn>(a[i]);
            if constexpr (of == Source::glu) v[at + i] = activate_fast<C::fn>(a[i]) * b[i];
            if constexpr (of == Source::act_grad || of == Source::glu_grad) {
                float slope_there;
                const float there = activate_slope_fast<C::fn>(b[i], slope_there);
                if constexpr (of == Source::act_grad) {
                    v[at + i] = a[i] * slope_there;
                } else {
                    v[at + i] = a[i] * (slope_there * c[i]);
                    v[N + at + i] = a[i] * there;
                }
            }
        }
    }
}

// usable says whether a largest magnitude is one to scale by.
__device__ inline bool usable(float amax) { return amax > 0 && amax < infinity; }

// turn_amax makes the largest magnitudes of a step those of the step before, where they are usable: history is [slots] of two floats, before
// and now.
//   Config  slots, threads        grid    x: ceil(slots / threads)
template <class C> __device__ void turn_amax(int, unsigned *history) {
    const int i = blockIdx.x * C::threads + threadIdx.x;
    if (i >= C::slots) return;
    if (usable(__uint_as_float(history[2 * i + 1]))) history[2 * i] = history[2 * i + 1];
    history[2 * i + 1] = 0;
}

// twice is what a history gives: twice the largest magnitude of the step before; 0 without one that is usable.
__device__ inline unsigned twice(const unsigned *history) {
    const float most = 2 * __uint_as_float(history[0]);
    return usable(most) ? __float_as_uint(most) : 0;
}

// Magnitudes are compared as integers, the bits of floats, which is in order, with NaN the largest of all; the maximum does not depend
// on the order of blocks.
__device__ inline unsigned warp_largest(unsigned m) {
#pragma unroll
    for (int by = warp_size / 2; by > 0; by /= 2) m = max(m, shuffle_xor(m, by));
    return m;
}

// amax raises *top, which is 0 before, to the largest magnitude of a source of rows × cols; with a history that has a largest magnitude of
// the step before, to twice that, and the source is not read.
//   Config  T, of, fn, rows, cols (of an operand), vec (divides cols, the strides and where columns start), strides, has_history, per
//           (accesses of a thread at once), stride (accesses of all threads at once), threads (a multiple of 32)
//   grid    x: stride / (per*threads)        shared: none
//   bytes   the operands once
template <class C>
__device__ void amax(int rows, unsigned *top, const typename C::T *x, const typename C::T *x2, const typename C::T *x3, const unsigned *history) {
    constexpr int accesses = C::cols / C::vec, warps = C::threads / warp_size;
    if constexpr (C::has_history) {
        if (const unsigned before = twice(history)) {
            if (blockIdx.x == 0 && threadIdx.x == 0) *top = before;
            return;
        }
    }
    __shared__ unsigned shared[warps];
    constexpr int results = doubles(C::of) ? 2 * C::vec : C::vec;
    const long long all = static_cast<long long>(rows) * accesses;
    float largest = 0;
    for (long long first = static_cast<long long>(blockIdx.x) * C::per * C::threads + threadIdx.x; first < all; first += C::stride) {
        float v[C::per][results];
#pragma unroll
        for (int k = 0; k < C::per; k++) {
            const long long i = first + k * C::threads;
#pragma unroll
            for (int j = 0; j < results; j++) v[k][j] = 0;
            if (i < all) source<C, C::vec>(v[k], static_cast<int>(i / accesses), static_cast<int>(i % accesses) * C::vec, x, x2, x3);
        }
#pragma unroll
        for (int k = 0; k < C::per; k++) {
#pragma unroll
            for (int j = 0; j < results; j++) largest = max_magnitude(largest, v[k][j]);
        }
    }
    unsigned most = __float_as_uint(largest);
    most = warp_largest(most);
    if (lane_index() == 0) shared[warp_index()] = most;
    __syncthreads();
    if (threadIdx.x != 0) return;
#pragma unroll
    for (int i = 0; i < warps; i++) most = max(most, shared[i]);
    if (most > 0) atomicMax(top, most);
}

// Scale is what a tensor is divided by, a power of two, and its reciprocal: ir.QuantizeScale.
struct Scale {
    float by, inverse;
};

// scale_of is the least power of two by which amax (its bits) may be divided and be 1.75 * 2^Top or less. Of amax that is not finite
// all numbers become NaN: zeros, too, once they are multiplied by the scale.
template <int Top> __device__ inline Scale scale_of(unsigned amax) {
    if (amax == 0) return {1, 1};
    if (amax >= 0x7f800000) return {__uint_as_float(amax), amax == 0x7f800000 ? 0.0f : __uint_as_float(amax)};
    int e = static_cast<int>(amax >> 23) - 127 - Top + ((amax & 0x7fffff) > 0x600000 ? 1 : 0);
    e = max(e, -126);
    return {__uint_as_float(static_cast<unsigned>(e + 127) << 23), __uint_as_float(static_cast<unsigned>(127 - e) << 23)};
}

// transpose4 gives the columns of four rows of four bytes.
__device__ inline void transpose4(uint32_t (&column)[4], uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
    const uint32_t ab = __byte_perm(a, b, 0x5140), cd = __byte_perm(c, d, 0x5140);
    const uint32_t ab2 = __byte_perm(a, b, 0x7362), cd2 = __byte_perm(c, d, 0x7362);
    column[0] = __byte_perm(ab, cd, 0x5410);
    column[1] = __byte_perm(ab, cd, 0x7632);
    column[2] = __byte_perm(ab2, cd2, 0x5410);
    column[3] = __byte_perm(ab2, cd2, 0x7632);
}

// quantize_side is how many rows and columns a tile of quantize_tile has.
constexpr int quantize_side = 128;

// TilePlace is where a block's tile starts, of Width columns of an operand. Blocks take tiles of 16 rows of tiles column by column: what
// they write of the transpose at one time then lies together. Halves of a tile's width are read in pieces of 128 bytes, and those are
// better read row by row.
template <int Cols, int Width = quantize_side> struct TilePlace {
    int row, col;
    __device__ inline TilePlace(int rows) {
        constexpr int across = ceil_div(Cols, Width), tall = Width < quantize_side ? 1 : 16;
        const int block = static_cast<int>(blockIdx.x), first = block / (tall * across) * tall, place = block % (tall * across);
        const int height = min(tall, ceil_div(rows, quantize_side) - first);
        row = (first + place % height) * quantize_side;
        col = place / height * Width;
    }
};

// quantize_tile: q = v * inverse in 8 bits, t its transpose [columns, rows], y the values v themselves; the history's largest magnitude of now is
// raised to that of v; sums [ceil(rows/128), columns] float get those of the tile's columns. piece(v, row, col) gives 16 values of a row: of
// Halves halves of the columns those from col on, the same number of each.
// The tile has 128 rows and 128 columns, with two halves 64 of each, and passes through shared memory as bytes; a thread works on 16 values
// at once, and reads two rows ahead. In shared memory the words of 16 rows are moved by 4 against those of the 16 before, and where there
// are two halves those of each other row by half, so that neither rows nor columns meet in a bank.
//   Config  rows, cols (of a half; both multiples of 16), vec (elements of an access to y), y_stride, e5m2 (or e4m3), has_q, has_t, has_y,
//           has_sums, has_history, threads = 256
//   shared: 16 KiB, and 4 for sums
template <class C, int Halves, class T, class F>
__device__ inline void quantize_tile(TilePlace<C::cols, quantize_side / Halves> at, int rows, float inverse, uint8_t *q, uint8_t *t, T *y, float *sums, unsigned *history,
                                     F piece) {
    constexpr int side = quantize_side, words = side / 4, passes = 4, ahead = 2, lines = side / passes, warps = C::threads / warp_size;
    constexpr int width = side / Halves, part = 16 / Halves, columns = Halves * C::cols;
    static_assert(C::threads == 256 && C::cols % 16 == 0 && C::rows % 16 == 0, "a tile is whole pieces of 16×16");
    __shared__ __align__(16) uint32_t tile[side * words];
    __shared__ unsigned largest[warps];
    __shared__ float partial[C::has_sums ? warps : 1][side];
    const int group = static_cast<int>(threadIdx.x) % 8, line = static_cast<int>(threadIdx.x) / 8;
    {
        const int col = at.col + group * part;
        float most = 0;
        float sum[C::has_sums ? 16 : 1];
        if constexpr (C::has_sums) {
#pragma unroll
            for (int i = 0; i < 16; i++) sum[i] = 0;
        }
        const auto write = [&](const float(&v)[16], int r) {
            uint32_t bytes[4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                bytes[i] = pack4<C::e5m2>(v[4 * i] * inverse, v[4 * i + 1] * inverse, v[4 * i + 2] * inverse, v[4 * i + 3] * inverse);
#pragma unroll
            for (int h = 0; h < Halves; h++) {
                Pack<uint32_t, 4 / Halves> some;
#pragma unroll
                for (int i = 0; i < 4 / Halves; i++) some.v[i] = bytes[4 / Halves * h + i];
                if constexpr (C::has_q) *reinterpret_cast<Pack<uint32_t, 4 / Halves> *>(q + static_cast<size_t>(at.row + r) * columns + h * C::cols + col) = some;
                const int word = (width * h + part * group) / 4 + r / 16 * 4 + (Halves > 1 ? r % 2 * (words / 2) : 0);
                if constexpr (C::has_t) *reinterpret_cast<Pack<uint32_t, 4 / Halves> *>(tile + r * words + word % words) = some;
            }
        };
#pragma unroll 1
        for (int pass = 0; pass < passes; pass += ahead) {
            float v[ahead][16];
#pragma unroll
            for (int k = 0; k < ahead; k++) {
                const int row = at.row + (pass + k) * lines + line;
                if (row < rows && col < C::cols) piece(v[k], row, col);
            }
#pragma unroll
            for (int k = 0; k < ahead; k++) {
                const int r = (pass + k) * lines + line, row = at.row + r;
                if (row >= rows || col >= C::cols) continue;
                if constexpr (C::has_sums) {
#pragma unroll
                    for (int i = 0; i < 16; i++) sum[i] += v[k][i];
                }
                if constexpr (C::has_y) {
#pragma unroll
                    for (int j = 0; j < 16; j += C::vec) {
                        float some[C::vec];
#pragma unroll
                        for (int i = 0; i < C::vec; i++) some[i] = v[k][j + i];
                        store(y + static_cast<size_t>(row) * C::y_stride + j / part * C::cols + col + j % part, some);
                    }
                }
#pragma unroll
                for (int i = 0; i < 16; i++) most = max_magnitude(most, v[k][i]);
                write(v[k], r);
            }
        }
        if (!(most < infinity)) { // an infinity must not saturate: it becomes NaN
#pragma unroll 1
            for (int r = line; r < side && at.row + r < rows; r += lines) {
                float v[16];
                piece(v, at.row + r, col);
#pragma unroll
                for (int i = 0; i < 16; i++) v[i] -= v[i] - v[i];
                write(v, r);
            }
        }
        if constexpr (C::has_history) {
            const unsigned of_warp = warp_largest(__float_as_uint(most));
            if (lane_index() == 0) largest[warp_index()] = of_warp;
        }
        if constexpr (C::has_sums) {
#pragma unroll
            for (int i = 0; i < 16; i++) {
#pragma unroll
                for (int by = warp_size / 2; by >= 8; by /= 2) sum[i] += shuffle_xor(sum[i], by); // of the lines of a warp
                if (lane_index() < 8) partial[warp_index()][i / part * width + group * part + i % part] = sum[i];
            }
        }
    }
    if constexpr (C::has_t || C::has_history || C::has_sums) __syncthreads();
    const auto out = [&](int c) { return c / width * C::cols + at.col + c % width; }; // the column in the result of the tile's c-th
    if constexpr (C::has_sums) {
        const int c = threadIdx.x;
        if (c < side && at.col + c % width < C::cols) {
            float sum = 0;
#pragma unroll
            for (int i = 0; i < warps; i++) sum += partial[i][c];
            sums[static_cast<size_t>(at.row / side) * columns + out(c)] = sum;
        }
    }
    if constexpr (C::has_history) {
        if (threadIdx.x == 0) {
            unsigned most = 0;
#pragma unroll
            for (int i = 0; i < warps; i++) most = max(most, largest[i]);
            if (most > __ldcg(history + 1)) atomicMax(history + 1, most);
        }
    }
    if constexpr (C::has_t) {
        const int row = at.row + group * 16; // 16 rows of 4 columns
        if (row >= rows || at.col + line * 4 % width >= C::cols) return;
        Pack<uint32_t, 4> column[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint32_t w[4], four[4];
#pragma unroll
            for (int j = 0; j < 4; j++) w[j] = tile[(group * 16 + 4 * k + j) * words + (line + 4 * group + (Halves > 1 ? j % 2 * (words / 2) : 0)) % words];
            transpose4(four, w[0], w[1], w[2], w[3]);
#pragma unroll
            for (int i = 0; i < 4; i++) column[i].v[k] = four[i];
        }
#pragma unroll
        for (int i = 0; i < 4; i++) *reinterpret_cast<Pack<uint32_t, 4> *>(t + static_cast<size_t>(out(line * 4) + i) * rows + row) = column[i];
    }
}

// quantize: q = source / scale in 8 bits, t its transpose [columns, rows], scale from what the history gives, or where that is nothing from
// *amax, or where that is null for 0; y the source itself; the history's largest magnitude of now is raised to that of the source; sums
// [ceil(rows/128), columns] float get those of each tile's columns, for add_partials.
//   Config  T, of, fn, rows, cols (of an operand), vec (divides cols, the strides and where columns start), strides, and those of quantize_tile
//   grid    x: ceil(rows/128) * ceil(cols/128), or ceil(cols/64) where the source has two halves        shared: quantize_tile's
//   bytes   the operands once, q, t, y and sums once
template <class C>
__device__ void quantize(int rows, uint8_t *q, uint8_t *t, float *scale, typename C::T *y, float *sums, const typename C::T *x, const typename C::T *x2,
                         const typename C::T *x3, const unsigned *amax, unsigned *history) {
    constexpr int halves = doubles(C::of) ? 2 : 1;
    unsigned most = 0;
    if constexpr (C::has_history) most = twice(history);
    const Scale s = scale_of<C::e5m2 ? 15 : 8>(most == 0 && amax != nullptr ? *amax : most);
    if (blockIdx.x == 0 && threadIdx.x == 0) *scale = s.by;
    const TilePlace<C::cols, quantize_side / halves> at(rows);
    quantize_tile<C, halves>(at, rows, s.inverse, q, t, y, sums, history, [&](float (&v)[16], int row, int col) { source<C, 16 / halves>(v, row, col, x, x2, x3); });
}

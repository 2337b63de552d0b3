// Operands of products in 8 bits: a tensor divided by a scale and rounded, as it lies and with its rows as columns.
#pragma once
#include "device.cuh"

// amax raises *top to the largest magnitude in x [rows, cols], a NaN being the largest of all: magnitudes are compared as integers,
// which is in order, and whose maximum does not depend on the order of blocks. *top is 0 before.
//   Config  T, rows, cols, vec (divides cols, the stride and where columns start), x_stride, per (accesses of a thread), threads (a
//           multiple of 32)
//   grid    x: ceil(rows*cols/vec / (per*threads))        shared: none
//   bytes   x once
template <class C> __device__ void amax(int rows, unsigned *top, const typename C::T *x) {
    constexpr int accesses = C::cols / C::vec, warps = C::threads / warp_size;
    __shared__ unsigned shared[warps];
    const long long first = static_cast<long long>(blockIdx.x) * C::per * C::threads + threadIdx.x, all = static_cast<long long>(rows) * accesses;
    float v[C::per][C::vec];
#pragma unroll
    for (int k = 0; k < C::per; k++) {
        const long long i = first + k * C::threads;
#pragma unroll
        for (int j = 0; j < C::vec; j++) v[k][j] = 0;
        if (i < all) load(v[k], x + static_cast<size_t>(i / accesses) * C::x_stride + i % accesses * C::vec);
    }
    unsigned most = 0;
#pragma unroll
    for (int k = 0; k < C::per; k++) {
#pragma unroll
        for (int j = 0; j < C::vec; j++) most = max(most, __float_as_uint(v[k][j]) & 0x7fffffff);
    }
#pragma unroll
    for (int m = warp_size / 2; m > 0; m /= 2) most = max(most, shuffle_xor(most, m));
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

// quantize: q = x / scale in 8 bits, t its transpose [cols, rows], scale from *amax. A block has a tile of 128×128, which passes through
// shared memory as bytes; a thread reads and writes 16 of them at once. In the tile the words of 16 rows are moved by 4 against those
// of the 16 before, so that neither rows nor columns meet in a bank.
//   Config  T, rows, cols (multiples of 16), vec (divides the stride and where columns start), x_stride, e5m2 (or e4m3), has_q, has_t,
//           threads = 256
//   grid    x: ceil(rows/128) * ceil(cols/128)        shared: 16 KiB
//   bytes   x once, q and t once
template <class C> __device__ void quantize(int rows, uint8_t *q, uint8_t *t, float *scale, const typename C::T *x, const unsigned *amax) {
    constexpr int side = 128, words = side / 4, passes = 4, lines = side / passes, across = (C::cols + side - 1) / side;
    static_assert(C::threads == 256 && C::cols % 16 == 0 && C::rows % 16 == 0, "a tile is whole pieces of 16×16");
    __shared__ __align__(16) uint32_t tile[side * words];
    const Scale s = scale_of<C::e5m2 ? 15 : 8>(*amax);
    if (blockIdx.x == 0 && threadIdx.x == 0) *scale = s.by;
    const int row0 = static_cast<int>(blockIdx.x) / across * side, col0 = static_cast<int>(blockIdx.x) % across * side;
    const int group = static_cast<int>(threadIdx.x) % 8, line = static_cast<int>(threadIdx.x) / 8;
    {
        const int col = col0 + group * 16;
        float v[passes][16];
#pragma unroll
        for (int k = 0; k < passes; k++) {
            const int row = row0 + k * lines + line;
            if (row < rows && col < C::cols) {
#pragma unroll
                for (int j = 0; j < 16; j += C::vec) {
                    float part[C::vec];
                    load(part, x + static_cast<size_t>(row) * C::x_stride + col + j);
#pragma unroll
                    for (int i = 0; i < C::vec; i++) v[k][j + i] = part[i];
                }
            }
        }
#pragma unroll
        for (int k = 0; k < passes; k++) {
            const int r = k * lines + line, row = row0 + r;
            if (row >= rows || col >= C::cols) continue;
            Pack<uint32_t, 4> bytes;
#pragma unroll
            for (int i = 0; i < 4; i++)
                bytes.v[i] = pack4<C::e5m2>(v[k][4 * i] * s.inverse, v[k][4 * i + 1] * s.inverse, v[k][4 * i + 2] * s.inverse, v[k][4 * i + 3] * s.inverse);
            if constexpr (C::has_q) *reinterpret_cast<Pack<uint32_t, 4> *>(q + static_cast<size_t>(row) * C::cols + col) = bytes;
            if constexpr (C::has_t) *reinterpret_cast<Pack<uint32_t, 4> *>(tile + r * words + (4 * group + r / 16 * 4) % words) = bytes;
        }
    }
    if constexpr (C::has_t) {
        __syncthreads();
        const int row = row0 + group * 16, col = col0 + line * 4; // 16 rows of 4 columns
        if (row >= rows || col >= C::cols) return;
        Pack<uint32_t, 4> column[4];
#pragma unroll
        for (int k = 0; k < 4; k++) {
            uint32_t w[4], across4[4];
#pragma unroll
            for (int j = 0; j < 4; j++) w[j] = tile[(group * 16 + 4 * k + j) * words + (line + 4 * group) % words];
            transpose4(across4, w[0], w[1], w[2], w[3]);
#pragma unroll
            for (int i = 0; i < 4; i++) column[i].v[k] = across4[i];
        }
#pragma unroll
        for (int i = 0; i < 4; i++) *reinterpret_cast<Pack<uint32_t, 4> *>(t + static_cast<size_t>(col + i) * rows + row) = column[i];
    }
}

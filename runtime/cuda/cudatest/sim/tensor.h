// The tensor cores and asynchronous copies, as device.cuh describes them.
#pragma once

// pack2 rounds two floats into a register, lo in the low half.
template <class T> inline uint32_t pack2(float lo, float hi);
template <> inline uint32_t pack2<bf16>(float lo, float hi) { return __float2bfloat16_rn(lo).bits | uint32_t(__float2bfloat16_rn(hi).bits) << 16; }
template <> inline uint32_t pack2<half>(float lo, float hi) { return __float2half_rn(lo).bits | uint32_t(__float2half_rn(hi).bits) << 16; }

namespace tfc_sim {

// MMA is what a lane hands in, and takes back with the new d.
struct MMA {
    float d[4];
    uint32_t a[4], b[2];
};

template <bool is_half> inline void finish_mma(Warp &w, int parity) {
    if (w.arrived != 0xffffffffu) fail("mma by a part of a warp");
    worker().services->mma(w, parity, is_half);
}

template <bool is_half> inline void mma(const char *kind, float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    const MMA in{{d[0], d[1], d[2], d[3]}, {a[0], a[1], a[2], a[3]}, {b0, b1}};
    const Meeting m = meet(kind, in, finish_mma<is_half>);
    memcpy(d, m.warp.exchange[m.parity][m.lane], sizeof d);
}

// finish_matrices is what the last lane of a ldmatrix does for all: row r of matrix i is where lane 8*i+r says.
template <bool transposed> inline void finish_matrices(Warp &w, int parity) {
    if (w.arrived != 0xffffffffu) fail("ldmatrix by a part of a warp");
    uint16_t x[4][8][8];
    for (int i = 0; i < 32; i++) {
        const void *row;
        memcpy(&row, w.exchange[parity][i], sizeof row);
        if (reinterpret_cast<uintptr_t>(row) % 16 != 0) fail("ldmatrix: the row of lane %d is not aligned to 16 bytes", {nullptr, 0}, i);
        memcpy(x[i / 8][i % 8], row, 16);
    }
    for (int lane = 0; lane < 32; lane++) {
        const int r = lane / 4, c = 2 * (lane % 4);
        uint32_t out[4];
        for (int i = 0; i < 4; i++)
            out[i] = transposed ? x[i][c][r] | uint32_t(x[i][c + 1][r]) << 16 : x[i][r][c] | uint32_t(x[i][r][c + 1]) << 16;
        memcpy(w.exchange[parity][lane], out, sizeof out);
    }
}

// StoredMatrices is what a lane hands to stmatrix: where row lane%8 of matrix lane/8 goes, or column where they are transposed, and two elements of each matrix.
struct StoredMatrices {
    void *row;
    uint32_t r[4];
};

// finish_stores is finish_matrices the other way.
template <bool transposed> inline void finish_stores(Warp &w, int parity) {
    if (w.arrived != 0xffffffffu) fail("stmatrix by a part of a warp");
    uint16_t x[4][8][8];
    void *rows[32];
    for (int lane = 0; lane < 32; lane++) {
        StoredMatrices in;
        memcpy(&in, w.exchange[parity][lane], sizeof in);
        if (reinterpret_cast<uintptr_t>(in.row) % 16 != 0) fail("stmatrix: the row of lane %d is not aligned to 16 bytes", {nullptr, 0}, lane);
        rows[lane] = in.row;
        for (int i = 0; i < 8; i++) {
            const int r = lane / 4, c = lane % 4 * 2 + i % 2;
            (transposed ? x[i / 2][c][r] : x[i / 2][r][c]) = uint16_t(in.r[i / 2] >> i % 2 * 16);
        }
    }
    for (int lane = 0; lane < 32; lane++) memcpy(rows[lane], x[lane / 8][lane % 8], 16);
}

} // namespace tfc_sim

// mma is D += A·B for one warp, m16n8k16.
template <class T> inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <> inline void mma<bf16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    tfc_sim::mma<false>("mma of bf16", d, a, b0, b1);
}
template <> inline void mma<half>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    tfc_sim::mma<true>("mma of half", d, a, b0, b1);
}

inline void ldmatrix(uint32_t (&r)[4], const void *row) {
    const tfc_sim::Meeting m = tfc_sim::meet("ldmatrix", row, tfc_sim::finish_matrices<false>);
    memcpy(r, m.warp.exchange[m.parity][m.lane], sizeof r);
}
inline void ldmatrix_transposed(uint32_t (&r)[4], const void *row) {
    const tfc_sim::Meeting m = tfc_sim::meet("ldmatrix_transposed", row, tfc_sim::finish_matrices<true>);
    memcpy(r, m.warp.exchange[m.parity][m.lane], sizeof r);
}
inline void stmatrix(void *row, const uint32_t (&r)[4]) {
    tfc_sim::meet("stmatrix", tfc_sim::StoredMatrices{row, {r[0], r[1], r[2], r[3]}}, tfc_sim::finish_stores<false>);
}
inline void stmatrix_transposed(void *row, const uint32_t (&r)[4]) {
    tfc_sim::meet("stmatrix_transposed", tfc_sim::StoredMatrices{row, {r[0], r[1], r[2], r[3]}}, tfc_sim::finish_stores<true>);
}

// copy_async lands as late as it may: when a wait asks for it. Until then its 16 bytes are NaNs.
inline void copy_async(void *shared, const void *global, bool valid) {
    tfc_sim::worker().services->copy_begin(tfc_sim::fiber(), shared, global, valid);
}
inline void copy_async_commit() { tfc_sim::worker().services->copy_commit(tfc_sim::fiber()); }
template <int N> inline void copy_async_wait() { tfc_sim::worker().services->copy_wait(tfc_sim::fiber(), N); }

// Products of a warpgroup, warp by warp and at once. A Matrix is an address. A product ends when all four warps have come to it: a wait
// for it is where they meet.
using Matrix = unsigned long long;

inline Matrix matrix_at(const void *tile) { return reinterpret_cast<uintptr_t>(tile); }
inline Matrix matrix_moved(Matrix m, int bytes) { return m + bytes; }

inline void fence_async() {}
inline void wgmma_begin() {}
inline void wgmma_commit() {}
template <int> inline void wgmma_wait() {
    tfc_sim::worker().services->group_barrier(tfc_sim::worker(), tfc_sim::fiber(), 16 + int(threadIdx.x) / 128, 128);
}
inline void wgmma_done(float (&)[8][4]) {}
inline void wgmma_fresh(float (&d)[8][4]) {
    for (auto &columns : d)
        for (float &v : columns) v = __builtin_nanf("");
}

namespace tfc_sim {

// element is 16 bits at a row and column from where m points, in a swizzled panel: bits 4 to 6 of an address change with bits 7 to 9.
inline uint32_t element(Matrix m, int row, int col) {
    const uintptr_t at = m + row * 128 + col * 2;
    uint16_t bits;
    memcpy(&bits, reinterpret_cast<const void *>(at ^ (at >> 7 & 7) << 4), sizeof bits);
    return bits;
}

// byte is one of such a row.
inline uint8_t byte(Matrix m, int row, int col) {
    const uintptr_t at = m + row * 128 + col;
    return *reinterpret_cast<const uint8_t *>(at ^ (at >> 7 & 7) << 4);
}

// e4m3 is a number of 8 bits: with 3 behind the first, no infinity, and NaN where all bits but the sign are set.
inline float e4m3(uint8_t bits) {
    const uint32_t wide = uint32_t(bits & 127) << 20; // as a float, but for the bias of the exponent
    float x;
    memcpy(&x, &wide, sizeof x);
    x = (bits & 127) == 127 ? __builtin_nanf("") : x * 0x1p120f;
    return bits & 128 ? -x : x;
}

} // namespace tfc_sim

template <class T> inline void wgmma(float (&d)[8][4], Matrix a, Matrix b, bool add) {
    const int lane = threadIdx.x % 32, row = lane / 4, col = lane % 4 * 2, first = threadIdx.x / 32 % 4 * 16;
    auto pair = [&](Matrix m, int r, int c) { return tfc_sim::element(m, r, c) | tfc_sim::element(m, r, c + 1) << 16; };
    const uint32_t x[4] = {pair(a, first + row, col), pair(a, first + row + 8, col), pair(a, first + row, col + 8), pair(a, first + row + 8, col + 8)};
    for (int n = 0; n < 8; n++) {
        if (!add) d[n][0] = d[n][1] = d[n][2] = d[n][3] = 0;
        mma<T>(d[n], x, pair(b, 8 * n + row, col), pair(b, 8 * n + row, col + 8));
    }
}

template <class T> inline void wgmma_rows(float (&d)[8][4], const uint32_t (&a)[4], Matrix b) {
    const int lane = threadIdx.x % 32, column = lane / 4, k = lane % 4 * 2;
    auto pair = [&](int r, int c) { return tfc_sim::element(b, r, c) | tfc_sim::element(b, r + 1, c) << 16; };
    for (int n = 0; n < 8; n++) mma<T>(d[n], a, pair(k, 8 * n + column), pair(k + 8, 8 * n + column));
}

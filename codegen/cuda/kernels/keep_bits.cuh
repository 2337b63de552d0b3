// What the bodies of attention on tensor cores share: when sums are rescaled, and dropout's decisions as bits of a fragment.
#pragma once
#include "attention.cuh"

// exponents_rise is how much (in powers of two) a row's scores may outgrow the maximum that was subtracted from them before
// the sums are rescaled: probabilities stay far from overflow, and nearly no step has to rescale.
constexpr float exponents_rise = 8;

// keep_bits gives dropout's decisions for a warp's 16 × 8N accumulators: bit 4n+e is for element e of accumulator n. Rows are
// queries from i on and columns keys from j on, or the other way round where Keys is set.
template <bool Keys, int N, class D> __device__ inline uint32_t keep_bits(const D &drops, int i, int j) {
    static_assert(N <= 8, "a word has 32 bits");
    const int lane = lane_index(), row = lane / 4, col = lane % 4 * 2;
    uint32_t bits = 0;
    if constexpr (!D::aligned) {
#pragma unroll
        for (int b = 0; b < 4 * N; b++) {
            const int down = row + b % 4 / 2 * 8, along = b / 4 * 8 + col + b % 2;
            bits |= (drops.keep(i + (Keys ? along : down), j + (Keys ? down : along)) ? 1u : 0u) << b;
        }
    } else if constexpr (!Keys) {
        // Two lanes share four keys of two queries: each draws for one query.
        const bool odd = lane % 2 != 0;
        uint32_t mine = 0;
#pragma unroll
        for (int n = 0; n < N; n++) mine |= drops.nibble(i + row + (odd ? 8 : 0), j + n * 8 + lane % 4 / 2 * 4) << (4 * n);
        const uint32_t theirs = shuffle_xor(mine, 1);
        const uint32_t upper = odd ? theirs >> 2 : mine, lower = odd ? mine >> 2 : theirs;
        bits = (upper & 0x33333333u) | (lower & 0x33333333u) << 2;
    } else {
        // Four lanes share four keys, twice, of two queries: lane s draws for the query and the keys of element s.
        const int s = lane / 4 % 4;
        uint32_t mine = 0;
#pragma unroll
        for (int n = 0; n < N; n++) mine |= drops.nibble(i + n * 8 + col + s % 2, j + lane / 16 * 4 + s / 2 * 8) << (4 * n);
#pragma unroll
        for (int x = 0; x < 4; x++) {
            const uint32_t theirs = x == 0 ? mine : shuffle_xor(mine, 4 * x);
            bits |= (theirs >> s & 0x11111111u) << (s ^ x);
        }
    }
    return bits;
}

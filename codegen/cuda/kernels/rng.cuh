// The counter-based random numbers of package runtime/rng, bit for bit: Philox4x32-10 (Salmon, Moraes, Dror, Shaw,
// "Parallel Random Numbers: As Easy as 1, 2, 3", SC 2011). A number depends on its key and index alone, so a gradient
// draws the mask of its forward pass again instead of reading it.
#pragma once
#include "device.cuh"
#include "state.cuh"

// Words are the four numbers of one block of a stream.
struct Words {
    uint32_t w[4];
};

// Key names one stream: the run's seed and step, the place in the program that draws, the micro-batch and the layer.
struct Key {
    uint32_t seed_low, seed_high, step, stream, place;

    __device__ Key(const State *state, uint32_t stream, uint32_t micro, uint32_t layer)
        : seed_low(static_cast<uint32_t>(state->seed)), seed_high(static_cast<uint32_t>(state->seed >> 32)), step(state->step),
          stream(stream), place(micro << 16 | (layer & 0xffffu)) {}

    // block gives numbers 4*i … 4*i+3.
    __device__ Words block(unsigned long long i) const {
        uint32_t c0 = static_cast<uint32_t>(i), c1 = step, c2 = stream, c3 = place;
        uint32_t k0 = seed_low, k1 = seed_high ^ static_cast<uint32_t>(i >> 32);
#pragma unroll
        for (int round = 0; round < 10; round++) {
            const unsigned long long a = 0xD2511F53ull * c0, b = 0xCD9E8D57ull * c2;
            c0 = static_cast<uint32_t>(b >> 32) ^ c1 ^ k0;
            c2 = static_cast<uint32_t>(a >> 32) ^ c3 ^ k1;
            c1 = static_cast<uint32_t>(b);
            c3 = static_cast<uint32_t>(a);
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
        return {{c0, c1, c2, c3}};
    }

    // number gives number i. Whoever needs more than one of a block draws the block.
    __device__ uint32_t number(unsigned long long i) const {
        const Words b = block(i / 4);
        const uint32_t low = i % 2 ? b.w[1] : b.w[0], high = i % 2 ? b.w[3] : b.w[2];
        return i % 4 < 2 ? low : high;
    }

    // keep says whether dropout with the given threshold (drop_threshold) keeps element i.
    __device__ bool keep(unsigned long long i, uint32_t threshold) const { return number(i) >= threshold; }
};

// drop_threshold is the least number that dropout with probability p, in [0, 1), keeps. runtime/rng keeps a number w
// where float32(w>>8) * 2^-24 >= p, and both sides times 2^24 are exact: that is w>>8 >= ceil(p * 2^24).
constexpr __host__ __device__ uint32_t drop_threshold(float p) {
    const float scaled = p * 16777216.0f;
    const uint32_t floor = static_cast<uint32_t>(scaled);
    return (floor + (static_cast<float>(floor) < scaled ? 1u : 0u)) << 8;
}

// keep_factor is what a kept element is multiplied by: 1/(1-p), rounded as the CPU kernels round it.
constexpr __host__ __device__ float keep_factor(float p) { return 1.0f / (1.0f - p); }

// keep_factors gives the dropout factor, keep_factor(p) or 0, of N elements from element `first` on, a multiple of N;
// N is 1, 2, 4 or a multiple of 4.
template <int N> __device__ inline void keep_factors(float (&factor)[N], const Key &key, unsigned long long first, float p) {
    const uint32_t threshold = drop_threshold(p);
    const float kept = keep_factor(p);
    if constexpr (N == 1) {
        factor[0] = key.keep(first, threshold) ? kept : 0.0f;
    } else if constexpr (N == 2) {
        const Words b = key.block(first / 4);
        const bool upper = first % 4 != 0;
        factor[0] = (upper ? b.w[2] : b.w[0]) >= threshold ? kept : 0.0f;
        factor[1] = (upper ? b.w[3] : b.w[1]) >= threshold ? kept : 0.0f;
    } else {
        static_assert(N % 4 == 0, "whole blocks");
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            const Words b = key.block(first / 4 + i / 4);
#pragma unroll
            for (int j = 0; j < 4; j++) factor[i + j] = b.w[j] >= threshold ? kept : 0.0f;
        }
    }
}

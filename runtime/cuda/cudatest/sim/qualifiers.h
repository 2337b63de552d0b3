// CUDA's qualifiers and vector types.
#pragma once

#define __global__
#define __device__
#define __host__
#define __constant__ static const
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __grid_constant__
#define __align__(n) __attribute__((aligned(n)))

// A library's thread-local memory is its static shared memory: an OS thread runs one block at a time, and the runner
// poisons all of it before each block. A __shared__ array has no initialiser and holds trivial types.
#define __shared__ static thread_local

// SHARED_DYNAMIC declares the block's dynamic shared memory, aligned to 128 bytes.
#define SHARED_DYNAMIC(name) unsigned char *const name = ::tfc_sim::worker().dynamic_shared
#define SHARED_PANELS(name) SHARED_DYNAMIC(name)

struct uint3 {
    unsigned x, y, z;
};
struct dim3 {
    unsigned x = 1, y = 1, z = 1;
};

#define TFC_SIM_VECTOR(scalar, name, align2, align4)                                        \
    struct alignas(align2) name##2 {                                                        \
        scalar x, y;                                                                        \
    };                                                                                      \
    struct alignas(align4) name##4 {                                                        \
        scalar x, y, z, w;                                                                  \
    };                                                                                      \
    inline name##2 make_##name##2(scalar x, scalar y) { return {x, y}; }                    \
    inline name##4 make_##name##4(scalar x, scalar y, scalar z, scalar w) { return {x, y, z, w}; }

TFC_SIM_VECTOR(float, float, 8, 16)
TFC_SIM_VECTOR(int, int, 8, 16)
TFC_SIM_VECTOR(unsigned, uint, 8, 16)
TFC_SIM_VECTOR(unsigned short, ushort, 4, 8)
#undef TFC_SIM_VECTOR

#define threadIdx (::tfc_sim::fiber().thread)
#define blockIdx (::tfc_sim::worker().block_index)
#define blockDim (::tfc_sim::worker().block_size)
#define gridDim (::tfc_sim::worker().grid_size)
#define warpSize 32

// Fragments of the tensor cores loaded from memory without shared memory.
//
// The inner index of a product may be taken in any order, so long as both operands take the same one. In a fragment of
// mma.m16n8k16 lane 4*g+c holds elements 2c, 2c+1 and 2c+8, 2c+9 of row g. Let those of two products, one after the other,
// be the eight elements 8c … 8c+7 of a row: then what a lane holds of 32 columns of a row is 16 bytes side by side, one
// access, and four lanes read 64 bytes of the row.
#pragma once
#include "device.cuh"

// Chunk is eight elements of 16 bits: words 0 and 1 belong to the first product, 2 and 3 to the second.
using Chunk = Pack<uint32_t, 4>;

// load_chunk reads the chunk at p, aligned to 16 bytes, or gives zeros where valid is false.
template <class T> __device__ inline Chunk load_chunk(const T *p, bool valid) {
    static_assert(sizeof(T) == 2, "elements of 16 bits");
    return valid ? *reinterpret_cast<const Chunk *>(p) : Chunk{{0, 0, 0, 0}};
}

// stream_chunk is load_chunk of what no other warp of the processor reads: it passes by the first cache.
template <class T> __device__ inline Chunk stream_chunk(const T *p, bool valid) {
    static_assert(sizeof(T) == 2, "elements of 16 bits");
    if (!valid) return Chunk{{0, 0, 0, 0}};
    const uint4 u = __ldcg(reinterpret_cast<const uint4 *>(p));
    return Chunk{{u.x, u.y, u.z, u.w}};
}

// The key-value cache of generation: keys and values of every position of every slot, each [slots, context,
// kv_heads*head_dim] in T. A slot serves one sequence. Row n of q, k, v and o is the token at position positions[n] of slot
// slots[n]; both are read on the device, so that a captured graph serves every step.
//
// Attention over the cache (attention_cached of package ir) stores every row's k and v first. Then each row attends to the
// positions of its slot that Mask allows, from 0 to the last one that this call stored.
//
//   Config  T, Mask (mask.cuh), rows, heads, kv_heads, head_dim
//           context    positions of a slot
//           own_slots  whether all rows of a call have different slots, as those of a decode step do
//           q_stride, k_stride, v_stride, o_stride
//           scale, softcap, alibi, slopes   as in attention.cuh
//           vec        elements of an access to q, k, v, o and the cache
#pragma once
#include "attention.cuh"

// kv_append stores k and v [rows, kv_heads*head_dim] in the cache.
//
//   grid    x: any, best ceil(rows*kv_heads*head_dim/vec / threads)     threads: any     shared: none
//   bytes   k and v, read and written
template <class C>
__device__ void kv_append(int rows, typename C::T *k_cache, typename C::T *v_cache, const typename C::T *k, const typename C::T *v,
                          const int *positions, const int *slots) {
    using P = Pack<typename C::T, C::vec>;
    constexpr int width = C::kv_heads * C::head_dim, accesses = width / C::vec;
    for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < rows * accesses; i += gridDim.x * blockDim.x) {
        const int row = i / accesses, col = i % accesses * C::vec;
        const size_t to = (static_cast<size_t>(slots[row]) * C::context + positions[row]) * width + col;
        *reinterpret_cast<P *>(k_cache + to) = *reinterpret_cast<const P *>(k + static_cast<size_t>(row) * C::k_stride + col);
        *reinterpret_cast<P *>(v_cache + to) = *reinterpret_cast<const P *>(v + static_cast<size_t>(row) * C::v_stride + col);
    }
}

// CachedRow is one row of a decode step, and the keys that it may attend to.
struct CachedRow {
    int position, slot;
    Range keys;
};

// cached_row reads row `row`. Whole warps call it.
template <class C> __device__ inline CachedRow cached_row(int row, int rows, const int *positions, const int *slots) {
    using M = typename C::Mask;
    const int position = positions[row], slot = slots[row];
    int length = position + 1; // of what is stored and may be allowed
    if constexpr (!C::own_slots && !M::past_only) {
        for (int n = lane_index(); n < rows; n += warp_size)
            if (slots[n] == slot) length = max(length, positions[n] + 1);
#pragma unroll
        for (int m = 1; m < warp_size; m *= 2) length = max(length, shuffle_xor(length, m));
    }
    return {position, slot, intersection(M::key_range(position, position + 1), Range{0, length})};
}

// What every kernel stands on: element types, wide loads and stores, reductions over warps and blocks, and the tensor
// cores. Inline PTX is here, and in hopper.cuh. With TFC_SIM defined the same names come from the simulator (sim.h), which runs kernels
// on a CPU for tests.
#pragma once

#ifdef TFC_SIM
#include "sim.h"
#else
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <stdint.h>
using bf16 = __nv_bfloat16;

// SHARED_DYNAMIC declares, in a body, name as the block's dynamic shared memory: unsigned char, aligned to 128 bytes.
#define SHARED_DYNAMIC(name) extern __shared__ __align__(128) unsigned char name[]
// SHARED_PANELS is the same, aligned to 1024 bytes.
#define SHARED_PANELS(name) extern __shared__ __align__(1024) unsigned char name##_panels[]; unsigned char *const name = name##_panels
#endif

constexpr int warp_size = 32;
constexpr float infinity = __builtin_huge_valf();
constexpr float log2_e = 1.4426950408889634f;

constexpr __host__ __device__ int ceil_div(int a, int b) { return (a + b - 1) / b; }
constexpr __host__ __device__ int round_up(int a, int b) { return ceil_div(a, b) * b; }

// Element types. Arithmetic is in float; conversions round to nearest even.
__device__ inline float to_float(float x) { return x; }
__device__ inline float to_float(bf16 x) { return __bfloat162float(x); }
__device__ inline float to_float(half x) { return __half2float(x); }

template <class T> constexpr bool is_bf16 = false;
template <> constexpr bool is_bf16<bf16> = true;

template <class T> __device__ inline T from_float(float x);
template <> __device__ inline float from_float<float>(float x) { return x; }
template <> __device__ inline bf16 from_float<bf16>(float x) { return __float2bfloat16_rn(x); }
template <> __device__ inline half from_float<half>(float x) { return __float2half_rn(x); }

// Pack is N elements that are loaded and stored at once.
template <class T, int N> struct alignas(sizeof(T) * N) Pack {
    T v[N];
};

// load reads N elements at p, which is aligned to all of them, as floats.
template <int N, class T> __device__ inline void load(float (&out)[N], const T *p) {
    static_assert(sizeof(T) * N <= 32, "an access has 32 bytes at most");
    constexpr int per = sizeof(T) * N > 16 ? N / 2 : N; // one instruction moves 16 bytes
#pragma unroll
    for (int at = 0; at < N; at += per) {
        const Pack<T, per> x = *reinterpret_cast<const Pack<T, per> *>(p + at);
#pragma unroll
        for (int i = 0; i < per; i++) out[at + i] = to_float(x.v[i]);
    }
}

// store writes N floats to p, which is aligned to all of them.
template <int N, class T> __device__ inline void store(T *p, const float (&in)[N]) {
    constexpr int per = sizeof(T) * N > 16 ? N / 2 : N;
#pragma unroll
    for (int at = 0; at < N; at += per) {
        Pack<T, per> x;
#pragma unroll
        for (int i = 0; i < per; i++) x.v[i] = from_float<T>(in[at + i]);
        *reinterpret_cast<Pack<T, per> *>(p + at) = x;
    }
}

__device__ inline int lane_index() { return threadIdx.x % warp_size; }
__device__ inline int warp_index() { return threadIdx.x / warp_size; }

// Whole warps take part in what follows.
template <class V> __device__ inline V shuffle(V x, int from) { return __shfl_sync(0xffffffffu, x, from); }
template <class V> __device__ inline V shuffle_xor(V x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
template <class V> __device__ inline V shuffle_up(V x, int by) { return __shfl_up_sync(0xffffffffu, x, by); }
__device__ inline uint32_t votes(bool p) { return __ballot_sync(0xffffffffu, p); }

// warp_sum gives every lane the sum over groups of Width lanes, in an order that does not depend on the lane.
template <int Width = warp_size> __device__ inline float warp_sum(float x) {
#pragma unroll
    for (int m = Width / 2; m > 0; m /= 2) x += shuffle_xor(x, m);
    return x;
}

template <int Width = warp_size> __device__ inline float warp_max(float x) {
#pragma unroll
    for (int m = Width / 2; m > 0; m /= 2) x = fmaxf(x, shuffle_xor(x, m));
    return x;
}

// block_sum gives every thread of a block of Threads the sum, in a fixed order. shared has a float for each warp and may
// be used again after the next __syncthreads.
template <int Threads> __device__ inline float block_sum(float x, float *shared) {
    constexpr int warps = Threads / warp_size;
    x = warp_sum(x);
    if constexpr (warps > 1) {
        if (lane_index() == 0) shared[warp_index()] = x;
        __syncthreads();
        x = 0;
#pragma unroll
        for (int i = 0; i < warps; i++) x += shared[i];
        __syncthreads();
    }
    return x;
}

template <int Threads> __device__ inline float block_max(float x, float *shared) {
    constexpr int warps = Threads / warp_size;
    x = warp_max(x);
    if constexpr (warps > 1) {
        if (lane_index() == 0) shared[warp_index()] = x;
        __syncthreads();
        x = -infinity;
#pragma unroll
        for (int i = 0; i < warps; i++) x = fmaxf(x, shared[i]);
        __syncthreads();
    }
    return x;
}

#ifndef TFC_SIM

// A grid may start while the one before it on its stream still runs (programmatic dependent launch, from sm_90 on). grid_release lets the
// next one start, as far as there is room beside this one, once all blocks of this one have called it or ended. grid_wait waits until the
// grid before has ended, and with it all earlier ones, and what they wrote can be read. Every thread calls it, before it writes to memory
// and before it reads what a kernel of the same stream may write: the entry does, unless the body has work to do before.
__device__ inline void grid_release() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
__device__ inline void grid_wait() {
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// prefetch has Bytes from p on, which no kernel before writes, brought to the second cache, by the first block.
template <int Bytes> __device__ inline void prefetch(const void *p) {
    const char *const line = static_cast<const char *>(p) + threadIdx.x * 128;
    if (blockIdx.x == 0 && threadIdx.x * 128 < Bytes) asm volatile("prefetch.global.L2 [%0];" ::"l"(line));
}

// exp2_fast is 2^x to 2 units in the last place (ex2.approx.ftz); -infinity gives 0.
__device__ inline float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// reciprocal_fast is 1/x to a unit in the last place (rcp.approx.ftz).
__device__ inline float reciprocal_fast(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// max_magnitude is the larger of m, which is not negative, and |x|; NaN, with no sign, where one of them is.
__device__ inline float max_magnitude(float m, float x) {
    float y;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(m), "f"(fabsf(x)));
    return y;
}

// pack2 rounds two floats into a register, lo in the low half: a fragment of the tensor cores' operands.
template <class T> __device__ inline uint32_t pack2(float lo, float hi);
template <> __device__ inline uint32_t pack2<bf16>(float lo, float hi) {
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}
template <> __device__ inline uint32_t pack2<half>(float lo, float hi) {
    uint32_t r;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}

// pack4 rounds four floats to 8 bits, a in the lowest: e4m3, or e5m2, saturating; NaN stays NaN. For sm_89 and later.
template <bool E5M2> __device__ inline uint32_t pack4(float a, float b, float c, float d) {
    uint32_t r;
    if constexpr (E5M2)
        asm("{.reg .b16 lo, hi; cvt.rn.satfinite.e5m2x2.f32 lo, %2, %1; cvt.rn.satfinite.e5m2x2.f32 hi, %4, %3; mov.b32 %0, {lo, hi};}"
            : "=r"(r) : "f"(a), "f"(b), "f"(c), "f"(d));
    else
        asm("{.reg .b16 lo, hi; cvt.rn.satfinite.e4m3x2.f32 lo, %2, %1; cvt.rn.satfinite.e4m3x2.f32 hi, %4, %3; mov.b32 %0, {lo, hi};}"
            : "=r"(r) : "f"(a), "f"(b), "f"(c), "f"(d));
    return r;
}

// mma is D += A·B on the tensor cores for one warp: A 16×16 row-major, B 16×8 column-major, D 16×8 float, in the
// fragments of mma.sync.aligned.m16n8k16 (PTX ISA, "Matrix Fragments for mma.m16n8k16").
template <class T> __device__ inline void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
template <> __device__ inline void mma<bf16>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
template <> __device__ inline void mma<half>(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ldmatrix loads four 8×8 matrices of 16-bit elements from shared memory: lane i gives the address of row i%8 of matrix
// i/8 (16 bytes, aligned), and gets of each matrix the two elements 2*(i%4) and 2*(i%4)+1 of row i/4.
__device__ inline void ldmatrix(uint32_t (&r)[4], const void *row) {
    const uint32_t p = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(p));
}

// stmatrix stores what ldmatrix loads, where the lanes say. It needs sm_90.
__device__ inline void stmatrix(void *row, const uint32_t (&r)[4]) {
    const uint32_t p = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(p), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}

// stmatrix_transposed is stmatrix of the transposed 8×8 matrices.
__device__ inline void stmatrix_transposed(void *row, const uint32_t (&r)[4]) {
    const uint32_t p = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(p), "r"(r[0]), "r"(r[1]), "r"(r[2]), "r"(r[3]) : "memory");
}

// ldmatrix_transposed is ldmatrix of the transposed 8×8 matrices.
__device__ inline void ldmatrix_transposed(uint32_t (&r)[4], const void *row) {
    const uint32_t p = static_cast<uint32_t>(__cvta_generic_to_shared(row));
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];" : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(p));
}

// copy_async starts a copy of 16 bytes from global to shared memory; where valid is false it writes zeros instead and
// reads nothing. What a thread started since its last commit is a group; wait<N> waits until at most the N youngest
// groups are on their way. Other threads see the data after a __syncthreads that follows the wait.
__device__ inline void copy_async(void *shared, const void *global, bool valid) {
    const uint32_t p = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(p), "l"(global), "r"(valid ? 16 : 0) : "memory");
}
__device__ inline void copy_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int N> __device__ inline void copy_async_wait() { asm volatile("cp.async.wait_group %0;" ::"n"(N) : "memory"); }

// Hopper's matrix units (sm_90a). A warpgroup, four warps in a row, multiplies 64 rows at once and on its own time: between
// wgmma_begin and the wgmma_wait that follows, the registers of its products are the unit's. Warp w of the group has rows 16w to 16w+15
// of A and D, in the fragments of mma above: d[n] is columns 8n to 8n+7.
//
// Matrix names rows in a tile of panel_tile.cuh (PTX ISA, "Matrix Descriptor Format"): 8 rows are 1024 bytes.
using Matrix = unsigned long long;

__device__ inline Matrix matrix_at(const void *tile) {
    const uint32_t p = static_cast<uint32_t>(__cvta_generic_to_shared(tile));
    return (p & 0x3ffff) >> 4 | 1ull << 16 | 1024ull >> 4 << 32 | 1ull << 62;
}
__device__ inline Matrix matrix_moved(Matrix m, int bytes) { return m + static_cast<Matrix>(bytes >> 4); }

// fence_async makes what the threads of the block wrote to shared memory, copies that a thread has waited for included, visible to the
// matrix units after the next __syncthreads.
__device__ inline void fence_async() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// wgmma_begin comes before the first of some products, wgmma_commit makes them a group, and wgmma_wait<N> waits until at most the N
// youngest groups are under way. What waits for accumulators says so with wgmma_done, and wgmma_fresh readies some that hold nothing:
// both only keep the compiler from moving their uses.
__device__ inline void wgmma_begin() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ inline void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
template <int N> __device__ inline void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory"); }
__device__ inline void wgmma_done(float (&d)[8][4]) {
#pragma unroll
    for (int n = 0; n < 8; n++) asm volatile("" : "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])::"memory");
}
__device__ inline void wgmma_fresh(float (&d)[8][4]) { wgmma_done(d); }

#define TFC_ACCUMULATOR(n) "+f"(d[n][0]), "+f"(d[n][1]), "+f"(d[n][2]), "+f"(d[n][3])
#define TFC_ACCUMULATORS                                                                                                                     \
    TFC_ACCUMULATOR(0), TFC_ACCUMULATOR(1), TFC_ACCUMULATOR(2), TFC_ACCUMULATOR(3), TFC_ACCUMULATOR(4), TFC_ACCUMULATOR(5),                  \
        TFC_ACCUMULATOR(6), TFC_ACCUMULATOR(7)
#define TFC_WGMMA(type)                                                                                                                      \
    "wgmma.mma_async.sync.aligned.m64n64k16.f32." type "." type " {%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                   \
    "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31}, "

// wgmma is D = A·Bᵀ, or where add is set D += A·Bᵀ, for 64 rows of A and 64 of B, with 16 columns each.
template <class T> __device__ inline void wgmma(float (&d)[8][4], Matrix a, Matrix b, bool add) {
    if constexpr (is_bf16<T>)
        asm volatile("{.reg .pred p; setp.ne.b32 p, %34, 0; " TFC_WGMMA("bf16") "%32, %33, p, 1, 1, 0, 0;}"
                     : TFC_ACCUMULATORS : "l"(a), "l"(b), "r"(static_cast<int>(add)));
    else
        asm volatile("{.reg .pred p; setp.ne.b32 p, %34, 0; " TFC_WGMMA("f16") "%32, %33, p, 1, 1, 0, 0;}"
                     : TFC_ACCUMULATORS : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

// wgmma_rows is D += A·B for A [64, 16] in registers and B of 16 rows, 64 columns. A's registers must be written anew for each product:
// ptxas (13.0) takes those of a product for dead, also where a loop comes back to them.
template <class T> __device__ inline void wgmma_rows(float (&d)[8][4], const uint32_t (&a)[4], Matrix b) {
    if constexpr (is_bf16<T>)
        asm volatile(TFC_WGMMA("bf16") "{%32,%33,%34,%35}, %36, 1, 1, 1, 1;" : TFC_ACCUMULATORS : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
    else
        asm volatile(TFC_WGMMA("f16") "{%32,%33,%34,%35}, %36, 1, 1, 1, 1;" : TFC_ACCUMULATORS : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b));
}

#undef TFC_WGMMA
#undef TFC_ACCUMULATORS
#undef TFC_ACCUMULATOR

#endif

// unpack2 takes two elements out of a register, the low half first.
template <class T> __device__ inline void unpack2(float (&x)[2], uint32_t r) {
    T v[2];
    static_assert(sizeof v == sizeof r);
    memcpy(v, &r, sizeof v);
    x[0] = to_float(v[0]);
    x[1] = to_float(v[1]);
}

// accumulators_to_a packs two neighbouring accumulators, 16×8 each, into an A operand.
template <class T> __device__ inline void accumulators_to_a(uint32_t (&a)[4], const float (&left)[4], const float (&right)[4]) {
    a[0] = pack2<T>(left[0], left[1]);
    a[1] = pack2<T>(left[2], left[3]);
    a[2] = pack2<T>(right[0], right[1]);
    a[3] = pack2<T>(right[2], right[3]);
}

// spread_sums adds up t, two columns of each of the 8 neighbouring accumulators of a warp, over the eight rows of lanes that an accumulator has: a row
// of lanes gets the sums of the accumulator of its own number.
__device__ inline void spread_sums(float (&sum)[2], const float (&t)[8][2]) {
    const int lane = lane_index();
    float left[8][2];
#pragma unroll
    for (int n = 0; n < 8; n++) left[n][0] = t[n][0], left[n][1] = t[n][1];
#pragma unroll
    for (int half = 4; half > 0; half /= 2) { // half of what is left stays, half goes to the lanes that have it
        const bool upper = lane & 4 * half;
#pragma unroll
        for (int n = 0; n < half; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                const float stays = upper ? left[n + half][i] : left[n][i], goes = upper ? left[n][i] : left[n + half][i];
                left[n][i] = stays + shuffle_xor(goes, 4 * half);
            }
        }
    }
    sum[0] = left[0][0], sum[1] = left[0][1];
}

// The tensor cores and their loads, and asynchronous copies.
#include "device.cuh"

template <class T> __device__ void multiply(float *d, const uint32_t *a, const uint32_t *b) {
    const int lane = lane_index();
    float sum[4];
    uint32_t left[4];
    for (int i = 0; i < 4; i++) sum[i] = d[4 * lane + i], left[i] = a[4 * lane + i];
    mma<T>(sum, left, b[2 * lane], b[2 * lane + 1]);
    for (int i = 0; i < 4; i++) d[4 * lane + i] = sum[i];
}
extern "C" __global__ void __launch_bounds__(32) mma_bf16(float *d, const uint32_t *a, const uint32_t *b) { multiply<bf16>(d, a, b); }
extern "C" __global__ void __launch_bounds__(32) mma_half(float *d, const uint32_t *a, const uint32_t *b) { multiply<half>(d, a, b); }

// matrices loads the matrices whose row r of matrix i is row 8*i+r of in.
template <bool transposed> __device__ void matrices(uint32_t *out, const uint16_t *in) {
    alignas(16) __shared__ uint16_t shared[256];
    for (int i = 0; i < 8; i++) shared[8 * lane_index() + i] = in[8 * lane_index() + i];
    __syncthreads();
    uint32_t r[4];
    if constexpr (transposed)
        ldmatrix_transposed(r, shared + 8 * lane_index());
    else
        ldmatrix(r, shared + 8 * lane_index());
    for (int i = 0; i < 4; i++) out[4 * lane_index() + i] = r[i];
}
extern "C" __global__ void __launch_bounds__(32) load_matrices(uint32_t *out, const uint16_t *in) { matrices<false>(out, in); }
extern "C" __global__ void __launch_bounds__(32) load_transposed(uint32_t *out, const uint16_t *in) { matrices<true>(out, in); }

// store_matrices stores what load_matrices gave.
extern "C" __global__ void __launch_bounds__(32) store_matrices(uint16_t *out, const uint32_t *in) {
    alignas(16) __shared__ uint16_t shared[256];
    const uint32_t r[4] = {in[4 * lane_index()], in[4 * lane_index() + 1], in[4 * lane_index() + 2], in[4 * lane_index() + 3]};
    stmatrix(shared + 8 * lane_index(), r);
    __syncthreads();
    for (int i = 0; i < 8; i++) out[8 * lane_index() + i] = shared[8 * lane_index() + i];
}

// copies starts three groups of copies, of which the last is not valid, and shows shared memory at each step.
extern "C" __global__ void __launch_bounds__(32) copies(float *out, const float *in) {
    alignas(16) __shared__ float shared[3 * 128];
    const int i = 4 * threadIdx.x;
    const auto show = [&](int step) {
        __syncthreads();
        for (int g = 0; g < 3; g++) out[(3 * step + g) * 32 + threadIdx.x] = shared[128 * g + i + 3];
        __syncthreads();
    };
    for (int g = 0; g < 3; g++) shared[128 * g + i + 3] = 5;
    show(0);
    for (int g = 0; g < 3; g++) {
        copy_async(shared + 128 * g + i, in + 128 * g + i, g < 2);
        copy_async_commit();
    }
    show(1);
    copy_async_wait<2>();
    show(2);
    copy_async_wait<1>();
    show(3);
    copy_async_wait<0>();
    show(4);
}

// uncommitted waits for a copy that is in no group.
extern "C" __global__ void __launch_bounds__(32) uncommitted(float *out, const float *in) {
    alignas(16) __shared__ float shared[128];
    copy_async(shared + 4 * threadIdx.x, in + 4 * threadIdx.x, true);
    copy_async_wait<0>();
    __syncthreads();
    out[threadIdx.x] = shared[4 * threadIdx.x];
}

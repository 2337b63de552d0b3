// Shuffles, votes and reductions.
#include "device.cuh"

// shuffles writes, for each lane and each way, the lane that its value came from.
extern "C" __global__ void __launch_bounds__(32) shuffles(int *out) {
    const int lane = lane_index();
    int at = 0;
    const auto put = [&](int x) { out[32 * at++ + lane] = x; };
    for (int width = 1; width <= 32; width *= 2) {
        put(__shfl_sync(0xffffffff, lane, 5, width));
        put(__shfl_sync(0xffffffff, lane, lane + 1, width));
        put(__shfl_xor_sync(0xffffffff, lane, 3, width));
        put(__shfl_up_sync(0xffffffff, lane, 2, width));
        put(__shfl_down_sync(0xffffffff, lane, 3, width));
    }
}

// wide shuffles values of 8 bytes and of 2.
extern "C" __global__ void __launch_bounds__(32) wide(unsigned long long *out, bf16 *small) {
    const int lane = threadIdx.x;
    out[lane] = __shfl_xor_sync(0xffffffff, (unsigned long long)lane << 40 | 7, 1);
    small[lane] = __shfl_sync(0xffffffff, from_float<bf16>(float(lane)), 31 - lane);
}

extern "C" __global__ void __launch_bounds__(32) vote(unsigned *out, unsigned bits) {
    const bool p = bits >> lane_index() & 1;
    out[3 * lane_index()] = votes(p);
    out[3 * lane_index() + 1] = __any_sync(0xffffffff, p);
    out[3 * lane_index() + 2] = __all_sync(0xffffffff, p);
}

// reduce gives each thread the sum and the maximum of the block's values, twice, so that shared memory is used again.
template <int Threads> __device__ void reduce(float *out, const float *in) {
    __shared__ float shared[Threads / warp_size];
    const int i = threadIdx.x;
    out[4 * i] = block_sum<Threads>(in[i], shared);
    out[4 * i + 1] = block_max<Threads>(in[i], shared);
    out[4 * i + 2] = block_sum<Threads>(-in[i], shared);
    out[4 * i + 3] = block_max<Threads>(-in[i], shared);
}
extern "C" __global__ void __launch_bounds__(32) reduce32(float *out, const float *in) { reduce<32>(out, in); }
extern "C" __global__ void __launch_bounds__(256) reduce256(float *out, const float *in) { reduce<256>(out, in); }
extern "C" __global__ void __launch_bounds__(1024) reduce1024(float *out, const float *in) { reduce<1024>(out, in); }

// leave lets lanes above 20 return before the others vote and shuffle.
extern "C" __global__ void leave(unsigned *out) {
    const unsigned i = threadIdx.x, lane = i % 32;
    out[2 * i] = out[2 * i + 1] = 7;
    if (lane > 20) return;
    out[2 * i] = votes(true);
    out[2 * i + 1] = __shfl_sync(0xffffffff, lane, 20);
}

// many has blocks enough for all threads of the device: each block writes its index in three dimensions.
extern "C" __global__ void many(int *out, int *sum) {
    const int block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
    const int thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
    __shared__ int shared[64];
    shared[thread] = block;
    __syncthreads();
    out[block * 64 + thread] = 100 * shared[63 - thread] + thread;
    atomicAdd(sum, 1);
    atomicMax(sum + 1, block);
}

// Kernels that do what they must not. Tests name these lines.
#include "device.cuh"

extern "C" __global__ void write(float *out, int at) { out[at + threadIdx.x] = 1; }

extern "C" __global__ void read(float *out, const float *in, int at) { out[0] = in[at]; }

extern "C" __global__ void array(float *out, int at) {
    __shared__ float shared[8];
    shared[at] = 1; // line 10
    __syncthreads();
    out[0] = shared[0];
}

extern "C" __global__ void dynamic(float *out, int at) {
    SHARED_DYNAMIC(memory);
    float *shared = reinterpret_cast<float *>(memory);
    shared[at] = 1;
    out[0] = shared[at];
}

extern "C" __global__ void misaligned(float *out, int at) {
    float x[4] = {1, 2, 3, 4};
    store(out + at, x);
}

extern "C" __global__ void divide(int *out, int by) { out[0] = 7 / by; } // line 27

__device__ int deep(volatile int *p, int n) {
    volatile int room[256];
    room[n % 256] = *p;
    return n == 0 ? 0 : deep(p, n - 1) + room[(n + 1) % 256];
}
extern "C" __global__ void recurse(int *out, int n) { out[0] = deep(out, n); }

extern "C" __global__ void returned(float *out, int n) {
    if (threadIdx.x >= n) return;
    __syncthreads(); // line 38
    out[threadIdx.x] = 1;
}

extern "C" __global__ void two_barriers(float *out, int n) {
    if (threadIdx.x < n)
        __syncthreads(); // line 44
    else
        __syncthreads(); // line 46
    out[threadIdx.x] = 1;
}

extern "C" __global__ void late(float *out, int n) {
    if (threadIdx.x < n) __syncthreads(); // line 51
    out[threadIdx.x] = 1;
}

extern "C" __global__ void divergent_warp(float *out, int n) {
    float x = 1;
    if (threadIdx.x % 32 < n)
        x = shuffle_xor(x, 1);
    else
        __syncthreads(); // line 60
    out[threadIdx.x] = x;
}

extern "C" __global__ void two_collectives(float *out, int n) {
    float x = 1;
    if (threadIdx.x % 32 < n)
        x = shuffle_xor(x, 1);
    else
        x = votes(x > 0);
    out[threadIdx.x] = x;
}

extern "C" __global__ void half_a_warp(float *out) { out[threadIdx.x] = __shfl_sync(0xffffu, 1.0f, 0); }

// neighbour reads what the thread beside it writes; by 1 or -1.
extern "C" __global__ void neighbour(float *out, int by) {
    __shared__ float shared[64];
    const int i = threadIdx.x;
    shared[i] = 1;
    out[blockIdx.x * 64 + i] = shared[(i + by + 64) % 64];
}

// fresh shows shared memory that nobody has written, and writes it.
extern "C" __global__ void fresh(float *out) {
    SHARED_DYNAMIC(memory);
    __shared__ float shared[32];
    float *d = reinterpret_cast<float *>(memory);
    out[(2 * blockIdx.x) * 32 + threadIdx.x] = shared[threadIdx.x];
    out[(2 * blockIdx.x + 1) * 32 + threadIdx.x] = d[threadIdx.x];
    shared[threadIdx.x] = d[threadIdx.x] = 1;
}

// stray writes to the first page, where nothing ever lies: other addresses away from out may be those of other memory.
extern "C" __global__ void stray(float *, int at) { *reinterpret_cast<float *>(size_t(at)) = 1; }

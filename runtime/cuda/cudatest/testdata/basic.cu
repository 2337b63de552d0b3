// Kernels for tests of the driver.
#include "device.cuh"

struct Config {
    static constexpr int threads = 64;
};

// scale multiplies n floats.
extern "C" __global__ void __launch_bounds__(Config::threads, 2) scale(float *y, const float *x, float by, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = by * x[i];
}

extern "C" __global__ void dynamic(int *out) {
    SHARED_DYNAMIC(shared);
    shared[0] = 1;
    out[0] = shared[0];
}

// mixed has parameters of several sizes.
extern "C" __global__ void mixed(double *out, char a, long b, short c, int *unused, double d) { out[0] = a + b + c + d; }

extern "C" __global__ void
__launch_bounds__(32)
lines(int *out) {
    __shared__ int shared[32];
    shared[threadIdx.x] = threadIdx.x;
    __syncwarp();
    out[threadIdx.x] = shared[31 - threadIdx.x];
}

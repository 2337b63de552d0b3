// A file with one kernel, whose static shared memory is known therefore.
#include "device.cuh"

extern "C" __global__ void alone(int *out) {
    SHARED_DYNAMIC(dynamic);
    __shared__ int shared[32];
    shared[threadIdx.x] = dynamic[threadIdx.x] = 1;
    out[threadIdx.x] = shared[31 - threadIdx.x] + dynamic[threadIdx.x];
}

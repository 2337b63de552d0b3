// The kernels in archs.fatbin and mixed.fatbin, which were made by nvcc 13.0:
//
//	nvcc -fatbin -Xfatbin -compress-all -o archs.fatbin -gencode arch=compute_80,code=sm_80 -gencode arch=compute_90a,code=sm_90a kernels.cu
//	nvcc -fatbin -o mixed.fatbin -gencode arch=compute_86,code=sm_86 -gencode arch=compute_89,code=compute_89 \
//	    -gencode arch=compute_90a,code=compute_90a -gencode arch=compute_100f,code=sm_100f kernels.cu

// scale is y = a·x.
extern "C" __global__ void scale(float *y, const float *x, float a, int n) {
    const int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = a * x[i];
}

// big has more shared memory than blocks have unasked.
extern "C" __global__ void big(float *y, int n) {
    extern __shared__ float x[];
    for (int i = threadIdx.x; i < n; i += blockDim.x) x[i] = float(i);
    __syncthreads();
    if (threadIdx.x == 0) y[0] = x[n - 1];
}

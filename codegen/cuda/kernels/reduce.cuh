// Sums over rows: gradients of biases, partial sums of other kernels, counts and losses. Every order of summing is fixed
// by constants, never by the device.
#pragma once
#include "device.cuh"

// bias_grad sums the columns of dy [rows, cols] over each of parts equal stretches of rows: partial [parts, cols] float, for
// add_partials. A warp covers 32*vec columns of a row, the warps of a block take rows in turn.
//   Config  T, rows, cols, vec (divides cols, the stride and where columns start), dy_stride, parts, threads (a multiple of 32)
//   grid    x: ceil(cols / (32*vec)), y: parts        shared: threads*vec floats
//   bytes   dy once, partial
template <class C> __device__ void bias_grad(int rows, float *partial, const typename C::T *dy) {
    using T = typename C::T;
    constexpr int vec = C::vec, width = warp_size * vec, warps = C::threads / warp_size, ahead = 4;
    __shared__ float sums[warps][width];
    const int col = blockIdx.x * width + lane_index() * vec, each = ceil_div(rows, C::parts);
    const int from = blockIdx.y * each, to = from + each < rows ? from + each : rows;
    float sum[vec];
#pragma unroll
    for (int j = 0; j < vec; j++) sum[j] = 0;
    if (col < C::cols) {
        const T *p = dy + col;
        int row = from + warp_index();
        for (; row + (ahead - 1) * warps < to; row += ahead * warps) {
            float v[ahead][vec];
#pragma unroll
            for (int k = 0; k < ahead; k++) load(v[k], p + static_cast<size_t>(row + k * warps) * C::dy_stride);
#pragma unroll
            for (int k = 0; k < ahead; k++) {
#pragma unroll
                for (int j = 0; j < vec; j++) sum[j] += v[k][j];
            }
        }
#pragma unroll 1
        for (; row < to; row += warps) {
            float v[vec];
            load(v, p + static_cast<size_t>(row) * C::dy_stride);
#pragma unroll
            for (int j = 0; j < vec; j++) sum[j] += v[j];
        }
    }
#pragma unroll
    for (int j = 0; j < vec; j++) sums[warp_index()][lane_index() * vec + j] = sum[j];
    __syncthreads();
    for (int i = threadIdx.x; i < width; i += C::threads) {
        const int c = blockIdx.x * width + i;
        if (c >= C::cols) return;
        float total = 0;
#pragma unroll
        for (int k = 0; k < warps; k++) total += sums[k][i];
        partial[static_cast<size_t>(blockIdx.y) * C::cols + c] = total;
    }
}

// add_partials adds the sums of all parts, in order, to one or two gradients of cols floats: partial is [parts, gradients,
// cols]. second is null where there is one.
//   Config  cols, gradients (1 or 2), parts, threads (a multiple of 32)
//   grid    x: ceil(gradients*cols / 32)        shared: threads floats
//   bytes   partial once, the gradients twice
template <class C> __device__ void add_partials(int, float *first, float *second, const float *partial) {
    constexpr int width = C::gradients * C::cols, slices = C::threads / warp_size;
    __shared__ float sums[slices][warp_size];
    const int col = blockIdx.x * warp_size + lane_index();
    float sum = 0;
    if (col < width) {
#pragma unroll 8
        for (int p = warp_index(); p < C::parts; p += slices) sum += partial[static_cast<size_t>(p) * width + col];
    }
    sums[warp_index()][lane_index()] = sum;
    __syncthreads();
    if (warp_index() > 0 || col >= width) return;
    sum = 0;
#pragma unroll
    for (int i = 0; i < slices; i++) sum += sums[i][lane_index()];
    float *to = C::gradients == 1 || col < C::cols ? first + col : second + (col - C::cols);
    *to += sum;
}

// count: n = how many of targets [rows] are not negative.
//   Config  threads (a multiple of 32)
//   grid    one block        shared: threads/32 ints        bytes: targets once
template <class C> __device__ void count(int rows, float *n, const int *targets) {
    constexpr int warps = C::threads / warp_size;
    __shared__ int counts[warps];
    int found = 0;
    for (int i = threadIdx.x * 4; i < rows; i += C::threads * 4) {
        if (i + 4 <= rows) {
            const Pack<int, 4> t = *reinterpret_cast<const Pack<int, 4> *>(targets + i);
#pragma unroll
            for (int j = 0; j < 4; j++) found += t.v[j] >= 0;
        } else {
#pragma unroll 1
            for (int j = i; j < rows; j++) found += targets[j] >= 0;
        }
    }
#pragma unroll
    for (int m = warp_size / 2; m > 0; m /= 2) found += shuffle_xor(found, m);
    if (lane_index() == 0) counts[warp_index()] = found;
    __syncthreads();
    if (threadIdx.x > 0) return;
    found = 0;
    for (int i = 0; i < warps; i++) found += counts[i];
    *n = static_cast<float>(found);
}

// sum_losses: loss = the sum of losses [rows], over max(n, 1) where there is an n.
//   Config  counted (whether there is n), threads (a multiple of 32)
//   grid    one block        shared: threads/32 floats        bytes: losses once
template <class C> __device__ void sum_losses(int rows, float *loss, const float *losses, const float *n) {
    __shared__ float shared[C::threads / warp_size];
    float sum = 0;
    for (int i = threadIdx.x * 4; i < rows; i += C::threads * 4) {
        if (i + 4 <= rows) {
            float v[4];
            load(v, losses + i);
            sum += (v[0] + v[1]) + (v[2] + v[3]);
        } else {
#pragma unroll 1
            for (int j = i; j < rows; j++) sum += losses[j];
        }
    }
    sum = block_sum<C::threads>(sum, shared);
    if (threadIdx.x > 0) return;
    if constexpr (C::counted) sum /= fmaxf(*n, 1.0f);
    *loss = sum;
}

// add_scalars: y = a + b. y may be a or b.
//   grid    one block of any size
template <class C> __device__ void add_scalars(int, float *y, const float *a, const float *b) {
    if (threadIdx.x == 0) *y = *a + *b;
}

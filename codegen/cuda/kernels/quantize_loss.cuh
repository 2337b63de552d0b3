// The gradient of the cross-entropy by the logits in 8 bits, as it lies and with its rows as columns.
#pragma once
#include "quantize.cuh"

// Logit is z = softcap(scale * raw), and the derivative of it by scale * raw.
struct Logit {
    float z, slope;
};

template <class C> __device__ inline Logit logit_of(float raw) {
    if constexpr (C::cap != 0) { // tanh by way of the fast exponential: its error is some 2^-22 of the cap, whatever the argument
        const float t = 1 - __fdividef(2.0f, 1 + exp2_fast(raw * (C::scale / (C::cap != 0 ? C::cap : 1) * 2 * log2_e)));
        return {C::cap * t, 1 - t * t};
    }
    return {C::scale * raw, 1};
}

// LossTile is what quantize_tile is to do.
template <class C> struct LossTile : C {
    static constexpr int vec = 8, y_stride = 0;
    static constexpr bool e5m2 = true, has_q = true, has_t = true, has_y = false, has_sums = false, has_history = false;
};

// quantize_loss: q = (softmax(z) - onehot(target)) * dz/d(scale*logit) * 2^15 in e5m2, t its transpose [cols, rows]; *by is what makes of
// both the gradient of the mean loss by the logits as they are stored: scale/max(n, 1)/2^15. Rows with a negative target become zeros.
// A row's sum of exponentials is known by its loss, log(sum of exp z) - z[target], which cross_entropy left in losses.
//   losses [rows] float; logits [rows, cols], rows at multiples of 16 bytes; targets [rows], below cols; n a float
//   Config  T, rows, cols (both multiples of 16), stride (of logits), scale (float), cap (float, 0: none), counted (whether there is n), threads = 256
//   grid    x: ceil(rows/128) * ceil(cols/128)        shared: quantize_tile's, and 1.5 KiB
//   bytes   logits once, q and t once
template <class C>
__device__ void quantize_loss(int rows, uint8_t *q, uint8_t *t, float *by, const typename C::T *logits, const int *targets, const float *losses, const float *n) {
    constexpr float top = 32768;
    __shared__ float offset[quantize_side], at_target[quantize_side]; // the logarithm of the sum, to base 2; softmax - 1
    __shared__ int wanted[quantize_side];
    const TilePlace<C::cols> at(rows);
    if (blockIdx.x == 0 && threadIdx.x == 0) *by = C::scale / top / (C::counted ? fmaxf(*n, 1.0f) : 1.0f);
    if (const int r = threadIdx.x, row = at.row + r; r < quantize_side && row < rows) {
        const int target = targets[row];
        const float loss = losses[row];
        wanted[r] = target;
        at_target[r] = expm1f(-loss);
        offset[r] = target < 0 ? 0 : (loss + logit_of<C>(to_float(logits[static_cast<size_t>(row) * C::stride + target])).z) * log2_e;
    }
    __syncthreads();
    quantize_tile<LossTile<C>, 1, true>(at, rows, top, q, t, static_cast<typename C::T *>(nullptr), nullptr, nullptr, [&](float (&v)[16], int row, int col) {
        const int target = wanted[row - at.row];
        const float less = offset[row - at.row];
        load(v, logits + static_cast<size_t>(row) * C::stride + col);
#pragma unroll
        for (int i = 0; i < 16; i++) {
            const Logit l = logit_of<C>(v[i]);
            v[i] = (col + i == target ? at_target[row - at.row] : exp2_fast(l.z * log2_e - less)) * l.slope;
        }
        if (target < 0) {
#pragma unroll
            for (int i = 0; i < 16; i++) v[i] = 0;
        }
    });
}

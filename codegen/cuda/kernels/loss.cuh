// Cross-entropy of rows of logits, and its gradient in place.
#pragma once
#include "device.cuh"
#include "state.cuh"

// each_in_row calls f<N>(first column) for all accesses of a row that fall to this thread: single elements up to the first
// multiple of Vec elements in memory and after the last, and Vec at a time between. So rows of any length and at any place
// are read wide.
template <int Vec, int Threads, class P, class F> __device__ inline void each_in_row(const P *row, int cols, F f) {
    int head = 0;
    if constexpr (Vec > 1) {
        head = static_cast<int>((0 - reinterpret_cast<uintptr_t>(row) / sizeof(P)) % Vec);
        head = head < cols ? head : cols;
    }
    const int wide = (cols - head) / Vec * Vec, tail = cols - head - wide;
#pragma unroll 2
    for (int i = threadIdx.x * Vec; i < wide; i += Threads * Vec) f.template operator()<Vec>(head + i);
    if constexpr (Vec > 1) { // head and tail have fewer than 2*Vec elements
        static_assert(Threads >= 2 * Vec, "a thread for each");
        const int i = threadIdx.x;
        if (i < head + tail) f.template operator()<1>(i < head ? i : wide + i);
    }
}

// cross_entropy computes, with z = softcap(scale * (logits + bias)), a row's loss log(sum of exp z) - z[target], and where
// `grad` is set the gradient of gradScale * the sum of losses by the logits as they are stored: (softmax(z) - onehot(target))
// * gradScale * dz/dlogits. gradScale is 1/max(n, 1), times the loss scale. A row with a negative target has loss 0 and
// gradient 0.
//
// A block takes a row, and a row is gone through twice: once for the maximum and, relative to the maximum so far, the sum of
// exponentials (Milakov, Gimelshein, arXiv 1805.02867); once for the gradient, then from shared memory, as far as it was kept
// there.
//   losses [rows] float; d and logits [rows, cols], d may be logits; targets [rows], below cols; n a float; bias [cols] float
//   Config  T (of logits and d), rows, cols, vec (elements an access; rows may start anywhere), d_stride and logits_stride
//           (equal modulo vec), scale (float, 1: none), cap (float, 0: none), bias (whether there is one), grad, counted
//           (whether there is n), scaled (whether State.loss_scale counts), threads (a multiple of 32, at least 2*vec), kept
//           (columns that stay in shared memory until the gradient needs them; 0 without grad)
//   grid    x: rows        shared: kept + 2*vec elements, and threads/32 floats
//   bytes   logits once, with grad those not kept once more from the L2 cache; d once
template <class C>
__device__ void cross_entropy(int rows, float *losses, typename C::T *d, const typename C::T *logits, const float *bias, const int *targets, const float *n,
                              const State *state) {
    using T = typename C::T;
    constexpr float log2e = 1.4426950408889634f;
    __shared__ float shared[C::threads / warp_size];
    const int r = blockIdx.x;
    if (r >= rows) return;
    const int target = targets[r];
    const T *row = logits + static_cast<size_t>(r) * C::logits_stride;
    if (target < 0) {
        if (threadIdx.x == 0) losses[r] = 0;
        if constexpr (C::grad) {
            T *out = d + static_cast<size_t>(r) * C::d_stride;
            each_in_row<C::vec, C::threads>(out, C::cols, [&]<int N>(int col) {
                float zero[N];
#pragma unroll
                for (int i = 0; i < N; i++) zero[i] = 0;
                store(out + col, zero);
            });
        }
        return;
    }
    SHARED_DYNAMIC(shared_row);
    T *const kept = reinterpret_cast<T *>(shared_row) + reinterpret_cast<uintptr_t>(row) / sizeof(T) % C::vec; // accesses to both are aligned alike
    const auto biased = [&]<int N>(float(&z)[N], const T *x, int col) {
        load(z, x + col);
        if constexpr (C::bias) {
#pragma unroll
            for (int i = 0; i < N; i++) z[i] += bias[col + i];
        }
    };
    // tanh by way of the fast exponential: its error is some 2^-22 of the cap, whatever the argument.
    const auto tanh_of = [](float raw) { return 1 - __fdividef(2.0f, 1 + exp2_fast(raw * (C::scale / (C::cap != 0 ? C::cap : 1) * 2 * log2e))); };
    const auto logit = [&](float raw) {
        if constexpr (C::cap != 0) return C::cap * tanh_of(raw);
        return C::scale * raw;
    };

    float top = -3.4e38f, sum = 0; // finite, so that the difference of two tops is a number
    each_in_row<C::vec, C::threads>(row, C::cols, [&]<int N>(int col) {
        float z[N], most = top;
        biased(z, row, col);
        if constexpr (C::kept > 0)
            if (col < C::kept) *reinterpret_cast<Pack<T, N> *>(kept + col) = *reinterpret_cast<const Pack<T, N> *>(row + col);
#pragma unroll
        for (int i = 0; i < N; i++) {
            z[i] = logit(z[i]);
            most = fmaxf(most, z[i]);
        }
        sum *= exp2_fast((top - most) * log2e);
#pragma unroll
        for (int i = 0; i < N; i++) sum += exp2_fast((z[i] - most) * log2e);
        top = most;
    });
    const float most = block_max<C::threads>(top, shared);
    sum = block_sum<C::threads>(sum * exp2_fast((top - most) * log2e), shared);
    float at_target[1];
    if (threadIdx.x == 0) {
        biased(at_target, row, target);
        losses[r] = logf(sum) + (most - logit(at_target[0]));
    }
    if constexpr (C::grad) {
        __syncthreads(); // d may be logits: the target's was read
        float factor = C::scale / sum;
        if constexpr (C::counted) factor /= fmaxf(*n, 1.0f);
        if constexpr (C::scaled) factor *= state->loss_scale;
        T *out = d + static_cast<size_t>(r) * C::d_stride;
        each_in_row<C::vec, C::threads>(row, C::cols, [&]<int N>(int col) {
            float z[N];
            biased(z, col < C::kept ? kept : row, col);
#pragma unroll
            for (int i = 0; i < N; i++) {
                float slope = factor;
                if constexpr (C::cap != 0) {
                    const float t = tanh_of(z[i]);
                    slope *= 1 - t * t;
                    z[i] = C::cap * t;
                } else {
                    z[i] *= C::scale;
                }
                const float e = exp2_fast((z[i] - most) * log2e);
                z[i] = (col + i == target ? e - sum : e) * slope;
            }
            store(out + col, z);
        });
    }
}

// Cross-entropy of rows of logits, and its gradient in place.
#pragma once
#include "device.cuh"
#include "state.cuh"

// RowShares shares a row among the threads of a block: single elements up to the first multiple of Vec elements in memory and
// after the last, and Vec at a time between. So rows of any length and at any place are read wide.
template <int Vec, int Threads> struct RowShares {
    static constexpr int step = Threads * Vec; // from a thread's wide access to its next
    int cols, head, end;                       // wide are those from head to end

    template <class P> __device__ RowShares(const P *row, int cols) : cols(cols), head(0) {
        if constexpr (Vec > 1) {
            head = static_cast<int>((0 - reinterpret_cast<uintptr_t>(row) / sizeof(P)) % Vec);
            head = head < cols ? head : cols;
        }
        end = head + (cols - head) / Vec * Vec;
    }

    // first is this thread's first wide access at or after column from.
    __device__ int first(int from) const {
        const int col = head + static_cast<int>(threadIdx.x) * Vec;
        return from > col ? col + ceil_div(from - col, step) * step : col;
    }

    // singles calls f<1>(column) for this thread's single element, if it has one: there are fewer than 2*Vec.
    template <class F> __device__ void singles(F f) const {
        if constexpr (Vec > 1) {
            static_assert(Threads >= 2 * Vec, "a thread for each");
            const int i = threadIdx.x;
            if (i < head + cols - end) f.template operator()<1>(i < head ? i : end - head + i);
        }
    }

    // wide calls f<Vec>(column) for this thread's wide accesses that start from column from up to before to.
    template <class F> __device__ void wide(int from, int to, F f) const {
        to = to < end ? to : end;
#pragma unroll 2
        for (int col = first(from); col < to; col += step) f.template operator()<Vec>(col);
    }
};

// cross_entropy computes, with z = softcap(scale * (logits + bias)), a row's loss log(sum of exp z) - z[target], and where
// `grad` is set the gradient of gradScale * the sum of losses by the logits as they are stored: (softmax(z) - onehot(target))
// * gradScale * dz/dlogits. gradScale is 1/max(n, 1), times the loss scale. A row with a negative target has loss 0 and
// gradient 0.
//
// A block takes a row, and a row is gone through twice: once for the maximum and, relative to the maximum so far, the sum of
// exponentials (Milakov, Gimelshein, arXiv 1805.02867); once for the gradient, then from shared memory, as far as it was kept
// there. What is kept comes there by copies of which each thread has some under way while it works on those that have come.
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
    constexpr int vec = C::vec, ahead = 8; // copies under way
    constexpr bool copies = C::kept > 0 && vec * sizeof(T) == 16;
    __shared__ float shared[C::threads / warp_size];
    const int r = blockIdx.x;
    if (r >= rows) return;
    const T *const row = logits + static_cast<size_t>(r) * C::logits_stride;
    T *const out = d + static_cast<size_t>(r) * C::d_stride; // used with grad
    const RowShares<vec, C::threads> shares(row, C::cols);
    SHARED_DYNAMIC(shared_row);
    T *const kept = reinterpret_cast<T *>(shared_row) + reinterpret_cast<uintptr_t>(row) / sizeof(T) % vec; // accesses to both are aligned alike
    const int kept_end = C::kept < shares.end ? C::kept : shares.end; // before which kept accesses start
    const auto send = [&](int col) {
        if (col < kept_end) copy_async(kept + col, row + col, true);
        copy_async_commit();
    };
    const int target = targets[r];
    if (target < 0) {
        if (threadIdx.x == 0) losses[r] = 0;
        if constexpr (C::grad) {
            const auto clear = [&]<int N>(int col) {
                float zero[N];
#pragma unroll
                for (int i = 0; i < N; i++) zero[i] = 0;
                store(out + col, zero);
            };
            shares.singles(clear);
            shares.wide(0, C::cols, clear);
        }
        return;
    }
    if constexpr (copies) {
#pragma unroll
        for (int k = 0; k < ahead; k++) send(shares.first(0) + k * shares.step);
    }
    const auto biased = [&]<int N>(float(&z)[N], const T *x, int col) {
        load(z, x + col);
        if constexpr (C::bias) {
#pragma unroll
            for (int i = 0; i < N; i++) z[i] += bias[col + i];
        }
    };
    // tanh by way of the fast exponential: its error is some 2^-22 of the cap, whatever the argument.
    const auto tanh_of = [](float raw) { return 1 - __fdividef(2.0f, 1 + exp2_fast(raw * (C::scale / (C::cap != 0 ? C::cap : 1) * 2 * log2_e))); };
    const auto logit = [&](float raw) {
        if constexpr (C::cap != 0) return C::cap * tanh_of(raw);
        return C::scale * raw;
    };

    float top = -2e38f, sum = 0; // finite, also times log2_e, so that differences of tops are numbers
    const auto add = [&]<int N>(const T *x, int col) {
        float z[N], most = top;
        biased(z, x, col);
#pragma unroll
        for (int i = 0; i < N; i++) {
            z[i] = logit(z[i]);
            most = fmaxf(most, z[i]);
        }
        sum *= exp2_fast((top - most) * log2_e);
        top = most;
        most *= log2_e;
#pragma unroll
        for (int i = 0; i < N; i++) sum += exp2_fast(z[i] * log2_e - most);
    };
    shares.singles([&]<int N>(int col) {
        if (col < C::kept) kept[col] = row[col];
        add.template operator()<N>(row, col);
    });
    if constexpr (C::kept < C::cols) shares.wide(C::kept, C::cols, [&]<int N>(int col) { add.template operator()<N>(row, col); });
    shares.wide(0, C::kept, [&]<int N>(int col) {
        if constexpr (copies)
            copy_async_wait<ahead - 1>();
        else
            *reinterpret_cast<Pack<T, N> *>(kept + col) = *reinterpret_cast<const Pack<T, N> *>(row + col);
        add.template operator()<N>(kept, col);
        if constexpr (copies) send(col + ahead * shares.step);
    });
    const float most = block_max<C::threads>(top, shared);
    sum = block_sum<C::threads>(sum * exp2_fast((top - most) * log2_e), shared);
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
        const float shift = most * log2_e;
        const auto give = [&]<int N>(const T *x, int col) {
            float z[N], slope[N];
            biased(z, x, col);
#pragma unroll
            for (int i = 0; i < N; i++) {
                slope[i] = factor;
                if constexpr (C::cap != 0) {
                    const float t = tanh_of(z[i]);
                    slope[i] *= 1 - t * t;
                    z[i] = C::cap * t;
                } else {
                    z[i] *= C::scale;
                }
                z[i] = exp2_fast(z[i] * log2_e - shift);
            }
            if (target - col >= 0 && target - col < N) {
#pragma unroll
                for (int i = 0; i < N; i++) z[i] -= col + i == target ? sum : 0;
            }
#pragma unroll
            for (int i = 0; i < N; i++) z[i] *= slope[i];
            store(out + col, z);
        };
        shares.singles([&]<int N>(int col) { give.template operator()<N>(col < C::kept ? kept : row, col); });
        if constexpr (C::kept < C::cols) shares.wide(C::kept, C::cols, [&]<int N>(int col) { give.template operator()<N>(row, col); });
        shares.wide(0, C::kept, [&]<int N>(int col) { give.template operator()<N>(kept, col); });
    }
}

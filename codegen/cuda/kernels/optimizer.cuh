// What a step does to the whole buffers of weights, gradients and moments, which are laid out alike: norm, AdamW.
// What differs from step to step (step, learning rate, loss scale) is read from State, so that a graph of a step can run
// again and again.
//
// Buffers are `count` float elements from a multiple of 256 bytes on. rows plays no part.
#pragma once
#include "device.cuh"
#include "state.cuh"

__device__ inline double block_sum64(double x, double *shared, int warps) {
#pragma unroll
    for (int m = warp_size / 2; m > 0; m /= 2) x += shuffle_xor(x, m);
    if (lane_index() == 0) shared[warp_index()] = x;
    __syncthreads();
    x = 0;
    for (int i = 0; i < warps; i++) x += shared[i];
    return x;
}

// square_sums writes the sum of squares of each chunk of g: partial [ceil(count/chunk)] double. A thread's few squares add
// up in float, the rest in double.
//   Config  count (long long), chunk (a multiple of 4*threads, best 16 times that), threads (a multiple of 32)
//   grid    x: ceil(count/chunk)        shared: threads/32 doubles        bytes: g once
template <class C> __device__ void square_sums(int, double *partial, const float *g) {
    __shared__ double shared[C::threads / warp_size];
    const long long first = static_cast<long long>(blockIdx.x) * C::chunk;
    const long long end = first + C::chunk < C::count ? first + C::chunk : C::count;
    float sum = 0;
    const auto square = [](const float (&v)[4]) { return (v[0] * v[0] + v[1] * v[1]) + (v[2] * v[2] + v[3] * v[3]); };
    if (end - first == C::chunk) {
        const float *p = g + first + threadIdx.x * 4;
#pragma unroll 8
        for (int k = 0; k < C::chunk; k += 4 * C::threads) {
            float v[4];
            load(v, p + k);
            sum += square(v);
        }
    } else {
#pragma unroll 1
        for (long long i = first + threadIdx.x * 4; i < end; i += 4 * C::threads) {
            float v[4];
#pragma unroll
            for (int j = 0; j < 4; j++) v[j] = i + j < end ? g[i + j] : 0.0f;
            sum += square(v);
        }
    }
    const double total = block_sum64(sum, shared, C::threads / warp_size);
    if (threadIdx.x == 0) partial[blockIdx.x] = total;
}

// grad_norm: norm = the square root of the sum of partial [parts], over the loss scale.
//   Config  parts, scaled (whether State.loss_scale counts), threads (a multiple of 32)
//   grid    one block        shared: threads/32 doubles
template <class C> __device__ void grad_norm(int, float *norm, const double *partial, const State *state) {
    __shared__ double shared[C::threads / warp_size];
    double sum = 0;
    for (int i = threadIdx.x; i < C::parts; i += C::threads) sum += partial[i];
    sum = block_sum64(sum, shared, C::threads / warp_size);
    if (threadIdx.x > 0) return;
    double root = sqrt(sum);
    if constexpr (C::scaled) root /= state->loss_scale;
    *norm = static_cast<float>(root);
}

__device__ inline bool finite(float x) { return x - x == 0; }

// adamw_factors are the numbers that the update of one weight multiplies by, in the order of runtime/cpu's factors, worked
// out in double: decay, gradient, beta1, 1-beta1, beta2, 1-beta2, 1/√(1-beta2^t), eps, lr/(1-beta1^t). t counts updates:
// steps that were skipped left no trace in the moments.
template <class C> __device__ inline void adamw_factors(State *state, float norm) {
    const double lr = state->lr, beta1 = C::beta1, beta2 = C::beta2, t = state->step - state->skipped;
    float gradient = 1;
    if constexpr (C::clip > 0) gradient = fminf(1.0f, C::clip / (norm + 1e-6f)); // as torch.nn.utils.clip_grad_norm_ does
    if constexpr (C::scaled) gradient /= state->loss_scale;
    float *f = state->factors;
    f[0] = static_cast<float>(1 - lr * C::weight_decay);
    f[1] = gradient;
    f[2] = C::beta1;
    f[3] = static_cast<float>(1 - beta1);
    f[4] = C::beta2;
    f[5] = static_cast<float>(1 - beta2);
    f[6] = static_cast<float>(1 / sqrt(1 - pow(beta2, t)));
    f[7] = C::eps;
    f[8] = static_cast<float>(lr / (1 - pow(beta1, t)));
}

// adamw_begin decides what the step does and leaves it in State for adamw.
//
// A loss or norm that is not finite ends the run: the step's number goes to State.diverged, and no step changes weights or
// moments from then on. With loss scaling (Micikevicius et al., arXiv 1710.03740) a norm that is not finite at a finite loss
// means that the gradients overflowed: the step is skipped. The hysteresis-th overflow since the scale last rose, and every
// one after it, halves the scale; `window` updates in a row double it. An overflow at the least scale is divergence.
//   Config  beta1, beta2, eps, weight_decay, clip (floats; clip 0: none), scaled (bool), window, hysteresis (ints),
//           least_scale (float)
//   grid    one thread
template <class C> __device__ void adamw_begin(int, State *state, const float *loss, const float *norm) {
    if (threadIdx.x > 0) return;
    state->update = 0;
    state->step_scale = C::scaled ? state->loss_scale : 1;
    if (state->diverged != 0) return;
    const bool overflow = !finite(*norm);
    if (!finite(*loss) || (overflow && !C::scaled)) {
        state->diverged = state->step;
        return;
    }
    if constexpr (C::scaled) {
        if (overflow) {
            if (state->hysteresis > 0) state->hysteresis--;
            if (state->hysteresis == 0) {
                if (state->loss_scale <= C::least_scale) {
                    state->diverged = state->step;
                    return;
                }
                state->loss_scale *= 0.5f;
            }
            state->good_steps = 0;
            state->skipped++;
            return;
        }
    }
    adamw_factors<C>(state, *norm);
    state->update = 1;
    if constexpr (C::scaled) {
        if (++state->good_steps == C::window) {
            state->good_steps = 0;
            state->hysteresis = C::hysteresis;
            state->loss_scale *= 2;
        }
    }
}

// adamw takes one step of AdamW (Loshchilov, Hutter, arXiv 1711.05101) in the order of operations of torch.optim.AdamW and
// of runtime/cpu: with grad = g*f1,
//     m = beta1*m + (1-beta1)*grad    v = beta2*v + (1-beta2)*grad²    w = w*decay - lr/(1-beta1^t) * m/(√v/√(1-beta2^t) + eps)
// The first `decayed` elements decay. Where copied is set, copies get the new weights in T.
//   Config  T, count, decayed (long long), copied (bool), threads
//   grid    x: ceil(count/8 / threads)
//   bytes   g once, w, m and v twice, copies once
template <class C> __device__ void adamw(int, float *w, float *m, float *v, typename C::T *copies, const float *g, const State *state) {
    if (state->update == 0) return;
    const long long i = (static_cast<long long>(blockIdx.x) * C::threads + threadIdx.x) * 8;
    const float *f = state->factors;
    const float f0 = f[0], f1 = f[1], f2 = f[2], f3 = f[3], f4 = f[4], f5 = f[5], f6 = f[6], f7 = f[7], f8 = f[8];
    const auto step = [&](float &w, float &m, float &v, float g, bool decays) {
        const float grad = g * f1;
        m = f2 * m + f3 * grad;
        v = f4 * v + f5 * (grad * grad);
        const float root = sqrtf(v) * f6 + f7;
        w = w * (decays ? f0 : 1.0f) - f8 * (m / root);
    };
    if (i + 8 <= C::count) {
        float ws[8], ms[8], vs[8], gs[8];
        load(gs, g + i);
        load(ms, m + i);
        load(vs, v + i);
        load(ws, w + i);
#pragma unroll
        for (int j = 0; j < 8; j++) step(ws[j], ms[j], vs[j], gs[j], i + j < C::decayed);
        store(m + i, ms);
        store(v + i, vs);
        store(w + i, ws);
        if constexpr (C::copied) store(copies + i, ws);
        return;
    }
#pragma unroll 1
    for (long long j = i; j < C::count; j++) {
        float x = w[j], first = m[j], second = v[j];
        step(x, first, second, g[j], j < C::decayed);
        w[j] = x;
        m[j] = first;
        v[j] = second;
        if constexpr (C::copied) copies[j] = from_float<typename C::T>(x);
    }
}

// The activations of feed-forward layers and their derivatives, in float. The formulas are those of runtime/cpu, which
// keep their digits in both tails.
#pragma once
#include "device.cuh"

enum class Activation {
    gelu,      // x*Φ(x), Φ the standard normal distribution (Hendrycks and Gimpel 2016)
    gelu_tanh, // x*(1+tanh(√(2/π)*(x+0.044715*x³)))/2, the form GPT-2 was trained with
    relu,      // max(x, 0)
    relu2,     // max(x, 0)² (So et al. 2021)
    silu,      // x/(1+e^-x), also called Swish
};

// gelu_tanh is x*sigmoid(gelu_a*x + gelu_b*x³), for (1+tanh u)/2 = sigmoid(2u).
constexpr float gelu_a = 1.5957691216057308f;             // 2*√(2/π)
constexpr float gelu_b = 0.044715f * gelu_a;              //
constexpr float gelu_c = 3 * 0.044715f * gelu_a;          // derivative of gelu_b*x³, over x²
constexpr float sqrt_half = 0.7071067811865476f;          // 1/√2
constexpr float inverse_sqrt_2pi = 0.3989422804014327f;   // 1/√(2π)

// rectify is max(x, 0); NaN stays NaN, so that a diverged run shows.
__device__ inline float rectify(float x) { return x < 0 ? 0.0f : x; }

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }

// gated is s + s*(1-s)*w for s = sigmoid(x), with 1-s = e^-x * s, which keeps its digits where s is near 1.
__device__ inline float gated(float x, float w) {
    const float e = expf(fminf(-x, 88.0f)); // kept finite
    const float s = 1.0f / (1.0f + e);
    return s + e * s * s * w;
}

template <Activation A> __device__ inline float activate(float x) {
    if constexpr (A == Activation::gelu) {
        return 0.5f * x * erfcf(-x * sqrt_half);
    } else if constexpr (A == Activation::gelu_tanh) {
        return x * sigmoid(x * (gelu_a + gelu_b * x * x));
    } else if constexpr (A == Activation::relu) {
        return rectify(x);
    } else if constexpr (A == Activation::relu2) {
        return rectify(x) * rectify(x);
    } else {
        return x * sigmoid(x);
    }
}

// slope is the derivative of activate.
template <Activation A> __device__ inline float slope(float x) {
    if constexpr (A == Activation::gelu) {
        return 0.5f * erfcf(-x * sqrt_half) + x * inverse_sqrt_2pi * expf(-0.5f * x * x);
    } else if constexpr (A == Activation::gelu_tanh) {
        return gated(x * (gelu_a + gelu_b * x * x), x * (gelu_a + gelu_c * x * x));
    } else if constexpr (A == Activation::relu) {
        return x <= 0 ? 0.0f : 1.0f;
    } else if constexpr (A == Activation::relu2) {
        return 2 * rectify(x);
    } else {
        return gated(x, x);
    }
}

// What follows is for the ends of products in 16 bits, for two elements at once: good to 2^-20 by the units' own exponential and
// reciprocal, of which two elements share one.

// sigmoids gives 1/(1+2^-x) of two values, and e = 2^-x, which is kept below 2^60.
__device__ inline void sigmoids(float (&s)[2], float (&e)[2], float x0, float x1) {
    e[0] = exp2_fast(fminf(-x0, 60.0f));
    e[1] = exp2_fast(fminf(-x1, 60.0f));
    const float a = 1 + e[0], b = 1 + e[1], r = reciprocal_fast(a * b);
    s[0] = r * b;
    s[1] = r * a;
}

template <Activation A> __device__ inline void activate2(float (&x)[2]) {
    if constexpr (A == Activation::gelu_tanh || A == Activation::silu) {
        float u[2], s[2], e[2];
#pragma unroll
        for (int i = 0; i < 2; i++) u[i] = A == Activation::silu ? x[i] * log2_e : x[i] * (gelu_a * log2_e + gelu_b * log2_e * (x[i] * x[i]));
        sigmoids(s, e, u[0], u[1]);
        x[0] *= s[0];
        x[1] *= s[1];
    } else {
        x[0] = activate<A>(x[0]);
        x[1] = activate<A>(x[1]);
    }
}

// activate_slope2 is activate2, and gives the derivatives at x: with s the sigmoid of u and e = 1/s - 1, that of x*s is s + x*u'*s*(1-s) =
// s*(1 + x*u'*e*s).
template <Activation A> __device__ inline void activate_slope2(float (&x)[2], float (&d)[2]) {
    if constexpr (A == Activation::gelu_tanh || A == Activation::silu) {
        float u[2], w[2], s[2], e[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            const float square = x[i] * x[i];
            u[i] = A == Activation::silu ? x[i] * log2_e : x[i] * (gelu_a * log2_e + gelu_b * log2_e * square);
            w[i] = A == Activation::silu ? x[i] : x[i] * (gelu_a + gelu_c * square);
        }
        sigmoids(s, e, u[0], u[1]);
#pragma unroll
        for (int i = 0; i < 2; i++) {
            d[i] = s[i] * (1 + w[i] * (e[i] * s[i]));
            x[i] *= s[i];
        }
    } else {
        d[0] = slope<A>(x[0]);
        d[1] = slope<A>(x[1]);
        activate2<A>(x);
    }
}

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

// What follows is for results of 16 bits and less, and good to 2^-18, by the units' own exponential and reciprocal.

// sigmoid_fast is 1/(1+2^-x).
__device__ inline float sigmoid_fast(float x) { return reciprocal_fast(1 + exp2_fast(-x)); }

// half_erfc is erfc(x)/2, by a polynomial in 1/(1+|x|/2) (Press et al., "Numerical Recipes", section 6.2).
__device__ inline float half_erfc(float x) {
    const float z = fabsf(x), t = reciprocal_fast(1 + 0.5f * z);
    float p = 0.17087277f;
    p = p * t - 0.82215223f, p = p * t + 1.48851587f, p = p * t - 1.13520398f, p = p * t + 0.27886807f, p = p * t - 0.18628806f;
    p = p * t + 0.09678418f, p = p * t + 0.37409196f, p = p * t + 1.00002368f, p = p * t - 1.26551223f;
    const float y = 0.5f * t * exp2_fast(log2_e * (p - z * z));
    return x < 0 ? 1 - y : y;
}

template <Activation A> __device__ inline float activate_fast(float x) {
    if constexpr (A == Activation::gelu_tanh)
        return x * sigmoid_fast(x * (gelu_a * log2_e + gelu_b * log2_e * (x * x)));
    else if constexpr (A == Activation::silu)
        return x * sigmoid_fast(x * log2_e);
    else if constexpr (A == Activation::gelu)
        return x * half_erfc(-x * sqrt_half);
    else
        return activate<A>(x);
}

// activate_slope_fast is activate_fast, and gives the derivative at x: that of x*s, s being the sigmoid of u, is s + x*s*(1-s)*u'.
template <Activation A> __device__ inline float activate_slope_fast(float x, float &slope_at_x) {
    if constexpr (A == Activation::gelu_tanh || A == Activation::silu) {
        const float square = x * x;
        const float s = sigmoid_fast(A == Activation::silu ? x * log2_e : x * (gelu_a * log2_e + gelu_b * log2_e * square));
        const float y = x * s, rest = y - s * y;
        slope_at_x = A == Activation::silu ? s + rest : s + rest * (gelu_a + gelu_c * square);
        return y;
    } else if constexpr (A == Activation::gelu) {
        const float below = half_erfc(-x * sqrt_half);
        slope_at_x = below + x * inverse_sqrt_2pi * exp2_fast(-0.5f * log2_e * (x * x));
        return x * below;
    } else {
        slope_at_x = slope<A>(x);
        return activate<A>(x);
    }
}

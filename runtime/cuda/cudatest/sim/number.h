// bf16 and half: 16 bits, converted from float to nearest even as the device does (cvt.rn: a NaN becomes 0x7fff).
#pragma once

struct bf16 {
    uint16_t bits;
};
struct half {
    uint16_t bits;
};
using __nv_bfloat16 = bf16;
using __half = half;

inline int __float_as_int(float x) { return __builtin_bit_cast(int, x); }
inline unsigned __float_as_uint(float x) { return __builtin_bit_cast(unsigned, x); }
inline float __int_as_float(int x) { return __builtin_bit_cast(float, x); }
inline float __uint_as_float(unsigned x) { return __builtin_bit_cast(float, x); }
inline unsigned short __bfloat16_as_ushort(bf16 x) { return x.bits; }
inline bf16 __ushort_as_bfloat16(unsigned short x) { return {x}; }
inline unsigned short __half_as_ushort(half x) { return x.bits; }
inline half __ushort_as_half(unsigned short x) { return {x}; }

inline float __bfloat162float(bf16 x) { return __uint_as_float(uint32_t(x.bits) << 16); }

inline bf16 __float2bfloat16_rn(float x) {
    const uint32_t u = __float_as_uint(x);
    if ((u & 0x7fffffff) > 0x7f800000) return {0x7fff};
    return {uint16_t((u + 0x7fff + (u >> 16 & 1)) >> 16)};
}
inline bf16 __float2bfloat16(float x) { return __float2bfloat16_rn(x); }

#if defined(__F16C__) && defined(__FLT16_MAX__)
#define TFC_SIM_FLOAT16 // the CPU converts
#endif

inline float __half2float(half x) {
#ifdef TFC_SIM_FLOAT16
    return float(__builtin_bit_cast(_Float16, x.bits));
#else
    const uint32_t sign = uint32_t(x.bits & 0x8000) << 16, magnitude = x.bits & 0x7fff;
    if (magnitude >= 0x7c00) // infinities and NaNs, which become quiet
        return __uint_as_float(sign | 0x7f800000 | (magnitude & 0x3ff) << 13 | (magnitude > 0x7c00 ? 0x400000 : 0));
    if (magnitude < 0x400) // subnormal: an exact multiple of 2^-24
        return __uint_as_float(sign | __float_as_uint(float(magnitude) * 0x1p-24f));
    return __uint_as_float(sign | ((magnitude << 13) + (112u << 23)));
#endif
}

inline half __float2half_rn(float x) {
    if (x != x) return {0x7fff};
#ifdef TFC_SIM_FLOAT16
    return {__builtin_bit_cast(uint16_t, _Float16(x))};
#else
    const uint32_t u = __float_as_uint(x), sign = u >> 16 & 0x8000, magnitude = u & 0x7fffffff;
    if (magnitude >= 0x47800000) return {uint16_t(sign | 0x7c00)}; // 65536 and more
    if (magnitude < 0x38800000) // subnormal: the sum with 1/2 rounds to a multiple of 2^-24
        return {uint16_t(sign | (__float_as_uint(__uint_as_float(magnitude) + 0.5f) - 0x3f000000))};
    const uint32_t r = magnitude - (112u << 23);
    return {uint16_t(sign | (r + 0xfff + (r >> 13 & 1)) >> 13)};
#endif
}
inline half __float2half(float x) { return __float2half_rn(x); }

// A number of 8 bits with Mantissa bits behind the first and an exponent biased by Bias, from float to nearest even, saturating at the
// bits Most, as cvt.rn.satfinite does: a NaN becomes 0x7f.
template <int Mantissa, int Bias, unsigned Most> inline unsigned tfc_sim_8bits(float x) {
    const uint32_t u = __float_as_uint(x), sign = u >> 24 & 0x80, magnitude = u & 0x7fffffff;
    if (magnitude > 0x7f800000) return 0x7f;
    unsigned r;
    if (magnitude < uint32_t(128 - Bias) << 23) { // subnormal: the sum with a number whose last bit is worth the least rounds
        const float one = __uint_as_float(uint32_t(127 + 23 - Bias + 1 - Mantissa) << 23);
        r = __float_as_uint(__uint_as_float(magnitude) + one) - __float_as_uint(one);
    } else {
        constexpr int drop = 23 - Mantissa;
        const uint32_t biased = magnitude - (uint32_t(127 - Bias) << 23);
        r = (biased + (1u << (drop - 1)) - 1 + (biased >> drop & 1)) >> drop;
    }
    return sign | (r < Most ? r : Most);
}

template <bool E5M2> inline uint32_t pack4(float a, float b, float c, float d) {
    const float v[4] = {a, b, c, d};
    uint32_t r = 0;
    for (int i = 0; i < 4; i++) r |= (E5M2 ? tfc_sim_8bits<2, 15, 0x7b>(v[i]) : tfc_sim_8bits<3, 7, 0x7e>(v[i])) << 8 * i;
    return r;
}

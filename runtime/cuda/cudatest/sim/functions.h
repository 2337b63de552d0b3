// Mathematical functions, bit tricks and atomics. The C library's are declared here: <math.h> takes a third of a second
// to compile.
#pragma once

// Here a grid runs when all before it have.
inline void grid_release() {}
inline void grid_wait() {}
template <int> inline void prefetch(const void *) {}

#pragma GCC visibility push(default)
extern "C" {
float acosf(float) noexcept;
float atan2f(float, float) noexcept;
float cbrtf(float) noexcept;
float ceilf(float) noexcept;
float copysignf(float, float) noexcept;
float cosf(float) noexcept;
float coshf(float) noexcept;
float erfcf(float) noexcept;
float erff(float) noexcept;
float exp2f(float) noexcept;
float expf(float) noexcept;
float expm1f(float) noexcept;
float fabsf(float) noexcept;
float floorf(float) noexcept;
float fmaf(float, float, float) noexcept;
float fmaxf(float, float) noexcept;
float fminf(float, float) noexcept;
float fmodf(float, float) noexcept;
float ldexpf(float, int) noexcept;
float log10f(float) noexcept;
float log1pf(float) noexcept;
float log2f(float) noexcept;
float logf(float) noexcept;
float powf(float, float) noexcept;
float rintf(float) noexcept;
float roundf(float) noexcept;
float sinf(float) noexcept;
float sinhf(float) noexcept;
float sqrtf(float) noexcept;
float tanf(float) noexcept;
float tanhf(float) noexcept;
float truncf(float) noexcept;
double ceil(double) noexcept;
double exp(double) noexcept;
double fabs(double) noexcept;
double floor(double) noexcept;
double fma(double, double, double) noexcept;
double log(double) noexcept;
double pow(double, double) noexcept;
double sqrt(double) noexcept;
int abs(int) noexcept;
}
#pragma GCC visibility pop

inline bool isnan(float x) { return __builtin_isnan(x); }
inline bool isinf(float x) { return __builtin_isinf(x); }
inline bool isfinite(float x) { return __builtin_isfinite(x); }
inline bool signbit(float x) { return __builtin_signbit(x); }
inline void sincosf(float x, float *s, float *c) { *s = sinf(x), *c = cosf(x); }
inline float rsqrtf(float x) { return 1 / sqrtf(x); }

// Functions of the device that round once, to nearest.
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) {
    float r = a * b;
    asm("" : "+g"(r)); // g++ may not fuse it with a sum
    return r;
}
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __frcp_rn(float a) { return 1 / a; }
inline float __fsqrt_rn(float a) { return sqrtf(a); }
inline float __frsqrt_rn(float a) { return 1 / sqrtf(a); }
inline float __saturatef(float x) { return x > 0 ? x < 1 ? x : 1 : 0; }

// Fast functions of the device, computed as it does, from its exponential and logarithm of base 2.
inline float __expf(float x) { return exp2f(x * 1.44269504f); }
inline float __exp10f(float x) { return exp2f(x * 3.32192809f); }
inline float __logf(float x) { return log2f(x) * 0.693147181f; }
inline float __log2f(float x) { return log2f(x); }
inline float __log10f(float x) { return log2f(x) * 0.301029996f; }
inline float __powf(float x, float y) { return exp2f(y * log2f(x)); }
inline float __sinf(float x) { return sinf(x); }
inline float __cosf(float x) { return cosf(x); }
inline float __tanf(float x) { return tanf(x); }
inline void __sincosf(float x, float *s, float *c) { *s = sinf(x), *c = cosf(x); }
// __fdividef divides by multiplying with the reciprocal, which is flushed to zero where y is 2^126 or more.
inline float __fdividef(float x, float y) { return fabsf(y) > 0x1p126f && !isinf(y) ? x * copysignf(0.0f, y) : x / y; }

// exp2_fast flushes subnormal arguments and results to zero.
inline float exp2_fast(float x) { return x < -126 ? 0.0f : exp2f(x); }
inline float reciprocal_fast(float x) { return 1 / x; }
inline float max_magnitude(float m, float x) { return isnan(m) || isnan(x) ? __builtin_nanf("") : fmaxf(m, fabsf(x)); }

template <class T> inline constexpr T min(T a, T b) { return b < a ? b : a; }
template <class T> inline constexpr T max(T a, T b) { return a < b ? b : a; }
template <> inline float min(float a, float b) { return fminf(a, b); }
template <> inline float max(float a, float b) { return fmaxf(a, b); }

inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline int __mulhi(int a, int b) { return int(int64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)(a)*b >> 64);
}
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }
inline int __clzll(long long x) { return x == 0 ? 64 : __builtin_clzll((unsigned long long)(x)); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline unsigned __brev(unsigned x) {
    x = (x >> 1 & 0x55555555) | (x & 0x55555555) << 1;
    x = (x >> 2 & 0x33333333) | (x & 0x33333333) << 2;
    x = (x >> 4 & 0x0f0f0f0f) | (x & 0x0f0f0f0f) << 4;
    return __builtin_bswap32(x);
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selectors) {
    const uint64_t bytes = uint64_t(b) << 32 | a;
    unsigned r = 0;
    for (int i = 0; i < 4; i++) {
        const unsigned s = selectors >> 4 * i;
        unsigned byte = unsigned(bytes >> 8 * (s & 7)) & 0xff;
        if (s & 8) byte = byte & 0x80 ? 0xff : 0; // its sign
        r |= byte << 8 * i;
    }
    return r;
}
inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned by) { return unsigned((uint64_t(hi) << 32 | lo) << (by & 31) >> 32); }
inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned by) { return unsigned((uint64_t(hi) << 32 | lo) >> (by & 31)); }

inline int __float2int_rn(float x) { return int(rintf(x)); }
inline int __float2int_rz(float x) { return int(x); }
inline int __float2int_rd(float x) { return int(floorf(x)); }
inline int __float2int_ru(float x) { return int(ceilf(x)); }
inline float __int2float_rn(int x) { return float(x); }
inline float __uint2float_rn(unsigned x) { return float(x); }

template <class T> inline T __ldg(const T *p) { return *p; }
template <class T> inline T __ldcs(const T *p) { return *p; }
template <class T> inline T __ldcg(const T *p) { return *p; }
template <class T> inline T __ldca(const T *p) { return *p; }
template <class T> inline void __stcs(T *p, T x) { *p = x; }
template <class T> inline void __stcg(T *p, T x) { *p = x; }

// Atomics on integers; there are none on floats, whose sums would depend on the order.
#define TFC_SIM_ATOMICS(T)                                                                        \
    inline T atomicAdd(T *p, T x) { return __atomic_fetch_add(p, x, __ATOMIC_RELAXED); }          \
    inline T atomicSub(T *p, T x) { return __atomic_fetch_sub(p, x, __ATOMIC_RELAXED); }          \
    inline T atomicAnd(T *p, T x) { return __atomic_fetch_and(p, x, __ATOMIC_RELAXED); }          \
    inline T atomicOr(T *p, T x) { return __atomic_fetch_or(p, x, __ATOMIC_RELAXED); }            \
    inline T atomicExch(T *p, T x) { return __atomic_exchange_n(p, x, __ATOMIC_RELAXED); }        \
    inline T atomicCAS(T *p, T old, T x) {                                                        \
        __atomic_compare_exchange_n(p, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);       \
        return old;                                                                               \
    }                                                                                             \
    inline T atomicMax(T *p, T x) {                                                               \
        T old = __atomic_load_n(p, __ATOMIC_RELAXED);                                             \
        while (old < x && !__atomic_compare_exchange_n(p, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {} \
        return old;                                                                               \
    }                                                                                             \
    inline T atomicMin(T *p, T x) {                                                               \
        T old = __atomic_load_n(p, __ATOMIC_RELAXED);                                             \
        while (x < old && !__atomic_compare_exchange_n(p, &old, x, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) {} \
        return old;                                                                               \
    }
TFC_SIM_ATOMICS(int)
TFC_SIM_ATOMICS(unsigned)
TFC_SIM_ATOMICS(unsigned long long)
#undef TFC_SIM_ATOMICS

inline void __threadfence() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
inline void __threadfence_block() { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
[[noreturn]] inline void __trap(const char *file = __builtin_FILE(), int line = __builtin_LINE()) { tfc_sim::fail("__trap", {file, line}); }

#include "product.h"

#include "number.h"
#include "shared.h"

#include <math.h>
#include <string.h>

#include <atomic>
#include <functional>
#include <vector>

namespace {

constexpr int64_t MR = 8, NR = 4; // rows and columns that are summed together

typedef double Vector __attribute__((vector_size(32)));

// eight_bits is a number of 8 bits with Mantissa bits behind the first and an exponent biased by Bias. E4M3 has no infinity, and NaN where
// all bits but the sign are set; E5M2 is as half is.
template <int Mantissa, int Bias> double eight_bits(uint8_t bits) {
    const int exponent = bits >> Mantissa & ((1 << (7 - Mantissa)) - 1), fraction = bits & ((1 << Mantissa) - 1);
    double x = exponent == 0 ? ldexp(fraction, 1 - Bias - Mantissa) : ldexp(fraction + (1 << Mantissa), exponent - Bias - Mantissa);
    if (Mantissa == 3 ? (bits & 0x7f) == 0x7f : exponent == 31) x = Mantissa == 2 && fraction == 0 ? double(INFINITY) : double(NAN);
    return bits & 0x80 ? -x : x;
}

double load(const void *p, Type t, int64_t i) {
    switch (t) {
    case Type::bf16: return __bfloat162float(static_cast<const bf16 *>(p)[i]);
    case Type::f16: return __half2float(static_cast<const half *>(p)[i]);
    case Type::e4m3: return eight_bits<3, 7>(static_cast<const uint8_t *>(p)[i]);
    case Type::e5m2: return eight_bits<2, 15>(static_cast<const uint8_t *>(p)[i]);
    default: return static_cast<const float *>(p)[i];
    }
}

// to_float rounds a double so that rounding the float to 16 bits rounds it only once: to odd.
float to_float(double x) {
    const float f = float(x);
    if (double(f) == x || x != x || isinf(f)) return f;
    const uint32_t bits = __builtin_bit_cast(uint32_t, f);
    if (bits & 1) return f;
    return __builtin_bit_cast(float, fabs(double(f)) < fabs(x) ? bits + 1 : bits - 1);
}

void store(void *p, Type t, int64_t i, double x) {
    switch (t) {
    case Type::bf16: static_cast<bf16 *>(p)[i] = __float2bfloat16_rn(to_float(x)); break;
    case Type::f16: static_cast<half *>(p)[i] = __float2half_rn(to_float(x)); break;
    default: static_cast<float *>(p)[i] = float(x);
    }
}

// tf32 rounds to nearest, ties away from zero (cvt.rna.tf32).
double tf32(double x) {
    const uint32_t bits = __builtin_bit_cast(uint32_t, float(x));
    if ((bits & 0x7f800000) == 0x7f800000) return x;
    return __builtin_bit_cast(float, (bits + 0x1000) & ~0x1fffu);
}

// GELU is the tanh form, and its derivative.
constexpr double gelu_scale = 0.79788456080286535588, gelu_cubic = 0.044715; // sqrt(2/π)

double gelu_of(double x) { return 0.5 * x * (1 + tanh(gelu_scale * (x + gelu_cubic * x * x * x))); }

double gelu_slope(double x) {
    const double t = tanh(gelu_scale * (x + gelu_cubic * x * x * x));
    return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * gelu_scale * (1 + 3 * gelu_cubic * x * x);
}

// each calls f(0) … f(n-1), on all threads where there is work enough for them.
void each(int64_t n, int64_t work, const std::function<void(int64_t)> &f) {
    struct Share {
        std::atomic<int64_t> next = 0;
        int64_t n;
        const std::function<void(int64_t)> *f;
    } share{.n = n, .f = &f};
    const auto run = [](void *p, int) {
        Share &s = *static_cast<Share *>(p);
        for (int64_t i; (i = s.next++) < s.n;) (*s.f)(i);
    };
    if (n > 1 && work > 1 << 16)
        tfc_fake_everywhere(run, &share);
    else
        run(&share, 0);
}

// pack brings block i of `width` rows of X[rows, k] into order: for each k the values of these rows, zeros beyond the end.
// X(r, x) is at r*row + x*col.
void pack(double *to, const void *from, Type t, bool round, int64_t rows, int64_t k, int64_t row, int64_t col, int64_t width, int64_t i) {
    for (int64_t r = 0; r < width; r++)
        for (int64_t x = 0; x < k; x++) {
            double v = 0;
            if (i * width + r < rows) v = load(from, t, (i * width + r) * row + x * col);
            to[(i * k + x) * width + r] = round ? tf32(v) : v;
        }
}

// tile sums a block of MR×NR results.
void tile(double (&d)[NR][MR], const double *a, const double *b, int64_t k) {
    Vector sum[NR][2] = {};
    for (int64_t x = 0; x < k; x++) {
        Vector left[2];
        memcpy(left, a + x * MR, sizeof left);
        for (int j = 0; j < NR; j++) {
            const double right = b[x * NR + j];
            sum[j][0] += left[0] * right;
            sum[j][1] += left[1] * right;
        }
    }
    memcpy(d, sum, sizeof sum);
}

// finish is the epilogue of one result.
double finish(const Product &p, double x, int64_t row, int64_t col) {
    x *= p.alpha;
    if (p.scale_a) x *= *p.scale_a;
    if (p.scale_b) x *= *p.scale_b;
    if (p.beta != 0) x += double(p.beta) * load(p.C, p.c.type, row + col * p.c.ld);
    if (p.epilogue & add_bias) x += load(p.bias, p.bias_type, row);
    if (p.epilogue & gelu_gradient) return x * gelu_slope(load(p.aux, p.aux_type, row + col * p.aux_ld));
    if ((p.epilogue & gelu) && (p.epilogue & with_aux)) store(p.aux, p.aux_type, row + col * p.aux_ld, x);
    if (p.epilogue & gelu) return gelu_of(x);
    if (p.epilogue & relu) return x > 0 || x != x ? x : 0;
    return x;
}

} // namespace

void multiply(const Product &p) {
    const int64_t m = p.m(), n = p.n(), k = p.k();
    const int64_t blocks_m = (m + MR - 1) / MR, blocks_n = (n + NR - 1) / NR;
    if (p.workspace_bytes) memset(p.workspace, 0xff, size_t(p.workspace_bytes));
    std::vector<double> a(size_t(blocks_m * MR * k)), b(size_t(blocks_n * NR * k));
    const bool round = p.tf32;
    each(blocks_m, m * k, [&](int64_t i) {
        pack(a.data(), p.A, p.a.type, round, m, k, p.transpose_a ? p.a.ld : 1, p.transpose_a ? 1 : p.a.ld, MR, i);
    });
    each(blocks_n, n * k, [&](int64_t i) {
        pack(b.data(), p.B, p.b.type, round, n, k, p.transpose_b ? 1 : p.b.ld, p.transpose_b ? p.b.ld : 1, NR, i);
    });
    const bool sums_d = p.epilogue & bias_gradient;
    std::vector<double> unrounded(sums_d ? size_t(m * n) : 0);
    each(blocks_n, m * n * k, [&](int64_t j) {
        for (int64_t i = 0; i < blocks_m; i++) {
            alignas(32) double d[NR][MR];
            tile(d, a.data() + i * MR * k, b.data() + j * NR * k, k);
            for (int64_t c = 0; c < NR && j * NR + c < n; c++)
                for (int64_t r = 0; r < MR && i * MR + r < m; r++) {
                    const int64_t row = i * MR + r, col = j * NR + c;
                    const double x = finish(p, d[c][r], row, col);
                    store(p.D, p.d.type, row + col * p.d.ld, x);
                    if (sums_d) unrounded[size_t(row + col * m)] = x;
                }
        }
    });
    // Gradients of a bias: sums of D's rows, of op(A)'s rows, or of op(B)'s columns.
    for (int64_t row = 0; sums_d && row < m; row++) {
        double sum = 0;
        for (int64_t col = 0; col < n; col++) sum += unrounded[size_t(row + col * m)];
        store(p.bias, p.bias_type, row, sum);
    }
    const auto sums = [&](const std::vector<double> &packed, int64_t rows, int64_t width) {
        for (int64_t r = 0; r < rows; r++) {
            double sum = 0;
            for (int64_t x = 0; x < k; x++) sum += packed[size_t((r / width * k + x) * width + r % width)];
            store(p.bias, p.bias_type, r, sum);
        }
    };
    if (p.epilogue & sum_a) sums(a, m, MR);
    if (p.epilogue & sum_b) sums(b, n, NR);
}

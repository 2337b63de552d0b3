// The arithmetic of the fake cuBLASLt: a product of column-major matrices, with its epilogue.
#pragma once

#include <stdint.h>

enum class Type : int32_t { f32 = 0, f16 = 2, bf16 = 14, e4m3 = 28, e5m2 = 29, none = -1 }; // as cudaDataType numbers them

constexpr bool eight_bits(Type t) { return t == Type::e4m3 || t == Type::e5m2; }
constexpr int size_of(Type t) { return eight_bits(t) ? 1 : t == Type::f32 ? 4 : 2; }
constexpr bool known(Type t) { return t == Type::f32 || t == Type::f16 || t == Type::bf16 || eight_bits(t); }

struct Matrix {
    Type type;
    int64_t rows, cols, ld; // ld elements from one column to the next
    // bytes is how much memory it spans.
    int64_t bytes() const { return rows == 0 || cols == 0 ? 0 : ((cols - 1) * ld + rows) * size_of(type); }
};

// Bits of epilogues, as cublasLtEpilogue_t has them.
enum Epilogue : uint32_t { relu = 2, add_bias = 4, bias_gradient = 16, gelu = 32, gelu_gradient = 64, with_aux = 128, sum_a = 256, sum_b = 512 };

// Product is D = epilogue(alpha·op(A)·op(B) + beta·C).
struct Product {
    Matrix a, b, c, d;
    bool transpose_a, transpose_b;
    bool tf32; // inputs are rounded to 10 bits of mantissa
    float alpha, beta;
    uint32_t epilogue;
    const void *A, *B, *C;
    void *D;
    void *bias; // a value for each row of D; or its gradient, written
    Type bias_type;
    void *aux; // the input of gelu, as D
    int64_t aux_ld;
    Type aux_type;
    const float *scale_a, *scale_b; // factors of the elements of A and B, where these have 8 bits; null: 1
    void *workspace;
    int64_t workspace_bytes; // that it overwrites
    double ms;               // that it takes on the device

    int64_t m() const { return d.rows; }
    int64_t n() const { return d.cols; }
    int64_t k() const { return transpose_a ? a.rows : a.cols; }
};

// multiply computes it: sums and epilogue in double, each result rounded once. It runs on all of the device's threads.
void multiply(const Product &);

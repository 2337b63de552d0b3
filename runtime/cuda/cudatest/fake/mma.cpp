#include "mma.h"

namespace tensor_core {

namespace {

constexpr int M = 16, N = 8, K = 16;

typedef float Row __attribute__((vector_size(4 * N)));

template <bool is_half> float number(uint16_t bits) {
    if constexpr (is_half) return __half2float({bits});
    return __bfloat162float({bits});
}

// widen makes floats of 16 numbers.
template <bool is_half> void widen(float *to, const uint16_t *from) {
    for (int i = 0; i < K; i++) to[i] = number<is_half>(from[i]);
}

// A group of four lanes holds 8 numbers of a row of A, a column of B or a row of D in each register (of D: in each two),
// in their order.
template <bool is_half> void run(tfc_sim::Warp &w, int parity) {
    float a[M][K], b[N][K];
    Row d[M];
    const auto at = [&](int group, int lane) -> tfc_sim::MMA & {
        return *reinterpret_cast<tfc_sim::MMA *>(w.exchange[parity][4 * group + lane]);
    };
    for (int group = 0; group < 8; group++) {
        uint32_t upper[8], lower[8], column[8]; // two numbers each
        for (int i = 0; i < 4; i++) {
            const tfc_sim::MMA &x = at(group, i);
            upper[i] = x.a[0], upper[4 + i] = x.a[2];
            lower[i] = x.a[1], lower[4 + i] = x.a[3];
            column[i] = x.b[0], column[4 + i] = x.b[1];
            memcpy(reinterpret_cast<float *>(&d[group]) + 2 * i, x.d, 8);
            memcpy(reinterpret_cast<float *>(&d[group + 8]) + 2 * i, x.d + 2, 8);
        }
        widen<is_half>(a[group], reinterpret_cast<const uint16_t *>(upper));
        widen<is_half>(a[group + 8], reinterpret_cast<const uint16_t *>(lower));
        widen<is_half>(b[group], reinterpret_cast<const uint16_t *>(column));
    }
    for (int k = 0; k < K; k++) {
        const Row right = {b[0][k], b[1][k], b[2][k], b[3][k], b[4][k], b[5][k], b[6][k], b[7][k]};
        for (int m = 0; m < M; m++) d[m] += a[m][k] * right;
    }
    for (int group = 0; group < 8; group++)
        for (int i = 0; i < 4; i++) {
            tfc_sim::MMA &x = at(group, i);
            memcpy(x.d, reinterpret_cast<float *>(&d[group]) + 2 * i, 8);
            memcpy(x.d + 2, reinterpret_cast<float *>(&d[group + 8]) + 2 * i, 8);
        }
}

} // namespace

void multiply(tfc_sim::Warp &w, int parity, bool half) { half ? run<true>(w, parity) : run<false>(w, parity); }

} // namespace tensor_core

#include "mma.h"

namespace tensor {

namespace {

constexpr int M = 16, N = 8, K = 16;

typedef float Row __attribute__((vector_size(4 * N)));

template <bool is_half> float number(uint32_t bits) {
    if constexpr (is_half) return __half2float({uint16_t(bits)});
    return __bfloat162float({uint16_t(bits)});
}

template <bool is_half> void multiply(tfc_sim::Warp &w, int parity) {
    float a[M][K];
    Row b[K], d[M];
    for (int lane = 0; lane < tfc_sim::lanes; lane++) {
        const auto &x = *reinterpret_cast<const tfc_sim::MMA *>(w.exchange[parity][lane]);
        const int group = lane / 4, pair = 2 * (lane % 4);
        for (int h = 0; h < 2; h++) { // of a register
            for (int i = 0; i < 4; i++) a[group + 8 * (i % 2)][pair + 8 * (i / 2) + h] = number<is_half>(x.a[i] >> 16 * h);
            for (int i = 0; i < 2; i++) b[pair + 8 * i + h][group] = number<is_half>(x.b[i] >> 16 * h);
            for (int i = 0; i < 2; i++) d[group + 8 * i][pair + h] = x.d[2 * i + h];
        }
    }
    for (int m = 0; m < M; m++)
        for (int k = 0; k < K; k++) d[m] += a[m][k] * b[k];
    for (int lane = 0; lane < tfc_sim::lanes; lane++) {
        auto &x = *reinterpret_cast<tfc_sim::MMA *>(w.exchange[parity][lane]);
        const int group = lane / 4, pair = 2 * (lane % 4);
        for (int i = 0; i < 4; i++) x.d[i] = d[group + 8 * (i / 2)][pair + i % 2];
    }
}

} // namespace

void mma(tfc_sim::Warp &w, int parity, bool half) { half ? multiply<true>(w, parity) : multiply<false>(w, parity); }

} // namespace tensor

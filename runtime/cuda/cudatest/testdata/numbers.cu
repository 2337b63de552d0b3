// Conversions and functions of the device.
#ifdef SOFTWARE
#undef __F16C__ // numbers.h converts by itself then
#endif
#include "device.cuh"

__device__ inline int thread() { return blockIdx.x * blockDim.x + threadIdx.x; }

// widen converts all 65536 numbers of 16 bits.
extern "C" __global__ void widen(float *from_bf16, float *from_half) {
    const unsigned short i = thread();
    from_bf16[i] = __bfloat162float(__ushort_as_bfloat16(i));
    from_half[i] = __half2float(__ushort_as_half(i));
}

extern "C" __global__ void narrow(unsigned short *to_bf16, unsigned short *to_half, const float *in, int n) {
    const int i = thread();
    if (i >= n) return;
    to_bf16[i] = __bfloat16_as_ushort(__float2bfloat16_rn(in[i]));
    to_half[i] = __half_as_ushort(__float2half_rn(in[i]));
}

extern "C" __global__ void pack(uint32_t *out, const float *in) {
    out[0] = pack2<bf16>(in[0], in[1]);
    out[1] = pack2<half>(in[0], in[1]);
}

extern "C" __global__ void floats(float *out, float x, float y) {
    out[0] = exp2_fast(x);
    out[1] = __expf(x);
    out[2] = __fdividef(x, y);
    out[3] = rsqrtf(x);
    out[4] = __logf(x);
    out[5] = fmaf(x, y, 1);
    out[6] = max(x, y);
    out[7] = min(x, y);
}

extern "C" __global__ void bits(unsigned *out, unsigned x, unsigned y) {
    out[0] = __umulhi(x, y);
    out[1] = __popc(x);
    out[2] = __clz(x);
    out[3] = __ffs(x);
    out[4] = __brev(x);
    out[5] = __byte_perm(x, y, 0x3715);
    out[6] = __funnelshift_l(x, y, 8);
    out[7] = __funnelshift_r(x, y, 8);
    out[8] = __float_as_uint(__uint_as_float(x));
}

// Tiles of 16-bit rows in shared memory as the matrix units of Hopper read them (wgmma): panels of 64 columns, one behind the
// other, in each of which a row has 128 bytes whose 16-byte chunks are permuted by the row's number ("128-byte swizzle").
#pragma once
#include "device.cuh"

// Panels<Columns, Rows> is a tile of Rows rows, a multiple of 8, of Columns columns, padded with zeros to a multiple of 64. It
// starts at a multiple of 1024 bytes.
template <int Columns, int Rows> struct Panels {
    static constexpr int count = ceil_div(Columns, 64), steps = ceil_div(Columns, 16); // steps: of 16 columns
    static constexpr int panel = Rows * 128, bytes = count * panel;

    // at is where a chunk is, in bytes from the tile's start.
    static __device__ int at(int row, int chunk) { return chunk / 8 * panel + row * 128 + 16 * ((chunk % 8) ^ (row & 7)); }
    // at_step is how far the columns from 16*step on are from the first, for a Matrix.
    static constexpr __device__ int at_step(int step) { return step / 4 * panel + step % 4 * 32; }
};

// copy_panels starts to copy Rows rows of x, from row `first` on, into a tile; rows from `end` on become zeros. Rows of x start at
// multiples of 16 bytes. All Threads threads of the block take part; rows lie within 4 GiB.
template <int Columns, int Rows, int Threads, class T> __device__ inline void copy_panels(unsigned char *tile, const T *x, int stride, int first, int end) {
    using L = Panels<Columns, Rows>;
    static_assert(sizeof(T) == 2, "tensor cores take 16 bits");
    const char *const from = reinterpret_cast<const char *>(x + static_cast<size_t>(first) * stride);
    constexpr int chunks = L::count * 8, all = Rows * chunks;
#pragma unroll
    for (int n = 0; n < ceil_div(all, Threads); n++) {
        const int i = n * Threads + static_cast<int>(threadIdx.x), row = i / chunks, chunk = i % chunks;
        if (all % Threads != 0 && i >= all) break;
        const bool valid = first + row < end && (Columns % 64 == 0 || chunk * 8 < Columns);
        copy_async(tile + L::at(row, chunk), from + static_cast<uint32_t>(row * stride + chunk * 8) * 2, valid);
    }
}

// write_panels stores a warp's 16 rows of accumulators, [16, Columns], times by for the upper and lower eight rows, in T, to the
// rows of y from `first` on that are before `end`. It goes through the rows of a tile from `place` on, which only this warp uses.
template <int Columns, int Rows, class T, int N>
__device__ inline void write_panels(T *y, int stride, int first, int end, unsigned char *tile, int place, const float (&acc)[N][8][4], float upper, float lower) {
    using L = Panels<Columns, Rows>;
    static_assert(N == L::count && Columns % 8 == 0, "a panel has eight accumulators of eight columns");
    const int lane = lane_index(), row = place + lane / 4;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < Columns / 8; n++) {
        const float(&a)[4] = acc[n / 8][n % 8];
        *reinterpret_cast<uint32_t *>(tile + L::at(row, n) + lane % 4 * 4) = pack2<T>(a[0] * upper, a[1] * upper);
        *reinterpret_cast<uint32_t *>(tile + L::at(row + 8, n) + lane % 4 * 4) = pack2<T>(a[2] * lower, a[3] * lower);
    }
    __syncwarp();
    constexpr int chunks = Columns / 8;
    for (int i = lane; i < 16 * chunks; i += warp_size) {
        const int r = i / chunks, chunk = i % chunks;
        if (first + r < end)
            *reinterpret_cast<Pack<T, 8> *>(y + (static_cast<size_t>(first + r) * stride + chunk * 8)) =
                *reinterpret_cast<const Pack<T, 8> *>(tile + L::at(place + r, chunk));
    }
}

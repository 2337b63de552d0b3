// Tiles of 16-bit rows in shared memory, for the tensor cores: copies into them from global memory, and the fragments
// that warps take out of them.
#pragma once
#include "device.cuh"

// TileOf<Columns> is the layout of rows of Columns elements, padded with zeros to a multiple of 16 columns. The 16-byte
// chunks of a row are permuted by its number, or where they are no power of two rows get a chunk more, so that the eight
// rows of a matrix that ldmatrix reads lie in different banks.
template <int Columns> struct TileOf {
    static constexpr int chunks = round_up(Columns, 16) / 8; // of a row
    static constexpr int steps = chunks / 2;                 // of 16 columns
    static constexpr bool permuted = chunks % 8 == 0 || chunks == 4 || chunks == 2;
    static constexpr int pitch = 16 * (permuted ? chunks : chunks + 1); // bytes from row to row
    static constexpr __host__ __device__ int bytes(int rows) { return rows * pitch; }

    static __device__ int twist(int row) { return chunks % 8 == 0 ? row & 7 : chunks == 4 ? row >> 1 & 3 : chunks == 2 ? row >> 2 & 1 : 0; }
    // at is where a chunk is, in bytes from the tile's start.
    static __device__ int at(int row, int chunk) { return row * pitch + 16 * (chunk ^ twist(row)); }

    // Lane is where this lane points in the four 8×8 matrices of a 16×16 square, whose fragments mma wants side by side. The
    // square is at row 0; others are whole rows further.
    //   B of rows as columns (ldmatrix)                         matrices from left to right, then down: Across
    //   A of rows (ldmatrix), B of rows (ldmatrix_transposed)   matrices down, then to the right
    template <bool Across> struct Lane {
        static constexpr int variants = chunks % 8 == 0 ? 4 : chunks == 4 ? 2 : 1;
        int offset[variants];

        __device__ Lane() {
            const int lane = lane_index(), row = Across ? lane % 8 + lane / 16 * 8 : lane % 16, right = Across ? lane / 8 % 2 : lane / 16;
#pragma unroll
            for (int v = 0; v < variants; v++) offset[v] = at(row, 2 * v + right);
        }
        // at_step gives the square of columns 16*step on. step is known when the code is compiled.
        __device__ int at_step(int step) const { return offset[step % variants] + step / variants * variants * 32; }
    };
    using Across = Lane<true>;
    using Down = Lane<false>;
};

// copy_rows starts to copy Rows rows of x, from row `first` on, into a tile; rows from `end` on become zeros. Vec is the elements
// of an access that x allows: with 8 the copy is asynchronous (copy_async), with fewer it is done on return. All Threads
// threads of the block take part, and all but the place of a thread's first access is the same for them: rows lie within 4 GiB.
template <int Columns, int Rows, int Threads, int Vec, class T>
__device__ inline void copy_rows(unsigned char *tile, const T *x, int stride, int first, int end) {
    using L = TileOf<Columns>;
    static_assert(sizeof(T) == 2, "tensor cores take 16 bits");
    const char *const from = reinterpret_cast<const char *>(x + static_cast<size_t>(first) * stride);
    auto offset = [&](int row, int col) { return static_cast<uint32_t>(row * stride + col) * 2; };
    if constexpr (Vec == 8) {
        constexpr int all = Rows * L::chunks;
#pragma unroll
        for (int n = 0; n < ceil_div(all, Threads); n++) {
            const int i = n * Threads + static_cast<int>(threadIdx.x), row = i / L::chunks, chunk = i % L::chunks;
            if (all % Threads != 0 && i >= all) break;
            const bool valid = first + row < end && (Columns % 16 == 0 || chunk * 8 < Columns);
            copy_async(tile + L::at(row, chunk), from + offset(row, chunk * 8), valid);
        }
    } else {
        constexpr int columns = L::chunks * 8;
        for (int i = threadIdx.x; i < Rows * columns / Vec; i += Threads) {
            const int row = i * Vec / columns, col = i * Vec % columns;
            Pack<T, Vec> v;
            const bool valid = first + row < end && col < Columns;
            if (valid) v = *reinterpret_cast<const Pack<T, Vec> *>(from + offset(row, col));
#pragma unroll
            for (int e = 0; e < Vec; e++) {
                if (!valid) v.v[e] = from_float<T>(0);
                *reinterpret_cast<T *>(tile + L::at(row, col / 8) + (col % 8 + e) * 2) = v.v[e];
            }
        }
    }
}

// write_strip stores a strip of 16 rows of accumulators, [16, Columns], times by for the upper and lower eight rows, in T,
// to the rows of y from `first` on that are before `end`. It goes through 16 rows of a tile that only this warp uses.
template <int Columns, int Vec, class T, int N>
__device__ inline void write_strip(T *y, int stride, int first, int end, unsigned char *tile, const float (&acc)[N][4], float upper, float lower) {
    using L = TileOf<Columns>;
    static_assert(N == L::chunks, "an accumulator has eight columns");
    const int lane = lane_index(), row = lane / 4;
    __syncwarp();
#pragma unroll
    for (int n = 0; n < N; n++) {
        *reinterpret_cast<uint32_t *>(tile + L::at(row, n) + lane % 4 * 4) = pack2<T>(acc[n][0] * upper, acc[n][1] * upper);
        *reinterpret_cast<uint32_t *>(tile + L::at(row + 8, n) + lane % 4 * 4) = pack2<T>(acc[n][2] * lower, acc[n][3] * lower);
    }
    __syncwarp();
    constexpr int accesses = Columns / Vec; // of a row
    for (int i = lane; i < 16 * accesses; i += warp_size) {
        const int r = i / accesses, col = i % accesses * Vec;
        if (first + r < end)
            *reinterpret_cast<Pack<T, Vec> *>(y + (static_cast<size_t>(first + r) * stride + col)) =
                *reinterpret_cast<const Pack<T, Vec> *>(tile + L::at(r, col / 8) + col % 8 * 2);
    }
}

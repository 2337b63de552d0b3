// The gradient of a table that rows are looked up in, by token or by position: d[token] += scale * the sum of the rows of dy
// with that token. Words have very uneven frequencies, so the sums go by equal chunks of the rows sorted by token, and only
// the tokens whose rows reach over a chunk's end are put together afterwards. Nothing is added twice to one place by two
// blocks, so the sums have one order: that of the rows in a chunk, then that of the chunks.
//
// Four kernels in order:
//   embed_sort     sorts each tile of rows by token
//   embed_merge    finds every row's place among all of them
//   embed_sums     sums chunks
//   embed_finish   adds up what reaches over chunks
#pragma once
#include "device.cuh"

// Entry is a row of dy and its token; `sorted` holds them by token, then by row.
struct alignas(8) Entry {
    int token, row;
};

// tile_bits is the logarithm of the size of a tile, a power of two.
constexpr __host__ __device__ int tile_bits(int tile) {
    int bits = 0;
    while (1 << bits < tile) bits++;
    return bits;
}

constexpr uint32_t no_key = 0xffffffffu; // sorts behind every key

// embed_sort writes, for each tile of rows, its keys in order: token*tile + row within the tile, and no_key after the last
// row. A bitonic sort in shared memory.
//   Config  tile (a power of two, at least 64; tile * vocabulary < 2^32), threads = tile/2
//   grid    x: ceil(rows/tile)        shared: tile words        keys: [grid * tile] uint32
template <class C> __device__ void embed_sort(int rows, uint32_t *keys, const int *tokens) {
    constexpr int tile = C::tile;
    static_assert(C::threads == tile / 2 && 1 << tile_bits(tile) == tile, "a thread for each pair of a power of two");
    __shared__ uint32_t k[tile];
    const int first = blockIdx.x * tile;
    for (int i = threadIdx.x; i < tile; i += C::threads)
        k[i] = first + i < rows ? static_cast<uint32_t>(tokens[first + i]) << tile_bits(tile) | i : no_key;
    __syncthreads();
    for (int run = 2; run <= tile; run *= 2) { // runs of this size become sorted, up and down in turn
        for (int gap = run / 2; gap > 0; gap /= 2) {
            const int t = threadIdx.x, i = 2 * t - (t & (gap - 1)), j = i + gap;
            const uint32_t a = k[i], b = k[j];
            if ((a > b) == ((i & run) == 0)) {
                k[i] = b;
                k[j] = a;
            }
            __syncthreads();
        }
    }
    for (int i = threadIdx.x; i < tile; i += C::threads) keys[first + i] = k[i];
}

// embed_merge writes sorted [rows]. The place of a key is its place in its own tile, and how many keys of every other tile
// come before it: found by binary search, in several tiles at once to hide the latency of memory.
//   Config  rows, tile as in embed_sort, threads
//   grid    x: ceil(ceil(rows/tile)*tile / threads)
template <class C> __device__ void embed_merge(int rows, Entry *sorted, const uint32_t *keys) {
    constexpr int tile = C::tile, bits = tile_bits(tile), together = 8;
    const int tiles = ceil_div(rows, tile), i = blockIdx.x * C::threads + threadIdx.x;
    if (i >= tiles * tile || keys[i] == no_key) return;
    const int own = i / tile;
    const uint32_t token = keys[i] >> bits;
    int place = i % tile;
    for (int t = 0; t < tiles; t += together) {
        const uint32_t *of[together];
        uint32_t bound[together];
        int found[together];
#pragma unroll
        for (int j = 0; j < together; j++) {
            of[j] = keys + static_cast<size_t>(t + j < tiles ? t + j : own) * tile;
            bound[j] = (t + j < own ? token + 1 : token) << bits; // rows of earlier tiles with the same token come first
            found[j] = 0;
        }
#pragma unroll 1
        for (int step = tile / 2; step > 0; step /= 2) {
#pragma unroll
            for (int j = 0; j < together; j++) {
                if (of[j][found[j] + step - 1] < bound[j]) found[j] += step;
            }
        }
#pragma unroll
        for (int j = 0; j < together; j++) {
            if (t + j < tiles && t + j != own) place += found[j] + (of[j][found[j]] < bound[j] ? 1 : 0);
        }
    }
    sorted[place] = {static_cast<int>(token), static_cast<int>(own * tile + (keys[i] & (tile - 1)))};
}

// add_row adds scale * sum to vec floats of a gradient.
template <class C> __device__ inline void add_row(float *d, const float (&sum)[C::vec]) {
    float v[C::vec];
    load(v, d);
#pragma unroll
    for (int j = 0; j < C::vec; j++) v[j] += C::scale * sum[j];
    store(d, v);
}

// embed_sums sums the rows of each token in each chunk of sorted. A token whose rows all lie in the chunk is added to d
// [any, cols] float at once. Else the sum goes to partial [chunks, 2, cols] float: piece 0 where rows of the token lie in
// earlier chunks, piece 1 where they only go on in the next.
//   Config  T, rows, cols, vec (divides cols, the stride and where columns start), dy_stride, scale (float), chunk (at most
//           threads), threads
//   grid    x: ceil(rows/chunk), y: ceil(cols / (threads*vec))        shared: chunk entries
//   bytes   dy once, the rows of d that are hit twice, the partial sums
template <class C> __device__ void embed_sums(int rows, float *d, float *partial, const Entry *sorted, const typename C::T *dy) {
    constexpr int vec = C::vec, ahead = 4;
    __shared__ Entry entries[C::chunk];
    const int first = blockIdx.x * C::chunk, n = rows - first < C::chunk ? rows - first : C::chunk;
    if (threadIdx.x < static_cast<unsigned>(n)) entries[threadIdx.x] = sorted[first + threadIdx.x];
    const int before = first > 0 ? sorted[first - 1].token : -1, after = first + n < rows ? sorted[first + n].token : -1;
    __syncthreads();
    const int col = (blockIdx.y * C::threads + threadIdx.x) * vec;
    if (col >= C::cols) return;

    const auto row = [&](int i) { return dy + static_cast<size_t>(entries[i].row) * C::dy_stride + col; };
    float sum[vec];
#pragma unroll
    for (int j = 0; j < vec; j++) sum[j] = 0;
    for (int i = 0; i < n; i += ahead) {
        float v[ahead][vec];
#pragma unroll
        for (int k = 0; k < ahead; k++) {
            if (i + k < n) load(v[k], row(i + k));
        }
#pragma unroll
        for (int k = 0; k < ahead; k++) {
            if (i + k >= n) break;
#pragma unroll
            for (int j = 0; j < vec; j++) sum[j] += v[k][j];
            const int token = entries[i + k].token;
            const bool ends = i + k == n - 1;
            if (!ends && entries[i + k + 1].token == token) continue;
            if (token == before) {
                store(partial + static_cast<size_t>(2 * blockIdx.x) * C::cols + col, sum);
            } else if (ends && token == after) {
                store(partial + static_cast<size_t>(2 * blockIdx.x + 1) * C::cols + col, sum);
            } else {
                add_row<C>(d + static_cast<size_t>(token) * C::cols + col, sum);
            }
#pragma unroll
            for (int j = 0; j < vec; j++) sum[j] = 0;
        }
    }
}

// embed_finish adds to d the sums of the tokens whose rows lie in several chunks: the block of the first of them adds up all.
//   Config  as embed_sums        grid: as embed_sums
//   bytes   partial once, the rows of d that are hit twice
template <class C> __device__ void embed_finish(int rows, float *d, const float *partial, const Entry *sorted) {
    constexpr int vec = C::vec;
    const int first = blockIdx.x * C::chunk, next = first + C::chunk;
    if (next >= rows) return;
    const int token = sorted[next].token;
    if (sorted[next - 1].token != token || (first > 0 && sorted[first - 1].token == token)) return;
    int from = next, to = rows; // the first entry with a larger token
    while (from < to) {
        const int middle = from + (to - from) / 2;
        if (sorted[middle].token <= token)
            from = middle + 1;
        else
            to = middle;
    }
    const int last = (to - 1) / C::chunk, col = (blockIdx.y * C::threads + threadIdx.x) * vec;
    if (col >= C::cols) return;
    float sum[vec];
    load(sum, partial + static_cast<size_t>(2 * blockIdx.x + 1) * C::cols + col);
#pragma unroll 4
    for (int c = blockIdx.x + 1; c <= last; c++) {
        float v[vec];
        load(v, partial + static_cast<size_t>(2 * c) * C::cols + col);
#pragma unroll
        for (int j = 0; j < vec; j++) sum[j] += v[j];
    }
    add_row<C>(d + static_cast<size_t>(token) * C::cols + col, sum);
}

// Hopper's copies of tiles, arrivals and group barriers, and wide products, as hopper.cuh describes them.
#pragma once

// TensorMap is what the fake driver's cuTensorMapEncodeTiled writes: elements by their indices, the first of which are neighbours, and how many of each a tile has. The
// first of a tile are a row of its own, whose 16-byte chunks are swizzled.
struct TensorMap {
    uint64_t magic;
    unsigned char *base;
    uint32_t rank, bytes, swizzle, unused; // bytes of an element, and of what the swizzle moves chunks in
    uint64_t sizes[5], strides[4];         // strides in bytes, from one of the second index to the next, and so on
    uint16_t tile[5];
    unsigned char rest[14];
};
static_assert(sizeof(TensorMap) == 128);

// An Arrival is the number of what the runner keeps of it.
using Arrival = unsigned long long;

inline void arrival_init(Arrival *a, int count) { tfc_sim::worker().services->arrival_init(tfc_sim::worker(), a, count); }
inline void arrivals_ready() {}
inline void arrival_arrive(Arrival *a) { tfc_sim::worker().services->arrive(tfc_sim::worker(), a, 0); }
inline void arrival_announce(Arrival *a, int bytes) { tfc_sim::worker().services->arrive(tfc_sim::worker(), a, bytes); }
inline void arrival_wait(Arrival *a, int phase) { tfc_sim::worker().services->await(tfc_sim::worker(), tfc_sim::fiber(), a, phase); }

// A tile that is fetched lands as late as it may, when somebody waits for it, and is NaNs until then; one that is stored leaves when a
// wait asks for it.
inline void tile_fetch(void *shared, const TensorMap &map, Arrival *a, int column, int row) {
    tfc_sim::worker().services->tile_fetch(tfc_sim::worker(), shared, map, a, {2, {column, row}});
}
inline void half_fetch(void *shared, const TensorMap &map, Arrival *a, int column, int half, int row) {
    tfc_sim::worker().services->tile_fetch(tfc_sim::worker(), shared, map, a, {3, {column, half, row}});
}
inline void interleaved_fetch4(void *shared, const TensorMap &map, Arrival *a, int column, int row) {
    tfc_sim::worker().services->tile_fetch(tfc_sim::worker(), shared, map, a, {4, {column, 0, 0, row / 16}});
}
inline void interleaved_fetch5(void *shared, const TensorMap &map, Arrival *a, int column, int row) {
    tfc_sim::worker().services->tile_fetch(tfc_sim::worker(), shared, map, a, {5, {column, 0, 0, 0, row / 16}});
}
inline void tile_store(const TensorMap &map, const void *shared, int column, int row) {
    tfc_sim::worker().services->tile_store(tfc_sim::worker(), tfc_sim::fiber(), shared, map, {2, {column, row}});
}
inline void half_store(const TensorMap &map, const void *shared, int column, int half, int row) {
    tfc_sim::worker().services->tile_store(tfc_sim::worker(), tfc_sim::fiber(), shared, map, {3, {column, half, row}});
}
inline void tile_store_commit() { tfc_sim::worker().services->tile_commit(tfc_sim::worker(), tfc_sim::fiber()); }
template <int N> inline void tile_store_read() { tfc_sim::worker().services->tile_leave(tfc_sim::worker(), tfc_sim::fiber(), N); }
inline void tile_store_done() { tfc_sim::worker().services->tile_leave(tfc_sim::worker(), tfc_sim::fiber(), 0); }

inline void copy_async_arrive(Arrival *a) {
    copy_async_commit();
    copy_async_wait<0>();
    arrival_arrive(a);
}

// A bulk copy lands as a tile does.
inline void bulk_fetch(void *shared, const void *global, int bytes, Arrival *a) {
    tfc_sim::worker().services->bulk_fetch(tfc_sim::worker(), shared, global, bytes, a);
}

inline void group_barrier(int id, int threads) { tfc_sim::worker().services->group_barrier(tfc_sim::worker(), tfc_sim::fiber(), id, threads); }

// A block's warps share the registers that it begins with: a warp that wants more than the others have left waits for ever.
inline void registers_change(int n) {
    tfc_sim::Worker &w = tfc_sim::worker();
    if (threadIdx.x % tfc_sim::lanes != 0) return;
    const int warps = w.threads / tfc_sim::lanes, all = 65536 / w.threads / 8 * 8 * warps;
    w.registers += n;
    if (++w.changed == warps && w.registers > all) tfc_sim::fail("warps ask for %d registers a lane in all, more than the block begins with", {nullptr, 0}, w.registers);
}
template <int N> inline void registers_up() { registers_change(N); }
template <int N> inline void registers_down() { registers_change(N); }

// matrix_across needs no more than the address: panels lie side by side, and wgmma_columns knows how far.
inline Matrix matrix_across(const void *tile, int panel) {
    if (panel != 64 * 128) tfc_sim::fail("panels of a product across are 64 rows, not %d bytes", {nullptr, 0}, panel);
    return matrix_at(tile);
}

template <class T, bool Across, int Panels> inline void wgmma_columns(float (&d)[Panels][8][4], Matrix a, Matrix b, bool add) {
    const int lane = threadIdx.x % 32, row = lane / 4, col = lane % 4 * 2, first = threadIdx.x / 32 % 4 * 16;
    auto pair = [&](int r, int c) { return tfc_sim::element(a, r, c) | tfc_sim::element(a, r, c + 1) << 16; };
    auto term = [&](int n, int k) { return Across ? tfc_sim::element(b + n / 64 * 64 * 128, k, n % 64) : tfc_sim::element(b, n, k); };
    const uint32_t x[4] = {pair(first + row, col), pair(first + row + 8, col), pair(first + row, col + 8), pair(first + row + 8, col + 8)};
    for (int p = 0; p < Panels; p++) {
        for (int n = 0; n < 8; n++) {
            float(&to)[4] = d[p][n];
            if (!add) to[0] = to[1] = to[2] = to[3] = 0;
            const int c = p * 64 + n * 8 + row;
            mma<T>(to, x, term(c, col) | term(c, col + 1) << 16, term(c, col + 8) | term(c, col + 9) << 16);
        }
    }
}

inline void wgmma_bytes(float (&d)[2][8][4], Matrix a, Matrix b, bool add) {
    const int lane = threadIdx.x % 32, row = lane / 4, col = lane % 4 * 2, first = threadIdx.x / 32 % 4 * 16;
    float x[2][32];
    for (int r = 0; r < 2; r++)
        for (int k = 0; k < 32; k++) x[r][k] = tfc_sim::e4m3(tfc_sim::byte(a, first + row + 8 * r, k));
    for (int n = 0; n < 16; n++) {
        for (int i = 0; i < 2; i++) {
            float sums[2] = {};
            for (int k = 0; k < 32; k++) {
                const float y = tfc_sim::e4m3(tfc_sim::byte(b, 8 * n + col + i, k));
                sums[0] += x[0][k] * y, sums[1] += x[1][k] * y;
            }
            for (int r = 0; r < 2; r++) {
                float &to = d[n / 8][n % 8][2 * r + i];
                to = (add ? to : 0) + sums[r];
            }
        }
    }
}

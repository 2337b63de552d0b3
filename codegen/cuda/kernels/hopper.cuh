// Hopper's asynchronous machinery (sm_90a): copies of tiles by descriptor, arrivals that count their bytes, barriers of a part of a
// block, and products of a warpgroup over more columns. The inline PTX of it is here. With TFC_SIM defined the same names come
// from the simulator.
#pragma once
#include "panel_tile.cuh"

#ifndef TFC_SIM

// TensorMap describes a matrix in memory and the tile of it that a copy moves: 64 columns of 16 bits, so many rows, laid out as
// a panel of panel_tile.cuh (CUtensorMap). Copies read zeros outside of the matrix and write nothing there. A matrix may be of two halves
// side by side, each with an edge of its own: half_fetch and half_store are for those.
struct alignas(64) TensorMap {
    unsigned char opaque[128];
};

// Arrival is a barrier in shared memory for producers and consumers. A phase ends when as many arrivals as arrival_init says have
// come, and all bytes that they announced. arrival_wait waits for the end of a phase, whose numbers alternate between 0 and 1; of
// the phase "before the first" it does not wait. Whoever waits is never more than one phase behind.
using Arrival = unsigned long long;

__device__ inline uint32_t shared_address(const void *p) { return static_cast<uint32_t>(__cvta_generic_to_shared(p)); }

__device__ inline void arrival_init(Arrival *a, int count) { asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(a)), "r"(count)); }
// arrivals_ready comes after all arrival_init of a thread, before the __syncthreads that lets others use them.
__device__ inline void arrivals_ready() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
__device__ inline void arrival_arrive(Arrival *a) { asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(a)) : "memory"); }
// arrival_announce arrives, and announces bytes of copies.
__device__ inline void arrival_announce(Arrival *a, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(a)), "r"(bytes) : "memory");
}
__device__ inline void arrival_wait(Arrival *a, int phase) {
    asm volatile("{.reg .pred done; again: mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; @!done bra again;}" ::"r"(shared_address(a)), "r"(phase) : "memory");
}

// tile_fetch copies the tile whose first column and row are given to shared memory (at a multiple of 1024 bytes), on its own time;
// its bytes count with a.
__device__ inline void tile_fetch(void *shared, const TensorMap &map, Arrival *a, int column, int row) {
    asm volatile("cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4}], [%2];" ::"r"(shared_address(shared)),
                 "l"(&map), "r"(shared_address(a)), "r"(column), "r"(row)
                 : "memory");
}
__device__ inline void half_fetch(void *shared, const TensorMap &map, Arrival *a, int column, int half, int row) {
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %5}], [%2];" ::"r"(shared_address(shared)),
                 "l"(&map), "r"(shared_address(a)), "r"(column), "r"(half), "r"(row)
                 : "memory");
}
// interleaved_fetch4 and interleaved_fetch5 are tile_fetch of matrices of bytes, in tiles of 128 columns, whose rows, of each 16, come in another order (runtime/cuda:
// interleavedRows, interleavedColumns): from a multiple of 16 on.
__device__ inline void interleaved_fetch4(void *shared, const TensorMap &map, Arrival *a, int column, int row) {
    asm volatile("cp.async.bulk.tensor.4d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %4, %5}], [%2];" ::"r"(shared_address(shared)),
                 "l"(&map), "r"(shared_address(a)), "r"(column), "r"(0), "r"(row / 16)
                 : "memory");
}
__device__ inline void interleaved_fetch5(void *shared, const TensorMap &map, Arrival *a, int column, int row) {
    asm volatile("cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1, {%3, %4, %4, %4, %5}], [%2];" ::"r"(shared_address(shared)),
                 "l"(&map), "r"(shared_address(a)), "r"(column), "r"(0), "r"(row / 16)
                 : "memory");
}
// tile_store copies a tile from shared memory, which other threads wrote before a fence_async and a barrier, on its own time. What
// a thread stored since its last commit is a group; tile_store_read<N> waits until shared memory of all but the N youngest groups
// may be written again, tile_store_done until all are in memory.
__device__ inline void tile_store(const TensorMap &map, const void *shared, int column, int row) {
    asm volatile("cp.async.bulk.tensor.2d.global.shared::cta.bulk_group [%0, {%2, %3}], [%1];" ::"l"(&map), "r"(shared_address(shared)), "r"(column), "r"(row)
                 : "memory");
}
__device__ inline void half_store(const TensorMap &map, const void *shared, int column, int half, int row) {
    asm volatile("cp.async.bulk.tensor.3d.global.shared::cta.bulk_group [%0, {%2, %3, %4}], [%1];" ::"l"(&map), "r"(shared_address(shared)), "r"(column), "r"(half),
                 "r"(row)
                 : "memory");
}
__device__ inline void tile_store_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }
template <int N> __device__ inline void tile_store_read() { asm volatile("cp.async.bulk.wait_group.read %0;" ::"n"(N) : "memory"); }
__device__ inline void tile_store_done() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// copy_async_arrive arrives once all copies that the thread has started by copy_async have ended; who waits for it calls fence_async
// before the matrix units read them.
__device__ inline void copy_async_arrive(Arrival *a) { asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(a)) : "memory"); }

// bulk_fetch copies bytes, a multiple of 16, from global to shared memory, on its own time; they count with a.
__device__ inline void bulk_fetch(void *shared, const void *global, int bytes, Arrival *a) {
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(shared_address(shared)), "l"(global), "r"(bytes),
                 "r"(shared_address(a))
                 : "memory");
}
// group_barrier is __syncthreads for so many threads of a block, those that name the same id, 1 to 15.
__device__ inline void group_barrier(int id, int threads) { asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory"); }

// registers_up and registers_down change how many registers the threads of a warpgroup have, to a multiple of 8.
template <int N> __device__ inline void registers_up() { asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N)); }
template <int N> __device__ inline void registers_down() { asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N)); }

// matrix_across names rows of 16 elements along a sum, as a tile of panels has them that are `panel` bytes apart: the second operand of
// wgmma_columns where it is stored [k, n].
__device__ inline Matrix matrix_across(const void *tile, int panel) {
    const uint32_t p = shared_address(tile);
    return (p & 0x3ffff) >> 4 | static_cast<Matrix>(panel >> 4) << 16 | 1024ull >> 4 << 32 | 1ull << 62;
}

#define TFC_PANEL(b)                                                                                                                         \
    TFC_FOUR(b, 0), TFC_FOUR(b, 1), TFC_FOUR(b, 2), TFC_FOUR(b, 3), TFC_FOUR(b, 4), TFC_FOUR(b, 5), TFC_FOUR(b, 6), TFC_FOUR(b, 7)
#define TFC_FOUR(b, n) "+f"(d[b][n][0]), "+f"(d[b][n][1]), "+f"(d[b][n][2]), "+f"(d[b][n][3])
#define TFC_WGMMA_128(type)                                                                                                                  \
    "{.reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k16.f32." type "." type " {"                                   \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                                                                                 \
    "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"                                                                       \
    "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"                                                                       \
    "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"                                                                        \
    "}, %64, %65, p, 1, 1, 0, %67;}"
#define TFC_WGMMA_256(type)                                                                                                                  \
    "{.reg .pred p; setp.ne.b32 p, %130, 0; wgmma.mma_async.sync.aligned.m64n256k16.f32." type "." type " {"                                  \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"                                                                                 \
    "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"                                                                       \
    "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"                                                                       \
    "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63,"                                                                       \
    "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,"                                                                       \
    "%80,%81,%82,%83,%84,%85,%86,%87,%88,%89,%90,%91,%92,%93,%94,%95,"                                                                       \
    "%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,%111,"                                                           \
    "%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"                                                        \
    "}, %128, %129, p, 1, 1, 0, %131;}"

// wgmma_columns is D = A·B, or where add is set D += A·B, for 64 rows of A, 128 or 256 columns, and 16 terms. B is stored [n, k], or where
// Across is set [k, n].
template <class T, bool Across> __device__ inline void wgmma_columns(float (&d)[2][8][4], Matrix a, Matrix b, bool add) {
    if constexpr (is_bf16<T>)
        asm volatile(TFC_WGMMA_128("bf16") : TFC_PANEL(0), TFC_PANEL(1) : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(Across ? 1 : 0));
    else
        asm volatile(TFC_WGMMA_128("f16") : TFC_PANEL(0), TFC_PANEL(1) : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(Across ? 1 : 0));
}
template <class T, bool Across> __device__ inline void wgmma_columns(float (&d)[4][8][4], Matrix a, Matrix b, bool add) {
    if constexpr (is_bf16<T>)
        asm volatile(TFC_WGMMA_256("bf16") : TFC_PANEL(0), TFC_PANEL(1), TFC_PANEL(2), TFC_PANEL(3) : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(Across ? 1 : 0));
    else
        asm volatile(TFC_WGMMA_256("f16") : TFC_PANEL(0), TFC_PANEL(1), TFC_PANEL(2), TFC_PANEL(3) : "l"(a), "l"(b), "r"(static_cast<int>(add)), "n"(Across ? 1 : 0));
}

// wgmma_bytes is the same of 128 columns and 32 terms, with A and B in e4m3 and B stored [n, k].
__device__ inline void wgmma_bytes(float (&d)[2][8][4], Matrix a, Matrix b, bool add) {
    asm volatile("{.reg .pred p; setp.ne.b32 p, %66, 0; wgmma.mma_async.sync.aligned.m64n128k32.f32.e4m3.e4m3 {"
                 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,"
                 "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31,"
                 "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,"
                 "%48,%49,%50,%51,%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
                 "}, %64, %65, p, 1, 1;}"
                 : TFC_PANEL(0), TFC_PANEL(1)
                 : "l"(a), "l"(b), "r"(static_cast<int>(add)));
}

#undef TFC_WGMMA_128
#undef TFC_WGMMA_256
#undef TFC_PANEL
#undef TFC_FOUR

#endif

// The machine that runs a block: a worker (one for each OS thread), its warps, and a fiber for each thread. Kernel
// libraries hold no state: they find the worker and the fiber by the stack pointer, because all stacks of a worker lie
// in its arena.
#pragma once

namespace tfc_sim {

constexpr int lanes = 32;
constexpr int max_threads = 1024;
constexpr int max_warps = max_threads / lanes;

// An arena is aligned to its size; slot 0 … first_slot-1 hold the Worker, then come the stacks, one a slot.
constexpr int slot_bits = 17, arena_bits = 28;
constexpr int first_slot = 8;
constexpr uintptr_t slot_size = uintptr_t(1) << slot_bits, arena_size = uintptr_t(1) << arena_bits;
static_assert(arena_size / slot_size >= max_threads + first_slot);

struct Place { // in a source file
    const char *file;
    int line;
};

// Copies are the asynchronous copies of a thread that have not landed: open since the last commit, and groups.
struct Copies;

struct Fiber {
    void *stack; // while it does not run
    uint3 thread;
    uint8_t lane, warp;
    Copies *copies; // or nullptr
    void *context;  // of the ucontext fallback
};

constexpr int exchange_bytes = 48; // of a lane in a collective

struct Warp;
using Finish = void (*)(Warp &, int parity);

// A warp's lanes meet in collectives. Two exchanges take turns: a lane may arrive at the next collective while others
// still read the last one; it cannot get further.
struct Warp {
    uint32_t alive;    // lanes that have not returned
    uint32_t runnable; // of these, the ones that wait for nothing
    uint32_t arrived;  // at the collective in progress
    uint32_t met;      // lanes that were at the last collective
    uint32_t parity;   // of the collective in progress
    const char *kind;  // its name
    Finish finish;     // what the last lane to arrive does, or nullptr
    alignas(16) unsigned char exchange[2][lanes][exchange_bytes];
};

struct Worker;
struct Async; // what the runner keeps of copies of tiles, and of who waits for them

} // namespace tfc_sim
struct TensorMap;
namespace tfc_sim {

// TileAt is the first element of a tile, by so many indices.
struct TileAt {
    int rank, index[5];
};

// Services is what the runner does for kernels.
struct Services {
    void (*suspend)(Worker &, Fiber &);                          // runs others until this fiber may go on
    [[noreturn]] void (*fail)(const char *what, Place, int64_t); // ends the launch with an error; "%d" in what is the number
    void (*mma)(Warp &, int parity, bool half);
    void (*copy_begin)(Fiber &, void *shared, const void *global, bool valid);
    void (*copy_commit)(Fiber &);
    void (*copy_wait)(Fiber &, int youngest);
    void (*arrival_init)(Worker &, unsigned long long *, int count);
    void (*arrive)(Worker &, unsigned long long *, int bytes);
    void (*await)(Worker &, Fiber &, unsigned long long *, int phase);
    void (*tile_fetch)(Worker &, void *shared, const TensorMap &, unsigned long long *, TileAt);
    void (*tile_store)(Worker &, Fiber &, const void *shared, const TensorMap &, TileAt);
    void (*tile_commit)(Worker &, Fiber &);
    void (*tile_leave)(Worker &, Fiber &, int youngest);
    void (*group_barrier)(Worker &, Fiber &, int id, int threads);
    void (*bulk_fetch)(Worker &, void *shared, const void *global, int bytes, unsigned long long *);
};

struct Worker {
    const Services *services;
    unsigned char *dynamic_shared;
    uint3 block_index;
    dim3 block_size, grid_size;
    uint32_t ready; // warps that have a runnable lane
    int threads;    // of the block
    int alive;      // of these, the ones that have not returned
    int waiting;    // threads at the barrier
    Place barrier;  // where they wait
    bool backward;  // the order of lanes and warps
    int changed, registers; // warps that have changed how many registers a lane has, and the sum of these numbers
    Async *async;   // or nullptr
    Warp warps[max_warps];
    Fiber fibers[max_threads];
};
static_assert(sizeof(Worker) <= first_slot * slot_size);

inline uintptr_t stack_pointer() {
#if defined(__x86_64__)
    uintptr_t p;
    asm("movq %%rsp, %0" : "=r"(p)); // not volatile: any value of it in a fiber is as good
    return p;
#else
    return reinterpret_cast<uintptr_t>(__builtin_frame_address(0));
#endif
}

// worker and fiber are those that the caller runs in.
inline Worker &worker() { return *reinterpret_cast<Worker *>(stack_pointer() & ~(arena_size - 1)); }
inline Fiber &fiber() {
    const uintptr_t p = stack_pointer();
    Worker &w = *reinterpret_cast<Worker *>(p & ~(arena_size - 1));
    return w.fibers[((p & (arena_size - 1)) >> slot_bits) - first_slot];
}

[[noreturn]] inline void fail(const char *what, Place at = {nullptr, 0}, int64_t number = 0) {
    worker().services->fail(what, at, number);
    __builtin_unreachable();
}

// release lets all threads leave the barrier.
inline void release(Worker &w) {
    w.waiting = 0;
    w.ready = 0;
    for (int i = 0; i * lanes < w.threads; i++) {
        w.warps[i].runnable = w.warps[i].alive;
        if (w.warps[i].alive) w.ready |= 1u << i;
    }
}

// barrier is __syncthreads. All threads must wait at one place; that one returned or waits elsewhere is an error.
inline void barrier(Place at) {
    Worker &w = worker();
    Fiber &f = fiber();
    if (w.alive != w.threads) fail("divergent barrier: %d threads have returned before it", at, w.threads - w.alive);
    if (w.waiting == 0)
        w.barrier = at;
    else if (w.barrier.line != at.line || strcmp(w.barrier.file, at.file) != 0)
        fail("divergent barrier: others wait at another __syncthreads, of line %d", at, w.barrier.line);
    if (++w.waiting == w.alive) {
        release(w);
        return;
    }
    w.warps[f.warp].runnable &= ~(1u << f.lane);
    w.services->suspend(w, f);
}

} // namespace tfc_sim

inline void __syncthreads(const char *file = __builtin_FILE(), int line = __builtin_LINE()) { tfc_sim::barrier({file, line}); }

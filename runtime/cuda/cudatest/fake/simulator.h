// Runs kernels: grids of blocks, on all of the pool's threads.
#pragma once

#include "sim.h"

#include "fault.h"

#include <functional>
#include <string>
#include <vector>

// Code is an entry of a kernel library.
struct Code {
    std::string name;
    const tfc_sim::Entry *entry;
    size_t tls_module; // its library's static shared memory, of all entries: 0 where it has none
    size_t tls_bytes;
    long static_shared; // bytes of its own; 0 where the library has several entries, and it is not known
};

// Launch is a call of a kernel with its arguments.
struct Launch {
    const Code *code;
    dim3 grid, block;
    unsigned shared;                 // bytes of dynamic shared memory
    std::vector<unsigned char> data; // the arguments, each from a multiple of 8 bytes
};

namespace simulator {

constexpr unsigned most_shared = 227 << 10; // bytes of dynamic shared memory

// run runs the whole grid; on the pool's executor. A fault names kernel, block, thread and place.
void run(const Launch &, Fault &);

// guarded runs f so that an invalid access in it becomes a fault.
void guarded(const char *what, Fault &, const std::function<void()> &f);

} // namespace simulator

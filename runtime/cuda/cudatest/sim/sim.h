// The simulator's side of device.cuh: with TFC_SIM defined, a .cu file compiles with g++ to a shared library whose
// kernels run on a CPU. Each CUDA thread is a fiber; the fake libcuda (../fake) owns the fibers and runs the blocks.
//
//     g++ -std=c++20 -O2 -DTFC_SIM -I runtime/cuda/cudatest/sim -I codegen/cuda/kernels
//         -fno-strict-aliasing -Wno-unknown-pragmas -x c++ -shared -fPIC k.cu -o k.so
//
// Package cudatest does that, with checks of accesses besides, and adds what describes the entries (entry.h).
//
// No header of the C++ library is included, so that a kernel compiles in tenths of a second.
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#ifndef TFC_FAKE                    // which includes this as well
#pragma GCC visibility push(hidden) // two kernels' Config structs are not one
#endif

#include "qualifiers.h"

#include "machine.h"

#include "checks.h"

#include "number.h"

#include "functions.h"

#include "warp.h"

#include "tensor.h"

#include "hopper.h"

#include "entry.h"

// The tensor cores.
#pragma once

#include "sim.h"

namespace tensor_core {

// multiply makes D += A·B of what the lanes of a warp have handed in: products exact, sums in float from the lowest k.
void multiply(tfc_sim::Warp &, int parity, bool half);

} // namespace tensor_core

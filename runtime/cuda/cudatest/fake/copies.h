// Asynchronous copies (cp.async) of a thread. They land as late as they may: when a wait asks for their group. Until
// then the bytes they go to are NaNs, because what is read there too early, or still needed there, is not defined.
#pragma once

#include "sim.h"

namespace copies {

void begin(tfc_sim::Fiber &, void *shared, const void *global, bool valid);
void commit(tfc_sim::Fiber &);
void wait(tfc_sim::Fiber &, int youngest);

// clear drops those that a block left behind.
void clear(tfc_sim::Fiber &);

} // namespace copies

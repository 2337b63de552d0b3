// Context switches between fibers: by hand on x86-64, by ucontext elsewhere.
#pragma once

#include "machine.h"

namespace context {

// prepare makes f start at entry, on the stack that ends at top (aligned to 64 bytes), when it is first switched to.
void prepare(tfc_sim::Fiber &f, unsigned char *top, void (*entry)());

// change leaves one context for another. host is the context of the thread that runs the fibers.
void change(tfc_sim::Fiber &from, tfc_sim::Fiber &to);

} // namespace context

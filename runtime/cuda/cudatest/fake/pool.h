// The device's threads. The first one, the executor, runs what is on the streams, while the caller of the API waits; it
// shares big work with the others. They exist as long as the process, and no signal of the process's is delivered to
// them.
#pragma once

#include <functional>

namespace pool {

constexpr int most = 16;

// size is how many threads there are: CPUs, or $TFC_FAKE_WORKERS.
int size();

// execute runs f on the executor and waits for it.
void execute(const std::function<void()> &f);

// everywhere runs f(worker) on all threads at once, and waits. Only for the executor.
void everywhere(const std::function<void(int)> &f);

// index is which of the pool's threads the caller is, or -1. A signal handler may ask.
int index();

} // namespace pool

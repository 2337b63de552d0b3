// What the files of the driver API share.
#pragma once

#include "control.h"
#include "device.h"
#include "stream.h"

#define API extern "C" __attribute__((visibility("default"))) Result

// READY is how most calls of the driver start: it records the call, fails if told to, needs cuInit and a context that is
// current on the thread, and repeats the context's fault.
#define READY(...)                                     \
    Call call(__func__, format(__VA_ARGS__));          \
    if (call.forced) return call.forced;               \
    if (const Result r = device::ready()) return call(r)

// Devices and their primary contexts.
#pragma once

#include "fault.h"

namespace device {

// ready is success where the driver is initialised and the thread has a context; otherwise the error. A fault of the
// device is the error of every later call.
Result ready();

// shared_optin is the most shared memory of a block, in bytes, that a kernel can ask for on the set compute capability.
long shared_optin();

void clear();

} // namespace device

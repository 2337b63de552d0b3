// Device memory and page-locked host memory: allocations that end at a page which faults.
#pragma once

#include "fault.h"

#include <stddef.h>
#include <stdint.h>

namespace memory {

enum Kind { device, pinned };

constexpr size_t alignment = 256;

// allocate gives NaN bytes (0xff), aligned to 256 bytes. Device memory counts against the device's total.
Result allocate(Kind, size_t bytes, void **);

// release gives memory back; text says where writes beside it have been found.
Result release(Kind, void *, std::string &text);

// total is the device's memory; free is what of it is not allocated.
void set_total(size_t);
size_t total();
size_t free();

// inside tells whether [p, p+bytes) is in one allocation.
bool inside(Kind, const void *p, size_t bytes);

// describe says where an address is: "address 0x…, 16 bytes past the end of 1024 bytes of device memory".
std::string describe(uintptr_t address);

// leaks has a line for each allocation.
std::string leaks();

// clear releases everything.
void clear();

} // namespace memory

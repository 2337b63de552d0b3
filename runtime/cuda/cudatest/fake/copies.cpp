#include "copies.h"

#include <vector>

namespace tfc_sim {

struct Copies {
    struct Copy {
        void *shared;
        const void *global; // or nullptr: zeros
    };
    std::vector<Copy> copies;   // in the order of their start
    std::vector<size_t> groups; // where each ends in copies
    size_t landed = 0;          // groups
    size_t done = 0;            // copies
};

} // namespace tfc_sim

namespace copies {

namespace {
tfc_sim::Copies &of(tfc_sim::Fiber &f) {
    if (f.copies == nullptr) f.copies = new tfc_sim::Copies; // a fiber's for good
    return *f.copies;
}
} // namespace

void begin(tfc_sim::Fiber &f, void *shared, const void *global, bool valid) {
    if (reinterpret_cast<uintptr_t>(shared) % 16 != 0) tfc_sim::fail("copy_async: the shared address is not aligned to 16 bytes");
    if (valid && reinterpret_cast<uintptr_t>(global) % 16 != 0) tfc_sim::fail("copy_async: the global address is not aligned to 16 bytes");
    memset(shared, 0xff, 16);
    of(f).copies.push_back({shared, valid ? global : nullptr});
}

void commit(tfc_sim::Fiber &f) {
    tfc_sim::Copies &c = of(f);
    c.groups.push_back(c.copies.size());
}

void wait(tfc_sim::Fiber &f, int youngest) {
    tfc_sim::Copies &c = of(f);
    for (; c.landed + size_t(youngest) < c.groups.size(); c.landed++) {
        for (; c.done < c.groups[c.landed]; c.done++) {
            const tfc_sim::Copies::Copy &x = c.copies[c.done];
            if (x.global)
                memcpy(x.shared, x.global, 16);
            else
                memset(x.shared, 0, 16);
        }
    }
    if (c.landed == c.groups.size() && c.done == c.copies.size()) clear(f);
}

void clear(tfc_sim::Fiber &f) {
    tfc_sim::Copies &c = *f.copies;
    c.copies.clear();
    c.groups.clear();
    c.landed = c.done = 0;
}

} // namespace copies

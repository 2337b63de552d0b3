#include "memory.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <deque>
#include <map>

namespace memory {
namespace {

struct Block {
    Kind kind;
    size_t bytes;
    unsigned char *map; // pages: a guard, room, a guard
    size_t map_bytes;
};

constexpr unsigned char margin = 0xfe;   // what lies in the room beside a block
constexpr size_t most_remembered = 4096; // freed blocks whose addresses stay invalid

std::map<uintptr_t, Block> blocks; // by address
std::deque<std::pair<uintptr_t, Block>> freed;
size_t device_total = size_t(4) << 30, device_used;

size_t page() {
    static const size_t n = size_t(sysconf(_SC_PAGESIZE));
    return n;
}

const char *name(Kind k) { return k == device ? "device" : "pinned"; }

// counted is how much of the device's memory an allocation takes.
size_t counted(size_t bytes) { return (bytes + alignment - 1) / alignment * alignment; }

void unmap(const Block &b) { munmap(b.map, b.map_bytes); }

std::string check_margins(uintptr_t at, const Block &b) {
    const unsigned char *from = b.map + page(), *to = b.map + b.map_bytes - page();
    unsigned char *p = reinterpret_cast<unsigned char *>(at);
    for (const unsigned char *x = from; x < p; x++)
        if (*x != margin) return format("something wrote %zu bytes before %zu bytes of %s memory", size_t(p - x), b.bytes, name(b.kind));
    for (const unsigned char *x = p + b.bytes; x < to; x++)
        if (*x != margin)
            return format("something wrote %zu bytes past the end of %zu bytes of %s memory", size_t(x - p - b.bytes), b.bytes, name(b.kind));
    return "";
}

} // namespace

Result allocate(Kind kind, size_t bytes, void **p) {
    if (bytes == 0 || p == nullptr) return invalid_value;
    const size_t size = counted(bytes);
    if (size < bytes || (kind == device && size > free())) return out_of_memory;
    const size_t room = (size + page() - 1) / page() * page();
    void *map = mmap(nullptr, room + 2 * page(), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (map == MAP_FAILED) return out_of_memory;
    Block b{kind, bytes, static_cast<unsigned char *>(map), room + 2 * page()};
    if (mprotect(b.map + page(), room, PROT_READ | PROT_WRITE) != 0) {
        unmap(b);
        return out_of_memory;
    }
    unsigned char *at = b.map + page() + room - size;
    memset(b.map + page(), margin, room - size);
    memset(at, 0xff, bytes);
    memset(at + bytes, margin, size - bytes);
    blocks[reinterpret_cast<uintptr_t>(at)] = b;
    if (kind == device) device_used += size;
    *p = at;
    return success;
}

Result release(Kind kind, void *p, std::string &text) {
    const auto i = blocks.find(reinterpret_cast<uintptr_t>(p));
    if (i == blocks.end() || i->second.kind != kind) return invalid_value;
    const auto [at, b] = *i;
    text = check_margins(at, b);
    blocks.erase(i);
    if (kind == device) device_used -= counted(b.bytes);
    // The addresses stay taken, so that a late access faults; the pages do not.
    if (mmap(b.map, b.map_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED) {
        unmap(b);
        return success;
    }
    freed.emplace_back(at, b);
    if (freed.size() > most_remembered) {
        unmap(freed.front().second);
        freed.pop_front();
    }
    return success;
}

void set_total(size_t bytes) { device_total = bytes; }
size_t total() { return device_total; }
size_t free() { return device_used < device_total ? device_total - device_used : 0; }

bool inside(Kind kind, const void *p, size_t bytes) {
    const uintptr_t at = reinterpret_cast<uintptr_t>(p);
    auto i = blocks.upper_bound(at);
    if (i == blocks.begin()) return false;
    --i;
    const size_t offset = at - i->first;
    return i->second.kind == kind && offset <= i->second.bytes && bytes <= i->second.bytes - offset;
}

std::string describe(uintptr_t address) {
    const auto line = [&](uintptr_t at, const Block &b, const char *state) {
        std::string s = format("address %#zx, ", size_t(address));
        if (address < at)
            s += format("%zu bytes before", size_t(at - address));
        else if (address >= at + b.bytes)
            s += format("%zu bytes past the end of", size_t(address - at - b.bytes));
        else
            s += format("%zu bytes into", size_t(address - at));
        return s + format(" %zu bytes of %s%s memory", b.bytes, state, name(b.kind));
    };
    const auto covers = [&](const Block &b) {
        const uintptr_t m = reinterpret_cast<uintptr_t>(b.map);
        return address >= m && address < m + b.map_bytes;
    };
    for (const auto &[at, b] : blocks)
        if (covers(b)) return line(at, b, "");
    for (const auto &[at, b] : freed)
        if (covers(b)) return line(at, b, "freed ");
    return format("address %#zx, which is no device memory", size_t(address));
}

std::string leaks() {
    std::string s;
    for (Kind k : {device, pinned})
        for (const auto &[at, b] : blocks)
            if (b.kind == k) s += format("%s memory, %zu bytes\n", name(k), b.bytes);
    return s;
}

void clear() {
    for (const auto &[at, b] : blocks) unmap(b);
    for (const auto &[at, b] : freed) unmap(b);
    blocks.clear();
    freed.clear();
    device_used = 0;
}

} // namespace memory

// An entry is a kernel that can be launched. The builder appends to each .cu file
//
//     TFC_SIM_ENTRY(name, bound)
//
// for each extern "C" __global__ function in it, with what its __launch_bounds__ says, or 1024, and TFC_SIM_ENTRIES(n)
// with their number.
#pragma once

namespace tfc_sim {

struct Entry {
    int bound;                  // threads of a block, at most
    int count;                  // of parameters
    const unsigned short *sizes; // of each, in bytes; pointer_size for a pointer
    void (*call)(void *const *arguments);
};

constexpr unsigned short pointer_size = 0x8000 | sizeof(void *);

// room is what an argument of a size takes among all of a launch, in bytes.
constexpr size_t room(unsigned short size) { return ((size & 0x7fff) + 7) / 8 * 8; }

template <class T> constexpr unsigned short parameter_size = sizeof(T);
template <class T> constexpr unsigned short parameter_size<T *> = pointer_size;

template <int... I> struct Indices {};

template <auto F> struct Describe;
template <class... A, void (*F)(A...)> struct Describe<F> {
    static_assert(((sizeof(A) <= 8 || __is_same(A, const TensorMap)|| __is_same(A, TensorMap)) && ...), "parameters are numbers, pointers and maps");
    static constexpr unsigned short sizes[sizeof...(A) + 1] = {parameter_size<A>...};
    template <int... I> static void call_with(void *const *p, Indices<I...>) { F(*static_cast<A *>(p[I])...); }
    static void call(void *const *p) { call_with(p, Indices<__integer_pack(int(sizeof...(A)))...>{}); }
    static constexpr Entry entry(int bound) { return {bound, int(sizeof...(A)), sizes, call}; }
};

} // namespace tfc_sim

#define TFC_SIM_ENTRY(name, bound) \
    extern "C" __attribute__((visibility("default"), used)) constexpr tfc_sim::Entry name##__entry = tfc_sim::Describe<name>::entry(bound);

#define TFC_SIM_ENTRIES(n) extern "C" __attribute__((visibility("default"), used)) constexpr int tfc_sim_entries = n;

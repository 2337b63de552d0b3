// Checks that g++ puts into kernels (-fsanitize=bounds,alignment,…): here they end the launch with the source line,
// instead of calling libubsan. Each check hands over a record that starts with its place.
#pragma once

namespace tfc_sim {

struct Check {
    const char *file;
    uint32_t line, column;
    Place place() const { return {file, int(line)}; }
};

} // namespace tfc_sim

#define TFC_SIM_CHECK(name, ...) extern "C" [[noreturn]] inline __attribute__((used)) void __ubsan_handle_##name##_abort(__VA_ARGS__)

TFC_SIM_CHECK(out_of_bounds, const tfc_sim::Check *at, uintptr_t index) {
    tfc_sim::fail("index %d is outside of the array", at->place(), int64_t(index));
}
TFC_SIM_CHECK(shift_out_of_bounds, const tfc_sim::Check *at, uintptr_t, uintptr_t by) {
    tfc_sim::fail("shift by %d", at->place(), int64_t(by));
}
TFC_SIM_CHECK(divrem_overflow, const tfc_sim::Check *at, uintptr_t, uintptr_t) { tfc_sim::fail("integer division by zero", at->place()); }
TFC_SIM_CHECK(type_mismatch_v1, const tfc_sim::Check *at, uintptr_t address) {
    tfc_sim::fail("address %d is not aligned for this access", at->place(), int64_t(address));
}
#undef TFC_SIM_CHECK

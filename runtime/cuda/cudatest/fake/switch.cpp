#include "sim.h"

#include "switch.h"

#if defined(__x86_64__) && !defined(TFC_SIM_UCONTEXT)

// tfc_fake_switch saves the registers that a call preserves on the stack, and the stack pointer at *from. It leaves by a
// jump, because a return would never go where the CPU expects it.
asm(R"(
.text
.p2align 4
.globl tfc_fake_switch
.hidden tfc_fake_switch
.type tfc_fake_switch, @function
tfc_fake_switch:
    push %rbp
    push %rbx
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, (%rdi)
    mov %rsi, %rsp
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbx
    pop %rbp
    pop %rcx
    jmp *%rcx
.size tfc_fake_switch, .-tfc_fake_switch
)");

extern "C" void tfc_fake_switch(void **from, void *to);

namespace context {

void prepare(tfc_sim::Fiber &f, unsigned char *top, void (*entry)()) {
    void **s = reinterpret_cast<void **>(top);
    *--s = nullptr; // where entry would return to; the stack is as after a call
    *--s = reinterpret_cast<void *>(entry);
    for (int i = 0; i < 6; i++) *--s = nullptr;
    f.stack = s;
}

void change(tfc_sim::Fiber &from, tfc_sim::Fiber &to) { tfc_fake_switch(&from.stack, to.stack); }

} // namespace context

#else

#include <ucontext.h>

namespace context {

namespace {
ucontext_t &of(tfc_sim::Fiber &f) {
    if (f.context == nullptr) f.context = new ucontext_t;
    return *static_cast<ucontext_t *>(f.context);
}
} // namespace

void prepare(tfc_sim::Fiber &f, unsigned char *top, void (*entry)()) {
    constexpr size_t size = tfc_sim::slot_size / 2; // below top; the guard page is further down
    ucontext_t &c = of(f);
    getcontext(&c);
    c.uc_stack.ss_sp = top - size;
    c.uc_stack.ss_size = size;
    c.uc_link = nullptr;
    makecontext(&c, entry, 0);
}

void change(tfc_sim::Fiber &from, tfc_sim::Fiber &to) { swapcontext(&of(from), &of(to)); }

} // namespace context

#endif

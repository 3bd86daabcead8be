// Which thread this is.

#pragma once

// threadIdx.x, read anew by every call. What is computed from `threadIdx.x` itself, the compiler computes once and keeps
// in registers throughout: too dear in a kernel that has none to spare, for what is not needed in its inner loop.
// PTX ISA: Special Registers: %tid.
inline int thread_index() {
    unsigned index;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
    return index & 1023;
}

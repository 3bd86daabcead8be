// Which thread this is.

#pragma once

// threadIdx.x, read anew by every call. What is computed from `threadIdx.x` itself, the compiler computes once and
// keeps in registers throughout: too dear in a kernel that has none to spare.
// PTX ISA: Special Registers: %tid.
inline int thread_index() {
    int index;
    asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
    return index;
}

// Adding to global memory from many blocks, in whatever order they come. The result is read by a later launch.

#pragma once

// PTX ISA: Parallel Synchronization and Communication Instructions: red.
inline void add_global(float* to, float x) {
    asm volatile("{ .reg .u64 global; cvta.to.global.u64 global, %0; red.relaxed.gpu.global.add.f32 [global], %1; }"
                 :: "l"(to), "f"(x) : "memory");
}

// To four neighbours, each by itself; the address is a multiple of 16. sm_90 and later.
// PTX ISA: Parallel Synchronization and Communication Instructions: red.
inline void add_global_4(float* to, float x, float y, float z, float w) {
    asm volatile(
        "{ .reg .u64 global; cvta.to.global.u64 global, %0;"
        "  red.relaxed.gpu.global.add.v4.f32 [global], {%1, %2, %3, %4}; }"
        :: "l"(to), "f"(x), "f"(y), "f"(z), "f"(w) : "memory");
}

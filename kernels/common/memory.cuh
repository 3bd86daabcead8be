// Asynchronous copies from global to shared memory (sm_80 and later).
//
// Shared addresses are the 32-bit addresses of the shared state space, as `ldmatrix` and `cp.async`
// take them. What a copy writes may be read only after `copy_wait_all`, or `copy_wait_group`, by the thread that started it,
// and after a barrier as well by every other thread.

#pragma once

using SharedAddress = unsigned;

// The address of `p`, which points into shared memory, in the shared state space.
// PTX ISA: Data Movement and Conversion Instructions: cvta.
__forceinline__ SharedAddress shared_address(const void* p) {
    SharedAddress address;
    asm("{ .reg .u64 wide; cvta.to.shared.u64 wide, %1; cvt.u32.u64 %0, wide; }" : "=r"(address) : "l"(p));
    return address;
}

// Loads 32 bits from shared memory; the address is a multiple of 4.
// PTX ISA: Data Movement and Conversion Instructions: ld.
__forceinline__ unsigned load_shared(SharedAddress from) {
    unsigned bits;
    asm volatile("ld.shared.u32 %0, [%1];" : "=r"(bits) : "r"(from) : "memory");
    return bits;
}

// Copies `bytes` bytes, past L1, and makes it 16 with zeros; with 0, reads nothing. Both addresses are multiples of 16.
// PTX ISA: Data Movement and Conversion Instructions: cp.async.
__forceinline__ void copy_async_up_to_16(SharedAddress to, const void* from, int bytes) {
    asm volatile(
        "{ .reg .u64 global; cvta.to.global.u64 global, %1;"
        "  cp.async.cg.shared.global.L2::128B [%0], [global], 16, %2; }"
        :: "r"(to), "l"(from), "r"(bytes) : "memory");
}

// Copies 16 bytes, or writes 16 zero bytes where `exists` is false.
__forceinline__ void copy_async_16(SharedAddress to, const void* from, bool exists) {
    copy_async_up_to_16(to, from, exists ? 16 : 0);
}

// Copies 8 bytes; writes zeros where `exists` is false. Both addresses are multiples of 8.
// PTX ISA: Data Movement and Conversion Instructions: cp.async.
__forceinline__ void copy_async_8(SharedAddress to, const void* from, bool exists) {
    asm volatile(
        "{ .reg .u64 global; cvta.to.global.u64 global, %1;"
        "  cp.async.ca.shared.global [%0], [global], 8, %2; }"
        :: "r"(to), "l"(from), "r"(exists ? 8 : 0) : "memory");
}

// Copies 4 bytes; writes zeros where `exists` is false. Both addresses are multiples of 4.
// PTX ISA: Data Movement and Conversion Instructions: cp.async.
__forceinline__ void copy_async_4(SharedAddress to, const void* from, bool exists) {
    asm volatile(
        "{ .reg .u64 global; cvta.to.global.u64 global, %1;"
        "  cp.async.ca.shared.global [%0], [global], 4, %2; }"
        :: "r"(to), "l"(from), "r"(exists ? 4 : 0) : "memory");
}

// Closes the group of the copies that this thread has started since it closed the last one.
// PTX ISA: Data Movement and Conversion Instructions: cp.async.commit_group.
__forceinline__ void copy_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}

// Waits until at most the last PENDING groups of this thread are not done.
// PTX ISA: Data Movement and Conversion Instructions: cp.async.wait_group.
template <int PENDING> __forceinline__ void copy_wait_group() {
    asm volatile("cp.async.wait_group %0;" :: "n"(PENDING) : "memory");
}

// Waits for every copy this thread has started.
// PTX ISA: Data Movement and Conversion Instructions: cp.async.wait_all.
__forceinline__ void copy_wait_all() {
    asm volatile("cp.async.wait_all;" ::: "memory");
}

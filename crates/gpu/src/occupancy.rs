//! How many threads of a kernel a multiprocessor holds at once.

use crate::Arch;

/// What a multiprocessor has room for (CUDA C++ Programming Guide, "Technical Specifications per Compute Capability").
struct Multiprocessor {
    warps: u32,
    blocks: u32,
    shared_bytes: u32,
}

const THREADS_PER_WARP: u32 = 32;
/// A multiprocessor has four parts with as many registers each, which are handed out to warps by the 256.
const PARTS: u32 = 4;
const REGISTERS_PER_PART: u32 = 16_384;
const REGISTER_UNIT: u32 = 256;
/// What the system keeps of shared memory, for each block.
const RESERVED_SHARED: u32 = 1024;
const SHARED_UNIT: u32 = 128;

impl Multiprocessor {
    fn of(arch: Arch) -> Multiprocessor {
        let (warps, blocks, kilobytes) = match arch.number() {
            80 | 87 => (64, 32, 164),
            86 => (48, 16, 100),
            90..120 => (64, 32, 228),
            _ => (48, 24, 100),
        };
        Multiprocessor { warps, blocks, shared_bytes: kilobytes << 10 }
    }
}

/// The share of a multiprocessor's warps that kernels of this shape fill, in `0.0..=1.0`; 0 where not even one block
/// fits.
///
/// `registers` are those of a thread, `shared_bytes` static and dynamic shared memory of a block.
///
/// ```
/// use longhand_gpu::occupancy;
///
/// // 128 registers for each of 128 threads: 16 warps, of 64.
/// assert_eq!(occupancy("sm_90a".parse()?, 128, 128, 0), 0.25);
/// # Ok::<(), longhand_gpu::Error>(())
/// ```
#[must_use]
pub fn occupancy(arch: Arch, threads: u32, registers: u32, shared_bytes: u32) -> f64 {
    let blocks = blocks_per_multiprocessor(arch, threads, registers, shared_bytes);
    f64::from(blocks * warps(threads)) / f64::from(Multiprocessor::of(arch).warps)
}

/// How many blocks of such a kernel a multiprocessor holds at once; 0 where not even one fits.
///
/// ```
/// use longhand_gpu::blocks_per_multiprocessor;
///
/// // 70 KiB of shared memory and the system's 1: three times in 228 KiB.
/// assert_eq!(blocks_per_multiprocessor("sm_90a".parse()?, 128, 128, 70 << 10), 3);
/// # Ok::<(), longhand_gpu::Error>(())
/// ```
#[must_use]
pub fn blocks_per_multiprocessor(arch: Arch, threads: u32, registers: u32, shared_bytes: u32) -> u32 {
    let has = Multiprocessor::of(arch);
    let warps = warps(threads);
    let registers = (registers.max(1) * THREADS_PER_WARP).next_multiple_of(REGISTER_UNIT);
    let by_registers = REGISTERS_PER_PART / registers * PARTS / warps;
    let by_shared = has.shared_bytes / (shared_bytes + RESERVED_SHARED).next_multiple_of(SHARED_UNIT);
    (has.warps / warps).min(has.blocks).min(by_registers).min(by_shared)
}

/// The most shared memory, static and dynamic, of a block: what a multiprocessor has less what the system keeps.
///
/// ```
/// assert_eq!(longhand_gpu::shared_bytes_per_block("sm_90a".parse()?), 227 << 10);
/// # Ok::<(), longhand_gpu::Error>(())
/// ```
#[must_use]
pub fn shared_bytes_per_block(arch: Arch) -> u32 {
    Multiprocessor::of(arch).shared_bytes - RESERVED_SHARED
}

fn warps(threads: u32) -> u32 {
    threads.div_ceil(THREADS_PER_WARP).max(1)
}

#[cfg(test)]
mod tests {
    use super::occupancy;

    fn on(arch: &str, threads: u32, registers: u32, shared_bytes: u32) -> f64 {
        occupancy(arch.parse().unwrap(), threads, registers, shared_bytes)
    }

    #[test]
    fn what_is_short_limits() {
        assert_eq!(on("sm_80", 1024, 32, 0), 1.0);
        // Registers: 255 are 256, of which a part has 64 for a warp of 32: two warps, eight in all.
        assert_eq!(on("sm_80", 256, 255, 0), 8.0 / 64.0);
        // Shared memory: 80 KiB and its reserve, twice in 164 KiB.
        assert_eq!(on("sm_80", 128, 32, 80 << 10), 8.0 / 64.0);
        // Blocks: 16 of one warp.
        assert_eq!(on("sm_86", 32, 16, 0), 16.0 / 48.0);
        // Warps: 1024 threads once, of 1536.
        assert_eq!(on("sm_120a", 1024, 16, 0), 32.0 / 48.0);
    }

    #[test]
    fn a_block_that_does_not_fit_occupies_nothing() {
        assert_eq!(on("sm_89", 128, 32, 100 << 10), 0.0);
        assert_eq!(on("sm_90a", 1024, 255, 0), 0.0);
    }
}

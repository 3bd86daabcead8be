//! Tile sizes: the one place where they are chosen.

use longhand_gpu::Arch;

/// The kernels that have tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Forward,
    BackwardQuery,
    BackwardKey,
}

/// `BLOCK_Q` queries by `BLOCK_K` keys, computed by a block of so many warps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    pub block_q: u32,
    pub block_k: u32,
    pub warps: u32,
}

/// What tells architectures apart here (CUDA C++ Programming Guide, table of technical specifications).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// sm_80 and sm_87: 163 KiB of shared memory for a block, 164 for a multiprocessor.
    Ampere,
    /// sm_90, sm_100, sm_103: 227 of 228 KiB, and tensor cores so fast that reading shared memory for them is
    /// the narrower way.
    Datacenter,
    /// sm_86, sm_89, sm_120, sm_121: 99 of 100 KiB, and tensor cores at most half as fast as sm_80's.
    Consumer,
}

fn class(arch: Arch) -> Class {
    match arch.number() {
        86 | 88 | 89 | 120.. => Class::Consumer,
        90..=119 => Class::Datacenter,
        _ => Class::Ampere,
    }
}

/// The tile of a kernel.
///
/// A warp with 32 rows reads half as much shared memory per product as one with 16, and needs twice the
/// accumulators: `rows * (HEAD_DIM + BLOCK_K)` floats in the forward kernel, `rows * (HEAD_DIM + 2 * BLOCK_K)` in
/// `BackwardQuery`, `rows * 2 * (HEAD_DIM + BLOCK_Q)` in `BackwardKey`, in 255 registers of each of 32 lanes. Two blocks
/// on a multiprocessor hide each other's barriers; each may then have half its shared memory and registers. Wherever
/// only one block fits, it has eight warps.
///
/// A kernel that is `featured`, with more than a causal mask, needs its registers for other things than accumulators: 16
/// rows per warp, and one block with eight warps.
#[allow(clippy::match_same_arms, reason = "a table: each row has its own reason")]
pub(super) fn tile(step: Step, arch: Arch, head_dim: usize, causal: bool, featured: bool) -> Tile {
    use Class::{Ampere, Consumer, Datacenter};
    use Step::{BackwardKey, BackwardQuery, Forward};
    let tile = |block_q, block_k, warps| Tile { block_q, block_k, warps };
    if featured {
        return match (step, head_dim) {
            (Forward, _) | (BackwardQuery, 64) => tile(128, 64, 8),
            (BackwardQuery, _) => tile(128, 32, 8),
            (BackwardKey, _) => tile(32, 128, 8),
        };
    }
    match (step, head_dim, class(arch), causal) {
        // 40 KiB, 32 rows per warp. FlashAttention-2 takes 128 keys, which spills here on sm_90a and sm_120a.
        (Forward, 64, _, _) => tile(128, 96, 4),
        // 56 KiB, 32 rows per warp. FlashAttention-2 takes 64 keys, which spills here or costs as many moves as it saves.
        (Forward, _, Ampere | Datacenter, _) => tile(128, 48, 4),
        // 48 KiB, so that two blocks fit: FlashAttention-2's tiles for sm_86 and sm_89. A square has less to mask.
        (Forward, _, Consumer, false) => tile(128, 32, 4),
        (Forward, _, Consumer, true) => tile(64, 64, 4),

        // 56 KiB, 32 rows per warp, two blocks. 64 keys spill on sm_90a.
        (BackwardQuery, 64, Ampere | Datacenter, _) => tile(128, 48, 4),
        // 48 KiB: two blocks. 16 rows per warp are enough for slower tensor cores.
        (BackwardQuery, 64, Consumer, _) => tile(64, 64, 4),
        // 128 KiB: one block, of 16 rows per warp.
        (BackwardQuery, _, Ampere, _) => tile(128, 64, 8),
        // 96 KiB: two blocks, 32 rows per warp.
        (BackwardQuery, _, Datacenter, _) => tile(128, 32, 4),
        // 96 KiB: one block, of 16 rows per warp.
        (BackwardQuery, _, Consumer, _) => tile(128, 32, 8),

        // 48.5 KiB, 32 rows per warp, two blocks everywhere.
        (BackwardKey, 64, _, _) => tile(32, 128, 4),
        // 129 KiB: one block. 32 rows per warp would need 256 registers for grad_k and grad_v alone.
        (BackwardKey, _, Ampere | Datacenter, _) => tile(64, 128, 8),
        // 96.5 KiB: half as many queries at a time, to fit.
        (BackwardKey, _, Consumer, _) => tile(32, 128, 8),
    }
}

impl Tile {
    pub(super) fn threads(self) -> u32 {
        self.warps * 32
    }

    /// Dynamic shared memory of a block, in bytes: as the kernels lay it out.
    pub(super) fn shared_bytes(self, step: Step, head_dim: usize) -> u32 {
        let Tile { block_q, block_k, .. } = self;
        let row = 2 * head_dim as u32;
        match step {
            // Q, K, V.
            Step::Forward => row * (block_q + 2 * block_k),
            // Q and grad_out; two stages of K and V.
            Step::BackwardQuery => row * (2 * block_q + 4 * block_k),
            // K and V; two stages of Q, grad_out and 8 bytes per query.
            Step::BackwardKey => row * (2 * block_k + 4 * block_q) + 2 * 8 * block_q,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::HEAD_DIMS;

    /// Shared memory of a block and of a multiprocessor.
    fn shared_kib(arch: Arch) -> (u32, u32) {
        match class(arch) {
            Class::Ampere => (163, 164),
            Class::Datacenter => (227, 228),
            Class::Consumer => (99, 100),
        }
    }

    #[test]
    fn every_tile_fits_in_shared_memory_with_eight_warps_on_a_multiprocessor() {
        for arch in Arch::TESTED {
            for head_dim in HEAD_DIMS {
                for step in [Step::Forward, Step::BackwardQuery, Step::BackwardKey] {
                    for [causal, featured] in [[false, false], [true, false], [false, true]] {
                        let tile = tile(step, arch, head_dim, causal, featured);
                        let bytes = tile.shared_bytes(step, head_dim);
                        let (block, multiprocessor) = shared_kib(arch);
                        assert!(bytes <= block * 1024, "{step:?} {arch} {head_dim}: {bytes}");
                        // The system keeps 1 KiB per block.
                        let blocks = multiprocessor * 1024 / (bytes + 1024);
                        assert!(blocks * tile.warps >= 8, "{step:?} {arch} {head_dim}: {blocks} blocks");
                    }
                }
            }
        }
    }
}

//! Tile sizes: the one place where they are chosen.

#![allow(clippy::match_same_arms, reason = "tables: each row has its own reason")]

use longhand_gpu::Arch;

use crate::Dtype;

/// The kernels that have tiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Forward,
    BackwardQuery,
    BackwardKey,
    /// The gradient of keys, and that of queries by atomics.
    BackwardKeyAndQuery,
}

/// `BLOCK_Q` queries by `BLOCK_K` keys, computed by a block of so many warps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tile {
    pub block_q: u32,
    pub block_k: u32,
    pub warps: u32,
    /// How many tiles of what the block walks over lie in shared memory: with two, one arrives while it computes with
    /// the other. In the forward pass K and V take turns, and there is one of each.
    pub stages: u32,
}

/// How wide rows are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Widths {
    /// Of two bytes each.
    small: bool,
    /// D and Dv.
    head_dim: u32,
    value_dim: u32,
}

impl Widths {
    pub fn new(dtype: Dtype, head_dim: usize, value_dim: usize) -> Widths {
        Widths { small: dtype.size() == 2, head_dim: head_dim as u32, value_dim: value_dim as u32 }
    }

    /// Bytes of a row of Q or K, and of one of V or O, in shared memory: they end with a fragment of 32 bytes (tile.cuh).
    pub fn bytes(self) -> [u32; 2] {
        let size = if self.small { 2 } else { 4 };
        [self.head_dim, self.value_dim].map(|dim| (dim * size).next_multiple_of(32))
    }

    /// Whether a warp can hold `dk` and `dv` of its 16 keys together, in `(D + Dv) / 2` registers. Else each has a
    /// launch of its own, and the scores are computed once more: eight products instead of seven.
    pub fn keys_at_once(self) -> bool {
        self.head_dim + self.value_dim <= if self.small { 320 } else { 256 }
    }
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

impl Class {
    /// Shared memory of a block in bytes.
    fn shared_bytes(self) -> u32 {
        let kib = match self {
            Class::Ampere => 163,
            Class::Datacenter => 227,
            Class::Consumer => 99,
        };
        kib * 1024
    }

    /// How many blocks with so much of it fit on a multiprocessor, which has 1 KiB more; the system keeps as much for each.
    fn blocks(self, bytes: u32) -> u32 {
        (self.shared_bytes() + 1024) / (bytes + 1024)
    }
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
/// accumulators: `rows * (Dv + BLOCK_K)` floats in the forward kernel, `rows * (D + 2 * BLOCK_K)` in `BackwardQuery`,
/// `rows * (D + Dv + 2 * BLOCK_Q)` in `BackwardKey`, in 255 registers of each of 32 lanes. Two blocks on a multiprocessor
/// hide each other's barriers; each may then have half its shared memory and registers. Wherever only one block of
/// 16-bit elements up to 128 wide fits, it has eight warps.
///
/// Head dims between those that are tuned have the tile of the next one: it fits, and a little more might have.
///
/// A kernel that is `featured`, with more than a causal mask, needs its registers for other things than accumulators: 16
/// rows per warp, and one block with eight warps.
pub(super) fn tile(step: Step, arch: Arch, widths: Widths, causal: bool, featured: bool) -> Tile {
    let class = class(arch);
    match step {
        Step::BackwardKeyAndQuery => backward_key_and_query(class, widths),
        _ if !widths.small => f32_tile(step, class, widths),
        Step::Forward => forward(class, widths, causal, featured),
        Step::BackwardQuery => backward_query(class, widths, featured),
        Step::BackwardKey => backward_key(class, widths, featured),
    }
}

/// The tile of a kernel that has both its stages, or needs none.
const fn rows(block_q: u32, block_k: u32, warps: u32) -> Tile {
    Tile { block_q, block_k, warps, stages: 2 }
}

fn forward(class: Class, widths: Widths, causal: bool, featured: bool) -> Tile {
    use Class::{Ampere, Consumer, Datacenter};
    match (widths.head_dim.max(widths.value_dim), class) {
        (..=128, _) if featured => rows(128, 64, 8),
        // 40 KiB, 32 rows per warp. FlashAttention-2 takes 128 keys, which spills here on sm_90a and sm_120a.
        (..=64, _) => rows(128, 96, 4),
        // 56 KiB, 32 rows per warp. FlashAttention-2 takes 64 keys, which spills here or costs as many moves as it saves.
        (..=128, Ampere | Datacenter) => rows(128, 48, 4),
        // 48 KiB, so that two blocks fit: FlashAttention-2's tiles for sm_86 and sm_89. A square has less to mask.
        (..=128, Consumer) if causal => rows(64, 64, 4),
        (..=128, Consumer) => rows(128, 32, 4),
        // 96 KiB; 32 rows per warp would need 192 registers for `out` alone. FlashAttention-2's tile.
        (..=192, _) => rows(128, 64, 8),
        // 128 KiB: FlashAttention-2's tile for sm_80.
        (_, Ampere | Datacenter) => rows(128, 64, 8),
        // 96 KiB: half as many keys at a time, to fit.
        (_, Consumer) => rows(128, 32, 8),
    }
}

fn backward_query(class: Class, widths: Widths, featured: bool) -> Tile {
    use Class::{Ampere, Consumer, Datacenter};
    let [head, value] = widths.bytes();
    match (head + value, class) {
        (..=256, _) if featured => rows(128, 64, 8),
        (..=512, _) if featured => rows(128, 32, 8),
        // 56 KiB, 32 rows per warp, two blocks. 64 keys spill on sm_90a.
        (..=256, Ampere | Datacenter) => rows(128, 48, 4),
        // 48 KiB: two blocks. 16 rows per warp are enough for slower tensor cores.
        (..=256, Consumer) => rows(64, 64, 4),
        // 128 KiB: one block, of 16 rows per warp.
        (..=512, Ampere) => rows(128, 64, 8),
        // 96 KiB: two blocks, 32 rows per warp.
        (..=512, Datacenter) => rows(128, 32, 4),
        // 96 KiB: one block, of 16 rows per warp.
        (..=512, Consumer) => rows(128, 32, 8),
        // 144 KiB, 16 rows per warp.
        (..=768, Ampere | Datacenter) => rows(128, 32, 8),
        // 96 KiB.
        (..=768, Consumer) => rows(64, 32, 4),
        // 160 KiB; 192 KiB with twice the keys; 96 KiB with half the queries.
        (_, Ampere) => rows(128, 16, 8),
        (_, Datacenter) => rows(128, 32, 8),
        (_, Consumer) => rows(64, 16, 4),
    }
}

fn backward_key(class: Class, widths: Widths, featured: bool) -> Tile {
    use Class::{Ampere, Consumer, Datacenter};
    let [head, value] = widths.bytes();
    match (head + value, class) {
        (..=512, _) if featured => rows(32, 128, 8),
        // 16 rows per warp: with 32 and so little else to hold, the compiler aims at fewer registers and spills.
        (..=64, _) => rows(32, 128, 8),
        // 48.5 KiB, 32 rows per warp, two blocks everywhere.
        (..=256, _) => rows(32, 128, 4),
        // 129 KiB: one block. 32 rows per warp would need 256 registers for dk and dv alone.
        (..=512, Ampere | Datacenter) => rows(64, 128, 8),
        // 96.5 KiB: half as many queries at a time, to fit.
        (..=512, Consumer) => rows(32, 128, 8),
        // 144.5 KiB; 96.5 KiB with half the keys.
        (..=768, Ampere | Datacenter) => rows(32, 128, 8),
        (..=768, Consumer) => rows(32, 64, 4),
        // 160.25 KiB; 192.5 KiB with twice the queries; 96.25 KiB with half the keys.
        (_, Ampere) => rows(16, 128, 8),
        (_, Datacenter) => rows(32, 128, 8),
        (_, Consumer) => rows(16, 64, 4),
    }
}

/// That of a featured `BackwardKey`, because `dq` takes registers, too (of 32 rows per warp, 64 wide, 8 bytes spill on
/// sm_120a), if with `dscore` as many warps fit, of eight; else with one stage, which the product for `dq` gives
/// time to arrive; else with half the warps as well.
fn backward_key_and_query(class: Class, widths: Widths) -> Tile {
    let two_stages = match widths.small {
        true => backward_key(class, widths, true),
        false => f32_tile(Step::BackwardKey, class, widths),
    };
    let one_stage = Tile { stages: 1, ..two_stages };
    let half = Tile { block_k: one_stage.block_k / 2, warps: one_stage.warps / 2, ..one_stage };
    let warps = |tile: Tile| {
        let blocks = class.blocks(tile.shared_bytes(Step::BackwardKeyAndQuery, widths));
        (blocks * tile.warps).min(8)
    };
    let better = |a, b| if warps(b) > warps(a) { b } else { a };
    better(better(two_stages, one_stage), half)
}

/// Of f32, of which a row is twice as long, and a product six times as many instructions: these bound, whatever the
/// tile. 16 rows per warp, and few keys or queries at a time, which the compiler is done with sooner.
fn f32_tile(step: Step, class: Class, widths: Widths) -> Tile {
    use Class::{Ampere, Consumer, Datacenter};
    use Step::{BackwardKey, BackwardQuery, Forward};
    let [head, value] = widths.bytes();
    let one_stage = |tile| Tile { stages: 1, ..tile };
    match (step, head + value, class) {
        // 96 KiB at most, which is where 192 wide is; 256 wide with half the keys.
        (Forward, _, _) if head.max(value) <= 768 => rows(64, 32, 4),
        (Forward, _, _) => rows(64, 16, 4),
        // 64 KiB and, with half the keys, 96 KiB.
        (BackwardQuery, ..=512, _) => rows(64, 32, 4),
        (BackwardQuery, ..=1024, _) => rows(64, 16, 4),
        (BackwardKey, ..=512, _) => rows(32, 64, 4),
        (BackwardKey, ..=1024, _) => rows(16, 64, 4),
        // 144 KiB; 96 KiB with half the warps.
        (_, ..=1536, Ampere | Datacenter) => rows_of(step, 64, 4),
        (_, ..=1536, Consumer) => rows_of(step, 32, 2),
        // 192 KiB; with one stage 160 KiB and, with half the warps, 96 KiB.
        (_, _, Datacenter) => rows_of(step, 64, 4),
        (_, _, Ampere) => one_stage(rows_of(step, 64, 4)),
        (_, _, Consumer) => one_stage(rows_of(step, 32, 2)),
    }
}

/// So many queries or keys, whichever the warps share out, by 16 of the others.
fn rows_of(step: Step, shared: u32, warps: u32) -> Tile {
    match step {
        Step::Forward | Step::BackwardQuery => rows(shared, 16, warps),
        Step::BackwardKey | Step::BackwardKeyAndQuery => rows(16, shared, warps),
    }
}

impl Tile {
    pub(super) fn threads(self) -> u32 {
        self.warps * 32
    }

    /// Dynamic shared memory of a block, in bytes: as the kernels lay it out.
    pub(super) fn shared_bytes(self, step: Step, widths: Widths) -> u32 {
        let Tile { block_q, block_k, stages, .. } = self;
        let [head, value] = widths.bytes();
        let dscore = block_q * block_k * if widths.small { 2 } else { 4 };
        match step {
            // Q, and O in its place; K, V.
            Step::Forward => block_q * head.max(value) + block_k * (head + value),
            // Q and dout; stages of K and V.
            Step::BackwardQuery => (head + value) * (block_q + stages * block_k),
            // K and V; stages of Q, dout and 8 bytes per query.
            Step::BackwardKey => (head + value) * (block_k + stages * block_q) + stages * 8 * block_q,
            // The same, and dscore.
            Step::BackwardKeyAndQuery => self.shared_bytes(Step::BackwardKey, widths) + dscore,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tile_fits_in_shared_memory_and_where_it_matters_with_eight_warps_on_a_multiprocessor() {
        let dims = || (8..=256).step_by(8);
        let steps = [Step::Forward, Step::BackwardQuery, Step::BackwardKey, Step::BackwardKeyAndQuery];
        let each = Arch::TESTED.into_iter().flat_map(|arch| steps.map(|step| (arch, step)));
        for (arch, step) in each {
            for (head_dim, value_dim) in dims().flat_map(|d| dims().map(move |dv| (d, dv))) {
                for dtype in [Dtype::Bf16, Dtype::F32] {
                    for [causal, featured] in [[false, false], [true, false], [false, true]] {
                        let widths = Widths::new(dtype, head_dim, value_dim);
                        let tile = tile(step, arch, widths, causal, featured);
                        let bytes = tile.shared_bytes(step, widths);
                        let class = class(arch);
                        let what =
                            format!("{step:?} {arch} {dtype} {head_dim}/{value_dim} {tile:?}: {bytes}");
                        assert!(bytes <= class.shared_bytes(), "{what}");
                        let blocks = class.blocks(bytes);
                        if dtype == Dtype::Bf16 && head_dim.max(value_dim) <= 128 {
                            assert!(blocks * tile.warps >= 8, "{what}, {blocks} blocks");
                        }
                    }
                }
            }
        }
    }
}

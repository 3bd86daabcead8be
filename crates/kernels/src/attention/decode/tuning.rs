//! How the work of decoding is cut: over the warps of a block, and over blocks.

use super::super::tuning::Tile;
use crate::Dtype;
use crate::kv_cache::Storage;

/// Rows of queries, and keys, of a tile.
pub(super) const TILE: usize = 16;

/// Warps of a block, and tiles of keys and values that each has in shared memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    pub warps: usize,
    pub stages: usize,
}

/// What a block may take of shared memory: two blocks fit in sm_80's 164 KiB, three in sm_90's 228, and one in the 99 of
/// sm_86, sm_89 and sm_120. Each has 32 KiB or more under way then, and a multiprocessor needs about 20 to keep memory busy
/// (25 bytes per nanosecond, for 800 of them).
const SHARED_BYTES: usize = 74 << 10;

impl Block {
    /// The most warps, then the most stages, that fit. `head_dims` are those of keys and values.
    pub fn of(dtype: Dtype, storage: Storage, head_dims: [usize; 2]) -> Block {
        let blocks = [(4, 4), (4, 3), (4, 2), (2, 3), (2, 2)].map(|(warps, stages)| Block { warps, stages });
        let fits = |block: &Block| block.shared_bytes(dtype, storage, head_dims) <= SHARED_BYTES;
        blocks.into_iter().find(fits).unwrap_or(Block { warps: 2, stages: 2 })
    }

    /// Dynamic shared memory in bytes: queries and stages; at the end, what the warps leave for each other.
    pub fn shared_bytes(self, dtype: Dtype, storage: Storage, head_dims: [usize; 2]) -> usize {
        let [keys, values] = head_dims.map(|dim| dim.next_multiple_of(16));
        let scales = if storage.is_quantised() { 2 * TILE * 4 } else { 0 };
        let stage = TILE * (keys + values) * storage.size(dtype) + scales;
        let pitch = values | if storage.is_quantised() { 16 } else { 8 };
        let exchange = self.warps * TILE * pitch * 4;
        (TILE * keys * 2 + self.warps * self.stages * stage).max(exchange)
    }

    /// As kernels that walk over scores are told.
    pub fn tile(self) -> Tile {
        let (warps, stages) = (self.warps as u32, self.stages as u32);
        Tile { block_q: TILE as u32, block_k: TILE as u32, warps, stages }
    }
}

/// The most splits: what decode_combine.cu merges in one launch without becoming the longer part.
pub(super) const MAX_SPLITS: usize = 128;

/// How many blocks share the keys of a sequence (FlashAttention-2's `num_splits_heuristic`): one where that fills the
/// device to four fifths; else the fewest with which the last wave is nearly as full as with any number. `at_once` is how
/// many blocks the device has room for, `steps` how many times all the warps of one block would walk.
pub(super) fn splits(blocks: usize, at_once: usize, steps: usize) -> usize {
    if 10 * blocks >= 8 * at_once {
        return 1;
    }
    // More splits with the same share each would only leave blocks without work.
    let tells = |&splits: &usize| splits == 1 || steps.div_ceil(splits) < steps.div_ceil(splits - 1);
    let candidates = || (1..=MAX_SPLITS.min(at_once).min(steps)).filter(tells);
    let efficiency = |splits: usize| {
        let waves = (blocks * splits) as f64 / at_once as f64;
        waves / waves.ceil()
    };
    let best = candidates().map(efficiency).fold(0.0, f64::max);
    candidates().find(|&splits| efficiency(splits) >= 0.85 * best).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_block_fits_in_the_99_kib_of_the_smallest_architecture() {
        for storage in [Storage::Plain, Storage::Int8, Storage::E4m3] {
            for head_dim in (8..=256).step_by(8) {
                for value_dim in [8, 64, head_dim, 256] {
                    let dims = [head_dim, value_dim];
                    let bytes =
                        Block::of(Dtype::Bf16, storage, dims).shared_bytes(Dtype::Bf16, storage, dims);
                    assert!(
                        bytes <= SHARED_BYTES && bytes.is_multiple_of(16),
                        "{storage:?} {dims:?}: {bytes}"
                    );
                }
            }
        }
        let of = |dim, storage| Block::of(Dtype::Bf16, storage, [dim, dim]);
        assert_eq!(of(64, Storage::Plain), Block { warps: 4, stages: 4 });
        assert_eq!(of(128, Storage::Plain), Block { warps: 4, stages: 2 });
        assert_eq!(of(256, Storage::Plain), Block { warps: 2, stages: 2 });
        assert_eq!(of(128, Storage::Int8), Block { warps: 4, stages: 4 });
    }

    #[test]
    fn a_full_gpu_does_not_split() {
        assert_eq!(splits(132, 132, 10_000), 1);
        assert_eq!(splits(106, 132, 10_000), 1);
        assert!(splits(105, 132, 10_000) > 1);
    }

    #[test]
    fn one_short_sequence_has_no_more_splits_than_steps() {
        assert_eq!(splits(1, 132, 1), 1);
        assert_eq!(splits(1, 132, 0), 1);
        assert_eq!(splits(1, 132, 5), 5);
    }

    #[test]
    fn the_fewest_splits_that_fill_a_wave_are_taken() {
        // 8 blocks on 132: 33 splits fill two waves; 15 are 91% of one, and enough; 14 are not 85%.
        assert_eq!(splits(8, 132, 100_000), 15);
        // 64 steps: 40 on 132 fill 91% of a wave with 3 splits.
        assert_eq!(splits(40, 132, 64), 3);
        assert_eq!(splits(1, 132, 100_000), 109);
        assert!(splits(1, 10_000, 100_000) <= MAX_SPLITS);
    }
}

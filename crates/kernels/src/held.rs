//! Rows that a kernel passes over twice: how much of one stays in shared memory meanwhile, and how many blocks share one.

use bytemuck::Pod;
use longhand_gpu::{Arch, Constants, Device, Kernel, Launch, Stream};

use crate::check::MAX_BLOCKS;
use crate::{Dtype, Result, Variant};

/// Bytes of shared memory that reductions over a block take.
pub(crate) const REDUCTIONS: u32 = 1024;
/// Of a row of more than [`SHORT_BYTES`].
const SLICES: usize = 8;
/// The longest row that a block holds, beside another block's, where there is the most shared memory.
const SHORT_BYTES: usize = 112 << 10;
/// Rows, at most, of which each may take as many blocks as there are slices.
pub(crate) const MAX_ROWS: usize = MAX_BLOCKS / SLICES;

/// What a kernel holds of a row: of so many tensors, columns of this type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Row {
    pub dtype: Dtype,
    pub width: usize,
    pub tensors: usize,
}

impl Row {
    /// Whether a block does not hold it.
    pub fn is_long(self) -> bool {
        self.tensors * self.width * self.dtype.size() > SHORT_BYTES
    }

    /// Dynamic shared memory of no more than `most` bytes, and how many columns of each tensor it holds. Room is left for
    /// the row's misalignment before them, and for the end of a 16-byte access after them.
    fn held(self, most: u32) -> (u32, i32) {
        let Row { dtype, width, tensors } = self;
        let wide = 16 / dtype.size();
        let room = most as usize / tensors.max(1) / 16 * wide;
        let held = width.min(room.saturating_sub(2 * wide));
        let bytes =
            if held > 0 { tensors * (held.next_multiple_of(wide) + 2 * wide) * dtype.size() } else { 0 };
        (bytes as u32, held as i32)
    }
}

/// How many slices a row has, and how many blocks of so many threads take them: all, or from sm_90 on one each. The
/// slices, and so the order of sums over them, do not depend on the architecture.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Slicing {
    pub threads: u32,
    pub slices: usize,
    pub cluster: usize,
}

impl Slicing {
    /// A row is a block's.
    pub const fn none(threads: u32) -> Slicing {
        Slicing { threads, slices: 1, cluster: 1 }
    }

    /// A row is that of a cluster of blocks, where there are clusters.
    pub fn of_long_rows(arch: Arch, threads: u32) -> Slicing {
        Slicing { threads, slices: SLICES, cluster: if arch.number() >= 90 { SLICES } else { 1 } }
    }

    pub fn constants(self, dtype: Dtype) -> Constants {
        Constants::new()
            .alias("Element", dtype.cuda_name())
            .int("THREADS", self.threads)
            .int("SLICES", self.slices as i64)
            .int("CLUSTER", self.cluster as i64)
    }

    /// Dynamic shared memory of no more than `most` bytes, and how many columns of each tensor it holds of what is a
    /// block's of the row, as `kernels/common/slices.cuh` cuts it.
    pub fn held(self, row: Row, most: u32) -> (u32, i32) {
        let wide = 16 / row.dtype.size();
        let width = if self.cluster == 1 { row.width } else { (row.width / self.cluster / wide + 1) * wide };
        Row { width, ..row }.held(most)
    }
}

/// A kernel for rows of one width, of which a block holds as much as fits into its shared memory.
#[derive(Clone, Debug)]
pub(crate) struct Holding {
    kernel: Kernel,
    slicing: Slicing,
    shared_bytes: u32,
    held: i32,
}

impl Holding {
    /// Compiles and loads a kernel that leaves all but so many `reserved` bytes of shared memory to rows.
    pub fn new(
        device: &Device,
        variant: &Variant,
        slicing: Slicing,
        row: Row,
        reserved: u32,
    ) -> Result<Holding> {
        let (shared_bytes, held) =
            slicing.held(row, device.shared_bytes_per_block().saturating_sub(reserved));
        let kernel = device.compile_and_load(&variant.program)?.kernel(variant.entry)?;
        Ok(Holding { kernel: kernel.with_dynamic_shared(shared_bytes)?, slicing, shared_bytes, held })
    }

    /// Columns that stay in shared memory, if there is a second pass.
    pub fn held(&self, again: bool) -> i32 {
        if again { self.held } else { 0 }
    }

    /// Enqueues the blocks of this many rows, at most [`MAX_ROWS`].
    ///
    /// # Safety
    ///
    /// As [`Kernel::launch`].
    pub unsafe fn launch(&self, stream: &Stream, rows: usize, again: bool, params: &impl Pod) -> Result<()> {
        let shape = Launch {
            grid: [(rows * self.slicing.cluster) as u32, 1, 1],
            block: [self.slicing.threads, 1, 1],
            shared_bytes: if again { self.shared_bytes } else { 0 },
        };
        // SAFETY: the caller answers for it.
        Ok(unsafe { self.kernel.launch(stream, shape, params) }?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_held_as_far_as_there_is_room() {
        let held = |dtype, width, tensors, most| Row { dtype, width, tensors }.held(most);
        assert_eq!(held(Dtype::Bf16, 1000, 1, 99 << 10), (2032, 1000));
        assert_eq!(held(Dtype::Bf16, 1001, 2, 99 << 10), (2 * 2048, 1001));
        assert_eq!(held(Dtype::F32, 262_144, 1, 226 << 10), (226 << 10, (226 << 8) - 8));
        assert_eq!(held(Dtype::F32, 262_144, 2, 226 << 10), (226 << 10, (113 << 8) - 8));
        assert_eq!(held(Dtype::F32, 10, 1, 0), (0, 0));
        assert_eq!(held(Dtype::F32, 10, 0, 226 << 10), (0, 10));
    }

    #[test]
    fn a_cluster_holds_the_longest_row_of_a_vocabulary() {
        let row = Row { dtype: Dtype::F32, width: 262_144, tensors: 1 };
        let held = |arch: &str| Slicing::of_long_rows(arch.parse().unwrap(), 512).held(row, 209 << 10).1;
        assert_eq!(held("sm_90a"), 262_144 / 8 + 4);
        assert_eq!(held("sm_80"), (209 << 8) - 8);
        assert!(row.is_long() && !Row { width: 28_672, ..row }.is_long());
    }
}

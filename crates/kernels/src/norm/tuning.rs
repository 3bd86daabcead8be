//! How many threads share a row, and where it waits between the passes over it.

use super::Norm;

/// A block, and the part of it that works on one row: one warp, or all of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Block {
    pub threads: u32,
    pub row_threads: u32,
    /// A thread's vectors that wait in registers, and those after them that wait in shared memory.
    pub in_registers: usize,
    pub in_shared: usize,
}

impl Block {
    /// Rows that a block works on at a time.
    pub fn rows(self) -> usize {
        (self.threads / self.row_threads) as usize
    }

    /// `rows` of a thread wait at a time, with up to `registers` vectors of each in registers if that is all of it.
    fn new(
        norm: &Norm,
        vector: usize,
        threads: u32,
        row_threads: u32,
        rows: usize,
        registers: usize,
    ) -> Block {
        let vectors = norm.width.div_ceil(vector * row_threads as usize);
        if vectors <= registers {
            return Block { threads, row_threads, in_registers: vectors, in_shared: 0 };
        }
        let bytes = rows * threads as usize * vector * norm.dtype.size();
        let in_shared = vectors.min(SHARED_BYTES / bytes);
        let most = if wide(vector) { 20 } else { 32 };
        Block { threads, row_threads, in_registers: (vectors - in_shared).min(most / rows), in_shared }
    }
}

/// Shared memory that rows may take: of the 99 KiB that every architecture grants a block.
const SHARED_BYTES: usize = 96 << 10;

/// Whether a thread's vectors are of 16 bytes, which take four registers each, or of one element, which takes one.
fn wide(vector: usize) -> bool {
    vector > 1
}

/// At most 4 vectors of 16 bytes, or 32 elements, per thread as long as 1024 threads suffice, so that several blocks fit
/// a multiprocessor; then 512 threads with shared memory and, when that is full, 80 of their 128 registers: together
/// 256 KiB, a row of 131,072 16-bit elements or 65,536 f32. (A row of 65,536 all in registers spilled 76 bytes.)
pub(super) fn forward(norm: &Norm, vector: usize) -> Block {
    let most = if wide(vector) { 4 } else { 32 };
    let (threads, row_threads) = match norm.width.div_ceil(vector * most) {
        0..=32 => (256, 32),
        33..=128 => (128, 128),
        129..=256 => (256, 256),
        513..=1024 => (1024, 1024),
        _ => (512, 512),
    };
    Block::new(norm, vector, threads, row_threads, 1, most)
}

/// A thread holds, for each of its elements, two f32 sums beside the row itself. Up to 8192 columns all of that is in
/// registers: 32 elements in one of 256 threads (193 registers), 16 in one of 512 (88). Then the rows wait in shared
/// memory: 32 elements in one of 512 threads (128 registers). A row that is wider still has no sums (see
/// [`backward_is_fused`]), and half of what forward holds for each of `dy` and `sum`.
pub(super) fn backward(norm: &Norm, vector: usize) -> Block {
    let most = if wide(vector) { 4 } else { 32 };
    let (threads, row_threads, registers) = match norm.width.div_ceil(vector * most) {
        0..=32 => (256, 32, most),
        33..=128 => (256, 256, most / 2),
        129..=256 => (512, 512, most / 2),
        _ => (512, 512, 0),
    };
    Block::new(norm, vector, threads, row_threads, 2, registers)
}

/// Whether backward keeps the sums over rows in registers while it walks along them. Beyond, they take a kernel of
/// their own, and a second reading of its inputs: `dy` and `sum` of such a row, of 32 KiB each, would no longer fit in
/// shared memory. Counted for 64 rows of 32,768 bf16, that is 2.11 times the least that must be moved: 0.57 for the second
/// reading, 0.50 for the weight, which each row reads twice, from L2, and 0.04 for the last sums.
///
/// A cluster of blocks could hold such a row and its sums, from sm_90 on. The totals of a row would then be added up in
/// another order than on sm_80, where there are no clusters, and results are to have the same bits on every GPU.
pub(super) fn backward_is_fused(norm: &Norm) -> bool {
    norm.width * norm.dtype.size() <= 32 << 10
}

/// Blocks of forward: each goes down the rows with weight and bias at hand, which cost memory little when there are ten
/// rows for each block, and the 131,072 threads keep 132 multiprocessors busy (31 warps each).
pub(super) fn forward_blocks(block: Block, rows: usize) -> usize {
    rows.div_ceil(block.rows()).min((131_072 / block.threads as usize).max(256))
}

/// Partial sums over rows; at least one, so that there is something to add. It does not depend on the device, so neither
/// does the order of the additions: the results have the same bits on every GPU. A block of 512 threads with 128
/// registers has a multiprocessor for itself, of which 128 is nearly all; smaller ones share it.
pub(super) fn parts(norm: &Norm, block: Block, rows: usize) -> usize {
    let (rows_each, most) = match backward_is_fused(norm) {
        true if norm.width > 8192 => (1, 128),
        true => (block.rows(), 256),
        false => (16, 256),
    };
    rows.div_ceil(rows_each).clamp(1, most)
}

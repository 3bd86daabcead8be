//! How many threads share a row, and where it waits between the passes over it.

use longhand_gpu::{Arch, shared_bytes_per_block};

use super::Norm;

/// A block, and the part of it that works on one row: one warp, or all of it, or all of several blocks.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Block {
    pub threads: u32,
    pub row_threads: u32,
    /// Blocks that share a row.
    pub slices: usize,
    /// A thread's vectors of its row; those that wait in registers, and those after them that wait in shared memory.
    pub vectors: usize,
    pub in_registers: usize,
    pub in_shared: usize,
    /// Whether weight and bias lie in shared memory, for all rows of the block.
    pub shares_columns: bool,
    /// Whether nothing waits, and a kernel of its own reads the row before.
    pub twice: bool,
    /// Dynamic shared memory.
    pub shared_bytes: u32,
}

impl Block {
    /// Rows that a block works on at a time.
    pub fn rows(self) -> usize {
        (self.threads / self.row_threads) as usize
    }

    fn new(norm: &Norm, vector: usize, threads: u32, row_threads: u32, slices: usize) -> Block {
        let vectors = norm.columns(vector, slices).div_ceil(vector * row_threads as usize);
        Block {
            threads,
            row_threads,
            slices,
            vectors,
            in_registers: 0,
            in_shared: 0,
            shares_columns: false,
            twice: false,
            shared_bytes: 0,
        }
    }

    /// Bytes of so many vectors of each thread, of `rows` rows.
    fn bytes(self, norm: &Norm, vector: usize, vectors: usize, rows: usize) -> usize {
        rows * vectors * self.threads as usize * vector * norm.dtype.size()
    }

    /// `rows` of a thread wait at a time, with up to `registers` vectors of each in registers if that is all of it.
    fn waiting(self, norm: &Norm, vector: usize, rows: usize, registers: usize) -> Block {
        if self.vectors <= registers {
            return Block { in_registers: self.vectors, ..self };
        }
        let in_shared = self.vectors.min(SHARED_BYTES / self.bytes(norm, vector, 1, rows));
        let most = if wide(vector) { 20 } else { 32 };
        let in_registers = (self.vectors - in_shared).min(most / rows);
        let shared_bytes = self.bytes(norm, vector, in_shared, rows) as u32;
        Block { in_registers, in_shared, shared_bytes, ..self }
    }

    /// `tensors` of weight and bias come to lie behind the rows, if a block that has no more than one in `blocks` parts
    /// of the shared memory can take them.
    fn with_columns(self, norm: &Norm, vector: usize, tensors: usize, blocks: u32, arch: Arch) -> Block {
        let bytes = (norm.columns(vector, self.slices) * norm.weight_dtype.size()).next_multiple_of(16);
        let shared_bytes = self.shared_bytes + (tensors * bytes) as u32;
        let fits = shared_bytes + STATIC_BYTES <= shared_bytes_per_block(arch) / blocks;
        if fits && tensors > 0 { Block { shares_columns: true, shared_bytes, ..self } } else { self }
    }
}

/// Shared memory that rows may take: of the 99 KiB that every architecture grants a block.
const SHARED_BYTES: usize = 96 << 10;

/// More than the kernels declare where they need dynamic shared memory.
const STATIC_BYTES: u32 = 1 << 10;

/// Whether a thread's vectors are of 16 bytes, which take four registers each, or of one element, which takes one.
fn wide(vector: usize) -> bool {
    vector > 1
}

/// At most 4 vectors of 16 bytes, or 32 elements, per thread as long as 1024 threads suffice, so that several blocks fit
/// a multiprocessor; then 512 threads with shared memory and, when that is full, 80 of their 128 registers: together
/// 256 KiB, a row of 131,072 16-bit elements or 65,536 f32. (A row of 65,536 all in registers spilled 76 bytes.)
///
/// Weight and bias are at hand as long as two blocks fit a multiprocessor, one of which reads while the other writes, or
/// one of 1024 threads.
pub(super) fn forward(norm: &Norm, vector: usize, arch: Arch) -> Block {
    let most = if wide(vector) { 4 } else { 32 };
    let (threads, row_threads) = match norm.width.div_ceil(vector * most) {
        0..=32 => (256, 32),
        33..=128 => (128, 128),
        129..=256 => (256, 256),
        513..=1024 => (1024, 1024),
        _ => (512, 512),
    };
    let tensors = usize::from(norm.weight) + usize::from(norm.bias);
    Block::new(norm, vector, threads, row_threads, 1).waiting(norm, vector, 1, most).with_columns(
        norm,
        vector,
        tensors,
        if threads < 1024 { 2 } else { 1 },
        arch,
    )
}

/// A thread holds, for each of its elements, two f32 sums beside the row itself. Up to 8192 columns all of that is in
/// registers: 32 elements in one of 256 threads (193 registers), 16 in one of 512 (88). Then the rows wait in shared
/// memory: 32 elements in one of 512 threads (128 registers). A wider row is shared by [`slices`] blocks.
///
/// The blocks are a cluster where there are clusters, from sm_90 on, and the shared memory to hold what they share (in
/// f32 beyond 65,536 columns, that of sm_90 and sm_100). Elsewhere the row is read twice. How a row is shared does not
/// depend on the architecture, so neither does the order of its sums.
pub(super) fn backward(norm: &Norm, vector: usize, arch: Arch) -> Block {
    let tensors = usize::from(norm.weight);
    let slices = slices(norm);
    if slices > 1 {
        let block = Block::new(norm, vector, 512, 512, slices);
        let shared_bytes = block.bytes(norm, vector, block.vectors, 2) as u32;
        let twice = arch.number() < 90 || shared_bytes + STATIC_BYTES > shared_bytes_per_block(arch);
        let waiting = Block { in_shared: block.vectors, shared_bytes, ..block };
        return if twice { Block { twice, ..block } } else { waiting }
            .with_columns(norm, vector, tensors, 1, arch);
    }
    let most = if wide(vector) { 4 } else { 32 };
    let (threads, row_threads, registers) = match norm.width.div_ceil(vector * most) {
        0..=32 => (256, 32, most),
        33..=128 => (256, 256, most / 2),
        129..=256 => (512, 512, most / 2),
        _ => (512, 512, 0),
    };
    Block::new(norm, vector, threads, row_threads, 1)
        .waiting(norm, vector, 2, registers)
        .with_columns(norm, vector, tensors, 1, arch)
}

/// Blocks that share a row of backward: as many as leave each 32 KiB of it, or 8 (more are no cluster that every GPU
/// takes), of which each has at most 16,384 columns.
fn slices(norm: &Norm) -> usize {
    (norm.width * norm.dtype.size()).div_ceil(32 << 10).next_power_of_two().min(8)
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
    let most = if norm.width > 8192 { 128 / block.slices } else { 256 };
    rows.div_ceil(block.rows()).clamp(1, most)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;

    fn norms() -> impl Iterator<Item = Norm> {
        let widths =
            [1, 7, 768, 1024, 4096, 8192, 8200, 12_288, 16_384, 16_392, 20_001, 65_536, 100_000, 131_072];
        let dtypes = [Dtype::F32, Dtype::Bf16];
        widths.into_iter().flat_map(move |width| dtypes.map(|dtype| Norm::layer(dtype, width)))
    }

    #[test]
    fn every_block_fits_and_every_column_of_backward_waits_on_chip_or_is_read_twice() {
        for (norm, arch) in norms().flat_map(|norm| Arch::TESTED.map(|arch| (norm, arch))) {
            for vector in [1, norm.vector()] {
                let [forward, backward] = [forward, backward].map(|block| block(&norm, vector, arch));
                for block in [forward, backward] {
                    assert!(
                        block.shared_bytes + STATIC_BYTES <= shared_bytes_per_block(arch),
                        "{norm:?} {arch}"
                    );
                    let columns = block.vectors * vector * block.row_threads as usize * block.slices;
                    assert!(columns >= norm.width, "{norm:?} {arch}");
                }
                let held = backward.in_registers + backward.in_shared;
                assert_eq!(held, if backward.twice { 0 } else { backward.vectors }, "{norm:?} {arch}");
            }
        }
    }

    #[test]
    fn how_a_row_of_backward_is_shared_does_not_depend_on_the_architecture() {
        for norm in norms() {
            let shared = Arch::TESTED.map(|arch| {
                let block = backward(&norm, norm.vector(), arch);
                (block.slices, block.row_threads, block.vectors, parts(&norm, block, 1000))
            });
            assert!(shared.iter().all(|it| *it == shared[0]), "{norm:?}: {shared:?}");
        }
    }
}

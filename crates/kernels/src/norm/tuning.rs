//! How many threads share a row.

/// A block, and the part of it that works on one row: one warp, or all of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Block {
    pub threads: u32,
    pub row_threads: u32,
}

impl Block {
    /// Rows that a block works on at a time.
    pub fn rows(self) -> usize {
        (self.threads / self.row_threads) as usize
    }
}

/// At most 32 elements per thread up to 32,768 columns, so that the row stays in registers; 64 beyond, where it does
/// not. A row of up to 1024 columns needs one warp, hence no shared memory and no barrier.
pub(super) fn forward(width: usize) -> Block {
    let (threads, row_threads) = match width {
        0..=1024 => (128, 32),
        1025..=4096 => (128, 128),
        4097..=8192 => (256, 256),
        8193..=16_384 => (512, 512),
        _ => (1024, 1024),
    };
    Block { threads, row_threads }
}

/// A thread holds, for each of its elements, two f32 sums beside the row itself: 32 elements in one of 256 threads (255
/// registers each), 16 in one of 512 (128 registers). In one of 1024 (64 registers) even 16 would spill.
pub(super) fn backward(width: usize) -> Block {
    let (threads, row_threads) = match width {
        0..=1024 => (256, 32),
        1025..=4096 => (256, 256),
        4097..=8192 => (512, 512),
        _ => (1024, 1024),
    };
    Block { threads, row_threads }
}

/// Whether backward keeps the sums over rows in registers while it walks along them. Beyond, they take a kernel of
/// their own, and a second reading of its inputs.
pub(super) fn backward_is_fused(width: usize) -> bool {
    width <= 8192
}

/// The most partial sums over rows. It does not depend on the device, so neither does the order of the additions: the
/// results have the same bits on every GPU. 256 blocks of 256 threads keep 132 multiprocessors busy.
pub(super) const MAX_PARTS: usize = 256;

//! How much of a row stays in shared memory between two passes over it.

use longhand_gpu::{Device, Kernel};

use crate::{Dtype, Result, Variant};

/// Bytes of shared memory that reductions over a block take.
pub(crate) const REDUCTIONS: u32 = 1024;

/// A kernel that holds as much of its row as fits into a block's dynamic shared memory.
#[derive(Clone, Debug)]
pub(crate) struct Holding {
    pub kernel: Kernel,
    /// Bytes.
    most: u32,
}

impl Holding {
    /// Compiles and loads a kernel that leaves all but so many `reserved` bytes of shared memory to rows; with
    /// `None`, one that holds none.
    pub fn new(device: &Device, variant: &Variant, reserved: Option<u32>) -> Result<Holding> {
        let kernel = device.compile_and_load(&variant.program)?.kernel(variant.entry)?;
        let all = device.shared_bytes_per_block();
        let most = reserved.map_or(0, |reserved| all.saturating_sub(reserved));
        Ok(Holding { kernel: kernel.with_dynamic_shared(most)?, most })
    }

    /// The dynamic shared memory for `tensors` rows of `width`, and how many elements of each it holds.
    pub fn held(&self, dtype: Dtype, width: usize, tensors: usize) -> (u32, i32) {
        held(dtype, width, tensors, self.most)
    }
}

/// Room is left for a row's misalignment before it, and for the end of a 16-byte access after it.
pub(crate) fn held(dtype: Dtype, width: usize, tensors: usize, most: u32) -> (u32, i32) {
    let wide = 16 / dtype.size();
    let room = most as usize / tensors / 16 * wide;
    let held = width.min(room.saturating_sub(2 * wide));
    let bytes = if held > 0 { tensors * (held.next_multiple_of(wide) + 2 * wide) * dtype.size() } else { 0 };
    (bytes as u32, held as i32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_is_held_as_far_as_there_is_room() {
        assert_eq!(held(Dtype::Bf16, 1000, 1, 99 << 10), (2032, 1000));
        assert_eq!(held(Dtype::Bf16, 1001, 2, 99 << 10), (2 * 2048, 1001));
        assert_eq!(held(Dtype::F32, 262_144, 1, 226 << 10), (226 << 10, (226 << 8) - 8));
        assert_eq!(held(Dtype::F32, 262_144, 2, 226 << 10), (226 << 10, (113 << 8) - 8));
        assert_eq!(held(Dtype::F32, 10, 1, 0), (0, 0));
    }
}

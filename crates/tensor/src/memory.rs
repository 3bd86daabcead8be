//! How much memory tensors take.
//!
//! Counted are the elements of all tensors of the process, on every device, views once; not the scratch memory that an
//! operation has while it runs.
//!
//! ```
//! # fn main() -> longhand_tensor::Result<()> {
//! use longhand_tensor::{Device, Dtype, Tensor, memory};
//!
//! let before = memory::allocated();
//! memory::reset_peak();
//! let x = Tensor::zeros(&[1000], Dtype::F32, &Device::Cpu)?;
//! let sum = x.add(&x)?.sum_all()?;
//! assert!(memory::allocated() >= before + 4004); // x and the sum
//! assert!(memory::peak() >= before + 8004); // x + x beside them
//! # drop((x, sum));
//! # Ok(())
//! # }
//! ```

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::cpu::pool;
use crate::profile;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// Bytes of the tensors there are now.
pub fn allocated() -> usize {
    ALLOCATED.load(Ordering::Relaxed)
}

/// The most bytes that tensors took at one time since the last [`reset_peak`].
pub fn peak() -> usize {
    PEAK.load(Ordering::Relaxed)
}

/// Starts [`peak`] anew, from what there is now.
pub fn reset_peak() {
    PEAK.store(allocated(), Ordering::Relaxed);
}

/// Returns to the system the memory of the CPU that is kept for the next tensors of the same size.
///
/// ```
/// longhand_tensor::memory::empty_cache(); // before another program needs the memory
/// ```
pub fn empty_cache() {
    pool::clear();
}

/// Counts elements that became a tensor's.
pub(crate) fn add(bytes: usize) {
    let allocated = ALLOCATED.fetch_add(bytes, Ordering::Relaxed) + bytes;
    PEAK.fetch_max(allocated, Ordering::Relaxed);
    profile::made(bytes);
}

/// Counts elements that are gone.
pub(crate) fn remove(bytes: usize) {
    ALLOCATED.fetch_sub(bytes, Ordering::Relaxed);
}

//! Buffers that tensors gave back, used again.
//!
//! A training step needs the same sizes over and over. Taking a buffer back from here instead of the system saves the
//! zeroing and the page faults, which cost as much as many an operation. Live and kept buffers together never exceed
//! the most that was ever live, so the peak of memory use stays what it was.

use std::alloc::{Layout, alloc_zeroed, handle_alloc_error};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::parallel::{CHUNK, for_chunks};
use crate::Element;
use crate::storage::Host;

/// Smaller buffers are left to the system's allocator, which has them at hand.
const SMALLEST: usize = 16 * 1024; // bytes
/// There is a large page of 2 MB within so many.
const LARGE: usize = 4 << 20; // bytes

struct Pool {
    /// Oldest first.
    free: Vec<Host>,
    free_bytes: usize,
    live_bytes: usize,
    peak_bytes: usize,
}

static POOL: Mutex<Pool> = Mutex::new(Pool { free: Vec::new(), free_bytes: 0, live_bytes: 0, peak_bytes: 0 });

fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A buffer whose elements are whatever they were: every one of them is to be overwritten.
pub(crate) fn buffer<E: Element>(len: usize) -> Vec<E> {
    let mut values = match take::<E>(len) {
        Some(values) => values,
        None => fresh(len),
    };
    if cfg!(debug_assertions) {
        // An element that an operation forgets shows as NaN.
        bytemuck::cast_slice_mut::<E, u8>(&mut values).fill(0xff);
    }
    values
}

/// A buffer of zeros.
pub(crate) fn zeros<E: Element>(len: usize) -> Vec<E> {
    match take::<E>(len) {
        Some(mut values) => {
            for_chunks(&mut values, CHUNK, |_, piece| piece.fill(E::default()));
            values
        }
        None => fresh(len),
    }
}

/// A buffer of zeros from the system, in large pages if it is large: the processor keeps the places of 4 KB pages in mind
/// for a few MB only.
fn fresh<E: Element>(len: usize) -> Vec<E> {
    if len * size_of::<E>() < LARGE {
        return vec![E::default(); len];
    }
    let Ok(layout) = Layout::array::<E>(len) else { return vec![E::default(); len] }; // which tells of it
    // SAFETY: the layout has a size.
    let start = unsafe { alloc_zeroed(layout) };
    if start.is_null() {
        handle_alloc_error(layout);
    }
    large_pages(start, layout.size());
    // SAFETY: of this layout, and zero bytes are elements.
    unsafe { Vec::from_raw_parts(start.cast(), len, len) }
}

/// Asks the system to use large pages there. It need not.
fn large_pages(start: *mut u8, bytes: usize) {
    #[cfg(target_os = "linux")]
    {
        const PAGE: usize = 4096;
        let skipped = start.align_offset(PAGE);
        if skipped < bytes {
            // SAFETY: the pages lie in one allocation, and what they hold stays.
            unsafe { libc::madvise(start.add(skipped).cast(), bytes - skipped, libc::MADV_HUGEPAGE) };
        }
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (start, bytes);
}

fn take<E: Element>(len: usize) -> Option<Vec<E>> {
    if len * size_of::<E>() < SMALLEST {
        return None;
    }
    let mut pool = pool();
    // The newest that fits is the one most likely still in the cache.
    let found = pool.free.iter().rposition(|host| E::slice(host).is_some_and(|values| values.len() == len));
    let Some(found) = found else {
        pool.shrink(len * size_of::<E>());
        return None;
    };
    let host = pool.free.remove(found);
    pool.free_bytes -= host.bytes();
    E::from_host(host)
}

/// Counts elements that became a tensor's.
pub(crate) fn adopt(host: &Host) {
    let mut pool = pool();
    pool.live_bytes += host.bytes();
    pool.peak_bytes = pool.peak_bytes.max(pool.live_bytes);
    pool.shrink(0);
}

/// Takes back the elements of a tensor that is gone.
pub(crate) fn give_back(host: Host) {
    let bytes = host.bytes();
    let mut pool = pool();
    pool.live_bytes -= bytes;
    if bytes >= SMALLEST {
        pool.free_bytes += bytes;
        pool.free.push(host);
        pool.shrink(0);
    }
}

/// Gives what is kept back to the system.
pub(crate) fn clear() {
    let mut pool = pool();
    pool.free.clear();
    pool.free_bytes = 0;
    pool.peak_bytes = pool.live_bytes;
}

impl Pool {
    /// Leaves room for so many bytes that the system is about to be asked for. What came back last goes first: a training
    /// step asks for its sizes in a cycle, so that the oldest is the one that is needed next. (Oldest first, the system was
    /// asked again and again for what had just gone, and its heap fell to pieces: 103 MB more at the peak of a step of GPT-2
    /// 124M at T = 512.)
    fn shrink(&mut self, coming: usize) {
        while self.live_bytes + self.free_bytes + coming > self.peak_bytes {
            let Some(newest) = self.free.pop() else { break };
            self.free_bytes -= newest.bytes();
        }
    }
}

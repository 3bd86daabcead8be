//! Work split over the threads in pieces whose size depends on the data alone, never on the number of threads: so
//! results do not either.

use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

/// Elements per piece of elementwise work: about what a core takes tens of microseconds for.
pub(crate) const CHUNK: usize = 16 * 1024;

/// Calls `work(start, piece)` for each piece of `out`, `chunk` elements long, the last one shorter.
pub(crate) fn for_chunks<T: Send>(out: &mut [T], chunk: usize, work: impl Fn(usize, &mut [T]) + Sync) {
    if out.len() <= chunk {
        if !out.is_empty() {
            work(0, out);
        }
        return;
    }
    out.par_chunks_mut(chunk).enumerate().for_each(|(i, piece)| work(i * chunk, piece));
}

/// Calls `work(i)` for every `i < count` and returns the results in order.
pub(crate) fn map_indices<R: Send>(count: usize, work: impl Fn(usize) -> R + Sync + Send) -> Vec<R> {
    if count <= 1 {
        return (0..count).map(work).collect();
    }
    (0..count).into_par_iter().map(work).collect()
}

/// How many rows of `width` elements make one piece of work.
pub(crate) fn rows_per_chunk(width: usize) -> usize {
    (CHUNK / width.max(1)).max(1)
}

/// Calls `work(state, i)` for every `i < count`: whichever thread is free takes the next one, so that pieces of unequal
/// length keep all threads busy, the longest ones first. Each thread has one `state`.
pub(crate) fn first_come<S>(count: usize, state: impl Fn() -> S + Sync, work: impl Fn(&mut S, usize) + Sync) {
    let next = AtomicUsize::new(0);
    let run = |_: usize| {
        let mut own = None;
        loop {
            let i = next.fetch_add(1, Ordering::Relaxed);
            if i >= count {
                return;
            }
            work(own.get_or_insert_with(&state), i);
        }
    };
    match rayon::current_num_threads().min(count) {
        0 | 1 => run(0),
        threads => (0..threads).into_par_iter().with_max_len(1).for_each(run),
    }
}

/// A pointer to elements of which each thread writes its own.
pub(crate) struct Shared<T>(*mut T, usize);

impl<T> Shared<T> {
    pub(crate) fn new(elements: &mut [T]) -> Self {
        Shared(elements.as_mut_ptr(), elements.len())
    }

    pub(crate) fn get(&self) -> *mut T {
        self.0
    }

    /// # Safety
    /// The elements are still there, and no other thread uses these ones meanwhile.
    ///
    /// # Panics
    /// When there are not so many.
    #[allow(clippy::mut_from_ref, reason = "the caller promises that each element is used once")]
    pub(crate) unsafe fn slice(&self, start: usize, len: usize) -> &mut [T] {
        assert!(start + len <= self.1, "elements {start} .. {} of {}", start + len, self.1);
        // SAFETY: the elements are within the allocation, and this thread's alone, as the caller promises.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(start), len) }
    }
}

// SAFETY: threads write to disjoint elements, as `slice` and those that call `get` promise.
unsafe impl<T: Send> Sync for Shared<T> {}

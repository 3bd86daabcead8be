//! Work split over the threads in pieces whose size depends on the data alone, never on the number of threads: so
//! results do not either.

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

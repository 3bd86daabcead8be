//! Sums in a fixed order.

use super::Real;
use super::elementwise::add_chunk;
use super::parallel::{CHUNK, for_chunks, map_indices};
use super::simd::vectorised;

/// The sum of all elements: pieces of fixed length, each in eight interleaved sums, then added up in f64.
pub(crate) fn sum<T: Real>(x: &[T]) -> f64 {
    map_indices(x.len().div_ceil(CHUNK), |i| {
        let start = i * CHUNK;
        sum_chunk(&x[start..x.len().min(start + CHUNK)]).to_f64()
    })
    .iter()
    .sum()
}

vectorised! {
    /// The sum of a short run, in eight interleaved sums.
    pub(crate) fn sum_chunk<T: Real>(x: &[T]) -> T {
        sum_lanes(x, |x| x)
    }
}

/// The sum of `f` of each element, in eight interleaved sums: an order that vector instructions can keep.
#[inline(always)]
pub(crate) fn sum_lanes<T: Real>(x: &[T], f: impl Fn(T) -> T) -> T {
    let mut lanes = [T::ZERO; 8];
    add_to_lanes(&mut lanes, x, f);
    sum_of_lanes(lanes)
}

/// The same sum as [`sum_lanes`], for an `f` that is more than a few instructions: a loop that does nothing but apply it
/// becomes vector instructions, where one that adds as well does not.
#[inline(always)]
pub(crate) fn sum_mapped<T: Real>(x: &[T], f: impl Fn(T) -> T) -> T {
    const BLOCK: usize = 256;
    let (mut block, mut lanes) = ([T::ZERO; BLOCK], [T::ZERO; 8]);
    for x in x.chunks(BLOCK) {
        let block = &mut block[..x.len()];
        block.iter_mut().zip(x).for_each(|(out, x)| *out = f(*x));
        add_to_lanes(&mut lanes, block, |x| x);
    }
    sum_of_lanes(lanes)
}

#[inline(always)]
fn add_to_lanes<T: Real>(lanes: &mut [T; 8], x: &[T], f: impl Fn(T) -> T) {
    let (whole, rest) = x.as_chunks::<8>();
    for x in whole {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane += f(*x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += f(*x);
    }
}

#[inline(always)]
fn sum_of_lanes<T: Real>([a, b, c, d, e, f, g, h]: [T; 8]) -> T {
    ((a + e) + (c + g)) + ((b + f) + (d + h))
}

/// The largest element, -∞ where there is none, in eight interleaved maxima.
#[inline(always)]
pub(crate) fn max_lanes<T: Real>(x: &[T]) -> T {
    let mut lanes = [T::NEG_INFINITY; 8];
    let (whole, rest) = x.as_chunks::<8>();
    for x in whole {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane = x.max(*lane);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = x.max(*lane);
    }
    lanes.into_iter().fold(T::NEG_INFINITY, T::max)
}

/// The sum over the rows of `x`, which has rows of `width`.
pub(crate) fn sum_rows<T: Real>(x: &[T], width: usize) -> Vec<T> {
    const ROWS: usize = 64; // per partial sum
    let mut out = vec![T::ZERO; width];
    if width == 0 {
        return out;
    }
    let block = ROWS * width;
    let partial = map_indices(x.len().div_ceil(block), |i| {
        let mut sum = vec![T::ZERO; width];
        for row in x[i * block..].chunks_exact(width).take(ROWS) {
            add_chunk(&mut sum, row);
        }
        sum
    });
    for_chunks(&mut out, CHUNK, |start, out| {
        for sum in &partial {
            add_chunk(out, &sum[start..][..out.len()]);
        }
    });
    out
}

vectorised! {
    /// The sum of the squares of a short run.
    pub(crate) fn sum_squares_chunk<T: Real>(x: &[T]) -> T {
        sum_lanes(x, |x| x * x)
    }
}

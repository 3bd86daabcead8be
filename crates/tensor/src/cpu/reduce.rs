//! Sums in a fixed order.

use std::hint::black_box;

use super::elementwise::add_chunk;
use super::parallel::{CHUNK, for_chunks, map_indices};
use super::simd::vectorised;
use super::{Real, Stored};

/// The sum of all elements: pieces of fixed length, each in interleaved sums, then added up in f64.
pub(crate) fn sum<T: Real>(x: &[T]) -> f64 {
    map_indices(x.len().div_ceil(CHUNK), |i| {
        let start = i * CHUNK;
        sum_chunk(&x[start..x.len().min(start + CHUNK)]).to_f64()
    })
    .iter()
    .sum()
}

vectorised! {
    /// The sum of a short run, in interleaved sums.
    pub(crate) fn sum_chunk<T: Real>(x: &[T]) -> T {
        sum_lanes(x, |x| x)
    }
}

/// Interleaved sums in a reduction: enough that vector additions do not wait for each other.
pub(crate) const LANES: usize = 32;

/// The sum of `f` of each element, in interleaved sums: an order that vector instructions can keep.
#[inline(always)]
pub(crate) fn sum_lanes<T: Real>(x: &[T], f: impl Fn(T) -> T) -> T {
    let mut lanes = [T::ZERO; LANES];
    add_to_lanes(&mut lanes, x, f);
    join(lanes, |a, b| a + b)
}

/// The same sum as [`sum_lanes`], for an `f` that is more than a few instructions: a loop that does nothing but apply it
/// becomes vector instructions, where one that adds as well does not.
#[inline(always)]
pub(crate) fn sum_mapped<T: Real>(x: &[T], f: impl Fn(T) -> T) -> T {
    const BLOCK: usize = 256;
    let (mut block, mut lanes) = ([T::ZERO; BLOCK], [T::ZERO; LANES]);
    for x in x.chunks(BLOCK) {
        let block = &mut block[..x.len()];
        block.iter_mut().zip(x).for_each(|(out, x)| *out = f(*x));
        add_to_lanes(&mut lanes, block, |x| x);
    }
    join(lanes, |a, b| a + b)
}

#[inline(always)]
fn add_to_lanes<T: Real>(lanes: &mut [T; LANES], x: &[T], f: impl Fn(T) -> T) {
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane += f(*x);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane += f(*x);
    }
}

/// The sum of the products of the elements of two runs of one length, in interleaved sums.
#[inline(always)]
pub(crate) fn dot<A: Stored, B: Stored<Real = A::Real>, const FUSED: bool>(a: &[A], b: &[B]) -> A::Real {
    let mut lanes = [A::Real::ZERO; LANES];
    let ((a, a_rest), (b, b_rest)) = (a.as_chunks::<LANES>(), b.as_chunks::<LANES>());
    for (a, b) in a.iter().zip(b) {
        for i in 0..LANES {
            lanes[i] = a[i].widen().mul_add::<FUSED>(b[i].widen(), lanes[i]);
        }
    }
    for ((lane, a), b) in lanes.iter_mut().zip(a_rest).zip(b_rest) {
        *lane = a.widen().mul_add::<FUSED>(b.widen(), *lane);
    }
    join(lanes, |a, b| a + b)
}

/// The largest element, -∞ where there is none, in interleaved maxima.
#[inline(always)]
pub(crate) fn max_lanes<T: Real>(x: &[T]) -> T {
    let mut lanes = [T::NEG_INFINITY; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for x in whole {
        for (lane, x) in lanes.iter_mut().zip(x) {
            *lane = x.max(*lane);
        }
    }
    for (lane, x) in lanes.iter_mut().zip(rest) {
        *lane = x.max(*lane);
    }
    join(lanes, T::max)
}

/// The elements of a row in eights, combined with each other: one register of `f32` is left.
#[inline(always)]
pub(crate) fn eighths<T: Real, const N: usize>(row: &[T; N], f: impl Fn(T, T) -> T) -> [T; 8] {
    const { assert!(N.is_multiple_of(LANES) && N > 0) };
    let (first, rest) = row.as_chunks::<LANES>().0.split_at(1);
    let mut lanes = first[0];
    for x in rest {
        lanes.iter_mut().zip(x).for_each(|(lane, x)| *lane = f(*x, *lane));
    }
    let sixteen: [T; 16] = std::array::from_fn(|i| f(lanes[i], lanes[i + 16]));
    std::array::from_fn(|i| f(sixteen[i], sixteen[i + 8]))
}

/// [`max_lanes`] of a row. Its last eight pass through memory: the compiler, when it sees what becomes of them, makes vectors
/// of two of all that leads there.
#[inline(always)]
pub(crate) fn max_of_row<T: Real, const N: usize>(row: &[T; N]) -> T {
    join(*black_box(&eighths(row, T::max)), T::max)
}

/// The halves of the lanes with each other, and so on, until one is left. There are a power of two.
#[inline(always)]
pub(crate) fn join<T: Real, const N: usize>(mut lanes: [T; N], f: impl Fn(T, T) -> T) -> T {
    let mut count = N;
    while count > 1 {
        count /= 2;
        for i in 0..count {
            lanes[i] = f(lanes[i], lanes[i + count]);
        }
    }
    lanes[0]
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

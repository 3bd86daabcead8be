//! One value from one or two, for every element.

use super::Real;
use super::parallel::{CHUNK, for_chunks};
use super::pool;
use super::simd::vectorised;

/// `f` of each element. `f` must be `#[inline(always)]` where speed matters.
pub(crate) fn map<T: Real, F: Fn(T) -> T + Copy + Sync>(x: &[T], f: F) -> Vec<T> {
    let mut out = pool::buffer::<T>(x.len());
    for_chunks(&mut out, CHUNK, |start, out| map_chunk(out, &x[start..][..out.len()], f));
    out
}

vectorised! {
    fn map_chunk<T: Real, F: Fn(T) -> T>(out: &mut [T], x: &[T], f: F) {
        for (out, x) in out.iter_mut().zip(x) {
            *out = f(*x);
        }
    }
}

/// `f` of the elements of `a` and those of `b`, which is as long or is repeated.
pub(crate) fn zip<T: Real, F: Fn(T, T) -> T + Copy + Sync>(a: &[T], b: &[T], f: F) -> Vec<T> {
    if let [value] = *b {
        return map(a, move |x| f(x, value));
    }
    let mut out = pool::buffer::<T>(a.len());
    for_chunks(&mut out, CHUNK, |start, mut out| {
        let mut a = &a[start..];
        let mut b_rest = &b[start % b.len()..];
        while !out.is_empty() {
            let count = out.len().min(b_rest.len());
            let (head, tail) = out.split_at_mut(count);
            zip_chunk(head, &a[..count], &b_rest[..count], f);
            (out, a, b_rest) = (tail, &a[count..], b);
        }
    });
    out
}

vectorised! {
    fn zip_chunk<T: Real, F: Fn(T, T) -> T>(out: &mut [T], a: &[T], b: &[T], f: F) {
        for ((out, a), b) in out.iter_mut().zip(a).zip(b) {
            *out = f(*a, *b);
        }
    }
}

/// Adds the elements of `b` to those of `a`.
pub(crate) fn add_in_place<T: Real>(a: &mut [T], b: &[T]) {
    for_chunks(a, CHUNK, |start, a| add_chunk(a, &b[start..][..a.len()]));
}

vectorised! {
    pub(crate) fn add_chunk<T: Real>(a: &mut [T], b: &[T]) {
        for (a, b) in a.iter_mut().zip(b) {
            *a += *b;
        }
    }
}

//! A few queries over the keys and values of a cache: bound by how fast memory gives them, so each is read once for all
//! the heads that share it, and nothing is packed. While the keys of a block are multiplied, memory is asked for its values,
//! and while those are, for the keys of the next block.
//!
//! On an EPYC of two cores, 12 heads of 64, this and large pages made one token over 65,536 1.4 times as fast in f32, 1.4 to
//! 1.6 in bf16, and in pages of 16 tokens 2.1 to 2.4.

use std::ops::Range;

use super::forward::online_softmax;
use super::mask::{Mask, Visible};
use super::score::{Hidden, MaskFunction, Scores};
use super::{Block, Heads, KEYS, Sizes, scale_rows};
use crate::cpu::cached::{CachedRows, Rows};
use crate::cpu::parallel::map_indices;
use crate::cpu::reduce::{dot, join};
use crate::cpu::simd::{prefetch, vectorised};
use crate::cpu::{Real, Stored, pool};

/// Keys of a piece of work, a multiple of [`KEYS`]: pieces do not depend on the number of threads.
const PIECE: usize = 16 * KEYS;

/// What is attended with, and how.
pub(crate) struct Decode<'a, E: Stored> {
    pub(crate) q: Heads<'a, E>,
    /// Those of a sequence are its length.
    pub(crate) sizes: Sizes,
    pub(crate) scale: f64,
    pub(crate) mask: &'a Mask,
    /// What hides further keys.
    pub(crate) hides: Option<&'a MaskFunction<'a>>,
    pub(crate) scores: Scores<'a, E::Real>,
    /// `(H)`: a score that takes part in the softmax of each query and has no value.
    pub(crate) sinks: Option<&'a [E::Real]>,
}

/// What is attended to.
pub(crate) struct Cache<'a> {
    pub(crate) keys: CachedRows<'a>,
    pub(crate) values: CachedRows<'a>,
    /// Of each sequence.
    pub(crate) lengths: &'a [usize],
    /// The row of a token of a head of a sequence, and how many tokens lie in rows that follow, itself included.
    pub(crate) run: &'a (dyn Fn(usize, usize, usize) -> [usize; 2] + Sync),
}

/// Some keys of one key head of one sequence.
struct Piece {
    sequence: usize,
    kv_head: usize,
    keys: Range<usize>,
}

/// Some keys that lie next to each other in the cache.
struct Run {
    /// Counted from the first key asked for.
    at: usize,
    /// Of the cache.
    row: usize,
    count: usize,
}

impl Piece {
    /// Where these keys are.
    fn runs(&self, cache: &Cache, keys: Range<usize>) -> impl Iterator<Item = Run> {
        let mut key = keys.start;
        std::iter::from_fn(move || {
            let [row, following] = (key < keys.end).then(|| (cache.run)(self.sequence, self.kv_head, key))?;
            let run = Run { at: key - keys.start, row, count: following.min(keys.end - key) };
            key += run.count;
            Some(run)
        })
    }
}

/// What the rows of a piece have so far: T queries of each head that shares its keys.
struct Partial<T> {
    max: Vec<T>,
    /// In eight parts.
    sum: Vec<[T; 8]>,
    /// `(rows, width of a row of values)`.
    out: Vec<T>,
}

/// `softmax(scores) v` as `(B, T, H, Dv)`, and the log-sum-exp of the scores as `(B, H, T)`. Queries are the last of their
/// sequence.
pub(crate) fn decode<T: Real, E: Stored<Real = T>>(problem: &Decode<E>, cache: &Cache) -> (Vec<T>, Vec<T>) {
    let Sizes { batch, queries, heads, kv_heads, value_dim, .. } = problem.sizes;
    let visible: Vec<Visible> = cache.lengths.iter().map(|&keys| problem.visible(keys)).collect();
    // Of a sequence those of the same keys follow each other: pages hold them side by side.
    let (mut pieces, mut firsts) = (Vec::new(), Vec::new());
    for (sequence, visible) in visible.iter().enumerate() {
        let seen = seen(visible, queries);
        firsts.push(pieces.len());
        for start in (seen.start / KEYS * KEYS..seen.end).step_by(PIECE) {
            let keys = start.max(seen.start)..seen.end.min(start + PIECE);
            pieces.extend((0..kv_heads).map(|kv_head| Piece { sequence, kv_head, keys: keys.clone() }));
        }
    }
    firsts.push(pieces.len());
    let partials =
        map_indices(pieces.len(), |i| problem.attend(cache, &visible[pieces[i].sequence], &pieces[i]));

    let mut out = pool::zeros::<T>(batch * queries * heads * value_dim);
    let mut lse = pool::buffer::<T>(batch * heads * queries);
    let group = heads / kv_heads.max(1);
    for (row, lse) in lse.iter_mut().enumerate() {
        let (sequence, head, query) = (row / queries / heads, row / queries % heads, row % queries);
        let parts = partials[firsts[sequence]..firsts[sequence + 1]].iter();
        let parts = parts.skip(head / group).step_by(kv_heads);
        let out = &mut out[((sequence * queries + query) * heads + head) * value_dim..][..value_dim];
        let sink = problem.sinks.map_or(T::NEG_INFINITY, |sinks| sinks[head]);
        *lse = merge(parts, head % group * queries + query, cache.values.width, sink, out);
    }
    (out, lse)
}

/// The keys outside of which no query sees any.
fn seen(visible: &Visible, queries: usize) -> Range<usize> {
    let rows = (0..queries).map(|query| visible.row(0, query).keys.clone()).filter(|keys| !keys.is_empty());
    rows.reduce(|a, b| a.start.min(b.start)..a.end.max(b.end)).unwrap_or(0..0)
}

/// Adds up what pieces have for a row, in their order, and returns its log-sum-exp.
fn merge<'a, T: Real + 'a>(
    parts: impl Iterator<Item = &'a Partial<T>> + Clone,
    row: usize,
    width: usize,
    sink: T,
    out: &mut [T],
) -> T {
    let max = parts.clone().fold(sink, |max, part| max.max(part.max[row]));
    if max == T::NEG_INFINITY {
        return max;
    }
    let mut sum = (sink - max).exp();
    for part in parts {
        let weight = (part.max[row] - max).exp();
        sum += weight * join(part.sum[row], |a, b| a + b);
        for (out, value) in out.iter_mut().zip(&part.out[row * width..]) {
            *out += weight * *value;
        }
    }
    out.iter_mut().for_each(|out| *out /= sum);
    max + sum.ln()
}

impl<T: Real, E: Stored<Real = T>> Decode<'_, E> {
    /// What the queries of a sequence of so many keys see.
    fn visible(&self, keys: usize) -> Visible {
        self.mask.visible(&Sizes { batch: 1, keys, ..self.sizes })
    }

    fn attend(&self, cache: &Cache, visible: &Visible, piece: &Piece) -> Partial<T> {
        let Sizes { queries, heads, kv_heads, dim, .. } = self.sizes;
        let (group, key_width, width) = (heads / kv_heads, cache.keys.width, cache.values.width);
        let rows = group * queries;
        let scale = T::from_f64(self.scale);
        // As wide as rows of keys.
        let mut wide_q = vec![T::ZERO; rows * key_width];
        for i in 0..group {
            let q = self.q.of(piece.sequence, piece.kv_head * group + i, 0..queries, dim);
            scale_rows(&mut wide_q[i * queries * key_width..], key_width, q, scale);
        }
        let mut partial = Partial {
            max: vec![T::NEG_INFINITY; rows],
            sum: vec![[T::ZERO; 8]; rows],
            out: vec![T::ZERO; rows * width],
        };
        let (mut scores, mut hidden) = (vec![[T::ZERO; KEYS]; rows], Hidden::new());
        let mut buffer = Vec::new();
        let block = |key: usize| key..piece.keys.end.min(key + KEYS);
        let (mut runs, mut next_runs) =
            (Vec::new(), Vec::from_iter(piece.runs(cache, block(piece.keys.start))));
        for key in piece.keys.clone().step_by(KEYS) {
            let cols = block(key).len();
            std::mem::swap(&mut runs, &mut next_runs);
            next_runs.clear();
            next_runs.extend(piece.runs(cache, block(key + KEYS)));
            for &Run { at, row, count } in &runs {
                let mut next = cache.values.bytes_of::<E>(row, count);
                let keys = cache.keys.read::<E>(row, count, &mut buffer);
                for (q, scores) in wide_q.chunks_exact(key_width).zip(&mut scores) {
                    let (scores, next) = (&mut scores[at..at + count], std::mem::take(&mut next));
                    match keys {
                        Rows::Stored(keys) => products(q, keys, scores, next),
                        Rows::Widened(keys) => products(q, keys, scores, next),
                    }
                }
            }
            for i in 0..group {
                let head = piece.kv_head * group + i;
                let block = Block { batch: piece.sequence, head, query: 0, rows: queries, key, cols };
                let first = i * queries;
                self.weigh(
                    visible,
                    &block,
                    &mut hidden,
                    &mut scores[first..][..queries],
                    &mut partial,
                    first,
                );
            }
            for (i, &Run { at, row, count }) in runs.iter().enumerate() {
                let next = next_runs.get(i).map(|run| cache.keys.bytes_of::<E>(run.row, run.count));
                let mut next = next.unwrap_or_default();
                let values = cache.values.read::<E>(row, count, &mut buffer);
                for (weights, out) in scores.iter().zip(partial.out.chunks_exact_mut(width)) {
                    let (weights, next) = (&weights[at..at + count], std::mem::take(&mut next));
                    match values {
                        Rows::Stored(values) => add_weighted(weights, values, out, next),
                        Rows::Widened(values) => add_weighted(weights, values, out, next),
                    }
                }
            }
        }
        partial
    }

    /// Turns the scores of the block's queries, whose rows in `partial` begin with `first`, into weights.
    fn weigh(
        &self,
        visible: &Visible,
        block: &Block,
        hidden: &mut Hidden,
        scores: &mut [[T; KEYS]],
        partial: &mut Partial<T>,
        first: usize,
    ) {
        if !hidden.look(self.hides, visible, block) {
            return scores.as_flattened_mut().fill(T::ZERO);
        }
        let width = partial.out.len() / partial.max.len();
        for (query, scores) in scores.iter_mut().enumerate() {
            let (row, seen) = (first + query, visible.seen(block, query));
            self.scores.apply(visible, block, query, seen.clone(), scores, None);
            if self.hides.is_some() {
                hidden.apply(query, seen.clone(), scores);
            }
            let out = &mut partial.out[row * width..][..width];
            online_softmax(scores, seen, &mut partial.max[row], &mut partial.sum[row], out);
        }
    }
}

vectorised! {
    /// The products of `q` with rows of its width. Meanwhile memory is asked for what is read `next`, row by row.
    fn products<E: Stored>(q: &[E::Real], keys: &[E], scores: &mut [E::Real], next: &[u8]) {
        let mut next = next.chunks(next.len().div_ceil(scores.len()).max(1));
        for (score, key) in scores.iter_mut().zip(keys.chunks_exact(q.len())) {
            prefetch(next.next().unwrap_or_default());
            *score = dot::<_, _, FUSED>(q, key);
        }
    }
}

vectorised! {
    /// `out += weights values`, of rows of the width of `out`: four at a time, for which `out` is loaded and stored once.
    /// Meanwhile memory is asked for what is read `next`, four rows at a time.
    fn add_weighted<E: Stored>(weights: &[E::Real], values: &[E], out: &mut [E::Real], next: &[u8]) {
        let width = out.len();
        let (fours, rest) = weights.as_chunks::<4>();
        let mut next = next.chunks(next.len().div_ceil(fours.len().max(1)).max(1));
        for (weights, block) in fours.iter().zip(values.chunks_exact(4 * width)) {
            prefetch(next.next().unwrap_or_default());
            let (ab, cd) = block.split_at(2 * width);
            let ((a, b), (c, d)) = (ab.split_at(width), cd.split_at(width));
            for ((((out, a), b), c), d) in out.iter_mut().zip(a).zip(b).zip(c).zip(d) {
                let sum = weights[1].mul_add::<FUSED>(b.widen(), weights[0].mul_add::<FUSED>(a.widen(), *out));
                *out = weights[3].mul_add::<FUSED>(d.widen(), weights[2].mul_add::<FUSED>(c.widen(), sum));
            }
        }
        let rows = values[fours.len() * 4 * width..].chunks_exact(width);
        for (weight, row) in rest.iter().zip(rows) {
            for (out, value) in out.iter_mut().zip(row) {
                *out = weight.mul_add::<FUSED>(value.widen(), *out);
            }
        }
    }
}

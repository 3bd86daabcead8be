//! Attention in blocks, with the softmax taken as the keys pass (Dao et al. 2022, arXiv 2205.14135; Milakov and
//! Gimelshein 2018, arXiv 1805.02867): memory grows with T and S, never with their product.

use super::Real;
use super::matmul::{Mat, multiply_here};
use super::parallel::map_indices;
use super::reduce::sum_lanes;
use super::simd::vectorised;

/// Queries per block.
const QUERIES: usize = 64;
/// Keys per block.
const KEYS: usize = 128;
/// Pieces that backward makes of the work at least, where there are few heads.
const PIECES: usize = 8;

/// What is attended to, and how.
pub(crate) struct Problem<'a, T> {
    pub(crate) q: Heads<'a, T>,
    pub(crate) k: Heads<'a, T>,
    pub(crate) v: Heads<'a, T>,
    pub(crate) sizes: Sizes,
    pub(crate) causal: bool,
    pub(crate) scale: f64,
}

#[derive(Clone, Copy)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) queries: usize,
    pub(crate) keys: usize,
    pub(crate) heads: usize,
    pub(crate) kv_heads: usize,
    pub(crate) dim: usize,
}

/// A tensor `(B, T, H, D)` whose last dimension is contiguous.
pub(crate) struct Heads<'a, T> {
    pub(crate) data: &'a [T],
    /// Of batch, token and head.
    pub(crate) strides: [usize; 3],
}

impl<'a, T: Real> Heads<'a, T> {
    /// Tokens `start .. start + len` of one head, `(len, dim)`.
    fn block(&self, batch: usize, head: usize, start: usize, len: usize, dim: usize) -> Mat<'a, T> {
        let [by_batch, by_token, by_head] = self.strides;
        Mat::new(
            &self.data[batch * by_batch + head * by_head + start * by_token..],
            (len, dim),
            (by_token, 1),
        )
    }
}

impl<T> Problem<'_, T> {
    /// How many keys query `t` sees: they are the first ones.
    fn visible(&self, t: usize) -> usize {
        let Sizes { queries, keys, .. } = self.sizes;
        if self.causal { (t + keys + 1).saturating_sub(queries).min(keys) } else { keys }
    }

    /// The first query that sees key `s`.
    fn first_query(&self, s: usize) -> usize {
        let Sizes { queries, keys, .. } = self.sizes;
        if self.causal { (s + queries).saturating_sub(keys) } else { 0 }
    }
}

/// `softmax(scale q k^T) v` as `(B, T, H, D)`, and the log-sum-exp of the scores as `(B, H, T)`: 0 and minus infinity
/// for a query that sees no key.
pub(crate) fn forward<T: Real>(problem: &Problem<T>) -> (Vec<T>, Vec<T>) {
    let Sizes { batch, queries, heads, dim, .. } = problem.sizes;
    let blocks = queries.div_ceil(QUERIES);
    // The last blocks see the most keys: first come, first served.
    let results = map_indices(batch * heads * blocks, |i| {
        let (head, block) = (i % (batch * heads), blocks - 1 - i / (batch * heads));
        forward_block(problem, head / heads, head % heads, block * QUERIES)
    });
    let mut out = vec![T::ZERO; batch * queries * heads * dim];
    let mut lse = vec![T::ZERO; batch * heads * queries];
    for (i, (block_out, block_lse)) in results.iter().enumerate() {
        let (head, start) = (i % (batch * heads), (blocks - 1 - i / (batch * heads)) * QUERIES);
        lse[head * queries + start..][..block_lse.len()].copy_from_slice(block_lse);
        let first = (head / heads * queries + start) * heads + head % heads;
        for (row, values) in block_out.chunks_exact(dim.max(1)).enumerate() {
            out[(first + row * heads) * dim..][..dim].copy_from_slice(values);
        }
    }
    (out, lse)
}

fn forward_block<T: Real>(problem: &Problem<T>, batch: usize, head: usize, start: usize) -> (Vec<T>, Vec<T>) {
    let Sizes { queries, heads, kv_heads, dim, .. } = problem.sizes;
    let kv_head = head / (heads / kv_heads);
    let rows = QUERIES.min(queries - start);
    let q = problem.q.block(batch, head, start, rows, dim);
    let (mut max, mut sum) = (vec![T::NEG_INFINITY; rows], vec![T::ZERO; rows]);
    let mut out = vec![T::ZERO; rows * dim];
    let seen = problem.visible(start + rows - 1);
    let mut scores = vec![T::ZERO; rows * KEYS.min(seen)];
    for key in (0..seen).step_by(KEYS) {
        let cols = KEYS.min(seen - key);
        let k = problem.k.block(batch, kv_head, key, cols, dim);
        let scores = &mut scores[..rows * cols];
        multiply_here(q, k.transposed(), T::from_f64(problem.scale), T::ZERO, scores, cols);
        for (row, scores) in scores.chunks_exact_mut(cols).enumerate() {
            let count = problem.visible(start + row).saturating_sub(key).min(cols);
            let out = &mut out[row * dim..][..dim];
            online_softmax(scores, count, &mut max[row], &mut sum[row], out);
        }
        let v = problem.v.block(batch, kv_head, key, cols, dim);
        multiply_here(Mat::rows(scores, rows, cols), v, T::ONE, T::ONE, &mut out, dim);
    }
    for (row, sum) in sum.iter().enumerate().filter(|(_, sum)| **sum > T::ZERO) {
        out[row * dim..][..dim].iter_mut().for_each(|out| *out /= *sum);
    }
    (out, max.iter().zip(&sum).map(|(max, sum)| *max + sum.ln()).collect())
}

vectorised! {
    /// Turns the first `count` scores of a row into weights relative to the largest score so far, the others into 0,
    /// and brings what was summed before to the same footing.
    fn online_softmax<T: Real>(scores: &mut [T], count: usize, max: &mut T, sum: &mut T, out: &mut [T]) {
        let (scores, hidden) = scores.split_at_mut(count);
        hidden.fill(T::ZERO);
        let mut lanes = [*max; 8];
        let (whole, rest) = scores.as_chunks::<8>();
        for scores in whole {
            for (lane, score) in lanes.iter_mut().zip(scores) {
                *lane = lane.max(*score);
            }
        }
        let new_max = lanes.iter().chain(rest).fold(*max, |max, score| max.max(*score));
        if new_max > *max {
            let shrink = (*max - new_max).exp();
            *sum *= shrink;
            out.iter_mut().for_each(|out| *out *= shrink);
            *max = new_max;
        }
        for score in scores.iter_mut() {
            *score = (*score - new_max).exp();
        }
        *sum += sum_lanes(scores, |weight| weight);
    }
}

/// What backward starts from: all contiguous, `out` and `grad` `(B, T, H, D)`, `lse` `(B, H, T)`.
pub(crate) struct Upstream<'a, T> {
    pub(crate) out: &'a [T],
    pub(crate) lse: &'a [T],
    pub(crate) grad: &'a [T],
}

/// Gradients of `q`, `k` and `v`, contiguous.
pub(crate) struct Grads<T> {
    pub(crate) q: Vec<T>,
    pub(crate) k: Vec<T>,
    pub(crate) v: Vec<T>,
}

/// The gradients, with the weights computed again block by block from the log-sum-exp.
///
/// Each piece of work owns a run of keys of one key-value head; the gradients of the queries that several pieces share
/// are added up in a fixed order.
pub(crate) fn backward<T: Real>(problem: &Problem<T>, upstream: &Upstream<T>) -> Grads<T> {
    let Sizes { batch, queries, keys, heads, kv_heads, dim } = problem.sizes;
    let delta = deltas(upstream, dim);
    let owners = batch * kv_heads;
    let run = keys.div_ceil((PIECES / owners.max(1)).max(1)).next_multiple_of(KEYS).max(KEYS);
    let runs = keys.div_ceil(run).max(1);
    let pieces = map_indices(owners * runs, |i| {
        let (owner, start) = (i / runs, i % runs * run);
        let piece =
            Piece { batch: owner / kv_heads, kv_head: owner % kv_heads, keys: start..keys.min(start + run) };
        piece.backward(problem, upstream, &delta)
    });

    let group = heads / kv_heads;
    let mut grads = Grads {
        q: vec![T::ZERO; batch * queries * heads * dim],
        k: vec![T::ZERO; batch * keys * kv_heads * dim],
        v: vec![T::ZERO; batch * keys * kv_heads * dim],
    };
    for (i, piece) in pieces.iter().enumerate() {
        let (batch, kv_head, start) = (i / runs / kv_heads, i / runs % kv_heads, i % runs * run);
        for (g, of_head) in piece.q.chunks_exact((queries * dim).max(1)).enumerate() {
            let first = batch * queries * heads + kv_head * group + g;
            for (t, values) in of_head.chunks_exact(dim).enumerate() {
                let target = &mut grads.q[(first + t * heads) * dim..][..dim];
                target.iter_mut().zip(values).for_each(|(target, value)| *target += *value);
            }
        }
        let first = (batch * keys + start) * kv_heads + kv_head;
        for (target, source) in [(&mut grads.k, &piece.k), (&mut grads.v, &piece.v)] {
            for (s, values) in source.chunks_exact(dim.max(1)).enumerate() {
                target[(first + s * kv_heads) * dim..][..dim].copy_from_slice(values);
            }
        }
    }
    grads
}

/// `sum(grad * out)` over D, as `(B, T, H)`.
fn deltas<T: Real>(upstream: &Upstream<T>, dim: usize) -> Vec<T> {
    let rows = upstream.out.chunks_exact(dim.max(1)).zip(upstream.grad.chunks_exact(dim.max(1)));
    rows.map(|(out, grad)| dot(out, grad)).collect()
}

vectorised! {
    fn dot<T: Real>(a: &[T], b: &[T]) -> T {
        let mut lanes = [T::ZERO; 8];
        for (i, (a, b)) in a.iter().zip(b).enumerate() {
            lanes[i % 8] += *a * *b;
        }
        sum_lanes(&lanes, |lane| lane)
    }
}

/// A run of keys of one key-value head.
struct Piece {
    batch: usize,
    kv_head: usize,
    keys: std::ops::Range<usize>,
}

impl Piece {
    /// Gradients as `(group, T, D)` for the queries and `(keys of this piece, D)` for keys and values.
    fn backward<T: Real>(&self, problem: &Problem<T>, upstream: &Upstream<T>, delta: &[T]) -> Grads<T> {
        let Sizes { queries, heads, kv_heads, dim, .. } = problem.sizes;
        let group = heads / kv_heads;
        let zeros = || vec![T::ZERO; self.keys.len() * dim];
        let mut grads = Grads { q: vec![T::ZERO; group * queries * dim], k: zeros(), v: zeros() };
        let mut tile = Tile { weights: vec![T::ZERO; QUERIES * KEYS], grads: vec![T::ZERO; QUERIES * KEYS] };
        for key in self.keys.clone().step_by(KEYS) {
            let cols = KEYS.min(self.keys.end - key);
            let own = (key - self.keys.start) * dim..(key - self.keys.start + cols) * dim;
            for g in 0..group {
                // Whole blocks from the one that holds the first query to see a key of this block.
                let first = problem.first_query(key) / QUERIES * QUERIES;
                for query in (first..queries).step_by(QUERIES) {
                    let rows = QUERIES.min(queries - query);
                    let block = Block {
                        batch: self.batch,
                        head: self.kv_head * group + g,
                        kv_head: self.kv_head,
                        query,
                        rows,
                        key,
                        cols,
                    };
                    tile.backward(
                        problem,
                        upstream,
                        delta,
                        &block,
                        &mut grads.q[(g * queries + query) * dim..][..rows * dim],
                        &mut grads.k[own.clone()],
                        &mut grads.v[own.clone()],
                    );
                }
            }
        }
        grads
    }
}

/// Some queries of one head and some keys.
struct Block {
    batch: usize,
    head: usize,
    kv_head: usize,
    query: usize,
    rows: usize,
    key: usize,
    cols: usize,
}

/// What one block of scores takes, `(rows, cols)` each.
struct Tile<T> {
    weights: Vec<T>,
    grads: Vec<T>,
}

impl<T: Real> Tile<T> {
    /// Adds what the block contributes: with weights `p = exp(scale q k^T - lse)` and
    /// `ds = scale p (do v^T - delta)`: `dv += p^T do`, `dk += ds^T q`, `dq += ds k`.
    #[allow(clippy::too_many_arguments)]
    fn backward(
        &mut self,
        problem: &Problem<T>,
        upstream: &Upstream<T>,
        delta: &[T],
        block: &Block,
        grad_q: &mut [T],
        grad_k: &mut [T],
        grad_v: &mut [T],
    ) {
        let Sizes { queries, heads, dim, .. } = problem.sizes;
        let &Block { batch, head, kv_head, query, rows, key, cols } = block;
        let q = problem.q.block(batch, head, query, rows, dim);
        let (k, v) = (
            problem.k.block(batch, kv_head, key, cols, dim),
            problem.v.block(batch, kv_head, key, cols, dim),
        );
        let upstream_rows = Heads { data: upstream.grad, strides: [queries * heads * dim, heads * dim, dim] };
        let grad = upstream_rows.block(batch, head, query, rows, dim);
        let (weights, grads) = (&mut self.weights[..rows * cols], &mut self.grads[..rows * cols]);
        let scale = T::from_f64(problem.scale);

        multiply_here(q, k.transposed(), scale, T::ZERO, weights, cols);
        multiply_here(grad, v.transposed(), T::ONE, T::ZERO, grads, cols);
        for row in 0..rows {
            let t = query + row;
            let count = problem.visible(t).saturating_sub(key).min(cols);
            let lse = upstream.lse[(batch * heads + head) * queries + t];
            let delta = delta[(batch * queries + t) * heads + head];
            let own = row * cols..(row + 1) * cols;
            weights_and_gradients(&mut weights[own.clone()], &mut grads[own], count, lse, delta, scale);
        }
        let (weights, grads) = (Mat::rows(weights, rows, cols), Mat::rows(grads, rows, cols));
        multiply_here(weights.transposed(), grad, T::ONE, T::ONE, grad_v, dim);
        multiply_here(grads.transposed(), q, T::ONE, T::ONE, grad_k, dim);
        multiply_here(grads, k, T::ONE, T::ONE, grad_q, dim);
    }
}

vectorised! {
    /// For one query: scores become weights, and gradients of the weights become gradients of `q k^T`. Keys from
    /// `count` on are hidden from it.
    fn weights_and_gradients<T: Real>(scores: &mut [T], grads: &mut [T], count: usize, lse: T, delta: T, scale: T) {
        let (scores, hidden) = scores.split_at_mut(count);
        hidden.fill(T::ZERO);
        let (grads, hidden) = grads.split_at_mut(count);
        hidden.fill(T::ZERO);
        for (score, grad) in scores.iter_mut().zip(grads) {
            let weight = (*score - lse).exp();
            *grad = weight * (*grad - delta) * scale;
            *score = weight;
        }
    }
}

//! The backward pass, with the weights computed again block by block from the log-sum-exp.

use std::cmp::Reverse;
use std::ops::Range;
use std::sync::OnceLock;

use super::score::Hidden;
use super::{Bias, Block, Heads, KEYS, Problem, QUERIES, Sizes, copy_rows, padded};
use crate::cpu::matmul::Mat;
use crate::cpu::parallel::{Shared, first_come, for_chunks, rows_per_chunk};
use crate::cpu::reduce::dot;
use crate::cpu::simd::vectorised;
use crate::cpu::tile::{PANEL, Packed, Then, multiply};
use crate::cpu::{Real, Stored, pool};

/// Pieces made of the work at least, where there are few heads.
const PIECES: usize = 8;

/// What backward starts from: all contiguous, `out` and `grad` `(B, T, H, Dv)`, `lse` and its gradient `(B, H, T)`.
pub(crate) struct Upstream<'a, E: Stored> {
    pub(crate) out: &'a [E],
    pub(crate) lse: &'a [E::Real],
    pub(crate) grad: &'a [E],
    pub(crate) grad_lse: Option<&'a [E::Real]>,
}

/// Which gradients to compute.
#[derive(Clone, Copy, Default)]
pub(crate) struct Wanted {
    pub(crate) q: bool,
    pub(crate) k: bool,
    pub(crate) v: bool,
    pub(crate) bias: bool,
    pub(crate) sinks: bool,
}

/// The gradients that are wanted, contiguous in the shapes of what they belong to.
pub(crate) struct Grads<E: Stored> {
    pub(crate) q: Option<Vec<E>>,
    pub(crate) k: Option<Vec<E>>,
    pub(crate) v: Option<Vec<E>>,
    pub(crate) bias: Option<Vec<E::Real>>,
    pub(crate) sinks: Option<Vec<E::Real>>,
}

/// Each piece of work owns a run of keys of one key-value head; the gradients of the queries that several pieces share
/// are added up in a fixed order.
pub(crate) fn backward<E: Stored>(problem: &Problem<E>, upstream: &Upstream<E>, wanted: Wanted) -> Grads<E> {
    let Sizes { batch, queries, keys, heads, kv_heads, dim, value_dim } = problem.sizes;
    let pass = Pass { problem, upstream, delta: deltas(problem, upstream), wanted };
    let owners = batch * kv_heads;
    let run = keys.div_ceil((PIECES / owners.max(1)).max(1)).next_multiple_of(KEYS).max(KEYS);
    let runs = keys.div_ceil(run);
    let pieces: Vec<Piece> = (0..owners * runs)
        .map(|i| Piece {
            batch: i / runs / kv_heads,
            kv_head: i / runs % kv_heads,
            keys: i % runs * run..keys.min((i % runs + 1) * run),
        })
        .collect();
    // Bias and sinks have passes of their own.
    let results = if wanted.q || wanted.k || wanted.v { pass.run(&pieces) } else { Vec::new() };

    let group = heads / kv_heads;
    let (width, value_width) = (padded(dim), padded(value_dim));
    let of_queries = |i: usize, target: &mut [E]| {
        let (token, head) = (i / heads, i % heads);
        let owner = token / queries * kv_heads + head / group;
        let first = (head % group * queries + token % queries) * width;
        add_up(target, &results[owner * runs..][..runs].iter().map(|piece| &piece.q[first..][..width]));
    };
    let piece_of = |i: usize| {
        let (token, kv_head) = (i / kv_heads, i % kv_heads);
        let key = token % keys;
        (&results[(token / keys * kv_heads + kv_head) * runs + key / run], key % run)
    };
    let of_keys = |i: usize, target: &mut [E]| {
        let (piece, row) = piece_of(i);
        add_up(target, &std::iter::once(&piece.k[row * width..][..width]));
    };
    let of_values = |i: usize, target: &mut [E]| {
        let (piece, row) = piece_of(i);
        add_up(target, &std::iter::once(&piece.v[row * value_width..][..value_width]));
    };
    let (query_rows, key_rows) = (batch * queries * heads, batch * keys * kv_heads);
    Grads {
        q: wanted.q.then(|| by_rows(query_rows, dim, of_queries)),
        k: wanted.k.then(|| by_rows(key_rows, dim, of_keys)),
        v: wanted.v.then(|| by_rows(key_rows, value_dim, of_values)),
        bias: wanted.bias.then(|| pass.bias()).flatten(),
        sinks: wanted.sinks.then(|| pass.sinks()).flatten(),
    }
}

/// So many rows of `width` elements, each of which `work` fills.
fn by_rows<E: Stored>(count: usize, width: usize, work: impl Fn(usize, &mut [E]) + Sync) -> Vec<E> {
    let mut rows = pool::buffer(count * width);
    let per_chunk = rows_per_chunk(width);
    for_chunks(&mut rows, per_chunk * width, |start, rows| {
        for (i, row) in rows.chunks_exact_mut(width).enumerate() {
            work(start / width + i, row);
        }
    });
    rows
}

/// The sum of rows of whole panels, rounded once.
fn add_up<'a, E: Stored>(target: &mut [E], rows: &(impl Iterator<Item = &'a [E::Real]> + Clone)) {
    for (panel, target) in target.chunks_mut(PANEL).enumerate() {
        let mut sum = [E::Real::ZERO; PANEL];
        for row in rows.clone() {
            sum.iter_mut().zip(&row[panel * PANEL..][..PANEL]).for_each(|(sum, x)| *sum += *x);
        }
        target.iter_mut().zip(sum).for_each(|(target, sum)| *target = E::round(sum));
    }
}

/// `sum(grad * out)` over Dv, less the gradient of the log-sum-exp, as `(B, H, T)`: what the gradient of each weight is
/// measured from.
fn deltas<E: Stored>(problem: &Problem<E>, upstream: &Upstream<E>) -> Vec<E::Real> {
    let Sizes { queries, heads, value_dim, .. } = problem.sizes;
    let mut delta = vec![E::Real::ZERO; upstream.lse.len()];
    for_chunks(&mut delta, rows_per_chunk(value_dim), |start, delta| {
        for (i, delta) in (start..).zip(delta) {
            let (bh, t) = (i / queries, i % queries);
            let row = ((bh / heads * queries + t) * heads + bh % heads) * value_dim;
            *delta = of_row(&upstream.out[row..][..value_dim], &upstream.grad[row..][..value_dim]);
            if let Some(grad_lse) = upstream.grad_lse {
                *delta -= grad_lse[i];
            }
        }
    });
    delta
}

vectorised! {
    fn of_row<E: Stored>(out: &[E], grad: &[E]) -> E::Real {
        dot::<_, _, FUSED>(out, grad)
    }
}

/// A run of keys of one key-value head.
struct Piece {
    batch: usize,
    kv_head: usize,
    keys: Range<usize>,
}

/// The gradients that a piece contributes: `(group, T, width)` for the queries, `(keys of the piece, width)` for keys and
/// values, where a width is D or Dv [`padded`]; none of what is not wanted.
struct Part<T> {
    q: Vec<T>,
    k: Vec<T>,
    v: Vec<T>,
}

/// What all pieces read.
struct Pass<'a, E: Stored> {
    problem: &'a Problem<'a, E>,
    upstream: &'a Upstream<'a, E>,
    delta: Vec<E::Real>,
    wanted: Wanted,
}

impl<T: Real, E: Stored<Real = T>> Pass<'_, E> {
    fn run(&self, pieces: &[Piece]) -> Vec<Part<T>> {
        let mut order: Vec<usize> = (0..pieces.len()).collect();
        order.sort_by_key(|&i| Reverse(self.work(&pieces[i])));
        let parts: Vec<OnceLock<Part<T>>> = pieces.iter().map(|_| OnceLock::new()).collect();
        first_come(order.len(), Tile::new, |tile, i| {
            parts[order[i]].get_or_init(|| self.piece(tile, &pieces[order[i]]));
        });
        parts.into_iter().filter_map(OnceLock::into_inner).collect()
    }

    /// How many keys the blocks of queries see of this piece.
    fn work(&self, piece: &Piece) -> usize {
        let blocks = 0..self.problem.sizes.queries.div_ceil(QUERIES);
        let overlap = |block| {
            let seen = self.problem.visible.block(piece.batch, block);
            seen.end.min(piece.keys.end).saturating_sub(seen.start.max(piece.keys.start))
        };
        blocks.map(overlap).sum()
    }

    /// Blocks of queries that see some of these keys, as far as their hulls tell.
    fn queries(&self, batch: usize, keys: Range<usize>) -> impl Iterator<Item = Range<usize>> {
        let queries = self.problem.sizes.queries;
        (0..queries.div_ceil(QUERIES)).filter_map(move |block| {
            let seen = self.problem.visible.block(batch, block);
            let overlaps = seen.start < keys.end && keys.start < seen.end;
            overlaps.then(|| block * QUERIES..queries.min((block + 1) * QUERIES))
        })
    }

    fn piece(&self, tile: &mut Tile<T>, piece: &Piece) -> Part<T> {
        let Sizes { queries, heads, kv_heads, dim, value_dim, .. } = self.problem.sizes;
        let group = heads / kv_heads;
        let (width, value_width) = (padded(dim), padded(value_dim));
        let zeros = |wanted: bool, count: usize| vec![T::ZERO; if wanted { count } else { 0 }];
        let mut part = Part {
            q: zeros(self.wanted.q, group * queries * width),
            k: zeros(self.wanted.k, piece.keys.len() * width),
            v: zeros(self.wanted.v, piece.keys.len() * value_width),
        };
        for key in piece.keys.clone().step_by(KEYS) {
            let keys = key..piece.keys.end.min(key + KEYS);
            tile.take_keys(self.problem, piece.batch, piece.kv_head, keys.clone());
            let own = key - piece.keys.start;
            for g in 0..group {
                for seeing in self.queries(piece.batch, keys.clone()) {
                    let head = piece.kv_head * group + g;
                    let block = Block {
                        batch: piece.batch,
                        head,
                        query: seeing.start,
                        rows: seeing.len(),
                        key,
                        cols: keys.len(),
                    };
                    if tile.differentiate(self, &block, By::Products) {
                        let rows = [g * queries + seeing.start, own];
                        let scale = T::from_f64(self.problem.scale);
                        tile.add_gradients(scale, &block, &mut part, rows, [width, value_width], self.wanted);
                    }
                }
            }
        }
        part
    }

    /// The gradient of the additive bias: the sum of those of the scores that each of its elements is added to. Each piece
    /// of work owns a block of its rows, counted from the first query of a sequence.
    fn bias(&self) -> Option<Vec<T>> {
        let Bias { sizes, .. } = self.problem.scores.bias?;
        let sequences = self.problem.visible.sequences(&self.problem.sizes);
        let [by_sequence, by_head, by_query, by_key] = sizes.map(|size| size > 1);
        let mut grads = vec![T::ZERO; sizes.iter().product()];
        let blocks = if by_query { sizes[2].div_ceil(QUERIES) } else { 1 };
        let shared = Shared::new(&mut grads);
        first_come(sizes[0] * sizes[1] * blocks, Tile::new, |tile, i| {
            let (own_sequence, own_head, own_block) =
                (i / blocks / sizes[1], i / blocks % sizes[1], i % blocks);
            let first = own_block * QUERIES;
            let rows = QUERIES.min(sizes[2] - first);
            let start = ((own_sequence * sizes[1] + own_head) * sizes[2] + first) * sizes[3];
            // SAFETY: `grads` outlives the threads, and no other piece has these rows.
            let own = unsafe { shared.slice(start, rows * sizes[3]) };
            let all = |by: bool, own: usize, count: usize| if by { own..own + 1 } else { 0..count };
            for sequence in &sequences[all(by_sequence, own_sequence, sequences.len())] {
                let queries = sequence.queries.clone();
                let queries = if by_query { part(&queries, first, QUERIES) } else { queries };
                for head in all(by_head, own_head, self.problem.sizes.heads) {
                    for key in (0..sequence.keys.len()).step_by(KEYS) {
                        let keys = part(&sequence.keys, key, KEYS);
                        self.bias_of(tile, (sequence.batch, head), queries.clone(), keys, |tile, block| {
                            let first_key = if by_key { key } else { 0 };
                            tile.add_score_gradients(block, by_query, by_key, sizes[3], first_key, own);
                        });
                    }
                }
            }
        });
        Some(grads)
    }

    /// Calls `add` with each block of these queries that sees some of these keys, which are a block.
    fn bias_of(
        &self,
        tile: &mut Tile<T>,
        (batch, head): (usize, usize),
        queries: Range<usize>,
        keys: Range<usize>,
        mut add: impl FnMut(&Tile<T>, &Block),
    ) {
        let mut loaded = false;
        for query in queries.clone().step_by(QUERIES) {
            let rows = QUERIES.min(queries.end - query);
            let block = Block { batch, head, query, rows, key: keys.start, cols: keys.len() };
            if (0..rows).all(|row| self.problem.visible.seen(&block, row).is_empty()) {
                continue;
            }
            if !std::mem::replace(&mut loaded, true) {
                tile.take_keys(self.problem, batch, self.problem.kv_head(head), keys.clone());
            }
            if tile.differentiate(self, &block, By::Scores) {
                add(tile, &block);
            }
        }
    }

    /// The gradient of the sinks, whose weights have no value: `-exp(sink - lse) delta`, summed over batch and queries.
    fn sinks(&self) -> Option<Vec<T>> {
        let sinks = self.problem.sinks?;
        let Sizes { queries, heads, .. } = self.problem.sizes;
        let mut grads = vec![0.0; heads];
        for (i, (lse, delta)) in self.upstream.lse.iter().zip(&self.delta).enumerate() {
            let head = i / queries % heads;
            grads[head] -= (sinks[head].to_f64() - lse.to_f64()).exp() * delta.to_f64();
        }
        Some(grads.into_iter().map(T::from_f64).collect())
    }
}

/// At most so many of these tokens, from the one that is `first` among them.
fn part(tokens: &Range<usize>, first: usize, most: usize) -> Range<usize> {
    let start = (tokens.start + first).min(tokens.end);
    start..tokens.end.min(start + most)
}

/// What gradients are taken by.
#[derive(Clone, Copy, PartialEq, Eq)]
enum By {
    /// What the softmax gets.
    Scores,
    /// The scaled products of queries and keys.
    Products,
}

/// What one block of scores takes.
struct Tile<T> {
    /// `(rows, KEYS)`.
    weights: Vec<T>,
    /// `(rows, KEYS)`: first of the weights, then of the scores.
    grads: Vec<T>,
    /// `(KEYS)`: how the scores of a row change with the products.
    slopes: Vec<T>,
    /// `(KEYS)`: what dropout multiplies the weights of a row by.
    factors: Vec<T>,
    hidden: Hidden,
    /// Of the keys of the block.
    k: Packed<T>,
    k_transposed: Packed<T>,
    v_transposed: Packed<T>,
    /// Of the queries of the block: `(rows, D)`, times the scale, and the upstream gradients, `(rows, Dv)`.
    q_rows: Vec<T>,
    grad_rows: Vec<T>,
    q: Packed<T>,
    grad: Packed<T>,
}

impl<T: Real> Tile<T> {
    fn new() -> Self {
        Tile {
            weights: vec![T::ZERO; QUERIES * KEYS],
            grads: vec![T::ZERO; QUERIES * KEYS],
            slopes: vec![T::ONE; KEYS],
            factors: vec![T::ONE; KEYS],
            hidden: Hidden::new(),
            k: Packed::new(),
            k_transposed: Packed::new(),
            v_transposed: Packed::new(),
            q_rows: Vec::new(),
            grad_rows: Vec::new(),
            q: Packed::new(),
            grad: Packed::new(),
        }
    }

    /// Packs the keys and values of the blocks that follow.
    fn take_keys<E: Stored<Real = T>>(
        &mut self,
        problem: &Problem<E>,
        batch: usize,
        kv_head: usize,
        keys: Range<usize>,
    ) {
        let k = problem.k.of(batch, kv_head, keys.clone(), problem.sizes.dim);
        self.k.pack(k);
        self.k_transposed.pack(k.transposed());
        self.v_transposed.pack(problem.v.of(batch, kv_head, keys, problem.sizes.value_dim).transposed());
    }

    fn take_queries<E: Stored<Real = T>>(&mut self, pass: &Pass<E>, block: &Block) {
        let Sizes { queries, heads, dim, value_dim, .. } = pass.problem.sizes;
        let range = block.query..block.query + block.rows;
        let q = pass.problem.q.of(block.batch, block.head, range.clone(), dim);
        copy_rows(&mut self.q_rows, q, T::from_f64(pass.problem.scale));
        self.q.pack(Mat::new(&self.q_rows, (block.rows, dim), (dim, 1)));
        let strides = [queries * heads * value_dim, heads * value_dim, value_dim];
        let grad = Heads { data: pass.upstream.grad, strides }.of(block.batch, block.head, range, value_dim);
        copy_rows(&mut self.grad_rows, grad, T::ONE);
        self.grad.pack(Mat::new(&self.grad_rows, (block.rows, value_dim), (value_dim, 1)));
    }

    /// Weights `p = exp(score - lse)` and gradients `p (do v^T - delta)` of the block, whose keys were taken before; `false`
    /// where a mask hides all of it.
    fn differentiate<E: Stored<Real = T>>(&mut self, pass: &Pass<E>, block: &Block, by: By) -> bool {
        let problem = pass.problem;
        let &Block { batch, head, query, rows, cols, .. } = block;
        if !self.hidden.look(problem.mask, &problem.visible, block) {
            return false;
        }
        self.take_queries(pass, block);
        let Sizes { queries, heads, dim, value_dim, .. } = problem.sizes;
        let q = Mat::new(&self.q_rows, (rows, dim), (dim, 1));
        multiply(q, self.k_transposed.columns(0..cols), T::ONE, Then::Overwrite, &mut self.weights, KEYS);
        let grad = Mat::new(&self.grad_rows, (rows, value_dim), (value_dim, 1));
        multiply(grad, self.v_transposed.columns(0..cols), T::ONE, Then::Overwrite, &mut self.grads, KEYS);
        for row in 0..rows {
            let per_query = (batch * heads + head) * queries + query + row;
            self.differentiate_row(
                problem,
                block,
                row,
                pass.upstream.lse[per_query],
                pass.delta[per_query],
                by,
            );
        }
        true
    }

    fn differentiate_row<E: Stored<Real = T>>(
        &mut self,
        problem: &Problem<E>,
        block: &Block,
        row: usize,
        lse: T,
        delta: T,
        by: By,
    ) {
        let scores = &mut self.weights.as_chunks_mut().0[row];
        let grads = &mut self.grads.as_chunks_mut().0[row];
        // Where the log-sum-exp is that of nothing, every score is hidden.
        let seen = if lse == T::NEG_INFINITY { 0..0 } else { problem.visible.seen(block, row) };
        let bends = problem.scores.bends() && by == By::Products;
        let slopes = bends.then_some(&mut self.slopes[..]);
        problem.scores.apply(&problem.visible, block, row, seen.clone(), scores, slopes);
        if problem.mask.is_some() {
            self.hidden.apply(row, seen.clone(), scores);
        }
        if let Some(dropout) = &problem.dropout {
            self.factors.fill(T::ONE);
            problem.drop_some(dropout, block, row, seen.clone(), &mut self.factors);
            multiply_by(&mut grads[seen.clone()], &self.factors[seen.clone()]);
        }
        weights_and_gradients(scores, grads, seen.clone(), lse, delta);
        if problem.dropout.is_some() {
            multiply_by(&mut scores[seen.clone()], &self.factors[seen.clone()]);
        }
        if bends {
            // A slope may be anything where the score is minus infinity.
            for (grad, slope) in grads[seen.clone()].iter_mut().zip(&self.slopes[seen]) {
                *grad = if *grad == T::ZERO { T::ZERO } else { *grad * *slope };
            }
        }
    }

    /// Adds the gradients of the scores to those of the rows of a bias, which has a row for each query or one for all, and
    /// an element for each key or one for all.
    fn add_score_gradients(
        &self,
        block: &Block,
        by_query: bool,
        by_key: bool,
        width: usize,
        first_key: usize,
        rows: &mut [T],
    ) {
        for row in 0..block.rows {
            let target = &mut rows[if by_query { row * width } else { 0 }..][..width];
            let grads = &self.grads[row * KEYS..][..block.cols];
            if by_key {
                let target = &mut target[first_key..][..block.cols];
                target.iter_mut().zip(grads).for_each(|(target, grad)| *target += *grad);
            } else {
                grads.iter().for_each(|grad| target[0] += *grad);
            }
        }
    }

    /// Adds what the block contributes, from these rows of queries and of keys on, to what is wanted:
    /// `dq += scale ds k`, `dk += ds^T (scale q)`, `dv += p^T do`.
    fn add_gradients(
        &self,
        scale: T,
        block: &Block,
        part: &mut Part<T>,
        [query, key]: [usize; 2],
        [width, value_width]: [usize; 2],
        wanted: Wanted,
    ) {
        let tile = |values| Mat::new(values, (block.rows, block.cols), (KEYS, 1));
        let (weights, grads) = (tile(&self.weights), tile(&self.grads));
        if wanted.v {
            let target = &mut part.v[key * value_width..];
            multiply(weights.transposed(), self.grad.all(), T::ONE, Then::Add, target, value_width);
        }
        if wanted.k {
            let target = &mut part.k[key * width..];
            multiply(grads.transposed(), self.q.all(), T::ONE, Then::Add, target, width);
        }
        if wanted.q {
            multiply(grads, self.k.all(), scale, Then::Add, &mut part.q[query * width..], width);
        }
    }
}

vectorised! {
    fn multiply_by<T: Real>(a: &mut [T], b: &[T]) {
        for (a, b) in a.iter_mut().zip(b) {
            *a *= *b;
        }
    }
}

vectorised! {
    /// For one query: scores become weights, and gradients of the weights become gradients of the scores, 0 for keys that
    /// are not `seen`. Rows are whole, as for the softmax forward.
    fn weights_and_gradients<T: Real>(scores: &mut [T; KEYS], grads: &mut [T; KEYS], seen: Range<usize>, lse: T, delta: T) {
        scores[..seen.start].fill(T::NEG_INFINITY);
        scores[seen.end..].fill(T::NEG_INFINITY);
        let shift = if lse == T::NEG_INFINITY { T::ZERO } else { lse };
        T::exp_row::<FUSED, KEYS>(scores, shift);
        for (weight, grad) in scores.iter().zip(grads.iter_mut()) {
            *grad = *weight * (*grad - delta);
        }
        // Whatever was there, and whatever `delta` is.
        grads[..seen.start].fill(T::ZERO);
        grads[seen.end..].fill(T::ZERO);
    }
}

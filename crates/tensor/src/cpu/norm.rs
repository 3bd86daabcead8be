//! Rows of layer norm and RMSNorm.

use std::ops::Range;

use half::{bf16, f16};
use longhand_kernels::random::Dropout;
use rayon::prelude::*;

use super::elementwise::add_chunk;
use super::parallel::{CHUNK, for_chunks, rows_per_chunk};
use super::reduce::{LANES, join, sum_lanes};
use super::simd::vectorised;
use super::{Real, pool};
use crate::Dtype;

/// What forward reads. Rows are `(N, width)`, contiguous; weight and bias `(width)`.
pub(crate) struct Inputs<'a, T> {
    /// Whether rows are centred: layer norm; else RMSNorm.
    pub(crate) layer: bool,
    pub(crate) width: usize,
    pub(crate) eps: T,
    /// What the sum is rounded to before it is normalised: backward sees it so.
    pub(crate) dtype: Dtype,
    pub(crate) x: &'a [T],
    pub(crate) residual: Option<&'a [T]>,
    pub(crate) weight: Option<&'a [T]>,
    pub(crate) bias: Option<&'a [T]>,
    pub(crate) dropout: Option<Dropout>,
}

pub(crate) struct Forward<T> {
    pub(crate) y: Vec<T>,
    /// `residual + dropout(x)`; none where it is `x`.
    pub(crate) sum: Option<Vec<T>>,
    /// Of each row.
    pub(crate) mean: Vec<T>,
    /// Of each row.
    pub(crate) rstd: Vec<T>,
}

pub(crate) fn forward<T: Real>(inputs: &Inputs<'_, T>) -> Forward<T> {
    let &Inputs { width, x, weight, bias, .. } = inputs;
    let (weight, bias) = (or(weight, T::ONE, width), or(bias, T::ZERO, width));
    let writes_sum = inputs.residual.is_some() || inputs.dropout.is_some();
    let mut y = pool::buffer::<T>(x.len());
    let mut sum = writes_sum.then(|| pool::buffer::<T>(x.len()));
    let mut stats = vec![[T::ZERO; 2]; x.len() / width.max(1)];
    let rows = rows_per_chunk(width);
    let piece = (rows * width).max(1);
    let mut sums = sum.as_deref_mut().map(|sum| sum.chunks_mut(piece));
    let pieces = y.chunks_mut(piece).zip(stats.chunks_mut(rows)).enumerate();
    let pieces: Vec<_> = pieces.map(|piece| (piece, sums.as_mut().and_then(Iterator::next))).collect();
    pieces.into_par_iter().for_each(|((i, (y, stats)), sum)| {
        let start = i * piece;
        let x = &x[start..][..y.len()];
        let rows = match sum {
            Some(sum) => {
                add(sum, x, inputs, start);
                sum
            }
            None => x,
        };
        normalise(y, stats, rows, &weight, &bias, inputs.layer, inputs.eps);
    });
    let (mean, rstd) = stats.into_iter().map(|[mean, rstd]| (mean, rstd)).unzip();
    Forward { y, sum, mean, rstd }
}

fn or<T: Real>(vector: Option<&[T]>, value: T, width: usize) -> Vec<T> {
    vector.map_or_else(|| vec![value; width], <[T]>::to_vec)
}

/// `residual + dropout(x)` of the elements from `start` on, rounded.
fn add<T: Real>(sum: &mut [T], x: &[T], inputs: &Inputs<'_, T>, start: usize) {
    let residual = inputs.residual.map(|residual| &residual[start..][..sum.len()]);
    match (inputs.dropout, residual) {
        (None, Some(residual)) => add_into(sum, x, residual),
        (dropout, residual) => {
            sum.copy_from_slice(x);
            if let Some(dropout) = dropout {
                drop_elements(sum, dropout, start);
            }
            if let Some(residual) = residual {
                add_chunk(sum, residual);
            }
        }
    }
    match inputs.dtype {
        Dtype::Bf16 => sum.iter_mut().for_each(|x| *x = T::from_f32(bf16::from_f32(x.to_f32()).to_f32())),
        Dtype::F16 => sum.iter_mut().for_each(|x| *x = T::from_f32(f16::from_f32(x.to_f32()).to_f32())),
        _ => {}
    }
}

vectorised! {
    fn add_into<T: Real>(sum: &mut [T], a: &[T], b: &[T]) {
        for ((sum, a), b) in sum.iter_mut().zip(a).zip(b) {
            *sum = *a + *b;
        }
    }
}

/// Zeroes or scales each of the elements from `start` on.
fn drop_elements<T: Real>(x: &mut [T], dropout: Dropout, start: usize) {
    let (scale, below) = (T::from_f64(dropout.scale()), dropout.drop_below());
    let words = |index: u64| {
        let quad = index / 4;
        dropout.random.words([quad as u32, (quad >> 32) as u32, 0, 0])
    };
    let mut current = words(start as u64);
    for (index, x) in (start as u64..).zip(x) {
        if index % 4 == 0 {
            current = words(index);
        }
        *x = if current[(index % 4) as usize] < below { T::ZERO } else { *x * scale };
    }
}

vectorised! {
    fn normalise<T: Real>(
        y: &mut [T], stats: &mut [[T; 2]], rows: &[T], weight: &[T], bias: &[T], layer: bool, eps: T,
    ) {
        let width = weight.len();
        let count = T::from_f64(width as f64);
        for ((y, stats), row) in y.chunks_exact_mut(width.max(1)).zip(stats).zip(rows.chunks_exact(width.max(1))) {
            let mean = if layer { sum_lanes(row, |x| x) / count } else { T::ZERO };
            let variance = sum_lanes(row, |x| (x - mean) * (x - mean)) / count;
            let rstd = T::ONE / (variance + eps).sqrt();
            for (((y, x), weight), bias) in y.iter_mut().zip(row).zip(weight).zip(bias) {
                *y = (*x - mean) * rstd * *weight + *bias;
            }
            *stats = [mean, rstd];
        }
    }
}

/// What backward reads.
pub(crate) struct BackwardInputs<'a, T> {
    pub(crate) width: usize,
    /// The gradient of `y`.
    pub(crate) dy: &'a [T],
    /// The gradient of `sum` by its other use.
    pub(crate) through: Option<&'a [T]>,
    pub(crate) sum: &'a [T],
    pub(crate) weight: Option<&'a [T]>,
    /// None for RMSNorm.
    pub(crate) mean: Option<&'a [T]>,
    pub(crate) rstd: &'a [T],
    pub(crate) dropout: Option<Dropout>,
    pub(crate) wanted: Wanted,
}

/// Which gradients to compute.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// Of `x` and the residual.
    pub(crate) rows: bool,
    /// Of weight and bias.
    pub(crate) parameters: bool,
}

/// Those that are wanted; the others have no elements.
pub(crate) struct Gradients<T> {
    pub(crate) x: Vec<T>,
    /// None where it is that of `x`.
    pub(crate) residual: Option<Vec<T>>,
    pub(crate) weight: Vec<T>,
    pub(crate) bias: Vec<T>,
}

pub(crate) fn backward<T: Real>(inputs: &BackwardInputs<'_, T>) -> Gradients<T> {
    /// So many at least share a partial sum of the gradients of weight and bias, which is then little beside them.
    const ROWS: usize = 8;
    let &BackwardInputs { width, dropout, wanted, .. } = inputs;
    let weight = or(inputs.weight, T::ONE, width);
    let mut total = pool::buffer::<T>(if wanted.rows { inputs.sum.len() } else { 0 });
    let mut dropped = dropout.filter(|_| wanted.rows).map(|_| pool::buffer::<T>(total.len()));
    let rows = rows_per_chunk(width).max(ROWS);
    let piece = (rows * width).max(1);
    let mut totals = total.chunks_mut(piece);
    let mut dropped_pieces = dropped.as_deref_mut().map(|dropped| dropped.chunks_mut(piece));
    let pieces: Vec<_> = (0..inputs.sum.len().div_ceil(piece))
        .map(|i| (i, totals.next(), dropped_pieces.as_mut().and_then(Iterator::next)))
        .collect();
    let partial: Vec<[Vec<T>; 2]> = pieces
        .into_par_iter()
        .map(|(i, mut total, dropped)| {
            let range = i * rows..inputs.rstd.len().min((i + 1) * rows);
            let sums = backward_rows(total.as_deref_mut(), inputs, &weight, range);
            if let (Some(total), Some(dropped), Some(dropout)) = (total, dropped, dropout) {
                dropped.copy_from_slice(total);
                drop_elements(dropped, dropout, i * piece);
            }
            sums
        })
        .collect();
    let [weight, bias] = [0, 1].map(|which| {
        let mut sum = vec![T::ZERO; if wanted.parameters { width } else { 0 }];
        for_chunks(&mut sum, CHUNK / 8, |start, sum| {
            partial.iter().for_each(|sums| add_chunk(sum, &sums[which][start..][..sum.len()]));
        });
        sum
    });
    match dropped {
        Some(dropped) => Gradients { x: dropped, residual: Some(total), weight, bias },
        None => Gradients { x: total, residual: None, weight, bias },
    }
}

/// Some rows, whose gradients go to `total`; returns their share of the gradients of weight and bias.
fn backward_rows<T: Real>(
    mut total: Option<&mut [T]>,
    inputs: &BackwardInputs<'_, T>,
    weight: &[T],
    rows: Range<usize>,
) -> [Vec<T>; 2] {
    let width = weight.len();
    let [mut dweight, mut dbias] =
        [(); 2].map(|()| vec![T::ZERO; if inputs.wanted.parameters { width } else { 0 }]);
    let Wanted { rows: of_rows, parameters } = inputs.wanted;
    let differentiate = match (of_rows, parameters) {
        (true, true) => differentiate::<T, true, true>,
        (true, false) => differentiate::<T, true, false>,
        (false, true) => differentiate::<T, false, true>,
        (false, false) => differentiate::<T, false, false>,
    };
    for (i, row) in rows.enumerate() {
        let at = row * width..(row + 1) * width;
        let (dy, sum) = (&inputs.dy[at.clone()], &inputs.sum[at.clone()]);
        let (mean, rstd) = (inputs.mean.map_or(T::ZERO, |mean| mean[row]), inputs.rstd[row]);
        let mut of_row = Factors { mean, rstd, mean_g: T::ZERO, mean_gn: T::ZERO };
        let total = total.as_deref_mut().map(|total| &mut total[i * width..][..width]).unwrap_or_default();
        if of_rows {
            match inputs.through {
                Some(through) => total.copy_from_slice(&through[at]),
                None => total.fill(T::ZERO),
            }
            of_row = factors(dy, sum, weight, mean, rstd, inputs.mean.is_some());
        }
        differentiate(total, &mut dweight, &mut dbias, dy, sum, weight, &of_row);
    }
    [dweight, dbias]
}

/// Of one row, with `n = (sum - mean) rstd` and `g = dy weight`.
struct Factors<T> {
    mean: T,
    rstd: T,
    mean_g: T,
    mean_gn: T,
}

vectorised! {
    fn factors<T: Real>(dy: &[T], sum: &[T], weight: &[T], mean: T, rstd: T, layer: bool) -> Factors<T> {
        let count = T::from_f64(dy.len() as f64);
        let (mut g_lanes, mut gn_lanes) = ([T::ZERO; LANES], [T::ZERO; LANES]);
        let (dy, dy_rest) = dy.as_chunks::<LANES>();
        let (sum, sum_rest) = sum.as_chunks::<LANES>();
        let (weight, weight_rest) = weight.as_chunks::<LANES>();
        for ((dy, sum), weight) in dy.iter().zip(sum).zip(weight) {
            for i in 0..LANES {
                let g = dy[i] * weight[i];
                g_lanes[i] += g;
                gn_lanes[i] += g * ((sum[i] - mean) * rstd);
            }
        }
        for (i, ((dy, sum), weight)) in dy_rest.iter().zip(sum_rest).zip(weight_rest).enumerate() {
            let g = *dy * *weight;
            g_lanes[i] += g;
            gn_lanes[i] += g * ((*sum - mean) * rstd);
        }
        let [mean_g, mean_gn] = [g_lanes, gn_lanes].map(|lanes| join(lanes, |a, b| a + b) / count);
        Factors { mean, rstd, mean_g: if layer { mean_g } else { T::ZERO }, mean_gn }
    }
}

vectorised! {
    /// If `ROWS`, `total += rstd (g - mean(g) - n mean(g n))`; if `PARAMETERS`, `dweight += dy n` and `dbias += dy`.
    fn differentiate<T: Real; const ROWS: bool, const PARAMETERS: bool>(
        total: &mut [T], dweight: &mut [T], dbias: &mut [T], dy: &[T], sum: &[T], weight: &[T],
        factors: &Factors<T>,
    ) {
        let &Factors { mean, rstd, mean_g, mean_gn } = factors;
        // The compiler has to see that lengths agree.
        let width = weight.len();
        let (dy, sum) = (&dy[..width], &sum[..width]);
        let total = &mut total[..if ROWS { width } else { 0 }];
        let [dweight, dbias] = [dweight, dbias].map(|sums| &mut sums[..if PARAMETERS { width } else { 0 }]);
        for i in 0..width {
            let n = (sum[i] - mean) * rstd;
            if PARAMETERS {
                dweight[i] += dy[i] * n;
                dbias[i] += dy[i];
            }
            if ROWS {
                total[i] += rstd * (dy[i] * weight[i] - mean_g - n * mean_gn);
            }
        }
    }
}

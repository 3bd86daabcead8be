//! Activations of rows, with their bias, gated or not.

use longhand_kernels::activation::Function;
use rayon::prelude::*;

use super::elementwise::add_chunk;
use super::parallel::{CHUNK, rows_per_chunk};
use super::simd::vectorised;
use super::{Real, pool};

/// Rows at one distance.
#[derive(Clone, Copy)]
pub(crate) struct Matrix<'a, T> {
    pub(crate) data: &'a [T],
    pub(crate) stride: usize,
}

impl<'a, T> Matrix<'a, T> {
    fn row(&self, row: usize, width: usize) -> &'a [T] {
        &self.data[row * self.stride..][..width]
    }
}

/// What goes into `f(x + bias) * (up + up_bias)`. Without `up`, nothing is multiplied.
pub(crate) struct Operands<'a, T> {
    pub(crate) rows: usize,
    pub(crate) width: usize,
    pub(crate) x: Matrix<'a, T>,
    pub(crate) up: Option<Matrix<'a, T>>,
    pub(crate) bias: Option<&'a [T]>,
    pub(crate) up_bias: Option<&'a [T]>,
}

/// `f(x)` and `f'(x)`.
trait Curve: Copy + Send + Sync {
    fn at<T: Real>(self, x: T) -> (T, T);
}

#[derive(Clone, Copy)]
struct GeluTanh;
#[derive(Clone, Copy)]
struct GeluErf;
#[derive(Clone, Copy)]
struct Silu;
#[derive(Clone, Copy)]
struct ReluSquared;

impl Curve for GeluTanh {
    /// `(1 + tanh u) / 2 = 1 / (1 + exp(-2 u))`, with `2 u = SLOPE (x + CUBIC x³)`.
    #[inline(always)]
    fn at<T: Real>(self, x: T) -> (T, T) {
        const CUBIC: f64 = 0.044_715;
        const SLOPE: f64 = 1.595_769_121_605_730_7;
        let gate = sigmoid(T::from_f64(SLOPE) * (x + T::from_f64(CUBIC) * x * x * x));
        let slope = T::from_f64(SLOPE) * (T::ONE + T::from_f64(3.0 * CUBIC) * x * x);
        (x * gate, gate * (T::ONE + x * (T::ONE - gate) * slope))
    }
}

impl Curve for GeluErf {
    #[inline(always)]
    fn at<T: Real>(self, x: T) -> (T, T) {
        let normal = T::from_f64(0.5) * (T::ONE + (x * T::from_f64(std::f64::consts::FRAC_1_SQRT_2)).erf());
        let density = T::from_f64(0.398_942_280_401_432_7) * (T::from_f64(-0.5) * x * x).exp();
        (x * normal, normal + x * density)
    }
}

impl Curve for Silu {
    #[inline(always)]
    fn at<T: Real>(self, x: T) -> (T, T) {
        let gate = sigmoid(x);
        (x * gate, gate * (T::ONE + x * (T::ONE - gate)))
    }
}

impl Curve for ReluSquared {
    #[inline(always)]
    fn at<T: Real>(self, x: T) -> (T, T) {
        let positive = x.max(T::ZERO);
        (positive * positive, positive + positive)
    }
}

#[inline(always)]
fn sigmoid<T: Real>(x: T) -> T {
    T::ONE / (T::ONE + (-x).exp())
}

macro_rules! with_curve {
    ($function:expr, $curve:ident => $body:expr) => {
        match $function {
            Function::GeluTanh => {
                let $curve = GeluTanh;
                $body
            }
            Function::GeluErf => {
                let $curve = GeluErf;
                $body
            }
            Function::Silu => {
                let $curve = Silu;
                $body
            }
            Function::ReluSquared => {
                let $curve = ReluSquared;
                $body
            }
        }
    };
}

/// `(N, W)`, contiguous.
pub(crate) fn forward<T: Real>(function: Function, operands: &Operands<'_, T>) -> Vec<T> {
    with_curve!(function, curve => forward_with(curve, &Pieces::new(operands)))
}

/// The operands cut into stretches: rows or, where nothing tells the rows apart, pieces of any length.
struct Pieces<'a, T> {
    rows: usize,
    width: usize,
    x: Matrix<'a, T>,
    up: Option<Matrix<'a, T>>,
    bias: Vec<T>,
    up_bias: Vec<T>,
}

impl<'a, T: Real> Pieces<'a, T> {
    fn new(operands: &Operands<'a, T>) -> Self {
        let &Operands { rows, width, x, up, bias, up_bias } = operands;
        let or_zeros = |bias: Option<&[T]>| bias.map_or_else(|| vec![T::ZERO; width], <[T]>::to_vec);
        Pieces { rows, width, x, up, bias: or_zeros(bias), up_bias: or_zeros(up_bias) }
    }
}

fn forward_with<T: Real, C: Curve>(curve: C, operands: &Pieces<'_, T>) -> Vec<T> {
    let &Pieces { rows, width, x, up, .. } = operands;
    let mut out = pool::buffer::<T>(rows * width);
    let chunk = rows_per_chunk(width);
    out.par_chunks_mut((chunk * width).max(1)).enumerate().for_each(|(i, out)| {
        for (row, out) in (i * chunk..).zip(out.chunks_exact_mut(width)) {
            activate(out, x.row(row, width), &operands.bias, curve);
            if let Some(up) = up {
                gate(out, up.row(row, width), &operands.up_bias);
            }
        }
    });
    out
}

vectorised! {
    fn activate<T: Real, C: Curve>(out: &mut [T], x: &[T], bias: &[T], curve: C) {
        for ((out, x), bias) in out.iter_mut().zip(x).zip(bias) {
            *out = curve.at(*x + *bias).0;
        }
    }
}

vectorised! {
    fn gate<T: Real>(out: &mut [T], up: &[T], bias: &[T]) {
        for ((out, up), bias) in out.iter_mut().zip(up).zip(bias) {
            *out *= *up + *bias;
        }
    }
}

/// Which gradients to compute.
#[derive(Clone, Copy)]
pub(crate) struct Wanted {
    /// Of both halves, for halves.
    pub(crate) x: bool,
    /// Never for halves.
    pub(crate) up: bool,
    pub(crate) biases: bool,
}

/// Those that are wanted; the others have no elements.
pub(crate) struct Gradients<T> {
    /// `(N, W)`; `(N, 2 W)`, with that of `up` behind each row, for halves.
    pub(crate) x: Vec<T>,
    /// `(N, W)`.
    pub(crate) up: Vec<T>,
    /// `(W)` of `x`, then `(W)` of `up` if there is one.
    pub(crate) bias: Vec<T>,
}

/// `dout` is `(N, W)`, contiguous.
pub(crate) fn backward<T: Real>(
    function: Function,
    operands: &Operands<'_, T>,
    dout: &[T],
    halves: bool,
    wanted: Wanted,
) -> Gradients<T> {
    with_curve!(function, curve => backward_with(curve, &Pieces::new(operands), dout, halves, wanted))
}

fn backward_with<T: Real, C: Curve>(
    curve: C,
    operands: &Pieces<'_, T>,
    dout: &[T],
    halves: bool,
    wanted: Wanted,
) -> Gradients<T> {
    /// So many at least share a partial sum of the gradients of the biases, which is then little beside them.
    const ROWS: usize = 8;
    let &Pieces { rows, width, up, .. } = operands;
    let columns = if halves { 2 * width } else { width };
    let mut dx = pool::buffer::<T>(if wanted.x { rows * columns } else { 0 });
    let mut dup = pool::buffer::<T>(if wanted.up { rows * width } else { 0 });
    let of_biases = match (wanted.biases, up) {
        (false, _) => 0,
        (true, None) => width,
        (true, Some(_)) => 2 * width,
    };
    let chunk = rows_per_chunk(columns).max(ROWS);
    let mut dxs = dx.chunks_mut((chunk * columns).max(1));
    let mut dups = dup.chunks_mut((chunk * width).max(1));
    let pieces: Vec<_> = (0..rows.div_ceil(chunk)).map(|_| (dxs.next(), dups.next())).collect();
    let partial: Vec<Vec<T>> = pieces
        .into_par_iter()
        .enumerate()
        .map(|(i, (mut dx, mut dup))| {
            let mut sums = vec![T::ZERO; of_biases];
            let mut spare = vec![T::ZERO; 2 * width]; // for what is not wanted
            for (k, row) in (i * chunk..rows.min((i + 1) * chunk)).enumerate() {
                let (spare_x, spare_up) = spare.split_at_mut(width);
                let dx = dx.as_deref_mut().map(|dx| &mut dx[k * columns..][..columns]);
                let dup = dup.as_deref_mut().map(|dup| &mut dup[k * width..][..width]);
                let (dx, dup) = match dx {
                    Some(both) if halves => both.split_at_mut(width),
                    dx => (dx.unwrap_or(spare_x), dup.unwrap_or(spare_up)),
                };
                backward_row(curve, operands, &dout[row * width..][..width], row, (dx, dup));
                if wanted.biases {
                    add_chunk(&mut sums[..width], dx);
                    add_chunk(&mut sums[width..], &dup[..of_biases - width]);
                }
            }
            sums
        })
        .collect();
    let mut bias = vec![T::ZERO; of_biases];
    bias.par_chunks_mut(CHUNK / 8).enumerate().for_each(|(i, bias)| {
        partial.iter().for_each(|sums| add_chunk(bias, &sums[i * (CHUNK / 8)..][..bias.len()]));
    });
    Gradients { x: dx, up: dup, bias }
}

fn backward_row<T: Real, C: Curve>(
    curve: C,
    operands: &Pieces<'_, T>,
    dout: &[T],
    row: usize,
    (dx, dup): (&mut [T], &mut [T]),
) {
    let &Pieces { width, x, up, .. } = operands;
    let x = x.row(row, width);
    match up {
        Some(up) => {
            let biases = (&operands.bias[..], &operands.up_bias[..]);
            differentiate_gated(dx, dup, dout, x, up.row(row, width), biases.0, biases.1, curve);
        }
        None => differentiate(dx, dout, x, &operands.bias, curve),
    }
}

vectorised! {
    fn differentiate<T: Real, C: Curve>(dx: &mut [T], dout: &[T], x: &[T], bias: &[T], curve: C) {
        for (dx, ((dout, x), bias)) in dx.iter_mut().zip(dout.iter().zip(x).zip(bias)) {
            *dx = *dout * curve.at(*x + *bias).1;
        }
    }
}

vectorised! {
    fn differentiate_gated<T: Real, C: Curve>(
        dx: &mut [T], dup: &mut [T], dout: &[T], x: &[T], up: &[T], bias: &[T], up_bias: &[T], curve: C,
    ) {
        let inputs = dout.iter().zip(x).zip(up).zip(bias).zip(up_bias);
        for ((dx, dup), ((((dout, x), up), bias), up_bias)) in dx.iter_mut().zip(dup).zip(inputs) {
            let (value, slope) = curve.at(*x + *bias);
            *dx = *dout * slope * (*up + *up_bias);
            *dup = *dout * value;
        }
    }
}

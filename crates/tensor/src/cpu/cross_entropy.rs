//! Rows of logits: their cross-entropy, and its gradient in their place.

use longhand_kernels::cross_entropy::{IGNORE, LossOptions};
use rayon::prelude::*;

use super::Real;
use super::parallel::rows_per_chunk;
use super::reduce::{max_lanes, sum_mapped};
use super::simd::vectorised;

/// The loss and the log-sum-exp of each row of `logits`, 0 where the target is [`IGNORE`]; every other target is below
/// the number of classes.
pub(crate) fn losses<T: Real>(logits: &[T], targets: &[u32], options: &LossOptions) -> (Vec<T>, Vec<T>) {
    let [mut losses, mut lse] = [(); 2].map(|()| vec![T::ZERO; targets.len()]);
    let Some(classes) = logits.len().checked_div(targets.len()) else { return (losses, lse) };
    let chunk = rows_per_chunk(classes);
    let pieces = losses.par_chunks_mut(chunk).zip(lse.par_chunks_mut(chunk)).enumerate();
    pieces.for_each(|(i, (losses, lse))| {
        let rows = i * chunk..i * chunk + losses.len();
        let logits = &logits[rows.start * classes..rows.end * classes];
        losses_here(losses, lse, logits, &targets[rows], options);
    });
    (losses, lse)
}

/// Overwrites `out` with the gradient of each row's loss times `factor`.
pub(crate) fn gradients<T: Real>(
    out: &mut [T],
    logits: &[T],
    lse: &[T],
    targets: &[u32],
    options: &LossOptions,
    factor: T,
) {
    let Some(classes) = out.len().checked_div(targets.len()) else { return };
    let chunk = rows_per_chunk(classes);
    out.par_chunks_mut((chunk * classes).max(1)).enumerate().for_each(|(i, out)| {
        let rows = i * chunk..i * chunk + out.len() / classes;
        out.copy_from_slice(&logits[rows.start * classes..rows.end * classes]);
        gradients_here(out, &lse[rows.clone()], &targets[rows], options, factor);
    });
}

/// The loss of each row, and overwrites `logits` with the gradient of each row's loss times `factor`.
pub(crate) fn losses_and_gradients<T: Real>(
    logits: &mut [T],
    targets: &[u32],
    options: &LossOptions,
    factor: T,
) -> Vec<T> {
    let mut losses = vec![T::ZERO; targets.len()];
    let Some(classes) = logits.len().checked_div(targets.len()) else { return losses };
    let chunk = rows_per_chunk(classes);
    let pieces = losses.par_chunks_mut(chunk).zip(logits.par_chunks_mut((chunk * classes).max(1)));
    pieces.zip(targets.par_chunks(chunk)).for_each(|((losses, logits), targets)| {
        let mut lse = vec![T::ZERO; losses.len()];
        losses_here(losses, &mut lse, logits, targets, options);
        gradients_here(logits, &lse, targets, options, factor);
    });
    losses
}

vectorised! {
    fn losses_here<T: Real>(
        losses: &mut [T], lse: &mut [T], logits: &[T], targets: &[u32], options: &LossOptions,
    ) {
        let rows = logits.chunks_exact((logits.len() / targets.len()).max(1));
        for (((loss, lse), row), &target) in losses.iter_mut().zip(lse).zip(rows).zip(targets) {
            if target != IGNORE {
                let of_row = Row::new::<FUSED>(row, options);
                (*loss, *lse) = (of_row.loss(row, target, options), of_row.lse);
            }
        }
    }
}

vectorised! {
    fn gradients_here<T: Real>(
        logits: &mut [T], lse: &[T], targets: &[u32], options: &LossOptions, factor: T,
    ) {
        let rows = logits.chunks_exact_mut((logits.len() / targets.len()).max(1));
        for ((row, &lse), &target) in rows.zip(lse).zip(targets) {
            if target == IGNORE {
                row.fill(T::ZERO);
            } else {
                Row { lse, softcap: softcap(options) }.gradient::<FUSED>(row, target, options, factor);
            }
        }
    }
}

fn softcap<T: Real>(options: &LossOptions) -> Option<T> {
    options.softcap.map(|cap| T::from_f64(cap.into()))
}

/// What is known of a row: `z` are its logits, capped if the options say so.
struct Row<T> {
    lse: T,
    softcap: Option<T>,
}

impl<T: Real> Row<T> {
    #[inline(always)]
    fn new<const FUSED: bool>(row: &[T], options: &LossOptions) -> Self {
        let softcap = softcap(options);
        let lse = match softcap {
            None => log_sum_exp::<T, FUSED>(row, |x| x),
            Some(cap) => log_sum_exp::<T, FUSED>(row, |x| capped(x, cap)),
        };
        Row { lse, softcap }
    }

    #[inline(always)]
    fn z(&self, x: T) -> T {
        self.softcap.map_or(x, |cap| capped(x, cap))
    }

    #[inline(always)]
    fn loss(&self, row: &[T], target: u32, options: &LossOptions) -> T {
        let [smoothing, z_loss] = [options.label_smoothing, options.z_loss].map(|x| T::from_f64(x.into()));
        let z_target = self.z(row[target as usize]);
        let mut loss = self.lse - (T::ONE - smoothing) * z_target + z_loss * self.lse * self.lse;
        if smoothing != T::ZERO {
            loss -= smoothing * sum_mapped(row, |x| self.z(x)) / T::from_f64(row.len() as f64);
        }
        loss
    }

    #[inline(always)]
    fn gradient<const FUSED: bool>(&self, row: &mut [T], target: u32, options: &LossOptions, factor: T) {
        let [smoothing, z_loss] = [options.label_smoothing, options.z_loss].map(|x| T::from_f64(x.into()));
        let of_probability = factor * (T::ONE + (z_loss + z_loss) * self.lse);
        let of_each = factor * smoothing / T::from_f64(row.len() as f64);
        let of_target = factor * (T::ONE - smoothing);
        let z_target = self.z(row[target as usize]);
        let lse = self.lse;
        match self.softcap {
            None => {
                row.iter_mut()
                    .for_each(|x| *x = of_probability * (*x - lse).exp_negative::<FUSED>() - of_each);
                row[target as usize] -= of_target;
            }
            Some(cap) => {
                let slope = |z: T| T::ONE - (z / cap) * (z / cap);
                row.iter_mut().for_each(|x| {
                    let z = capped(*x, cap);
                    *x = (of_probability * (z - lse).exp_negative::<FUSED>() - of_each) * slope(z);
                });
                row[target as usize] -= of_target * slope(z_target);
            }
        }
    }
}

/// `cap * tanh(x / cap)`, by `tanh(u) = 1 - 2 / (exp(2u) + 1)`.
#[inline(always)]
fn capped<T: Real>(x: T, cap: T) -> T {
    let two = T::ONE + T::ONE;
    cap * (T::ONE - two / ((two * x / cap).exp() + T::ONE))
}

/// `ln Σ exp(z(x))`, for a `z` that grows with `x`.
#[inline(always)]
fn log_sum_exp<T: Real, const FUSED: bool>(row: &[T], z: impl Fn(T) -> T) -> T {
    let max = z(max_lanes(row));
    max + sum_mapped(row, |x| (z(x) - max).exp_negative::<FUSED>()).ln()
}

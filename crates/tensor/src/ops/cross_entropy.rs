//! The mean cross-entropy of logits against class indices.

use rayon::prelude::*;

use super::widened;
use crate::autograd::apply1;
use crate::cpu::parallel::rows_per_chunk;
use crate::cpu::reduce::sum_lanes;
use crate::cpu::simd::vectorised;
use crate::cpu::{Real, pool};
use crate::dtype::with_real;
use crate::{Backward, Device, Dtype, Element, Error, Forward, Operation, Result, Tensor};

/// A target of this value says that its row does not count.
pub const IGNORE_INDEX: u32 = u32::MAX;

/// The mean over rows of `-ln softmax(logits)[target]`, in nats: `logits` is `(N, V)`, `targets` is `(N)` of `u32`.
/// Rows whose target is [`IGNORE_INDEX`] are skipped; 0 when there are no others.
///
/// # Errors
/// When a target is V or more, or shapes, element types or devices do not fit.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor) -> Result<Tensor> {
    apply1(CrossEntropy, &[logits, targets])
}

struct CrossEntropy;

const NAME: &str = "cross_entropy";

impl Operation for CrossEntropy {
    fn name(&self) -> &str {
        NAME
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let (logits, targets) = (&inputs[0].contiguous()?, &inputs[1].contiguous()?);
        check(logits, targets)?;
        let (loss, lse) = match logits.device() {
            Device::Cpu => cpu(logits, targets)?,
        };
        let saved = match needs[0] {
            true => vec![Some(logits.clone()), Some(targets.clone()), Some(lse)],
            false => Vec::new(),
        };
        Ok(Forward::new([loss]).save(saved))
    }

    /// `dlogits = (softmax(logits) - onehot(target)) / count`.
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let (logits, targets, lse) = (ctx.saved(0)?, ctx.saved(1)?, ctx.saved(2)?);
        let grad = match logits.device() {
            Device::Cpu => cpu_backward(&ctx.grad(0)?, logits, targets, lse)?,
        };
        Ok(vec![Some(grad), None])
    }
}

fn check(logits: &Tensor, targets: &Tensor) -> Result<()> {
    if targets.dtype() != Dtype::U32 {
        return Err(Error::dtype(NAME, targets.dtype(), "u32 for the targets"));
    }
    match (logits.shape(), targets.shape()) {
        ([rows, _], [targets]) if rows == targets => Ok(()),
        _ => {
            Err(Error::shapes(NAME, logits.shape(), targets.shape(), "logits must be (N, V) and targets (N)"))
        }
    }
}

/// How many rows count.
fn counted(targets: &[u32]) -> usize {
    targets.iter().filter(|&&target| target != IGNORE_INDEX).count()
}

/// The loss, and the log-sum-exp of each row.
fn cpu(logits: &Tensor, targets: &Tensor) -> Result<(Tensor, Tensor)> {
    let classes = logits.shape()[1];
    let targets = &targets.read::<u32>(NAME)?[..targets.numel()];
    if let Some(bad) = targets.iter().find(|&&target| target != IGNORE_INDEX && target as usize >= classes) {
        let expected = format!("less than {classes}, or IGNORE_INDEX");
        return Err(Error::argument(NAME, "a target", bad.to_string(), expected));
    }
    let wide = widened(NAME, logits)?;
    with_real!(NAME, wide.dtype(), T => {
        let values = wide.read::<T>(NAME)?;
        let mut lse = vec![T::ZERO; targets.len()];
        let chunk = rows_per_chunk(classes);
        lse.par_chunks_mut(chunk).enumerate().for_each(|(i, lse)| {
            log_sum_exp_rows(lse, &values[i * chunk * classes..][..lse.len() * classes], classes);
        });
        let loss_of = |(row, &target): (usize, &u32)| match target {
            IGNORE_INDEX => 0.0,
            target => (lse[row] - values[row * classes + target as usize]).to_f64(),
        };
        let sum: f64 = targets.iter().enumerate().map(loss_of).sum();
        let mean = sum / counted(targets).max(1) as f64;
        let loss = Tensor::full(&[], mean, logits.dtype(), logits.device())?;
        Ok((loss, Tensor::from_elements(lse, &[targets.len()])))
    })
}

vectorised! {
    fn log_sum_exp_rows<T: Real>(lse: &mut [T], logits: &[T], classes: usize) {
        for (lse, row) in lse.iter_mut().zip(logits.chunks_exact(classes.max(1))) {
            let mut lanes = [T::NEG_INFINITY; 8];
            for (i, x) in row.iter().enumerate() {
                lanes[i % 8] = lanes[i % 8].max(*x);
            }
            let max = lanes.into_iter().fold(T::NEG_INFINITY, T::max);
            *lse = max + sum_lanes(row, |x| (x - max).exp()).ln();
        }
    }
}

fn cpu_backward(grad: &Tensor, logits: &Tensor, targets: &Tensor, lse: &Tensor) -> Result<Tensor> {
    let classes = logits.shape()[1];
    let targets = &targets.read::<u32>(NAME)?[..targets.numel()];
    let scale = grad.item()? / counted(targets).max(1) as f64;
    let wide = widened(NAME, logits)?;
    with_real!(NAME, wide.dtype(), T => {
        let (values, lse) = (wide.read::<T>(NAME)?, lse.read::<T>(NAME)?);
        let mut out = pool::buffer::<T>(logits.numel());
        let chunk = rows_per_chunk(classes);
        out.par_chunks_mut((chunk * classes).max(1)).enumerate().for_each(|(i, out)| {
            let rows = i * chunk..i * chunk + out.len() / classes;
            let values = &values[rows.start * classes..][..out.len()];
            backward_rows(out, values, &targets[rows.clone()], &lse[rows], T::from_f64(scale));
        });
        Tensor::from_elements(out, logits.shape()).to_dtype(logits.dtype())
    })
}

vectorised! {
    fn backward_rows<T: Real>(out: &mut [T], logits: &[T], targets: &[u32], lse: &[T], scale: T) {
        let classes = out.len() / targets.len();
        let rows = out.chunks_exact_mut(classes).zip(logits.chunks_exact(classes));
        for ((out, row), (&target, &lse)) in rows.zip(targets.iter().zip(lse)) {
            if target == IGNORE_INDEX {
                out.fill(T::ZERO);
                continue;
            }
            for (out, x) in out.iter_mut().zip(row) {
                *out = (*x - lse).exp() * scale;
            }
            out[target as usize] -= scale;
        }
    }
}

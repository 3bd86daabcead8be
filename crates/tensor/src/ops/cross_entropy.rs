//! The mean cross-entropy of logits against class indices.

use super::{check_device, widened};
use crate::autograd::apply1;
use crate::cpu::cross_entropy::{gradients, losses};
use crate::cpu::{Real, pool};
use crate::dtype::with_real;
use crate::gpu::Losses;
use crate::{Backward, Device, Dtype, Element, Error, Forward, Operation, Result, Tensor};

pub use longhand_kernels::cross_entropy::LossOptions;

/// A target of this value says that its row does not count.
pub const IGNORE_INDEX: u32 = longhand_kernels::cross_entropy::IGNORE;

/// The mean over rows of `-ln softmax(logits)[target]`, in nats, with the terms of `options`: `logits` is `(N, V)`,
/// `targets` is `(N)` of `u32`. Rows whose target is [`IGNORE_INDEX`] are skipped; 0 when there are no others. The mean
/// is `f32` for 16-bit logits.
///
/// ```
/// use longhand_tensor::ops::{LossOptions, cross_entropy};
/// use longhand_tensor::{Device, Tensor};
///
/// # fn main() -> longhand_tensor::Result<()> {
/// let logits = Tensor::from_slice(&[2.0f32, 2.0], &[1, 2], &Device::Cpu)?;
/// let targets = Tensor::from_slice(&[1u32], &[1], &Device::Cpu)?;
/// let loss = cross_entropy(&logits, &targets, &LossOptions::default())?;
/// assert!((loss.item()? - 2f64.ln()).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When a target is V or more (on a GPU, which is not waited for, the mean is NaN instead), options make no sense, or
/// shapes, element types or devices do not fit.
pub fn cross_entropy(logits: &Tensor, targets: &Tensor, options: &LossOptions) -> Result<Tensor> {
    apply1(CrossEntropy(*options), &[logits, targets])
}

struct CrossEntropy(LossOptions);

const NAME: &str = "cross_entropy";

impl Operation for CrossEntropy {
    fn name(&self) -> &str {
        NAME
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let (logits, targets) = (&inputs[0].contiguous()?, &inputs[1].contiguous()?);
        check(logits, targets)?;
        check_options(NAME, &self.0)?;
        let (mean, share, lse) = match logits.device() {
            Device::Cpu => {
                let [mean, share, lse] = cpu(logits, targets, &self.0)?;
                (mean, share, Some(lse))
            }
            Device::Gpu(gpu) => {
                let losses = Losses::new(NAME, gpu, targets, &self.0)?;
                losses.of_rows(0, logits)?;
                let (mean, share) = losses.into_mean()?;
                (mean, share, None)
            }
        };
        let saved = match needs[0] {
            true => vec![Some(logits.clone()), Some(targets.clone()), Some(share), lse],
            false => Vec::new(),
        };
        Ok(Forward::new([mean]).save(saved))
    }

    /// `dlogits = (softmax(logits) - onehot(target)) / count`. The GPU has each row on chip and takes its log-sum-exp
    /// anew; the CPU is spared that.
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let (logits, targets, share) = (ctx.saved(0)?, ctx.saved(1)?, ctx.saved(2)?);
        let grad = match logits.device() {
            Device::Cpu => cpu_backward(&ctx.grad(0)?, (logits, targets), (share, ctx.saved(3)?), &self.0)?,
            Device::Gpu(gpu) => {
                let dmean = &ctx.grad(0)?;
                gpu.cross_entropy_gradient(NAME, (logits, targets), (dmean, share), &self.0)?
            }
        };
        Ok(vec![Some(grad), None])
    }
}

fn check(logits: &Tensor, targets: &Tensor) -> Result<()> {
    check_targets(NAME, logits, targets)?;
    match (logits.shape(), targets.shape()) {
        ([rows, _], [targets]) if rows == targets => Ok(()),
        _ => {
            Err(Error::shapes(NAME, logits.shape(), targets.shape(), "logits must be (N, V) and targets (N)"))
        }
    }
}

/// Targets are indices, on the device of what they are the targets of.
pub(super) fn check_targets(operation: &str, of: &Tensor, targets: &Tensor) -> Result<()> {
    if targets.dtype() != Dtype::U32 {
        return Err(Error::dtype(operation, targets.dtype(), "u32 for the targets"));
    }
    check_device(operation, of, targets)
}

pub(super) fn check_options(operation: &str, options: &LossOptions) -> Result<()> {
    match options.fault() {
        None => Ok(()),
        Some((field, was, expected)) => Err(Error::argument(operation, field, was, expected)),
    }
}

/// The targets on the CPU, each below `classes` or ignored, and one over the number of those that count, or 0.
pub(super) fn read_targets(operation: &str, targets: &Tensor, classes: usize) -> Result<(Vec<u32>, f64)> {
    let targets = targets.read::<u32>(operation)?[..targets.numel()].to_vec();
    if let Some(bad) = targets.iter().find(|&&target| target != IGNORE_INDEX && target as usize >= classes) {
        let expected = format!("less than {classes}, or IGNORE_INDEX");
        return Err(Error::argument(operation, "a target", bad.to_string(), expected));
    }
    let counted = targets.iter().filter(|&&target| target != IGNORE_INDEX).count();
    Ok((targets, if counted > 0 { 1.0 / counted as f64 } else { 0.0 }))
}

/// The mean of the losses.
pub(super) fn mean_of<T: Real>(losses: &[T], share: f64) -> f64 {
    losses.iter().map(|loss| loss.to_f64()).sum::<f64>() * share
}

/// The mean, and for backward the share of a row in it and the log-sum-exp of each.
fn cpu(logits: &Tensor, targets: &Tensor, options: &LossOptions) -> Result<[Tensor; 3]> {
    let (targets, share) = read_targets(NAME, targets, logits.shape()[1])?;
    let wide = widened(NAME, logits)?;
    with_real!(NAME, wide.dtype(), T => {
        let (losses, lse) = losses(&wide.read::<T>(NAME)?[..logits.numel()], &targets, options);
        let number = |value: f64| Tensor::full(&[], value, T::DTYPE, &Device::Cpu);
        let lse = Tensor::from_elements(lse, &[targets.len()]);
        Ok([number(mean_of(&losses, share))?, number(share)?, lse])
    })
}

fn cpu_backward(
    grad: &Tensor,
    (logits, targets): (&Tensor, &Tensor),
    (share, lse): (&Tensor, &Tensor),
    options: &LossOptions,
) -> Result<Tensor> {
    let targets = &targets.read::<u32>(NAME)?[..targets.numel()];
    let factor = grad.item()? * share.item()?;
    let wide = widened(NAME, logits)?;
    with_real!(NAME, wide.dtype(), T => {
        let (values, lse) = (wide.read::<T>(NAME)?, lse.read::<T>(NAME)?);
        let mut out = pool::buffer::<T>(logits.numel());
        gradients(&mut out, &values, &lse, targets, options, T::from_f64(factor));
        Tensor::from_elements(out, logits.shape()).to_dtype(logits.dtype())
    })
}

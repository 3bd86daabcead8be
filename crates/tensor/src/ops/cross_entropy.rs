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

/// The loss of each row, `(N)`, of which [`cross_entropy`] is the mean: to weigh or mask them, or for the log-probability of
/// each token, which is minus its loss. 0 where the target is [`IGNORE_INDEX`]; in `f32` for 16-bit logits.
///
/// ```
/// use longhand_tensor::ops::{LossOptions, cross_entropy_per_row};
/// use longhand_tensor::{Device, Tensor};
///
/// # fn main() -> longhand_tensor::Result<()> {
/// let logits = Tensor::from_slice(&[2.0f32, 2.0, 9.0, 9.0], &[2, 2], &Device::Cpu)?;
/// let losses = cross_entropy_per_row(&logits, &Tensor::from([1u32, 0]), &LossOptions::default())?;
/// let weighted = losses.mul(&Tensor::from([0.25f32, 0.75]))?.sum_all()?;
/// assert!((weighted.item()? - 2f64.ln()).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`cross_entropy`]; on a GPU, the loss of a target of V or more is NaN.
pub fn cross_entropy_per_row(logits: &Tensor, targets: &Tensor, options: &LossOptions) -> Result<Tensor> {
    apply1(PerRow(*options), &[logits, targets])
}

struct CrossEntropy(LossOptions);

const NAME: &str = "cross_entropy";

impl Operation for CrossEntropy {
    fn name(&self) -> &str {
        NAME
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let (logits, targets) = (&inputs[0].contiguous()?, &inputs[1].contiguous()?);
        check(NAME, logits, targets)?;
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

struct PerRow(LossOptions);

impl Operation for PerRow {
    fn name(&self) -> &str {
        PER_ROW
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let (logits, targets) = (&inputs[0].contiguous()?, &inputs[1].contiguous()?);
        check(PER_ROW, logits, targets)?;
        check_options(PER_ROW, &self.0)?;
        let (losses, lse) = match logits.device() {
            Device::Cpu => {
                let (targets, _) = read_targets(PER_ROW, targets, logits.shape()[1])?;
                let (losses, lse) = cpu_rows(PER_ROW, logits, &targets, &self.0)?;
                (losses, Some(lse))
            }
            Device::Gpu(gpu) => {
                let losses = Losses::new(PER_ROW, gpu, targets, &self.0)?;
                losses.of_rows(0, logits)?;
                (losses.into_rows(), None)
            }
        };
        let saved = match needs[0] {
            true => vec![Some(logits.clone()), Some(targets.clone()), lse],
            false => Vec::new(),
        };
        Ok(Forward::new([losses]).save(saved))
    }

    /// That of the sum of the losses, each row times its own.
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let (logits, targets) = (ctx.saved(0)?, ctx.saved(1)?);
        let one = |dtype| Tensor::ones(&[], dtype, logits.device());
        let of_sum = match logits.device() {
            Device::Cpu => {
                let (one, lse) = (one(Dtype::F64)?, ctx.saved(2)?);
                cpu_backward(&one, (logits, targets), (&one, lse), &self.0)?
            }
            Device::Gpu(gpu) => {
                let one = one(Dtype::F32)?;
                gpu.cross_entropy_gradient(PER_ROW, (logits, targets), (&one, &one), &self.0)?
            }
        };
        let by_row = ctx.grad(0)?.to_dtype(logits.dtype())?.unsqueeze(1)?;
        Ok(vec![Some(of_sum.mul(&by_row)?), None])
    }
}

const PER_ROW: &str = "cross_entropy_per_row";

fn check(name: &str, logits: &Tensor, targets: &Tensor) -> Result<()> {
    check_targets(name, logits, targets)?;
    match (logits.shape(), targets.shape()) {
        ([rows, _], [targets]) if rows == targets => Ok(()),
        _ => {
            Err(Error::shapes(name, logits.shape(), targets.shape(), "logits must be (N, V) and targets (N)"))
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
    let (losses, lse) = cpu_rows(NAME, logits, &targets, options)?;
    with_real!(NAME, losses.dtype(), T => {
        let mean = mean_of(&losses.read::<T>(NAME)?[..losses.numel()], share);
        let number = |value: f64| Tensor::full(&[], value, T::DTYPE, &Device::Cpu);
        Ok([number(mean)?, number(share)?, lse])
    })
}

/// The loss of each row, and its log-sum-exp.
fn cpu_rows(name: &str, logits: &Tensor, targets: &[u32], options: &LossOptions) -> Result<(Tensor, Tensor)> {
    let wide = widened(name, logits)?;
    with_real!(name, wide.dtype(), T => {
        let (losses, lse) = losses(&wide.read::<T>(name)?[..logits.numel()], targets, options);
        let of_rows = |values: Vec<T>| Tensor::from_elements(values, &[targets.len()]);
        Ok((of_rows(losses), of_rows(lse)))
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

//! The mean cross-entropy of logits against class indices.

use longhand_kernels::cross_entropy::{
    CrossEntropyBackward, CrossEntropyBackwardArgs, CrossEntropyForward, CrossEntropyForwardArgs, Logits,
};
use rayon::prelude::*;

use super::{check_device, widened};
use crate::autograd::apply1;
use crate::cpu::parallel::rows_per_chunk;
use crate::cpu::reduce::sum_lanes;
use crate::cpu::simd::vectorised;
use crate::cpu::{Real, pool};
use crate::dtype::with_real;
use crate::gpu::kernel_dtype;
use crate::{Backward, Device, Dtype, Element, Error, Forward, Gpu, Operation, Result, Tensor};

/// A target of this value says that its row does not count.
pub const IGNORE_INDEX: u32 = longhand_kernels::cross_entropy::IGNORE;

/// The mean over rows of `-ln softmax(logits)[target]`, in nats: `logits` is `(N, V)`, `targets` is `(N)` of `u32`.
/// Rows whose target is [`IGNORE_INDEX`] are skipped; 0 when there are no others. The mean is `f32` for 16-bit logits.
///
/// # Errors
/// When a target is V or more (on a GPU, which is not waited for, the mean is NaN instead), or shapes, element types
/// or devices do not fit.
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
        let Loss { mean, lse, share } = match logits.device() {
            Device::Cpu => cpu(logits, targets)?,
            Device::Gpu(gpu) => on_gpu(gpu, logits, targets)?,
        };
        let saved = match needs[0] {
            true => vec![Some(logits.clone()), Some(targets.clone()), Some(lse), Some(share)],
            false => Vec::new(),
        };
        Ok(Forward::new([mean]).save(saved))
    }

    /// `dlogits = (softmax(logits) - onehot(target)) / count`.
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let (logits, targets, lse, share) = (ctx.saved(0)?, ctx.saved(1)?, ctx.saved(2)?, ctx.saved(3)?);
        let grad = match logits.device() {
            Device::Cpu => cpu_backward(&ctx.grad(0)?, logits, targets, lse, share)?,
            Device::Gpu(gpu) => on_gpu_backward(gpu, &ctx.grad(0)?, logits, targets, lse, share)?,
        };
        Ok(vec![Some(grad), None])
    }
}

fn check(logits: &Tensor, targets: &Tensor) -> Result<()> {
    if targets.dtype() != Dtype::U32 {
        return Err(Error::dtype(NAME, targets.dtype(), "u32 for the targets"));
    }
    check_device(NAME, logits, targets)?;
    match (logits.shape(), targets.shape()) {
        ([rows, _], [targets]) if rows == targets => Ok(()),
        _ => {
            Err(Error::shapes(NAME, logits.shape(), targets.shape(), "logits must be (N, V) and targets (N)"))
        }
    }
}

struct Loss {
    mean: Tensor,
    /// Log-sum-exp of each row.
    lse: Tensor,
    /// One over the number of rows that count; 0 when none does.
    share: Tensor,
}

fn cpu(logits: &Tensor, targets: &Tensor) -> Result<Loss> {
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
        let counted = targets.iter().filter(|&&target| target != IGNORE_INDEX).count();
        let share = if counted > 0 { 1.0 / counted as f64 } else { 0.0 };
        let number = |value: f64| Tensor::full(&[], value, T::DTYPE, &Device::Cpu);
        let lse = Tensor::from_elements(lse, &[targets.len()]);
        Ok(Loss { mean: number(sum * share)?, lse, share: number(share)? })
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

fn cpu_backward(
    grad: &Tensor,
    logits: &Tensor,
    targets: &Tensor,
    lse: &Tensor,
    share: &Tensor,
) -> Result<Tensor> {
    let classes = logits.shape()[1];
    let targets = &targets.read::<u32>(NAME)?[..targets.numel()];
    let scale = grad.item()? * share.item()?;
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

fn on_gpu(gpu: &Gpu, logits: &Tensor, targets: &Tensor) -> Result<Loss> {
    let dtype = kernel_dtype(NAME, logits.dtype())?;
    let plan =
        gpu.plans().cross_entropy.get(dtype, |dtype| CrossEntropyForward::new(dtype).plan(gpu.device()))?;
    let rows = targets.numel();
    let [loss, lse] = [gpu.empty(&[rows], Dtype::F32)?, gpu.empty(&[rows], Dtype::F32)?];
    let [mean, share] = [gpu.empty(&[], Dtype::F32)?, gpu.empty(&[], Dtype::F32)?];
    let args = CrossEntropyForwardArgs {
        logits: kernel_logits(logits, targets)?,
        loss: loss.pointer(NAME)?,
        lse: lse.pointer(NAME)?,
        mean: mean.pointer(NAME)?,
        share: share.pointer(NAME)?,
    };
    // SAFETY: logits and targets are contiguous, the outputs are new, all on this device and freed on this stream.
    unsafe { plan.launch(gpu.stream(), &args)? };
    Ok(Loss { mean, lse, share })
}

fn on_gpu_backward(
    gpu: &Gpu,
    grad: &Tensor,
    logits: &Tensor,
    targets: &Tensor,
    lse: &Tensor,
    share: &Tensor,
) -> Result<Tensor> {
    let dtype = kernel_dtype(NAME, logits.dtype())?;
    let plan = gpu
        .plans()
        .cross_entropy_backward
        .get(dtype, |dtype| CrossEntropyBackward::new(dtype).plan(gpu.device()))?;
    let out = gpu.empty(logits.shape(), logits.dtype())?;
    let args = CrossEntropyBackwardArgs {
        logits: kernel_logits(logits, targets)?,
        lse: lse.pointer(NAME)?,
        dmean: grad.pointer(NAME)?,
        share: share.pointer(NAME)?,
        dlogits: out.pointer(NAME)?,
        dlogits_stride: logits.shape()[1] as i64,
    };
    // SAFETY: as forward's; `grad` is the one number that the loss is.
    unsafe { plan.launch(gpu.stream(), &args)? };
    Ok(out)
}

fn kernel_logits(logits: &Tensor, targets: &Tensor) -> Result<Logits> {
    let (rows, vocabulary) = (logits.shape()[0], logits.shape()[1]);
    let (data, targets) = (logits.pointer(NAME)?, targets.pointer(NAME)?);
    Ok(Logits { rows, vocabulary, data, stride: vocabulary as i64, targets })
}

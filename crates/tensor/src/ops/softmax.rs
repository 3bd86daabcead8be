//! Softmax over the last dimension, and its log-sum-exp.

use longhand_kernels::softmax::{SoftmaxArgs, SoftmaxBackward, SoftmaxBackwardArgs, SoftmaxForward};

use super::widened;
use crate::autograd::apply;
use crate::cpu::parallel::rows_per_chunk;
use crate::cpu::reduce::{dot, max_lanes, sum_lanes};
use crate::cpu::simd::vectorised;
use crate::cpu::{Real, pool};
use crate::dtype::with_real;
use crate::gpu::{kernel_dtype, pointer_or_null};
use crate::tensor::check_new;
use crate::{Backward, Device, Dtype, Error, Forward, Gpu, Operation, Result, Tensor};
use rayon::prelude::*;

/// Softmax over the last dimension: `exp(x) / sum(exp(x))`. A row of -∞ gives 0.
///
/// ```
/// use longhand_tensor::{Device, Tensor, ops};
///
/// # fn main() -> longhand_tensor::Result<()> {
/// let x = Tensor::from_slice(&[1.0f32, 1.0], &[1, 2], &Device::Cpu)?;
/// assert_eq!(ops::softmax(&x)?.to_vec::<f32>()?, [0.5, 0.5]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When `x` has no dimension, or the elements are integers.
pub fn softmax(x: &Tensor) -> Result<Tensor> {
    Ok(apply(Softmax { name: "softmax" }, &[x])?.swap_remove(0))
}

/// The logarithm of the sum of exponentials over the last dimension, which falls away; in `f32` for 16-bit elements. A row
/// of -∞, or of no elements, gives -∞.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::{Device, Tensor, ops};
/// let x = Tensor::from_slice(&[0.0f32, 0.0], &[1, 2], &Device::Cpu)?;
/// assert!((ops::log_sum_exp(&x)?.item()? - 2f64.ln()).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When `x` has no dimension, or the elements are integers.
pub fn log_sum_exp(x: &Tensor) -> Result<Tensor> {
    Ok(apply(Softmax { name: "log_sum_exp" }, &[x])?.swap_remove(1))
}

/// The logarithm of [`softmax`] over the last dimension, `x - log_sum_exp(x)`; in `f32` for 16-bit elements.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::{Device, Tensor, ops};
/// let x = Tensor::from_slice(&[5.0f32, 5.0], &[1, 2], &Device::Cpu)?;
/// assert!((ops::log_softmax(&x)?.slice((0, 1))?.item()? - 0.5f64.ln()).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When `x` has no dimension, or the elements are integers.
pub fn log_softmax(x: &Tensor) -> Result<Tensor> {
    let lse = apply(Softmax { name: "log_softmax" }, &[x])?.swap_remove(1);
    x.to_dtype(lse.dtype())?.sub(&lse.unsqueeze(x.rank() - 1)?)
}

/// Two outputs: softmax and log-sum-exp.
struct Softmax {
    name: &'static str,
}

impl Operation for Softmax {
    fn name(&self) -> &str {
        self.name
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let x = &inputs[0].contiguous()?;
        let Some((&width, leading)) = x.shape().split_last() else {
            return Err(Error::argument(self.name, "x", "of shape []", "of at least one dimension"));
        };
        check_new(self.name, leading, Dtype::F64, x.device())?;
        let (out, lse) = match x.device() {
            Device::Gpu(gpu) if width > 0 => on_gpu(self.name, gpu, x, width, leading)?,
            Device::Gpu(_) => {
                let lse = Tensor::full(leading, f64::NEG_INFINITY, Dtype::F32, x.device())?;
                (x.clone(), lse)
            }
            Device::Cpu => cpu(self.name, x, width, leading)?,
        };
        Ok(Forward::new([out.clone(), lse]).save([needs[0].then_some(out)]))
    }

    /// `dx = out (dout - sum(out dout) + dlse)`.
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let out = ctx.saved(0)?;
        let [dout, dlse] = [0, 1].map(|i| ctx.grad_if_any(i).map(Tensor::contiguous).transpose());
        let (dout, dlse) = (dout?, dlse?);
        let dx = match out.device() {
            _ if out.numel() == 0 => out.clone(),
            Device::Gpu(gpu) => on_gpu_backward(self.name, gpu, out, dout.as_ref(), dlse.as_ref())?,
            Device::Cpu => cpu_backward(self.name, out, &ctx.grad(0)?.contiguous()?, dlse.as_ref())?,
        };
        Ok(vec![Some(dx)])
    }
}

fn cpu(name: &str, x: &Tensor, width: usize, leading: &[usize]) -> Result<(Tensor, Tensor)> {
    let wide = widened(name, x)?;
    with_real!(name, wide.dtype(), T => {
        let values = wide.read::<T>(name)?;
        let mut out = pool::buffer::<T>(x.numel());
        let mut lse = vec![T::NEG_INFINITY; leading.iter().product()];
        let rows = rows_per_chunk(width);
        let pieces = out.par_chunks_mut((rows * width).max(1)).zip(lse.par_chunks_mut(rows));
        pieces.enumerate().for_each(|(i, (out, lse))| {
            softmax_rows(out, lse, &values[i * rows * width..][..out.len()]);
        });
        Ok((Tensor::from_elements(out, x.shape()).to_dtype(x.dtype())?, Tensor::from_elements(lse, leading)))
    })
}

vectorised! {
    fn softmax_rows<T: Real>(out: &mut [T], lse: &mut [T], x: &[T]) {
        let width = (x.len() / lse.len()).max(1);
        for ((out, lse), x) in out.chunks_exact_mut(width).zip(lse).zip(x.chunks_exact(width)) {
            let max = max_lanes(x);
            // Where all are -∞ there is nothing to subtract.
            let shift = if max == T::NEG_INFINITY { T::ZERO } else { max };
            out.iter_mut().zip(x).for_each(|(out, x)| *out = (*x - shift).exp_negative::<FUSED>());
            let sum = sum_lanes(out, |x| x);
            *lse = max + if max == T::NEG_INFINITY { T::ZERO } else { sum.ln() };
            let share = if max == T::NEG_INFINITY { T::ZERO } else { T::ONE / sum };
            out.iter_mut().for_each(|out| *out *= share);
        }
    }
}

fn cpu_backward(name: &str, out: &Tensor, dout: &Tensor, dlse: Option<&Tensor>) -> Result<Tensor> {
    let width = out.shape().last().copied().unwrap_or(1);
    let (wide, dout) = (widened(name, out)?, widened(name, dout)?);
    with_real!(name, wide.dtype(), T => {
        let (values, dout) = (wide.read::<T>(name)?, dout.read::<T>(name)?);
        let dlse = match dlse {
            Some(dlse) => dlse.read::<T>(name)?[..dlse.numel()].to_vec(),
            None => vec![T::ZERO; out.numel() / width],
        };
        let mut dx = pool::buffer::<T>(out.numel());
        let rows = rows_per_chunk(width);
        dx.par_chunks_mut(rows * width).zip(dlse.par_chunks(rows)).enumerate().for_each(|(i, (dx, dlse))| {
            let start = i * rows * width;
            backward_rows(dx, &values[start..][..dx.len()], &dout[start..][..dx.len()], dlse);
        });
        Tensor::from_elements(dx, out.shape()).to_dtype(out.dtype())
    })
}

vectorised! {
    fn backward_rows<T: Real>(dx: &mut [T], out: &[T], dout: &[T], dlse: &[T]) {
        let width = dx.len() / dlse.len();
        let rows = dx.chunks_exact_mut(width).zip(out.chunks_exact(width)).zip(dout.chunks_exact(width));
        for (((dx, out), dout), &dlse) in rows.zip(dlse) {
            let rest = dlse - dot::<_, _, FUSED>(out, dout);
            for ((dx, out), dout) in dx.iter_mut().zip(out).zip(dout) {
                *dx = *out * (*dout + rest);
            }
        }
    }
}

fn on_gpu(name: &str, gpu: &Gpu, x: &Tensor, width: usize, leading: &[usize]) -> Result<(Tensor, Tensor)> {
    let dtype = kernel_dtype(name, x.dtype())?;
    let plan =
        gpu.plans().softmax.get(SoftmaxForward::new(dtype, width), |softmax| softmax.plan(gpu.device()))?;
    let (out, lse) = (gpu.empty(x.shape(), x.dtype())?, gpu.empty(leading, Dtype::F32)?);
    let args = SoftmaxArgs {
        rows: lse.numel(),
        x: x.pointer(name)?,
        stride: width as i64,
        out: out.pointer(name)?,
        out_stride: width as i64,
        lse: lse.pointer(name)?,
    };
    // SAFETY: x is contiguous, the outputs are new, all on this device and freed on this stream.
    unsafe { plan.launch(gpu.stream(), &args)? };
    Ok((out, lse))
}

fn on_gpu_backward(
    name: &str,
    gpu: &Gpu,
    out: &Tensor,
    dout: Option<&Tensor>,
    dlse: Option<&Tensor>,
) -> Result<Tensor> {
    let dtype = kernel_dtype(name, out.dtype())?;
    let width = out.shape().last().copied().unwrap_or(1);
    let backward = SoftmaxBackward::new(dtype, width);
    let plan = gpu.plans().softmax_backward.get(backward, |backward| backward.plan(gpu.device()))?;
    let dx = gpu.empty(out.shape(), out.dtype())?;
    let args = SoftmaxBackwardArgs {
        rows: out.numel() / width,
        out: out.pointer(name)?,
        dout: pointer_or_null(name, dout)?,
        dlse: pointer_or_null(name, dlse)?,
        dx: dx.pointer(name)?,
    };
    // SAFETY: all are contiguous tensors of this device and of out's shape, or one f32 for each row; dx is new; all are
    // freed on this stream.
    unsafe { plan.launch(gpu.stream(), &args)? };
    Ok(dx)
}

//! Layer normalisation of a sum: one transformer pre-norm step.

use longhand_gpu::DevicePtr;
use longhand_kernels::norm::{
    LayerNormBackward, LayerNormBackwardArgs, LayerNormForward, LayerNormForwardArgs,
};
use rayon::prelude::*;

use super::{check_alike, widened};
use crate::autograd::apply;
use crate::cpu::parallel::rows_per_chunk;
use crate::cpu::reduce::sum_lanes;
use crate::cpu::simd::vectorised;
use crate::cpu::{Real, pool};
use crate::dtype::with_real;
use crate::gpu::kernel_dtype;
use crate::{Backward, Device, Dtype, Error, Forward, Gpu, Operation, Result, Tensor};

/// `r = x + residual`, `y = (r - mean(r)) / sqrt(var(r) + eps) * weight + bias` over the last dimension (Ba, Kiros and
/// Hinton 2016, arXiv 1607.06450). Returns `(y, r)`: `r` is the next step's residual, and is `x` when none is given.
///
/// `x` and `residual` are `(.., W)`, `weight` and `bias` are `(W)`.
///
/// # Errors
/// When shapes, element types or devices do not fit.
pub fn layer_norm_residual(
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<(Tensor, Tensor)> {
    let inputs: Vec<&Tensor> = [x, weight, bias].into_iter().chain(residual).collect();
    let mut outputs = apply(LayerNormResidual { eps }, &inputs)?.into_iter();
    match (outputs.next(), outputs.next()) {
        (Some(y), Some(r)) => Ok((y, r)),
        (y, _) => Ok((y.unwrap_or_else(|| x.clone()), x.clone())),
    }
}

struct LayerNormResidual {
    eps: f64,
}

const NAME: &str = "layer_norm_residual";

impl Operation for LayerNormResidual {
    fn name(&self) -> &str {
        NAME
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let inputs = inputs.iter().map(Tensor::contiguous).collect::<Result<Vec<_>>>()?;
        let (x, weight, bias, residual) = (&inputs[0], &inputs[1], &inputs[2], inputs.get(3));
        check(x, weight, bias, residual)?;
        check_alike(NAME, &inputs.iter().collect::<Vec<_>>())?;
        let Normalised { y, r, mean, inv_std } = match x.device() {
            Device::Cpu => cpu(x, residual, weight, bias, self.eps)?,
            Device::Gpu(gpu) => on_gpu(gpu, x, residual, weight, bias, self.eps)?,
        };
        let saved = match needs.contains(&true) {
            true => vec![Some(r.clone()), Some(weight.clone()), Some(mean), Some(inv_std)],
            false => Vec::new(),
        };
        Ok(Forward::new([y, r]).save(saved))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let (r, weight, mean, inv_std) = (ctx.saved(0)?, ctx.saved(1)?, ctx.saved(2)?, ctx.saved(3)?);
        let grad_y = &ctx.grad(0)?.contiguous()?;
        let grad_r = ctx.grad_if_any(1).map(Tensor::contiguous).transpose()?;
        let Grads { r, weight, bias } = match r.device() {
            Device::Cpu => cpu_backward(grad_y, grad_r.as_ref(), r, weight, mean, inv_std)?,
            Device::Gpu(gpu) => on_gpu_backward(gpu, grad_y, grad_r.as_ref(), r, weight, mean, inv_std)?,
        };
        let mut grads = vec![Some(r.clone()), Some(weight), Some(bias)];
        grads.resize(ctx.inputs(), Some(r));
        Ok(grads)
    }
}

fn check(x: &Tensor, weight: &Tensor, bias: &Tensor, residual: Option<&Tensor>) -> Result<()> {
    for (name, vector) in [("weight", weight), ("bias", bias)] {
        if vector.shape().len() != 1 || x.shape().last() != vector.shape().last() {
            let rule = format!("the {name} must be as long as the last dimension of x");
            return Err(Error::shapes(NAME, x.shape(), vector.shape(), rule));
        }
    }
    match residual {
        Some(residual) if residual.shape() != x.shape() => {
            Err(Error::shapes(NAME, x.shape(), residual.shape(), "x and residual must have the same shape"))
        }
        _ => Ok(()),
    }
}

struct Normalised {
    y: Tensor,
    r: Tensor,
    /// Of each row.
    mean: Tensor,
    /// Of each row: `1 / sqrt(var + eps)`.
    inv_std: Tensor,
}

struct Grads {
    r: Tensor,
    weight: Tensor,
    bias: Tensor,
}

fn cpu(
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<Normalised> {
    let dtype = x.dtype();
    let (wide_weight, wide_bias) = (widened(NAME, weight)?, widened(NAME, bias)?);
    // What is normalised is the rounded sum: it is what backward sees.
    let r = residual.map_or_else(|| Ok(x.clone()), |residual| x.add(residual))?;
    let sum = widened(NAME, &r)?;
    let width = weight.numel();
    let rows = sum.numel() / width.max(1);
    with_real!(NAME, sum.dtype(), T => {
        let (values, weight, bias) = (sum.read::<T>(NAME)?, wide_weight.read::<T>(NAME)?, wide_bias.read::<T>(NAME)?);
        let mut y = pool::buffer::<T>(sum.numel());
        let mut stats = vec![[T::ZERO; 2]; rows];
        let chunk = rows_per_chunk(width);
        if width > 0 {
            let outputs = y.par_chunks_mut(chunk * width).zip(stats.par_chunks_mut(chunk));
            let pieces = outputs.zip(values.par_chunks(chunk * width));
            pieces.for_each(|((y, stats), r)| forward_rows(y, stats, r, &weight[..width], &bias[..width], eps));
        }
        let (mean, inv_std): (Vec<T>, Vec<T>) = stats.into_iter().map(|[mean, inv_std]| (mean, inv_std)).unzip();
        Ok(Normalised {
            y: Tensor::from_elements(y, x.shape()).to_dtype(dtype)?,
            r,
            mean: Tensor::from_elements(mean, &[rows]),
            inv_std: Tensor::from_elements(inv_std, &[rows]),
        })
    })
}

vectorised! {
    fn forward_rows<T: Real>(y: &mut [T], stats: &mut [[T; 2]], r: &[T], weight: &[T], bias: &[T], eps: f64) {
        let width = weight.len();
        let count = T::from_f64(width as f64);
        for ((y, stats), r) in y.chunks_exact_mut(width).zip(stats).zip(r.chunks_exact(width)) {
            let mean = sum_lanes(r, |r| r) / count;
            let variance = sum_lanes(r, |r| (r - mean) * (r - mean)) / count;
            let inv_std = T::ONE / (variance + T::from_f64(eps)).sqrt();
            for (((y, r), weight), bias) in y.iter_mut().zip(r).zip(weight).zip(bias) {
                *y = (*r - mean) * inv_std * *weight + *bias;
            }
            *stats = [mean, inv_std];
        }
    }
}

fn cpu_backward(
    grad_y: &Tensor,
    grad_r: Option<&Tensor>,
    r: &Tensor,
    weight: &Tensor,
    mean: &Tensor,
    inv_std: &Tensor,
) -> Result<Grads> {
    let dtype = r.dtype();
    let (grad_y, r, wide_weight) = (widened(NAME, grad_y)?, widened(NAME, r)?, widened(NAME, weight)?);
    let grad_r = grad_r.map(|grad| widened(NAME, grad)).transpose()?;
    let width = weight.numel();
    with_real!(NAME, r.dtype(), T => {
        let (dy, values, weight) = (grad_y.read::<T>(NAME)?, r.read::<T>(NAME)?, wide_weight.read::<T>(NAME)?);
        let (mean, inv_std) = (mean.read::<T>(NAME)?, inv_std.read::<T>(NAME)?);
        let through = grad_r.as_ref().map(|grad| grad.read::<T>(NAME)).transpose()?;
        let chunk = rows_per_chunk(width);
        let mut dr = pool::buffer::<T>(r.numel());
        // The gradients of weight and bias, one partial sum per piece: [dweight, dbias].
        let pieces = dr.par_chunks_mut((chunk * width).max(1)).enumerate().map(|(i, dr)| {
            let (row, start) = (i * chunk, i * chunk * width);
            let rows = dr.len() / width;
            let mut sums = vec![T::ZERO; 2 * width];
            let inputs = RowInputs {
                dy: &dy[start..][..dr.len()],
                r: &values[start..][..dr.len()],
                mean: &mean[row..][..rows],
                inv_std: &inv_std[row..][..rows],
                weight: &weight[..width],
            };
            backward_rows(dr, &mut sums, &inputs);
            if let Some(through) = &through {
                crate::cpu::elementwise::add_chunk(dr, &through[start..][..dr.len()]);
            }
            sums
        });
        let sums = crate::cpu::reduce::sum_rows(&pieces.collect::<Vec<_>>().concat(), 2 * width);
        let vector = |sum: &[T]| Tensor::from_elements(sum.to_vec(), &[width]).to_dtype(dtype);
        Ok(Grads {
            r: Tensor::from_elements(dr, r.shape()).to_dtype(dtype)?,
            weight: vector(&sums[..width])?,
            bias: vector(&sums[width..])?,
        })
    })
}

struct RowInputs<'a, T> {
    dy: &'a [T],
    r: &'a [T],
    mean: &'a [T],
    inv_std: &'a [T],
    weight: &'a [T],
}

vectorised! {
    /// With `n = (r - mean) inv_std` and `g = dy weight`: `dr = inv_std (g - mean(g) - n mean(g n))`.
    fn backward_rows<T: Real>(dr: &mut [T], sums: &mut [T], inputs: &RowInputs<'_, T>) {
        let width = inputs.weight.len();
        let count = T::from_f64(width as f64);
        let (dweight, dbias) = sums.split_at_mut(width);
        let rows = dr.chunks_exact_mut(width).zip(inputs.dy.chunks_exact(width)).zip(inputs.r.chunks_exact(width));
        for (((dr, dy), r), (&mean, &inv_std)) in rows.zip(inputs.mean.iter().zip(inputs.inv_std)) {
            // dr first holds n, then the gradient.
            for (i, dr) in dr.iter_mut().enumerate() {
                let n = (r[i] - mean) * inv_std;
                dweight[i] += dy[i] * n;
                dbias[i] += dy[i];
                *dr = n;
            }
            let (mut sum_g, mut sum_gn) = ([T::ZERO; 8], [T::ZERO; 8]);
            for (i, ((dy, weight), n)) in dy.iter().zip(inputs.weight).zip(&*dr).enumerate() {
                let g = *dy * *weight;
                sum_g[i % 8] += g;
                sum_gn[i % 8] += g * *n;
            }
            let mean_g = sum_lanes(&sum_g, |x| x) / count;
            let mean_gn = sum_lanes(&sum_gn, |x| x) / count;
            for ((dr, dy), weight) in dr.iter_mut().zip(dy).zip(inputs.weight) {
                *dr = inv_std * (*dy * *weight - mean_g - *dr * mean_gn);
            }
        }
    }
}

fn on_gpu(
    gpu: &Gpu,
    x: &Tensor,
    residual: Option<&Tensor>,
    weight: &Tensor,
    bias: &Tensor,
    eps: f64,
) -> Result<Normalised> {
    let key = (kernel_dtype(NAME, x.dtype())?, weight.numel());
    let plan = gpu
        .plans()
        .norm
        .get(key, |(dtype, width)| LayerNormForward::new(dtype, width)?.plan(gpu.device()))?;
    let width = weight.numel();
    let rows = x.numel() / width;
    let y = gpu.empty(x.shape(), x.dtype())?;
    let r = if residual.is_some() { gpu.empty(x.shape(), x.dtype())? } else { x.clone() };
    let [mean, inv_std] = [gpu.empty(&[rows], Dtype::F32)?, gpu.empty(&[rows], Dtype::F32)?];
    let args = LayerNormForwardArgs {
        rows,
        eps: eps as f32,
        x: x.pointer(NAME)?,
        x_stride: width as i64,
        residual: pointer_or_null(residual)?,
        weight: weight.pointer(NAME)?,
        bias: bias.pointer(NAME)?,
        sum: pointer_or_null(residual.map(|_| &r))?,
        out: y.pointer(NAME)?,
        mean: mean.pointer(NAME)?,
        rstd: inv_std.pointer(NAME)?,
    };
    // SAFETY: the inputs are contiguous, the outputs are new, all on this device and freed on this stream.
    unsafe { plan.launch(gpu.stream(), &args)? };
    Ok(Normalised { y, r, mean, inv_std })
}

fn on_gpu_backward(
    gpu: &Gpu,
    grad_y: &Tensor,
    grad_r: Option<&Tensor>,
    r: &Tensor,
    weight: &Tensor,
    mean: &Tensor,
    inv_std: &Tensor,
) -> Result<Grads> {
    let key = (kernel_dtype(NAME, r.dtype())?, weight.numel());
    let plan = gpu
        .plans()
        .norm_backward
        .get(key, |(dtype, width)| LayerNormBackward::new(dtype, width)?.plan(gpu.device()))?;
    let width = weight.numel();
    let rows = r.numel() / width;
    let grads = Grads {
        r: gpu.empty(r.shape(), r.dtype())?,
        weight: gpu.empty(weight.shape(), weight.dtype())?,
        bias: gpu.empty(weight.shape(), weight.dtype())?,
    };
    let workspace = gpu.workspace(plan.workspace_bytes(rows))?;
    let args = LayerNormBackwardArgs {
        rows,
        dy: grad_y.pointer(NAME)?,
        dr: pointer_or_null(grad_r)?,
        sum: r.pointer(NAME)?,
        sum_stride: width as i64,
        weight: weight.pointer(NAME)?,
        mean: mean.pointer(NAME)?,
        rstd: inv_std.pointer(NAME)?,
        dx: grads.r.pointer(NAME)?,
        dweight: grads.weight.pointer(NAME)?,
        dbias: grads.bias.pointer(NAME)?,
        workspace: workspace.ptr(),
    };
    // SAFETY: the inputs are contiguous, outputs and workspace are new, all on this device and freed on this stream.
    unsafe { plan.launch(gpu.stream(), &args)? };
    Ok(grads)
}

fn pointer_or_null(tensor: Option<&Tensor>) -> Result<DevicePtr> {
    tensor.map_or(Ok(DevicePtr::NULL), |tensor| tensor.pointer(NAME))
}

//! Partial results of attention, merged by their LSE.

use longhand_kernels::attention as kernel;

use super::attention::{kernel_heads, with_contiguous_heads};
use super::{check_alike, check_device, compute_dtype, widened};
use crate::autograd::apply;
use crate::cpu::parallel::{for_chunks, rows_per_chunk};
use crate::cpu::{Real, pool};
use crate::dtype::with_real;
use crate::gpu::{kernel_dtype, pointer_or_null};
use crate::{Backward, Device, Dtype, Error, Forward, Gpu, Operation, Result, Tensor};

/// Merges results of attention over disjoint keys into the one over all their keys (Ye et al. 2025, FlashInfer, arXiv
/// 2501.01005, section 2.2): `lse = ln Σ exp(lse_i)`, `out = Σ exp(lse_i - lse) out_i`. What ring attention and cascades
/// over a shared prefix need.
///
/// Each part is an `out`, `(B, T, H, D)`, and its LSE, `(B, H, T)` of f32 (f64 with f64): the natural logarithm of the sum
/// of `exp(score)` over the part's keys, -inf where it has none; its `out` there counts for nothing, whatever it is. The
/// results have the same shapes. On a GPU, 2 to 8 parts.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// use longhand_tensor::{Device, Tensor, ops};
///
/// let part = |out: f32, lse: f32| -> longhand_tensor::Result<(Tensor, Tensor)> {
///     let device = Device::Cpu;
///     Ok((Tensor::from_slice(&[out], &[1, 1, 1, 1], &device)?, Tensor::from_slice(&[lse], &[1, 1, 1], &device)?))
/// };
/// let (out, lse) = ops::attention_merge(&[part(1.0, 0.0)?, part(5.0, 3f32.ln())?])?;
/// assert!((out.item()? - 4.0).abs() < 1e-6); // a quarter of the weight, and three quarters
/// assert!((lse.item()? - 4f64.ln()).abs() < 1e-6);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When there are fewer than two parts, or shapes, element types or devices do not fit.
pub fn attention_merge(parts: &[(Tensor, Tensor)]) -> Result<(Tensor, Tensor)> {
    let inputs: Vec<&Tensor> =
        parts.iter().map(|(out, _)| out).chain(parts.iter().map(|(_, lse)| lse)).collect();
    let mut outputs = apply(Merge, &inputs)?;
    let lse = outputs.swap_remove(1);
    Ok((outputs.swap_remove(0), lse))
}

/// The inputs are the `out` of every part, then the LSE of every part.
struct Merge;

const NAME: &str = "attention_merge";

impl Operation for Merge {
    fn name(&self) -> &str {
        NAME
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let parts = Parts::new(inputs)?;
        let outputs = match parts.outs[0].device() {
            Device::Cpu => parts.cpu()?,
            Device::Gpu(gpu) => parts.on_gpu(gpu)?,
        };
        let forward = Forward::new(outputs);
        Ok(if needs.contains(&true) { forward.save(parts.saved()) } else { forward })
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let inputs = (0..ctx.inputs()).map(|i| ctx.saved(i).cloned()).collect::<Result<Vec<_>>>()?;
        let parts = Parts::new(&inputs)?;
        let grad_out = ctx.grad(0)?.contiguous()?;
        let grad_lse = ctx.grad_if_any(1).map(Tensor::contiguous).transpose()?;
        match grad_out.device() {
            Device::Cpu => parts.cpu_backward(&grad_out, grad_lse.as_ref(), |i| ctx.needs(i)),
            Device::Gpu(gpu) => parts.on_gpu_backward(gpu, &grad_out, grad_lse.as_ref(), |i| ctx.needs(i)),
        }
    }
}

struct Parts {
    outs: Vec<Tensor>,
    lses: Vec<Tensor>,
    batch: usize,
    tokens: usize,
    heads: usize,
    dim: usize,
}

impl Parts {
    fn new(inputs: &[Tensor]) -> Result<Parts> {
        let count = inputs.len() / 2;
        let (outs, lses) = inputs.split_at(count);
        if count < 2 {
            return Err(Error::argument(NAME, "number of parts", count.to_string(), "at least 2"));
        }
        check_alike(NAME, &outs.iter().collect::<Vec<_>>())?;
        let &[batch, tokens, heads, dim] = outs[0].shape() else {
            return Err(Error::shapes(
                NAME,
                outs[0].shape(),
                lses[0].shape(),
                "each out must be (B, T, H, D)",
            ));
        };
        let wanted = compute_dtype(NAME, outs[0].dtype())?;
        for (out, lse) in outs.iter().zip(lses) {
            check_device(NAME, out, lse)?;
            if out.shape() != outs[0].shape() {
                return Err(Error::shapes(
                    NAME,
                    outs[0].shape(),
                    out.shape(),
                    "each out must have the same shape",
                ));
            }
            if lse.shape() != [batch, heads, tokens] {
                let rule = "the LSE of an out (B, T, H, D) must be (B, H, T)";
                return Err(Error::shapes(NAME, out.shape(), lse.shape(), rule));
            }
            if lse.dtype() != wanted {
                return Err(Error::dtype(NAME, lse.dtype(), &format!("{wanted} for the LSE")));
            }
        }
        let outs = outs.iter().map(with_contiguous_heads).collect::<Result<_>>()?;
        let lses = lses.iter().map(Tensor::contiguous).collect::<Result<_>>()?;
        Ok(Parts { outs, lses, batch, tokens, heads, dim })
    }

    fn saved(self) -> Vec<Option<Tensor>> {
        self.outs.into_iter().chain(self.lses).map(Some).collect()
    }

    /// The place in an LSE of a row of an `out`.
    fn place(&self, row: usize) -> usize {
        let (token, head) = (row / self.heads, row % self.heads);
        (token / self.tokens * self.heads + head) * self.tokens + token % self.tokens
    }

    /// The weight of each part in each row of an LSE, part after part, and the merged LSE.
    fn weights<T: Real>(&self) -> Result<(Vec<T>, Vec<T>)> {
        let rows = self.batch * self.heads * self.tokens;
        let lses = self.lses.iter().map(|lse| lse.read::<T>(NAME)).collect::<Result<Vec<_>>>()?;
        let mut weights = vec![T::ZERO; rows * lses.len()];
        let mut merged = vec![T::NEG_INFINITY; rows];
        for (row, merged) in merged.iter_mut().enumerate() {
            let largest = lses.iter().fold(T::NEG_INFINITY, |largest, lse| largest.max(lse[row]));
            if largest == T::NEG_INFINITY {
                continue;
            }
            let sum = lses.iter().fold(T::ZERO, |sum, lse| sum + (lse[row] - largest).exp());
            *merged = largest + sum.ln();
            for (i, lse) in lses.iter().enumerate() {
                weights[i * rows + row] = (lse[row] - largest).exp() / sum;
            }
        }
        Ok((weights, merged))
    }

    /// The parts' `out`, contiguous, as the CPU computes with them.
    fn wide(&self) -> Result<Vec<Tensor>> {
        self.outs.iter().map(|out| widened(NAME, out)?.contiguous()).collect()
    }

    /// Calls `work(row, out)` for each row of a new tensor like an `out`.
    fn rows<T: Real>(&self, work: impl Fn(usize, &mut [T]) + Sync) -> Result<Tensor> {
        let mut out = pool::buffer::<T>(self.outs[0].numel());
        let dim = self.dim.max(1);
        for_chunks(&mut out, rows_per_chunk(dim) * dim, |start, out| {
            out.chunks_exact_mut(dim).enumerate().for_each(|(i, out)| work(start / dim + i, out));
        });
        Tensor::from_elements(out, self.outs[0].shape()).to_dtype(self.outs[0].dtype())
    }

    fn cpu(&self) -> Result<[Tensor; 2]> {
        let wide = self.wide()?;
        with_real!(NAME, self.lses[0].dtype(), T => {
            let outs = wide.iter().map(|out| out.read::<T>(NAME)).collect::<Result<Vec<_>>>()?;
            let outs: Vec<&[T]> = outs.iter().map(|out| &out[..]).collect();
            let (weights, lse) = self.weights::<T>()?;
            let merged = self.rows(|row, merged| {
                merged.fill(T::ZERO);
                for (i, out) in outs.iter().enumerate() {
                    let weight = weights[i * lse.len() + self.place(row)];
                    if weight == T::ZERO {
                        continue;
                    }
                    for (merged, x) in merged.iter_mut().zip(&out[row * self.dim..]) {
                        *merged += weight * *x;
                    }
                }
            })?;
            Ok([merged, Tensor::from_elements(lse, self.lses[0].shape())])
        })
    }

    /// The gradients of the `out` of every part, then of the LSE of every part, of those that `needs` says.
    fn cpu_backward(
        &self,
        grad_out: &Tensor,
        grad_lse: Option<&Tensor>,
        needs: impl Fn(usize) -> bool,
    ) -> Result<Vec<Option<Tensor>>> {
        let count = self.outs.len();
        let grad_out = widened(NAME, grad_out)?;
        with_real!(NAME, self.lses[0].dtype(), T => {
            let upstream = grad_out.read::<T>(NAME)?;
            let (weights, lse) = self.weights::<T>()?;
            let weights_of = |i: usize| &weights[i * lse.len()..][..lse.len()];
            let mut grads = vec![None; 2 * count];
            for i in (0..count).filter(|&i| needs(i)) {
                let weights = weights_of(i);
                grads[i] = Some(self.rows(|row, grad| {
                    for (grad, x) in grad.iter_mut().zip(&upstream[row * self.dim..][..self.dim]) {
                        *grad = weights[self.place(row)] * *x;
                    }
                })?);
            }
            if !(0..count).any(|i| needs(count + i)) {
                return Ok(grads);
            }
            let (dots, mean) = self.dots(&upstream, &weights)?;
            let given = grad_lse.map(|grad| grad.read::<T>(NAME)).transpose()?;
            for i in (0..count).filter(|&i| needs(count + i)) {
                let (weights, dots) = (weights_of(i), &dots[i * lse.len()..]);
                let grad = |place: usize| {
                    let given = given.as_ref().map_or(T::ZERO, |given| given[place]);
                    weights[place] * (given + dots[place] - mean[place])
                };
                grads[count + i] =
                    Some(Tensor::from_elements((0..lse.len()).map(grad).collect(), self.lses[0].shape()));
            }
            Ok(grads)
        })
    }

    /// The product of the upstream gradient with each part's `out`, part after part, and their mean in each row of an LSE,
    /// since `sum(grad (out_i - out))` is the distance of one product from it.
    fn dots<T: Real>(&self, upstream: &[T], weights: &[T]) -> Result<(Vec<T>, Vec<T>)> {
        let wide = self.wide()?;
        let rows = weights.len() / self.outs.len();
        let (mut dots, mut mean) = (vec![T::ZERO; weights.len()], vec![T::ZERO; rows]);
        for (i, out) in wide.iter().enumerate() {
            let out = out.read::<T>(NAME)?;
            for row in 0..rows {
                let place = self.place(row);
                let weight = weights[i * rows + place];
                if weight == T::ZERO {
                    continue;
                }
                let products = upstream[row * self.dim..][..self.dim].iter().zip(&out[row * self.dim..]);
                let dot = products.fold(T::ZERO, |sum, (grad, x)| sum + *grad * *x);
                dots[i * rows + place] = dot;
                mean[place] += weight * dot;
            }
        }
        Ok((dots, mean))
    }

    fn key(&self) -> Result<(longhand_kernels::Dtype, usize, usize)> {
        Ok((kernel_dtype(NAME, self.outs[0].dtype())?, self.dim, self.outs.len()))
    }

    fn kernel_parts(&self) -> Result<Vec<kernel::PartialAttention>> {
        self.outs.iter().zip(&self.lses).map(|(out, lse)| kernel_part(out, lse)).collect()
    }

    fn on_gpu(&self, gpu: &Gpu) -> Result<[Tensor; 2]> {
        let plan = gpu.plans().attention_merge.get(self.key()?, |(dtype, dim, parts)| {
            kernel::AttentionMerge::new(dtype, dim, parts).plan(gpu.device())
        })?;
        let out = gpu.empty(self.outs[0].shape(), self.outs[0].dtype())?;
        let lse = gpu.empty(self.lses[0].shape(), Dtype::F32)?;
        let args = kernel::AttentionMergeArgs {
            batch: self.batch,
            tokens: self.tokens,
            heads: self.heads,
            parts: &self.kernel_parts()?,
            merged: kernel_part(&out, &lse)?,
        };
        // SAFETY: the inputs lie in memory as their strides say, the outputs are new, all on this device and freed on
        // this stream.
        unsafe { plan.launch(gpu.stream(), &args)? };
        Ok([out, lse])
    }

    fn on_gpu_backward(
        &self,
        gpu: &Gpu,
        grad_out: &Tensor,
        grad_lse: Option<&Tensor>,
        needs: impl Fn(usize) -> bool,
    ) -> Result<Vec<Option<Tensor>>> {
        let plan = gpu.plans().attention_merge_backward.get(self.key()?, |(dtype, dim, parts)| {
            kernel::AttentionMergeBackward::new(dtype, dim, parts).plan(gpu.device())
        })?;
        let grad_of = |(i, tensor): (usize, &Tensor)| {
            needs(i).then(|| gpu.empty(tensor.shape(), tensor.dtype())).transpose()
        };
        let tensors = self.outs.iter().chain(&self.lses).enumerate();
        let wanted = tensors.map(grad_of).collect::<Result<Vec<_>>>()?;
        let (outs, lses) = wanted.split_at(self.outs.len());
        let grad = |(out, lse): (&Option<Tensor>, &Option<Tensor>)| -> Result<kernel::PartialAttention> {
            let out = out.as_ref().map_or(Ok(kernel::Heads::NONE), kernel_heads)?;
            Ok(kernel::PartialAttention { out, lse: pointer_or_null(NAME, lse.as_ref())? })
        };
        let grads = outs.iter().zip(lses).map(grad).collect::<Result<Vec<_>>>()?;
        let args = kernel::AttentionMergeBackwardArgs {
            batch: self.batch,
            tokens: self.tokens,
            heads: self.heads,
            parts: &self.kernel_parts()?,
            dout: kernel_heads(grad_out)?,
            dlse: pointer_or_null(NAME, grad_lse)?,
            dparts: &grads,
        };
        // SAFETY: as above.
        unsafe { plan.launch(gpu.stream(), &args)? };
        Ok(wanted)
    }
}

fn kernel_part(out: &Tensor, lse: &Tensor) -> Result<kernel::PartialAttention> {
    Ok(kernel::PartialAttention { out: kernel_heads(out)?, lse: lse.pointer(NAME)? })
}

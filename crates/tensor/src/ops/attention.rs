//! Scaled dot-product attention.

use longhand_kernels::attention as kernel;

use super::{check_alike, widened};
use crate::autograd::apply1;
use crate::cpu::attention::{self, Heads, Problem, Sizes, Upstream};
use crate::dtype::with_real;
use crate::gpu::kernel_dtype;
use crate::{Backward, Device, Dtype, Error, Forward, Gpu, Operation, Result, Tensor};

/// How [`attention`] weighs the values.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct AttentionOptions {
    /// Query `t` of T sees keys `s <= t + S - T` only: the last query sees all S keys.
    pub causal: bool,
    /// Factor on the scores; `None` for `1 / sqrt(D)`.
    pub scale: Option<f64>,
}

/// `softmax(scale q k^T) v` for each head (Vaswani et al. 2017, arXiv 1706.03762), in memory that grows with T and S,
/// not with their product.
///
/// `q` is `(B, T, H, D)`, `k` and `v` are `(B, S, Hkv, D)`; the result is `(B, T, H, D)`. H must be a multiple of Hkv:
/// query head `h` reads key-value head `h / (H / Hkv)`. The last dimension should be contiguous (else it is
/// copied); other strides are taken as they are. A query that sees no key gives 0.
///
/// On a GPU the elements are `bf16` or `f16`, and D is 64 or 128.
///
/// # Errors
/// When shapes, element types or devices do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, options: &AttentionOptions) -> Result<Tensor> {
    apply1(Attention(*options), &[q, k, v])
}

struct Attention(AttentionOptions);

const NAME: &str = "attention";

impl Operation for Attention {
    fn name(&self) -> &str {
        NAME
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let inputs = inputs.iter().map(with_contiguous_heads).collect::<Result<Vec<_>>>()?;
        let (q, k, v) = (&inputs[0], &inputs[1], &inputs[2]);
        let sizes = check(q, k, v)?;
        let (out, lse) = match q.device() {
            Device::Cpu => self.cpu(q, k, v, sizes)?,
            Device::Gpu(gpu) => self.on_gpu(gpu, [q, k, v], sizes)?,
        };
        if !needs.contains(&true) {
            return Ok(Forward::new([out]));
        }
        let saved = [q, k, v, &out, &lse].map(|tensor| Some(tensor.clone()));
        Ok(Forward::new([out]).save(saved))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let grad = ctx.grad(0)?.contiguous()?;
        let [q, k, v, out, lse] = [ctx.saved(0)?, ctx.saved(1)?, ctx.saved(2)?, ctx.saved(3)?, ctx.saved(4)?];
        let grads = match q.device() {
            Device::Cpu => self.cpu_backward([q, k, v], out, lse, &grad)?,
            Device::Gpu(gpu) => self.on_gpu_backward(gpu, [q, k, v], out, lse, &grad)?,
        };
        Ok(grads.map(Some).into())
    }
}

impl Attention {
    fn scale(&self, sizes: Sizes) -> f64 {
        self.0.scale.unwrap_or(1.0 / (sizes.dim as f64).sqrt())
    }

    fn problem<'a, T>(
        &self,
        q: Heads<'a, T>,
        k: Heads<'a, T>,
        v: Heads<'a, T>,
        sizes: Sizes,
    ) -> Problem<'a, T> {
        Problem { q, k, v, sizes, causal: self.0.causal, scale: self.scale(sizes) }
    }

    fn cpu(&self, q: &Tensor, k: &Tensor, v: &Tensor, sizes: Sizes) -> Result<(Tensor, Tensor)> {
        let dtype = q.dtype();
        let (q, k, v) = (widened(NAME, q)?, widened(NAME, k)?, widened(NAME, v)?);
        with_real!(NAME, q.dtype(), T => {
            let data = (q.read::<T>(NAME)?, k.read::<T>(NAME)?, v.read::<T>(NAME)?);
            let problem = self.problem(heads(&data.0, &q), heads(&data.1, &k), heads(&data.2, &v), sizes);
            let (out, lse) = attention::forward(&problem);
            let out = Tensor::from_elements(out, q.shape()).to_dtype(dtype)?;
            Ok((out, Tensor::from_elements(lse, &[sizes.batch, sizes.heads, sizes.queries])))
        })
    }

    fn cpu_backward(
        &self,
        [q, k, v]: [&Tensor; 3],
        out: &Tensor,
        lse: &Tensor,
        grad: &Tensor,
    ) -> Result<[Tensor; 3]> {
        let dtype = q.dtype();
        let sizes = check(q, k, v)?;
        let (q, k, v) = (widened(NAME, q)?, widened(NAME, k)?, widened(NAME, v)?);
        let (out, grad) = (widened(NAME, out)?, widened(NAME, grad)?);
        with_real!(NAME, q.dtype(), T => {
            let data = (q.read::<T>(NAME)?, k.read::<T>(NAME)?, v.read::<T>(NAME)?);
            let (lse, out, grad) = (lse.read::<T>(NAME)?, out.read::<T>(NAME)?, grad.read::<T>(NAME)?);
            let problem = self.problem(heads(&data.0, &q), heads(&data.1, &k), heads(&data.2, &v), sizes);
            let grads = attention::backward(&problem, &Upstream { out: &out, lse: &lse, grad: &grad });
            Ok([
                Tensor::from_elements(grads.q, q.shape()).to_dtype(dtype)?,
                Tensor::from_elements(grads.k, k.shape()).to_dtype(dtype)?,
                Tensor::from_elements(grads.v, v.shape()).to_dtype(dtype)?,
            ])
        })
    }

    /// As kernels take it.
    fn described(&self, q: &Tensor, sizes: Sizes) -> Result<kernel::Attention> {
        Ok(kernel::Attention::new(kernel_dtype(NAME, q.dtype())?, sizes.dim).causal(self.0.causal))
    }

    fn on_gpu(&self, gpu: &Gpu, [q, k, v]: [&Tensor; 3], sizes: Sizes) -> Result<(Tensor, Tensor)> {
        let described = self.described(q, sizes)?;
        let plan = gpu.plans().attention.get(described, |described| described.forward(gpu.device()))?;
        let out = gpu.empty(q.shape(), q.dtype())?;
        let lse = gpu.empty(&[sizes.batch, sizes.heads, sizes.queries], Dtype::F32)?;
        let args = kernel::AttentionForwardArgs {
            shape: kernel_shape(sizes),
            scale: self.scale(sizes) as f32,
            q: kernel_heads(q)?,
            k: kernel_heads(k)?,
            v: kernel_heads(v)?,
            out: kernel_heads(&out)?,
            lse: lse.pointer(NAME)?,
            operands: kernel::Operands::default(),
        };
        // SAFETY: the inputs lie in memory as their strides say, the outputs are new, all on this device and freed on
        // this stream.
        unsafe { plan.launch(gpu.stream(), &args)? };
        Ok((out, lse))
    }

    fn on_gpu_backward(
        &self,
        gpu: &Gpu,
        [q, k, v]: [&Tensor; 3],
        out: &Tensor,
        lse: &Tensor,
        grad: &Tensor,
    ) -> Result<[Tensor; 3]> {
        let sizes = check(q, k, v)?;
        let described = self.described(q, sizes)?;
        let plan =
            gpu.plans().attention_backward.get(described, |described| described.backward(gpu.device()))?;
        let like = |tensor: &Tensor| gpu.empty(tensor.shape(), tensor.dtype());
        let grads = [like(q)?, like(k)?, like(v)?];
        let shape = kernel_shape(sizes);
        let workspace = gpu.workspace(plan.workspace_bytes(&shape))?;
        let args = kernel::AttentionBackwardArgs {
            shape,
            scale: self.scale(sizes) as f32,
            q: kernel_heads(q)?,
            k: kernel_heads(k)?,
            v: kernel_heads(v)?,
            out: kernel_heads(out)?,
            grad_out: kernel_heads(grad)?,
            lse: lse.pointer(NAME)?,
            workspace: workspace.ptr(),
            grad_q: kernel_heads(&grads[0])?,
            grad_k: kernel_heads(&grads[1])?,
            grad_v: kernel_heads(&grads[2])?,
            operands: kernel::Operands::default(),
        };
        // SAFETY: the inputs lie in memory as their strides say, outputs and workspace are new, all on this device and
        // freed on this stream.
        unsafe { plan.launch(gpu.stream(), &args)? };
        Ok(grads)
    }
}

/// The tensor, copied where its last dimension is not contiguous.
pub(super) fn with_contiguous_heads(tensor: &Tensor) -> Result<Tensor> {
    match (tensor.shape().last(), tensor.strides().last()) {
        (Some(&size), Some(&stride)) if size > 1 && stride != 1 => tensor.contiguous(),
        _ => Ok(tensor.clone()),
    }
}

fn heads<'a, T>(data: &'a [T], tensor: &Tensor) -> Heads<'a, T> {
    let strides = tensor.strides();
    Heads { data, strides: [strides[0], strides[1], strides[2]] }
}

fn check(q: &Tensor, k: &Tensor, v: &Tensor) -> Result<Sizes> {
    check_alike(NAME, &[q, k, v])?;
    if k.shape() != v.shape() {
        return Err(Error::shapes(
            NAME,
            k.shape(),
            v.shape(),
            "k and v must have the same shape (B, S, Hkv, D)",
        ));
    }
    let (&[batch, queries, heads, dim], &[batch_k, keys, kv_heads, dim_k]) = (q.shape(), k.shape()) else {
        return Err(Error::shapes(
            NAME,
            q.shape(),
            k.shape(),
            "q must be (B, T, H, D), and k (B, S, Hkv, D)",
        ));
    };
    if batch != batch_k || dim != dim_k {
        return Err(Error::shapes(NAME, q.shape(), k.shape(), "q and k must agree in B and D"));
    }
    if dim == 0 || kv_heads == 0 || heads % kv_heads != 0 {
        let rule = "D must be positive, and the heads of q a multiple of those of k";
        return Err(Error::shapes(NAME, q.shape(), k.shape(), rule));
    }
    Ok(Sizes { batch, queries, keys, heads, kv_heads, dim })
}

fn kernel_shape(sizes: Sizes) -> kernel::AttentionShape {
    let Sizes { batch, queries, keys, heads, kv_heads, .. } = sizes;
    kernel::AttentionShape { batch, queries, keys, heads, kv_heads }
}

/// A tensor `(B, T, H, D)` as kernels take it.
pub(super) fn kernel_heads(tensor: &Tensor) -> Result<kernel::Heads> {
    let stride = |dim: usize| tensor.strides()[dim] as i64;
    let strides = kernel::Strides { batch: stride(0), token: stride(1), head: stride(2) };
    Ok(kernel::Heads { data: tensor.pointer(NAME)?, strides })
}

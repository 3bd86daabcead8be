//! Scaled dot-product attention.

mod blocks;
mod cpu;
mod decode;
mod gpu;
mod options;

pub use blocks::BlockMask;
pub use decode::attention_decode;
pub(crate) use gpu::{heads_or_none, kernel_heads};
pub use options::{AttentionOptions, Documents, Named, Score, ScoreMask};

use longhand_kernels::random::Dropout;

use super::{check_alike, check_device};
use crate::autograd::apply;
use crate::cpu::attention::{Sizes, Wanted};
use crate::tensor::check_new;
use crate::{Backward, Device, Dtype, Error, Forward, Operation, Result, Tensor};

/// `softmax(scale q k^T) v` for each head (Vaswani et al. 2017, arXiv 1706.03762), in memory that grows with T and S,
/// not with their product.
///
/// `q` is `(B, T, H, D)`, `k` is `(B, S, Hkv, D)` and `v` `(B, S, Hkv, Dv)`; the result is `(B, T, H, Dv)`. H must be a
/// multiple of Hkv: query head `h` reads key-value head `h / (H / Hkv)`. The last dimension should be contiguous (else it
/// is copied); other strides are taken as they are. A query that sees no key gives 0.
///
/// On a GPU D and Dv are multiples of 8 from 8 to 256 (kernels are tuned for 64, 128 and 256 in `bf16` and `f16`), a bias
/// is rounded to the element type of `q`, and the user's own mask and score are CUDA expressions.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// use longhand_tensor::{Device, Dtype, Tensor, ops};
///
/// let x = Tensor::full(&[1, 3, 2, 8], 1.0, Dtype::F32, &Device::Cpu)?;
/// let options = ops::AttentionOptions { causal: true, window_left: Some(1), ..Default::default() };
/// let out = ops::attention(&x, &x, &x, &options)?;
/// assert!(out.to_vec::<f32>()?.iter().all(|value| (value - 1.0).abs() < 1e-6)); // a mean of ones
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When shapes, element types, devices or options do not fit.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, options: &AttentionOptions) -> Result<Tensor> {
    Ok(attention_with_lse(q, k, v, options)?.0)
}

/// [`attention`], and the natural logarithm of the sum of `exp(score)` over the keys that a query sees, and its head's
/// sink: `(B, H, T)`, in f32 (f64 for f64), minus infinity where there is none. Both are differentiable. This is what
/// [merging](super::attention_merge) results over disjoint keys takes.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::{Device, Dtype, Tensor, ops};
/// let x = Tensor::zeros(&[1, 4, 1, 8], Dtype::F32, &Device::Cpu)?;
/// let (_, lse) = ops::attention_with_lse(&x, &x, &x, &ops::AttentionOptions::default())?;
/// assert!((lse.slice((0, 0, 0))?.item()? - 4f64.ln()).abs() < 1e-6); // four scores of 0
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`attention`].
pub fn attention_with_lse(
    q: &Tensor,
    k: &Tensor,
    v: &Tensor,
    options: &AttentionOptions,
) -> Result<(Tensor, Tensor)> {
    let mut options = options.clone();
    if let Some(prefix) = &mut options.prefix {
        *prefix = prefix.detach().contiguous()?;
    }
    let optional = [options.bias.as_ref(), options.sinks.as_ref()];
    let inputs: Vec<&Tensor> = [q, k, v].into_iter().chain(optional.into_iter().flatten()).collect();
    let mut outputs = apply(Attention(options.clone()), &inputs)?;
    let lse = outputs.swap_remove(1);
    Ok((outputs.swap_remove(0), lse))
}

/// The inputs are q, k, v, and those of bias and sinks that the options have.
struct Attention(AttentionOptions);

const NAME: &str = "attention";

/// What forward gets.
#[derive(Clone, Copy)]
struct Inputs<'a> {
    q: &'a Tensor,
    k: &'a Tensor,
    v: &'a Tensor,
    bias: Option<&'a Tensor>,
    sinks: Option<&'a Tensor>,
}

/// What backward gets.
struct Saved<'a> {
    inputs: Inputs<'a>,
    out: &'a Tensor,
    lse: &'a Tensor,
    grad: Tensor,
    grad_lse: Option<Tensor>,
}

impl Operation for Attention {
    fn name(&self) -> &str {
        NAME
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let mut inputs = inputs.to_vec();
        for heads in &mut inputs[..3] {
            *heads = with_contiguous_heads(heads)?;
        }
        let named = self.named(|i| &inputs[i]);
        let sizes = self.check(&named)?;
        let [out, lse] = match named.q.device() {
            Device::Cpu => self.cpu(&named, sizes)?,
            Device::Gpu(gpu) => self.on_gpu(gpu, &named, sizes)?,
        };
        let forward = Forward::new([out.clone(), lse.clone()]);
        if !needs.contains(&true) {
            return Ok(forward);
        }
        inputs.extend([out, lse]);
        Ok(forward.save(inputs.into_iter().map(Some).collect::<Vec<_>>()))
    }

    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let all = (0..ctx.inputs() + 2).map(|i| ctx.saved(i)).collect::<Result<Vec<_>>>()?;
        let saved = Saved {
            inputs: self.named(|i| all[i]),
            out: all[ctx.inputs()],
            lse: all[ctx.inputs() + 1],
            grad: ctx.grad(0)?.contiguous()?,
            grad_lse: ctx.grad_if_any(1).map(Tensor::contiguous).transpose()?,
        };
        let sizes = self.check(&saved.inputs)?;
        let wanted = Wanted {
            q: ctx.needs(0),
            k: ctx.needs(1),
            v: ctx.needs(2),
            bias: saved.inputs.bias.is_some() && ctx.needs(3),
            sinks: saved.inputs.sinks.is_some() && ctx.needs(ctx.inputs() - 1),
        };
        match saved.out.device() {
            Device::Cpu => self.cpu_backward(&saved, sizes, wanted),
            Device::Gpu(gpu) => self.on_gpu_backward(gpu, &saved, sizes, wanted),
        }
    }
}

impl Attention {
    fn named<'a>(&self, input: impl Fn(usize) -> &'a Tensor) -> Inputs<'a> {
        let bias = self.0.bias.is_some();
        let sinks = 3 + usize::from(bias);
        Inputs {
            q: input(0),
            k: input(1),
            v: input(2),
            bias: bias.then(|| input(3)),
            sinks: self.0.sinks.is_some().then(|| input(sinks)),
        }
    }

    fn scale(&self, sizes: Sizes) -> f64 {
        self.0.scale.unwrap_or(1.0 / (sizes.dim as f64).sqrt())
    }

    fn check(&self, inputs: &Inputs) -> Result<Sizes> {
        let sizes = sizes(inputs)?;
        let Sizes { batch, queries, heads, value_dim, .. } = sizes;
        check_new(NAME, &[batch, queries, heads, value_dim], inputs.q.dtype(), inputs.q.device())?;
        self.check_options(inputs, sizes)?;
        Ok(sizes)
    }

    fn check_options(&self, inputs: &Inputs, sizes: Sizes) -> Result<()> {
        let Sizes { batch, queries, keys, heads, .. } = sizes;
        let options = &self.0;
        for (name, tensor) in [("alibi", options.alibi.as_ref()), ("sinks", inputs.sinks)] {
            let Some(tensor) = tensor else { continue };
            check_device(NAME, inputs.q, tensor)?;
            check_floating(tensor)?;
            if tensor.shape() != [heads] {
                let expected = format!("of shape [{heads}], one for each head of q");
                return Err(Error::argument(NAME, name, format!("of shape {:?}", tensor.shape()), expected));
            }
        }
        if let Some(bias) = inputs.bias {
            check_device(NAME, inputs.q, bias)?;
            check_floating(bias)?;
            self.broadcast_bias(bias, sizes)?;
        }
        if let Some(documents) = &options.documents {
            documents.check(batch, queries, keys)?;
        }
        let sequences = options.documents.as_ref().map_or(batch, Documents::count);
        self.check_prefix(inputs, sequences)?;
        if let Some(blocks) = &options.blocks {
            let [longest_queries, longest_keys] =
                options.documents.as_ref().map_or([queries, keys], Documents::longest);
            blocks.check(options, inputs.q.device(), [sequences, heads, longest_queries, longest_keys])?;
        }
        if let Some(cap) = options.softcap.filter(|cap| !(*cap > 0.0 && cap.is_finite())) {
            return Err(Error::argument(NAME, "softcap", cap.to_string(), "positive and finite"));
        }
        if let Some(scale) = options.scale.filter(|scale| !(*scale > 0.0 && scale.is_finite())) {
            return Err(Error::argument(NAME, "scale", scale.to_string(), "positive and finite"));
        }
        if let Some(Dropout { probability, .. }) = options.dropout
            && !(0.0..1.0).contains(&probability)
        {
            let expected = "0 to less than 1";
            return Err(Error::argument(NAME, "dropout probability", probability.to_string(), expected));
        }
        Ok(())
    }

    /// Sizes of the bias in each of its dimensions, `(B, H, T, S)`, and the strides, 0 where it has one for all. Of
    /// documents, those are their number, H, and T and S of the longest.
    fn broadcast_bias(&self, bias: &Tensor, sizes: Sizes) -> Result<([usize; 4], [usize; 4])> {
        let Sizes { batch, queries, keys, heads, .. } = sizes;
        let (shape, rule) = match &self.0.documents {
            None => ([batch, heads, queries, keys], "the bias must broadcast to (B, H, T, S)"),
            Some(documents) => {
                let [queries, keys] = documents.longest();
                let rule = "the bias must broadcast to (documents, H, T of the longest, S of the longest)";
                ([documents.count(), heads, queries, keys], rule)
            }
        };
        let layout = bias.layout().broadcast_to(&shape);
        let layout = layout.ok_or_else(|| Error::shapes(NAME, bias.shape(), &shape, rule))?;
        let mut own = [1; 4];
        own[4 - bias.shape().len()..].copy_from_slice(bias.shape());
        Ok((own, [0, 1, 2, 3].map(|dim| if own[dim] == 1 { 0 } else { layout.strides[dim] })))
    }

    fn check_prefix(&self, inputs: &Inputs, sequences: usize) -> Result<()> {
        let Some(prefix) = &self.0.prefix else { return Ok(()) };
        check_device(NAME, inputs.q, prefix)?;
        if prefix.dtype() != Dtype::U32 {
            return Err(Error::dtype(NAME, prefix.dtype(), "u32 for the prefix"));
        }
        if prefix.shape() != [sequences] {
            let expected = format!("of shape [{sequences}], one for each batch or document");
            return Err(Error::argument(NAME, "prefix", format!("of shape {:?}", prefix.shape()), expected));
        }
        if !self.0.causal && self.0.window_right.is_none() {
            let expected = "given with `causal` or `window_right`: without, every key is seen anyway";
            return Err(Error::argument(NAME, "prefix", "given with neither", expected));
        }
        Ok(())
    }
}

fn check_floating(tensor: &Tensor) -> Result<()> {
    if tensor.dtype() == Dtype::U32 {
        return Err(Error::dtype(NAME, tensor.dtype(), "a floating-point type"));
    }
    Ok(())
}

/// The tensor, copied where its last dimension is not contiguous.
pub(crate) fn with_contiguous_heads(tensor: &Tensor) -> Result<Tensor> {
    match (tensor.shape().last(), tensor.strides().last()) {
        (Some(&size), Some(&stride)) if size > 1 && stride != 1 => tensor.contiguous(),
        _ => Ok(tensor.clone()),
    }
}

/// Of batch, token and head.
fn as_heads(strides: &[usize]) -> [usize; 3] {
    [strides[0], strides[1], strides[2]]
}

fn sizes(inputs: &Inputs) -> Result<Sizes> {
    let Inputs { q, k, v, .. } = *inputs;
    check_alike(NAME, &[q, k, v])?;
    let (&[batch, queries, heads, dim], &[batch_k, keys, kv_heads, dim_k]) = (q.shape(), k.shape()) else {
        let rule = "q must be (B, T, H, D), and k (B, S, Hkv, D)";
        return Err(Error::shapes(NAME, q.shape(), k.shape(), rule));
    };
    let value_dim = match *v.shape() {
        [batch_v, keys_v, heads_v, value_dim] if (batch_v, keys_v, heads_v) == (batch_k, keys, kv_heads) => {
            value_dim
        }
        _ => {
            let rule = "k must be (B, S, Hkv, D), and v (B, S, Hkv, Dv)";
            return Err(Error::shapes(NAME, k.shape(), v.shape(), rule));
        }
    };
    if batch != batch_k || dim != dim_k {
        return Err(Error::shapes(NAME, q.shape(), k.shape(), "q and k must agree in B and D"));
    }
    if dim == 0 || value_dim == 0 || kv_heads == 0 || heads % kv_heads != 0 {
        let rule = "D must be positive, and the heads of q a multiple of those of k";
        return Err(Error::shapes(NAME, q.shape(), k.shape(), rule));
    }
    Ok(Sizes { batch, queries, keys, heads, kv_heads, dim, value_dim })
}

//! Attention of a few new tokens over a cache.

use longhand_kernels::attention::{self as kernel, MAX_NEW_TOKENS};

use super::cpu::{by_head, heads};
use super::gpu::kernel_heads;
use super::{Attention, AttentionOptions, Inputs, attention_with_lse, with_contiguous_heads};
use crate::autograd::apply;
use crate::cpu;
use crate::cpu::attention::{Cache, Sizes};
use crate::dtype::with_stored;
use crate::{Device, Dtype, Error, Forward, Gpu, KvCache, Operation, Result, Tensor};

const NAME: &str = "attention_decode";

/// [`attention`](super::attention) of the last T tokens of each sequence over all that the cache has of it, those tokens
/// included: append first, then attend.
///
/// `q` is `(B, T, H, D)`; the result is `(B, T, H, Dv)`. Queries of H / Hkv heads share a key head. S is the length of each
/// sequence by itself. The options are those of `attention`, without prefix, documents, blocks, bias and dropout. There is no
/// gradient.
///
/// It is made for few tokens: up to 16 of them read keys and values once. More are attended to as by `attention`, if the
/// cache is in one piece and all sequences are of one length. On a GPU, elements are `bf16` or `f16` where it is not, or
/// holds 8-bit elements.
///
/// See [`KvCache`] for an example.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// use longhand_tensor::{Device, Dtype, KvCache, Tensor, ops};
///
/// let heads = |tokens, heads| Tensor::ones(&[1, tokens, heads, 64], Dtype::F32, &Device::Cpu);
/// let mut cache = KvCache::new(1);
/// cache.append(&heads(100, 2)?, &heads(100, 2)?, None)?;
/// let options = ops::AttentionOptions { causal: true, ..Default::default() };
/// let out = ops::attention_decode(&heads(3, 8)?, &cache, &options)?; // of the last three tokens
/// assert_eq!(out.shape(), [1, 3, 8, 64]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When shapes, element types, devices or options do not fit; when a gradient is wanted.
pub fn attention_decode(q: &Tensor, cache: &KvCache, options: &AttentionOptions) -> Result<Tensor> {
    if q.needs_gradient() {
        return Err(Error::NoRule { operation: NAME.into() });
    }
    let mut outputs = apply(Decode { cache: cache.clone(), options: options.clone() }, &[q])?;
    Ok(outputs.swap_remove(0))
}

struct Decode {
    cache: KvCache,
    options: AttentionOptions,
}

impl Operation for Decode {
    fn name(&self) -> &str {
        NAME
    }

    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let q = with_contiguous_heads(&inputs[0])?;
        let sizes = self.check(&q)?;
        let whole = self.cache.in_one_piece()?;
        let out = match (q.device(), whole) {
            (_, Some([k, v])) if sizes.queries > MAX_NEW_TOKENS => {
                attention_with_lse(&q, &k, &v, &self.options)?.0
            }
            (Device::Gpu(_), Some([k, v])) if q.dtype() == Dtype::F32 => {
                attention_with_lse(&q, &k, &v, &self.options)?.0
            }
            (Device::Cpu, _) => self.cpu(&q, sizes)?,
            (Device::Gpu(gpu), _) => self.in_steps(gpu, &q, sizes)?,
        };
        Ok(Forward::new([out]))
    }
}

impl Decode {
    fn check(&self, q: &Tensor) -> Result<Sizes> {
        let options = &self.options;
        for (name, given) in [
            ("prefix", options.prefix.is_some()),
            ("documents", options.documents.is_some()),
            ("blocks", options.blocks.is_some()),
            ("bias", options.bias.is_some()),
            ("dropout", options.dropout.is_some()),
        ] {
            if given {
                return Err(Error::argument(NAME, name, "given", "none over a cache"));
            }
        }
        let &[batch, queries, heads, dim] = q.shape() else {
            return Err(Error::argument(NAME, "q", format!("of shape {:?}", q.shape()), "(B, T, H, D)"));
        };
        let sequences = self.cache.lengths().len();
        if batch != sequences {
            let expected = format!("{sequences}, the sequences of the cache");
            return Err(Error::argument(NAME, "B", batch.to_string(), expected));
        }
        let Some([kv_heads, key_dim, value_dim]) = self.cache.check_queries(NAME, q)? else {
            return Err(crate::kv_cache::empty(NAME));
        };
        if dim != key_dim || !heads.is_multiple_of(kv_heads) {
            let found = format!("of {heads} heads of {dim} elements");
            let expected =
                format!("of a multiple of {kv_heads} heads, of {key_dim} elements, as the cache's keys");
            return Err(Error::argument(NAME, "q", found, expected));
        }
        let keys = self.cache.lengths().iter().copied().max().unwrap_or(0);
        let sizes = Sizes { batch, queries, keys, heads, kv_heads, dim, value_dim };
        self.attention().check_options(&self.inputs(q), sizes)?;
        Ok(sizes)
    }

    fn attention(&self) -> Attention {
        Attention(self.options.clone())
    }

    /// What attention asks for beside keys and values.
    fn inputs<'a>(&'a self, q: &'a Tensor) -> Inputs<'a> {
        Inputs { q, k: q, v: q, bias: None, sinks: self.options.sinks.as_ref() }
    }

    fn cpu(&self, q: &Tensor, sizes: Sizes) -> Result<Tensor> {
        let options = &self.options;
        let attention = self.attention();
        let mask = attention.cpu_mask()?;
        with_stored!(NAME, q.dtype(), E => {
            let data = q.read::<E>(NAME)?;
            let (sinks, slopes) = (by_head(options.sinks.as_ref())?, by_head(options.alibi.as_ref())?);
            let decode = cpu::attention::Decode {
                q: heads(&data, q),
                sizes,
                scale: attention.scale(sizes),
                mask: &mask,
                hides: options.mask.as_ref().map(|mask| &*mask.cpu),
                scores: attention.cpu_scores(slopes.as_deref()),
                sinks: sinks.as_deref(),
            };
            let run = |sequence, head, token| self.cache.run(sequence, head, token);
            let out = self.cache.with_rows(|[keys, values]| {
                let cache = Cache { keys, values, lengths: self.cache.lengths(), run: &run };
                cpu::attention::decode(&decode, &cache).0
            })?;
            let Sizes { batch, queries, heads, value_dim, .. } = sizes;
            Tensor::from_elements(out, &[batch, queries, heads, value_dim]).to_dtype(q.dtype())
        })
    }

    /// Sixteen tokens at a time.
    fn in_steps(&self, gpu: &Gpu, q: &Tensor, sizes: Sizes) -> Result<Tensor> {
        let tokens = sizes.queries;
        if tokens <= MAX_NEW_TOKENS {
            return self.on_gpu(gpu, q, sizes, self.cache.lengths());
        }
        let options = &self.options;
        if !options.causal || options.mask.is_some() || options.score.is_some() {
            let expected =
                format!("at most {MAX_NEW_TOKENS}, without `causal` or with a mask or score of your own");
            return Err(Error::argument(NAME, "T", tokens.to_string(), expected));
        }
        let mut parts = Vec::new();
        for start in (0..tokens).step_by(MAX_NEW_TOKENS) {
            let end = tokens.min(start + MAX_NEW_TOKENS);
            let lengths: Vec<usize> =
                self.cache.lengths().iter().map(|length| (length + end).saturating_sub(tokens)).collect();
            let q = q.narrow(1, start, end - start)?;
            parts.push(self.on_gpu(gpu, &q, Sizes { queries: end - start, ..sizes }, &lengths)?);
        }
        Tensor::cat(&parts.iter().collect::<Vec<_>>(), 1)
    }

    /// Over the first tokens of each sequence, as many as `lengths` says.
    fn on_gpu(&self, gpu: &Gpu, q: &Tensor, sizes: Sizes, lengths: &[usize]) -> Result<Tensor> {
        let attention = self.attention();
        let described = kernel::AttentionDecode::new(attention.described(q, sizes)?);
        let described = self.cache.describe(described);
        let held = attention.held(&self.inputs(q))?;
        let named = held.values()?;
        let plan = gpu.plans().attention_decode.get(described, |described| described.plan(gpu.device()))?;
        let Sizes { batch, queries, heads, kv_heads, value_dim, .. } = sizes;
        let on_device = self.cache.on_device(gpu, lengths)?;
        let keys = lengths.iter().copied().max().unwrap_or(0);
        let shape = kernel::AttentionShape { batch, queries, keys, heads, kv_heads };
        let out = gpu.empty(&[batch, queries, heads, value_dim], q.dtype())?;
        let lse = gpu.empty(&[batch, heads, queries], Dtype::F32)?;
        let workspace = gpu.workspace(plan.workspace_bytes(&shape))?;
        let args = kernel::AttentionDecodeArgs {
            shape,
            scale: attention.scale(sizes) as f32,
            q: kernel_heads(q)?,
            cache: on_device.cache,
            lengths: on_device.lengths(),
            out: kernel_heads(&out)?,
            lse: lse.pointer(NAME)?,
            workspace: workspace.ptr(),
            operands: attention.operands(q, &held, &named)?,
        };
        // SAFETY: the queries and the cache lie in memory as their strides say, outputs and workspace are new, all on this
        // device and freed on this stream.
        unsafe { plan.launch(gpu.stream(), &args)? };
        Ok(out)
    }
}

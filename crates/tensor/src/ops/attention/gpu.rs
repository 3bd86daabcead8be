//! On a GPU.

use longhand_kernels::attention as kernel;

use super::options::Expression;
use super::{Attention, BlockMask, Documents, Inputs, NAME, Named, Saved, as_heads};
use crate::cpu::attention::{Sizes, Wanted};
use crate::gpu::{kernel_dtype, pointer_or_null};
use crate::ops::check_device;
use crate::{Dtype, Error, Gpu, Result, Tensor};

/// Tensors beside q, k and v, as kernels take them, and what their expressions call by name.
pub(super) struct Held {
    slopes: Option<Tensor>,
    sinks: Option<Tensor>,
    bias: Option<Tensor>,
    named: Vec<(String, Named)>,
}

impl Held {
    /// Names and values, as kernels take them.
    pub(super) fn values(&self) -> Result<Vec<(&str, kernel::Named)>> {
        let values = self.named.iter().map(|(name, value)| {
            let value = match value {
                Named::Tensor(tensor) if tensor.dtype() == Dtype::U32 => {
                    kernel::Named::Integers(tensor.pointer(NAME)?)
                }
                Named::Tensor(tensor) => kernel::Named::Tensor(tensor.pointer(NAME)?),
                Named::Float(value) => kernel::Named::Float(*value),
                Named::Integer(value) => kernel::Named::Integer(*value),
            };
            Ok((name.as_str(), value))
        });
        values.collect()
    }
}

fn named_type(value: &Named) -> Result<kernel::NamedType> {
    Ok(match value {
        Named::Tensor(tensor) if tensor.dtype() == Dtype::U32 => kernel::NamedType::Integers,
        Named::Tensor(tensor) => kernel::NamedType::Tensor(kernel_dtype(NAME, tensor.dtype())?),
        Named::Float(_) => kernel::NamedType::Float,
        Named::Integer(_) => kernel::NamedType::Integer,
    })
}

impl Attention {
    /// What there is no kernel for.
    fn refuse(&self) -> Result<()> {
        let options = &self.0;
        let without = [
            ("mask", options.mask.as_ref().is_some_and(|mask| mask.cuda.is_none())),
            ("score", options.score.as_ref().is_some_and(|score| score.cuda.is_none())),
        ];
        if let Some((option, _)) = without.iter().find(|(_, without)| *without) {
            let expected = "one with a CUDA expression too, on a GPU: `cuda` adds it";
            return Err(Error::argument(NAME, option, "a function alone", expected));
        }
        Ok(())
    }

    /// The user's expressions, of the mask and of the score.
    fn expressions(&self) -> [Option<&Expression>; 2] {
        let options = &self.0;
        [
            options.mask.as_ref().and_then(|mask| mask.cuda.as_ref()),
            options.score.as_ref().and_then(|score| score.cuda.as_ref()),
        ]
    }

    pub(super) fn held(&self, inputs: &Inputs) -> Result<Held> {
        let by_head = |tensor: Option<&Tensor>| {
            tensor.map(|tensor| tensor.detach().to_dtype(Dtype::F32)?.contiguous()).transpose()
        };
        let mut named = Vec::new();
        for (name, value) in self.expressions().into_iter().flatten().flat_map(|expression| &expression.named)
        {
            let value = match value {
                Named::Tensor(tensor) => {
                    check_device(NAME, inputs.q, tensor)?;
                    Named::Tensor(tensor.detach().contiguous()?)
                }
                other => other.clone(),
            };
            named.push((name.clone(), value));
        }
        Ok(Held {
            slopes: by_head(self.0.alibi.as_ref())?,
            sinks: by_head(inputs.sinks)?,
            bias: inputs.bias.map(|bias| bias.to_dtype(inputs.q.dtype())).transpose()?,
            named,
        })
    }

    /// As kernels take it.
    pub(super) fn described(&self, q: &Tensor, sizes: Sizes) -> Result<kernel::Attention> {
        self.refuse()?;
        let options = &self.0;
        let mut described = kernel::Attention::new(kernel_dtype(NAME, q.dtype())?, sizes.dim)
            .value_dim(sizes.value_dim)
            .causal(options.causal)
            .window(options.window_left, options.window_right)
            .prefix(options.prefix.is_some())
            .documents(options.documents.is_some())
            .blocks(options.blocks.as_ref().map(BlockMask::described))
            .softcap(options.softcap.map(|cap| cap as f32))
            .alibi(options.alibi.is_some())
            .bias(options.bias.is_some())
            .sinks(options.sinks.is_some())
            .dropout(options.dropout.map(|dropout| dropout.probability as f32));
        let [mask, score] = self.expressions();
        if let Some(mask) = mask {
            described = described.mask(&mask.text);
        }
        if let Some(score) = score {
            described = described.score(&score.text);
        }
        for (name, value) in [mask, score].into_iter().flatten().flat_map(|expression| &expression.named) {
            described = described.named(name, named_type(value)?);
        }
        Ok(described)
    }

    pub(super) fn kernel_shape(&self, sizes: Sizes) -> kernel::AttentionShape {
        let Sizes { batch, queries, keys, heads, kv_heads, .. } = sizes;
        let batch = self.0.documents.as_ref().map_or(batch, Documents::count);
        kernel::AttentionShape { batch, queries, keys, heads, kv_heads }
    }

    pub(super) fn operands<'a>(
        &self,
        q: &Tensor,
        held: &Held,
        named: &'a [(&'a str, kernel::Named)],
    ) -> Result<kernel::Operands<'a>> {
        let mut operands = kernel::Operands {
            slopes: pointer_or_null(NAME, held.slopes.as_ref())?,
            sinks: pointer_or_null(NAME, held.sinks.as_ref())?,
            random: self.0.dropout.map(|dropout| dropout.random).unwrap_or_default(),
            named,
            ..Default::default()
        };
        if let Some(prefix) = &self.0.prefix {
            operands.prefix = prefix.pointer(NAME)?;
        }
        if let Some(lists) = self.0.blocks.as_ref().and_then(BlockMask::lists) {
            operands.blocks = lists.pointer(NAME)?;
        }
        if let Some(documents) = &self.0.documents {
            let [queries, keys] = &documents.on_device;
            check_device(NAME, q, queries)?;
            let [longest_queries, longest_keys] = documents.longest();
            operands.documents = kernel::Documents {
                queries: queries.pointer(NAME)?,
                keys: keys.pointer(NAME)?,
                longest_queries,
                longest_keys,
            };
        }
        Ok(operands)
    }

    /// Null where there is none.
    fn kernel_bias(&self, bias: Option<&Tensor>, sizes: Sizes) -> Result<kernel::Bias> {
        let Some(bias) = bias else { return Ok(kernel::Bias::default()) };
        let (_, strides) = self.broadcast_bias(bias, sizes)?;
        Ok(kernel::Bias { data: bias.pointer(NAME)?, strides: strides.map(|stride| stride as i64) })
    }

    pub(super) fn on_gpu(&self, gpu: &Gpu, inputs: &Inputs, sizes: Sizes) -> Result<[Tensor; 2]> {
        let Inputs { q, k, v, .. } = *inputs;
        let described = self.described(q, sizes)?;
        let held = self.held(inputs)?;
        let named = held.values()?;
        let bias = self.kernel_bias(held.bias.as_ref(), sizes)?;
        let plan = gpu.plans().attention.get(described, |described| described.forward(gpu.device()))?;
        let out = gpu.empty(&[sizes.batch, sizes.queries, sizes.heads, sizes.value_dim], q.dtype())?;
        let lse = gpu.empty(&[sizes.batch, sizes.heads, sizes.queries], Dtype::F32)?;
        let args = kernel::AttentionForwardArgs {
            shape: self.kernel_shape(sizes),
            scale: self.scale(sizes) as f32,
            q: kernel_heads(q)?,
            k: kernel_heads(k)?,
            v: kernel_heads(v)?,
            out: kernel_heads(&out)?,
            lse: lse.pointer(NAME)?,
            operands: kernel::Operands { bias, ..self.operands(q, &held, &named)? },
        };
        // SAFETY: the inputs lie in memory as their strides say, the outputs are new, all on this device and freed on
        // this stream.
        unsafe { plan.launch(gpu.stream(), &args)? };
        Ok([out, lse])
    }

    pub(super) fn on_gpu_backward(
        &self,
        gpu: &Gpu,
        saved: &Saved,
        sizes: Sizes,
        wanted: Wanted,
    ) -> Result<Vec<Option<Tensor>>> {
        let Inputs { q, k, v, .. } = saved.inputs;
        let described = self.described(q, sizes)?;
        let held = self.held(&saved.inputs)?;
        let named = held.values()?;
        let bias = self.kernel_bias(held.bias.as_ref(), sizes)?;
        let plan =
            gpu.plans().attention_backward.get(described, |described| described.backward(gpu.device()))?;
        let new =
            |wanted: bool, like: &Tensor| wanted.then(|| gpu.empty(like.shape(), like.dtype())).transpose();
        // One kernel makes the gradients of keys and values.
        let keys = wanted.k || wanted.v;
        let [dq, dk, dv] = [new(wanted.q, q)?, new(keys, k)?, new(keys, v)?];
        let dsinks = held.sinks.as_ref().map(|sinks| new(wanted.sinks, sinks)).transpose()?.flatten();
        // What no score is added to is not written.
        let zeros = |bias: &Tensor| gpu.zeros(bias.shape(), bias.dtype());
        let dbias = held.bias.as_ref().filter(|_| wanted.bias).map(zeros).transpose()?;
        let shape = self.kernel_shape(sizes);
        let workspace = gpu.workspace(plan.workspace_bytes(&shape))?;
        let args = kernel::AttentionBackwardArgs {
            shape,
            scale: self.scale(sizes) as f32,
            q: kernel_heads(q)?,
            k: kernel_heads(k)?,
            v: kernel_heads(v)?,
            out: kernel_heads(saved.out)?,
            dout: kernel_heads(&saved.grad)?,
            lse: saved.lse.pointer(NAME)?,
            dlse: pointer_or_null(NAME, saved.grad_lse.as_ref())?,
            workspace: workspace.ptr(),
            dq: heads_or_none(dq.as_ref())?,
            dk: heads_or_none(dk.as_ref())?,
            dv: heads_or_none(dv.as_ref())?,
            dsinks: pointer_or_null(NAME, dsinks.as_ref())?,
            operands: kernel::Operands { bias, ..self.operands(q, &held, &named)? },
            dbias: self.kernel_bias(dbias.as_ref(), sizes)?,
        };
        // SAFETY: the inputs lie in memory as their strides say, outputs and workspace are new, all on this device and
        // freed on this stream.
        unsafe { plan.launch(gpu.stream(), &args)? };
        let mut all = vec![dq, dk.filter(|_| wanted.k), dv.filter(|_| wanted.v)];
        for (input, grad) in [(saved.inputs.bias, dbias), (saved.inputs.sinks, dsinks)] {
            if let Some(input) = input {
                all.push(grad.map(|grad| grad.to_dtype(input.dtype())).transpose()?);
            }
        }
        Ok(all)
    }
}

/// A tensor `(B, T, H, D)` as kernels take it.
pub(crate) fn kernel_heads(tensor: &Tensor) -> Result<kernel::Heads> {
    let [batch, token, head] = as_heads(tensor.strides()).map(|stride| stride as i64);
    Ok(kernel::Heads { data: tensor.pointer(NAME)?, strides: kernel::Strides { batch, token, head } })
}

/// The same, or none where there is no tensor.
pub(crate) fn heads_or_none(tensor: Option<&Tensor>) -> Result<kernel::Heads> {
    tensor.map_or(Ok(kernel::Heads::NONE), kernel_heads)
}

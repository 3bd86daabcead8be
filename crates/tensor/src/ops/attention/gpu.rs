//! On a GPU.

use longhand_kernels::attention as kernel;

use super::{Attention, Documents, Inputs, NAME, Saved, as_heads};
use crate::cpu::attention::Sizes;
use crate::gpu::kernel_dtype;
use crate::ops::check_device;
use crate::{Dtype, Error, Gpu, Result, Tensor};

impl Attention {
    /// What there is no kernel for.
    fn refuse(&self, sizes: Sizes) -> Result<()> {
        let options = &self.0;
        let given = [
            ("mask", options.mask.is_some()),
            ("score", options.score.is_some()),
            ("softcap", options.softcap.is_some()),
            ("alibi", options.alibi.is_some()),
            ("bias", options.bias.is_some()),
            ("sinks", options.sinks.is_some()),
            ("dropout", options.dropout.is_some()),
        ];
        if let Some((option, _)) = given.iter().find(|(_, given)| *given) {
            return Err(Error::argument(NAME, option, "given on a GPU", "given on the CPU alone"));
        }
        if sizes.value_dim != sizes.dim {
            let expected = format!("that of q and k on a GPU, {}", sizes.dim);
            return Err(Error::argument(NAME, "head dim of v", sizes.value_dim.to_string(), expected));
        }
        Ok(())
    }

    /// As kernels take it.
    fn described(&self, q: &Tensor, sizes: Sizes) -> Result<kernel::Attention> {
        self.refuse(sizes)?;
        let options = &self.0;
        Ok(kernel::Attention::new(kernel_dtype(NAME, q.dtype())?, sizes.dim)
            .causal(options.causal)
            .window(options.window_left, options.window_right)
            .prefix(options.prefix.is_some())
            .documents(options.documents.is_some()))
    }

    fn kernel_shape(&self, sizes: Sizes) -> kernel::AttentionShape {
        let Sizes { batch, queries, keys, heads, kv_heads, .. } = sizes;
        let batch = self.0.documents.as_ref().map_or(batch, Documents::count);
        kernel::AttentionShape { batch, queries, keys, heads, kv_heads }
    }

    fn operands(&self, q: &Tensor) -> Result<kernel::Operands<'static>> {
        let mut operands = kernel::Operands::default();
        if let Some(prefix) = &self.0.prefix {
            operands.prefix = prefix.pointer(NAME)?;
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

    pub(super) fn on_gpu(&self, gpu: &Gpu, inputs: &Inputs, sizes: Sizes) -> Result<[Tensor; 2]> {
        let Inputs { q, k, v, .. } = *inputs;
        let described = self.described(q, sizes)?;
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
            operands: self.operands(q)?,
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
    ) -> Result<Vec<Option<Tensor>>> {
        if saved.grad_lse.is_some() {
            let expected = "not to depend on the log-sum-exp on a GPU";
            return Err(Error::argument(NAME, "what backward is taken of", "one that does", expected));
        }
        let Inputs { q, k, v, .. } = saved.inputs;
        let described = self.described(q, sizes)?;
        let plan =
            gpu.plans().attention_backward.get(described, |described| described.backward(gpu.device()))?;
        let like = |tensor: &Tensor| gpu.empty(tensor.shape(), tensor.dtype());
        let grads = [like(q)?, like(k)?, like(v)?];
        let shape = self.kernel_shape(sizes);
        let workspace = gpu.workspace(plan.workspace_bytes(&shape))?;
        let args = kernel::AttentionBackwardArgs {
            shape,
            scale: self.scale(sizes) as f32,
            q: kernel_heads(q)?,
            k: kernel_heads(k)?,
            v: kernel_heads(v)?,
            out: kernel_heads(saved.out)?,
            grad_out: kernel_heads(&saved.grad)?,
            lse: saved.lse.pointer(NAME)?,
            workspace: workspace.ptr(),
            grad_q: kernel_heads(&grads[0])?,
            grad_k: kernel_heads(&grads[1])?,
            grad_v: kernel_heads(&grads[2])?,
            grad_sinks: longhand_gpu::DevicePtr::NULL,
            operands: self.operands(q)?,
        };
        // SAFETY: the inputs lie in memory as their strides say, outputs and workspace are new, all on this device and
        // freed on this stream.
        unsafe { plan.launch(gpu.stream(), &args)? };
        Ok(grads.map(Some).into())
    }
}

/// A tensor `(B, T, H, D)` as kernels take it.
pub(in crate::ops) fn kernel_heads(tensor: &Tensor) -> Result<kernel::Heads> {
    let [batch, token, head] = as_heads(tensor.strides()).map(|stride| stride as i64);
    Ok(kernel::Heads { data: tensor.pointer(NAME)?, strides: kernel::Strides { batch, token, head } })
}

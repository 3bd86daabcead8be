//! On the CPU.

use longhand_kernels::attention::BlockKind;

use super::{Attention, BlockMask, Inputs, NAME, Saved, as_heads};
use crate::cpu::Real;
use crate::cpu::attention::{
    self, Bias, Dropping, Heads, Mask, MaskFunction, Position, Problem, Scores, Sizes, Upstream, Wanted,
};
use crate::dtype::with_real;
use crate::ops::{compute_dtype, widened};
use crate::{Result, Tensor};

impl Attention {
    pub(super) fn cpu(&self, inputs: &Inputs, sizes: Sizes) -> Result<[Tensor; 2]> {
        let Sizes { batch, queries, heads, value_dim, .. } = sizes;
        with_real!(NAME, compute_dtype(NAME, inputs.q.dtype())?, T => {
            let (out, lse) = self.with_problem::<T, _>(inputs, sizes, attention::forward)?;
            let out = Tensor::from_elements(out, &[batch, queries, heads, value_dim]);
            Ok([out.to_dtype(inputs.q.dtype())?, Tensor::from_elements(lse, &[batch, heads, queries])])
        })
    }

    /// Gradients of the inputs, as far as they are wanted.
    pub(super) fn cpu_backward(
        &self,
        saved: &Saved,
        sizes: Sizes,
        wanted: Wanted,
    ) -> Result<Vec<Option<Tensor>>> {
        let inputs = &saved.inputs;
        let [out, grad] = [widened(NAME, saved.out)?, widened(NAME, &saved.grad)?];
        with_real!(NAME, out.dtype(), T => {
            let (out, grad, lse) = (out.read::<T>(NAME)?, grad.read::<T>(NAME)?, saved.lse.read::<T>(NAME)?);
            let grad_lse = saved.grad_lse.as_ref().map(|grad| grad.read::<T>(NAME)).transpose()?;
            let upstream = Upstream { out: &out, lse: &lse, grad: &grad, grad_lse: grad_lse.as_deref() };
            let grads = self.with_problem::<T, _>(inputs, sizes, |problem| {
                attention::backward(problem, &upstream, wanted)
            })?;
            let of = |input: &Tensor, values: Option<Vec<T>>| {
                let like = |values| Tensor::from_elements(values, input.shape()).to_dtype(input.dtype());
                values.map(like).transpose()
            };
            let mut all = vec![of(inputs.q, grads.q)?, of(inputs.k, grads.k)?, of(inputs.v, grads.v)?];
            for (input, values) in [(inputs.bias, grads.bias), (inputs.sinks, grads.sinks)] {
                if let Some(input) = input {
                    all.push(of(input, values)?);
                }
            }
            Ok(all)
        })
    }

    /// What the user's own blocks and mask say of a place.
    fn sees(&self, at: Position) -> bool {
        match self.0.blocks.as_ref().and_then(|blocks| blocks.kind(at)) {
            Some(BlockKind::Empty) => false,
            Some(BlockKind::Full) => true,
            Some(BlockKind::Partial) | None => self.0.mask.as_ref().is_none_or(|mask| (mask.cpu)(at)),
        }
    }

    /// Calls `body` with what there is to compute, in the type that the CPU computes in.
    fn with_problem<T: Real, R>(
        &self,
        inputs: &Inputs,
        sizes: Sizes,
        body: impl FnOnce(&Problem<T>) -> R,
    ) -> Result<R> {
        let options = &self.0;
        let [q, k, v] =
            [inputs.q.to_dtype(T::DTYPE)?, inputs.k.to_dtype(T::DTYPE)?, inputs.v.to_dtype(T::DTYPE)?];
        let data = (q.read::<T>(NAME)?, k.read::<T>(NAME)?, v.read::<T>(NAME)?);
        let (sinks, slopes) = (by_head::<T>(inputs.sinks)?, by_head::<T>(options.alibi.as_ref())?);
        let bias = inputs.bias.map(|bias| bias.to_dtype(T::DTYPE)).transpose()?;
        let bias_data = bias.as_ref().map(|bias| bias.read::<T>(NAME)).transpose()?;
        let bias = match (&bias, &bias_data) {
            (Some(bias), Some(data)) => {
                let (own, strides) = self.broadcast_bias(bias, sizes)?;
                Some(Bias { data, sizes: own, strides })
            }
            _ => None,
        };
        let user_mask: &MaskFunction<'_> = &|at| self.sees(at);
        let chosen = options.blocks.as_ref().is_some_and(BlockMask::is_chosen);
        Ok(body(&Problem {
            q: heads(&data.0, &q),
            k: heads(&data.1, &k),
            v: heads(&data.2, &v),
            sizes,
            scale: self.scale(sizes),
            visible: self.cpu_mask()?.visible(&sizes),
            mask: (options.mask.is_some() || chosen).then_some(user_mask),
            scores: Scores { bias, ..self.cpu_scores(slopes.as_deref()) },
            sinks: sinks.as_deref(),
            dropout: options.dropout.map(Dropping::new),
        }))
    }

    pub(super) fn cpu_mask(&self) -> Result<Mask> {
        let options = &self.0;
        Ok(Mask {
            causal: options.causal,
            left: options.window_left,
            right: options.window_right,
            prefix: options.prefix.as_ref().map(|prefix| prefix.detach().to_vec::<u32>()).transpose()?,
            documents: options.documents.as_ref().map(|all| (all.queries.clone(), all.keys.clone())),
        })
    }

    /// Without a bias.
    pub(super) fn cpu_scores<'a, T>(&'a self, slopes: Option<&'a [T]>) -> Scores<'a, T> {
        let function = self.0.score.as_ref().map(|score| &*score.cpu);
        Scores { function, softcap: self.0.softcap, slopes, bias: None }
    }
}

/// What there is one of for each head.
pub(super) fn by_head<T: Real>(tensor: Option<&Tensor>) -> Result<Option<Vec<T>>> {
    tensor.map(|tensor| tensor.detach().to_dtype(T::DTYPE)?.to_vec::<T>()).transpose()
}

pub(super) fn heads<'a, T>(data: &'a [T], tensor: &Tensor) -> Heads<'a, T> {
    Heads { data, strides: as_heads(tensor.strides()) }
}

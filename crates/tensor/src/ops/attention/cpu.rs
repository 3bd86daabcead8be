//! On the CPU.

use longhand_kernels::attention::BlockKind;

use super::{Attention, BlockMask, Inputs, NAME, Saved, as_heads};
use crate::cpu::attention::{
    self, Bias, Dropping, Heads, Mask, MaskFunction, Position, Problem, Scores, Sizes, Upstream, Wanted,
};
use crate::cpu::{Real, Stored};
use crate::dtype::with_stored;
use crate::{Element, Result, Tensor};

impl Attention {
    pub(super) fn cpu(&self, inputs: &Inputs, sizes: Sizes) -> Result<[Tensor; 2]> {
        let Sizes { batch, queries, heads, value_dim, .. } = sizes;
        with_stored!(NAME, inputs.q.dtype(), E => {
            let (out, lse) = self.with_problem::<E, _>(inputs, sizes, attention::forward)?;
            let out = Tensor::from_elements(out, &[batch, queries, heads, value_dim]);
            Ok([out, Tensor::from_elements(lse, &[batch, heads, queries])])
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
        with_stored!(NAME, inputs.q.dtype(), E => {
            let (out, grad) = (saved.out.read::<E>(NAME)?, saved.grad.read::<E>(NAME)?);
            let lse = saved.lse.read::<<E as Stored>::Real>(NAME)?;
            let grad_lse = saved.grad_lse.as_ref().map(|grad| grad.read::<<E as Stored>::Real>(NAME));
            let grad_lse = grad_lse.transpose()?;
            let upstream = Upstream { out: &out, lse: &lse, grad: &grad, grad_lse: grad_lse.as_deref() };
            let grads = self.with_problem::<E, _>(inputs, sizes, |problem| {
                attention::backward(problem, &upstream, wanted)
            })?;
            let of = |values: Option<Vec<E>>, input: &Tensor| {
                values.map(|values| Tensor::from_elements(values, input.shape()))
            };
            let mut all = vec![of(grads.q, inputs.q), of(grads.k, inputs.k), of(grads.v, inputs.v)];
            for (input, values) in [(inputs.bias, grads.bias), (inputs.sinks, grads.sinks)] {
                if let Some(input) = input {
                    let rounded = |values| Tensor::from_elements(values, input.shape()).to_dtype(input.dtype());
                    all.push(values.map(rounded).transpose()?);
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

    /// Calls `body` with what there is to compute. Queries, keys and values are read as they are stored; what there is less
    /// of, in the type that the CPU computes in.
    fn with_problem<E: Stored, R>(
        &self,
        inputs: &Inputs,
        sizes: Sizes,
        body: impl FnOnce(&Problem<E>) -> R,
    ) -> Result<R> {
        let options = &self.0;
        let &Inputs { q, k, v, .. } = inputs;
        let data = (q.read::<E>(NAME)?, k.read::<E>(NAME)?, v.read::<E>(NAME)?);
        let (sinks, slopes) = (by_head(inputs.sinks)?, by_head(options.alibi.as_ref())?);
        let bias = inputs.bias.map(|bias| bias.to_dtype(E::Real::DTYPE)).transpose()?;
        let bias_data = bias.as_ref().map(|bias| bias.read(NAME)).transpose()?;
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
            q: heads(&data.0, q),
            k: heads(&data.1, k),
            v: heads(&data.2, v),
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

pub(super) fn heads<'a, E>(data: &'a [E], tensor: &Tensor) -> Heads<'a, E> {
    Heads { data, strides: as_heads(tensor.strides()) }
}

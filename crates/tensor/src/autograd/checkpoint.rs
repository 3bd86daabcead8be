//! Computing again in backward what forward did not keep.

use std::cell::RefCell;
use std::sync::Arc;

use super::{Input, Kept, Node, Origin, RECORDING, Rule, Saved, Walk, no_grad, record, with_recording};
use crate::ops::check_dim;
use crate::profile::{Phase, phase};
use crate::{Error, Result, Tensor};

pub(super) const NAME: &str = "checkpoint";

pub(super) type Body = Box<dyn Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync>;

/// Runs `body` without keeping what its operations save for backward, which runs it again instead (Chen et al. 2016,
/// arXiv 1604.06174): one more forward pass for the memory of everything inside but the inputs.
///
/// `body` must compute the same from the same inputs whenever it runs; dropout does, since its bits depend on its seed and
/// offset alone. Tensors that it captures, such as parameters, have their gradients as without.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// use longhand_tensor::{Device, Tensor, checkpoint};
///
/// let x = Tensor::from_slice(&[3.0f32], &[1], &Device::Cpu)?.requires_grad();
/// let weight = Tensor::from_slice(&[2.0f32], &[1], &Device::Cpu)?.requires_grad();
/// let captured = weight.clone();
/// let y = checkpoint(move |x| Ok(vec![x[0].mul(&captured)?.mul(&x[0])?]), &[&x])?.remove(0);
/// let gradients = y.backward()?;
/// assert_eq!(gradients.get(&x).unwrap().item()?, 12.0);
/// assert_eq!(gradients.get(&weight).unwrap().item()?, 9.0);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Whatever `body` returns; in backward also when it returns other outputs than before.
pub fn checkpoint(
    body: impl Fn(&[Tensor]) -> Result<Vec<Tensor>> + Send + Sync + 'static,
    inputs: &[&Tensor],
) -> Result<Vec<Tensor>> {
    let given: Vec<Tensor> = inputs.iter().map(|&input| input.clone()).collect();
    if !RECORDING.get() {
        return body(&given);
    }
    let (outputs, noted) = noting(|| no_grad(|| body(&given)));
    let outputs = outputs?;
    if noted.is_empty() && outputs.iter().all(|output| output.edge().is_none()) {
        return Ok(outputs);
    }
    let outputs: Vec<Tensor> = outputs.iter().map(Tensor::detach).collect();
    let tensors =
        given.iter().map(Tensor::detach).chain(noted).map(|tensor| Some(Saved::new(None, &tensor))).collect();
    let inputs = given.iter().map(|input| Input::new(input, input.edge().is_some())).collect();
    let origins = outputs.iter().map(|_| Origin::Kept).collect();
    let kept = Kept { tensors, value: None };
    Ok(record(Rule::Again(Box::new(body)), inputs, (&outputs, origins), kept))
}

/// `body` of `x` in chunks of `size` along dimension `dim`, the last of them what is left, each within a [`checkpoint`]: what
/// `body` makes on the way is there for one chunk at a time, forward and backward, and never for all of `x`. For a `body` that
/// computes each part by itself, as the feed-forward network of a transformer does each token (Liu and Abbeel 2023, arXiv
/// 2305.19370): then the result is that of `body(x)`. Gradients of what `body` captures are summed up over the chunks.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// use longhand_tensor::ops::{self, Gelu};
/// use longhand_tensor::{Device, Dtype, Tensor, checkpoint_chunks};
///
/// let leaf = |shape: &[usize]| Ok::<_, longhand_tensor::Error>(Tensor::ones(shape, Dtype::F32, &Device::Cpu)?.requires_grad());
/// let (x, up, down) = (leaf(&[1000, 8])?, leaf(&[8, 32])?, leaf(&[32, 8])?);
/// let captured = (up.clone(), down.clone());
/// let mlp = move |x: &Tensor| {
///     let hidden = ops::linear(x, &captured.0, None)?.gelu(Gelu::Tanh)?; // never [1000, 32]
///     ops::linear(&hidden, &captured.1, None)
/// };
/// let y = checkpoint_chunks(mlp, &x, 0, 256)?;
/// assert_eq!(y.shape(), [1000, 8]);
/// assert_eq!(y.sum_all()?.backward()?.get(&up).unwrap().shape(), [8, 32]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When there is no such dimension, or `size` is 0; whatever `body` returns, and that its results do not fit together.
pub fn checkpoint_chunks(
    body: impl Fn(&Tensor) -> Result<Tensor> + Send + Sync + 'static,
    x: &Tensor,
    dim: usize,
    size: usize,
) -> Result<Tensor> {
    const NAME: &str = "checkpoint_chunks";
    let total = check_dim(NAME, x, dim)?;
    if size == 0 {
        return Err(Error::argument(NAME, "size", "0", "at least 1"));
    }
    let sizes: Vec<usize> = (0..total.max(1)).step_by(size).map(|start| size.min(total - start)).collect();
    let body = Arc::new(body);
    let of_chunk = |chunk: &Tensor| -> Result<Tensor> {
        let body = Arc::clone(&body);
        Ok(checkpoint(move |x| Ok(vec![body(&x[0])?]), &[chunk])?.swap_remove(0))
    };
    let mut chunks = x.split(&sizes, dim)?.iter().map(of_chunk).collect::<Result<Vec<_>>>()?;
    match chunks.len() {
        1 => Ok(chunks.swap_remove(0)),
        _ => Tensor::cat(&chunks.iter().collect::<Vec<_>>(), dim),
    }
}

thread_local! {
    /// Tensors with a way back that operations read while nothing is recorded; `None` where nobody asks.
    static NOTED: RefCell<Option<Vec<Tensor>>> = const { RefCell::new(None) };
}

/// Notes those of an operation's inputs whose gradient would be wanted.
pub(super) fn note(inputs: &[&Tensor]) {
    NOTED.with_borrow_mut(|noted| {
        if let Some(noted) = noted {
            noted.extend(inputs.iter().filter(|input| input.edge().is_some()).map(|input| input.detach()));
        }
    });
}

/// Runs `body` and returns what was noted meanwhile.
fn noting<R>(body: impl FnOnce() -> R) -> (R, Vec<Tensor>) {
    struct Restore;
    impl Drop for Restore {
        fn drop(&mut self) {
            NOTED.set(None);
        }
    }
    let _restore = Restore;
    NOTED.set(Some(Vec::new()));
    let result = body();
    (result, NOTED.take().unwrap_or_default())
}

impl Walk<'_> {
    /// Runs the body again, this time recorded, from inputs that lead on to where they came from; the walk goes on through
    /// what that adds to the graph, which is newer than all that waits.
    pub(super) fn again(&mut self, node: &Node, body: &Body, grads: Vec<Option<Tensor>>) -> Result<()> {
        let (saved, _) = node.take_kept()?;
        let inputs: Vec<Tensor> = saved
            .into_iter()
            .flatten()
            .zip(&node.inputs)
            .map(|(saved, input)| match &input.edge {
                Some(edge) => saved.with_edge(edge.clone()),
                None => saved,
            })
            .collect();
        let outputs = phase(Phase::Recompute, || with_recording(true, || body(&inputs)))?;
        let same = outputs.len() == node.outputs.len()
            && outputs
                .iter()
                .zip(&node.outputs)
                .all(|(output, before)| output.shape() == before.shape && output.dtype() == before.dtype);
        if !same {
            let shapes = |shapes: Vec<&[usize]>| format!("outputs of shapes {shapes:?}");
            return Err(Error::BadRule {
                operation: NAME.into(),
                found: shapes(outputs.iter().map(Tensor::shape).collect()),
                expected: shapes(node.outputs.iter().map(|output| &output.shape[..]).collect()),
            });
        }
        for (output, grad) in outputs.iter().zip(grads) {
            if let (Some(edge), Some(grad)) = (output.edge(), grad) {
                self.send(edge, grad)?;
            }
        }
        Ok(())
    }
}

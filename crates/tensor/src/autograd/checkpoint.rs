//! Computing again in backward what forward did not keep.

use std::cell::RefCell;

use super::{Input, Node, RECORDING, Rule, Saved, Walk, no_grad, record, with_recording};
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
    let saved =
        given.iter().map(Tensor::detach).chain(noted).map(|tensor| Some(Saved::new(tensor))).collect();
    let inputs = given.iter().map(|input| Input::new(input, input.edge().is_some())).collect();
    Ok(record(Rule::Again(Box::new(body)), inputs, &outputs, saved))
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
        let saved = node.take_saved()?;
        let inputs: Vec<Tensor> = saved
            .into_iter()
            .flatten()
            .zip(&node.inputs)
            .map(|(tensor, input)| match &input.edge {
                Some(edge) => tensor.with_edge(edge.clone()),
                None => tensor,
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

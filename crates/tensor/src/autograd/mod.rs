//! Reverse-mode differentiation: the graph that operations leave behind, and the walk back through it.

mod checkpoint;
mod operation;
mod saved;

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

pub use checkpoint::{checkpoint, checkpoint_chunks};
pub use operation::{Backward, Forward, Meta, Operation};
use saved::{Origin, Saved, Shared, Source};

use crate::profile::{self, Phase};
use crate::{Error, Result, Tensor, TensorId};

/// Runs an operation, and records it when a gradient through it may be asked for.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::{Forward, Operation, Result, Tensor, apply};
/// /// Sum and product of two tensors.
/// struct SumAndProduct;
///
/// impl Operation for SumAndProduct {
///     fn name(&self) -> &str {
///         "sum_and_product"
///     }
///     fn forward(&self, inputs: &[Tensor], _needs: &[bool]) -> Result<Forward> {
///         Ok(Forward::new([inputs[0].add(&inputs[1])?, inputs[0].mul(&inputs[1])?]))
///     }
/// }
///
/// let (a, b) = (Tensor::from([2.0f32]), Tensor::from([5.0f32]));
/// let outputs = apply(SumAndProduct, &[&a, &b])?;
/// assert_eq!((outputs[0].item()?, outputs[1].item()?), (7.0, 10.0));
/// // A gradient that nobody wrote down is an error, not zero.
/// let product = apply(SumAndProduct, &[&a.requires_grad(), &b])?.remove(1);
/// assert!(product.backward().err().unwrap().to_string().contains("no backward rule"));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Whatever the operation's forward returns.
pub fn apply(operation: impl Operation, inputs: &[&Tensor]) -> Result<Vec<Tensor>> {
    let recording = RECORDING.get();
    if !recording {
        checkpoint::note(inputs);
    }
    let needs: Vec<bool> = inputs.iter().map(|input| recording && input.edge().is_some()).collect();
    let plain: Vec<Tensor> = inputs.iter().map(|input| input.detach()).collect();
    let device = inputs.first().map(|input| input.device());
    let forward = || operation.forward(&plain, &needs);
    let Forward { outputs, saved, kept } = profile::operation(operation.name(), device, forward)?;
    if !needs.contains(&true) {
        return Ok(outputs);
    }
    let source = |tensor: &Tensor| {
        let mut sharing = plain.iter().zip(inputs).filter(|(plain, _)| plain.shares_storage(tensor));
        // A part is kept: many of them would each have the whole computed again.
        sharing.find_map(|(_, input)| Source::of(input)).filter(|source| source.numel() <= tensor.numel())
    };
    let save = |tensor: &Tensor| Saved::new(source(tensor), tensor);
    let tensors: Vec<_> = saved.iter().map(|tensor| tensor.as_ref().map(save)).collect();
    let keeps_all = tensors.iter().flatten().all(Saved::is_kept);
    let origins = outputs.iter().enumerate().map(|(i, output)| match source(output) {
        Some(source) => Origin::View(source),
        None if keeps_all && output.is_whole() && operation.recomputes(i) => Origin::Own(Shared::default()),
        None => Origin::Kept,
    });
    let origins = origins.collect();
    let inputs = inputs.iter().zip(&needs).map(|(input, &needed)| Input::new(input, needed)).collect();
    let kept = Kept { tensors, value: kept };
    Ok(record(Rule::Operation(Box::new(operation)), inputs, (&outputs, origins), kept))
}

/// The outputs, with the way back.
fn record(
    rule: Rule,
    inputs: Vec<Input>,
    (outputs, origins): (&[Tensor], Vec<Origin>),
    kept: Kept,
) -> Vec<Tensor> {
    let node = Arc::new(Node {
        order: NEXT_NODE.fetch_add(1, Ordering::Relaxed),
        rule,
        inputs,
        outputs: outputs.iter().map(Meta::of).collect(),
        origins,
        kept: Mutex::new(Some(kept)),
    });
    let recorded =
        |(index, output): (usize, &Tensor)| output.with_edge(Edge::Output(Arc::clone(&node), index));
    outputs.iter().enumerate().map(recorded).collect()
}

/// [`apply`] for an operation with one output.
pub(crate) fn apply1(operation: impl Operation, inputs: &[&Tensor]) -> Result<Tensor> {
    Ok(apply(operation, inputs)?.swap_remove(0))
}

/// Runs `body` without recording operations on this thread: their results have no gradient, and nothing is kept.
///
/// ```
/// # use longhand_tensor::{Device, Dtype, Tensor, no_grad};
/// # fn main() -> longhand_tensor::Result<()> {
/// let x = Tensor::zeros(&[2], Dtype::F32, &Device::Cpu)?.requires_grad();
/// assert!(!no_grad(|| x.scale(2.0))?.needs_gradient());
/// # Ok(())
/// # }
/// ```
pub fn no_grad<R>(body: impl FnOnce() -> R) -> R {
    with_recording(false, body)
}

fn with_recording<R>(recording: bool, body: impl FnOnce() -> R) -> R {
    struct Restore(bool);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDING.set(self.0);
        }
    }
    let _restore = Restore(RECORDING.replace(recording));
    body()
}

thread_local! {
    static RECORDING: Cell<bool> = const { Cell::new(true) };
}
static NEXT_NODE: AtomicU64 = AtomicU64::new(0);

/// Where a tensor's gradient goes.
#[derive(Clone)]
pub(crate) enum Edge {
    /// To the caller.
    Leaf(TensorId),
    /// Into the operation that made the tensor, as the gradient of this output.
    Output(Arc<Node>, usize),
}

/// An operation that was run.
pub(crate) struct Node {
    /// Grows with time, so that an operation's number is greater than those of what it read.
    order: u64,
    rule: Rule,
    inputs: Vec<Input>,
    outputs: Vec<Meta>,
    /// Of each output.
    origins: Vec<Origin>,
    /// `None` once backward has passed.
    kept: Mutex<Option<Kept>>,
}

/// What forward left for backward.
struct Kept {
    tensors: Vec<Option<Saved>>,
    value: Option<Value>,
}

type Value = Box<dyn Any + Send + Sync>;

/// How the gradients of an operation's inputs are found.
enum Rule {
    /// By its backward.
    Operation(Box<dyn Operation>),
    /// By running it again, and back through what that records.
    Again(checkpoint::Body),
}

impl Rule {
    fn name(&self) -> &str {
        match self {
            Rule::Operation(operation) => operation.name(),
            Rule::Again(_) => checkpoint::NAME,
        }
    }
}

struct Input {
    meta: Meta,
    /// `None` when the gradient is not wanted.
    edge: Option<Edge>,
}

impl Input {
    fn new(tensor: &Tensor, needed: bool) -> Self {
        Input { meta: Meta::of(tensor), edge: if needed { tensor.edge().cloned() } else { None } }
    }
}

impl Drop for Node {
    /// Frees a long chain in a loop: left to itself, it would recurse once for each operation and overflow the stack.
    fn drop(&mut self) {
        let mut inputs = std::mem::take(&mut self.inputs);
        while let Some(input) = inputs.pop() {
            if let Some(Edge::Output(node, _)) = input.edge
                && let Some(mut node) = Arc::into_inner(node)
            {
                inputs.append(&mut node.inputs);
            }
        }
    }
}

impl Node {
    /// Takes what forward left, so that it is freed when the caller is done with it: what it saved, and its value.
    fn take_kept(&self) -> Result<(Vec<Option<Tensor>>, Option<Value>)> {
        for origin in &self.origins {
            if let Origin::Own(shared) = origin {
                shared.forget();
            }
        }
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Kept { tensors, value } = kept.ok_or_else(|| self.freed())?;
        let saved = tensors.iter().map(|saved| self.read(saved)).collect::<Result<_>>()?;
        Ok((saved, value))
    }

    /// A tensor that this operation saved.
    fn read(&self, saved: &Option<Saved>) -> Result<Option<Tensor>> {
        saved.as_ref().map(|saved| saved.tensor(self.rule.name())).transpose()
    }

    fn freed(&self) -> Error {
        Error::Freed { operation: self.rule.name().to_string() }
    }

    /// The gradients of the inputs, checked to be what they claim. `sums` are those of the inputs so far: what is left of
    /// them afterwards the rule did not add to.
    fn backward(
        &self,
        operation: &dyn Operation,
        grads: &[Option<Tensor>],
        sums: &mut Vec<Option<Tensor>>,
    ) -> Result<Vec<Option<Tensor>>> {
        let (saved, value) = self.take_kept()?;
        let needs: Vec<bool> = self.inputs.iter().map(|input| input.edge.is_some()).collect();
        let ctx = Backward {
            operation: operation.name(),
            saved: &saved,
            kept: value.as_deref(),
            grads,
            needs: &needs,
            inputs: &self.inputs,
            outputs: &self.outputs,
            sums: RefCell::new(std::mem::take(sums)),
        };
        let found = operation.backward(&ctx);
        *sums = ctx.sums.into_inner();
        let found = found?;
        let bad = |found: String, expected: String| Error::BadRule {
            operation: operation.name().into(),
            found,
            expected,
        };
        if found.len() != self.inputs.len() {
            return Err(bad(
                format!("{} entries", found.len()),
                format!("{}, one per input", self.inputs.len()),
            ));
        }
        for (i, (input, grad)) in self.inputs.iter().zip(&found).enumerate() {
            let Meta { shape, dtype, .. } = &input.meta;
            match grad {
                _ if input.edge.is_none() => {}
                None => {
                    return Err(bad(format!("no gradient for input {i}"), "one, since it is wanted".into()));
                }
                Some(grad) if grad.shape() != shape || grad.dtype() != *dtype => {
                    let found = format!("a gradient of shape {:?} in {}", grad.shape(), grad.dtype());
                    return Err(bad(found, format!("shape {shape:?} in {dtype} for input {i}")));
                }
                Some(_) => {}
            }
        }
        Ok(found)
    }
}

/// Gradients of one number by the leaves it was computed from.
#[derive(Default)]
pub struct Gradients {
    by_leaf: HashMap<TensorId, Tensor>,
}

impl Gradients {
    /// The gradient by `leaf`, a tensor that [`requires_grad`](Tensor::requires_grad) returned; `None` when the
    /// number does not depend on it. Gradients by intermediate results are not kept.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// let x = Tensor::from([3.0f32]).requires_grad();
    /// assert_eq!(x.mul(&x)?.backward()?.get(&x).unwrap().item()?, 6.0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn get(&self, leaf: &Tensor) -> Option<&Tensor> {
        self.by_leaf.get(&leaf.id())
    }

    /// Puts `gradient` in place of the gradient by `leaf`.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// let x = Tensor::from([3.0f32]).requires_grad();
    /// let mut gradients = x.scale(2.0)?.backward()?;
    /// gradients.set(&x, Tensor::from([0.0f32]));
    /// assert_eq!(gradients.get(&x).unwrap().item()?, 0.0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set(&mut self, leaf: &Tensor, gradient: Tensor) {
        self.by_leaf.insert(leaf.id(), gradient);
    }

    /// Adds the gradients of another number, each as soon as it is found: memory is that of one set of gradients, however
    /// many parts a batch is computed in.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Gradients, Tensor};
    /// let x = Tensor::from([3.0f32]).requires_grad();
    /// let mut gradients = Gradients::default();
    /// gradients.accumulate(&x.mul(&x)?)?;
    /// gradients.accumulate(&x.scale(2.0)?)?;
    /// assert_eq!(gradients.get(&x).unwrap().item()?, 8.0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// As [`Tensor::backward`]; some of the gradients may then have been added.
    pub fn accumulate(&mut self, result: &Tensor) -> Result<()> {
        backward(result, self)
    }

    fn add(&mut self, leaf: TensorId, gradient: Tensor) -> Result<()> {
        let sum = added(self.by_leaf.remove(&leaf), gradient)?;
        self.by_leaf.insert(leaf, sum);
        Ok(())
    }
}

/// `sum + gradient`, in place where nobody else holds the sum.
fn added(sum: Option<Tensor>, gradient: Tensor) -> Result<Tensor> {
    match sum {
        None => Ok(gradient),
        Some(sum) => {
            let device = gradient.device();
            profile::operation("accumulate", Some(device), || sum.add_consuming(&gradient))
        }
    }
}

/// Walks from the newest operation to the oldest: by the time one is reached, every gradient of its outputs is
/// complete, since only newer operations can have read them. What it finds is added to `gradients`.
fn backward(result: &Tensor, gradients: &mut Gradients) -> Result<()> {
    let edge = result.edge().ok_or(Error::NoGraph)?;
    if result.numel() != 1 {
        let operation = match edge {
            Edge::Leaf(_) => "requires_grad".into(),
            Edge::Output(node, _) => node.rule.name().to_string(),
        };
        return Err(Error::NotScalar { operation, shape: result.shape().to_vec() });
    }
    let mut walk = Walk { waiting: BTreeMap::new(), gradients };
    walk.send(edge, Tensor::full(result.shape(), 1.0, result.dtype(), result.device())?)?;
    profile::phase(Phase::Backward, || walk.run())
}

struct Walk<'a> {
    waiting: BTreeMap<u64, Waiting>,
    gradients: &'a mut Gradients,
}

struct Waiting {
    node: Arc<Node>,
    /// Of each output, as far as known.
    grads: Vec<Option<Tensor>>,
}

impl Walk<'_> {
    fn run(&mut self) -> Result<()> {
        while let Some((_, Waiting { node, grads })) = self.waiting.pop_last() {
            match &node.rule {
                Rule::Again(body) => self.again(&node, body, grads)?,
                Rule::Operation(operation) => {
                    let mut sums = self.take_sums(&node.inputs);
                    let backward = || node.backward(operation.as_ref(), &grads, &mut sums);
                    let device = node.outputs.first().map(|output| &output.device);
                    let grads_of_inputs = profile::operation(operation.name(), device, backward);
                    drop(grads);
                    // After an error too, so that no gradient is missing that was there.
                    self.put_back(&node.inputs, sums);
                    for (input, grad) in node.inputs.iter().zip(grads_of_inputs?) {
                        if let (Some(edge), Some(grad)) = (&input.edge, grad) {
                            self.send(edge, grad.detach())?;
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Of each input that is a leaf, the gradient so far, where it may be changed in place.
    fn take_sums(&mut self, inputs: &[Input]) -> Vec<Option<Tensor>> {
        let take = |input: &Input| {
            let Some(Edge::Leaf(leaf)) = &input.edge else { return None };
            let sum = self.gradients.by_leaf.get_mut(leaf)?;
            let fits = sum.is_only_handle() && sum.is_contiguous();
            if fits { self.gradients.by_leaf.remove(leaf) } else { None }
        };
        inputs.iter().map(take).collect()
    }

    fn put_back(&mut self, inputs: &[Input], sums: Vec<Option<Tensor>>) {
        for (input, sum) in inputs.iter().zip(sums) {
            if let (Some(Edge::Leaf(leaf)), Some(sum)) = (&input.edge, sum) {
                self.gradients.by_leaf.insert(*leaf, sum);
            }
        }
    }

    fn send(&mut self, edge: &Edge, grad: Tensor) -> Result<()> {
        match edge {
            Edge::Leaf(id) => self.gradients.add(*id, grad),
            Edge::Output(node, index) => {
                let waiting = self.waiting.entry(node.order).or_insert_with(|| Waiting {
                    node: Arc::clone(node),
                    grads: vec![None; node.outputs.len()],
                });
                let slot = &mut waiting.grads[*index];
                *slot = Some(added(slot.take(), grad)?);
                Ok(())
            }
        }
    }
}

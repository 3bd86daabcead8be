//! What an operation saves for backward: tensors, or the way to make them again.

use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Backward, Edge, Meta, Node, Rule};
use crate::layout::Layout;
use crate::profile::{self, Phase};
use crate::{Error, Result, Tensor};

/// A tensor that an operation saved.
pub(super) enum Saved {
    /// With how often it had been changed in place.
    Kept(Tensor, u64),
    /// A view of what another operation computes again.
    Again(Reader, Layout),
}

impl Saved {
    /// From its source, if it has one, or else the tensor itself.
    pub(super) fn new(source: Option<Source>, tensor: &Tensor) -> Self {
        match source {
            Some(source) => Saved::Again(Reader::new(source), tensor.layout().clone()),
            None => Saved::Kept(tensor.clone(), tensor.version()),
        }
    }

    pub(super) fn is_kept(&self) -> bool {
        matches!(self, Saved::Kept(..))
    }

    /// The tensor, as it was when `operation` saved it.
    pub(super) fn tensor(&self, operation: &str) -> Result<Tensor> {
        match self {
            Saved::Kept(tensor, version) if tensor.version() == *version => Ok(tensor.clone()),
            Saved::Kept(..) => Err(Error::Modified { operation: operation.into() }),
            Saved::Again(reader, layout) => Ok(reader.read()?.view(layout.clone())),
        }
    }
}

/// How backward comes by the elements of an output, if somebody saved it.
pub(super) enum Origin {
    /// They were kept.
    Kept,
    /// The operation computes the output again, from nothing but what it kept itself: no chain of operations is ever run
    /// again for one tensor.
    Own(Shared),
    /// They are elements of an input, which another operation computes again.
    View(Source),
}

/// An output between the operations that saved it: made again for the first of them, gone after the last.
#[derive(Default)]
pub(super) struct Shared(Mutex<Again>);

#[derive(Default)]
struct Again {
    /// That have yet to read it.
    readers: usize,
    made: Option<Tensor>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Again> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees it: whoever has not read it by now never will.
    pub(super) fn forget(&self) {
        self.lock().made = None;
    }
}

/// One of those that saved an output that is computed again.
pub(super) struct Reader(Source);

impl Reader {
    fn new(source: Source) -> Self {
        if let Some(shared) = source.shared() {
            shared.lock().readers += 1;
        }
        Reader(source)
    }

    fn read(&self) -> Result<Tensor> {
        let shared = self.0.shared();
        if let Some(made) = shared.and_then(|shared| shared.lock().made.clone()) {
            return Ok(made);
        }
        let made = self.0.recompute()?;
        if let Some(mut again) = shared.map(Shared::lock)
            && again.readers > 1
        {
            again.made = Some(made.clone());
        }
        Ok(made)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(mut again) = self.0.shared().map(Shared::lock) {
            again.readers -= 1;
            if again.readers == 0 {
                again.made = None;
            }
        }
    }
}

/// An output that its operation computes again.
#[derive(Clone)]
pub(super) struct Source {
    node: Arc<Node>,
    output: usize,
}

impl Source {
    /// That of the elements of `tensor`. The walk back comes to the operation, and only after whatever reads `tensor`: so what
    /// the operation kept is there when the reader needs it, or the walk would have failed there anyway.
    pub(super) fn of(tensor: &Tensor) -> Option<Source> {
        let Some(Edge::Output(node, output)) = tensor.edge() else { return None };
        match &node.origins[*output] {
            Origin::Kept => None,
            Origin::Own(_) => Some(Source { node: Arc::clone(node), output: *output }),
            Origin::View(source) => Some(source.clone()),
        }
    }

    /// How many elements are computed again.
    pub(super) fn numel(&self) -> usize {
        self.node.outputs[self.output].shape.iter().product()
    }

    fn shared(&self) -> Option<&Shared> {
        match &self.node.origins[self.output] {
            Origin::Own(shared) => Some(shared),
            Origin::Kept | Origin::View(_) => None,
        }
    }

    fn recompute(&self) -> Result<Tensor> {
        let Source { node, output } = self;
        let Rule::Operation(operation) = &node.rule else {
            return Err(Error::NoRule { operation: node.rule.name().into() });
        };
        let kept = node.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let kept = kept.as_ref().ok_or_else(|| node.freed())?;
        let saved = kept.tensors.iter().map(|saved| node.read(saved)).collect::<Result<Vec<_>>>()?;
        let ctx = Backward {
            operation: operation.name(),
            saved: &saved,
            kept: kept.value.as_deref(),
            grads: &[],
            needs: &[],
            inputs: &node.inputs,
            outputs: &node.outputs,
            sums: RefCell::default(),
        };
        let Meta { shape, dtype, device } = &node.outputs[*output];
        let recompute = || operation.recompute(*output, &ctx);
        let found = profile::phase(Phase::Recompute, || {
            profile::operation(operation.name(), Some(device), recompute)
        })?;
        if found.shape() != shape || found.dtype() != *dtype {
            return Err(Error::BadRule {
                operation: operation.name().into(),
                found: format!("output {output} again, of shape {:?} in {}", found.shape(), found.dtype()),
                expected: format!("shape {shape:?} in {dtype}, as before"),
            });
        }
        if found.is_whole() { Ok(found) } else { found.copy() }
    }
}

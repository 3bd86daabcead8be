//! What can go wrong, said so that the reader knows what to change.

use std::io;
use std::path::PathBuf;

use crate::Dtype;

/// The result of a tensor operation.
pub type Result<T> = std::result::Result<T, Error>;

/// Why an operation could not be done. Every message names the operation.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Two shapes do not fit together.
    #[error("{operation}: shapes {left:?} and {right:?} do not fit: {rule}")]
    Shapes {
        /// The operation.
        operation: String,
        /// Shape of the first argument.
        left: Vec<usize>,
        /// Shape of the second argument.
        right: Vec<usize>,
        /// What had to hold between them.
        rule: String,
    },
    /// One argument is not what it had to be.
    #[error("{operation}: {argument} is {found}, expected {expected}")]
    Argument {
        /// The operation.
        operation: String,
        /// The argument's name.
        argument: String,
        /// What was given.
        found: String,
        /// What would have been accepted.
        expected: String,
    },
    /// The element type is not one the operation takes.
    #[error("{operation}: elements are {found}, expected {expected}")]
    Dtype {
        /// The operation.
        operation: String,
        /// The element type given.
        found: Dtype,
        /// What would have been accepted.
        expected: String,
    },
    /// Arguments of one operation are of different element types.
    #[error("{operation}: arguments are {left} and {right}; convert one with `to_dtype`")]
    Dtypes {
        /// The operation.
        operation: String,
        /// Element type of the first argument.
        left: Dtype,
        /// Element type of the other.
        right: Dtype,
    },
    /// Arguments of one operation are on different devices.
    #[error("{operation}: arguments are on {left} and {right}; move one with `to_device`")]
    Devices {
        /// The operation.
        operation: String,
        /// Device of the first argument.
        left: String,
        /// Device of the other.
        right: String,
    },
    /// A gradient was asked through an operation that has no backward rule.
    #[error(
        "{operation}: has no backward rule, and a gradient through it was asked for; give it one in \
         `Operation::backward`, or cut the gradient before it with `detach`"
    )]
    NoRule {
        /// The operation.
        operation: String,
    },
    /// A backward rule returned something that cannot be the gradient.
    #[error("{operation}: its backward rule returned {found}, expected {expected}")]
    BadRule {
        /// The operation.
        operation: String,
        /// What the rule returned.
        found: String,
        /// What it had to return.
        expected: String,
    },
    /// `backward` was called on a tensor with more or less than one element.
    #[error(
        "backward: the result of {operation} has shape {shape:?}, and only the gradient of a single number \
         is defined; reduce it first with `sum_all` or `mean_all`"
    )]
    NotScalar {
        /// The operation that made the tensor.
        operation: String,
        /// The tensor's shape.
        shape: Vec<usize>,
    },
    /// `backward` was called on a tensor that no wanted gradient leads to.
    #[error(
        "backward: the tensor depends on nothing whose gradient is wanted; call `requires_grad` on the \
         parameters, and compute the loss outside `no_grad`"
    )]
    NoGraph,
    /// `backward` passed here before and freed what the rule needs.
    #[error(
        "backward: passed through {operation} before, which freed the tensors saved for it; compute the forward \
         pass again, or add the losses and call `backward` once"
    )]
    Freed {
        /// The operation whose saved tensors are gone.
        operation: String,
    },
    /// A saved tensor was changed in place between forward and backward.
    #[error(
        "backward: a tensor saved for {operation} was modified in place since; call `backward` before the \
         optimiser's step, or compute the forward pass again"
    )]
    Modified {
        /// The operation that had saved it.
        operation: String,
    },
    /// A parameter reached the optimiser without a gradient.
    #[error(
        "{operation}: parameter `{parameter}` has no gradient; the loss does not depend on it, or it was detached"
    )]
    MissingGradient {
        /// The optimiser.
        operation: String,
        /// The parameter's name.
        parameter: String,
    },
    /// A file could not be read or written.
    #[error("safetensors: cannot {verb} {}: {source}", path.display())]
    File {
        /// What was to be done with it: `read` or `write`.
        verb: &'static str,
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Bytes are not those of a safetensors file, or tensors cannot be stored in one.
    #[error("safetensors: {0}")]
    Safetensors(String),
    /// An operation's kernel does not take its arguments.
    #[error(transparent)]
    Kernel(#[from] longhand_kernels::Error),
    /// The GPU, its driver, or a library that it takes failed or is missing.
    #[error(transparent)]
    Gpu(#[from] longhand_gpu::Error),
}

impl Error {
    pub(crate) fn shapes(operation: &str, left: &[usize], right: &[usize], rule: impl Into<String>) -> Self {
        Error::Shapes {
            operation: operation.into(),
            left: left.to_vec(),
            right: right.to_vec(),
            rule: rule.into(),
        }
    }

    /// For operations of your own: `argument` was `found`, and had to be `expected`.
    ///
    /// ```
    /// # use longhand_tensor::Error;
    /// let error = Error::argument("rotate", "angle", "NaN", "finite");
    /// assert_eq!(error.to_string(), "rotate: angle is NaN, expected finite");
    /// ```
    pub fn argument(
        operation: &str,
        argument: &str,
        found: impl Into<String>,
        expected: impl Into<String>,
    ) -> Self {
        Error::Argument {
            operation: operation.into(),
            argument: argument.into(),
            found: found.into(),
            expected: expected.into(),
        }
    }

    pub(crate) fn dtype(operation: &str, found: Dtype, expected: &str) -> Self {
        Error::Dtype { operation: operation.into(), found, expected: expected.into() }
    }
}

//! The errors of this crate.

/// What every function here returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation could not be planned or launched.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An argument that the operation cannot take.
    #[error("{operation}: {argument} is {was}, it has to be {expected}")]
    Argument {
        /// The operation, such as `attention forward`.
        operation: &'static str,
        /// The argument, as the operation names it.
        argument: String,
        /// What it was.
        was: String,
        /// What it has to be.
        expected: String,
    },

    /// The device, the driver or the compiler failed.
    #[error(transparent)]
    Gpu(#[from] longhand_gpu::Error),
}

impl Error {
    pub(crate) fn argument(
        operation: &'static str,
        argument: impl Into<String>,
        was: impl std::fmt::Display,
        expected: impl Into<String>,
    ) -> Error {
        Error::Argument {
            operation,
            argument: argument.into(),
            was: was.to_string(),
            expected: expected.into(),
        }
    }
}

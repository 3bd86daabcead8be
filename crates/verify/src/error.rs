//! Why a case could not be judged.

/// What kept a case from coming to results that can be judged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operation refused, failed to compile, or broke a rule that the emulator checks.
    #[error(transparent)]
    Kernel(#[from] longhand_kernels::Error),

    /// The device failed.
    #[error(transparent)]
    Gpu(#[from] longhand_gpu::Error),

    /// A kernel wrote where no element is.
    #[error("{tensor}: the byte at offset {offset} of its allocation is of no element, and was written")]
    WrittenBetween {
        /// The tensor.
        tensor: &'static str,
        /// The first such byte.
        offset: usize,
    },
}

impl Error {
    /// The rule that the emulator found broken, if that is what happened.
    #[must_use]
    pub fn fault(&self) -> Option<&longhand_gpu::emulator::Fault> {
        match self {
            Error::Kernel(longhand_kernels::Error::Gpu(longhand_gpu::Error::Fault { fault, .. }))
            | Error::Gpu(longhand_gpu::Error::Fault { fault, .. }) => Some(fault),
            _ => None,
        }
    }
}

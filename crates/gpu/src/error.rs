//! The errors of this crate.

use std::path::PathBuf;

use longhand_emulator::{Fault, MemoryError};

use crate::Arch;

/// What every function here returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Everything that can go wrong between a CUDA source and its results.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A text is no architecture.
    #[error("{text:?} is no GPU architecture: it has to look like sm_80 or sm_90a")]
    Arch {
        /// The text.
        text: String,
    },

    /// A shared library is not on this machine.
    #[error("{library} was not found. Looked in:\n{}\n{advice}", bullets(.tried))]
    LibraryNotFound {
        /// What was looked for.
        library: &'static str,
        /// Every place looked at, in order, and what was wrong there.
        tried: Vec<String>,
        /// What to install.
        advice: String,
    },

    /// A shared library lacks a function: it is another version than needed.
    #[error("{path} has no function {symbol}: {advice}", path = path.display())]
    MissingSymbol {
        /// The library.
        path: PathBuf,
        /// The function.
        symbol: &'static str,
        /// What to install.
        advice: String,
    },

    /// The driver is there, and no device of that number.
    #[error("there is no GPU {ordinal}: {reason}")]
    NoDevice {
        /// The number asked for.
        ordinal: usize,
        /// Why, and what to do.
        reason: String,
    },

    /// A call of the CUDA driver failed.
    #[error("{operation}: {name} ({code}): {text}")]
    Driver {
        /// What was being done, to what.
        operation: String,
        /// `CUresult`.
        code: u32,
        /// The code's name, such as `CUDA_ERROR_INVALID_VALUE`.
        name: String,
        /// The driver's explanation.
        text: String,
    },

    /// The device has too little memory left.
    #[error("out of device memory: {requested} bytes were asked for, {free} of {total} are free")]
    OutOfMemory {
        /// Bytes asked for.
        requested: usize,
        /// Bytes free.
        free: usize,
        /// Bytes the device has.
        total: usize,
    },

    /// A call of NVRTC failed for another reason than the source.
    #[error("NVRTC {operation}: {text}{}", log_after(.log))]
    Nvrtc {
        /// The function.
        operation: &'static str,
        /// NVRTC's explanation.
        text: String,
        /// NVRTC's log, where there is one.
        log: String,
    },

    /// A program does not compile.
    #[error("{program} does not compile for {arch}{}:\n{log}", with(.constants))]
    Compile {
        /// Name of the program.
        program: String,
        /// The target.
        arch: Arch,
        /// The constants, as `NAME=value, ...`.
        constants: String,
        /// NVRTC's log: file, line and message.
        log: String,
    },

    /// NVRTC knows no target that this device could run.
    #[error("NVRTC {version} cannot compile for {arch}: it knows {known}")]
    UnsupportedArch {
        /// The target.
        arch: Arch,
        /// NVRTC's version.
        version: String,
        /// What it knows.
        known: String,
    },

    /// The driver takes neither the cubin nor the PTX of a program.
    #[error("{device} cannot load {program}, compiled for {arch}:\n{reasons}")]
    Load {
        /// Name of the device.
        device: String,
        /// Name of the program.
        program: String,
        /// What it was compiled for.
        arch: Arch,
        /// What the driver said of the cubin and of the PTX.
        reasons: String,
    },

    /// A program has no kernel of that name.
    #[error("{program} has no kernel {kernel:?}: it has {known}")]
    NoKernel {
        /// Name of the program.
        program: String,
        /// The name asked for.
        kernel: String,
        /// The kernels it has.
        known: String,
    },

    /// An argument cannot be used.
    #[error("{operation}: {argument} is {was}, it has to be {must}")]
    Argument {
        /// What was being done.
        operation: String,
        /// The argument.
        argument: &'static str,
        /// What it was.
        was: String,
        /// What it has to be.
        must: String,
    },

    /// cuBLASLt refused.
    #[error("cuBLASLt {operation}: {status}")]
    Cublaslt {
        /// The function, and for which product.
        operation: String,
        /// The status, by name.
        status: String,
    },

    /// A launch on an emulated device did what it must not.
    #[error("{operation}: {fault}")]
    Fault {
        /// What was launched, in which shape.
        operation: String,
        /// What went wrong, in which thread, at which line.
        fault: Box<Fault>,
    },

    /// An emulated device was asked for memory that is not there.
    #[error("emulated memory: {0}")]
    EmulatedMemory(#[from] MemoryError),

    /// Something that this kind of device does not have.
    #[error("{device} has no {what}")]
    Unsupported {
        /// Name of the device.
        device: String,
        /// What is missing.
        what: &'static str,
    },
}

impl Error {
    pub(crate) fn argument(
        operation: impl Into<String>,
        argument: &'static str,
        was: impl Into<String>,
        must: impl Into<String>,
    ) -> Error {
        Error::Argument { operation: operation.into(), argument, was: was.into(), must: must.into() }
    }
}

fn bullets(lines: &[String]) -> String {
    lines.iter().map(|line| format!("  - {line}")).collect::<Vec<_>>().join("\n")
}

fn with(constants: &str) -> String {
    if constants.is_empty() { String::new() } else { format!(" with {constants}") }
}

fn log_after(log: &str) -> String {
    if log.is_empty() { String::new() } else { format!("\n{log}") }
}

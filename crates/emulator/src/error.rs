//! Why a module cannot be loaded.

use crate::ptx::ParseErrors;

/// A module that cannot be loaded.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The text is not PTX.
    #[error("the text is not PTX:\n{0}")]
    Parse(#[from] ParseErrors),
    /// Instructions that are not known, all of them.
    #[error("instructions that are not supported:{}", list(.0))]
    Unsupported(Vec<UnsupportedInstruction>),
    /// The module as a whole: variables too large, addresses of what is not there.
    #[error("the module cannot be laid out: {0}")]
    Module(String),
}

/// An instruction that is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {instruction}: {what}")]
pub struct UnsupportedInstruction {
    /// Of the PTX text, counted from 1.
    pub line: u32,
    /// Its opcode.
    pub instruction: String,
    /// What of it is not known.
    pub what: String,
}

fn list(errors: &[impl std::fmt::Display]) -> String {
    errors.iter().map(|error| format!("\n  {error}")).collect()
}

//! From what a module says to what is executed.

mod function;
mod layout;
mod modifiers;
mod operands;

pub(crate) use function::program;
pub(crate) use modifiers::Modifiers;
pub(crate) use operands::{Address, Decoder, OperandWord, Source};

/// Why an instruction cannot be executed: what of it is not known.
pub(crate) type Unsupported = String;

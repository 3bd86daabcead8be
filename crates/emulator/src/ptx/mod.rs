//! PTX text and what it says.

pub mod ast;

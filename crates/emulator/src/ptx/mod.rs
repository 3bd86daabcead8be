//! PTX text and what it says.

pub mod ast;
mod error;
mod lexer;
mod number;
mod parser;
mod special;

pub use error::{ParseError, ParseErrors};
pub use parser::parse;

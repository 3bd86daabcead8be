//! What is wrong with a PTX text.

use std::fmt;

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{line}:{column}: found {found}, expected {expected}")]
pub struct ParseError {
    /// Of the PTX text, counted from 1.
    pub line: u32,
    /// In characters, counted from 1.
    pub column: u32,
    /// What stands there.
    pub found: String,
    /// What had to stand there.
    pub expected: String,
}

/// What is wrong with a text: at least one error, in the order of the text. Long lists are cut short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParseErrors(pub Vec<ParseError>);

impl std::error::Error for ParseErrors {}

impl fmt::Display for ParseErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(|error| format!("PTX {error}")).collect();
        f.write_str(&lines.join("\n"))
    }
}

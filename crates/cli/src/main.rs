//! The `longhand` command.
#![forbid(unsafe_code)]
fn main() {}

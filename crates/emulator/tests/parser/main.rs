//! What the parser of PTX promises.

mod consistent;
mod declarations;
mod errors;
mod expressions;
mod files;
mod operands;
mod print;
mod robustness;
mod round_trip;
mod scopes;

use longhand_emulator::ptx::ast::{Body, Module};
use longhand_emulator::ptx::{ParseErrors, parse};

/// Three lines, so that what follows starts on line 4.
const HEADER: &str = ".version 9.0\n.target sm_90a\n.address_size 64\n";

/// What stands at a module's scope.
fn module(text: &str) -> Result<Module, ParseErrors> {
    parse(&format!("{HEADER}{text}"))
}

/// The body of an entry, from line 5 on, in which `%r0` to `%r9`, `%rd0` to `%rd9`, `%p0` to `%p9` and the vectors
/// `%v0` to `%v9` are declared.
fn body(text: &str) -> Result<Body, ParseErrors> {
    let declared = ".reg .b32 %r<10>; .reg .b64 %rd<10>; .reg .pred %p<10>; .reg .v4 .f32 %v<10>;";
    let parsed = module(&format!(".entry k(.param .u64 a) {{ {declared}\n{text}\n}}"))?;
    Ok(parsed
        .functions
        .into_iter()
        .next_back()
        .and_then(|function| function.body)
        .expect("the entry has a body"))
}

/// Line, column, and what is found and expected, of each error of an outcome.
fn errors<T: std::fmt::Debug>(outcome: Result<T, ParseErrors>) -> Vec<(u32, u32, String, String)> {
    let errors = outcome.expect_err("the text is not PTX").0;
    errors.into_iter().map(|error| (error.line, error.column, error.found, error.expected)).collect()
}

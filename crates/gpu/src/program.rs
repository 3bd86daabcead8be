//! What NVRTC compiles: a CUDA source, its headers and its constants.

use std::borrow::Cow;
use std::fmt::{self, Write};

use crate::Layout;

/// Compile-time constants, handed to CUDA as the generated header `constants.cuh`.
///
/// They are `constexpr`, not macros, so that they obey scopes and types.
///
/// ```
/// use longhand_gpu::Constants;
///
/// let constants = Constants::new().int("HEAD_DIM", 64).bool("CAUSAL", true).alias("Element", "bf16");
/// assert_eq!(constants.to_string(), "HEAD_DIM=64, CAUSAL=true, Element=bf16");
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Constants(Vec<(String, Value)>);

#[derive(Clone, Debug, PartialEq)]
enum Value {
    Int(i64),
    Bool(bool),
    Float(f32),
    Alias(String),
}

impl Constants {
    /// No constants.
    #[must_use]
    pub fn new() -> Constants {
        Constants::default()
    }

    /// `constexpr int NAME = value`, or `long long` where an `int` is too small.
    #[must_use]
    pub fn int(self, name: &str, value: impl Into<i64>) -> Constants {
        self.with(name, Value::Int(value.into()))
    }

    /// `constexpr bool NAME = value`.
    #[must_use]
    pub fn bool(self, name: &str, value: bool) -> Constants {
        self.with(name, Value::Bool(value))
    }

    /// `constexpr float NAME = value`, to the last bit; infinities and NaN included.
    #[must_use]
    pub fn float(self, name: &str, value: f32) -> Constants {
        self.with(name, Value::Float(value))
    }

    /// `using NAME = type_name`. A type that is not one of C++'s own is declared ahead as a struct, so that the
    /// header which defines it may be included later.
    #[must_use]
    pub fn alias(self, name: &str, type_name: &str) -> Constants {
        self.with(name, Value::Alias(type_name.to_owned()))
    }

    fn with(mut self, name: &str, value: Value) -> Constants {
        self.0.push((name.to_owned(), value));
        self
    }

    /// The text of `constants.cuh`.
    pub(crate) fn header(&self) -> String {
        let mut text = String::from("#pragma once\n");
        for (name, value) in &self.0 {
            let _ = match value {
                Value::Int(v) if i32::try_from(*v).is_ok_and(|v| v > i32::MIN) => {
                    writeln!(text, "constexpr int {name} = {v};")
                }
                // The literal 9223372036854775808 is too large for the minus sign in front of it.
                Value::Int(i64::MIN) => {
                    writeln!(text, "constexpr long long {name} = {}LL - 1;", i64::MIN + 1)
                }
                Value::Int(v) => writeln!(text, "constexpr long long {name} = {v}LL;"),
                Value::Bool(v) => writeln!(text, "constexpr bool {name} = {v};"),
                Value::Float(v) => writeln!(text, "constexpr float {name} = {};", float_literal(*v)),
                Value::Alias(v) if is_fundamental(v) => writeln!(text, "using {name} = {v};"),
                Value::Alias(v) => writeln!(text, "struct {v};\nusing {name} = {v};"),
            };
        }
        text
    }
}

/// `NAME=value, ...`, for error messages.
impl fmt::Display for Constants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (name, value)) in self.0.iter().enumerate() {
            f.write_str(if i == 0 { "" } else { ", " })?;
            match value {
                Value::Int(v) => write!(f, "{name}={v}")?,
                Value::Bool(v) => write!(f, "{name}={v}")?,
                Value::Float(v) => write!(f, "{name}={v:?}")?,
                Value::Alias(v) => write!(f, "{name}={v}")?,
            }
        }
        Ok(())
    }
}

/// A C++ literal of exactly this value: Rust's shortest text that reads back the same.
fn float_literal(value: f32) -> String {
    if value.is_finite() {
        format!("{value:?}f")
    } else {
        format!("__builtin_bit_cast(float, {:#x}u)", value.to_bits())
    }
}

fn is_fundamental(type_name: &str) -> bool {
    let words = ["char", "short", "int", "long", "float", "double", "bool", "void", "signed", "unsigned"];
    type_name.split_whitespace().next().is_some_and(|word| words.contains(&word))
}

/// A CUDA program: what [`Compiler::compile`](crate::Compiler::compile) takes.
///
/// `#include` finds the headers given here, by exactly the name given, and the generated `constants.cuh`.
/// Kernels are `extern "C" __global__` functions.
///
/// ```
/// use longhand_gpu::{Constants, Program};
///
/// let program = Program::new("fill.cu", r#"
///     #include "constants.cuh"
///     struct Params { float* x; };
///     extern "C" __global__ void fill(const __grid_constant__ Params p) { p.x[threadIdx.x] = VALUE; }
/// "#).constants(Constants::new().float("VALUE", 0.5));
/// assert_eq!(program.name(), "fill.cu");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Program {
    name: Cow<'static, str>,
    code: Cow<'static, str>,
    headers: Vec<(Cow<'static, str>, Cow<'static, str>)>,
    constants: Constants,
    layouts: Vec<Layout>,
}

impl Program {
    /// A program from its file name, which compile errors and line information show, and its source text.
    #[must_use]
    pub fn new(name: impl Into<Cow<'static, str>>, code: impl Into<Cow<'static, str>>) -> Program {
        Program {
            name: name.into(),
            code: code.into(),
            headers: Vec::new(),
            constants: Constants::new(),
            layouts: Vec::new(),
        }
    }

    /// Adds a header that `#include "name"` finds.
    #[must_use]
    pub fn header(
        mut self,
        name: impl Into<Cow<'static, str>>,
        text: impl Into<Cow<'static, str>>,
    ) -> Program {
        self.headers.push((name.into(), text.into()));
        self
    }

    /// Adds several headers, `(name, text)`.
    #[must_use]
    pub fn headers(mut self, headers: &[(&'static str, &'static str)]) -> Program {
        self.headers.extend(headers.iter().map(|&(name, text)| (name.into(), text.into())));
        self
    }

    /// Sets the constants that `#include "constants.cuh"` brings in.
    #[must_use]
    pub fn constants(mut self, constants: Constants) -> Program {
        self.constants = constants;
        self
    }

    /// Has CUDA check that its struct of the same name has this layout. May be called once for each struct.
    #[must_use]
    pub fn params(mut self, layout: Layout) -> Program {
        self.layouts.push(layout);
        self
    }

    /// The file name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The constants, as `NAME=value, ...`.
    #[must_use]
    pub fn constants_text(&self) -> String {
        self.constants.to_string()
    }

    /// The source as NVRTC gets it: the code, then the layout checks under a file name that tells what they are.
    pub(crate) fn source(&self) -> String {
        let mut source = self.code.clone().into_owned();
        if !self.layouts.is_empty() {
            source.push_str("\n#line 1 \"layout of the parameter struct, Rust against CUDA\"\n");
            source.extend(self.layouts.iter().map(Layout::assertions));
        }
        source
    }

    /// Every header as NVRTC gets it, `constants.cuh` first.
    pub(crate) fn all_headers(&self) -> Vec<(String, String)> {
        let given = self.headers.iter().map(|(name, text)| (name.to_string(), text.to_string()));
        std::iter::once(("constants.cuh".to_owned(), self.constants.header())).chain(given).collect()
    }
}

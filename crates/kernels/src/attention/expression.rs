//! The user's own scores and masks: CUDA expressions that are compiled into the kernels.

use std::fmt::Write;

use longhand_gpu::DevicePtr;

use super::arguments::Arguments;
use crate::{Dtype, Error, Result};

/// `MAX_NAMED` of `named.cuh`.
pub(super) const MAX_NAMED: usize = 8;

/// The type of what an expression calls by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum NamedType {
    /// A tensor, which the expression indexes by elements: `table[h * 128 + q]`. Its elements are read as `float`.
    Tensor(Dtype),
    /// A tensor of i32, which the expression indexes by elements.
    Integers,
    /// A `float`.
    Float,
    /// A `long long`.
    Integer,
}

/// What a name stands for in a launch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Named {
    /// The first element of a [`NamedType::Tensor`].
    Tensor(DevicePtr),
    /// The first element of a [`NamedType::Integers`].
    Integers(DevicePtr),
    /// A [`NamedType::Float`].
    Float(f32),
    /// A [`NamedType::Integer`].
    Integer(i64),
}

/// The expressions of one attention, and what they call by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Expressions {
    pub mask: Option<String>,
    pub score: Option<String>,
    pub named: Vec<(String, NamedType)>,
}

impl Expressions {
    pub fn check(&self, operation: &'static str) -> Result<()> {
        for (argument, text) in [("mask expression", &self.mask), ("score expression", &self.score)] {
            if text.as_ref().is_some_and(|text| text.trim().is_empty()) {
                return Err(Error::argument(operation, argument, "empty", "a CUDA expression"));
            }
        }
        if self.named.len() > MAX_NAMED {
            let expected = format!("at most {MAX_NAMED}");
            return Err(Error::argument(operation, "number of names", self.named.len(), expected));
        }
        if let Some((name, _)) = self.named.first()
            && self.mask.is_none()
            && self.score.is_none()
        {
            let expected = "of an attention with a mask or score expression";
            return Err(Error::argument(operation, "name", name, expected));
        }
        for (i, (name, _)) in self.named.iter().enumerate() {
            if !is_identifier(name) {
                let expected = "a C++ identifier that is no keyword and none of b, h, q, k, score and named";
                return Err(Error::argument(operation, "name", format!("{name:?}"), expected));
            }
            if self.named[..i].iter().any(|(other, _)| other == name) {
                return Err(Error::argument(operation, "name", format!("{name:?} twice"), "said once"));
            }
        }
        Ok(())
    }

    /// Whether the mask expression may depend on this name.
    pub fn mask_is_of(&self, name: &str) -> bool {
        let letter = |letter: char| letter.is_ascii_alphanumeric() || letter == '_';
        self.mask.as_ref().is_some_and(|text| text.split(|c| !letter(c)).any(|word| word == name))
    }

    /// `attention/expression.cuh`. Compile errors show where they are in the user's text.
    pub fn header(&self) -> String {
        let mut names = String::new();
        for (i, (name, of)) in self.named.iter().enumerate() {
            let function = match of {
                NamedType::Tensor(dtype) => format!("named_tensor<{}>", dtype.cuda_name()),
                NamedType::Integers => "named_tensor<int>".to_owned(),
                NamedType::Float => "named_float".to_owned(),
                NamedType::Integer => "named_integer".to_owned(),
            };
            let _ = writeln!(names, "    [[maybe_unused]] const auto {name} = {function}(named[{i}]);");
        }
        let function = |head: &str, title: &str, text: &str| {
            format!(
                "{head} {{\n{names}    return (\n#line 1 \"{title}\"\n{text}\n#line 1 \"attention/expression.cuh\"\n    );\n}}\n"
            )
        };
        let places = "const int b, const int h, const int q, const int k, const Named& named";
        let score = self.score.as_deref().unwrap_or("score");
        let mask = self.mask.as_deref().unwrap_or("true");
        [
            "#pragma once\n#include \"attention/dual.cuh\"\n#include \"attention/named.cuh\"\n".to_owned(),
            function(
                &format!("inline Dual user_score(const Dual score, {places})"),
                "score expression",
                score,
            ),
            function(&format!("inline bool user_mask({places})"), "mask expression", mask),
        ]
        .concat()
    }

    /// The values of the names, as kernels take them: 8 bytes each.
    pub fn slots(&self, arguments: &Arguments, given: &[(&str, Named)]) -> Result<[u64; MAX_NAMED]> {
        if let Some((name, _)) =
            given.iter().find(|(name, _)| self.named.iter().all(|(known, _)| known != name))
        {
            let known: Vec<&str> = self.named.iter().map(|(known, _)| known.as_str()).collect();
            let expected =
                format!("one of those that the attention was described with: {}", known.join(", "));
            return Err(arguments.error("name", format!("{name:?}"), expected));
        }
        let mut slots = [0; MAX_NAMED];
        for (slot, (name, of)) in slots.iter_mut().zip(&self.named) {
            let value = given.iter().find(|(given, _)| given == name).map(|(_, value)| *value);
            *slot = match (of, value) {
                (NamedType::Tensor(dtype), Some(Named::Tensor(data))) => {
                    arguments.check_pointer(name, data, dtype.size() as u64)?;
                    data.0
                }
                (NamedType::Integers, Some(Named::Integers(data))) => {
                    arguments.check_pointer(name, data, 4)?;
                    data.0
                }
                (NamedType::Float, Some(Named::Float(x))) => x.to_bits().into(),
                (NamedType::Integer, Some(Named::Integer(n))) => n as u64,
                (of, value) => {
                    let was = value.map_or("missing".to_owned(), |value| format!("{value:?}"));
                    return Err(arguments.error(name.as_str(), was, format!("given as {of:?}")));
                }
            };
        }
        Ok(slots)
    }
}

fn is_identifier(name: &str) -> bool {
    const TAKEN: &[&str] = &[
        "b",
        "h",
        "q",
        "k",
        "score",
        "named",
        "alignas",
        "alignof",
        "and",
        "and_eq",
        "asm",
        "auto",
        "bitand",
        "bitor",
        "bool",
        "break",
        "case",
        "catch",
        "char",
        "class",
        "compl",
        "const",
        "constexpr",
        "const_cast",
        "continue",
        "decltype",
        "default",
        "delete",
        "do",
        "double",
        "dynamic_cast",
        "else",
        "enum",
        "explicit",
        "export",
        "extern",
        "false",
        "float",
        "for",
        "friend",
        "goto",
        "if",
        "inline",
        "int",
        "long",
        "mutable",
        "namespace",
        "new",
        "noexcept",
        "not",
        "not_eq",
        "nullptr",
        "operator",
        "or",
        "or_eq",
        "private",
        "protected",
        "public",
        "register",
        "reinterpret_cast",
        "return",
        "short",
        "signed",
        "sizeof",
        "static",
        "static_assert",
        "static_cast",
        "struct",
        "switch",
        "template",
        "this",
        "thread_local",
        "throw",
        "true",
        "try",
        "typedef",
        "typeid",
        "typename",
        "union",
        "unsigned",
        "using",
        "virtual",
        "void",
        "volatile",
        "wchar_t",
        "while",
        "xor",
        "xor_eq",
    ];
    let mut letters = name.chars();
    letters.next().is_some_and(|first| first.is_ascii_alphabetic() || first == '_')
        && letters.all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        && !name.starts_with("__")
        && !TAKEN.contains(&name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::AttentionShape;

    fn expressions(names: &[(&str, NamedType)]) -> Expressions {
        let named = names.iter().map(|&(name, of)| (name.to_owned(), of)).collect();
        Expressions { score: Some("score".to_owned()), named, ..Expressions::default() }
    }

    fn message<T>(result: Result<T>) -> String {
        result.map_or_else(|error| error.to_string(), |_| "fine".into())
    }

    #[test]
    fn names_are_identifiers_that_nobody_else_uses() {
        let check = |name| message(expressions(&[(name, NamedType::Float)]).check("attention forward"));
        for name in ["slopes", "_x1", "Q"] {
            assert_eq!(check(name), "fine");
        }
        for name in ["", "1x", "a b", "score", "float", "ä", "__x", "x;"] {
            assert!(
                check(name).starts_with(&format!("attention forward: name is {name:?}")),
                "{}",
                check(name)
            );
        }
        let twice = expressions(&[("x", NamedType::Float), ("x", NamedType::Integer)]);
        assert!(message(twice.check("attention forward")).contains("name is \"x\" twice"));
        let alone = Expressions { score: None, ..expressions(&[("x", NamedType::Float)]) };
        assert!(message(alone.check("attention forward")).contains("of an attention with a mask or score"));
        let empty = Expressions { mask: Some(" ".to_owned()), ..Expressions::default() };
        assert!(message(empty.check("attention forward")).contains("mask expression is empty"));
        let names: Vec<String> = (0..9).map(|i| format!("x{i}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), NamedType::Float)).collect();
        assert!(message(expressions(&many).check("attention forward")).contains("number of names is 9"));
    }

    #[test]
    fn each_name_is_given_once_and_as_it_was_described() {
        let shape = AttentionShape { batch: 1, queries: 1, keys: 1, heads: 1, kv_heads: 1 };
        let arguments =
            Arguments { operation: "attention forward", dtype: Dtype::Bf16, shape, documents: false };
        let known = expressions(&[("x", NamedType::Float), ("table", NamedType::Tensor(Dtype::Bf16))]);
        let slots = |given: &[(&str, Named)]| known.slots(&arguments, given);
        let table = ("table", Named::Tensor(DevicePtr(64)));
        assert_eq!(slots(&[table, ("x", Named::Float(1.0))]).unwrap()[..3], [0x3f80_0000, 64, 0]);
        assert_eq!(message(slots(&[table])), "attention forward: x is missing, it has to be given as Float");
        assert_eq!(
            message(slots(&[table, ("x", Named::Integer(1))])),
            "attention forward: x is Integer(1), it has to be given as Float"
        );
        assert!(message(slots(&[("y", Named::Float(1.0))])).contains("name is \"y\""));
        let null = ("table", Named::Tensor(DevicePtr::NULL));
        assert!(message(slots(&[null, ("x", Named::Float(1.0))])).contains("table is DevicePtr(0x0)"));
    }
}

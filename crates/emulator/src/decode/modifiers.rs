//! What stands between an instruction's dots.

use crate::decode::Unsupported;
use crate::ptx::ast::{Instruction, Type};

/// The modifiers of an instruction, taken one after another. Each must be taken: one that is not known is an error.
#[derive(Clone)]
pub(crate) struct Modifiers<'a> {
    rest: &'a [String],
}

impl<'a> Modifiers<'a> {
    pub fn new(instruction: &'a Instruction) -> Self {
        Modifiers { rest: &instruction.modifiers }
    }

    /// The next one, not taken.
    pub fn peek(&self) -> Option<&'a str> {
        self.rest.first().map(String::as_str)
    }

    /// Takes the next one, whatever it is.
    pub fn next(&mut self) -> Option<&'a str> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(first)
    }

    /// Takes the next one if it is this.
    pub fn flag(&mut self, name: &str) -> bool {
        let found = self.peek() == Some(name);
        if found {
            self.next();
        }
        found
    }

    /// Takes the next one if it is one of these.
    pub fn one_of<T: Copy>(&mut self, names: &[(&str, T)]) -> Option<T> {
        let (_, value) = names.iter().find(|(name, _)| self.peek() == Some(name))?;
        self.next();
        Some(*value)
    }

    /// Takes the next one, which must be one of these.
    pub fn need<T: Copy>(&mut self, what: &str, names: &[(&str, T)]) -> Result<T, Unsupported> {
        let known = || names.iter().map(|(name, _)| format!(".{name}")).collect::<Vec<_>>().join(" ");
        self.one_of(names).ok_or_else(|| match self.peek() {
            Some(found) => format!("{what} .{found} (known: {})", known()),
            None => format!("no {what} (known: {})", known()),
        })
    }

    /// Takes a fundamental type, which must come next.
    pub fn ty(&mut self) -> Result<Type, Unsupported> {
        self.need("type", &TYPES)
    }

    /// Takes a fundamental type if one comes next.
    pub fn maybe_ty(&mut self) -> Option<Type> {
        self.one_of(&TYPES)
    }

    /// None of those that follow but these may stand there twice: for instructions whose modifiers come in any order.
    pub fn distinct(&self, but: &[&str]) -> Result<(), Unsupported> {
        let again = |(index, name): (usize, &String)| {
            self.rest[..index].contains(name) && !but.contains(&name.as_str())
        };
        match self.rest.iter().enumerate().find(|it| again(*it)) {
            None => Ok(()),
            Some((_, name)) => Err(format!("modifier .{name} twice")),
        }
    }

    /// All must have been taken.
    pub fn finish(&self) -> Result<(), Unsupported> {
        match self.peek() {
            None => Ok(()),
            Some(found) => Err(format!("modifier .{found}")),
        }
    }
}

/// Fundamental types by name.
pub(crate) const TYPES: [(&str, Type); 20] = [
    ("b8", Type::B8),
    ("b16", Type::B16),
    ("b32", Type::B32),
    ("b64", Type::B64),
    ("b128", Type::B128),
    ("u8", Type::U8),
    ("u16", Type::U16),
    ("u32", Type::U32),
    ("u64", Type::U64),
    ("s8", Type::S8),
    ("s16", Type::S16),
    ("s32", Type::S32),
    ("s64", Type::S64),
    ("f16", Type::F16),
    ("f16x2", Type::F16x2),
    ("bf16", Type::Bf16),
    ("bf16x2", Type::Bf16x2),
    ("f32", Type::F32),
    ("f64", Type::F64),
    ("pred", Type::Pred),
];

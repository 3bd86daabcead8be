//! What names stand for, by scope.

use std::collections::HashMap;

use crate::ptx::ast::{Register, RegisterId, Symbol, Type};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name {
    /// A register that no instruction has used yet, and its components.
    Unused(Type, u32),
    /// A register.
    Register(RegisterId),
    /// Anything else.
    Symbol(Symbol),
}

/// `%r<46>`: registers `%r0` to `%r45`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    pub count: u64,
    pub ty: Type,
    pub vector: u32,
}

#[derive(Default)]
struct Scope<'t> {
    names: HashMap<&'t str, Name>,
    /// By what stands before the number.
    ranges: HashMap<&'t str, Range>,
}

/// The scopes around a place in the text: the module, the parameters of the function, then one for each `{`.
pub(super) struct Names<'t> {
    scopes: Vec<Scope<'t>>,
}

impl Default for Names<'_> {
    fn default() -> Self {
        Self { scopes: vec![Scope::default()] }
    }
}

impl<'t> Names<'t> {
    pub fn open(&mut self) {
        self.scopes.push(Scope::default());
    }

    pub fn close(&mut self) {
        self.scopes.pop();
    }

    /// Back to the module's scope.
    pub fn close_function(&mut self) {
        self.scopes.truncate(1);
    }

    /// `false` if the innermost scope has such a name already.
    #[must_use]
    pub fn declare(&mut self, name: &'t str, what: Name) -> bool {
        let Some(scope) = self.scopes.last_mut() else {
            return false;
        };
        if scope.in_range(name).is_some() {
            return false;
        }
        let before = scope.names.insert(name, what);
        if let Some(before) = before {
            scope.names.insert(name, before);
        }
        before.is_none()
    }

    /// `false` if the innermost scope has such a range already.
    #[must_use]
    pub fn declare_range(&mut self, prefix: &'t str, range: Range) -> bool {
        let Some(scope) = self.scopes.last_mut() else {
            return false;
        };
        scope.ranges.insert(prefix, range).is_none()
    }

    /// What `name` stands for in the module's scope.
    pub fn of_module(&self, name: &str) -> Option<Name> {
        self.scopes.first()?.names.get(name).copied()
    }

    /// What `name` stands for here.
    pub fn declared(&self, name: &str) -> Option<Name> {
        self.scopes.iter().rev().find_map(|scope| scope.names.get(name)).copied()
    }

    /// What `name` stands for here, in an instruction: a register that is used for the first time joins `registers`.
    pub fn find(&mut self, name: &'t str, registers: &mut Vec<Register>) -> Option<Name> {
        self.scopes.iter_mut().rev().find_map(|scope| scope.find(name, registers))
    }
}

impl<'t> Scope<'t> {
    fn find(&mut self, name: &'t str, registers: &mut Vec<Register>) -> Option<Name> {
        let (ty, vector) = match self.names.get(name) {
            Some(Name::Unused(ty, vector)) => (*ty, *vector),
            Some(known) => return Some(*known),
            None => self.in_range(name).map(|range| (range.ty, range.vector))?,
        };
        let used = Name::Register(RegisterId(registers.len() as u32));
        registers.push(Register { name: name.to_owned(), ty, vector });
        self.names.insert(name, used);
        Some(used)
    }

    fn in_range(&self, name: &str) -> Option<Range> {
        /// Digits of the largest count.
        const LONGEST: usize = 10;
        if self.ranges.is_empty() {
            return None;
        }
        let digits = name.bytes().rev().take(LONGEST).take_while(u8::is_ascii_digit).count();
        (1..=digits).find_map(|length| {
            let (prefix, number) = name.split_at(name.len() - length);
            let range = self.ranges.get(prefix)?;
            let canonical = length == 1 || !number.starts_with('0');
            (canonical && number.parse::<u64>().ok()? < range.count).then_some(*range)
        })
    }
}

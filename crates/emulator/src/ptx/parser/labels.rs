//! Labels, which may be used before they are defined.

use std::collections::HashMap;

use crate::ptx::ast::LabelId;
use crate::ptx::lexer::Token;

/// What a label stands before.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Target {
    /// An instruction.
    Code(LabelId),
    /// A `.branchtargets`, `.calltargets` or `.callprototype`, and its name in the body.
    Table(String),
}

/// Index into [`Labels::slots`]. Until its function ends, the label of an operand is one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Slot(u32);

/// A name that was used or defined as a label in one scope.
struct Entry<'t> {
    first: Token<'t>,
    target: Option<Target>,
    /// The one of the scope around it that it turned out to be.
    outer: Option<Slot>,
}

/// The labels of one function. A label is known in its scope and those within, before its definition too.
#[derive(Default)]
pub(super) struct Labels<'t> {
    slots: Vec<Entry<'t>>,
    scopes: Vec<HashMap<&'t str, Slot>>,
    /// How many tables have each name.
    tables: HashMap<&'t str, u32>,
}

impl Slot {
    pub fn provisional(self) -> LabelId {
        LabelId(self.0)
    }
}

impl<'t> Labels<'t> {
    pub fn open(&mut self) {
        self.scopes.push(HashMap::new());
    }

    /// What is not defined in the innermost scope is looked for in the one around it.
    pub fn close(&mut self) {
        let Some(closed) = self.scopes.pop() else { return };
        let Some(around) = self.scopes.last_mut() else { return };
        for (name, slot) in closed {
            let entry = &mut self.slots[slot.0 as usize];
            if entry.target.is_none() {
                let outer = *around.entry(name).or_insert(slot);
                entry.outer = (outer != slot).then_some(outer);
            }
        }
    }

    /// The slot of a label that is used here.
    pub fn used(&mut self, name: Token<'t>) -> Slot {
        let new = Slot(self.slots.len() as u32);
        let Some(scope) = self.scopes.last_mut() else { return new };
        let slot = *scope.entry(name.text).or_insert(new);
        if slot == new {
            self.slots.push(Entry { first: name, target: None, outer: None });
        }
        slot
    }

    /// `false` if the innermost scope has such a label already.
    #[must_use]
    pub fn define(&mut self, name: Token<'t>, target: Target) -> bool {
        let slot = self.used(name);
        let entry = &mut self.slots[slot.0 as usize];
        let first = entry.target.is_none();
        if first {
            entry.target = Some(target);
        }
        first
    }

    /// A name for a table that no other table of the function has.
    pub fn name_table(&mut self, name: &'t str) -> String {
        let count = self.tables.entry(name).or_insert(0);
        *count += 1;
        if *count == 1 { name.to_owned() } else { format!("{name}.{count}") }
    }

    /// The first uses of labels that are defined nowhere, once the outermost scope has been closed.
    pub fn undefined(&self) -> Vec<Token<'t>> {
        self.slots
            .iter()
            .filter(|entry| entry.target.is_none() && entry.outer.is_none())
            .map(|entry| entry.first)
            .collect()
    }

    pub fn first_use(&self, provisional: LabelId) -> Option<Token<'t>> {
        self.slots.get(provisional.0 as usize).map(|entry| entry.first)
    }

    /// What the label of an operand stands before.
    pub fn target(&self, provisional: LabelId) -> Option<&Target> {
        let mut entry = self.slots.get(provisional.0 as usize)?;
        while let Some(outer) = entry.outer {
            entry = self.slots.get(outer.0 as usize)?;
        }
        entry.target.as_ref()
    }
}

//! The instructions: how each is decoded, and what it does. One file for each family.

pub(crate) mod async_copy;
mod async_store;
mod atomic;
mod barrier;
mod bits;
pub(crate) mod bulk;
mod cache;
pub(crate) mod cluster;
mod compare;
mod control;
mod convert;
mod data;
mod exchange;
mod fence;
mod float;
mod half;
mod integer;
mod matrix;
mod mbarrier;
mod mma;
mod mma_rare;
pub(crate) mod setmaxnreg;
mod value;
pub(crate) mod wgmma;
mod wmma;

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::count::Class;
use crate::decode::{Decoder, Unsupported};
use crate::program::Action;
use crate::ptx::ast::Instruction;

/// Instructions of one name.
pub(crate) struct Form {
    /// What the opcode starts with, whole words: `ld`, `cp.async.bulk`. Of several that fit the longest is meant. After
    /// it may stand ` (integer)`, ` (float)` or ` (half)`, where the last type of the opcode decides.
    pub name: &'static str,
    /// Its forms as the PTX ISA writes them, for the list of what is supported.
    pub syntax: &'static str,
    pub class: Class,
    pub decode: Decode,
}

pub(crate) type Decode = fn(&mut Decoder, &Instruction) -> Result<Action, Unsupported>;

impl Form {
    const fn integer(name: &'static str, syntax: &'static str, decode: Decode) -> Form {
        Form { name, syntax, class: Class::Integer, decode }
    }

    const fn float(name: &'static str, syntax: &'static str, decode: Decode) -> Form {
        Form { name, syntax, class: Class::Float, decode }
    }

    /// Of the special function unit.
    const fn special(name: &'static str, syntax: &'static str, decode: Decode) -> Form {
        Form { name, syntax, class: Class::Special, decode }
    }

    const fn compare(name: &'static str, syntax: &'static str, decode: Decode) -> Form {
        Form { name, syntax, class: Class::Compare, decode }
    }
}

/// All families.
const FAMILIES: &[&[Form]] = &[
    async_copy::FORMS,
    async_store::FORMS,
    atomic::FORMS,
    barrier::FORMS,
    bits::FORMS,
    bulk::FORMS,
    cache::FORMS,
    cluster::FORMS,
    compare::FORMS,
    control::FORMS,
    convert::FORMS,
    data::FORMS,
    exchange::FORMS,
    float::FORMS,
    half::FORMS,
    fence::FORMS,
    integer::FORMS,
    setmaxnreg::FORMS,
    matrix::FORMS,
    mbarrier::FORMS,
    mma::FORMS,
    mma_rare::FORMS,
    wgmma::FORMS,
    wmma::FORMS,
];

/// What a function ends with where its text ends.
pub(crate) static END: Form =
    Form { name: "ret", syntax: "", class: Class::Control, decode: |_, _| Ok(Action::Return) };

static BY_NAME: LazyLock<HashMap<&'static str, &'static Form>> =
    LazyLock::new(|| FAMILIES.iter().copied().flatten().map(|form| (form.name, form)).collect());

/// The opcode as it is written.
pub(crate) fn opcode(instruction: &Instruction) -> String {
    let modifiers = instruction.modifiers.iter().flat_map(|it| [".", it]);
    std::iter::once(&*instruction.name).chain(modifiers).collect()
}

/// The form of an instruction, if it is known.
pub(crate) fn find(instruction: &Instruction) -> Option<&'static Form> {
    let opcode = opcode(instruction);
    let kind = match instruction.modifiers.last().map(String::as_str) {
        Some("f32" | "f64" | "f32x2") => " (float)",
        Some("f16" | "f16x2" | "bf16" | "bf16x2") => " (half)",
        _ => " (integer)",
    };
    let mut name = &*opcode;
    loop {
        let found = BY_NAME.get(name).or_else(|| BY_NAME.get(&*format!("{name}{kind}")));
        if let Some(form) = found {
            return Some(form);
        }
        name = name.rsplit_once('.')?.0;
    }
}

/// What is supported, as a table in Markdown.
#[must_use]
pub fn supported() -> String {
    let mut forms: Vec<&Form> = FAMILIES.iter().copied().flatten().collect();
    forms.sort_by_key(|form| form.name);
    let row = |form: &&Form| format!("| `{}` | `{}` |\n", form.name, form.syntax.replace('|', "\\|"));
    let rows: String = forms.iter().map(row).collect();
    format!("| instruction | forms |\n|---|---|\n{rows}")
}

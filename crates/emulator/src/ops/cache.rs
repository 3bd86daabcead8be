//! Hints to caches, which the machine has not (PTX ISA, "prefetch, prefetchu", "applypriority", "discard",
//! "createpolicy").

use crate::count::Class;
use crate::decode::{Decoder, Modifiers, Unsupported};
use crate::fault::{Problem, SpaceName};
use crate::lanes::lanes_of;
use crate::machine::{Stop, access};
use crate::memory::{Kind, Space};
use crate::ops::Form;
use crate::program::Action;
use crate::ptx::ast::{Instruction, Operand};

pub(crate) const FORMS: &[Form] = &[
    Form {
        name: "prefetch",
        syntax: "prefetch{.global|.local}.L1|.L2 [a]; prefetch.global.L2::evict_last|.L2::evict_normal [a]; prefetch{.const|.param}.tensormap [a]",
        class: Class::Memory,
        decode: prefetch,
    },
    Form { name: "prefetchu", syntax: "prefetchu.L1 [a]", class: Class::Memory, decode: prefetch_uniform },
    Form {
        name: "applypriority",
        syntax: "applypriority{.global}.L2::evict_normal [a], 128",
        class: Class::Memory,
        decode: |decoder, instruction| whole_line(decoder, instruction, "L2::evict_normal"),
    },
    Form {
        name: "discard",
        syntax: "discard{.global}.L2 [a], 128",
        class: Class::Memory,
        decode: |decoder, instruction| whole_line(decoder, instruction, "L2"),
    },
    Form {
        name: "createpolicy",
        syntax: "createpolicy.fractional.L2::x{.L2::y}.b64 d{, fraction}; createpolicy.range{.global}.L2::x{.L2::y}.b64 d, [a], primary, total; createpolicy.cvt.L2.b64 d, property",
        class: Class::Move,
        decode: create_policy,
    },
];

fn nothing() -> Action {
    Action::run(|_| Ok(()))
}

fn prefetch(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let spaces = [("global", "global"), ("local", "local"), ("const", "const"), ("param", "param")];
    let space = modifiers.one_of(&spaces);
    let levels: &[(&str, ())] = match space {
        Some("global") => &[("L1", ()), ("L2", ()), ("L2::evict_last", ()), ("L2::evict_normal", ())],
        Some("local") => &[("L1", ()), ("L2", ())],
        Some(_) => &[("tensormap", ())],
        None => &[("L1", ()), ("L2", ()), ("tensormap", ())],
    };
    modifiers.need("level", levels)?;
    modifiers.finish()?;
    let [address] = &instruction.operands[..] else { return Err("operands".into()) };
    decoder.address(address)?;
    Ok(nothing())
}

fn prefetch_uniform(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.need("level", &[("L1", ())])?;
    modifiers.finish()?;
    let [address] = &instruction.operands[..] else { return Err("operands".into()) };
    decoder.address(address)?;
    Ok(nothing())
}

/// What concerns the 128 bytes at an address: those of `discard` are uninitialised from then on.
fn whole_line(decoder: &mut Decoder, instruction: &Instruction, level: &str) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let space = if modifiers.flag("global") { Space::Global } else { Space::Generic };
    modifiers.need("level", &[(level, ())])?;
    modifiers.finish()?;
    let [address, Operand::Integer(128)] = &instruction.operands[..] else { return Err("operands".into()) };
    let address = decoder.address(address)?;
    let discard = instruction.name == "discard";
    Ok(Action::run(move |cx| {
        let addresses = cx.addresses(&address);
        for lane in lanes_of(cx.mask) {
            let Some((SpaceName::Global, address)) = space.locate(addresses[lane]) else {
                let mut access = access(discard, SpaceName::Global, addresses[lane], 128);
                access.space = space.locate(addresses[lane]).map(|(space, _)| space);
                return Err(Stop::lane(lane, Problem::WrongSpace { access }));
            };
            cx.global_line(lane, address, Kind { write: discard, strong: None })?;
        }
        Ok(())
    }))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Policy {
    Fractional,
    Range,
    Convert,
}

const PRIORITIES: [(&str, ()); 4] =
    [("L2::evict_last", ()), ("L2::evict_normal", ()), ("L2::evict_first", ()), ("L2::evict_unchanged", ())];

/// Policies hint at how long a cache is to keep something: any value will do.
fn create_policy(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let kind = modifiers.need(
        "kind",
        &[("fractional", Policy::Fractional), ("range", Policy::Range), ("cvt", Policy::Convert)],
    )?;
    if kind == Policy::Range {
        modifiers.flag("global");
    }
    if kind == Policy::Convert {
        modifiers.need("level", &[("L2", ())])?;
    } else {
        modifiers.need("priority", &PRIORITIES)?;
        modifiers.one_of(&[("L2::evict_first", ()), ("L2::evict_unchanged", ())]);
    }
    modifiers.need("type", &[("b64", ())])?;
    modifiers.finish()?;
    let ((Policy::Fractional, [d] | [d, _]) | (Policy::Convert, [d, _]) | (Policy::Range, [d, _, _, _])) =
        (kind, &instruction.operands[..])
    else {
        return Err("operands".into());
    };
    let d = decoder.dst64(d)?;
    Ok(Action::run(move |cx| {
        cx.set(d, &[0; 32]);
        Ok(())
    }))
}

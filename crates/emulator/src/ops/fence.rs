//! Fences (PTX ISA, "membar, fence"), and what orders kernels (`griddepcontrol`).
//!
//! Lanes execute one after another here, so that ordinary accesses are always as ordered as a fence asks for. What a
//! fence does is to tell: of the asynchronous proxy, what was written; of races, what is ordered.

use crate::count::Class;
use crate::decode::{Decoder, Modifiers, Unsupported};
use crate::ops::Form;
use crate::program::Action;
use crate::ptx::ast::{Instruction, Operand};

pub(crate) const FORMS: &[Form] = &[
    Form {
        name: "membar",
        syntax: "membar.cta|.gl|.sys; membar.proxy.alias|.async{.global|.shared::cta|.shared::cluster}",
        class: Class::Synchronisation,
        decode: membar,
    },
    Form {
        name: "fence",
        syntax: "fence{.sc|.acq_rel|.acquire|.release}.cta|.cluster|.gpu|.sys; fence.acquire.sync_restrict::shared::cluster.cluster; fence.release.sync_restrict::shared::cta.cluster",
        class: Class::Synchronisation,
        decode: fence,
    },
    Form {
        name: "fence.mbarrier_init",
        syntax: "fence.mbarrier_init.release.cluster",
        class: Class::Synchronisation,
        decode: |_, instruction| exactly(instruction, &["mbarrier_init", "release", "cluster"]),
    },
    Form {
        name: "fence.proxy",
        syntax: "fence.proxy.alias|.async{.global|.shared::cta|.shared::cluster}; fence.proxy.async::generic.acquire.sync_restrict::shared::cluster.cluster; fence.proxy.async::generic.release.sync_restrict::shared::cta.cluster",
        class: Class::Synchronisation,
        decode: proxy,
    },
    Form {
        name: "fence.proxy.tensormap::generic",
        syntax: "fence.proxy.tensormap::generic.release.scope; fence.proxy.tensormap::generic.acquire.scope [addr], 128",
        class: Class::Synchronisation,
        decode: tensormap,
    },
    Form {
        name: "griddepcontrol",
        syntax: "griddepcontrol.launch_dependents|.wait",
        class: Class::Synchronisation,
        decode: grid_dependency,
    },
];

const SCOPES: [(&str, ()); 4] = [("cta", ()), ("cluster", ()), ("gpu", ()), ("sys", ())];

/// Prior accesses of the warp come before what follows, for others too.
fn order() -> Action {
    Action::run(|cx| {
        cx.end_epoch();
        Ok(())
    })
}

fn no_operands(instruction: &Instruction) -> Result<(), Unsupported> {
    match &instruction.operands[..] {
        [] => Ok(()),
        _ => Err("operands".into()),
    }
}

fn exactly(instruction: &Instruction, expected: &[&str]) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    for name in expected {
        modifiers.need("modifier", &[(name, ())])?;
    }
    modifiers.finish()?;
    no_operands(instruction)?;
    Ok(order())
}

fn membar(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    if modifiers.peek() == Some("proxy") {
        return proxy(decoder, instruction);
    }
    modifiers.need("level", &[("cta", ()), ("gl", ()), ("sys", ())])?;
    modifiers.finish()?;
    no_operands(instruction)?;
    Ok(order())
}

fn fence(_: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    match instruction.modifiers.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["acquire", "sync_restrict::shared::cluster", "cluster"]
        | ["release", "sync_restrict::shared::cta", "cluster"] => {}
        _ => {
            let mut modifiers = Modifiers::new(instruction);
            modifiers.one_of(&[("sc", ()), ("acq_rel", ()), ("acquire", ()), ("release", ())]);
            modifiers.need("scope", &SCOPES)?;
            modifiers.finish()?;
        }
    }
    no_operands(instruction)?;
    Ok(order())
}

/// Between the generic proxy and another: the asynchronous one is the one that sees something late.
fn proxy(_: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let modifiers: Vec<&str> = instruction.modifiers.iter().map(String::as_str).collect();
    let shared = match (&*instruction.name, &modifiers[..]) {
        (_, ["proxy", "alias"] | ["proxy", "async", "global"]) => false,
        (_, ["proxy", "async"] | ["proxy", "async", "shared::cta" | "shared::cluster"])
        | ("fence", ["proxy", "async::generic", "acquire", "sync_restrict::shared::cluster", "cluster"])
        | ("fence", ["proxy", "async::generic", "release", "sync_restrict::shared::cta", "cluster"]) => true,
        _ => return Err("kind of proxy fence".into()),
    };
    no_operands(instruction)?;
    if !shared {
        return Ok(order());
    }
    Ok(Action::run(|cx| {
        let writer = cx.writer();
        cx.cluster.proxies.fence(writer);
        Ok(())
    }))
}

fn tensormap(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.flag("proxy");
    modifiers.flag("tensormap::generic");
    let acquire = modifiers.need("order", &[("acquire", true), ("release", false)])?;
    modifiers.need("scope", &SCOPES)?;
    modifiers.finish()?;
    match (acquire, &instruction.operands[..]) {
        (false, []) => {}
        (true, [address, Operand::Integer(128)]) => drop(decoder.address(address)?),
        _ => return Err("operands".into()),
    }
    Ok(order())
}

/// Kernels run one after another here: a kernel that this one depends on is over, and none depends on it yet.
fn grid_dependency(_: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.need("action", &[("launch_dependents", ()), ("wait", ())])?;
    modifiers.finish()?;
    no_operands(instruction)?;
    Ok(order())
}

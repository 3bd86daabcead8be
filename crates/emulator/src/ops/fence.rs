//! Fences (PTX ISA, "membar, fence"), and what orders kernels (`griddepcontrol`).
//!
//! Lanes execute one after another here, so that ordinary accesses are always as ordered as a fence asks for. What a
//! fence does is to tell: of the asynchronous proxy, what was written; of races, what is ordered.

use crate::count::Class;
use crate::decode::{Decoder, Modifiers, Unsupported};
use crate::memory::Scope;
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
        decode: initialisation,
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

/// Prior accesses of the warp come before what follows, for others within the scope too.
fn order(scope: Scope) -> Action {
    Action::run(move |cx| {
        cx.end_epoch();
        if let Some(races) = &mut cx.cluster.races {
            races.fence(cx.warp.rank, cx.warp.index, cx.mask, scope);
        }
        Ok(())
    })
}

/// What others know of prior accesses stays as it is.
fn nothing() -> Action {
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

/// The initialisation of `mbarrier`s is made known to a cluster.
fn initialisation(_: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    for name in ["mbarrier_init", "release", "cluster"] {
        modifiers.need("modifier", &[(name, ())])?;
    }
    modifiers.finish()?;
    no_operands(instruction)?;
    Ok(order(Scope::Cluster))
}

fn membar(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    if modifiers.peek() == Some("proxy") {
        return proxy(decoder, instruction);
    }
    let levels = [("cta", Scope::Cta), ("gl", Scope::Gpu), ("sys", Scope::Gpu)];
    let scope = modifiers.need("level", &levels)?;
    modifiers.finish()?;
    no_operands(instruction)?;
    Ok(order(scope))
}

fn fence(_: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let scope = match instruction.modifiers.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["acquire", "sync_restrict::shared::cluster", "cluster"]
        | ["release", "sync_restrict::shared::cta", "cluster"] => Scope::Cluster,
        _ => {
            let mut modifiers = Modifiers::new(instruction);
            modifiers.one_of(&[("sc", ()), ("acq_rel", ()), ("acquire", ()), ("release", ())]);
            let scope = modifiers.need("scope", &Scope::NAMES)?;
            modifiers.finish()?;
            scope
        }
    };
    no_operands(instruction)?;
    Ok(order(scope))
}

/// Between the generic proxy and another: the asynchronous one is the one that sees something late.
fn proxy(_: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let modifiers: Vec<&str> = instruction.modifiers.iter().map(String::as_str).collect();
    let shared = match (&*instruction.name, &modifiers[..]) {
        (_, ["proxy", "alias"] | ["proxy", "async", "global"]) => false,
        (_, ["proxy", "async"] | ["proxy", "async", "shared::cta" | "shared::cluster"])
        | (
            "fence",
            ["proxy", "async::generic", "acquire", "sync_restrict::shared::cluster", "cluster"]
            | ["proxy", "async::generic", "release", "sync_restrict::shared::cta", "cluster"],
        ) => true,
        _ => return Err("kind of proxy fence".into()),
    };
    no_operands(instruction)?;
    if !shared {
        return Ok(nothing());
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
    let scope = modifiers.need("scope", &Scope::NAMES)?;
    modifiers.finish()?;
    match (acquire, &instruction.operands[..]) {
        (false, []) => {}
        (true, [address, Operand::Integer(128)]) => drop(decoder.address(address)?),
        _ => return Err("operands".into()),
    }
    Ok(order(scope))
}

/// Kernels run one after another here: a kernel that this one depends on is over, and none depends on it yet.
fn grid_dependency(_: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.need("action", &[("launch_dependents", ()), ("wait", ())])?;
    modifiers.finish()?;
    no_operands(instruction)?;
    Ok(nothing())
}

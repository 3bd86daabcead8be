//! Matrices between shared memory and registers (PTX ISA, "Warp-level Matrix Instructions: ldmatrix", "stmatrix",
//! "movmatrix").

use crate::count::Class;
use crate::decode::{Address, Decoder, Modifiers, Unsupported};
use crate::fault::{Access, Problem, SpaceName};
use crate::lanes::{Done, LANES, Lanes, lanes_of};
use crate::machine::{Context, Stop};
use crate::memory::{Kind, Space};
use crate::ops::Form;
use crate::ops::mma::{sources, targets};
use crate::program::Action;
use crate::ptx::ast::Instruction;
use crate::tensor::ldmatrix::{self, Matrices, Row};

pub(crate) const FORMS: &[Form] = &[
    Form {
        name: "ldmatrix",
        syntax: "ldmatrix.sync.aligned.m8n8.num{.trans}{.shared{::cta}}.b16 r, [p]; \
                 ldmatrix.sync.aligned.m16n16.num.trans{.shared{::cta}}.b8 r, [p]",
        class: Class::Matrix,
        decode: load,
    },
    Form {
        name: "stmatrix",
        syntax: "stmatrix.sync.aligned.m8n8.num{.trans}{.shared{::cta}}.b16 [p], r; \
                 stmatrix.sync.aligned.m16n8.num.trans{.shared{::cta}}.b8 [p], r",
        class: Class::Matrix,
        decode: store,
    },
    Form {
        name: "movmatrix",
        syntax: "movmatrix.sync.aligned.m8n8.trans.b16 d, a",
        class: Class::Matrix,
        decode: transpose,
    },
];

/// What the modifiers of a load or a store say. `wide` is the form of 8-bit elements, which is always transposed.
fn modifiers(
    instruction: &Instruction,
    wide: (&'static str, ldmatrix::Form),
) -> Result<(Matrices, Space), Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.need("modifier", &[("sync", ())])?;
    modifiers.need("modifier", &[("aligned", ())])?;
    let is_wide = modifiers.need("shape", &[("m8n8", false), (wide.0, true)])?;
    let count = modifiers.need("number", &[("x1", 1), ("x2", 2), ("x4", 4)])?;
    let trans = modifiers.flag("trans");
    let shared = modifiers.flag("shared") || modifiers.flag("shared::cta");
    modifiers.need("type", &[(if is_wide { "b8" } else { "b16" }, ())])?;
    modifiers.finish()?;
    let form = match (is_wide, trans) {
        (false, false) => ldmatrix::Form::M8n8,
        (false, true) => ldmatrix::Form::M8n8Trans,
        (true, true) => wide.1,
        (true, false) => return Err(format!("{} without .trans", wide.0)),
    };
    let matrices = Matrices { form, count };
    if matrices.rows() > LANES {
        return Err(format!("{} of .x{count}", wide.0));
    }
    Ok((matrices, if shared { Space::Shared } else { Space::Generic }))
}

fn load(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let (matrices, space) = modifiers(instruction, ("m16n16", ldmatrix::Form::M16n16Trans))?;
    let [d, address] = &instruction.operands[..] else { return Err("operands".into()) };
    let targets = targets(decoder, d, matrices.registers())?;
    let address = decoder.address(address)?;
    Ok(Action::run(move |cx| {
        cx.whole_warp()?;
        let mut words = [[0; LANES]; 4];
        rows(cx, &matrices, space, &address, false, |cx, addresses| {
            cx.load(Space::Shared, addresses, 16, Kind::READ, &mut words)
        })?;
        let rows: [Row; LANES] = std::array::from_fn(|lane| words.map(|word| word[lane]));
        let mut out = [[0; LANES]; 4];
        matrices.load(&rows[..matrices.rows()], &mut out[..matrices.registers()]);
        for (register, values) in targets.iter().zip(&out) {
            cx.set(*register, values);
        }
        Ok(())
    }))
}

fn store(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let (matrices, space) = modifiers(instruction, ("m16n8", ldmatrix::Form::M16n8Trans))?;
    let [address, source] = &instruction.operands[..] else { return Err("operands".into()) };
    let address = decoder.address(address)?;
    let sources = sources(decoder, source, matrices.registers())?;
    Ok(Action::run(move |cx| {
        cx.whole_warp()?;
        let registers = cx.gather::<4>(&sources);
        let mut data = [[0; 4]; LANES];
        matrices.store(&registers[..matrices.registers()], &mut data[..matrices.rows()]);
        let words: [Lanes<u32>; 4] = std::array::from_fn(|k| data.map(|row| row[k]));
        cx.cluster.changes += 1;
        rows(cx, &matrices, space, &address, true, |cx, addresses| {
            cx.store(Space::Shared, addresses, 16, Kind::WRITE, &words)
        })
    }))
}

/// Accesses rows in shared memory: those lanes do it that give an address.
fn rows(
    cx: &mut Context,
    matrices: &Matrices,
    space: Space,
    address: &Address,
    write: bool,
    access: impl FnOnce(&mut Context, &Lanes<u64>) -> Done,
) -> Done {
    let mask = u32::MAX >> (LANES - matrices.rows());
    let mut addresses = cx.addresses(address);
    for lane in lanes_of(mask) {
        match space.locate(addresses[lane]) {
            Some((SpaceName::Shared, within)) => addresses[lane] = within,
            other => {
                let (space, address) = other.map_or((None, addresses[lane]), |(space, it)| (Some(space), it));
                let access = Access { write, space, address, bytes: 16 };
                return Err(Stop::lane(lane, Problem::WrongSpace { access }));
            }
        }
    }
    let all = std::mem::replace(&mut cx.mask, mask);
    let done = access(cx, &addresses);
    cx.mask = all;
    done
}

fn transpose(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    for name in ["sync", "aligned", "m8n8", "trans", "b16"] {
        modifiers.need("modifier", &[(name, ())])?;
    }
    modifiers.finish()?;
    let [d, a] = &instruction.operands[..] else { return Err("operands".into()) };
    let (d, a) = (decoder.dst32(d)?, decoder.src32(a)?);
    Ok(Action::run(move |cx| {
        cx.whole_warp()?;
        let values = ldmatrix::movmatrix(cx.get(a));
        cx.set(d, &values);
        Ok(())
    }))
}

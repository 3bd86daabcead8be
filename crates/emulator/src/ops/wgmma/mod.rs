//! Matrix products of a warpgroup (PTX ISA, "Asynchronous Warpgroup Level Matrix Instructions").
//!
//! A product is computed when it is issued, from what its operands hold then, and its result is kept aside: the
//! registers it goes to hold poison until `wgmma.wait_group`. What may not happen in between is found by whoever does
//! it: [`registers`] sees to the registers, shared memory to the operands that lie there.

mod group;
mod operands;
mod pending;
mod registers;

pub(crate) use group::Warpgroup;
pub(crate) use pending::Pending;
pub(crate) use registers::Touched;

use std::sync::Arc;

use crate::count::Class;
use crate::decode::{Decoder, Modifiers, Unsupported};
use crate::fault::Problem;
use crate::lanes::{Done, Pred, Reg};
use crate::machine::{Context, Stop};
use crate::ops::Form;
use crate::ops::mma::{ELEMENTS, accumulator};
use crate::ops::value::operands;
use crate::program::Action;
use crate::ptx::ast::{Instruction, Operand};
use crate::tensor::wgmma::{self, Descriptor, Major, Shape};

pub(crate) const FORMS: &[Form] = &[
    Form {
        name: "wgmma.mma_async",
        syntax: "wgmma.mma_async.sync.aligned.m64nNkK{.satfinite}.dtype.atype.btype d, a-desc|a, b-desc, scale-d\
                 {, imm-scale-a, imm-scale-b{, imm-trans-a, imm-trans-b}}, with K 8 (tf32), 16 (f16, bf16) or 32 \
                 (e4m3, e5m2, s8, u8)",
        class: Class::Matrix,
        decode: mma_async,
    },
    Form {
        name: "wgmma.fence",
        syntax: "wgmma.fence.sync.aligned",
        class: Class::Synchronisation,
        decode: fence,
    },
    Form {
        name: "wgmma.commit_group",
        syntax: "wgmma.commit_group.sync.aligned",
        class: Class::Synchronisation,
        decode: commit_group,
    },
    Form {
        name: "wgmma.wait_group",
        syntax: "wgmma.wait_group.sync.aligned N",
        class: Class::Synchronisation,
        decode: wait_group,
    },
];

/// Warps of a warpgroup.
pub(super) const WARPS: u32 = 4;

/// Takes the modifiers up to `.sync.aligned`.
fn modifiers<'a>(instruction: &'a Instruction, name: &str) -> Result<Modifiers<'a>, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    for name in [name, "sync", "aligned"] {
        modifiers.need("modifier", &[(name, ())])?;
    }
    Ok(modifiers)
}

/// Takes the modifiers of an instruction that has no operands.
fn alone(instruction: &Instruction, name: &str) -> Result<(), Unsupported> {
    modifiers(instruction, name)?.finish()?;
    if instruction.operands.is_empty() { Ok(()) } else { Err(operands(0, instruction)) }
}

/// Where a lies.
enum A {
    Registers(Vec<Reg<u32>>),
    Shared(Reg<u64>, Major),
}

/// `wgmma.mma_async`, decoded.
struct MmaAsync {
    shape: Shape,
    d: Arc<[Reg<u32>]>,
    a: A,
    b: Reg<u64>,
    b_major: Major,
    scale_d: Pred,
}

fn mma_async(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = modifiers(instruction, "mma_async")?;
    let (n, k) = modifiers.next().and_then(shape).ok_or("the shape is not m64nNkK")?;
    let satfinite = modifiers.flag("satfinite");
    let d_type = accumulator(&mut modifiers, satfinite)?;
    let a_type = modifiers.need("type of a", &ELEMENTS)?;
    let b_type = modifiers.need("type of b", &ELEMENTS)?;
    modifiers.finish()?;
    let shape = Shape::new(n, k, a_type, b_type, d_type).filter(|_| !satfinite || a_type.is_integer());
    let mut shape = shape.ok_or("a shape that these types have not")?;

    let [d, a, b, scale_d, immediates @ ..] = &instruction.operands[..] else {
        return Err("operands".into());
    };
    let d = decoder.elements(d).iter().map(|it| decoder.dst32(it)).collect::<Result<Arc<[_]>, _>>()?;
    if d.len() != shape.d_registers() {
        return Err(format!("{} registers for d of {}", d.len(), shape.d_registers()));
    }
    let a_elements = decoder.elements(a);
    let in_registers = matches!(a, Operand::Vector(_));
    let immediates: Vec<i64> = immediates.iter().map(immediate).collect::<Result<_, _>>()?;
    let (scales, transposes) = match (&immediates[..], a_type.is_integer(), a_type.bits() == 16, in_registers)
    {
        ([], true, _, _) => ([1, 1], [0, 0]),
        ([a, b], false, false, _) => ([*a, *b], [0, 0]),
        ([a, b, trans_b], false, true, true) => ([*a, *b], [0, *trans_b]),
        ([a, b, trans_a, trans_b], false, true, false) => ([*a, *b], [*trans_a, *trans_b]),
        _ => return Err(format!("{} immediate operands", immediates.len())),
    };
    if scales.iter().any(|it| !matches!(it, 1 | -1)) || transposes.iter().any(|it| !matches!(it, 0 | 1)) {
        return Err("a scale that is neither 1 nor -1, or a transposition that is neither 0 nor 1".into());
    }
    shape.negated = scales[0] != scales[1];
    let [a_major, b_major] = transposes.map(|it| if it == 0 { Major::K } else { Major::Mn });
    let a = if in_registers {
        if a_elements.len() != 4 {
            return Err(format!("{} registers for a of 4", a_elements.len()));
        }
        A::Registers(a_elements.iter().map(|it| decoder.src32(it)).collect::<Result<_, _>>()?)
    } else {
        A::Shared(decoder.src64(a)?, a_major)
    };
    let (b, scale_d) = (decoder.src64(b)?, decoder.pred(scale_d)?);
    decoder.multiplies = true;
    let this = MmaAsync { shape, d, a, b, b_major, scale_d };
    Ok(Action::run(move |cx| this.run(cx)))
}

/// `m64nNkK`
fn shape(name: &str) -> Option<(usize, usize)> {
    let (n, k) = name.strip_prefix("m64n")?.split_once('k')?;
    Some((n.parse().ok()?, k.parse().ok()?))
}

fn immediate(operand: &Operand) -> Result<i64, Unsupported> {
    match operand {
        Operand::Integer(value) => Ok(*value as i64),
        _ => Err("an operand that is not immediate".into()),
    }
}

impl MmaAsync {
    fn run(&self, cx: &mut Context) -> Done {
        cx.whole_warp()?;
        cx.whole_warpgroup()?;
        let a_registers: &[Reg<u32>] = match &self.a {
            A::Registers(registers) => registers,
            A::Shared(..) => &[],
        };
        cx.check_product_registers(&self.d, a_registers)?;
        let accumulate = cx.uniform_pred(self.scale_d)?;
        let a_bits = match self.a {
            A::Registers(_) => None,
            A::Shared(descriptor, _) => Some(cx.uniform(descriptor, "the descriptor of a")?),
        };
        let b_bits = cx.uniform(self.b, "the descriptor of b")?;

        let (a, mut reads) = match (&self.a, a_bits) {
            (A::Shared(_, major), Some(bits)) => {
                let (descriptor, warp) = (Descriptor::decode(bits), cx.warp.index % WARPS);
                let ranges = cx.operand_ranges(descriptor, *major, 2 * warp..2 * warp + 2)?;
                (wgmma::a_registers(&descriptor, *major, warp, |unit| cx.operand_row(unit)), ranges)
            }
            _ => (cx.gather::<4>(a_registers), Vec::new()),
        };
        let issue = cx.issue(a_bits, b_bits, |cx| {
            let descriptor = Descriptor::decode(b_bits);
            let n = self.shape.n() as u32;
            let ranges = cx.operand_ranges(descriptor, self.b_major, 0..n / 8)?;
            let b = wgmma::b_registers(&descriptor, self.b_major, n as usize, |unit| cx.operand_row(unit));
            Ok((b, ranges))
        })?;
        reads.extend_from_slice(&issue.ranges);

        let result = cx.result(&self.d);
        let values = &mut cx.warp.products.results[result].values;
        let c = if accumulate { values.clone() } else { Vec::new() };
        wgmma::wgmma(&self.shape, &a, &issue.b, &c, values);
        cx.begin_product(result, a_registers, reads)?;
        cx.profile.instructions[cx.pc].tensor_operations += 2 * self.shape.products() / u64::from(WARPS);
        Ok(())
    }
}

fn fence(_: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    alone(instruction, "fence")?;
    Ok(Action::run(move |cx| {
        cx.whole_warp()?;
        cx.fence_registers();
        Ok(())
    }))
}

fn commit_group(_: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    alone(instruction, "commit_group")?;
    Ok(Action::run(move |cx| {
        cx.whole_warp()?;
        cx.warp.products.commit();
        Ok(())
    }))
}

fn wait_group(_: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    modifiers(instruction, "wait_group")?.finish()?;
    let [Operand::Integer(pending)] = instruction.operands[..] else { return Err("operands".into()) };
    Ok(Action::run(move |cx| {
        cx.whole_warp()?;
        cx.wait_for_warpgroup()?;
        cx.finish_groups(pending as usize);
        Ok(())
    }))
}

impl Context<'_> {
    /// All four warps of the warpgroup exist.
    fn whole_warpgroup(&self) -> Done {
        let warps = self.launch.warps();
        if (self.warp.index | (WARPS - 1)) < warps {
            return Ok(());
        }
        let what = format!("wgmma in a warpgroup that has not four warps: the block has {warps}");
        Err(Stop::warp(Problem::Synchronisation(what)))
    }

    /// The value that all lanes have.
    fn uniform(&self, register: Reg<u64>, what: &str) -> Result<u64, Stop> {
        let values = self.get(register);
        match values.iter().position(|value| *value != values[0]) {
            None => Ok(values[0]),
            Some(lane) => {
                let what = format!("{what} is {:#x} in lane 0 and {:#x} here", values[0], values[lane]);
                Err(Stop::lane(lane, Problem::Synchronisation(what)))
            }
        }
    }

    fn uniform_pred(&self, predicate: Pred) -> Result<bool, Stop> {
        match self.test(predicate) {
            0 => Ok(false),
            u32::MAX => Ok(true),
            bits => {
                let what = format!("scale-d holds in the lanes {bits:#010x} and not in the others");
                Err(Stop::warp(Problem::Synchronisation(what)))
            }
        }
    }
}

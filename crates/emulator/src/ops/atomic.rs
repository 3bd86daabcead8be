//! Atomic operations and reductions in memory (PTX ISA, "atom", "red").
//!
//! The lanes of a warp act one after another, the lowest first. Sums round to nearest even; `.f32` ones in global
//! memory flush subnormal inputs and results to zero, those in shared memory do not. Of a number and a NaN, `.min` and
//! `.max` take the number, as the instructions of these names do.

use std::cell::Cell;

use crate::count::Class;
use crate::decode::{Address, Decoder, Modifiers, Source, Unsupported};
use crate::fault::{Access, SpaceName};
use crate::lanes::{Done, LANES, Lanes, lanes_of};
use crate::machine::{Context, Stop};
use crate::memory::{Scope, Space, Strong};
use crate::num::small::{BF16, F16};
use crate::num::{Round, float32, float64, half};
use crate::ops::Form;
use crate::program::{Action, AnyReg};
use crate::ptx::ast::{Instruction, Operand, Type};

pub(crate) const FORMS: &[Form] = &[
    Form {
        name: "atom",
        syntax: "atom{.sem}{.scope}{.space}.op{.noftz}{.L2::cache_hint}{.v2|.v4|.v8}.type d, [a], b{, c}{, policy}",
        class: Class::Atomic,
        decode: atom,
    },
    Form {
        name: "red",
        syntax: "red{.sem}{.scope}{.space}.op{.noftz}{.L2::cache_hint}{.v2|.v4|.v8}.type [a], b{, policy}",
        class: Class::Atomic,
        decode: red,
    },
];

/// What an operation makes of the bits of the old value and of its operands.
pub(super) type Operator = fn(u128, u128, u128) -> u128;

/// The operations of one type, and a form that global memory has of its own.
struct Operation {
    f: Operator,
    in_global: Operator,
    /// Bytes of what it acts on: an element of a packed type.
    bytes: u32,
}

/// `.and`, `.or`, `.xor`, `.exch`, `.cas`
fn bitwise(name: &str) -> Option<Operator> {
    Some(match name {
        "and" => |a, b, _| a & b,
        "or" => |a, b, _| a | b,
        "xor" => |a, b, _| a ^ b,
        "exch" => |_, b, _| b,
        "cas" => |a, b, c| if a == b { c } else { a },
        _ => return None,
    })
}

/// `.add`, `.inc`, `.dec`, `.min`, `.max` of 32 bits
fn integer32(name: &str, signed: bool) -> Option<Operator> {
    Some(match (name, signed) {
        ("add", _) => |a, b, _| (a as u32).wrapping_add(b as u32).into(),
        ("inc", false) => |a, b, _| if a >= b { 0 } else { a + 1 },
        ("dec", false) => |a, b, _| if a == 0 || a > b { b } else { a - 1 },
        ("min", false) => |a, b, _| a.min(b),
        ("max", false) => |a, b, _| a.max(b),
        ("min", true) => |a, b, _| (a as i32).min(b as i32) as u32 as u128,
        ("max", true) => |a, b, _| (a as i32).max(b as i32) as u32 as u128,
        _ => return None,
    })
}

fn integer64(name: &str, signed: bool) -> Option<Operator> {
    Some(match (name, signed) {
        ("add", _) => |a, b, _| (a as u64).wrapping_add(b as u64).into(),
        ("min", false) => |a, b, _| a.min(b),
        ("max", false) => |a, b, _| a.max(b),
        ("min", true) => |a, b, _| (a as i64).min(b as i64) as u64 as u128,
        ("max", true) => |a, b, _| (a as i64).max(b as i64) as u64 as u128,
        _ => return None,
    })
}

/// `.min` and `.max` exist for vectors only.
fn f16(name: &str, vector: bool) -> Option<Operator> {
    Some(match name {
        "add" => |a, b, _| half::add(a as u16, b as u16, F16).into(),
        "min" if vector => |a, b, _| half::min(a as u16, b as u16, F16).into(),
        "max" if vector => |a, b, _| half::max(a as u16, b as u16, F16).into(),
        _ => return None,
    })
}

fn bf16(name: &str, vector: bool) -> Option<Operator> {
    Some(match name {
        "add" => |a, b, _| half::add(a as u16, b as u16, BF16).into(),
        "min" if vector => |a, b, _| half::min(a as u16, b as u16, BF16).into(),
        "max" if vector => |a, b, _| half::max(a as u16, b as u16, BF16).into(),
        _ => return None,
    })
}

fn add_f32(a: u128, b: u128, _: u128) -> u128 {
    float32::add(f32::from_bits(a as u32), f32::from_bits(b as u32), Round::Rn).to_bits().into()
}

fn add_ftz_f32(a: u128, b: u128, _: u128) -> u128 {
    let [a, b] = [a, b].map(|it| float32::ftz(f32::from_bits(it as u32)));
    float32::ftz(float32::add(a, b, Round::Rn)).to_bits().into()
}

fn add_f64(a: u128, b: u128, _: u128) -> u128 {
    float64::add(f64::from_bits(a as u64), f64::from_bits(b as u64), Round::Rn).to_bits().into()
}

/// What reductions of one element in global memory make of it, by their name and type.
pub(super) fn reduction(name: &str, ty: Type) -> Option<Operator> {
    let is_half = matches!(ty, Type::F16 | Type::Bf16);
    Operation::new(name, ty, is_half).map(|operation| operation.in_global)
}

impl Operation {
    fn new(name: &str, ty: Type, vector: bool) -> Option<Operation> {
        let f = match ty {
            Type::F16 | Type::F16x2 => f16(name, vector),
            Type::Bf16 | Type::Bf16x2 => bf16(name, vector),
            Type::F32 if name == "add" => Some(add_f32 as Operator),
            _ if vector => None,
            Type::B32 | Type::B64 => bitwise(name),
            Type::B16 => bitwise(name).filter(|_| name == "cas"),
            Type::B128 => bitwise(name).filter(|_| matches!(name, "cas" | "exch")),
            Type::U32 => integer32(name, false),
            Type::S32 => integer32(name, true),
            Type::U64 => integer64(name, false),
            Type::S64 => integer64(name, true),
            Type::F64 if name == "add" => Some(add_f64 as Operator),
            _ => None,
        }?;
        let in_global = if ty == Type::F32 { add_ftz_f32 } else { f };
        let bytes = if matches!(ty, Type::F16x2 | Type::Bf16x2) { 2 } else { ty.bytes() as u32 };
        Some(Operation { f, in_global, bytes })
    }
}

/// What the modifiers say, which texts have in different orders.
struct Said<'a> {
    space: Space,
    strong: Strong,
    operation: &'a str,
    ty: Type,
    vector: u32,
    noftz: bool,
    policy: bool,
}

fn modifiers(instruction: &Instruction) -> Result<Said<'_>, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let (mut operation, mut ty) = (None, None);
    let mut said = Said {
        space: Space::Generic,
        strong: Strong::RELAXED,
        operation: "",
        ty: Type::B32,
        vector: 1,
        noftz: false,
        policy: false,
    };
    modifiers.distinct(&[])?;
    loop {
        if let Some(found) = modifiers.maybe_ty() {
            if let Some(other) = ty.replace(found) {
                return Err(format!("types {other:?} and {found:?}"));
            }
            continue;
        }
        match modifiers.peek() {
            Some("relaxed") => {}
            Some("acquire") => said.strong.acquire = true,
            Some("release") => said.strong.release = true,
            Some("acq_rel") => (said.strong.acquire, said.strong.release) = (true, true),
            Some("cta" | "cluster" | "gpu" | "sys") => {
                said.strong.scope = modifiers.need("scope", &Scope::NAMES)?;
                continue;
            }
            Some("global") => said.space = Space::Global,
            Some("shared" | "shared::cta" | "shared::cluster") => said.space = Space::Shared,
            Some("noftz") => said.noftz = true,
            Some("L2::cache_hint") => said.policy = true,
            Some("v2") => said.vector = 2,
            Some("v4") => said.vector = 4,
            Some("v8") => said.vector = 8,
            Some(name @ ("and" | "or" | "xor" | "exch" | "cas" | "add" | "inc" | "dec" | "min" | "max")) => {
                if let Some(other) = operation.replace(name) {
                    return Err(format!("operations .{other} and .{name}"));
                }
            }
            _ => break,
        }
        modifiers.next();
    }
    modifiers.finish()?;
    said.operation = operation.ok_or("no operation")?;
    said.ty = ty.ok_or("no type")?;
    Ok(said)
}

fn atom(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let [d, operands @ ..] = &instruction.operands[..] else { return Err("operands".into()) };
    let said = modifiers(instruction)?;
    decode(decoder, &said, Some(d), operands)
}

fn red(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let said = modifiers(instruction)?;
    if matches!(said.operation, "cas" | "exch") {
        return Err(format!("red has no operation .{}", said.operation));
    }
    decode(decoder, &said, None, &instruction.operands)
}

fn decode(
    decoder: &mut Decoder,
    said: &Said,
    d: Option<&Operand>,
    operands: &[Operand],
) -> Result<Action, Unsupported> {
    let Said { space, strong, operation: name, ty, vector, noftz, policy } = *said;
    let is_vector = vector > 1;
    let operation = Operation::new(name, ty, is_vector).ok_or_else(|| {
        format!("operation .{name} on {}type {ty:?}", if is_vector { "a vector of " } else { "" })
    })?;
    let is_half = matches!(ty, Type::F16 | Type::F16x2 | Type::Bf16 | Type::Bf16x2);
    if noftz != is_half {
        return Err(format!(".noftz must {}stand with type {ty:?}", if is_half { "" } else { "not " }));
    }
    let bytes = ty.bytes() as u32 * vector;
    if bytes > 16 || is_vector && space == Space::Shared {
        return Err(format!("a vector of {vector} of type {ty:?} in this space"));
    }
    let (operands, hint) = operands.split_at(operands.len() - usize::from(policy).min(operands.len()));
    for policy in hint {
        decoder.src64(policy)?;
    }
    let (a, b, c) = match (operands, name) {
        ([a, b, c], "cas") => (a, b, Some(c)),
        ([a, b], name) if name != "cas" => (a, b, None),
        _ => return Err("operands".into()),
    };
    // Atomic operations on global memory are how blocks of a launch speak to each other.
    decoder.communicates |= space != Space::Shared;
    let size = ty.bytes() as u32;
    let atomic = Atomic {
        space,
        strong,
        address: decoder.address(a)?,
        operation,
        is_vector,
        bytes,
        size,
        b: sources(decoder, b, size, vector)?,
        c: c.map(|c| sources(decoder, c, size, vector)).transpose()?.unwrap_or_default(),
        targets: d.map(|d| targets(decoder, d, size, vector)).transpose()?.unwrap_or_default(),
    };
    Ok(Action::run(move |cx| atomic.run(cx)))
}

fn elements(decoder: &Decoder, operand: &Operand, count: u32) -> Result<Vec<Operand>, Unsupported> {
    // A destination of which nothing is wanted.
    if matches!(operand, Operand::Sink) {
        return Ok(vec![Operand::Sink; count as usize]);
    }
    let elements = decoder.elements(operand);
    if elements.len() as u32 == count {
        Ok(elements)
    } else {
        Err(format!("{} registers for a vector of {count}", elements.len()))
    }
}

fn sources(
    decoder: &mut Decoder,
    operand: &Operand,
    size: u32,
    count: u32,
) -> Result<Vec<Source>, Unsupported> {
    let elements = elements(decoder, operand, count)?;
    let source = |element: &Operand| match size {
        16 => decoder.src128(element).map(Source::B128),
        8 => decoder.src64(element).map(Source::B64),
        _ => decoder.src32(element).map(Source::B32),
    };
    elements.iter().map(source).collect()
}

fn targets(decoder: &Decoder, operand: &Operand, size: u32, count: u32) -> Result<Vec<AnyReg>, Unsupported> {
    let mut targets = Vec::new();
    for element in elements(decoder, operand, count)? {
        match (decoder.destination(&element)?, size) {
            (Some(target @ AnyReg::B128(_)), 16)
            | (Some(target @ AnyReg::B64(_)), 8)
            | (Some(target @ AnyReg::B32(_)), 2 | 4) => targets.push(target),
            (None, _) => {}
            (Some(other), _) => return Err(format!("{other:?} where a result of {size} bytes goes")),
        }
    }
    if targets.is_empty() || targets.len() as u32 == count {
        Ok(targets)
    } else {
        Err("a result of which only a part is wanted".into())
    }
}

/// An atomic operation, decoded.
struct Atomic {
    space: Space,
    strong: Strong,
    address: Address,
    operation: Operation,
    is_vector: bool,
    /// All elements together.
    bytes: u32,
    /// Of a register.
    size: u32,
    b: Vec<Source>,
    c: Vec<Source>,
    targets: Vec<AnyReg>,
}

impl Atomic {
    fn run(&self, cx: &mut Context) -> Done {
        let addresses = cx.addresses(&self.address);
        let in_global = self.in_global(cx, &addresses);
        if self.is_vector
            && let Some(lane) = lanes_of(cx.mask & !in_global).next()
        {
            let (space, address) = self.space.locate(addresses[lane]).unzip();
            let address = address.unwrap_or(addresses[lane]);
            let access = Access { write: true, space, address, bytes: self.bytes.into() };
            return Err(Stop::lane(lane, crate::fault::Problem::WrongSpace { access }));
        }
        let (b, c) = (self.joined(cx, &self.b), self.joined(cx, &self.c));
        let changed = Cell::new(false);
        let old = cx.update(self.space, &addresses, self.bytes, self.strong, &|lane, old| {
            let global = in_global >> lane & 1 == 1;
            let new = self.apply(global, old, b[lane], c[lane]);
            changed.set(changed.get() | (new != old));
            new
        })?;
        // One that changes nothing is how a lane polls.
        cx.cluster.polls += 1;
        cx.cluster.changes += u64::from(changed.get());
        for (target, shift) in self.targets.iter().zip((0..).step_by(8 * self.size as usize)) {
            cx.set_any(*target, &old.map(|it| it >> shift & low(self.size)));
        }
        Ok(())
    }

    /// The lanes whose address is in global memory.
    fn in_global(&self, cx: &Context, addresses: &Lanes<u64>) -> u32 {
        match self.space {
            Space::Global => u32::MAX,
            Space::Generic => {
                let global = |lane: &usize| {
                    matches!(self.space.locate(addresses[*lane]), Some((SpaceName::Global, _)))
                };
                lanes_of(cx.mask).filter(global).fold(0, |lanes, lane| lanes | 1 << lane)
            }
            _ => 0,
        }
    }

    /// The elements of a vector side by side, as they lie in memory.
    fn joined(&self, cx: &Context, sources: &[Source]) -> Lanes<u128> {
        let mut out = [0; LANES];
        for (source, shift) in sources.iter().zip((0..).step_by(8 * self.size as usize)) {
            for (out, value) in out.iter_mut().zip(cx.values(*source)) {
                *out |= (value & low(self.size)) << shift;
            }
        }
        out
    }

    fn apply(&self, in_global: bool, old: u128, b: u128, c: u128) -> u128 {
        let Operation { f, in_global: f_in_global, bytes } = self.operation;
        let f = if in_global { f_in_global } else { f };
        if bytes == self.bytes {
            return f(old, b, c);
        }
        let element = |value: u128, shift: u32| value >> shift & low(bytes);
        let shifts = (0..8 * self.bytes).step_by(8 * bytes as usize);
        shifts
            .fold(0, |new, shift| new | f(element(old, shift), element(b, shift), element(c, shift)) << shift)
    }
}

/// A mask of the low bytes.
fn low(bytes: u32) -> u128 {
    u128::MAX >> (128 - 8 * bytes)
}

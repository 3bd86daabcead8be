//! Moves, loads, stores and address conversions (PTX ISA, "Data Movement and Conversion Instructions").

use crate::count::Class;
use crate::decode::{Address, Decoder, Modifiers, Source, Unsupported};
use crate::lanes::{LANES, Lanes, Reg, map1};
use crate::machine::Context;
use crate::memory::{
    CONST_WINDOW, GLOBAL_BASE, Kind, LOCAL_WINDOW, PARAM_WINDOW, SHARED_WINDOW, Scope, Space, Strong, WINDOW,
};
use crate::ops::Form;
use crate::program::{Action, AnyReg};
use crate::ptx::ast::{Instruction, Operand, Type};
use crate::special::Special;

pub(crate) const FORMS: &[Form] = &[
    Form {
        name: "mov",
        syntax: "mov.type d, a; mov.type d, {a, b{, c, d}}; mov.type {d, e{, f, g}}, a",
        class: Class::Move,
        decode: mov,
    },
    Form {
        name: "ld",
        syntax: "ld{.weak|.volatile|.relaxed|.acquire|.mmio}{.scope}{.ss}{.cop}{.level::*}{.nc}{.unified}{.v2|.v4|.v8}.type d, [a]{, policy}",
        class: Class::Memory,
        decode: ld,
    },
    Form { name: "ldu", syntax: "ldu{.global}{.v2|.v4}.type d, [a]", class: Class::Memory, decode: ld },
    Form {
        name: "st",
        syntax: "st{.weak|.volatile|.relaxed|.release|.mmio}{.scope}{.ss}{.cop}{.level::*}{.v2|.v4|.v8}.type [a], b{, policy}",
        class: Class::Memory,
        decode: st,
    },
    Form { name: "cvta", syntax: "cvta{.to}.space.size d, a", class: Class::Move, decode: cvta },
    Form { name: "isspacep", syntax: "isspacep.space p, a", class: Class::Move, decode: isspacep },
];

fn mov(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let ty = modifiers.ty()?;
    modifiers.finish()?;
    let [d, a] = &instruction.operands[..] else { return Err("operands".into()) };
    if let Operand::Special(name) = a
        && let Some(special) = Special::parse(name).filter(|it| it.is_clock())
    {
        return clock(decoder, d, special);
    }
    match (d, a) {
        (_, Operand::Vector(parts)) => pack(decoder, ty, d, parts),
        (Operand::Vector(parts), _) => unpack(decoder, ty, parts, a),
        _ if ty == Type::Pred => {
            let (d, a) = (decoder.dst_pred(d)?, decoder.pred(a)?);
            Ok(Action::run(move |cx| {
                let bits = cx.test(a);
                cx.set_pred(d, bits);
                Ok(())
            }))
        }
        _ if decoder.declared(d).is_some() && decoder.elements(d).len() > 1 => {
            Err("a whole vector register".into())
        }
        _ => match ty.bytes() {
            16 => Ok(map1(decoder.dst128(d)?, decoder.src128(a)?, |a: u128| a)),
            8 => Ok(map1(decoder.dst64(d)?, decoder.src64(a)?, |a: u64| a)),
            4 => Ok(map1(decoder.dst32(d)?, decoder.src32(a)?, |a: u32| a)),
            2 => Ok(map1(decoder.dst32(d)?, decoder.src32(a)?, |a: u32| a & 0xFFFF)),
            _ => Ok(map1(decoder.dst32(d)?, decoder.src32(a)?, |a: u32| a & 0xFF)),
        },
    }
}

fn clock(decoder: &mut Decoder, d: &Operand, special: Special) -> Result<Action, Unsupported> {
    match decoder.destination(d)? {
        Some(AnyReg::B64(index)) => Ok(Action::run(move |cx| {
            cx.set(Reg::new(index as usize), &[special.at(cx.cluster.executed); LANES]);
            Ok(())
        })),
        _ => {
            let d = decoder.dst32(d)?;
            Ok(Action::run(move |cx| {
                cx.set(d, &[special.at(cx.cluster.executed) as u32; LANES]);
                Ok(())
            }))
        }
    }
}

/// Puts values side by side, the first in the low bits.
fn pack(decoder: &mut Decoder, ty: Type, d: &Operand, parts: &[Operand]) -> Result<Action, Unsupported> {
    let bytes = ty.bytes() / (parts.len() as u64).max(1);
    match (ty.bytes(), parts) {
        (8, [a, b]) => {
            let (d, a, b) = (decoder.dst64(d)?, decoder.src32(a)?, decoder.src32(b)?);
            Ok(crate::lanes::map2(d, a, b, |a: u32, b: u32| u64::from(a) | u64::from(b) << 32))
        }
        (4, [a, b]) => {
            let (d, a, b) = (decoder.dst32(d)?, decoder.src32(a)?, decoder.src32(b)?);
            Ok(crate::lanes::map2(d, a, b, |a: u32, b: u32| a & 0xFFFF | b << 16))
        }
        (_, [_, _] | [_, _, _, _]) => {
            let target = decoder.destination(d)?.ok_or("a result nobody takes")?;
            let parts: Vec<Source> =
                parts.iter().map(|it| decoder.source(it, bytes)).collect::<Result<_, _>>()?;
            Ok(Action::run(move |cx| {
                let mut out = [0u128; LANES];
                for (i, part) in parts.iter().enumerate() {
                    let values = cx.values(*part);
                    for (out, value) in out.iter_mut().zip(values) {
                        let mask = u128::MAX >> (128 - 8 * bytes);
                        *out |= (value & mask) << (8 * bytes * i as u64);
                    }
                }
                cx.set_any(target, &out);
                Ok(())
            }))
        }
        _ => Err(format!("a vector of {}", parts.len())),
    }
}

/// Takes values apart, the low bits first.
fn unpack(decoder: &mut Decoder, ty: Type, parts: &[Operand], a: &Operand) -> Result<Action, Unsupported> {
    if !matches!(parts.len(), 2 | 4) {
        return Err(format!("a vector of {}", parts.len()));
    }
    let bytes = ty.bytes() / parts.len() as u64;
    let a = decoder.source(a, ty.bytes())?;
    let targets: Vec<Option<AnyReg>> =
        parts.iter().map(|it| decoder.destination(it)).collect::<Result<_, _>>()?;
    if let (Source::B64(a), [low, high], 4) = (a, &targets[..], bytes) {
        let mut half = |target: &Option<AnyReg>| match target {
            Some(AnyReg::B32(index)) => Ok(Reg::<u32>::new(*index as usize)),
            None => Ok(decoder.scratch32()),
            Some(other) => Err(format!("{other:?} where 32 bits go")),
        };
        let (low, high) = (half(low)?, half(high)?);
        return Ok(Action::run(move |cx| {
            let values = *cx.get(a);
            cx.set(low, &values.map(|it| it as u32));
            cx.set(high, &values.map(|it| (it >> 32) as u32));
            Ok(())
        }));
    }
    Ok(Action::run(move |cx| {
        let values = cx.values(a);
        for (i, target) in targets.iter().enumerate() {
            if let Some(target) = target {
                let mask = u128::MAX >> (128 - 8 * bytes);
                cx.set_any(*target, &values.map(|it| it >> (8 * bytes * i as u64) & mask));
            }
        }
        Ok(())
    }))
}

impl Context<'_> {
    /// The values of a source of any width.
    #[inline(never)]
    pub fn values(&self, source: Source) -> Lanes<u128> {
        match source {
            Source::B32(register) => self.get(register).map(u128::from),
            Source::B64(register) => self.get(register).map(u128::from),
            Source::B128(register) => *self.get(register),
        }
    }

    /// Writes a register of any width in the active lanes, as much as it has room for.
    #[inline(never)]
    pub fn set_any(&mut self, register: AnyReg, values: &Lanes<u128>) {
        match register {
            AnyReg::B32(index) => self.set(Reg::new(index as usize), &values.map(|it| it as u32)),
            AnyReg::B64(index) => self.set(Reg::new(index as usize), &values.map(|it| it as u64)),
            AnyReg::B128(index) => self.set(Reg::new(index as usize), values),
            AnyReg::Pred(index) => {
                let bits =
                    values.iter().enumerate().fold(0, |bits, (lane, it)| bits | u32::from(*it != 0) << lane);
                self.set_pred(crate::lanes::Pred { index, negated: false }, bits);
            }
        }
    }
}

/// What the modifiers of a load or a store say.
struct Access {
    space: Space,
    strong: Option<Strong>,
    vector: u64,
    ty: Type,
}

fn modifiers(
    decoder: &mut Decoder,
    instruction: &Instruction,
    address: &Operand,
) -> Result<Access, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let mut access = Access { space: Space::Generic, strong: None, vector: 1, ty: Type::B32 };
    modifiers.distinct(&[])?;
    loop {
        let Some(next) = modifiers.peek() else { return Err("no type".into()) };
        match next {
            "weak" | "ca" | "cg" | "cs" | "lu" | "cv" | "wb" | "wt" | "nc" | "unified" => {}
            "volatile" | "relaxed" | "mmio" => access.strong = Some(Strong::RELAXED),
            "acquire" => access.strong = Some(Strong { acquire: true, ..Strong::RELAXED }),
            "release" => access.strong = Some(Strong { release: true, ..Strong::RELAXED }),
            "cta" | "cluster" | "gpu" | "sys" => {
                let scope = modifiers.need("scope", &Scope::NAMES)?;
                access.strong = access.strong.map(|strong| Strong { scope, ..strong });
                continue;
            }
            "global" => access.space = Space::Global,
            "const" => access.space = Space::Const,
            "shared" | "shared::cta" | "shared::cluster" => access.space = Space::Shared,
            "local" => access.space = Space::Local,
            "param" | "param::entry" | "param::func" => access.space = parameter_space(decoder, address),
            "v2" => access.vector = 2,
            "v4" => access.vector = 4,
            "v8" => access.vector = 8,
            hint if hint.starts_with("L1::") || hint.starts_with("L2::") => {}
            _ => break,
        }
        modifiers.next();
    }
    access.ty = modifiers.ty()?;
    modifiers.finish()?;
    // What blocks tell each other within a launch goes through strong accesses to global memory.
    decoder.communicates |= access.strong.is_some() && matches!(access.space, Space::Generic | Space::Global);
    Ok(access)
}

/// Registers that are loaded to or stored from may be wider than the type, and no predicates ("Operand Size Exceeding
/// Instruction-Type Size").
fn holds(decoder: &Decoder, register: &Operand, ty: Type) -> Result<(), Unsupported> {
    match decoder.declared(register) {
        Some(Type::Pred) => Err("a predicate where a value in memory goes".into()),
        Some(declared) if declared.bytes() < ty.bytes() => {
            Err(format!("a register of type {declared:?} where {} bytes go", ty.bytes()))
        }
        _ if ty == Type::Pred => Err("a predicate in memory".into()),
        _ => Ok(()),
    }
}

/// Parameters of an entry are a space of their own; those of device functions, and those passed to them, are local.
fn parameter_space(decoder: &Decoder, address: &Operand) -> Space {
    match decoder.space_of(address) {
        Some(space) => space,
        None if decoder.function.entry => Space::Param,
        None => Space::Local,
    }
}

fn ld(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let [d, a, policy @ ..] = &instruction.operands[..] else { return Err("operands".into()) };
    if policy.len() > 1 {
        return Err("operands".into());
    }
    let access = modifiers(decoder, instruction, a)?;
    let elements = decoder.elements(d);
    if elements.len() as u64 != access.vector {
        return Err(format!("{} registers for a vector of {}", elements.len(), access.vector));
    }
    elements.iter().try_for_each(|it| holds(decoder, it, access.ty))?;
    let size = access.ty.bytes() as u32;
    let bytes = size * access.vector as u32;
    let signed = matches!(access.ty, Type::S8 | Type::S16 | Type::S32);
    let targets: Vec<Option<AnyReg>> =
        elements.iter().map(|it| decoder.destination(it)).collect::<Result<_, _>>()?;
    if access.space == Space::Param
        && let Some(address) = decoder.known_address(a)
    {
        return Ok(load_parameter(address, size, signed, targets));
    }
    let address = decoder.address(a)?;
    let kind = Kind { write: false, strong: access.strong };
    let load = Load { space: access.space, address, bytes, size, signed, kind, targets };
    Ok(match bytes.div_ceil(4) {
        1 => Action::run(move |cx| load.run::<1>(cx)),
        2 => Action::run(move |cx| load.run::<2>(cx)),
        4 => Action::run(move |cx| load.run::<4>(cx)),
        8 => Action::run(move |cx| load.run::<8>(cx)),
        words => return Err(format!("a load of {words} words")),
    })
}

/// A load, decoded.
struct Load {
    space: Space,
    address: Address,
    /// All elements together.
    bytes: u32,
    /// Of an element.
    size: u32,
    signed: bool,
    kind: Kind,
    targets: Vec<Option<AnyReg>>,
}

impl Load {
    fn run<const N: usize>(&self, cx: &mut Context) -> crate::lanes::Done {
        cx.cluster.polls += u64::from(self.kind.strong.is_some());
        let addresses = cx.addresses(&self.address);
        let mut words = [[0; LANES]; N];
        cx.load(self.space, &addresses, self.bytes, self.kind, &mut words)?;
        for (i, target) in self.targets.iter().enumerate() {
            match (target, self.size) {
                (None, _) => {}
                (Some(AnyReg::B32(index)), 4) => cx.set(Reg::new(*index as usize), &words[i]),
                (Some(AnyReg::B64(index)), 8) => {
                    let mut out = [0; LANES];
                    crate::lanes::each2(&words[2 * i], &words[2 * i + 1], &mut out, |low: u32, high: u32| {
                        u64::from(low) | u64::from(high) << 32
                    });
                    cx.set(Reg::new(*index as usize), &out);
                }
                (Some(target), size) => {
                    let start = i * size as usize;
                    let values = std::array::from_fn(|lane| element(&words, lane, start, size, self.signed));
                    cx.set_any(*target, &values);
                }
            }
        }
        Ok(())
    }
}

/// One element of the words of a lane, extended to as many bits as there are.
fn element(words: &[Lanes<u32>], lane: usize, start: usize, size: u32, signed: bool) -> u128 {
    let (word, shift) = (start / 4, 8 * (start as u32 % 4));
    let value = match size {
        1 | 2 | 4 => u128::from(words[word][lane] >> shift),
        _ => (0..size as usize / 4).fold(0, |value, k| value | u128::from(words[word + k][lane]) << (32 * k)),
    };
    let unused = 128 - 8 * size;
    if signed { ((value << unused) as i128 >> unused) as u128 } else { value << unused >> unused }
}

/// A parameter whose place is known is the same for all lanes.
fn load_parameter(address: u64, size: u32, signed: bool, targets: Vec<Option<AnyReg>>) -> Action {
    Action::run(move |cx| {
        for (i, target) in targets.iter().enumerate() {
            let start = address as usize + i * size as usize;
            let Some(bytes) = cx.launch.params.get(start..start + size as usize) else {
                let access =
                    crate::machine::access(false, crate::fault::SpaceName::Param, start as u64, size.into());
                let nearest = format!("there are {} bytes", cx.launch.params.len());
                return Err(crate::machine::Stop::warp(crate::fault::Problem::OutOfBounds {
                    access,
                    nearest,
                }));
            };
            let value = bytes.iter().rev().fold(0u128, |value, byte| value << 8 | u128::from(*byte));
            let unused = 128 - 8 * size;
            let value = if signed { ((value << unused) as i128 >> unused) as u128 } else { value };
            match target {
                None => {}
                Some(AnyReg::B32(index)) => cx.set(Reg::new(*index as usize), &[value as u32; LANES]),
                Some(AnyReg::B64(index)) => cx.set(Reg::new(*index as usize), &[value as u64; LANES]),
                Some(target) => cx.set_any(*target, &[value; LANES]),
            }
        }
        Ok(())
    })
}

fn st(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let [a, b, policy @ ..] = &instruction.operands[..] else { return Err("operands".into()) };
    if policy.len() > 1 {
        return Err("operands".into());
    }
    let access = modifiers(decoder, instruction, a)?;
    let elements = decoder.elements(b);
    if elements.len() as u64 != access.vector {
        return Err(format!("{} values for a vector of {}", elements.len(), access.vector));
    }
    elements.iter().try_for_each(|it| holds(decoder, it, access.ty))?;
    let size = access.ty.bytes() as u32;
    let bytes = size * access.vector as u32;
    let sources: Vec<Source> =
        elements.iter().map(|it| decoder.source(it, size.into())).collect::<Result<_, _>>()?;
    let address = decoder.address(a)?;
    let kind = Kind { write: true, strong: access.strong };
    let store = Store { space: access.space, address, bytes, size, kind, sources };
    Ok(match bytes.div_ceil(4) {
        1 => Action::run(move |cx| store.run::<1>(cx)),
        2 => Action::run(move |cx| store.run::<2>(cx)),
        4 => Action::run(move |cx| store.run::<4>(cx)),
        8 => Action::run(move |cx| store.run::<8>(cx)),
        words => return Err(format!("a store of {words} words")),
    })
}

/// A store, decoded.
struct Store {
    space: Space,
    address: Address,
    bytes: u32,
    size: u32,
    kind: Kind,
    sources: Vec<Source>,
}

impl Store {
    fn run<const N: usize>(&self, cx: &mut Context) -> crate::lanes::Done {
        cx.cluster.changes += 1;
        let addresses = cx.addresses(&self.address);
        let mut words = [[0; LANES]; N];
        for (i, source) in self.sources.iter().enumerate() {
            match (source, self.size) {
                (Source::B32(register), 4) => words[i] = *cx.get(*register),
                (Source::B64(register), 8) => {
                    let values = cx.get(*register);
                    crate::lanes::each1(values, &mut words[2 * i], |it: u64| it as u32);
                    crate::lanes::each1(values, &mut words[2 * i + 1], |it: u64| (it >> 32) as u32);
                }
                (source, size) => {
                    let values = cx.values(*source);
                    for byte in (0..size).step_by(4) {
                        let start = i as u32 * size + byte;
                        let mask = u32::MAX >> (32 - 8 * (size - byte).min(4));
                        for (word, value) in words[start as usize / 4].iter_mut().zip(values) {
                            *word |= ((value >> (8 * byte)) as u32 & mask) << (8 * (start % 4));
                        }
                    }
                }
            }
        }
        cx.store(self.space, &addresses, self.bytes, self.kind, &words)
    }
}

/// The window of a state space in generic addresses; that of global memory is where it is.
fn window(name: &str) -> Result<u64, Unsupported> {
    match name {
        "global" => Ok(0),
        "shared" | "shared::cta" | "shared::cluster" => Ok(SHARED_WINDOW),
        "local" => Ok(LOCAL_WINDOW),
        "const" => Ok(CONST_WINDOW),
        "param" | "param::entry" => Ok(PARAM_WINDOW),
        _ => Err(format!("state space .{name}")),
    }
}

fn cvta(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let to = modifiers.flag("to");
    let window = window(modifiers.next().unwrap_or_default())?;
    let size = modifiers.need("size", &[("u64", 8), ("u32", 4)])?;
    modifiers.finish()?;
    let [d, a] = &instruction.operands[..] else { return Err("operands".into()) };
    if size == 4 {
        return Err("addresses of 32 bits".into());
    }
    let (d, a) = (decoder.dst64(d)?, decoder.src64(a)?);
    Ok(if to {
        map1(d, a, move |a: u64| a.wrapping_sub(window))
    } else {
        map1(d, a, move |a: u64| a.wrapping_add(window))
    })
}

fn isspacep(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    let window = window(modifiers.next().unwrap_or_default())?;
    modifiers.finish()?;
    let [p, a] = &instruction.operands[..] else { return Err("operands".into()) };
    let (p, a) = (decoder.dst_pred(p)?, decoder.src64(a)?);
    Ok(Action::run(move |cx| {
        let within = |a: u64| if window == 0 { a >= GLOBAL_BASE } else { a.wrapping_sub(window) < WINDOW };
        let bits = crate::lanes::test1(cx.get(a), within);
        cx.set_pred(p, bits);
        Ok(())
    }))
}

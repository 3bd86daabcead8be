//! Matrix products of a warp whose fragments only these instructions know (PTX ISA, "Warp-level Matrix Instructions:
//! wmma"). Each element is an access to memory of its own.

use crate::count::Class;
use crate::decode::{Address, Decoder, Modifiers, OperandWord, Unsupported};
use crate::lanes::{LANES, Lanes, Reg};
use crate::machine::Context;
use crate::memory::{Kind, Space};
use crate::ops::Form;
use crate::ops::mma::fragment;
use crate::ops::value::operands;
use crate::program::Action;
use crate::ptx::ast::{Instruction, Operand};
use crate::tensor::wmma::{Fragment, Types, multiply, place};
use crate::tensor::{Accumulator, Element};

pub(crate) const FORMS: &[Form] = &[
    Form {
        name: "wmma.load",
        syntax: "wmma.load.a|.b|.c.sync.aligned.row|.col.shape{.ss}.type r, [p]{, stride}; shape m16n16k16, m8n32k16, m32n8k16 (f16, bf16, s8, u8; c: f16, f32, s32), m16n16k8 (tf32; c: f32), m8n8k4 (f64)",
        class: Class::Memory,
        decode: load,
    },
    Form {
        name: "wmma.store",
        syntax: "wmma.store.d.sync.aligned.row|.col.shape{.ss}.type [p], r{, stride}",
        class: Class::Memory,
        decode: store,
    },
    Form {
        name: "wmma.mma",
        syntax: "wmma.mma.sync.aligned.alayout.blayout.shape.dtype.ctype d, a, b, c (f16); wmma.mma.sync.aligned.alayout.blayout.shape{.rn}.dtype.atype.btype.ctype{.satfinite} d, a, b, c",
        class: Class::Matrix,
        decode: mma,
    },
];

/// m, n and k.
type Shape = (usize, usize, usize);

const SHAPES: [(&str, Shape); 5] = [
    ("m16n16k16", (16, 16, 16)),
    ("m8n32k16", (8, 32, 16)),
    ("m32n8k16", (32, 8, 16)),
    ("m16n16k8", (16, 16, 8)),
    ("m8n8k4", (8, 8, 4)),
];

const LAYOUTS: [(&str, bool); 2] = [("row", true), ("col", false)];

/// Which operand a fragment is.
#[derive(Clone, Copy, PartialEq)]
enum Role {
    A,
    B,
    /// Or d.
    C,
}

/// How a matrix lies in registers.
#[derive(Clone, Copy)]
struct Layout {
    rows: usize,
    columns: usize,
    /// Of an element.
    bits: usize,
    registers: usize,
}

impl Layout {
    fn new(role: Role, (m, n, k): Shape, ty: &str) -> Result<Layout, Unsupported> {
        let (rows, columns) = match role {
            Role::A => (m, k),
            Role::B => (k, n),
            Role::C => (m, n),
        };
        let bits = match (role, k, ty) {
            (Role::A | Role::B, 16, "f16" | "bf16") | (Role::C, 16, "f16") => 16,
            (Role::A | Role::B, 16, "s8" | "u8") => 8,
            (Role::A | Role::B, 8, "tf32") | (Role::C, 16, "f32" | "s32") | (Role::C, 8, "f32") => 32,
            (_, 4, "f64") => 64,
            _ => return Err(format!("type .{ty} of this shape")),
        };
        let full = rows * columns * bits / (32 * bits.max(32));
        let registers = if role != Role::C && ty == "f16" { 8 } else { full };
        Ok(Layout { rows, columns, bits, registers })
    }

    fn elements(self) -> usize {
        self.rows * self.columns / 32
    }

    fn per_register(self) -> usize {
        (32 / self.bits).max(1)
    }
}

/// The registers of a fragment.
enum Registers {
    B32(Vec<Reg<u32>>),
    B64(Vec<Reg<u64>>),
}

impl Registers {
    fn new(
        decoder: &mut Decoder,
        operand: &Operand,
        layout: Layout,
        written: bool,
    ) -> Result<Registers, Unsupported> {
        fn each<W: OperandWord>(
            decoder: &mut Decoder,
            elements: &[Operand],
            written: bool,
        ) -> Result<Vec<Reg<W>>, Unsupported> {
            let one = |it| if written { W::dst(decoder, it) } else { W::src(decoder, it) };
            elements.iter().map(one).collect()
        }
        let elements = fragment(decoder, operand, layout.registers)?;
        Ok(match layout.bits {
            64 => Registers::B64(each(decoder, &elements, written)?),
            _ => Registers::B32(each(decoder, &elements, written)?),
        })
    }

    fn get(&self, cx: &Context, layout: Layout) -> Fragment {
        let (per, mask) = (layout.per_register(), u64::MAX >> (64 - layout.bits));
        let of = |i: usize| match self {
            Registers::B32(registers) => cx.get(registers[i / per]).map(u64::from),
            Registers::B64(registers) => *cx.get(registers[i / per]),
        };
        (0..layout.elements()).map(|i| of(i).map(|it| it >> (i % per * layout.bits) & mask)).collect()
    }

    fn set(&self, cx: &mut Context, layout: Layout, fragment: &Fragment) {
        let per = layout.per_register();
        for index in 0..layout.registers {
            let mut word = [0; LANES];
            for (i, element) in fragment.iter().skip(index * per).take(per).enumerate() {
                for (word, value) in word.iter_mut().zip(element) {
                    *word |= value << (i * layout.bits);
                }
            }
            match self {
                Registers::B32(registers) => cx.set(registers[index], &word.map(|it| it as u32)),
                Registers::B64(registers) => cx.set(registers[index], &word),
            }
        }
    }
}

/// A matrix in memory.
struct Matrix {
    layout: Layout,
    by_rows: bool,
    space: Space,
    address: Address,
    /// Elements from one row or column to the next.
    stride: Reg<u32>,
}

impl Matrix {
    /// Takes the modifiers from `.sync` on.
    fn new(
        decoder: &mut Decoder,
        modifiers: &mut Modifiers,
        role: Role,
        address: &Operand,
        stride: Option<&Operand>,
    ) -> Result<Matrix, Unsupported> {
        modifiers.need("modifier", &[("sync", ())])?;
        modifiers.need("modifier", &[("aligned", ())])?;
        let by_rows = modifiers.need("layout", &LAYOUTS)?;
        let shape = modifiers.need("shape", &SHAPES)?;
        let spaces = [
            ("global", Space::Global),
            ("shared", Space::Shared),
            ("shared::cta", Space::Shared),
            ("shared::cluster", Space::Shared),
        ];
        let space = modifiers.one_of(&spaces).unwrap_or(Space::Generic);
        let layout = Layout::new(role, shape, modifiers.next().ok_or("no type")?)?;
        modifiers.finish()?;
        let address = decoder.address(address)?;
        let leading = if by_rows { layout.columns } else { layout.rows };
        let stride = match stride {
            Some(stride) => decoder.src32(stride)?,
            None => decoder.constant32(leading as u32),
        };
        Ok(Matrix { layout, by_rows, space, address, stride })
    }

    fn bytes(&self) -> u32 {
        self.layout.bits as u32 / 8
    }

    /// Where the lanes' elements of a number lie.
    fn addresses(&self, cx: &Context, element: usize) -> Lanes<u64> {
        let (start, stride) = (cx.addresses(&self.address), cx.get(self.stride));
        std::array::from_fn(|lane| {
            let (row, column) = place(self.layout.columns, lane, element);
            let (major, minor) = if self.by_rows { (row, column) } else { (column, row) };
            let index = (major as u64).wrapping_mul(stride[lane].into()).wrapping_add(minor as u64);
            start[lane].wrapping_add(index.wrapping_mul(self.bytes().into()))
        })
    }
}

fn load(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.need("operation", &[("load", ())])?;
    let role = modifiers.need("matrix", &[("a", Role::A), ("b", Role::B), ("c", Role::C)])?;
    let (r, p, stride) = match &instruction.operands[..] {
        [r, p] => (r, p, None),
        [r, p, stride] => (r, p, Some(stride)),
        _ => return Err(operands(3, instruction)),
    };
    let matrix = Matrix::new(decoder, &mut modifiers, role, p, stride)?;
    let registers = Registers::new(decoder, r, matrix.layout, true)?;
    Ok(Action::run(move |cx| {
        cx.whole_warp()?;
        let mut fragment = Fragment::new();
        for element in 0..matrix.layout.elements() {
            let mut words = [[0; LANES]; 2];
            let count = matrix.bytes().div_ceil(4) as usize;
            let addresses = matrix.addresses(cx, element);
            cx.load(matrix.space, &addresses, matrix.bytes(), Kind::READ, &mut words[..count])?;
            let [low, high] = words;
            fragment.push(std::array::from_fn(|lane| u64::from(low[lane]) | u64::from(high[lane]) << 32));
        }
        registers.set(cx, matrix.layout, &fragment);
        Ok(())
    }))
}

fn store(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    modifiers.need("operation", &[("store", ())])?;
    modifiers.need("matrix", &[("d", ())])?;
    let (p, r, stride) = match &instruction.operands[..] {
        [p, r] => (p, r, None),
        [p, r, stride] => (p, r, Some(stride)),
        _ => return Err(operands(3, instruction)),
    };
    let matrix = Matrix::new(decoder, &mut modifiers, Role::C, p, stride)?;
    let registers = Registers::new(decoder, r, matrix.layout, false)?;
    Ok(Action::run(move |cx| {
        cx.whole_warp()?;
        cx.cluster.changes += 1;
        for (element, values) in registers.get(cx, matrix.layout).iter().enumerate() {
            let words = [values.map(|it| it as u32), values.map(|it| (it >> 32) as u32)];
            let count = matrix.bytes().div_ceil(4) as usize;
            let addresses = matrix.addresses(cx, element);
            cx.store(matrix.space, &addresses, matrix.bytes(), Kind::WRITE, &words[..count])?;
        }
        Ok(())
    }))
}

/// The types of d, a, b and c, by name.
fn types([d, a, b, c]: [&str; 4], satfinite: bool) -> Result<Types, Unsupported> {
    let element = |name: &str| Some(crate::ops::mma::ELEMENTS.iter().find(|(known, _)| *known == name)?.1);
    let integer = if satfinite { Accumulator::S32Satfinite } else { Accumulator::S32 };
    let accumulator = |name: &str| match name {
        "f16" => Some(Accumulator::F16),
        "f32" => Some(Accumulator::F32),
        "s32" => Some(integer),
        _ => None,
    };
    if [d, a, b, c] == ["f64"; 4] && !satfinite {
        return Ok(Types::Double);
    }
    let unknown = || format!("types .{d}.{a}.{b}.{c}");
    let (a, b) = (element(a).ok_or_else(unknown)?, element(b).ok_or_else(unknown)?);
    let (c, d) = (accumulator(c).ok_or_else(unknown)?, accumulator(d).ok_or_else(unknown)?);
    let sums: &[Accumulator] = match a {
        Element::F16 => &[Accumulator::F16, Accumulator::F32],
        Element::Bf16 | Element::Tf32 => &[Accumulator::F32],
        _ => &[Accumulator::S32, Accumulator::S32Satfinite],
    };
    let fits = a == b && sums.contains(&c) && sums.contains(&d) && (a.is_integer() || !satfinite);
    if fits { Ok(Types::Mixed { a, b, c, d }) } else { Err(unknown()) }
}

fn mma(decoder: &mut Decoder, instruction: &Instruction) -> Result<Action, Unsupported> {
    let mut modifiers = Modifiers::new(instruction);
    for name in ["mma", "sync", "aligned"] {
        modifiers.need("modifier", &[(name, ())])?;
    }
    modifiers.need("layout of a", &LAYOUTS)?;
    modifiers.need("layout of b", &LAYOUTS)?;
    let shape @ (m, n, k) = modifiers.need("shape", &SHAPES)?;
    let rounded = modifiers.flag("rn");
    let mut names = Vec::new();
    while let Some(name) = modifiers.peek().filter(|name| *name != "satfinite") {
        names.push(name);
        modifiers.next();
    }
    let satfinite = modifiers.flag("satfinite");
    modifiers.finish()?;
    let names = match names[..] {
        [d, c] => [d, "f16", "f16", c],
        [d, a, b, c] if a != "f16" => [d, a, b, c],
        _ => return Err("types: .dtype.ctype of .f16, else .dtype.atype.btype.ctype".into()),
    };
    if rounded && names[0] != "f64" {
        return Err("modifier .rn".into());
    }
    let types = types(names, satfinite)?;
    let [d, a, b, c] = &instruction.operands[..] else { return Err(operands(4, instruction)) };
    let roles = [Role::C, Role::A, Role::B, Role::C];
    let layout = |i: usize| Layout::new(roles[i], shape, names[i]);
    let [d_layout, a_layout, b_layout, c_layout] = [layout(0)?, layout(1)?, layout(2)?, layout(3)?];
    let d = Registers::new(decoder, d, d_layout, true)?;
    let a = Registers::new(decoder, a, a_layout, false)?;
    let b = Registers::new(decoder, b, b_layout, false)?;
    let c = Registers::new(decoder, c, c_layout, false)?;
    Ok(Action::run(move |cx| {
        cx.whole_warp()?;
        let (a, b, c) = (a.get(cx, a_layout), b.get(cx, b_layout), c.get(cx, c_layout));
        d.set(cx, d_layout, &multiply(types, shape, &a, &b, &c));
        cx.profile.instructions[cx.pc].tensor_operations += 2 * (m * n * k) as u64;
        Ok(())
    }))
}

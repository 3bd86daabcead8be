//! From operands to places in the register file.

use std::cell::RefCell;
use std::collections::HashMap;

use crate::decode::Unsupported;
use crate::decode::layout::{Layout, Symbols, function_address};
use crate::lanes::{LANES, Lanes, Pred, Reg, Word};
use crate::machine::Context;
use crate::memory::Space;
use crate::program::{Action, AnyReg, Fill, Place, Touches, Value};
use crate::ptx::ast::{self, Base, Operand, RegisterId, Symbol, Type};
use crate::registers::RegisterFile;
use crate::special::Special;

/// Turns the operands of one function's instructions into registers.
///
/// Immediates, addresses of variables and special registers become registers that hold their values from the start.
/// Registers of 8 and 16 bits lie in those of 32, the upper bits 0.
pub(crate) struct Decoder<'a> {
    pub module: &'a ast::Module,
    pub function: &'a ast::Function,
    pub body: &'a ast::Body,
    pub symbols: &'a Symbols,
    pub layout: Layout,
    /// Registers by [`RegisterId`], component after component.
    registers: Vec<Vec<AnyReg>>,
    pub template: RegisterFile,
    pub fills: Vec<(Fill, AnyReg)>,
    constants32: HashMap<u32, Reg<u32>>,
    constants64: HashMap<u64, Reg<u64>>,
    carry: Option<Reg<u32>>,
    /// Executed right after the instruction that is decoded, as a part of it.
    pub follow: Option<Action>,
    /// Whether an instruction so far lets blocks speak to each other.
    pub communicates: bool,
    /// Whether an instruction so far is an asynchronous product of matrices.
    pub multiplies: bool,
    /// The registers of 32 bits that were asked for as destinations.
    written: RefCell<Vec<u32>>,
}

/// A source operand of 32 or 64 bits.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    B32(Reg<u32>),
    B64(Reg<u64>),
    B128(Reg<u128>),
}

/// An address operand: what it starts from, and what is added.
#[derive(Clone, Copy)]
pub(crate) struct Address {
    base: Source,
    offset: u64,
}

impl<'a> Decoder<'a> {
    pub fn new(
        module: &'a ast::Module,
        function: &'a ast::Function,
        body: &'a ast::Body,
        symbols: &'a Symbols,
        layout: Layout,
    ) -> Self {
        let mut template = RegisterFile::default();
        let registers = body
            .registers
            .iter()
            .map(|register| (0..register.vector.max(1)).map(|_| add(&mut template, register.ty)).collect());
        let registers = registers.collect();
        Decoder {
            module,
            function,
            body,
            symbols,
            layout,
            registers,
            template,
            fills: Vec::new(),
            constants32: HashMap::new(),
            constants64: HashMap::new(),
            carry: None,
            follow: None,
            communicates: false,
            multiplies: false,
            written: RefCell::default(),
        }
    }

    /// A register of the program.
    pub fn register(&self, id: RegisterId) -> AnyReg {
        self.registers[id.0 as usize][0]
    }

    fn component(&self, id: RegisterId, component: u32) -> Result<AnyReg, Unsupported> {
        let of = &self.registers[id.0 as usize];
        of.get(component as usize)
            .copied()
            .ok_or_else(|| format!("component {component} of a register of {}", of.len()))
    }

    /// The type that a register was declared with.
    pub fn declared(&self, operand: &Operand) -> Option<Type> {
        match operand {
            Operand::Register(id) | Operand::Component(id, _) | Operand::Not(id) => {
                Some(self.body.registers[id.0 as usize].ty)
            }
            _ => None,
        }
    }

    /// A register that holds a value from the start and is never written.
    pub fn constant32(&mut self, value: u32) -> Reg<u32> {
        let file = &mut self.template.b32;
        *self.constants32.entry(value).or_insert_with(|| {
            file.push([value; LANES]);
            Reg::new(file.len() - 1)
        })
    }

    /// As [`Decoder::constant32`].
    pub fn constant64(&mut self, value: u64) -> Reg<u64> {
        let file = &mut self.template.b64;
        *self.constants64.entry(value).or_insert_with(|| {
            file.push([value; LANES]);
            Reg::new(file.len() - 1)
        })
    }

    /// A predicate that always holds, or never.
    pub fn constant_pred(&mut self, value: bool) -> Pred {
        self.template.pred.push(u32::MAX);
        Pred { index: self.template.pred.len() as u32 - 1, negated: !value }
    }

    /// A register that no other instruction knows.
    pub fn scratch32(&mut self) -> Reg<u32> {
        self.template.b32.push([0; LANES]);
        Reg::new(self.template.b32.len() - 1)
    }

    /// As [`Decoder::scratch32`].
    pub fn scratch64(&mut self) -> Reg<u64> {
        self.template.b64.push([0; LANES]);
        Reg::new(self.template.b64.len() - 1)
    }

    /// As [`Decoder::scratch32`].
    pub fn scratch128(&mut self) -> Reg<u128> {
        self.template.b128.push([0; LANES]);
        Reg::new(self.template.b128.len() - 1)
    }

    /// As [`Decoder::scratch32`].
    pub fn scratch_pred(&mut self) -> Pred {
        self.template.pred.push(0);
        Pred { index: self.template.pred.len() as u32 - 1, negated: false }
    }

    fn special(&mut self, name: &str, wide: bool) -> Result<AnyReg, Unsupported> {
        let special = Special::parse(name).ok_or_else(|| format!("special register %{name}"))?;
        if special.is_clock() {
            return Err(format!("%{name} as an operand of anything but mov"));
        }
        let register = if special.is_predicate() {
            AnyReg::Pred(self.scratch_pred().index)
        } else if wide {
            AnyReg::B64(self.scratch64().index)
        } else {
            AnyReg::B32(self.scratch32().index)
        };
        self.fills.push((Fill::Special(special), register));
        Ok(register)
    }

    /// A register that holds the address of a symbol.
    fn symbol32(&mut self, symbol: &Symbol, offset: i64) -> Result<Reg<u32>, Unsupported> {
        match self.address_of(symbol, offset)? {
            Value::Known(address) => Ok(self.constant32(address as u32)),
            Value::Filled(fill) => {
                let register = self.scratch32();
                self.fills.push((fill, AnyReg::B32(register.index)));
                Ok(register)
            }
        }
    }

    fn symbol64(&mut self, symbol: &Symbol, offset: i64) -> Result<Reg<u64>, Unsupported> {
        match self.address_of(symbol, offset)? {
            Value::Known(address) => Ok(self.constant64(address)),
            Value::Filled(fill) => {
                let register = self.scratch64();
                self.fills.push((fill, AnyReg::B64(register.index)));
                Ok(register)
            }
        }
    }

    /// A source operand of up to 32 bits. Floating-point literals become f32 or, for [`Type::F16`] and
    /// [`Type::Bf16`], are not allowed by PTX and not taken.
    pub fn src32(&mut self, operand: &Operand) -> Result<Reg<u32>, Unsupported> {
        let register = match operand {
            Operand::Register(id) => self.register(*id),
            Operand::Component(id, component) => self.component(*id, *component)?,
            Operand::Integer(value) => return Ok(self.constant32(*value as u32)),
            Operand::F32(bits) => return Ok(self.constant32(*bits)),
            Operand::F64(bits) => return Ok(self.constant32((f64::from_bits(*bits) as f32).to_bits())),
            Operand::Special(name) => self.special(name, false)?,
            Operand::Symbol(symbol, offset) => return self.symbol32(symbol, *offset),
            _ => return Err(format!("operand {operand:?} where a value of 32 bits is wanted")),
        };
        match register {
            AnyReg::B32(index) => Ok(Reg::new(index as usize)),
            _ => Err(format!("{register:?} where a register of at most 32 bits is wanted")),
        }
    }

    /// A source operand of 64 bits.
    pub fn src64(&mut self, operand: &Operand) -> Result<Reg<u64>, Unsupported> {
        let register = match operand {
            Operand::Register(id) => self.register(*id),
            Operand::Component(id, component) => self.component(*id, *component)?,
            Operand::Integer(value) => return Ok(self.constant64(*value)),
            Operand::F64(bits) => return Ok(self.constant64(*bits)),
            Operand::F32(bits) => return Ok(self.constant64(f64::from(f32::from_bits(*bits)).to_bits())),
            Operand::Special(name) => self.special(name, true)?,
            Operand::Symbol(symbol, offset) => return self.symbol64(symbol, *offset),
            _ => return Err(format!("operand {operand:?} where a value of 64 bits is wanted")),
        };
        match register {
            AnyReg::B64(index) => Ok(Reg::new(index as usize)),
            _ => Err(format!("{register:?} where a register of 64 bits is wanted")),
        }
    }

    /// A source operand of 128 bits.
    pub fn src128(&mut self, operand: &Operand) -> Result<Reg<u128>, Unsupported> {
        match operand {
            Operand::Register(id) => match self.register(*id) {
                AnyReg::B128(index) => Ok(Reg::new(index as usize)),
                other => Err(format!("{other:?} where a register of 128 bits is wanted")),
            },
            _ => Err(format!("operand {operand:?} where a value of 128 bits is wanted")),
        }
    }

    /// A source operand of whatever width its register has; a literal has as many bytes as said.
    pub fn source(&mut self, operand: &Operand, bytes: u64) -> Result<Source, Unsupported> {
        let wide = match operand {
            Operand::Register(id) => matches!(self.register(*id), AnyReg::B64(_)),
            Operand::Component(id, component) => matches!(self.component(*id, *component)?, AnyReg::B64(_)),
            _ => bytes == 8,
        };
        if let Operand::Register(id) = operand
            && let AnyReg::B128(_) = self.register(*id)
        {
            return Ok(Source::B128(self.src128(operand)?));
        }
        Ok(if wide { Source::B64(self.src64(operand)?) } else { Source::B32(self.src32(operand)?) })
    }

    /// A predicate as a source, negated or not, or a constant.
    pub fn pred(&mut self, operand: &Operand) -> Result<Pred, Unsupported> {
        let (id, negated) = match operand {
            Operand::Register(id) => (id, false),
            Operand::Not(id) => (id, true),
            Operand::Integer(value) => return Ok(self.constant_pred(*value != 0)),
            Operand::Special(name) => match self.special(name, false)? {
                AnyReg::Pred(index) => return Ok(Pred { index, negated: false }),
                _ => return Err(format!("%{name} where a predicate is wanted")),
            },
            _ => return Err(format!("operand {operand:?} where a predicate is wanted")),
        };
        match self.register(*id) {
            AnyReg::Pred(index) => Ok(Pred { index, negated }),
            other => Err(format!("{other:?} where a predicate is wanted")),
        }
    }

    /// A destination of up to 32 bits; `_` is a register nobody reads.
    pub fn dst32(&mut self, operand: &Operand) -> Result<Reg<u32>, Unsupported> {
        match self.destination(operand)? {
            Some(AnyReg::B32(index)) => Ok(Reg::new(index as usize)),
            None => Ok(self.scratch32()),
            Some(other) => Err(format!("{other:?} where a result of at most 32 bits goes")),
        }
    }

    /// A destination of 64 bits.
    pub fn dst64(&mut self, operand: &Operand) -> Result<Reg<u64>, Unsupported> {
        match self.destination(operand)? {
            Some(AnyReg::B64(index)) => Ok(Reg::new(index as usize)),
            None => Ok(self.scratch64()),
            Some(other) => Err(format!("{other:?} where a result of 64 bits goes")),
        }
    }

    /// A destination of 128 bits.
    pub fn dst128(&mut self, operand: &Operand) -> Result<Reg<u128>, Unsupported> {
        match self.destination(operand)? {
            Some(AnyReg::B128(index)) => Ok(Reg::new(index as usize)),
            other => Err(format!("{other:?} where a result of 128 bits goes")),
        }
    }

    /// A predicate as a destination.
    pub fn dst_pred(&mut self, operand: &Operand) -> Result<Pred, Unsupported> {
        match self.destination(operand)? {
            Some(AnyReg::Pred(index)) => Ok(Pred { index, negated: false }),
            None => Ok(self.scratch_pred()),
            Some(other) => Err(format!("{other:?} where a predicate goes")),
        }
    }

    /// A destination register of any width; None for `_`.
    pub fn destination(&self, operand: &Operand) -> Result<Option<AnyReg>, Unsupported> {
        let register = match operand {
            Operand::Register(id) => self.register(*id),
            Operand::Component(id, component) => self.component(*id, *component)?,
            Operand::Sink => return Ok(None),
            _ => return Err(format!("operand {operand:?} where a result goes")),
        };
        if let AnyReg::B32(index) = register {
            self.written.borrow_mut().push(index);
        }
        Ok(Some(register))
    }

    /// The registers of 32 bits that an instruction, which was just decoded, touches.
    pub fn touches(&mut self, instruction: &ast::Instruction) -> Touches {
        let mut all = Vec::new();
        instruction.operands.iter().for_each(|operand| self.mentioned(operand, &mut all));
        Touches { all, written: self.written.take() }
    }

    fn mentioned(&self, operand: &Operand, found: &mut Vec<u32>) {
        let mut add = |id: RegisterId, component: u32| {
            if let Ok(AnyReg::B32(index)) = self.component(id, component) {
                found.push(index);
            }
        };
        match operand {
            Operand::Register(id) | Operand::Selected(id, _) | Operand::Address(Base::Register(id), _) => {
                add(*id, 0);
            }
            Operand::Component(id, component) => add(*id, *component),
            Operand::Vector(operands) | Operand::List(operands) => {
                operands.iter().for_each(|operand| self.mentioned(operand, found));
            }
            Operand::Pair(one, other) => {
                self.mentioned(one, found);
                self.mentioned(other, found);
            }
            Operand::TensorAddress(_, _, groups) => {
                groups.iter().flatten().for_each(|operand| self.mentioned(operand, found));
            }
            _ => {}
        }
    }

    /// The operands of `{a, b}`, or a vector register's components, or one operand alone.
    pub fn elements(&self, operand: &Operand) -> Vec<Operand> {
        match operand {
            Operand::Vector(elements) => elements.clone(),
            Operand::Register(id) if self.registers[id.0 as usize].len() > 1 => {
                (0..self.registers[id.0 as usize].len() as u32)
                    .map(|it| Operand::Component(*id, it))
                    .collect()
            }
            _ => vec![operand.clone()],
        }
    }

    /// An address operand `[...]`.
    pub fn address(&mut self, operand: &Operand) -> Result<Address, Unsupported> {
        match operand {
            Operand::Address(base, offset) | Operand::TensorAddress(base, offset, _) => {
                self.address_from(base, *offset)
            }
            Operand::Register(id) => self.address_from(&Base::Register(*id), 0),
            Operand::Symbol(symbol, offset) => self.address_from(&Base::Symbol(*symbol), *offset),
            _ => Err(format!("operand {operand:?} where an address is wanted")),
        }
    }

    fn address_from(&mut self, base: &Base, offset: i64) -> Result<Address, Unsupported> {
        let base = match base {
            Base::Register(id) => match self.register(*id) {
                AnyReg::B32(index) => Source::B32(Reg::new(index as usize)),
                AnyReg::B64(index) => Source::B64(Reg::new(index as usize)),
                other => return Err(format!("{other:?} as an address")),
            },
            Base::Symbol(symbol) => Source::B64(self.symbol64(symbol, 0)?),
            Base::None => Source::B64(self.constant64(0)),
        };
        Ok(Address { base, offset: offset as u64 })
    }

    /// Where a variable of the body lies that is passed to a call.
    pub fn local_place(&self, index: usize) -> Result<Place, Unsupported> {
        let bytes = self.body.variables[index].bytes.unwrap_or(0);
        match self.layout.locals[index] {
            Value::Filled(Fill::Local(offset)) => {
                Ok(Place::Memory { offset: offset as u32, bytes: bytes as u32 })
            }
            _ => Err(format!("{} passed to a call", self.body.variables[index].name)),
        }
    }

    /// The value of an address that is known when the module is loaded.
    pub fn known_address(&self, operand: &Operand) -> Option<u64> {
        let Operand::Address(Base::Symbol(symbol), offset) = operand else { return None };
        match self.address_of(symbol, *offset) {
            Ok(Value::Known(address)) => Some(address),
            _ => None,
        }
    }

    /// The state space that a symbol's address is in, where the operand starts from a symbol.
    pub fn space_of(&self, operand: &Operand) -> Option<Space> {
        let (Operand::Address(Base::Symbol(symbol), _) | Operand::Symbol(symbol, _)) = operand else {
            return None;
        };
        Some(match symbol {
            Symbol::Global(index) => space(self.module.variables[*index].space),
            Symbol::Local(index) => space(self.body.variables[*index].space),
            Symbol::Param(_) | Symbol::Return(_) if self.function.entry => Space::Param,
            Symbol::Param(_) | Symbol::Return(_) => Space::Local,
            Symbol::Function(_) => return None,
        })
    }

    fn address_of(&self, symbol: &Symbol, offset: i64) -> Result<Value, Unsupported> {
        let offset = offset as u64;
        let place = |place: &Place| match place {
            Place::Memory { offset: start, .. } => Ok(u64::from(*start).wrapping_add(offset)),
            Place::Register(_) => Err("the address of a register".to_owned()),
        };
        match symbol {
            Symbol::Global(index) => Ok(self.layout.variable(self.symbols, *index).plus(offset)),
            Symbol::Function(index) => Ok(Value::Known(function_address(*index))),
            Symbol::Local(index) => Ok(self.layout.locals[*index].plus(offset)),
            Symbol::Param(index) if self.function.entry => {
                place(&self.layout.params[*index]).map(Value::Known)
            }
            Symbol::Param(index) => {
                place(&self.layout.params[*index]).map(|it| Value::Filled(Fill::Local(it)))
            }
            Symbol::Return(index) => {
                place(&self.layout.returns[*index]).map(|it| Value::Filled(Fill::Local(it)))
            }
        }
    }
}

/// A register word that operands can be of.
pub(crate) trait OperandWord: Word {
    fn src(decoder: &mut Decoder, operand: &Operand) -> Result<Reg<Self>, Unsupported>;
    fn dst(decoder: &mut Decoder, operand: &Operand) -> Result<Reg<Self>, Unsupported>;
}

macro_rules! operand_word {
    ($($type:ty, $src:ident, $dst:ident;)*) => {$(
        impl OperandWord for $type {
            fn src(decoder: &mut Decoder, operand: &Operand) -> Result<Reg<Self>, Unsupported> {
                decoder.$src(operand)
            }

            fn dst(decoder: &mut Decoder, operand: &Operand) -> Result<Reg<Self>, Unsupported> {
                decoder.$dst(operand)
            }
        }
    )*};
}

operand_word! { u32, src32, dst32; u64, src64, dst64; u128, src128, dst128; }

impl Decoder<'_> {
    /// A source of a width that the type tells.
    pub fn src<W: OperandWord>(&mut self, operand: &Operand) -> Result<Reg<W>, Unsupported> {
        W::src(self, operand)
    }

    /// A destination of a width that the type tells.
    pub fn dst<W: OperandWord>(&mut self, operand: &Operand) -> Result<Reg<W>, Unsupported> {
        W::dst(self, operand)
    }

    /// The function's carry flag: 0 or 1 in each lane.
    pub fn carry(&mut self) -> Reg<u32> {
        match self.carry {
            Some(carry) => carry,
            None => {
                let carry = self.scratch32();
                self.carry = Some(carry);
                carry
            }
        }
    }
}

/// The space to access a variable in. Those of `.param` that a body declares, for calls, are local memory here.
fn space(space: ast::Space) -> Space {
    match space {
        ast::Space::Global => Space::Global,
        ast::Space::Const => Space::Const,
        ast::Space::Shared => Space::Shared,
        ast::Space::Reg | ast::Space::Local | ast::Space::Param => Space::Local,
    }
}

fn add(file: &mut RegisterFile, ty: Type) -> AnyReg {
    match ty {
        Type::Pred => {
            file.pred.push(0);
            AnyReg::Pred(file.pred.len() as u32 - 1)
        }
        Type::B128 => {
            file.b128.push([0; LANES]);
            AnyReg::B128(file.b128.len() as u32 - 1)
        }
        Type::B64 | Type::U64 | Type::S64 | Type::F64 => {
            file.b64.push([0; LANES]);
            AnyReg::B64(file.b64.len() as u32 - 1)
        }
        _ => {
            file.b32.push([0; LANES]);
            AnyReg::B32(file.b32.len() as u32 - 1)
        }
    }
}

impl Context<'_> {
    /// The address that each lane means.
    #[inline(always)]
    pub fn addresses(&self, address: &Address) -> Lanes<u64> {
        let mut out = [0; LANES];
        match address.base {
            Source::B32(base) => {
                let offset = address.offset as u32;
                crate::lanes::each1(self.get(base), &mut out, |base: u32| {
                    u64::from(base.wrapping_add(offset))
                });
            }
            Source::B64(base) => {
                crate::lanes::each1(self.get(base), &mut out, |base: u64| base.wrapping_add(address.offset));
            }
            Source::B128(_) => {}
        }
        out
    }
}

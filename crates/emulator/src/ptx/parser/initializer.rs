//! Initial values of variables (PTX ISA, "Initializers").

use super::Parser;
use super::cursor::Parsed;
use super::declaration::{Dimensions, Shape};
use super::expression::to_f64;
use super::names::Name;
use crate::ptx::ast::{Init, Symbol, Type};
use crate::ptx::lexer::{Kind, Token};
use crate::ptx::number::{Value, literal};

/// Zeros that the nested braces of one text may stand for: memory is not to outgrow the text without bound.
const MAX_PADDING: usize = 1 << 20;

impl<'t> Parser<'t> {
    /// `= 5`, `= {1, 2}`, `= {{1, 0}, {0, 1}}`: what nested braces leave out is 0.
    pub fn initializer(&mut self, shape: Shape, dimensions: &Dimensions) -> Parsed<Vec<Init>> {
        self.expect("=")?;
        let levels = levels(shape, dimensions);
        let start = self.token;
        let mut init = Vec::new();
        if self.at("{") {
            self.braces(shape, &levels, &mut init)?;
        } else {
            init.push(self.initial_element(shape)?);
        }
        let known = match dimensions.0.first() {
            Some(None) => None,
            Some(Some(length)) => Some(length.saturating_mul(dimensions.row().unwrap_or(u64::MAX))),
            None => Some(1),
        };
        match known.map(|elements| elements.saturating_mul(u64::from(shape.vector))) {
            Some(most) if init.len() as u64 > most => {
                Err(self.error_at(start, &format!("at most {most} values")))
            }
            _ => Ok(init),
        }
    }

    /// `levels`: how many elements an inner pair of braces stands for, then one within it.
    fn braces(&mut self, shape: Shape, levels: &[u64], init: &mut Vec<Init>) -> Parsed<()> {
        self.expect("{")?;
        if self.accept("}") {
            return Ok(());
        }
        let mut due = init.len();
        loop {
            self.pad(init, due)?;
            if self.at("{") {
                due = self.inner_braces(shape, levels, init)?;
            } else {
                init.push(self.initial_element(shape)?);
            }
            if !self.accept(",") {
                break;
            }
        }
        if self.accept("}") { Ok(()) } else { self.fail("`,` or `}`") }
    }

    /// Where the elements after the inner braces are due.
    fn inner_braces(&mut self, shape: Shape, levels: &[u64], init: &mut Vec<Init>) -> Parsed<usize> {
        let start = self.token;
        let Some((&size, inner)) = levels.split_first() else {
            return self.fail("a value: the array has no more dimensions");
        };
        let begin = init.len();
        self.nested(|p| p.braces(shape, inner, init))?;
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        if init.len() - begin > size {
            return Err(self.error_at(start, &format!("at most {size} values in these braces")));
        }
        Ok(begin.saturating_add(size))
    }

    fn pad(&mut self, init: &mut Vec<Init>, length: usize) -> Parsed<()> {
        let missing = length.saturating_sub(init.len());
        self.padding = self.padding.saturating_add(missing);
        if self.padding > MAX_PADDING {
            return self.fail(&format!("at most {MAX_PADDING} elements left out within braces"));
        }
        init.resize(init.len() + missing, Init::Bits(0));
        Ok(())
    }

    fn initial_element(&mut self, shape: Shape) -> Parsed<Init> {
        if self.token.kind == Kind::Word && !self.at_expression() {
            return self.address(u64::MAX);
        }
        if let Some(mask) = self.mask()? {
            self.expect("(")?;
            let address = self.address(mask)?;
            self.expect(")")?;
            return Ok(address);
        }
        let start = self.token;
        let value = self.expression()?;
        match bits(shape.ty, value) {
            Some(bits) => Ok(Init::Bits(bits)),
            None => Err(self.error_at(start, &format!("a value of type {:?}", shape.ty))),
        }
    }

    /// The `0xFF00` of `0xFF00(name)`.
    fn mask(&mut self) -> Parsed<Option<u64>> {
        let place = self.here();
        if self.token.kind != Kind::Number {
            return Ok(None);
        }
        let number = self.advance();
        if !self.at("(") {
            self.go_to(place);
            return Ok(None);
        }
        let bits = match literal(number.text) {
            Some(Value::Signed(value)) => value as u64,
            Some(Value::Unsigned(value)) => value,
            _ => 0,
        };
        let lowest = bits.trailing_zeros();
        if lowest.is_multiple_of(8) && bits.checked_shr(lowest) == Some(0xFF) {
            Ok(Some(bits))
        } else {
            Err(self.error_at(number, "a mask of one byte, such as 0xFF00"))
        }
    }

    /// `name+4`, `generic(name)+4`
    fn address(&mut self, mask: u64) -> Parsed<Init> {
        let mut word = self.expect_name("the name of a variable or function")?;
        let generic = word.text == "generic" && self.accept("(");
        let mut offset = 0;
        if generic {
            word = self.expect_name("the name of a variable or function")?;
            offset = self.offset()?;
            self.expect(")")?;
        }
        let name = self.addressed_name(word)?;
        offset = offset.wrapping_add(self.offset()?);
        Ok(Init::Address { name, offset, generic, mask })
    }

    /// The name by which the module has what is called `word` here.
    fn addressed_name(&mut self, word: Token<'t>) -> Parsed<String> {
        match self.names.declared(word.text) {
            Some(Name::Symbol(Symbol::Global(index))) => Ok(self.module.variables[index].name.clone()),
            Some(Name::Symbol(Symbol::Function(index))) => Ok(self.module.functions[index].name.clone()),
            Some(_) => Err(self.error_at(word, "a variable of the module or a function")),
            None => {
                self.addressed.push(word);
                Ok(word.text.to_owned())
            }
        }
    }

    /// What initialises a variable has to be declared, be it later.
    pub fn check_addressed(&mut self) {
        for word in std::mem::take(&mut self.addressed) {
            if self.names.of_module(word.text).is_none() {
                self.report(self.error_at(word, "a variable of the module or a function"));
            }
        }
    }
}

/// Elements of a row, of a row of a row, and so on; those of a vector last.
fn levels(shape: Shape, dimensions: &Dimensions) -> Vec<u64> {
    let mut lengths: Vec<u64> = dimensions.0.iter().map(|length| length.unwrap_or(1)).collect();
    if shape.vector > 1 {
        lengths.push(u64::from(shape.vector));
    }
    let mut size = 1_u64;
    let mut levels = Vec::new();
    for length in lengths.iter().skip(1).rev() {
        size = size.saturating_mul(*length);
        levels.push(size);
    }
    levels.reverse();
    levels
}

/// The bits of a value of a type; `None` when the type has no such value.
fn bits(ty: Type, value: Value) -> Option<u64> {
    match (ty, value) {
        (Type::F32, Value::F32(bits)) => Some(u64::from(bits)),
        (Type::F32, _) => Some(u64::from((to_f64(value) as f32).to_bits())),
        (Type::F64, _) => Some(to_f64(value).to_bits()),
        (Type::F16 | Type::Bf16, _) => None,
        (_, Value::Signed(value)) => Some(value as u64),
        (_, Value::Unsigned(value)) => Some(value),
        (_, Value::F32(bits)) if ty.bytes() >= 4 => Some(u64::from(bits)),
        (_, Value::F64(value)) if ty.bytes() >= 8 => Some(value.to_bits()),
        (_, Value::F32(_) | Value::F64(_)) => None,
    }
}

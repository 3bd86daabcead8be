//! Initial values of variables (PTX ISA, "Initializers").

use super::Parser;
use super::cursor::Parsed;
use super::declaration::{Dimensions, Shape};
use super::names::Name;
use crate::ptx::ast::{Init, Symbol, Type};
use crate::ptx::lexer::{Kind, Token};
use crate::ptx::number::{Value, literal};

/// Zeros that the nested braces of one text may stand for: memory is not to outgrow the text without bound.
const MAX_PADDING: usize = 1 << 20;

impl<'t> Parser<'t> {
    /// `= 5`, `= {1, 2}`, `= {{1, 0}, {0, 1}}`: what braces leave out is 0.
    pub fn initializer(&mut self, shape: Shape, dimensions: &Dimensions) -> Parsed<Vec<Init>> {
        self.expect("=")?;
        let sizes = sizes(shape, dimensions);
        let mut init = Vec::new();
        if sizes.is_empty() {
            init.push(self.initial_element(shape)?);
        } else {
            self.braces(shape, &sizes, &mut init)?;
        }
        Ok(init)
    }

    /// Braces that stand for `sizes[0]` elements; those within them stand for `sizes[1]`, and so on.
    fn braces(&mut self, shape: Shape, sizes: &[u64], init: &mut Vec<Init>) -> Parsed<()> {
        let open = self.token;
        let begin = init.len();
        self.expect("{")?;
        let mut due = begin;
        while !self.at("}") {
            self.pad(init, due)?;
            match &sizes[1..] {
                [] => init.push(self.initial_element(shape)?),
                inner => self.nested(|p| p.braces(shape, inner, init))?,
            }
            let item = sizes.get(1).map_or(1, |size| usize::try_from(*size).unwrap_or(usize::MAX));
            due = due.saturating_add(item);
            if !self.accept(",") {
                break;
            }
        }
        if !self.accept("}") {
            return self.fail("`,` or `}`");
        }
        if (init.len() - begin) as u64 > sizes[0] {
            return Err(self.error_at(open, &format!("at most {} values in these braces", sizes[0])));
        }
        Ok(())
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
            _ => Err(self.error_at(word, "a variable of the module or a function, declared before")),
        }
    }
}

/// Elements of the array, of a row of it, of a row of that, and so on; those of a vector last. A first length that
/// is missing counts as any number.
fn sizes(shape: Shape, dimensions: &Dimensions) -> Vec<u64> {
    let mut sizes: Vec<u64> = dimensions.0.iter().map(|length| length.unwrap_or(u64::MAX)).collect();
    if shape.vector > 1 {
        sizes.push(u64::from(shape.vector));
    }
    for outer in (1..sizes.len()).rev() {
        sizes[outer - 1] = sizes[outer - 1].saturating_mul(sizes[outer]);
    }
    sizes
}

/// The bits of a value of a type; `None` when the type has no such value.
fn bits(ty: Type, value: Value) -> Option<u64> {
    match (ty, value) {
        (Type::F64 | Type::B64, Value::F64(value)) => Some(value.to_bits()),
        (Type::F32 | Type::B32, Value::F64(value)) => Some(u64::from((value as f32).to_bits())),
        (Type::F32 | Type::B32, Value::F32(bits)) => Some(u64::from(bits)),
        (_, Value::F32(_) | Value::F64(_)) | (Type::F16 | Type::Bf16 | Type::F32 | Type::F64, _) => None,
        (_, Value::Signed(value)) => Some(value as u64),
        (_, Value::Unsigned(value)) => Some(value),
    }
}

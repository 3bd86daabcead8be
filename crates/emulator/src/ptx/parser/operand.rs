//! Operands (PTX ISA, "Instruction Operands").

use super::Parser;
use super::cursor::Parsed;
use super::names::Name;
use crate::ptx::ast::{Base, Operand, RegisterId, Symbol};
use crate::ptx::lexer::{Kind, Token};
use crate::ptx::number::Value;
use crate::ptx::special::is_special;

impl<'t> Parser<'t> {
    /// Of a call, parentheses hold arguments; of others, a constant expression.
    pub fn operand(&mut self, call: bool) -> Parsed<Operand> {
        let first = self.simple_operand(call)?;
        if !self.accept("|") {
            return Ok(first);
        }
        let second = self.element()?;
        Ok(Operand::Pair(Box::new(first), Box::new(second)))
    }

    fn simple_operand(&mut self, call: bool) -> Parsed<Operand> {
        if self.token.kind == Kind::Word && !self.at_expression() {
            let word = self.advance();
            let label = |p: &mut Self| Operand::Label(p.state.labels.used(word).provisional());
            return Ok(self.named(word)?.unwrap_or_else(|| label(self)));
        }
        match self.token.text {
            _ if self.token.kind != Kind::Symbol => self.constant(),
            "{" => Ok(Operand::Vector(self.elements("{", "}")?)),
            "(" if call => Ok(Operand::List(self.elements("(", ")")?)),
            "[" => self.address_operand(),
            "!" => self.negated(),
            _ => self.constant(),
        }
    }

    /// Operands within braces or parentheses.
    fn elements(&mut self, open: &str, close: &str) -> Parsed<Vec<Operand>> {
        self.enclosed(open, close, Self::element)
    }

    fn element(&mut self) -> Parsed<Operand> {
        if self.token.kind != Kind::Word || self.at_expression() {
            return self.constant();
        }
        let word = self.advance();
        match self.named(word)? {
            Some(operand) => Ok(operand),
            None => Err(self.error_at(word, "a name that is declared")),
        }
    }

    /// `None` for a name that is not declared, and so may be a label.
    fn named(&mut self, word: Token<'t>) -> Parsed<Option<Operand>> {
        match self.find(word) {
            Some(Name::Register(register)) => self.component(register).map(Some),
            Some(Name::Symbol(symbol)) => {
                let start = if self.at("[") { self.subscript(symbol)? } else { 0 };
                Ok(Some(Operand::Symbol(symbol, start.wrapping_add(self.offset()?))))
            }
            Some(Name::Unused(..)) | None if word.text == "_" => Ok(Some(Operand::Sink)),
            Some(Name::Unused(..)) | None => self.special(word),
        }
    }

    /// `[2]` after an array: how many bytes lie before that element.
    fn subscript(&mut self, symbol: Symbol) -> Parsed<i64> {
        let variable = match symbol {
            Symbol::Global(index) => &self.module.variables[index],
            Symbol::Local(index) => &self.state.body.variables[index],
            _ => return self.fail("`,` or `;`: only variables are arrays"),
        };
        let element = variable.ty.bytes() * u64::from(variable.vector);
        self.expect("[")?;
        let index = self.integer()?;
        self.expect("]")?;
        Ok(index.wrapping_mul(element) as i64)
    }

    /// `%v1.x`, or `%r1.b0` of a video instruction
    fn component(&mut self, register: RegisterId) -> Parsed<Operand> {
        let vector = self.state.body.registers[register.0 as usize].vector;
        if self.token.kind != Kind::Dotted {
            return Ok(Operand::Register(register));
        }
        let index = match self.token.text {
            "x" | "r" => 0,
            "y" | "g" => 1,
            "z" | "b" => 2,
            "w" | "a" => 3,
            _ => u32::MAX,
        };
        if vector == 1 && is_selector(self.token.text) {
            return Ok(Operand::Selected(register, self.advance().text.to_owned()));
        }
        if vector == 1 || index >= vector {
            return self.fail("`,` or `;`: the register has no such component");
        }
        self.advance();
        Ok(Operand::Component(register, index))
    }

    /// `%tid.x`; `None` for a name without `%`.
    fn special(&mut self, word: Token<'t>) -> Parsed<Option<Operand>> {
        let Some(name) = word.text.strip_prefix('%') else {
            return Ok(None);
        };
        let mut name = name.to_owned();
        if self.token.kind == Kind::Dotted {
            name = format!("{name}.{}", self.token.text);
        }
        if !is_special(&name) {
            return Err(self.error_at(word, "a register that is declared"));
        }
        if self.token.kind == Kind::Dotted {
            self.advance();
        }
        Ok(Some(Operand::Special(name)))
    }

    fn constant(&mut self) -> Parsed<Operand> {
        if !self.at_expression() {
            return self.fail("an operand");
        }
        Ok(match self.expression()? {
            Value::Signed(value) => Operand::Integer(value as u64),
            Value::Unsigned(value) => Operand::Integer(value),
            Value::F32(bits) => Operand::F32(bits),
            Value::F64(value) => Operand::F64(value.to_bits()),
        })
    }

    /// `!%p1`, or a constant expression such as `!5`.
    fn negated(&mut self) -> Parsed<Operand> {
        let place = self.here();
        self.expect("!")?;
        if self.token.kind == Kind::Word && !self.at_expression() {
            return Ok(Operand::Not(self.register_use()?));
        }
        self.go_to(place);
        self.constant()
    }

    /// `[%rd1+8]`, `[x+8]`, `[16]`, `[%rd1, {%r1, %r2}]`
    fn address_operand(&mut self) -> Parsed<Operand> {
        self.expect("[")?;
        let (base, offset) = self.address_base()?;
        let mut groups = Vec::new();
        while self.accept(",") {
            groups.push(if self.at("{") { self.elements("{", "}")? } else { vec![self.element()?] });
        }
        if !self.accept("]") {
            return self.fail("`+`, `,` or `]`");
        }
        Ok(if groups.is_empty() {
            Operand::Address(base, offset)
        } else {
            Operand::TensorAddress(base, offset, groups)
        })
    }

    fn address_base(&mut self) -> Parsed<(Base, i64)> {
        if self.token.kind != Kind::Word || self.at_expression() {
            if !self.at_expression() {
                return self.fail("an address");
            }
            return Ok((Base::None, self.integer()? as i64));
        }
        let word = self.advance();
        let base = match self.find(word) {
            Some(Name::Register(register)) => Base::Register(register),
            Some(Name::Symbol(symbol)) => Base::Symbol(symbol),
            _ => return Err(self.error_at(word, "a register or variable that is declared")),
        };
        Ok((base, self.offset()?))
    }
}

/// `b0`, `h1`, or of a vector instruction `b3210`, `h10`.
fn is_selector(text: &str) -> bool {
    let digits = text.strip_prefix(['b', 'h']).unwrap_or_default();
    (1..=4).contains(&digits.len()) && digits.bytes().all(|digit| (b'0'..b'8').contains(&digit))
}

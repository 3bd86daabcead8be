//! Constant expressions (PTX ISA, "Constant Expressions" and "Summary of Constant Expression Evaluation Rules").

use super::Parser;
use super::cursor::Parsed;
use crate::ptx::lexer::{Kind, Token};
use crate::ptx::number::{Value, literal};

/// Of `WARP_SZ`.
const WARP_SIZE: i64 = 32;

/// Binary operators from the loosest to the tightest.
const LEVELS: [&[&str]; 10] = [
    &["||"],
    &["&&"],
    &["|"],
    &["^"],
    &["&"],
    &["==", "!="],
    &["<", "<=", ">", ">="],
    &["<<", ">>"],
    &["+", "-"],
    &["*", "/", "%"],
];

impl<'t> Parser<'t> {
    /// Whether a constant expression starts here.
    pub fn at_expression(&self) -> bool {
        match self.token.kind {
            Kind::Number => true,
            Kind::Word => self.token.text == "WARP_SZ",
            Kind::Dotted => self.token.text.starts_with(|first: char| first.is_ascii_digit()),
            Kind::Symbol => matches!(self.token.text, "+" | "-" | "!" | "~" | "("),
            Kind::String | Kind::End | Kind::Bad => false,
        }
    }

    pub fn expression(&mut self) -> Parsed<Value> {
        let start = self.token;
        self.nested(|p| {
            let condition = p.binary(0)?;
            if !p.accept("?") {
                return Ok(condition);
            }
            let yes = p.expression()?;
            p.expect(":")?;
            let no = p.expression()?;
            Ok(if p.integer_of(start, condition)? != 0 { yes } else { no })
        })
    }

    /// An expression that is not a fraction.
    pub fn integer(&mut self) -> Parsed<u64> {
        let start = self.token;
        let value = self.expression()?;
        self.integer_of(start, value)
    }

    /// `+8`, `-8`, or nothing, which is 0.
    pub fn offset(&mut self) -> Parsed<i64> {
        if self.accept("+") || self.at("-") { Ok(self.integer()? as i64) } else { Ok(0) }
    }

    fn integer_of(&self, start: Token<'t>, value: Value) -> Parsed<u64> {
        match value {
            Value::Signed(value) => Ok(value as u64),
            Value::Unsigned(value) => Ok(value),
            Value::F32(_) | Value::F64(_) => Err(self.error_at(start, "an integer")),
        }
    }

    fn binary(&mut self, level: usize) -> Parsed<Value> {
        if level == LEVELS.len() {
            return self.unary();
        }
        let mut left = self.binary(level + 1)?;
        while self.token.kind == Kind::Symbol && LEVELS[level].contains(&self.token.text) {
            let operator = self.advance();
            let right = self.binary(level + 1)?;
            left =
                binary(operator.text, left, right).map_err(|expected| self.error_at(operator, expected))?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parsed<Value> {
        let operator = self.token;
        if operator.kind != Kind::Symbol || !matches!(operator.text, "+" | "-" | "!" | "~") {
            return self.primary();
        }
        self.advance();
        let value = self.nested(Self::unary)?;
        unary(operator.text, value).ok_or_else(|| self.error_at(operator, "an operator of fractions"))
    }

    fn primary(&mut self) -> Parsed<Value> {
        let token = self.token;
        match token.kind {
            Kind::Number => {
                self.advance();
                self.literal(token)
            }
            Kind::Dotted if self.at_expression() => {
                let fraction = self.lexer.fraction(token);
                self.advance();
                self.literal(fraction)
            }
            Kind::Word if token.text == "WARP_SZ" => {
                self.advance();
                Ok(Value::Signed(WARP_SIZE))
            }
            Kind::Symbol if token.text == "(" => self.parenthesised(),
            _ => self.fail("a constant"),
        }
    }

    fn literal(&self, token: Token<'t>) -> Parsed<Value> {
        literal(token.text).ok_or_else(|| self.error_at(token, "a literal of PTX"))
    }

    /// `(expression)`, or the casts `(.s64)` and `(.u64)`.
    fn parenthesised(&mut self) -> Parsed<Value> {
        self.expect("(")?;
        let cast: fn(u64) -> Value = match self.token.text {
            _ if self.token.kind != Kind::Dotted || self.at_expression() => {
                let value = self.expression()?;
                self.expect(")")?;
                return Ok(value);
            }
            "s64" => |bits| Value::Signed(bits as i64),
            "u64" => Value::Unsigned,
            _ => return self.fail("`.s64` or `.u64`"),
        };
        self.advance();
        self.expect(")")?;
        let start = self.token;
        let value = self.nested(Self::unary)?;
        Ok(cast(self.integer_of(start, value)?))
    }
}

/// `None` for an operator that fractions do not have. A single-precision literal has none.
fn unary(operator: &str, value: Value) -> Option<Value> {
    Some(match (operator, value) {
        ("+", Value::Signed(_) | Value::Unsigned(_) | Value::F64(_)) => value,
        ("-", Value::Signed(value)) => Value::Signed(value.wrapping_neg()),
        ("-", Value::Unsigned(value)) => Value::Unsigned(value.wrapping_neg()),
        ("-", Value::F64(value)) => Value::F64(-value),
        ("!", Value::Signed(_) | Value::Unsigned(_)) => truth(bits(value) == 0),
        ("~", Value::Signed(_) | Value::Unsigned(_)) => Value::Unsigned(!bits(value)),
        _ => return None,
    })
}

/// `Err` says what had to stand instead of the operator.
fn binary(operator: &str, left: Value, right: Value) -> Result<Value, &'static str> {
    match (left, right) {
        (Value::F64(left), Value::F64(right)) => {
            of_fractions(operator, left, right).ok_or("an operator of fractions")
        }
        (Value::Signed(_) | Value::Unsigned(_), Value::Signed(_) | Value::Unsigned(_)) => {
            of_integers(operator, left, right).ok_or("a divisor that is not 0")
        }
        _ => Err("an operator between two integers or two double-precision numbers"),
    }
}

fn of_fractions(operator: &str, left: f64, right: f64) -> Option<Value> {
    Some(match operator {
        "+" => Value::F64(left + right),
        "-" => Value::F64(left - right),
        "*" => Value::F64(left * right),
        "/" => Value::F64(left / right),
        _ => truth(compare(operator, &left, &right)?),
    })
}

/// 64 bits wide and wrapping. A remainder is unsigned; a shift has the type of what is shifted, and its amount is
/// taken modulo 64; the rest is unsigned if either side is. `None` divides by zero.
fn of_integers(operator: &str, left: Value, right: Value) -> Option<Value> {
    let (a, b) = (bits(left), bits(right));
    Some(match (operator, left, right) {
        ("&&", ..) => truth(a != 0 && b != 0),
        ("||", ..) => truth(a != 0 || b != 0),
        ("%", ..) => Value::Unsigned(a.checked_rem(b)?),
        ("<<", Value::Signed(a), _) => Value::Signed(a.wrapping_shl(b as u32)),
        ("<<", ..) => Value::Unsigned(a.wrapping_shl(b as u32)),
        (">>", Value::Signed(a), _) => Value::Signed(a.wrapping_shr(b as u32)),
        (">>", ..) => Value::Unsigned(a.wrapping_shr(b as u32)),
        (_, Value::Signed(a), Value::Signed(b)) => of_signed(operator, a, b)?,
        _ => of_unsigned(operator, a, b)?,
    })
}

fn of_signed(operator: &str, a: i64, b: i64) -> Option<Value> {
    Some(match operator {
        "+" => Value::Signed(a.wrapping_add(b)),
        "-" => Value::Signed(a.wrapping_sub(b)),
        "*" => Value::Signed(a.wrapping_mul(b)),
        "/" if b != 0 => Value::Signed(a.wrapping_div(b)),
        "&" => Value::Signed(a & b),
        "^" => Value::Signed(a ^ b),
        "|" => Value::Signed(a | b),
        _ => truth(compare(operator, &a, &b)?),
    })
}

fn of_unsigned(operator: &str, a: u64, b: u64) -> Option<Value> {
    Some(match operator {
        "+" => Value::Unsigned(a.wrapping_add(b)),
        "-" => Value::Unsigned(a.wrapping_sub(b)),
        "*" => Value::Unsigned(a.wrapping_mul(b)),
        "/" => Value::Unsigned(a.checked_div(b)?),
        "&" => Value::Unsigned(a & b),
        "^" => Value::Unsigned(a ^ b),
        "|" => Value::Unsigned(a | b),
        _ => truth(compare(operator, &a, &b)?),
    })
}

fn compare<T: PartialOrd>(operator: &str, a: &T, b: &T) -> Option<bool> {
    Some(match operator {
        "==" => a == b,
        "!=" => a != b,
        "<" => a < b,
        "<=" => a <= b,
        ">" => a > b,
        ">=" => a >= b,
        _ => return None,
    })
}

fn truth(truth: bool) -> Value {
    Value::Signed(i64::from(truth))
}

/// The 64 bits of an integer; 0 for a fraction, of which they are not asked.
fn bits(value: Value) -> u64 {
    match value {
        Value::Signed(value) => value as u64,
        Value::Unsigned(value) => value,
        Value::F32(_) | Value::F64(_) => 0,
    }
}

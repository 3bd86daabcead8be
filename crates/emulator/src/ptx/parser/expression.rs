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

/// The level of `*` in [`LEVELS`].
const PRODUCT: usize = 9;

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
        self.nested(|p| {
            let condition = p.binary(0)?;
            if !p.accept("?") {
                return Ok(condition);
            }
            let yes = p.expression()?;
            p.expect(":")?;
            let no = p.expression()?;
            Ok(choose(condition, yes, no))
        })
    }

    /// An expression that is not a fraction.
    pub fn integer(&mut self) -> Parsed<u64> {
        let start = self.token;
        let value = self.expression()?;
        self.integer_of(start, value)
    }

    /// Any number of `+ term` and `- term`.
    pub fn offset(&mut self) -> Parsed<i64> {
        let mut offset = 0_i64;
        while self.at("+") || self.at("-") {
            let negative = self.advance().text == "-";
            let start = self.token;
            let term = self.binary(PRODUCT)?;
            let term = self.integer_of(start, term)? as i64;
            offset = if negative { offset.wrapping_sub(term) } else { offset.wrapping_add(term) };
        }
        Ok(offset)
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
            left = apply(operator.text, left, right).map_err(|expected| self.error_at(operator, expected))?;
        }
        Ok(left)
    }

    fn unary(&mut self) -> Parsed<Value> {
        let operator = self.token;
        let apply: fn(Value) -> Option<Value> = match operator.text {
            _ if operator.kind != Kind::Symbol => return self.primary(),
            "+" => Some,
            "-" => negate,
            "!" => |value| Some(Value::Signed(i64::from(!is_true(value)))),
            "~" => complement,
            _ => return self.primary(),
        };
        self.advance();
        let value = self.nested(Self::unary)?;
        apply(value).ok_or_else(|| self.error_at(operator, "an operator of fractions"))
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

/// The value of an operator; `Err` says what had to stand instead of it.
fn apply(operator: &str, left: Value, right: Value) -> Result<Value, &'static str> {
    match operator {
        "||" => Ok(truth(is_true(left) || is_true(right))),
        "&&" => Ok(truth(is_true(left) && is_true(right))),
        _ => match (left, right) {
            (Value::F32(_) | Value::F64(_), _) | (_, Value::F32(_) | Value::F64(_)) => {
                of_fractions(operator, to_f64(left), to_f64(right)).ok_or("an operator of fractions")
            }
            _ => of_integers(operator, left, right).ok_or("a divisor that is not 0"),
        },
    }
}

fn of_fractions(operator: &str, left: f64, right: f64) -> Option<Value> {
    Some(match operator {
        "+" => Value::F64(left + right),
        "-" => Value::F64(left - right),
        "*" => Value::F64(left * right),
        "/" => Value::F64(left / right),
        "==" => truth(left == right),
        "!=" => truth(left != right),
        "<" => truth(left < right),
        "<=" => truth(left <= right),
        ">" => truth(left > right),
        ">=" => truth(left >= right),
        _ => return None,
    })
}

/// As in C, 64 bits wide and wrapping. `None` divides by zero.
fn of_integers(operator: &str, left: Value, right: Value) -> Option<Value> {
    let (a, b) = (bits(left), bits(right));
    Some(match operator {
        "&" => Value::Unsigned(a & b),
        "^" => Value::Unsigned(a ^ b),
        "|" => Value::Unsigned(a | b),
        "<<" => like(left, u32::try_from(b).ok().and_then(|by| a.checked_shl(by)).unwrap_or(0)),
        ">>" => shift_right(left, b),
        _ => match (left, right) {
            (Value::Signed(a), Value::Signed(b)) => of_signed(operator, a, b)?,
            _ => of_unsigned(operator, a, b)?,
        },
    })
}

fn of_signed(operator: &str, a: i64, b: i64) -> Option<Value> {
    Some(match operator {
        "+" => Value::Signed(a.wrapping_add(b)),
        "-" => Value::Signed(a.wrapping_sub(b)),
        "*" => Value::Signed(a.wrapping_mul(b)),
        "/" if b != 0 => Value::Signed(a.wrapping_div(b)),
        "%" if b != 0 => Value::Signed(a.wrapping_rem(b)),
        _ => compare(operator, &a, &b)?,
    })
}

fn of_unsigned(operator: &str, a: u64, b: u64) -> Option<Value> {
    Some(match operator {
        "+" => Value::Unsigned(a.wrapping_add(b)),
        "-" => Value::Unsigned(a.wrapping_sub(b)),
        "*" => Value::Unsigned(a.wrapping_mul(b)),
        "/" => Value::Unsigned(a.checked_div(b)?),
        "%" => Value::Unsigned(a.checked_rem(b)?),
        _ => compare(operator, &a, &b)?,
    })
}

fn compare<T: Ord>(operator: &str, a: &T, b: &T) -> Option<Value> {
    Some(truth(match operator {
        "==" => a == b,
        "!=" => a != b,
        "<" => a < b,
        "<=" => a <= b,
        ">" => a > b,
        ">=" => a >= b,
        _ => return None,
    }))
}

/// Arithmetic for `.s64`, logical for `.u64`.
fn shift_right(left: Value, by: u64) -> Value {
    let by = by.min(u64::from(u64::BITS)) as u32;
    match left {
        Value::Signed(a) => Value::Signed(a >> by.min(u64::BITS - 1)),
        _ => Value::Unsigned(bits(left).checked_shr(by).unwrap_or(0)),
    }
}

fn choose(condition: Value, yes: Value, no: Value) -> Value {
    let chosen = if is_true(condition) { yes } else { no };
    match (yes, no) {
        (Value::Signed(_), Value::Unsigned(_)) | (Value::Unsigned(_), Value::Signed(_)) => {
            Value::Unsigned(bits(chosen))
        }
        (Value::Signed(_) | Value::Unsigned(_), Value::F32(_) | Value::F64(_))
        | (Value::F32(_) | Value::F64(_), Value::Signed(_) | Value::Unsigned(_)) => {
            Value::F64(to_f64(chosen))
        }
        _ => chosen,
    }
}

fn negate(value: Value) -> Option<Value> {
    Some(match value {
        Value::Signed(value) => Value::Signed(value.wrapping_neg()),
        Value::Unsigned(value) => Value::Unsigned(value.wrapping_neg()),
        Value::F32(_) | Value::F64(_) => Value::F64(-to_f64(value)),
    })
}

fn complement(value: Value) -> Option<Value> {
    match value {
        Value::Signed(_) | Value::Unsigned(_) => Some(Value::Unsigned(!bits(value))),
        Value::F32(_) | Value::F64(_) => None,
    }
}

fn is_true(value: Value) -> bool {
    match value {
        Value::Signed(_) | Value::Unsigned(_) => bits(value) != 0,
        Value::F32(_) | Value::F64(_) => to_f64(value) != 0.0,
    }
}

fn truth(truth: bool) -> Value {
    Value::Signed(i64::from(truth))
}

fn like(model: Value, bits: u64) -> Value {
    match model {
        Value::Signed(_) => Value::Signed(bits as i64),
        _ => Value::Unsigned(bits),
    }
}

/// The 64 bits of an integer; those of a fraction are not asked for.
fn bits(value: Value) -> u64 {
    match value {
        Value::Signed(value) => value as u64,
        Value::Unsigned(value) => value,
        Value::F32(bits) => u64::from(bits),
        Value::F64(value) => value.to_bits(),
    }
}

pub(super) fn to_f64(value: Value) -> f64 {
    match value {
        Value::Signed(value) => value as f64,
        Value::Unsigned(value) => value as f64,
        Value::F32(bits) => f64::from(f32::from_bits(bits)),
        Value::F64(value) => value,
    }
}

//! Literals (PTX ISA, "Constants").

/// What a constant is worth.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Value {
    /// `.s64`
    Signed(i64),
    /// `.u64`
    Unsigned(u64),
    /// The bits of a single-precision literal that no operator has touched.
    F32(u32),
    /// `.f64`
    F64(f64),
}

/// A literal as it is written; `None` when PTX has no such.
pub(super) fn literal(text: &str) -> Option<Value> {
    let prefix = text.get(..2).unwrap_or_default();
    match prefix {
        "0f" | "0F" => hexadecimal(&text[2..], 8).map(|bits| Value::F32(bits as u32)),
        "0d" | "0D" => hexadecimal(&text[2..], 16).map(|bits| Value::F64(f64::from_bits(bits))),
        "0x" | "0X" => integer(&text[2..], 16),
        "0b" | "0B" => integer(&text[2..], 2),
        _ if text.contains(['.', 'e', 'E']) => decimal(text),
        _ if text.len() > 1 && text.starts_with('0') && text != "0U" => integer(&text[1..], 8),
        _ => integer(text, 10),
    }
}

fn hexadecimal(digits: &str, length: usize) -> Option<u64> {
    let all = digits.len() == length && digits.bytes().all(|digit| digit.is_ascii_hexdigit());
    if all { u64::from_str_radix(digits, 16).ok() } else { None }
}

/// `.s64`, or `.u64` when it ends in `U` or is too large for the other.
fn integer(digits: &str, radix: u32) -> Option<Value> {
    let (digits, unsigned) = match digits.strip_suffix('U') {
        Some(digits) => (digits, true),
        None => (digits, false),
    };
    let bits = u64::from_str_radix(digits, radix).ok()?;
    Some(match i64::try_from(bits) {
        Ok(value) if !unsigned => Value::Signed(value),
        _ => Value::Unsigned(bits),
    })
}

fn decimal(text: &str) -> Option<Value> {
    text.parse().ok().map(Value::F64)
}

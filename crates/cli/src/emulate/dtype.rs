//! Types of elements: their names here and in `.npy` files.

use anyhow::{Context, anyhow, bail};

/// Type of an element of a buffer, or of a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dtype {
    Bool,
    I8,
    U8,
    I16,
    U16,
    I32,
    U32,
    I64,
    U64,
    F16,
    Bf16,
    F32,
    F64,
}

/// Each type with its name, its bytes, and what a `.npy` file calls it, without the byte order.
const TYPES: [(Dtype, &str, usize, &str); 13] = [
    (Dtype::Bool, "bool", 1, "b1"),
    (Dtype::I8, "i8", 1, "i1"),
    (Dtype::U8, "u8", 1, "u1"),
    (Dtype::I16, "i16", 2, "i2"),
    (Dtype::U16, "u16", 2, "u2"),
    (Dtype::I32, "i32", 4, "i4"),
    (Dtype::U32, "u32", 4, "u4"),
    (Dtype::I64, "i64", 8, "i8"),
    (Dtype::U64, "u64", 8, "u8"),
    (Dtype::F16, "f16", 2, "f2"),
    // NumPy has no bf16: its files hold the bits. The row of u16 comes first, and so is what such a file reads as.
    (Dtype::Bf16, "bf16", 2, "u2"),
    (Dtype::F32, "f32", 4, "f4"),
    (Dtype::F64, "f64", 8, "f8"),
];

/// The names of all types.
pub fn names() -> String {
    TYPES.map(|(_, name, ..)| name).join(", ")
}

impl Dtype {
    pub fn from_name(name: &str) -> Option<Dtype> {
        TYPES.iter().find(|it| it.1 == name).map(|it| it.0)
    }

    /// From `<f4`, as a `.npy` file has it.
    pub fn from_descr(descr: &str) -> anyhow::Result<Dtype> {
        let Some((order, code)) = descr.split_at_checked(1) else { bail!("no dtype") };
        let found = TYPES.iter().find(|it| it.3 == code);
        let Some((dtype, _, bytes, _)) = found else {
            bail!("dtype {descr:?} is none of {}", names());
        };
        match order {
            "<" => Ok(*dtype),
            "|" if *bytes == 1 => Ok(*dtype),
            ">" => bail!("dtype {descr:?} is big-endian: save it with .astype(\"<{code}\")"),
            _ => bail!("dtype {descr:?} is not little-endian"),
        }
    }

    /// What a `.npy` file calls it.
    pub fn descr(self) -> String {
        let (_, _, bytes, code) = self.row();
        format!("{}{code}", if *bytes == 1 { '|' } else { '<' })
    }

    pub fn name(self) -> &'static str {
        self.row().1
    }

    pub fn bytes(self) -> usize {
        self.row().2
    }

    fn row(self) -> &'static (Dtype, &'static str, usize, &'static str) {
        &TYPES[self as usize]
    }

    /// A value as a kernel gets it, from decimal, or from `0x` for the bits of an integer.
    pub fn parse(self, text: &str) -> anyhow::Result<Vec<u8>> {
        let real = || text.parse::<f64>().map_err(|_| anyhow!("{text:?} is no number"));
        Ok(match self {
            Dtype::F16 => half::f16::from_f64(real()?).to_le_bytes().into(),
            Dtype::Bf16 => half::bf16::from_f64(real()?).to_le_bytes().into(),
            Dtype::F32 => {
                text.parse::<f32>().map_err(|_| anyhow!("{text:?} is no number"))?.to_le_bytes().into()
            }
            Dtype::F64 => real()?.to_le_bytes().into(),
            _ => self.integer(text)?.to_le_bytes()[..self.bytes()].into(),
        })
    }

    fn integer(self, text: &str) -> anyhow::Result<i128> {
        let parsed = match text.strip_prefix("0x") {
            Some(digits) => i128::from_str_radix(digits, 16),
            None => text.parse(),
        };
        let value = parsed.ok().with_context(|| format!("{text:?} is no whole number"))?;
        let bits = 8 * self.bytes() as u32;
        let (least, most) = match self {
            Dtype::Bool => (0, 1),
            Dtype::I8 | Dtype::I16 | Dtype::I32 | Dtype::I64 => {
                (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1)
            }
            _ => (0, (1i128 << bits) - 1),
        };
        if value < least || value > most {
            bail!("{text} is not within {least} to {most}, the values of {}", self.name());
        }
        Ok(value)
    }
}

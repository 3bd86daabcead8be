//! Operations on typed values, as actions on registers.

use crate::decode::{Decoder, OperandWord, Unsupported};
use crate::lanes::{map1, map2, map3};
use crate::program::Action;
use crate::ptx::ast::Instruction;

/// A type, and how a register holds it: in the low bits, the others 0.
pub(crate) trait Value: Copy + 'static {
    type Word: OperandWord;
    fn of(word: Self::Word) -> Self;
    fn word(self) -> Self::Word;
    /// From the low bits of a register of 64.
    fn of_wide(wide: u64) -> Self;
}

macro_rules! values {
    ($($type:ty, $unsigned:ty, $word:ty;)*) => {$(
        impl Value for $type {
            type Word = $word;

            #[inline(always)]
            fn of(word: $word) -> Self {
                word as Self
            }

            #[inline(always)]
            fn word(self) -> $word {
                <$word>::from(self as $unsigned)
            }

            #[inline(always)]
            fn of_wide(wide: u64) -> Self {
                wide as Self
            }
        }
    )*};
}

values! {
    u8, u8, u32; i8, u8, u32;
    u16, u16, u32; i16, u16, u32;
    u32, u32, u32; i32, u32, u32;
    u64, u64, u64; i64, u64, u64;
}

impl Value for f32 {
    type Word = u32;

    #[inline(always)]
    fn of(word: u32) -> Self {
        f32::from_bits(word)
    }

    #[inline(always)]
    fn word(self) -> u32 {
        self.to_bits()
    }

    #[inline(always)]
    fn of_wide(wide: u64) -> Self {
        f32::from_bits(wide as u32)
    }
}

impl Value for f64 {
    type Word = u64;

    #[inline(always)]
    fn of(word: u64) -> Self {
        f64::from_bits(word)
    }

    #[inline(always)]
    fn word(self) -> u64 {
        self.to_bits()
    }

    #[inline(always)]
    fn of_wide(wide: u64) -> Self {
        f64::from_bits(wide)
    }
}

/// `d = f(a)`
pub(crate) fn unary<A: Value, D: Value>(
    decoder: &mut Decoder,
    instruction: &Instruction,
    f: impl Fn(A) -> D + Copy + Send + Sync + 'static,
) -> Result<Action, Unsupported> {
    let [d, a] = &instruction.operands[..] else { return Err(operands(2, instruction)) };
    let (d, a) = (decoder.dst::<D::Word>(d)?, decoder.src::<A::Word>(a)?);
    Ok(map1(d, a, move |a| f(A::of(a)).word()))
}

/// `d = f(a, b)`
pub(crate) fn binary<A: Value, B: Value, D: Value>(
    decoder: &mut Decoder,
    instruction: &Instruction,
    f: impl Fn(A, B) -> D + Copy + Send + Sync + 'static,
) -> Result<Action, Unsupported> {
    let [d, a, b] = &instruction.operands[..] else { return Err(operands(3, instruction)) };
    let d = decoder.dst::<D::Word>(d)?;
    let (a, b) = (decoder.src::<A::Word>(a)?, decoder.src::<B::Word>(b)?);
    Ok(map2(d, a, b, move |a, b| f(A::of(a), B::of(b)).word()))
}

/// `d = f(a, b, c)`
pub(crate) fn ternary<A: Value, B: Value, C: Value, D: Value>(
    decoder: &mut Decoder,
    instruction: &Instruction,
    f: impl Fn(A, B, C) -> D + Copy + Send + Sync + 'static,
) -> Result<Action, Unsupported> {
    let [d, a, b, c] = &instruction.operands[..] else { return Err(operands(4, instruction)) };
    let d = decoder.dst::<D::Word>(d)?;
    let (a, b, c) = (decoder.src::<A::Word>(a)?, decoder.src::<B::Word>(b)?, decoder.src::<C::Word>(c)?);
    Ok(map3(d, a, b, c, move |a, b, c| f(A::of(a), B::of(b), C::of(c)).word()))
}

/// That there are too few operands, or too many.
pub(crate) fn operands(wanted: usize, instruction: &Instruction) -> Unsupported {
    format!("{} operands where there must be {wanted}", instruction.operands.len())
}

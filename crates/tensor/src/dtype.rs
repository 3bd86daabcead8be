//! Element types.

use std::fmt::{self, Debug, Display};

use bytemuck::Pod;
use half::{bf16, f16};

use crate::storage::Host;

/// What a tensor's elements are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// 64-bit float, on the CPU only: what gradients are checked in.
    F64,
    /// 32-bit float.
    F32,
    /// 16-bit float with the exponent range of `F32`.
    Bf16,
    /// 16-bit float, IEEE 754 binary16.
    F16,
    /// 32-bit unsigned integer, for indices; has no gradient.
    U32,
}

impl Dtype {
    /// Bytes per element.
    pub fn size(self) -> usize {
        match self {
            Dtype::F64 => 8,
            Dtype::F32 | Dtype::U32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
        }
    }

    /// Whether elements are floating-point numbers, so that a gradient makes sense.
    ///
    /// ```
    /// # use longhand_tensor::Dtype;
    /// assert!(Dtype::Bf16.is_float() && !Dtype::U32.is_float());
    /// assert_eq!((Dtype::Bf16.size(), Dtype::F64.size()), (2, 8)); // bytes
    /// ```
    pub fn is_float(self) -> bool {
        self != Dtype::U32
    }
}

impl Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F64 => "f64",
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::F16 => "f16",
            Dtype::U32 => "u32",
        })
    }
}

mod sealed {
    pub trait Sealed {}
}

/// A Rust type that a tensor can hold: `f64`, `f32`, [`bf16`], [`f16`](struct@f16), `u32`.
pub trait Element: sealed::Sealed + Pod + Send + Sync + PartialEq + PartialOrd + Debug + Default {
    /// The name of this type at run time.
    const DTYPE: Dtype;
    /// The value as `f64`, exactly.
    fn to_f64(self) -> f64;
    /// The nearest value to `x`; for `u32`, truncated and saturated.
    fn from_f64(x: f64) -> Self;
    /// The nearest `f32` to the value.
    fn to_f32(self) -> f32;
    /// The nearest value to `x`; for `u32`, truncated and saturated.
    fn from_f32(x: f32) -> Self;
    #[doc(hidden)]
    fn into_host(values: Vec<Self>) -> Host;
    #[doc(hidden)]
    fn from_host(host: Host) -> Option<Vec<Self>>;
    #[doc(hidden)]
    fn slice(host: &Host) -> Option<&[Self]>;
    #[doc(hidden)]
    fn slice_mut(host: &mut Host) -> Option<&mut [Self]>;
}

macro_rules! element {
    ($type:ty, $variant:ident, $to:expr, $from:expr, $to32:expr, $from32:expr) => {
        impl sealed::Sealed for $type {}
        impl Element for $type {
            const DTYPE: Dtype = Dtype::$variant;
            #[inline(always)]
            fn to_f64(self) -> f64 {
                $to(self)
            }
            #[inline(always)]
            fn from_f64(x: f64) -> Self {
                $from(x)
            }
            #[inline(always)]
            fn to_f32(self) -> f32 {
                $to32(self)
            }
            #[inline(always)]
            fn from_f32(x: f32) -> Self {
                $from32(x)
            }
            fn into_host(values: Vec<Self>) -> Host {
                Host::$variant(values)
            }
            fn from_host(host: Host) -> Option<Vec<Self>> {
                if let Host::$variant(values) = host { Some(values) } else { None }
            }
            fn slice(host: &Host) -> Option<&[Self]> {
                if let Host::$variant(values) = host { Some(values) } else { None }
            }
            fn slice_mut(host: &mut Host) -> Option<&mut [Self]> {
                if let Host::$variant(values) = host { Some(values) } else { None }
            }
        }
    };
}

element!(f64, F64, |x| x, |x| x, |x| x as f32, f64::from);
element!(f32, F32, f64::from, |x| x as f32, |x| x, |x| x);
element!(bf16, Bf16, bf16::to_f64, bf16::from_f64, widen_bf16, narrow_bf16);
element!(f16, F16, f16::to_f64, f16::from_f64, widen_f16, narrow_f16);
element!(u32, U32, f64::from, |x| x as u32, |x| x as f32, |x| x as u32);

/// What `half` does, without its branches, so that it can be put into vector instructions.
#[inline(always)]
fn widen_bf16(x: bf16) -> f32 {
    f32::from_bits(u32::from(x.to_bits()) << 16)
}

/// To the nearest, ties to even; NaN stays NaN.
#[inline(always)]
fn narrow_bf16(x: f32) -> bf16 {
    let bits = x.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16;
    let quiet = (bits >> 16) | 0x40;
    bf16::from_bits(if x.is_nan() { quiet } else { rounded } as u16)
}

/// What `half` does, without its branches. Exponents of `f16` are 112 below those of `f32`.
#[inline(always)]
fn widen_f16(x: f16) -> f32 {
    const INFINITE: f32 = 65_536.0;
    const SCALE: f32 = f32::from_bits((127 + 112) << 23);
    let bits = u32::from(x.to_bits());
    let (sign, size) = ((bits & 0x8000) << 16, f32::from_bits((bits & 0x7fff) << 13) * SCALE);
    let special = if size >= INFINITE { 0x7f80_0000 } else { 0 };
    f32::from_bits(size.to_bits() | special | sign)
}

/// To the nearest, ties to even; NaN stays NaN.
#[inline(always)]
fn narrow_f16(x: f32) -> f16 {
    let sign = (x.to_bits() >> 16) & 0x8000;
    let size = x.to_bits() & 0x7fff_ffff;
    let normal = size.wrapping_sub((112 << 23) - 0xfff - ((size >> 13) & 1)) >> 13;
    // Added to 1/2, the last bit of a sum is the smallest f16.
    let small = (f32::from_bits(size) + 0.5).to_bits() - 0.5f32.to_bits();
    let of_number = if size < 113 << 23 { small } else { normal.min(0x7c00) };
    f16::from_bits((sign | if size > 0x7f80_0000 { 0x7e00 } else { of_number }) as u16)
}

/// Runs `$body` with `$T` standing for the Rust type of `$dtype`, if it is one of these.
macro_rules! by_dtype {
    ($dtype:expr, $T:ident => $body:expr, [$($variant:ident = $type:ty),+] $(, $other:ident => $error:expr)?) => {
        match $dtype {
            $($crate::Dtype::$variant => {
                type $T = $type;
                $body
            })+
            $($other => $error,)?
        }
    };
}

/// Runs `$body` with `$T` standing for the Rust type of `$dtype`.
macro_rules! with_element {
    ($dtype:expr, $T:ident => $body:expr) => {
        $crate::dtype::by_dtype!(
            $dtype, $T => $body, [F64 = f64, F32 = f32, Bf16 = half::bf16, F16 = half::f16, U32 = u32]
        )
    };
}

/// Runs `$body` with `$T` standing for `f32` or `f64`, the types that the CPU computes in.
macro_rules! with_real {
    ($operation:expr, $dtype:expr, $T:ident => $body:expr) => {
        $crate::dtype::by_dtype!(
            $dtype, $T => $body, [F64 = f64, F32 = f32],
            other => Err($crate::Error::dtype($operation, other, "a floating-point type"))
        )
    };
}

/// Runs `$body` with `$E` standing for the Rust type of `$dtype`, which is to be one of numbers that the CPU computes with.
macro_rules! with_stored {
    ($operation:expr, $dtype:expr, $E:ident => $body:expr) => {
        $crate::dtype::by_dtype!(
            $dtype, $E => $body, [F64 = f64, F32 = f32, Bf16 = half::bf16, F16 = half::f16],
            other => Err($crate::Error::dtype($operation, other, "a floating-point type"))
        )
    };
}

pub(crate) use {by_dtype, with_element, with_real, with_stored};

#[cfg(test)]
mod tests {
    use super::*;

    fn same_f16(a: f16, b: f16) -> bool {
        a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan()
    }

    #[test]
    fn every_f16_widens_to_itself_and_numbers_round_to_the_nearest() {
        for bits in 0..=u16::MAX {
            let x = f16::from_bits(bits);
            let wide = widen_f16(x);
            assert!(
                wide.to_bits() == x.to_f32().to_bits() || wide.is_nan() && x.is_nan(),
                "{bits:#x}: {wide}"
            );
            // Itself, what is halfway to the next, and what is on either side of that.
            let halfway = (wide + f16::from_bits(bits.wrapping_add(1)).to_f32()) / 2.0;
            for x in [wide, halfway.next_down(), halfway, halfway.next_up()] {
                assert!(same_f16(narrow_f16(x), f16::from_f32(x)), "{x:e}");
            }
        }
        for x in [
            f32::MAX,
            f32::MIN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            f32::NAN,
            1e-30,
            -1e-40,
            65_519.9,
            65_520.0,
        ] {
            assert!(same_f16(narrow_f16(x), f16::from_f32(x)), "{x:e}");
        }
    }
}

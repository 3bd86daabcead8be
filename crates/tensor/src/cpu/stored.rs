//! The types that tensors of numbers hold, each with the one that the CPU computes it in.

use half::{bf16, f16};

use super::Real;
use crate::Element;

/// An element that is widened where it is read and rounded once where it is written, so that what is computed from a
/// 16-bit tensor takes no copy of it in `f32`.
pub(crate) trait Stored: Element {
    /// What it is computed in.
    type Real: Real;
    /// The same number.
    fn widen(self) -> Self::Real;
    /// The nearest one.
    fn round(x: Self::Real) -> Self;
    /// The same address, where elements are stored as they are computed in.
    fn as_real(elements: *mut Self) -> Option<*mut Self::Real>;
}

macro_rules! stored {
    ($type:ident in $real:ident, $widen:ident, $round:ident, $as_real:expr) => {
        impl Stored for $type {
            type Real = $real;
            #[inline(always)]
            fn widen(self) -> $real {
                Element::$widen(self)
            }
            #[inline(always)]
            fn round(x: $real) -> Self {
                <Self as Element>::$round(x)
            }
            fn as_real(elements: *mut Self) -> Option<*mut $real> {
                $as_real(elements)
            }
        }
    };
}

stored!(f64 in f64, to_f64, from_f64, Some);
stored!(f32 in f32, to_f32, from_f32, Some);
stored!(bf16 in f32, to_f32, from_f32, |_| None);
stored!(f16 in f32, to_f32, from_f32, |_| None);

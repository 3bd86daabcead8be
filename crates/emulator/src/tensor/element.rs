//! The element types of matrix operands, and their values.

/// The type of the elements of a multiplicand, a or b.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Element {
    F16,
    Bf16,
    /// Of the 32 bits the lowest 13 are ignored.
    Tf32,
    E4m3,
    E5m2,
    S8,
    U8,
    S4,
    U4,
}

impl Element {
    /// How many bits of a register hold one element.
    #[must_use]
    pub fn bits(self) -> usize {
        match self {
            Element::Tf32 => 32,
            Element::F16 | Element::Bf16 => 16,
            Element::E4m3 | Element::E5m2 | Element::S8 | Element::U8 => 8,
            Element::S4 | Element::U4 => 4,
        }
    }

    /// Whether its sums are integers.
    #[must_use]
    pub fn is_integer(self) -> bool {
        matches!(self, Element::S8 | Element::U8 | Element::S4 | Element::U4)
    }

    /// The value of an element, given in the lowest bits; what stands above them is ignored.
    #[must_use]
    pub fn value(self, bits: u32) -> f64 {
        match self {
            Element::F16 => F16::value(bits),
            Element::Bf16 => Bf16::value(bits),
            Element::Tf32 => Tf32::value(bits),
            Element::E4m3 => E4m3::value(bits),
            Element::E5m2 => E5m2::value(bits),
            Element::S8 => S8::value(bits),
            Element::U8 => U8::value(bits),
            Element::S4 => S4::value(bits),
            Element::U4 => U4::value(bits),
        }
    }
}

/// An element type that a loop is compiled for. Every value of every type is exact in f64, and so is the product of
/// any two.
pub(super) trait Decode {
    const BITS: usize;
    /// Of the lowest `BITS` bits; those above are ignored.
    fn value(bits: u32) -> f64;
}

macro_rules! decode {
    ($($name:ident: $width:literal = |$bits:ident| $value:expr;)*) => {
        $(
            pub(super) struct $name;
            impl Decode for $name {
                const BITS: usize = $width;
                #[inline(always)]
                fn value($bits: u32) -> f64 {
                    $value
                }
            }
        )*
    };
}

decode! {
    F16: 16 = |bits| f64::from(f16(bits));
    Bf16: 16 = |bits| f64::from(f32::from_bits(bits << 16));
    Tf32: 32 = |bits| f64::from(f32::from_bits(bits & !0x1fff));
    E4m3: 8 = |bits| f64::from(e4m3(bits));
    // The upper half of an f16.
    E5m2: 8 = |bits| f64::from(f16(bits << 8));
    S8: 8 = |bits| f64::from(bits as i8);
    U8: 8 = |bits| f64::from(bits as u8);
    S4: 4 = |bits| f64::from((bits << 28) as i32 >> 28);
    U4: 4 = |bits| f64::from(bits & 15);
}

/// The instance `$function::<A, B, P>` for two elements that stand in one product, with P elements to a register.
macro_rules! for_elements {
    ($a:expr, $b:expr, $function:ident) => {{
        use $crate::tensor::element::{self, Element};
        match ($a, $b) {
            (Element::Tf32, _) => $function::<element::Tf32, element::Tf32, 1>,
            (Element::F16, _) => $function::<element::F16, element::F16, 2>,
            (Element::Bf16, _) => $function::<element::Bf16, element::Bf16, 2>,
            (Element::E4m3, Element::E4m3) => $function::<element::E4m3, element::E4m3, 4>,
            (Element::E4m3, _) => $function::<element::E4m3, element::E5m2, 4>,
            (Element::E5m2, Element::E4m3) => $function::<element::E5m2, element::E4m3, 4>,
            (Element::E5m2, _) => $function::<element::E5m2, element::E5m2, 4>,
            (Element::S8, Element::S8) => $function::<element::S8, element::S8, 4>,
            (Element::S8, _) => $function::<element::S8, element::U8, 4>,
            (Element::U8, Element::S8) => $function::<element::U8, element::S8, 4>,
            (Element::U8, _) => $function::<element::U8, element::U8, 4>,
            (Element::S4, Element::S4) => $function::<element::S4, element::S4, 8>,
            (Element::S4, _) => $function::<element::S4, element::U4, 8>,
            (Element::U4, Element::S4) => $function::<element::U4, element::S4, 8>,
            (Element::U4, _) => $function::<element::U4, element::U4, 8>,
        }
    }};
}

pub(super) use for_elements;

/// An f16 is an f32 of another exponent bias, but for infinity and NaN.
#[inline(always)]
fn f16(bits: u32) -> f32 {
    let magnitude = (bits & 0x7fff) << 13;
    let finite = f32::from_bits(magnitude) * f32::from_bits((127 + 112) << 23);
    let magnitude = if bits & 0x7c00 == 0x7c00 { magnitude | 0x7f80_0000 } else { finite.to_bits() };
    f32::from_bits(magnitude | (bits & 0x8000) << 16)
}

/// An e4m3 is an f16 of another exponent bias with no infinity; only all ones is NaN.
#[inline(always)]
fn e4m3(bits: u32) -> f32 {
    let finite = f16((bits & 0x80) << 8 | (bits & 0x7f) << 7) * 256.0;
    if bits & 0x7f == 0x7f { f32::NAN } else { finite }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(a: f64, b: f64) -> bool {
        a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
    }

    #[test]
    fn every_16_bit_float_has_the_value_the_half_crate_gives() {
        for bits in 0..=u16::MAX {
            assert!(same(F16::value(bits.into()), half::f16::from_bits(bits).to_f64()), "f16 {bits:#x}");
            assert!(same(Bf16::value(bits.into()), half::bf16::from_bits(bits).to_f64()), "bf16 {bits:#x}");
        }
    }

    /// Sign, exponent and fraction put together by hand.
    fn float(bits: u32, exponent_bits: i32, fraction_bits: i32) -> f64 {
        let bias = (1 << (exponent_bits - 1)) - 1;
        let sign = if bits >> (exponent_bits + fraction_bits) & 1 == 1 { -1.0 } else { 1.0 };
        let exponent = (bits >> fraction_bits & ((1 << exponent_bits) - 1)) as i32;
        let fraction = f64::from(bits & ((1 << fraction_bits) - 1)) / f64::from(1 << fraction_bits);
        match exponent {
            0 => sign * fraction * 2f64.powi(1 - bias),
            _ => sign * (1.0 + fraction) * 2f64.powi(exponent - bias),
        }
    }

    #[test]
    fn every_8_bit_float_has_the_value_of_its_fields() {
        for bits in 0..256 {
            let expected = if bits & 0x7f == 0x7f { f64::NAN } else { float(bits, 4, 3) };
            assert!(same(E4m3::value(bits), expected), "e4m3 {bits:#x}");
            let expected = match bits & 0x7f {
                0x7c => f64::INFINITY.copysign(float(bits, 5, 2)),
                0x7d..=0x7f => f64::NAN,
                _ => float(bits, 5, 2),
            };
            assert!(same(E5m2::value(bits), expected), "e5m2 {bits:#x}");
        }
    }

    #[test]
    fn bits_above_an_element_do_not_change_its_value() {
        for element in [Element::F16, Element::Bf16, Element::E4m3, Element::E5m2] {
            for bits in (0..1u32 << element.bits()).step_by(7) {
                let garbage = u32::MAX << element.bits();
                assert!(same(element.value(bits), element.value(bits | garbage)), "{element:?} {bits:#x}");
            }
        }
        assert_eq!(Element::S8.value(0xffff_ff80), -128.0);
        assert_eq!(Element::U8.value(0xffff_ff80), 128.0);
        assert_eq!(Element::S4.value(0xffff_fff8), -8.0);
        assert_eq!(Element::U4.value(0xffff_fff8), 8.0);
        assert_eq!(Element::Tf32.value(0x3f80_1fff), 1.0);
    }
}

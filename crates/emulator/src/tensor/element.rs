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
            Element::F16 => F16.value(bits),
            Element::Bf16 => Bf16.value(bits),
            Element::Tf32 => Tf32.value(bits),
            Element::E4m3 => f64::from(e4m3(bits)),
            // The upper half of an f16.
            Element::E5m2 => F16.value(bits << 8),
            Element::S8 => f64::from(bits as i8),
            Element::U8 => f64::from(bits as u8),
            Element::S4 => f64::from((bits << 28) as i32 >> 28),
            Element::U4 => f64::from(bits & 15),
        }
    }
}

/// An element type that a loop is compiled for. Every value of every type is exact in f64, and so is the product of
/// any two.
pub(super) trait Decode: Copy {
    /// The value of an element, given in the lowest bits; what stands above them is ignored.
    fn value(self, bits: u32) -> f64;
}

impl Decode for Element {
    fn value(self, bits: u32) -> f64 {
        Element::value(self, bits)
    }
}

macro_rules! decode {
    ($($name:ident = |$bits:ident| $value:expr;)*) => {
        $(
            #[derive(Clone, Copy)]
            pub(super) struct $name;
            impl Decode for $name {
                #[inline(always)]
                fn value(self, $bits: u32) -> f64 {
                    $value
                }
            }
        )*
    };
}

decode! {
    F16 = |bits| f64::from(f16(bits));
    Bf16 = |bits| f64::from(f32::from_bits(bits << 16));
    Tf32 = |bits| f64::from(f32::from_bits(bits & !0x1fff));
}

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
            assert!(same(F16.value(bits.into()), half::f16::from_bits(bits).to_f64()), "f16 {bits:#x}");
            assert!(same(Bf16.value(bits.into()), half::bf16::from_bits(bits).to_f64()), "bf16 {bits:#x}");
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
            assert!(same(Element::E4m3.value(bits), expected), "e4m3 {bits:#x}");
            let expected = match bits & 0x7f {
                0x7c => f64::INFINITY.copysign(float(bits, 5, 2)),
                0x7d..=0x7f => f64::NAN,
                _ => float(bits, 5, 2),
            };
            assert!(same(Element::E5m2.value(bits), expected), "e5m2 {bits:#x}");
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

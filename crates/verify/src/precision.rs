use half::{bf16, f16};
use longhand_kernels::Dtype;
use std::fmt;

/// A floating-point type of a kernel's inputs and outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// IEEE binary32: 24 significant bits
    F32,
    /// bfloat16: 8 significant bits, the range of f32
    Bf16,
    /// IEEE binary16: 11 significant bits, up to 65,504
    F16,
}

impl Precision {
    /// Rounds to the nearest value of the type, ties to even.
    #[must_use]
    pub fn round(self, x: f32) -> f32 {
        match self {
            Precision::F32 => x,
            Precision::Bf16 => bf16::from_f32(x).to_f32(),
            Precision::F16 => f16::from_f32(x).to_f32(),
        }
    }

    /// All of them.
    pub const ALL: [Precision; 3] = [Precision::F32, Precision::Bf16, Precision::F16];

    /// The kernels' name of it.
    #[must_use]
    pub fn dtype(self) -> Dtype {
        match self {
            Precision::F32 => Dtype::F32,
            Precision::Bf16 => Dtype::Bf16,
            Precision::F16 => Dtype::F16,
        }
    }

    /// The bytes of one element.
    #[must_use]
    pub fn bytes(self) -> usize {
        match self {
            Precision::F32 => 4,
            Precision::Bf16 | Precision::F16 => 2,
        }
    }

    /// The distance between neighbouring values of the type around `x`.
    #[must_use]
    pub fn spacing(self, x: f64) -> f64 {
        let (significant_bits, smallest_normal): (i32, f64) = match self {
            Precision::F32 => (24, f32::MIN_POSITIVE.into()),
            Precision::Bf16 => (8, bf16::MIN_POSITIVE.into()),
            Precision::F16 => (11, f16::MIN_POSITIVE.into()),
        };
        let exponent = x.abs().max(smallest_normal).log2().floor() as i32;
        2f64.powi(exponent + 1 - significant_bits)
    }

    /// The nearest value to `x`, as the little-endian bytes of the type.
    #[must_use]
    pub fn encode(self, x: f64) -> Vec<u8> {
        match self {
            Precision::F32 => (x as f32).to_le_bytes().to_vec(),
            Precision::Bf16 => bf16::from_f64(x).to_le_bytes().to_vec(),
            Precision::F16 => f16::from_f64(x).to_le_bytes().to_vec(),
        }
    }

    /// The value whose bytes these are.
    ///
    /// # Panics
    /// When `bytes` is not one element long.
    #[must_use]
    pub fn decode(self, bytes: &[u8]) -> f64 {
        match self {
            Precision::F32 => f32::from_le_bytes(bytes.try_into().unwrap()).into(),
            Precision::Bf16 => bf16::from_le_bytes(bytes.try_into().unwrap()).into(),
            Precision::F16 => f16::from_le_bytes(bytes.try_into().unwrap()).into(),
        }
    }
}

/// As the kernels call it: `bf16`.
impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.dtype().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rounding_moves_by_at_most_half_the_spacing(x in -60_000.0..60_000.0f32) {
            for precision in Precision::ALL {
                let moved = f64::from(precision.round(x)) - f64::from(x);
                prop_assert!(moved.abs() <= precision.spacing(x.into()) / 2.0);
            }
        }

        #[test]
        fn a_rounded_value_survives_encoding(x in -60_000.0..60_000.0f32) {
            for precision in Precision::ALL {
                let rounded = f64::from(precision.round(x));
                prop_assert_eq!(precision.encode(x.into()).len(), precision.bytes());
                prop_assert_eq!(precision.decode(&precision.encode(x.into())), rounded);
                prop_assert_eq!(precision.decode(&precision.encode(rounded)), rounded);
            }
        }
    }

    #[test]
    fn the_spacing_around_one_is_that_of_the_type() {
        assert_eq!(Precision::F32.spacing(1.0), f64::from(f32::EPSILON));
        assert_eq!(Precision::Bf16.spacing(-1.5), f64::from(bf16::EPSILON));
        assert_eq!(Precision::F16.spacing(0.0), f64::from(f16::MIN_POSITIVE_SUBNORMAL));
    }
}

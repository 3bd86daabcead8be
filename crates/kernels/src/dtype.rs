//! Element types.

use std::fmt;

/// The type of a tensor's elements in memory. Sums and products are f32 whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dtype {
    /// IEEE 754 binary32.
    F32,
    /// The upper half of an [`F32`](Dtype::F32): its range, 8 bits of precision.
    Bf16,
    /// IEEE 754 binary16: 11 bits of precision, at most 65,504.
    F16,
}

impl Dtype {
    /// Bytes of one element.
    #[must_use]
    pub fn size(self) -> usize {
        match self {
            Dtype::F32 => 4,
            Dtype::Bf16 | Dtype::F16 => 2,
        }
    }

    /// The type of that name in `common/element.cuh`.
    pub(crate) fn cuda_name(self) -> &'static str {
        match self {
            Dtype::F32 => "float",
            Dtype::Bf16 => "bf16",
            Dtype::F16 => "f16",
        }
    }
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dtype::F32 => "f32",
            Dtype::Bf16 => "bf16",
            Dtype::F16 => "f16",
        })
    }
}

//! Launches whose counts are held.

use crate::Case;

/// A case on which the counts of the kernels of an operation are read, and what it could do with at best.
#[derive(Debug)]
pub struct Canonical {
    /// What it shows: `attention_forward`.
    pub name: &'static str,
    /// The case.
    pub case: Box<dyn Case>,
    /// Bytes of the tensors that it has to read and write.
    pub bytes: usize,
    /// Operations of its matrix products, a multiplication and an addition being two; 0 where there are none.
    pub operations: usize,
}

impl Canonical {
    /// A case that moves these bytes and multiplies no matrices.
    #[must_use]
    pub fn moving(name: &'static str, case: impl Case + 'static, bytes: usize) -> Canonical {
        Canonical { name, case: Box::new(case), bytes, operations: 0 }
    }

    /// A case that multiplies matrices, too.
    #[must_use]
    pub fn multiplying(
        name: &'static str,
        case: impl Case + 'static,
        bytes: usize,
        operations: usize,
    ) -> Canonical {
        Canonical { operations, ..Canonical::moving(name, case, bytes) }
    }
}

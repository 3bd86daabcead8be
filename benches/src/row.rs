//! What is about to be measured.

use longhand_results::Work;

/// One bench: its work and how much of it an iteration is.
#[derive(Clone, Debug)]
pub struct Row {
    pub(crate) work: Work,
    pub(crate) implementation: String,
    pub(crate) amount: u64,
    pub(crate) unit: &'static str,
    pub(crate) bytes: usize,
}

impl Row {
    /// `operation` on elements of `dtype`, one of several along a size that has this letter and value.
    #[must_use]
    pub fn new(operation: &str, dtype: &str, axis: &str, value: usize) -> Row {
        let work = Work {
            operation: operation.to_owned(),
            device: String::new(),
            dtype: dtype.to_owned(),
            variant: String::new(),
            sizes: [(axis.to_owned(), value as u64)].into(),
            axis: axis.to_owned(),
        };
        Row { work, implementation: "longhand".to_owned(), amount: 1, unit: "call", bytes: 0 }
    }

    /// What else is the same for all along the axis: `causal D128`. A chart has a curve for each.
    #[must_use]
    pub fn variant(mut self, variant: &str) -> Row {
        variant.clone_into(&mut self.work.variant);
        self
    }

    /// The other sizes by their letters; they may vary along the axis.
    #[must_use]
    pub fn sizes<const N: usize>(mut self, sizes: [(&str, usize); N]) -> Row {
        self.work.sizes.extend(sizes.map(|(letter, size)| (letter.to_owned(), size as u64)));
        self
    }

    /// Who computes it, where that is not Longhand.
    #[must_use]
    pub fn by(mut self, implementation: &str) -> Row {
        implementation.clone_into(&mut self.implementation);
        self
    }

    /// Floating-point operations of an iteration.
    #[must_use]
    pub fn flops(self, amount: u64) -> Row {
        Row { amount, unit: "FLOP", ..self }
    }

    /// Bytes that an iteration has to move: each input read once, each output written once.
    #[must_use]
    pub fn moves(self, bytes: usize) -> Row {
        Row { amount: bytes as u64, unit: "byte", ..self }
    }

    /// Anything else that an iteration does some of.
    #[must_use]
    pub fn of(self, amount: u64, unit: &'static str) -> Row {
        Row { amount, unit, ..self }
    }

    /// Memory that it takes. Where there is less, it is left out.
    #[must_use]
    pub fn needs(self, bytes: usize) -> Row {
        Row { bytes, ..self }
    }

    /// What criterion calls it within its operation: everything but the sizes.
    pub(crate) fn function(&self) -> String {
        let Work { device, dtype, variant, .. } = &self.work;
        let words = [&self.implementation, device, dtype, variant];
        words.into_iter().filter(|word| !word.is_empty()).map(String::as_str).collect::<Vec<_>>().join(" ")
    }

    pub(crate) fn length(&self) -> u64 {
        self.work.sizes[&self.work.axis]
    }
}

#[cfg(test)]
mod tests {
    use super::Row;

    #[test]
    fn rows_of_different_variants_or_libraries_have_different_names() {
        let row = Row::new("attention forward", "bf16", "T", 1024).variant("causal D64");
        assert_eq!(row.function(), "longhand bf16 causal D64");
        let others = [row.clone().variant("causal D128"), row.clone().by("naive")];
        assert!(others.iter().all(|other| other.function() != row.function()));
    }
}

//! What an attention is given beside q, k and v.

use bytemuck::{Pod, Zeroable};
use longhand_gpu::DevicePtr;

use super::arguments::Arguments;
use super::description::Number;
use super::{Attention, Named};
use crate::random::drop_below;
use crate::{Random, Result};

/// The tensors, beside q, k and v, of the features that an [`Attention`] was described with. Those of other features
/// have to be null.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Operands<'a> {
    /// `(B)` i32: how many keys from the first on every query sees. For [`Attention::prefix`].
    pub prefix: DevicePtr,
    /// For [`Attention::documents`].
    pub documents: Documents,
    /// `(H)` f32: the slope of each head. For [`Attention::alibi`].
    pub slopes: DevicePtr,
    /// `(H)` f32: the sink of each head. For [`Attention::sinks`].
    pub sinks: DevicePtr,
    /// Which probabilities [`Attention::dropout`] drops; the same in forward and backward.
    pub random: Random,
    /// A value for each name of [`Attention::named`].
    pub named: &'a [(&'a str, Named)],
}

/// Where packed documents begin and end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Documents {
    /// `(documents + 1)` i32, not decreasing: document `d` has the queries `queries[d]` to `queries[d + 1] - 1`.
    pub queries: DevicePtr,
    /// The same of keys.
    pub keys: DevicePtr,
    /// No document has more queries than this.
    pub longest_queries: usize,
    /// No document has more keys than this.
    pub longest_keys: usize,
}

/// `Mask` of `mask.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct MaskParams {
    left: i32,
    right: i32,
    prefix: DevicePtr,
}

/// `Documents` of `sequence.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct DocumentsParams {
    queries: DevicePtr,
    keys: DevicePtr,
}

/// `Scoring` of `score.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct ScoringParams {
    slopes: DevicePtr,
    sinks: DevicePtr,
    named: [u64; 8],
    softcap: f32,
    scale: f32,
}

/// `Dropout` of `dropout.cuh`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
pub(super) struct DropoutParams {
    key: u64,
    drop_below: u32,
    keep_scale: f32,
}

impl Operands<'_> {
    pub(super) fn check(&self, attention: &Attention, arguments: &Arguments) -> Result<()> {
        let shape = arguments.shape;
        let expect = |name: &str, data: DevicePtr, described: bool, alignment: u64| {
            if described {
                if shape.batch > 0 { arguments.check_pointer(name, data, alignment) } else { Ok(()) }
            } else if data.is_null() {
                Ok(())
            } else {
                let expected = "null: the attention was described without";
                Err(arguments.error(name, format!("{data:?}"), expected))
            }
        };
        expect("prefix", self.prefix, attention.prefix, 4)?;
        expect("slopes", self.slopes, attention.alibi, 4)?;
        expect("sinks", self.sinks, attention.sinks, 4)?;
        attention.expressions.slots(arguments, self.named)?;
        let documents = &self.documents;
        expect("documents.queries", documents.queries, attention.documents, 4)?;
        expect("documents.keys", documents.keys, attention.documents, 4)?;
        for (name, longest, all) in [
            ("documents.longest_queries", documents.longest_queries, ("queries", shape.queries)),
            ("documents.longest_keys", documents.longest_keys, ("keys", shape.keys)),
        ] {
            let (limit, of) = if attention.documents { (all.1, all.0) } else { (0, "none") };
            if longest > limit {
                return Err(arguments.error(name, longest, format!("at most {limit} ({of})")));
            }
        }
        Ok(())
    }

    pub(super) fn mask_params(&self, attention: &Attention) -> MaskParams {
        let limit = |side: Option<usize>| side.map_or(i32::MAX, |n| n.min(i32::MAX as usize) as i32);
        MaskParams { left: limit(attention.left), right: limit(attention.right), prefix: self.prefix }
    }

    pub(super) fn documents_params(&self) -> DocumentsParams {
        DocumentsParams { queries: self.documents.queries, keys: self.documents.keys }
    }

    pub(super) fn scoring_params(
        &self,
        attention: &Attention,
        arguments: &Arguments,
        scale: f32,
    ) -> Result<ScoringParams> {
        Ok(ScoringParams {
            slopes: self.slopes,
            sinks: self.sinks,
            named: attention.expressions.slots(arguments, self.named)?,
            softcap: attention.softcap.map_or(0.0, Number::get),
            scale,
        })
    }

    pub(super) fn dropout_params(&self, attention: &Attention) -> DropoutParams {
        let probability = attention.dropout.map_or(0.0, Number::get);
        DropoutParams {
            key: self.random.key(),
            drop_below: drop_below(probability.into()),
            keep_scale: 1.0 / (1.0 - probability),
        }
    }

    /// Queries and keys of the longest sequence.
    pub(super) fn longest(&self, attention: &Attention, arguments: &Arguments) -> [u32; 2] {
        let longest = if attention.documents {
            [self.documents.longest_queries, self.documents.longest_keys]
        } else {
            [arguments.shape.queries, arguments.shape.keys]
        };
        longest.map(|tokens| tokens as u32)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Dtype;
    use crate::attention::AttentionShape;

    fn message(attention: &Attention, operands: Operands<'_>) -> String {
        let shape = AttentionShape { batch: 2, queries: 5, keys: 7, heads: 2, kv_heads: 1 };
        let documents = attention.documents;
        let arguments = Arguments { operation: "attention forward", shape, head_dim: 64, documents };
        operands.check(attention, &arguments).map_or_else(|error| error.to_string(), |()| "fine".into())
    }

    #[test]
    fn operands_are_those_that_the_attention_was_described_with() {
        let plain = Attention::new(Dtype::Bf16, 64).causal(true);
        let none = Operands::default();
        let prefix = Operands { prefix: DevicePtr(64), ..none };
        assert_eq!(message(&plain, none), "fine");
        assert_eq!(message(&plain.clone().prefix(true), prefix), "fine");
        assert_eq!(
            message(&plain, prefix),
            "attention forward: prefix is DevicePtr(0x40), it has to be null: the attention was described without"
        );
        assert_eq!(
            message(&plain.prefix(true), none),
            "attention forward: prefix is DevicePtr(0x0), it has to be an address that is a multiple of 4"
        );
    }

    #[test]
    fn no_document_is_longer_than_all_of_them() {
        let packed = Attention::new(Dtype::Bf16, 64).documents(true);
        let starts = DevicePtr(64);
        let documents = |longest_queries, longest_keys| Operands {
            documents: Documents { queries: starts, keys: starts, longest_queries, longest_keys },
            ..Operands::default()
        };
        assert_eq!(message(&packed, documents(5, 7)), "fine");
        assert_eq!(
            message(&packed, documents(6, 7)),
            "attention forward: documents.longest_queries is 6, it has to be at most 5 (queries)"
        );
        assert_eq!(
            message(&packed, documents(5, 8)),
            "attention forward: documents.longest_keys is 8, it has to be at most 7 (keys)"
        );
    }
}

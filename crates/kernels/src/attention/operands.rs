//! What an attention is given beside q, k and v.

use bytemuck::{Pod, Zeroable};
use longhand_gpu::{DevicePtr, params};

use super::arguments::Arguments;
use super::block_mask::{BlockMaskParams, Counts};
use super::description::Number;
use super::expression::MAX_NAMED;
use super::{Attention, AttentionShape, Heads, Named, Strides};
use crate::check::{overlap, reach};
use crate::extent::Extent;
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
    /// The lists that a [`BlockMaskPlan`](super::BlockMaskPlan) wrote for this shape. For [`Attention::blocks`].
    pub blocks: DevicePtr,
    /// `(H)` f32: the slope of each head. For [`Attention::alibi`].
    pub slopes: DevicePtr,
    /// `(H)` f32: the sink of each head. For [`Attention::sinks`].
    pub sinks: DevicePtr,
    /// For [`Attention::bias`].
    pub bias: Bias,
    /// Which probabilities [`Attention::dropout`] drops; the same in forward and backward.
    pub random: Random,
    /// A value for each name of [`Attention::named`].
    pub named: &'a [(&'a str, Named)],
}

/// A `(B, H, T, S)` tensor of the attention's element type. Of documents, `B` is how many there are, and `T` and `S` are
/// those of the longest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bias {
    /// Its first element.
    pub data: DevicePtr,
    /// Elements from one batch, head, query and key to the next; 0 where all have the same.
    pub strides: [i64; 4],
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
    blocks: BlockMaskParams,
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
    bias: DevicePtr,
    bias_strides: [i64; 4],
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

params! {
    /// Of `inputs.cuh`: what every kernel that walks over scores is given.
    #[allow(non_snake_case, reason = "dimensions have their letters, as in CUDA")]
    pub(super) struct Inputs {
        q: DevicePtr,
        k: DevicePtr,
        v: DevicePtr,
        q_strides: Strides,
        k_strides: Strides,
        v_strides: Strides,
        mask: MaskParams,
        documents: DocumentsParams,
        scoring: ScoringParams,
        dropout: DropoutParams,
        T: i32,
        S: i32,
        heads_per_kv: i32,
        scale: f32,
    }
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
        expect("blocks", self.blocks, attention.blocks.is_some(), 4)?;
        expect("slopes", self.slopes, attention.alibi, 4)?;
        expect("sinks", self.sinks, attention.sinks, 4)?;
        if self.bias_dims(attention, arguments, "bias", &self.bias)?.is_some() || !attention.bias {
            expect("bias", self.bias.data, attention.bias, attention.dtype.size() as u64)?;
        }
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

    /// The gradient of the bias: null where it is not wanted.
    pub(super) fn check_dbias(
        &self,
        attention: &Attention,
        arguments: &Arguments,
        grad: &Bias,
    ) -> Result<()> {
        if grad.data.is_null() {
            return Ok(());
        }
        if !attention.bias {
            let expected = "null: the attention was described without bias";
            return Err(arguments.error("dbias", format!("{:?}", grad.data), expected));
        }
        let Some(dims) = self.bias_dims(attention, arguments, "dbias", grad)? else { return Ok(()) };
        arguments.check_pointer("dbias", grad.data, attention.dtype.size() as u64)?;
        let distinct = dims.map(|(size, stride)| if stride == 0 { (1, 0) } else { (size, stride) });
        match overlap(distinct, 1) {
            None => Ok(()),
            Some((stride, reach)) => {
                let expected = format!("at least {reach}, or 0: its elements overlap");
                Err(arguments.error("stride of dbias", stride, expected))
            }
        }
    }

    /// Where they are. Of what expressions call by name nobody knows the size: the first byte stands for it.
    pub(super) fn extents(&self, attention: &Attention, arguments: &Arguments) -> [Extent; 7 + MAX_NAMED] {
        let AttentionShape { batch, heads, .. } = arguments.shape;
        let numbers = |name, data, count| Extent::contiguous(name, data, count, 4);
        let Documents { queries, keys, .. } = self.documents;
        let lists = attention.blocks.map_or(0, |blocks| {
            let longest = self.longest(attention, arguments).map(|tokens| tokens as usize);
            Counts::new(blocks, &arguments.shape, longest)
                .list_bytes()
                .into_iter()
                .fold(0, usize::saturating_add)
        });
        let mut extents = [Extent::contiguous("named[{}]", DevicePtr::NULL, 0, 1); 7 + MAX_NAMED];
        let (known, named) = extents.split_at_mut(7);
        known.copy_from_slice(&[
            numbers("prefix", self.prefix, batch),
            numbers("documents.queries", queries, batch + 1),
            numbers("documents.keys", keys, batch + 1),
            Extent::contiguous("blocks", self.blocks, lists, 1),
            numbers("slopes", self.slopes, heads),
            numbers("sinks", self.sinks, heads),
            self.bias_extent(attention, arguments, "bias", &self.bias),
        ]);
        for (i, (extent, (_, value))) in named.iter_mut().zip(self.named).enumerate() {
            if let Named::Tensor(data) | Named::Integers(data) = *value {
                *extent = Extent::contiguous("named[{}]", data, 1, 1).number(i);
            }
        }
        extents
    }

    /// Of the bias, or of its gradient.
    pub(super) fn bias_extent(
        &self,
        attention: &Attention,
        arguments: &Arguments,
        name: &'static str,
        bias: &Bias,
    ) -> Extent {
        let [queries, keys] = self.longest(attention, arguments).map(|tokens| tokens as usize);
        let sizes = [arguments.shape.batch, arguments.shape.heads, queries, keys];
        Extent::strided(name, bias.data, sizes.into_iter().zip(bias.strides), 1, arguments.dtype.size())
    }

    /// Sizes and strides, which have to be within 64-bit addresses. None where there are no scores to add to.
    fn bias_dims(
        &self,
        attention: &Attention,
        arguments: &Arguments,
        name: &str,
        bias: &Bias,
    ) -> Result<Option<[(usize, i64); 4]>> {
        let [queries, keys] = self.longest(attention, arguments).map(|tokens| tokens as usize);
        let sizes = [arguments.shape.batch, arguments.shape.heads, queries, keys];
        if sizes.contains(&0) {
            return Ok(None);
        }
        let dims = std::array::from_fn(|i| (sizes[i], bias.strides[i]));
        if reach(&dims) > i128::from(i64::MAX / 8) {
            let was = format!("{:?}", bias.strides);
            return Err(arguments.error(
                format!("strides of {name}"),
                was,
                "small enough for 64-bit addresses",
            ));
        }
        Ok(Some(dims))
    }

    /// With q, k and v, of which the arguments have been checked.
    pub(super) fn inputs(
        &self,
        attention: &Attention,
        arguments: &Arguments,
        [q, k, v]: [&Heads; 3],
        scale: f32,
    ) -> Result<Inputs> {
        let AttentionShape { queries, keys, heads, kv_heads, .. } = arguments.shape;
        Ok(Inputs {
            q: q.data,
            k: k.data,
            v: v.data,
            q_strides: q.strides,
            k_strides: k.strides,
            v_strides: v.strides,
            mask: self.mask_params(attention, arguments),
            documents: self.documents_params(),
            scoring: self.scoring_params(attention, arguments, scale)?,
            dropout: self.dropout_params(attention),
            T: queries as i32,
            S: keys as i32,
            heads_per_kv: (heads / kv_heads) as i32,
            scale,
        })
    }

    pub(super) fn mask_params(&self, attention: &Attention, arguments: &Arguments) -> MaskParams {
        let limit = |side: Option<usize>| side.map_or(i32::MAX, |n| n.min(i32::MAX as usize) as i32);
        let longest = self.longest(attention, arguments).map(|tokens| tokens as usize);
        let blocks = attention.blocks.unwrap_or_default();
        MaskParams {
            left: limit(attention.left),
            right: limit(attention.right),
            prefix: self.prefix,
            blocks: Counts::new(blocks, &arguments.shape, longest).params(blocks, self.blocks),
        }
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
            bias: self.bias.data,
            bias_strides: self.bias.strides,
            named: attention.expressions.slots(arguments, self.named)?,
            softcap: attention.softcap.map_or(0.0, Number::get),
            scale,
        })
    }

    fn dropout_params(&self, attention: &Attention) -> DropoutParams {
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
    use crate::attention::Blocks;

    fn message(attention: &Attention, operands: Operands<'_>) -> String {
        let shape = AttentionShape { batch: 2, queries: 5, keys: 7, heads: 2, kv_heads: 1 };
        let documents = attention.documents;
        let arguments = Arguments { operation: "attention forward", dtype: Dtype::Bf16, shape, documents };
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
            message(&plain.clone().prefix(true), none),
            "attention forward: prefix is DevicePtr(0x0), it has to be an address that is a multiple of 4"
        );
        let blocks = Operands { blocks: DevicePtr(64), ..none };
        assert!(message(&plain, blocks).contains("blocks is DevicePtr(0x40), it has to be null"));
        let blocked = plain.blocks(Blocks::default());
        assert_eq!(message(&blocked, blocks), "fine");
        assert!(message(&blocked, none).contains("blocks is DevicePtr(0x0), it has to be an address"));
    }

    #[test]
    fn a_bias_and_its_gradient_are_where_addresses_reach_and_elements_do_not_meet() {
        let biased = Attention::new(Dtype::Bf16, 64).bias(true);
        let bias = |strides| Bias { data: DevicePtr(64), strides };
        let given = |strides| Operands { bias: bias(strides), ..Operands::default() };
        assert_eq!(message(&biased, given([0, 35, 7, 1])), "fine");
        assert!(message(&biased, Operands::default()).contains("bias is DevicePtr(0x0)"));
        assert!(message(&biased, given([i64::MAX, 0, 0, 0])).contains("strides of bias"));

        let shape = AttentionShape { batch: 2, queries: 5, keys: 7, heads: 2, kv_heads: 1 };
        let arguments =
            Arguments { operation: "attention backward", dtype: Dtype::Bf16, shape, documents: false };
        let check = |attention: &Attention, strides| {
            let operands = Operands::default();
            operands
                .check_dbias(attention, &arguments, &bias(strides))
                .map_or_else(|error| error.to_string(), |()| "fine".into())
        };
        assert_eq!(check(&biased, [0, 35, 7, 1]), "fine");
        assert_eq!(check(&biased, [0, 7, 0, 1]), "fine");
        assert_eq!(
            check(&biased, [0, 35, 6, 1]),
            "attention backward: stride of dbias is 6, it has to be at least 7, or 0: its elements overlap"
        );
        let plain = Attention::new(Dtype::Bf16, 64);
        assert!(check(&plain, [0, 35, 7, 1]).contains("dbias is DevicePtr(0x40), it has to be null"));
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

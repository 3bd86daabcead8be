//! The operations by name.

use crate::cases::{
    Activation, AdamW, Attention, AttentionDecode, AttentionMerge, AxisSum, ColumnSum, Copy, CrossEntropy,
    Embedding, GradientNorm, GradientScale, KvAppend, Map, Matmul, Norm, Rope, Sample, Softmax, Sum,
};
use crate::{Canonical, Case};

/// The operations, as the folders of `kernels/` name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Op {
    Activation,
    AdamW,
    Attention,
    CrossEntropy,
    Elementwise,
    Embedding,
    KvCache,
    Matmul,
    Norm,
    Reduction,
    Rope,
    Sampling,
    Softmax,
}

impl Op {
    /// All of them, in the order of their names.
    pub const ALL: [Op; 13] = [
        Op::Activation,
        Op::AdamW,
        Op::Attention,
        Op::CrossEntropy,
        Op::Elementwise,
        Op::Embedding,
        Op::KvCache,
        Op::Matmul,
        Op::Norm,
        Op::Reduction,
        Op::Rope,
        Op::Sampling,
        Op::Softmax,
    ];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Op::Activation => "activation",
            Op::AdamW => "adamw",
            Op::Attention => "attention",
            Op::CrossEntropy => "cross_entropy",
            Op::Elementwise => "elementwise",
            Op::Embedding => "embedding",
            Op::KvCache => "kv_cache",
            Op::Matmul => "matmul",
            Op::Norm => "norm",
            Op::Reduction => "reduction",
            Op::Rope => "rope",
            Op::Sampling => "sampling",
            Op::Softmax => "softmax",
        }
    }

    /// The cases that tell the most: every kernel, type and mask, at a size with several blocks and at the edges of its
    /// tiles. They are the same every time.
    #[must_use]
    pub fn cases(self) -> Vec<Box<dyn Case>> {
        match self {
            Op::Activation => boxed(Activation::telling()),
            Op::AdamW => boxed(AdamW::telling()),
            Op::Attention => [
                boxed(Attention::telling()),
                boxed(AttentionDecode::telling()),
                boxed(AttentionMerge::telling()),
            ]
            .into_iter()
            .flatten()
            .collect(),
            Op::CrossEntropy => [boxed(CrossEntropy::telling()), boxed(GradientScale::telling())]
                .into_iter()
                .flatten()
                .collect(),
            Op::Elementwise => {
                [boxed(Map::telling()), boxed(Copy::telling())].into_iter().flatten().collect()
            }
            Op::Embedding => boxed(Embedding::telling()),
            Op::KvCache => boxed(KvAppend::telling()),
            Op::Matmul => boxed(Matmul::telling()),
            Op::Norm => boxed(Norm::telling()),
            Op::Reduction => [
                boxed(AxisSum::telling()),
                boxed(ColumnSum::telling()),
                boxed(Sum::telling()),
                boxed(GradientNorm::telling()),
            ]
            .into_iter()
            .flatten()
            .collect(),
            Op::Rope => boxed(Rope::telling()),
            Op::Sampling => boxed(Sample::telling()),
            Op::Softmax => boxed(Softmax::telling()),
        }
    }

    /// Launches whose counts are held: one of each kernel, of a size at which they tell.
    #[must_use]
    pub fn canonical(self) -> Vec<Canonical> {
        match self {
            Op::Activation => Activation::canonical(),
            Op::AdamW => AdamW::canonical(),
            Op::Attention => {
                [Attention::canonical(), AttentionDecode::canonical(), AttentionMerge::canonical()]
                    .into_iter()
                    .flatten()
                    .collect()
            }
            Op::CrossEntropy => CrossEntropy::canonical(),
            Op::Elementwise => [Map::canonical(), Copy::canonical()].into_iter().flatten().collect(),
            Op::Embedding => Embedding::canonical(),
            Op::KvCache => KvAppend::canonical(),
            Op::Matmul => Matmul::canonical(),
            Op::Norm => Norm::canonical(),
            Op::Rope => Rope::canonical(),
            Op::Sampling => Sample::canonical(),
            Op::Softmax => Softmax::canonical(),
            Op::Reduction => {
                [AxisSum::canonical(), ColumnSum::canonical(), Sum::canonical(), GradientNorm::canonical()]
                    .into_iter()
                    .flatten()
                    .collect()
            }
        }
    }
}

fn boxed<C: Case + 'static>(cases: Vec<C>) -> Vec<Box<dyn Case>> {
    cases.into_iter().map(|case| Box::new(case) as Box<dyn Case>).collect()
}

//! The operations, each as a [`Case`](crate::Case) with its sizes, and the cases of each that tell the most.

mod activation;
mod adamw;
mod attention;
mod axis;
mod columns;
mod copy;
mod cross_entropy;
mod embedding;
mod gradient_scale;
mod map;
mod matmul;
mod merge;
mod norm;
mod rope;
mod sample;
mod softmax;
mod sums;

pub use activation::Activation;
pub use adamw::{AdamW, ParameterSize};
pub use attention::{Attention, Blocks, HeadLayout, Mask, Pass, Scores};
pub use axis::AxisSum;
pub use columns::ColumnSum;
pub use copy::Copy;
pub use cross_entropy::{CrossEntropy, Place};
pub use embedding::Embedding;
pub use gradient_scale::GradientScale;
pub use map::Map;
pub use matmul::{Addend, Matmul};
pub use merge::AttentionMerge;
pub use norm::Norm;
pub use rope::Rope;
pub use sample::Sample;
pub use softmax::Softmax;
pub use sums::{GradientNorm, GradientSize, Sum};

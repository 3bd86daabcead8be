//! The float64 CPU oracle that judges every Longhand kernel.
//!
//! Each function is the textbook formula on plain row-major `f64` slices, written as plainly as the formula
//! itself: no blocking, no tricks, no dependency, so that whoever doubts a kernel reads this and stops doubting.
//! It is meant to be obviously right, not fast.
//!
//! | operation | forward | backward | source |
//! |---|---|---|---|
//! | attention | [`attention`] | [`attention_backward`] | Vaswani et al. 2017; Dao 2023 |
//! | merging partial attention | [`attention_merge`] | [`attention_merge_backward`] | Ye et al. 2025 |
//! | residual sum and layer norm | [`layer_norm`] | [`layer_norm_backward`] | Ba et al. 2016 |
//! | residual sum and RMSNorm | [`rms_norm`] | [`rms_norm_backward`] | Zhang & Sennrich 2019 |
//! | dropout | [`dropout`](dropout()) | itself | Srivastava et al. 2014 |
//! | AdamW | [`adamw`] | | Loshchilov & Hutter 2019 |
//! | cross-entropy | [`cross_entropy`] | [`cross_entropy_backward`] | Bishop 2006 |
//! | GELU | [`gelu_tanh`], [`gelu_erf`] | [`gelu_tanh_backward`], [`gelu_erf_backward`] | Hendrycks & Gimpel 2016 |
//! | SiLU | [`silu`] | [`silu_backward`] | Ramachandran et al. 2017 |
//! | ReLU² | [`relu_squared`] | [`relu_squared_backward`] | So et al. 2021 |
//! | gated linear units | [`gated`] | [`gated_backward`] | Shazeer 2020 |
//! | linear | [`linear`] | [`linear_backward`] | |
//! | embedding | [`embedding`] | [`embedding_backward`] | |
//! | rotary position embedding | [`rope`](rope()) | [`rope_backward`] | Su et al. 2021 |
//! | numbers in 8 bits | [`dynamic_map`](dynamic_map()) | | Dettmers et al. 2022 |
//! | and 8-bit floats | [`to_e4m3`], [`e4m3`](e4m3()) | | OCP 8-bit Floating Point Specification |
//! | random bits | [`philox`](philox()) | | Salmon et al. 2011 |
//!
//! An oracle has no error to return: a slice whose length contradicts the shapes is a mistake in the test that
//! called it, and panics with the name of the argument, what it was and what it had to be.
#![forbid(unsafe_code)]

mod activation;
mod adamw;
mod attention;
mod cross_entropy;
mod dropout;
mod dynamic_map;
mod embedding;
mod gelu;
mod linear;
mod merge;
mod norm;
mod philox;
mod quantise;
mod rope;
mod sampling;
mod softmax;

pub use activation::{gated, gated_backward, relu_squared, relu_squared_backward, silu, silu_backward};
pub use adamw::{AdamWOptions, adamw};
pub use attention::{
    Attention, AttentionGradients, AttentionShape, Scoring, attention, attention_backward, attention_scored,
    attention_scored_backward, causal, full, window,
};
pub use cross_entropy::{CrossEntropy, CrossEntropyOptions, cross_entropy, cross_entropy_backward};
pub use dropout::dropout;
pub use dynamic_map::{dynamic_map, nearest};
pub use embedding::{embedding, embedding_backward};
pub use gelu::{erf, erfc, gelu_erf, gelu_erf_backward, gelu_tanh, gelu_tanh_backward};
pub use linear::{LinearGradients, linear, linear_backward};
pub use merge::{MergeGradients, Merged, PartialAttention, attention_merge, attention_merge_backward};
pub use norm::{
    LayerNorm, NormGradients, RmsNorm, layer_norm, layer_norm_backward, rms_norm, rms_norm_backward,
};
pub use philox::philox;
pub use quantise::{e4m3, to_e4m3, to_int8};
pub use rope::{Rope, rope, rope_backward};
pub use sampling::{SampleOptions, sample};
pub use softmax::{Softmax, softmax, softmax_backward};

use std::iter::zip;

/// Panics unless `slice` has `expected` elements.
#[track_caller]
fn check_len<T>(argument: &str, slice: &[T], expected: usize) {
    let was = slice.len();
    assert!(was == expected, "{argument} has {was} elements, must have {expected}");
}

/// Panics unless `slice` is a whole number of rows of `width` elements; returns how many.
#[track_caller]
fn check_rows<T>(argument: &str, slice: &[T], width: usize) -> usize {
    assert!(width > 0, "the rows of {argument} have width 0, must have at least 1 element");
    let was = slice.len();
    assert!(was.is_multiple_of(width), "{argument} has {was} elements, must be rows of {width}");
    was / width
}

/// `Σ a[i] b[i]`.
fn dot(a: &[f64], b: &[f64]) -> f64 {
    zip(a, b).map(|(a, b)| a * b).sum()
}

/// `sum += factor * x`.
fn add_scaled(sum: &mut [f64], factor: f64, x: &[f64]) {
    for (sum, x) in zip(sum, x) {
        *sum += factor * x;
    }
}

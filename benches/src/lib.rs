//! What the benches share.
//!
//! A bench is a small file: for each length a [`Row`] says what is computed and how much of it, and a closure sets it
//! up. [`main`] chooses the device (`LONGHAND_DEVICE`), [`Bench::measure`] times it by the device's own [`Clock`]
//! through criterion, whose files hold the samples, and writes the row beside them.
#![forbid(unsafe_code)]

mod bench;
mod clock;
mod gpu;
mod naive;
mod place;
mod rate;
mod row;
mod seed;

pub use bench::{Bench, main, main_on_cpu};
pub use clock::{Clock, Started};
pub use gpu::{Cycle, Gpu};
pub use naive::attention as naive_attention;
pub use place::Place;
pub use row::Row;
pub use seed::seeded;

use longhand_tensor::{Device, Dtype, Result, Tensor};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// A tensor of normal deviates on the CPU in f32, the same for the same shape. Never zeros: those are faster to
/// multiply than what models hold.
///
/// # Errors
/// When there is no memory for it.
pub fn normal(shape: &[usize]) -> Result<Tensor> {
    Tensor::randn(shape, 1.0, Dtype::F32, &Device::Cpu, &mut StdRng::seed_from_u64(1))
}

/// Floating-point operations of an attention forward pass over T queries and T keys, counting only what the mask lets
/// through, of which a causal one lets through half, and with a window so many keys before each query: two products of
/// 2 T² D for each head of each batch. A backward pass is 2.5 times as many.
#[must_use]
pub fn attention_flops(
    batch: usize,
    heads: usize,
    tokens: usize,
    head_dim: usize,
    causal: bool,
    window: Option<usize>,
) -> u64 {
    let half = |tokens: usize| (tokens as u64).pow(2) / 2;
    let pairs = match window {
        _ if !causal => 2 * half(tokens),
        Some(window) => half(tokens) - half(tokens.saturating_sub(window)),
        None => half(tokens),
    };
    4 * (batch * heads) as u64 * pairs * head_dim as u64
}

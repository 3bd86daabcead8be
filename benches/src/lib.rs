//! What the benches share: inputs, criterion's settings, and the algorithms that Longhand's are measured against.
#![forbid(unsafe_code)]

mod gpu;
mod naive;

pub use gpu::Gpu;
pub use naive::attention as naive_attention;

use std::time::Duration;

use criterion::Criterion;
use longhand_tensor::{Device, Dtype, Result, Tensor};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// Criterion for launches that take from a millisecond to seconds: ten samples, enough for a ratio.
pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2))
}

/// A tensor of normal deviates on the CPU in f32, the same for the same shape. Never zeros: those are faster to
/// multiply than what models hold.
///
/// # Errors
/// When there is no memory for it.
pub fn normal(shape: &[usize]) -> Result<Tensor> {
    Tensor::randn(shape, 1.0, Dtype::F32, &Device::Cpu, &mut StdRng::seed_from_u64(1))
}

/// Floating-point operations of an attention forward pass over T queries and T keys, counting only what the mask lets
/// through: two products of 2 T² D for each head. A backward pass is 2.5 times as many.
pub fn attention_flops(heads: usize, tokens: usize, head_dim: usize, causal: bool) -> u64 {
    let whole = 4 * heads as u64 * (tokens as u64).pow(2) * head_dim as u64;
    if causal { whole / 2 } else { whole }
}

//! Tests of the tensor crate through its public interface.

mod attention;
mod attention_features;
mod autograd;
mod bad_arguments;
mod decode;
mod errors;
mod every_operation;
mod gpu;
mod gradients;
mod numerics;
mod optimiser;
mod plain;
mod profile;
mod recompute;
mod threads;

use longhand_tensor::{Device, Dtype, Tensor};

/// Numbers in (-1.5, 1.5), the same for the same seed.
fn values(count: usize, seed: u64) -> Vec<f64> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 11) as f64 / (1u64 << 53) as f64 * 3.0 - 1.5
    };
    (0..count).map(|_| next()).collect()
}

/// An `f64` tensor of such numbers.
fn tensor(shape: &[usize], seed: u64) -> Tensor {
    Tensor::from_vec(values(shape.iter().product(), seed), shape, &Device::Cpu).unwrap()
}

/// The same, with dimensions `a` and `b` exchanged in memory.
fn strided(shape: &[usize], a: usize, b: usize, seed: u64) -> Tensor {
    let mut swapped = shape.to_vec();
    swapped.swap(a, b);
    tensor(&swapped, seed).transpose(a, b).unwrap()
}

fn indices(values: &[u32], shape: &[usize]) -> Tensor {
    Tensor::from_slice(values, shape, &Device::Cpu).unwrap()
}

/// The elements of a floating-point tensor as `f64`.
fn doubles(tensor: &Tensor) -> Vec<f64> {
    tensor.detach().to_device(&Device::Cpu).unwrap().to_dtype(Dtype::F64).unwrap().to_vec::<f64>().unwrap()
}

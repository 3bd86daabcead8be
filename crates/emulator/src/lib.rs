//! A virtual NVIDIA GPU that executes PTX.

pub mod num;
pub mod ptx;
mod simd;
pub mod tensor;

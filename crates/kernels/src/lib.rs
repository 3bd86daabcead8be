//! Longhand's CUDA kernels as typed operations.
//!
//! Each operation takes three steps: say what (`Norm::rms(..)`), compile it for a device (`.plan(..)`:
//! slow, once), enqueue it (`plan.launch(..)`: no allocation, no synchronisation, shapes may differ each time).
//! Memory belongs to the caller: pointers, strides, workspace. What a launch writes lies apart from all else that it is
//! given, or in the very place of an argument that it may be; where it does not, the launch is refused.

pub mod activation;
pub mod adamw;
pub mod attention;
mod check;
pub mod cross_entropy;
mod dtype;
pub mod elementwise;
pub mod embedding;
mod error;
mod extent;
mod held;
pub mod kv_cache;
mod loaded;
pub mod matmul;
pub mod norm;
pub mod random;
pub mod reduction;
pub mod rope;
pub mod sampling;
pub mod softmax;
mod source;
mod tensor_list;

pub use dtype::Dtype;
pub use error::{Error, Result};
pub use random::Random;
pub use source::{Variant, variants};
pub use tensor_list::TensorList;

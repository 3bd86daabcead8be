//! A virtual NVIDIA GPU that executes PTX.

mod arch;
mod count;
mod decode;
mod error;
mod fault;
mod gpu;
mod lanes;
mod machine;
mod memory;
pub mod num;
mod ops;
mod options;
mod order;
mod program;
pub mod ptx;
mod registers;
mod report;
mod simd;
mod special;
pub mod tensor;

pub use arch::{Arch, ParseArchError};
pub use count::Class;
pub use error::{LoadError, UnsupportedInstruction};
pub use fault::{Access, Fault, Location, Problem, SpaceName};
pub use gpu::{Gpu, Module, Shape};
pub use memory::MemoryError;
pub use ops::supported;
pub use options::{Checks, Options};
pub use report::{Counts, LineCounts, Report};

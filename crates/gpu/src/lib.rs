//! One device interface for CUDA kernels: memory, streams, modules, NVRTC and its cache.

mod arch;
mod cache;
mod compiler;
pub mod cublaslt;
mod cuda;
mod cuda_library;
mod device;
mod driver;
mod entries;
mod error;
mod image;
mod layout;
mod library;
mod module;
pub mod nvrtc;
mod pointer;
mod program;
mod resources;
mod stream;

pub use arch::Arch;
pub use compiler::Compiler;
pub use cuda_library::{DeviceInfo, DriverInfo, driver_info};
pub use device::Device;
pub use driver::{Launch, Memory};
pub use error::{Error, Result};
pub use image::{Image, Resources};
pub use layout::{Field, Layout};
pub use library::Found;
pub use module::{Kernel, Module};
pub use pointer::DevicePtr;
pub use program::{Constants, Program};
pub use stream::{Buffer, Event, Stream};

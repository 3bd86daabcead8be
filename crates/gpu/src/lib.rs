//! One device interface for CUDA kernels.
//!
//! A CUDA source becomes a launch in four steps, of which the first three are slow and happen once:
//!
//! 1. a [`Program`] is the source with its headers and its compile-time [`Constants`];
//! 2. a [`Compiler`] makes it an [`Image`] with NVRTC, for one [`Arch`], through a cache on disk;
//! 3. a [`Device`] loads the image as a [`Module`], which has [`Kernel`]s;
//! 4. [`Kernel::launch`] enqueues it on a [`Stream`], with one parameter struct.
//!
//! The first two need no GPU:
//!
//! ```
//! use longhand_gpu::{Arch, Compiler, Constants, DevicePtr, Error, Program, params};
//!
//! params! {
//!     struct Params { x: DevicePtr, n: i64 }
//! }
//!
//! let program = Program::new("scale.cu", r#"
//!     #include "constants.cuh"
//!     struct Params { float* x; long long n; };
//!
//!     extern "C" __global__ void scale(const __grid_constant__ Params p) {
//!         const long long i = blockIdx.x * (long long)blockDim.x + threadIdx.x;
//!         if (i < p.n) p.x[i] *= FACTOR;
//!     }
//! "#)
//! .constants(Constants::new().float("FACTOR", 0.5))
//! .params(Params::LAYOUT);
//!
//! let compiler = match Compiler::new() {
//!     Err(reason @ Error::LibraryNotFound { .. }) => return Ok(println!("skipped: {reason}")),
//!     compiler => compiler?,
//! };
//! for arch in Arch::TESTED {
//!     let image = compiler.compile(&program, arch)?;
//!     let scale = &image.resources()[0];
//!     println!("{arch}: {} registers, {} bytes spilled", scale.registers, scale.spill_stores);
//!     assert_eq!(scale.spill_stores, 0);
//! }
//! # Ok::<(), Error>(())
//! ```
//!
//! The rest needs one, or [the emulated one](Device::emulated):
//!
//! ```no_run
//! # use longhand_gpu::{DevicePtr, Program, params};
//! # params! { struct Params { x: DevicePtr, n: i64 } }
//! # fn run(program: &Program) -> Result<(), longhand_gpu::Error> {
//! use longhand_gpu::{Device, Launch};
//!
//! let device = match Device::cuda(0) {
//!     Ok(device) => device,
//!     Err(_) => Device::emulated("sm_90a".parse()?)?,
//! };
//! let scale = device.compile_and_load(program)?.kernel("scale")?;
//!
//! let stream = device.new_stream()?;
//! let x = stream.alloc(4 * 1000)?;
//! x.upload(0, bytemuck::cast_slice(&[2.0f32; 1000]))?;
//! let shape = Launch { grid: [4, 1, 1], block: [256, 1, 1], shared_bytes: 0 };
//! // SAFETY: the kernel touches the 1000 floats of `x` alone.
//! unsafe { scale.launch(&stream, shape, &Params { x: x.ptr(), n: 1000 }) }?;
//!
//! let mut result = [0.0f32; 1000];
//! x.download(0, bytemuck::cast_slice_mut(&mut result))?;
//! # Ok(())
//! # }
//! ```
//!
//! # What is found at run time
//!
//! Nothing of CUDA is needed to build this crate. At run time it loads
//!
//! - the driver (`libcuda`), for [`Device::cuda`], as the loader finds it;
//! - NVRTC, for [`Compiler::new`], from `LONGHAND_NVRTC` (a file or a folder) if that is set, else from the first of
//!   `CUDA_HOME`, `CUDA_PATH`, `/usr/local/cuda`, the loader's path, Python's site-packages and `target/nvrtc`;
//! - cuBLASLt, for [`cublaslt`], from `LONGHAND_CUBLASLT` or the same places.
//!
//! One that is missing is an [`Error`] that lists every place looked at and what to install. [`doctor()`] tells it
//! all at once. Compiled programs are kept in the folder `LONGHAND_CACHE`, else in the user's cache directory.
//!
//! # What is behind it
//!
//! A device is one private trait over handles and addresses, of which CUDA's driver is an implementation, and the
//! [`emulator`] the other. Nothing above this crate knows which one it runs on.

mod arch;
mod cache;
mod compiler;
pub mod cublaslt;
mod cuda;
mod cuda_library;
mod device;
mod doctor;
mod driver;
mod emulated;
mod entries;
mod error;
mod image;
mod layout;
mod library;
mod module;
pub mod nvrtc;
mod occupancy;
mod pointer;
mod program;
mod resources;
mod stream;

pub use arch::Arch;
pub use compiler::Compiler;
pub use cuda_library::{DeviceInfo, DriverInfo, driver_info};
pub use device::Device;
pub use doctor::{Check, doctor};
pub use driver::{Launch, Memory};
pub use error::{Error, Result};
pub use image::{Image, Resources};
pub use layout::{Field, Layout};
pub use library::Found;
pub use longhand_emulator as emulator;
pub use module::{Kernel, Module};
pub use occupancy::{blocks_per_multiprocessor, occupancy, shared_bytes_per_block};
pub use pointer::DevicePtr;
pub use program::{Constants, Program};
pub use stream::{Buffer, Event, Stream};

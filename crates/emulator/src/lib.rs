//! A virtual NVIDIA GPU that executes PTX, on any machine.
//!
//! It runs the text that NVRTC, nvcc, clang or Triton emits, and tells what a GPU and compute-sanitizer together would
//! tell: the results, what is wrong, and counts. The same launch always gives the same verdict and the same counts,
//! however many CPU threads run it.
//!
//! ```
//! use longhand_emulator::{Gpu, Module, Problem, Shape};
//!
//! let text = "
//! .version 8.0
//! .target sm_80
//! .address_size 64
//! .visible .entry twice(.param .u64 x)
//! {
//!     .reg .b32 %r<2>; .reg .f32 %f<2>; .reg .b64 %rd<4>;
//!     ld.param.u64 %rd0, [x];
//!     mov.u32 %r0, %tid.x;
//!     mul.wide.u32 %rd1, %r0, 4;
//!     add.s64 %rd2, %rd0, %rd1;
//!     ld.global.f32 %f0, [%rd2];
//!     add.f32 %f1, %f0, %f0;
//!     st.global.f32 [%rd2], %f1;
//!     ret;
//! }";
//! let gpu = Gpu::new("sm_80".parse()?);
//! let module = Module::from_ptx(&gpu, text)?;
//! let x = gpu.alloc(4 * 100)?;
//! gpu.upload(x, &1.5f32.to_le_bytes().repeat(100))?;
//!
//! let shape = |threads| Shape { grid: [1; 3], block: [threads, 1, 1], cluster: [1; 3], dynamic_shared: 0 };
//! let report = module.launch("twice", &shape(100), &x.to_le_bytes())?;
//! assert_eq!(report.total.global_sectors, 2 * 13); // 400 bytes read and as many written
//! let mut first = [0; 4];
//! gpu.download(x, &mut first)?;
//! assert_eq!(f32::from_le_bytes(first), 3.0);
//!
//! // One thread too many is found, with the line it was at.
//! let fault = module.launch("twice", &shape(101), &x.to_le_bytes()).unwrap_err();
//! assert!(matches!(fault.problem, Problem::OutOfBounds { .. }));
//! assert_eq!(fault.place.unwrap().text, "ld.global.f32 %f0, [%rd2];");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What is modelled
//!
//! - **Threads.** A grid of clusters of blocks of warps of 32 lanes. Lanes that part go on apart and meet again as early
//!   as the text lets them; each makes progress of its own, so that lanes of one warp may wait for each other.
//! - **Memory.** Each state space by itself, and all through generic addresses. Global memory is sparse: an allocation
//!   of 100 GB costs the pages that are touched. Memory that nobody wrote is 0xFF in every byte.
//! - **Late effects.** What the ISA lets finish late finishes late: what `cp.async` copies lands at the wait that covers
//!   it, what a bulk copy brings lands at the phase of its `mbarrier`, what `wgmma` computes at `wgmma.wait_group`.
//!   Until then the destination holds poison, so that a wait that is missing shows every time.
//! - **Numbers.** Arithmetic is exact to the bit, roundings and flushes included ([`num`]). Approximate functions are
//!   computed in higher precision and rounded once; how far from that the hardware may be is in [`num::approx`]. Sums of
//!   tensor cores are rounded once, where hardware aligns and cuts off: see [`tensor::mma`].
//! - **Time** is what it cannot tell. Clocks count instructions.
//!
//! A kernel that uses TMA takes a tensor map, which the host makes: [`tensor::tma::TensorMap`].
//!
//! # What it finds
//!
//! A launch returns the first [`Fault`], in the order of blocks: the [`Problem`] with block, warp, lane, the line of the
//! PTX, and the line of the source where the text was compiled with `-lineinfo`. Bounds, use after free, alignment,
//! state spaces, barriers, masks and deadlocks are always checked; uninitialised reads, races and asynchronous operations
//! as [`Checks`] says.
//!
//! # What it counts
//!
//! A [`Report`]: instructions by class, sectors of global memory and bytes asked for, passes over shared memory and those
//! without bank conflicts, tensor-core operations, barriers, atomics, divergent branches; in all and by source line.

mod arch;
mod check;
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
pub use count::{Class, Counts};
pub use error::{LoadError, UnsupportedInstruction};
pub use fault::{Access, Fault, Location, Problem, SpaceName};
pub use gpu::{Gpu, Module, Shape};
pub use memory::MemoryError;
pub use ops::supported;
pub use options::{Checks, Options};
pub use report::{LineCounts, Report};

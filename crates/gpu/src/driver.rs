//! The one interface that every kind of device implements.

use crate::cuda::Cuda;
use crate::emulated::Emulated;
use crate::{Arch, DevicePtr, Image, Result};

/// What a device is. Never changes while the device is open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Properties {
    pub name: String,
    pub arch: Arch,
    pub multiprocessors: u32,
    /// The most shared memory a block may have, static and dynamic together, once a kernel has asked for it.
    pub shared_bytes_per_block: u32,
    /// Bytes of the second-level cache.
    pub l2_bytes: usize,
}

/// Memory of a device in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// What can still be allocated.
    pub free: usize,
    /// What the device has.
    pub total: usize,
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Launch {
    /// Blocks in x, y and z: at most 2³¹ - 1, 65,535 and 65,535, none of them 0.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z: at most 1024 together, none of them 0.
    pub block: [u32; 3],
    /// Dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
}

/// A device as handles and addresses. The types above it ([`Device`](crate::Device), [`Stream`](crate::Stream)
/// and the rest) give each handle an owner; nothing above those knows which kind of device it is.
///
/// # Safety
///
/// For every `unsafe` function: handles come from this very driver and are still alive; addresses lie, with as
/// many bytes as said, in memory that this device may access.
pub(crate) trait Driver: Send + Sync {
    fn properties(&self) -> &Properties;

    fn memory(&self) -> Result<Memory>;

    /// The most bytes that were allocated at once, since the device was opened or this was last reset.
    fn peak_memory(&self) -> Result<usize>;
    fn reset_peak_memory(&self) -> Result<()>;

    /// The CUDA device behind this, for libraries that work on CUDA devices only.
    fn as_cuda(&self) -> Option<&Cuda> {
        None
    }

    /// The emulator behind this, which tells what launches did.
    fn as_emulated(&self) -> Option<&Emulated> {
        None
    }

    fn new_stream(&self) -> Result<u64>;
    unsafe fn free_stream(&self, stream: u64);
    unsafe fn synchronize(&self, stream: u64) -> Result<()>;

    fn new_event(&self) -> Result<u64>;
    unsafe fn free_event(&self, event: u64);
    unsafe fn record(&self, event: u64, stream: u64) -> Result<()>;
    /// What comes later on the stream waits for the event; the caller does not.
    unsafe fn wait(&self, stream: u64, event: u64) -> Result<()>;
    /// Milliseconds from one event to the other; waits until the later one has happened.
    unsafe fn elapsed_ms(&self, earlier: u64, later: u64) -> Result<f32>;

    /// Memory that is there for what comes later on the stream. `bytes` is not 0.
    unsafe fn alloc(&self, stream: u64, bytes: usize) -> Result<DevicePtr>;
    /// Gives memory back once the stream has come to this point.
    unsafe fn free(&self, stream: u64, pointer: DevicePtr);
    /// Returns when `source` may be changed.
    unsafe fn upload(&self, stream: u64, target: DevicePtr, source: &[u8]) -> Result<()>;
    /// Returns when `target` is written.
    unsafe fn download(&self, stream: u64, target: &mut [u8], source: DevicePtr) -> Result<()>;
    unsafe fn copy(&self, stream: u64, target: DevicePtr, source: DevicePtr, bytes: usize) -> Result<()>;
    unsafe fn fill(&self, stream: u64, target: DevicePtr, value: u8, bytes: usize) -> Result<()>;

    fn load(&self, image: &Image) -> Result<u64>;
    unsafe fn unload(&self, module: u64);
    /// The handle of a kernel, ready to run: what is slow about the first launch happens here.
    unsafe fn kernel(&self, module: u64, name: &str) -> Result<u64>;
    /// Lets launches of the kernel have at least this much dynamic shared memory.
    unsafe fn allow_dynamic_shared(&self, kernel: u64, bytes: u32) -> Result<()>;
    /// Enqueues the kernel with the bytes of its one parameter. Also: the kernel takes as many bytes, and what it
    /// does with them is allowed.
    unsafe fn launch(&self, kernel: u64, stream: u64, shape: &Launch, params: &[u8]) -> Result<()>;
}

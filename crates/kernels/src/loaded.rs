//! Kernels as plans hold them.

use bytemuck::Pod;
use longhand_gpu::{Arch, Device, Kernel, Launch, Stream, blocks_per_multiprocessor};

use crate::{Result, Variant};

/// A kernel on a device, with its block size and its dynamic shared memory.
#[derive(Clone, Debug)]
pub(crate) struct Loaded {
    kernel: Kernel,
    threads: u32,
    shared_bytes: u32,
}

impl Loaded {
    /// Compiles and loads.
    pub fn new(device: &Device, variant: &Variant) -> Result<Loaded> {
        let &Variant { ref program, entry, threads, shared_bytes } = variant;
        let kernel = device.compile_and_load(program)?.kernel(entry)?.with_dynamic_shared(shared_bytes)?;
        Ok(Loaded { kernel, threads, shared_bytes })
    }

    /// How many of its blocks a multiprocessor has room for, at least one.
    pub fn blocks_per_multiprocessor(&self, arch: Arch) -> u32 {
        let registers = self.kernel.resources().map_or(0, |resources| resources.registers);
        blocks_per_multiprocessor(arch, self.threads, registers, self.shared_bytes).max(1)
    }

    /// Enqueues `grid` blocks, in up to three dimensions.
    ///
    /// # Safety
    ///
    /// As [`Kernel::launch`].
    pub unsafe fn launch<const N: usize>(
        &self,
        stream: &Stream,
        grid: [u32; N],
        params: &impl Pod,
    ) -> Result<()> {
        let size = |dim: usize| grid.get(dim).copied().unwrap_or(1);
        let shape = Launch {
            grid: [size(0), size(1), size(2)],
            block: [self.threads, 1, 1],
            shared_bytes: self.shared_bytes,
        };
        // SAFETY: the caller answers for it.
        Ok(unsafe { self.kernel.launch(stream, shape, params) }?)
    }
}

/// The same kernels compiled twice: with 16-byte accesses, and for any alignment.
#[derive(Clone, Debug)]
pub(crate) struct ByAlignment<T> {
    wide: Option<T>,
    any: T,
}

impl<T> ByAlignment<T> {
    /// `load` gets the elements that one access moves: 8, where `wide` is possible at all, and 1.
    pub fn new(wide: bool, load: impl Fn(usize) -> Result<T>) -> Result<ByAlignment<T>> {
        Ok(ByAlignment { wide: if wide { Some(load(8)?) } else { None }, any: load(1)? })
    }

    /// The form for tensors that are `aligned` to 16 bytes in every row, or are not, and the elements per access.
    pub fn get(&self, aligned: bool) -> (&T, usize) {
        match &self.wide {
            Some(wide) if aligned => (wide, 8),
            _ => (&self.any, 1),
        }
    }
}

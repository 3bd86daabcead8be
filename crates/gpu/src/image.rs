//! Compiled programs and what the compiler says of them.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use crate::{Arch, entries};

/// A compiled program: a cubin for one architecture where NVRTC knows it, and the PTX it was made from.
///
/// A cheap handle.
#[derive(Clone, Debug)]
pub struct Image(Arc<Parts>);

#[derive(Debug)]
pub(crate) struct Parts {
    /// The hash of all that the content depends on.
    pub key: String,
    pub program: String,
    pub arch: Arch,
    pub cubin: Option<Vec<u8>>,
    pub ptx: String,
    pub log: String,
    pub resources: Vec<Resources>,
    pub from_cache: bool,
}

/// What one kernel uses, as `ptxas` reports it. Registers and stack are per thread, shared memory is per block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resources {
    /// Name of the kernel.
    pub entry: String,
    /// 32-bit registers per thread.
    pub registers: u32,
    /// Bytes of registers that are written to local memory for want of room.
    pub spill_stores: u32,
    /// Bytes that are read back from there.
    pub spill_loads: u32,
    /// Bytes of local memory per thread: arrays that are indexed at run time, and spills.
    pub stack_bytes: u32,
    /// Bytes of statically declared shared memory per block.
    pub shared_bytes: u32,
    /// Barriers in use (`bar.sync`; a block has 16).
    pub barriers: u32,
}

impl Image {
    pub(crate) fn new(parts: Parts) -> Image {
        Image(Arc::new(parts))
    }

    /// Name of the program.
    #[must_use]
    pub fn program(&self) -> &str {
        &self.0.program
    }

    /// The architecture asked for.
    #[must_use]
    pub fn arch(&self) -> Arch {
        self.0.arch
    }

    /// The machine code (ELF). None where the architecture is newer than NVRTC: the driver then compiles the PTX.
    #[must_use]
    pub fn cubin(&self) -> Option<&[u8]> {
        self.0.cubin.as_deref()
    }

    /// The PTX, with `.loc` lines that lead back to the CUDA source.
    #[must_use]
    pub fn ptx(&self) -> &str {
        &self.0.ptx
    }

    /// What NVRTC and `ptxas` wrote: warnings and the resource report.
    #[must_use]
    pub fn log(&self) -> &str {
        &self.0.log
    }

    /// What each kernel uses. Empty where there is no cubin.
    #[must_use]
    pub fn resources(&self) -> &[Resources] {
        &self.0.resources
    }

    /// What one kernel uses.
    pub(crate) fn resources_of(&self, entry: &str) -> Option<&Resources> {
        self.resources().iter().find(|resources| resources.entry == entry)
    }

    /// Bytes of shared memory that a kernel declares statically, as far as that is known.
    pub(crate) fn static_shared(&self, entry: &str) -> u32 {
        self.resources_of(entry).map_or(0, |resources| resources.shared_bytes)
    }

    /// The kernels it has.
    pub(crate) fn entries(&self) -> Vec<entries::Entry> {
        entries::parse(self.ptx())
    }

    /// Whether the image was read from the disk cache.
    #[must_use]
    pub fn from_cache(&self) -> bool {
        self.0.from_cache
    }
}

/// Images are equal that were compiled from the same source with the same options by the same compiler.
impl PartialEq for Image {
    fn eq(&self, other: &Image) -> bool {
        self.0.key == other.0.key
    }
}

impl Eq for Image {}

impl Hash for Image {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.key.hash(state);
    }
}

//! The virtual GPU.

use std::sync::Arc;

use crate::arch::Arch;
use crate::decode;
use crate::error::LoadError;
use crate::fault::{Fault, Problem};
use crate::machine;
use crate::memory::{GlobalMemory, MemoryError};
use crate::options::Options;
use crate::program::Program;
use crate::ptx;
use crate::report::Report;

/// A virtual GPU: its memory, and how it runs. A cheap handle; all clones are the same GPU.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    arch: Arch,
    options: Options,
    memory: GlobalMemory,
}

/// The shape of a launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Blocks in x, y and z.
    pub grid: [u32; 3],
    /// Threads of a block in x, y and z.
    pub block: [u32; 3],
    /// Blocks of a cluster in x, y and z; `[1, 1, 1]` for none.
    pub cluster: [u32; 3],
    /// Bytes of dynamic shared memory of a block.
    pub dynamic_shared: u32,
}

impl Gpu {
    /// A GPU of an architecture, with every check on.
    #[must_use]
    pub fn new(arch: Arch) -> Gpu {
        Gpu::with_options(arch, Options::default())
    }

    /// A GPU that checks and runs as told.
    #[must_use]
    pub fn with_options(arch: Arch, options: Options) -> Gpu {
        Gpu(Arc::new(Inner { arch, options, memory: GlobalMemory::default() }))
    }

    /// Its architecture.
    #[must_use]
    pub fn arch(&self) -> Arch {
        self.0.arch
    }

    /// How it runs.
    #[must_use]
    pub fn options(&self) -> &Options {
        &self.0.options
    }

    /// Allocates global memory, uninitialised, and returns its address, a multiple of 512. Only pages that are touched
    /// cost anything.
    ///
    /// # Errors
    ///
    /// [`MemoryError::NoSpace`] when 47 bits of addresses are used up, and for more than 1 TiB at once.
    pub fn alloc(&self, bytes: u64) -> Result<u64, MemoryError> {
        self.0.memory.alloc(bytes)
    }

    /// Frees what was allocated at an address.
    ///
    /// # Errors
    ///
    /// [`MemoryError::NotAllocated`].
    pub fn free(&self, address: u64) -> Result<(), MemoryError> {
        self.0.memory.free(address)
    }

    /// Copies bytes to the GPU.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfBounds`].
    pub fn upload(&self, address: u64, source: &[u8]) -> Result<(), MemoryError> {
        self.0.memory.upload(address, source)
    }

    /// Copies bytes from the GPU; those that nobody wrote are 0xFF.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfBounds`].
    pub fn download(&self, address: u64, target: &mut [u8]) -> Result<(), MemoryError> {
        self.0.memory.download(address, target)
    }

    /// Copies bytes within the GPU.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfBounds`].
    pub fn copy(&self, target: u64, source: u64, bytes: u64) -> Result<(), MemoryError> {
        self.0.memory.copy(target, source, bytes)
    }

    /// Sets bytes to a value.
    ///
    /// # Errors
    ///
    /// [`MemoryError::OutOfBounds`].
    pub fn fill(&self, address: u64, value: u8, bytes: u64) -> Result<(), MemoryError> {
        self.0.memory.fill(address, value, bytes)
    }

    /// Bytes of all allocations that are alive.
    #[must_use]
    pub fn allocated(&self) -> u64 {
        self.0.memory.allocated()
    }
}

/// A PTX module on a GPU.
#[derive(Clone)]
pub struct Module {
    gpu: Gpu,
    program: Arc<Program>,
}

impl Module {
    /// Parses, checks and loads PTX text; allocates its variables.
    ///
    /// # Errors
    ///
    /// [`LoadError`] with every line that is not PTX, or every instruction that is not supported.
    pub fn from_ptx(gpu: &Gpu, text: &str) -> Result<Module, LoadError> {
        let module = ptx::parse(text)?;
        let program = decode::program(&module, text, &gpu.0.memory)?;
        Ok(Module { gpu: gpu.clone(), program: Arc::new(program) })
    }

    /// The names of its entries, in order.
    #[must_use]
    pub fn entries(&self) -> Vec<&str> {
        let mut names: Vec<&str> = self.program.entries.keys().map(String::as_str).collect();
        names.sort_unstable();
        names
    }

    /// The offset and size in bytes of each parameter of an entry, within its parameter block.
    #[must_use]
    pub fn params(&self, entry: &str) -> Option<Vec<(usize, usize)>> {
        let function = &self.program.functions[*self.program.entries.get(entry)?];
        let place = |place: &crate::program::Place| match *place {
            crate::program::Place::Memory { offset, bytes } => (offset as usize, bytes as usize),
            crate::program::Place::Register(_) => (0, 0),
        };
        Some(function.params.iter().map(place).collect())
    }

    /// Bytes of shared memory that an entry declares.
    #[must_use]
    pub fn static_shared(&self, entry: &str) -> Option<u32> {
        Some(self.program.functions[*self.program.entries.get(entry)?].shared_bytes)
    }

    /// The clusters that an entry has to be launched in, where it says so (`.reqnctapercluster`).
    #[must_use]
    pub fn required_cluster(&self, entry: &str) -> Option<[u32; 3]> {
        let function = &self.program.functions[*self.program.entries.get(entry)?];
        function.required_cluster.filter(|cluster| *cluster != [0; 3])
    }

    /// Runs an entry to its end, with the bytes of its parameters as they lie in memory.
    ///
    /// # Errors
    ///
    /// The [`Fault`] that the launch met: of several, that of the first block.
    pub fn launch(&self, entry: &str, shape: &Shape, params: &[u8]) -> Result<Report, Fault> {
        let Some(&index) = self.program.entries.get(entry) else {
            let must = format!("one of {}", self.entries().join(", "));
            let problem = Problem::Launch { argument: "entry".into(), was: entry.into(), must };
            return Err(Fault { problem, kernel: entry.into(), place: None });
        };
        let launch = machine::Launch {
            program: &self.program,
            entry: index,
            grid: shape.grid,
            block: shape.block,
            cluster: shape.cluster,
            dynamic_shared: shape.dynamic_shared,
            shared_limit: self.gpu.arch().shared_bytes_per_block(),
            params,
            memory: &self.gpu.0.memory,
            options: self.gpu.options(),
        };
        let launched = machine::launch(&launch)?;
        Ok(Report::new(&launch, &launched))
    }
}

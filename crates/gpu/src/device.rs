//! A device and what is loaded on it.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::driver::{Driver, Memory};
use crate::emulated::Emulated;
use crate::module::Module;
use crate::stream::Stream;
use crate::{Arch, Compiler, Image, Program, Result, emulator};

/// A GPU. A cheap handle; all clones are the same device with the same modules.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    driver: Box<dyn Driver>,
    compiler: OnceLock<Compiler>,
    /// What is loaded, by image. Modules stay until the device is closed: unloading one waits for every kernel
    /// that runs, and a program that is loaded once is likely to be wanted again.
    modules: Mutex<HashMap<Image, u64>>,
}

impl Device {
    /// Opens the CUDA device of this number, counted from 0.
    ///
    /// Uses the device's primary context, which it shares with the CUDA runtime, PyTorch and others in the same
    /// process, and never changes which context is current for its caller.
    ///
    /// # Errors
    ///
    /// [`Error::LibraryNotFound`](crate::Error::LibraryNotFound) without a driver,
    /// [`Error::NoDevice`](crate::Error::NoDevice) without such a GPU; each says what to install or to check.
    pub fn cuda(ordinal: usize) -> Result<Device> {
        Ok(Device::new(Box::new(crate::cuda::Cuda::open(ordinal)?)))
    }

    /// A virtual GPU of an architecture, on the CPU: it runs the same kernels from the same PTX and finds what they
    /// do wrong, with every check on. It takes no GPU, no driver, and time.
    ///
    /// Launches are done when the call returns, and a fault is an error of the launch that met it
    /// ([`Error::Fault`](crate::Error::Fault)); what comes after goes on.
    ///
    /// # Errors
    ///
    /// [`Error::Arch`](crate::Error::Arch) where the emulator does not know the architecture.
    pub fn emulated(arch: Arch) -> Result<Device> {
        Device::emulated_with(arch, emulator::Options::default())
    }

    /// As [`Device::emulated`], with other checks.
    ///
    /// # Errors
    ///
    /// As [`Device::emulated`].
    pub fn emulated_with(arch: Arch, options: emulator::Options) -> Result<Device> {
        Ok(Device::new(Box::new(Emulated::new(arch, options)?)))
    }

    /// Whether this is an emulated device.
    #[must_use]
    pub fn is_emulated(&self) -> bool {
        self.driver().as_emulated().is_some()
    }

    /// On an emulated device, keeps what each launch from now on did, for [`Device::take_reports`], or no longer.
    /// CUDA counts nothing.
    pub fn record_reports(&self, record: bool) {
        if let Some(emulated) = self.driver().as_emulated() {
            emulated.record_reports(record);
        }
    }

    /// What the launches recorded since the last call did, in order.
    #[must_use]
    pub fn take_reports(&self) -> Vec<emulator::Report> {
        self.driver().as_emulated().map(Emulated::take_reports).unwrap_or_default()
    }

    pub(crate) fn new(driver: Box<dyn Driver>) -> Device {
        Device(Arc::new(Inner { driver, compiler: OnceLock::new(), modules: Mutex::default() }))
    }

    pub(crate) fn driver(&self) -> &dyn Driver {
        &*self.0.driver
    }

    /// The architecture to compile for.
    #[must_use]
    pub fn arch(&self) -> Arch {
        self.driver().properties().arch
    }

    /// The product name, such as `NVIDIA H100 80GB HBM3`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.driver().properties().name
    }

    /// Number of streaming multiprocessors.
    #[must_use]
    pub fn multiprocessors(&self) -> u32 {
        self.driver().properties().multiprocessors
    }

    /// The most shared memory a block can have, static and dynamic together, in bytes.
    #[must_use]
    pub fn shared_bytes_per_block(&self) -> u32 {
        self.driver().properties().shared_bytes_per_block
    }

    /// Size of the second-level cache in bytes.
    #[must_use]
    pub fn l2_bytes(&self) -> usize {
        self.driver().properties().l2_bytes
    }

    /// Memory that is free now, and in all.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`](crate::Error::Driver).
    pub fn memory(&self) -> Result<Memory> {
        self.driver().memory()
    }

    /// The most bytes that were allocated through this device at once, since it was opened or since
    /// [`Device::reset_peak_memory`].
    ///
    /// # Errors
    ///
    /// [`Error::Driver`](crate::Error::Driver); [`Error::Unsupported`](crate::Error::Unsupported) on a device without
    /// memory pools.
    pub fn peak_memory(&self) -> Result<usize> {
        self.driver().peak_memory()
    }

    /// Counts [`Device::peak_memory`] from what is allocated now.
    ///
    /// # Errors
    ///
    /// As [`Device::peak_memory`].
    pub fn reset_peak_memory(&self) -> Result<()> {
        self.driver().reset_peak_memory()
    }

    /// A new stream, which does not wait for CUDA's default stream.
    ///
    /// # Errors
    ///
    /// [`Error::Driver`](crate::Error::Driver).
    pub fn new_stream(&self) -> Result<Stream> {
        Stream::new(self)
    }

    /// The compiler, found when first asked for.
    ///
    /// # Errors
    ///
    /// As [`Compiler::new`].
    pub fn compiler(&self) -> Result<&Compiler> {
        if let Some(compiler) = self.0.compiler.get() {
            return Ok(compiler);
        }
        let compiler = Compiler::new()?;
        Ok(self.0.compiler.get_or_init(|| compiler))
    }

    /// Loads a compiled program: the cubin, or the PTX where the driver refuses that. An image that is loaded
    /// already is not loaded again.
    ///
    /// # Errors
    ///
    /// [`Error::Load`](crate::Error::Load) with what the driver said of the cubin and of the PTX.
    pub fn load(&self, image: &Image) -> Result<Module> {
        let mut modules = self.0.modules.lock().unwrap_or_else(PoisonError::into_inner);
        let handle = match modules.get(image) {
            Some(&handle) => handle,
            None => {
                let handle = self.driver().load(image)?;
                modules.insert(image.clone(), handle);
                handle
            }
        };
        Ok(Module::new(self, image, handle))
    }

    /// Compiles a program for this device and loads it.
    ///
    /// # Errors
    ///
    /// As [`Device::compiler`], [`Compiler::compile`] and [`Device::load`].
    pub fn compile_and_load(&self, program: &Program) -> Result<Module> {
        self.load(&self.compiler()?.compile(program, self.arch())?)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let modules = self.modules.get_mut().unwrap_or_else(PoisonError::into_inner);
        for (_, module) in modules.drain() {
            // SAFETY: the driver made the module, and whatever refers to it holds the device, which is gone.
            unsafe { self.driver.unload(module) };
        }
    }
}

/// The same open device; one that is opened twice is two.
impl PartialEq for Device {
    fn eq(&self, other: &Device) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Device {}

impl fmt::Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Device({}, {})", self.name(), self.arch())
    }
}

//! Loaded programs and their kernels.

use std::sync::Arc;

use bytemuck::Pod;

use crate::driver::Launch;
use crate::{Device, Error, Image, Resources, Result, Stream};

/// A program on a device. A cheap handle.
#[derive(Clone, Debug)]
pub struct Module {
    device: Device,
    image: Image,
    handle: u64,
}

impl Module {
    pub(crate) fn new(device: &Device, image: &Image, handle: u64) -> Module {
        Module { device: device.clone(), image: image.clone(), handle }
    }

    /// What was loaded.
    #[must_use]
    pub fn image(&self) -> &Image {
        &self.image
    }

    /// The kernel of this name (`extern "C" __global__`), which takes one parameter struct.
    ///
    /// # Errors
    ///
    /// [`Error::NoKernel`] with the kernels there are; [`Error::Argument`] for one that takes several parameters, or
    /// none; [`Error::Driver`].
    pub fn kernel(&self, name: &str) -> Result<Kernel> {
        let entries = self.image.entries();
        let Some(entry) = entries.iter().find(|entry| entry.name == name) else {
            return Err(Error::NoKernel {
                program: self.image.program().to_owned(),
                kernel: name.to_owned(),
                known: entries.iter().map(|entry| &*entry.name).collect::<Vec<_>>().join(", "),
            });
        };
        let [params_bytes] = entry.params[..] else {
            let was = format!("{} parameters", entry.params.len());
            return Err(Error::argument(name, "parameter list", was, "one struct"));
        };
        // SAFETY: the module stays loaded as long as the device, which this handle holds.
        let handle = unsafe { self.device.driver().kernel(self.handle, name) }?;
        Ok(Kernel {
            device: self.device.clone(),
            params_bytes,
            image: self.image.clone(),
            name: name.into(),
            handle,
            dynamic_shared: SHARED_WITHOUT_ASKING.saturating_sub(self.image.static_shared(name)),
        })
    }
}

/// Shared memory, static and dynamic together, that CUDA lets every kernel have without being asked.
const SHARED_WITHOUT_ASKING: u32 = 48 * 1024;

/// A kernel of a loaded program. A cheap handle.
#[derive(Clone, Debug)]
pub struct Kernel {
    device: Device,
    image: Image,
    name: Arc<str>,
    handle: u64,
    params_bytes: usize,
    dynamic_shared: u32,
}

impl Kernel {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What it uses; None where the image has no cubin.
    #[must_use]
    pub fn resources(&self) -> Option<&Resources> {
        self.image.resources_of(&self.name)
    }

    /// The same kernel, whose launches may have up to `bytes` of dynamic shared memory. Needed above 48 KiB less
    /// what the kernel declares statically; once, when planning.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] where a block of this device cannot have as much.
    pub fn with_dynamic_shared(self, bytes: u32) -> Result<Kernel> {
        let fixed = self.image.static_shared(&self.name);
        let limit = self.device.shared_bytes_per_block().saturating_sub(fixed);
        if bytes > limit {
            let must = format!("at most {limit} bytes on {} ({fixed} are static)", self.device.name());
            return Err(Error::argument(&*self.name, "dynamic shared memory", bytes.to_string(), must));
        }
        // SAFETY: the kernel is alive as long as the device, which this handle holds.
        unsafe { self.device.driver().allow_dynamic_shared(self.handle, bytes) }?;
        Ok(Kernel { dynamic_shared: bytes, ..self })
    }

    /// Enqueues one launch with one parameter struct: no allocation, no synchronisation.
    ///
    /// # Safety
    ///
    /// `params` is the Rust twin of the kernel's parameter, every address in it is memory of this device that stays
    /// allocated until the kernel is done, and the kernel stays within what they point to for this shape.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] where `P` is not as large as the kernel's parameter, where the stream belongs to another
    /// device, or where a number of blocks or threads is 0; [`Error::Driver`] where the device refuses;
    /// [`Error::Fault`] where an emulated device found a fault.
    pub unsafe fn launch<P: Pod>(&self, stream: &Stream, shape: Launch, params: &P) -> Result<()> {
        self.check(stream, &shape, size_of::<P>())?;
        let params = bytemuck::bytes_of(params);
        // SAFETY: kernel and stream are alive and of the same device, the parameter has the size that the kernel
        // takes; the caller answers for the rest.
        unsafe { self.device.driver().launch(self.handle, stream.as_raw(), &shape, params) }
            .map_err(|error| self.describe(error, &shape))
    }

    fn check(&self, stream: &Stream, shape: &Launch, params_bytes: usize) -> Result<()> {
        if params_bytes != self.params_bytes {
            let must = format!("{} bytes, as the kernel has it", self.params_bytes);
            return Err(Error::argument(
                &*self.name,
                "parameter struct",
                format!("{params_bytes} bytes"),
                must,
            ));
        }
        if *stream.device() != self.device {
            let must = format!("a stream of the device the kernel is loaded on, {:?}", self.device);
            return Err(Error::argument(
                &*self.name,
                "stream",
                format!("one of {:?}", stream.device()),
                must,
            ));
        }
        if shape.grid.contains(&0) || shape.block.contains(&0) {
            return Err(Error::argument(&*self.name, "shape", format!("{shape:?}"), "without 0"));
        }
        if shape.shared_bytes > self.dynamic_shared {
            let must = format!("at most {} bytes, or asked for beforehand", self.dynamic_shared);
            return Err(Error::argument(
                &*self.name,
                "dynamic shared memory",
                shape.shared_bytes.to_string(),
                must,
            ));
        }
        Ok(())
    }

    /// CUDA's driver says no more than "invalid argument": adds what was launched.
    fn describe(&self, error: Error, shape: &Launch) -> Error {
        let [grid, block] = [shape.grid, shape.block].map(|[x, y, z]| format!("{x}x{y}x{z}"));
        let operation =
            format!("launch {} (grid {grid}, block {block}, {} bytes shared)", self.name, shape.shared_bytes);
        match error {
            Error::Driver { code, name, text, .. } => Error::Driver { operation, code, name, text },
            Error::Fault { fault, .. } => Error::Fault { operation, fault },
            error => error,
        }
    }
}

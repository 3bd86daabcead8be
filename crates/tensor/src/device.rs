//! Where tensors live and operations run.

use std::fmt::{self, Debug, Display};

use longhand_gpu::{Arch, emulator};

use crate::{Gpu, Result};

/// Where a tensor lives, and so where what is computed from it runs.
#[derive(Clone, PartialEq, Eq)]
pub enum Device {
    /// The machine's own processor and memory.
    Cpu,
    /// A GPU. It does not take `f64`.
    Gpu(Gpu),
}

impl Device {
    /// The GPU of this number, counted from 0.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Device;
    /// match Device::gpu(0) {
    ///     Ok(device) => println!("{device}"),
    ///     Err(missing) => println!("{missing}"), // and what to install
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Says what to install when there is no driver or no GPU.
    pub fn gpu(ordinal: usize) -> Result<Device> {
        Ok(Device::Gpu(Gpu::open(ordinal)?))
    }

    /// A virtual GPU of an architecture, on the CPU, to try and to test what runs on a GPU without one: the kernels are
    /// the same. With every check on, what a kernel does wrong is an error of the operation that launched it.
    ///
    /// Each call makes a new one, whose tensors fit no other.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Dtype, Tensor};
    /// use longhand_gpu::emulator::Options;
    ///
    /// let device = Device::emulated("sm_80".parse()?, Options::default())?;
    /// assert!(!Tensor::zeros(&[2], Dtype::F32, &device)?.device().is_cpu());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the emulator does not know the architecture.
    pub fn emulated(arch: Arch, options: emulator::Options) -> Result<Device> {
        Ok(Device::Gpu(Gpu::emulated(arch, options)?))
    }

    /// The first GPU where there is one, else the CPU.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Dtype, Tensor};
    /// let x = Tensor::zeros(&[2], Dtype::F32, &Device::default_device())?;
    /// assert_eq!(x.to_vec::<f32>()?, [0.0, 0.0]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn default_device() -> Device {
        Device::gpu(0).unwrap_or(Device::Cpu)
    }

    /// Whether this is the CPU.
    ///
    /// ```
    /// # use longhand_tensor::Device;
    /// assert!(Device::Cpu.is_cpu());
    /// ```
    pub fn is_cpu(&self) -> bool {
        matches!(self, Device::Cpu)
    }
}

impl Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Gpu(gpu) => match gpu.ordinal() {
                Some(ordinal) => write!(f, "gpu:{ordinal}"),
                None => f.write_str(gpu.device().name()),
            },
        }
    }
}

impl Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

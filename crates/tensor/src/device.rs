//! Where tensors live and operations run.

use std::fmt::{self, Debug, Display};

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
    /// # Errors
    /// Says what to install when there is no driver or no GPU.
    pub fn gpu(ordinal: usize) -> Result<Device> {
        Ok(Device::Gpu(Gpu::open(ordinal)?))
    }

    /// The first GPU where there is one, else the CPU.
    pub fn default_device() -> Device {
        Device::gpu(0).unwrap_or(Device::Cpu)
    }

    /// Whether this is the CPU.
    pub fn is_cpu(&self) -> bool {
        matches!(self, Device::Cpu)
    }
}

impl Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Device::Cpu => f.write_str("cpu"),
            Device::Gpu(gpu) => write!(f, "gpu:{}", gpu.ordinal()),
        }
    }
}

impl Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

//! Where tensors live and operations run.

use std::fmt::{self, Debug, Display};

use crate::{Error, Result};

/// Where a tensor lives, and so where what is computed from it runs.
#[derive(Clone, PartialEq, Eq)]
pub enum Device {
    /// The machine's own processor and memory.
    Cpu,
}

impl Device {
    /// The `ordinal`-th GPU.
    ///
    /// # Errors
    /// Says what to install when there is no driver or no GPU.
    pub fn gpu(ordinal: usize) -> Result<Device> {
        Err(Error::NoGpu(format!("no GPU {ordinal}")))
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
        }
    }
}

impl Debug for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Display::fmt(self, f)
    }
}

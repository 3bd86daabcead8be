//! Where a bench runs.

use anyhow::{Context, Result, bail};
use longhand_tensor::Device;

use crate::Gpu;

/// A device to measure on.
pub enum Place {
    /// The processor, through the tensor operations.
    Cpu,
    /// A GPU, or the emulated one, through the kernels.
    Gpu(Gpu),
}

impl Place {
    /// The device that `LONGHAND_DEVICE` names: `cpu`, `cuda`, `emulated`. Without it, the first GPU where there is one,
    /// else the CPU.
    ///
    /// # Errors
    /// Any other name; a device that cannot be opened.
    pub fn from_environment() -> Result<Place> {
        const VARIABLE: &str = "LONGHAND_DEVICE";
        let device = match std::env::var(VARIABLE).as_deref() {
            Err(_) | Ok("") => Device::default_device(),
            Ok("cpu") => Device::Cpu,
            Ok("cuda") => Device::gpu(0).context(VARIABLE)?,
            Ok("emulated") => {
                Device::emulated("sm_90a".parse()?, longhand_gpu::emulator::Options::default())?
            }
            Ok(other) => bail!("{VARIABLE} is {other}, it has to be cpu, cuda or emulated"),
        };
        Ok(match device {
            Device::Cpu => Place::Cpu,
            Device::Gpu(gpu) => Place::Gpu(Gpu::new(gpu)),
        })
    }

    /// What results call it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Place::Cpu => "cpu",
            Place::Gpu(gpu) if gpu.device.is_emulated() => "emulated",
            Place::Gpu(_) => "cuda",
        }
    }

    /// For tensors.
    #[must_use]
    pub fn device(&self) -> Device {
        match self {
            Place::Cpu => Device::Cpu,
            Place::Gpu(gpu) => Device::Gpu(gpu.tensors().clone()),
        }
    }

    /// Bytes that can be allocated now, as far as is known.
    #[must_use]
    pub fn free_bytes(&self) -> Option<usize> {
        match self {
            Place::Cpu => status("/proc/meminfo", "MemAvailable:"),
            Place::Gpu(gpu) => gpu.device.memory().ok().map(|memory| memory.free),
        }
    }

    /// From here on, counts the peak of memory anew.
    pub fn reset_peak(&self) {
        match self {
            // Linux alone has it; elsewhere no peak is reported.
            Place::Cpu => drop(std::fs::write("/proc/self/clear_refs", "5")),
            Place::Gpu(gpu) => drop(gpu.device.reset_peak_memory()),
        }
    }

    /// The most memory that was in use at once: of the process, or what was allocated on the GPU.
    #[must_use]
    pub fn peak_bytes(&self) -> Option<usize> {
        match self {
            Place::Cpu => status("/proc/self/status", "VmHWM:"),
            Place::Gpu(gpu) => gpu.device.peak_memory().ok(),
        }
    }
}

/// A line `name   123 kB` of a file of Linux's, in bytes.
fn status(file: &str, name: &str) -> Option<usize> {
    let text = std::fs::read_to_string(file).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.split_whitespace().next()?.parse::<usize>().ok()? << 10)
}

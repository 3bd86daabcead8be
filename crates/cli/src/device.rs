//! `--device`.

use clap::ValueEnum;
use longhand_gpu::emulator;
use longhand_tensor::Device;

/// Where to compute.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum DeviceChoice {
    /// The first GPU where there is one, else the CPU.
    #[default]
    Auto,
    /// The CPU.
    Cpu,
    /// The first GPU, or an error.
    Cuda,
    /// A virtual H100 on the CPU: runs a GPU's kernels, checks every access, and takes its time.
    Emulated,
}

impl DeviceChoice {
    /// The device itself.
    pub fn open(self) -> longhand_tensor::Result<Device> {
        match self {
            Self::Auto => Ok(Device::default_device()),
            Self::Cpu => Ok(Device::Cpu),
            Self::Cuda => Device::gpu(0),
            Self::Emulated => Device::emulated("sm_90a".parse()?, emulator::Options::default()),
        }
    }
}

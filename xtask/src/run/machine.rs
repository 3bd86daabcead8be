//! What this machine is, and what is installed on it.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use longhand_results::{Gpu, Machine};

use crate::output_of;

pub fn machine() -> Machine {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let line = |file: &str, name: &str| -> Option<String> {
        let text = fs::read_to_string(file).ok()?;
        let line = text.lines().find(|line| line.starts_with(name))?.split_once(':')?;
        Some(line.1.trim().to_owned())
    };
    let kilobytes =
        line("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
    Machine {
        cpu: line("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores,
        memory: kilobytes.unwrap_or(0) << 10,
        gpu: gpu(),
    }
}

/// The first GPU with its clocks as they are now.
pub fn gpu() -> Option<Gpu> {
    let info = longhand_gpu::driver_info().ok()?;
    let first = info.devices.first()?;
    let query =
        ["--id=0", "--query-gpu=driver_version,clocks.sm,clocks.mem", "--format=csv,noheader,nounits"];
    let said = output_of(Command::new("nvidia-smi").args(query)).unwrap_or_default();
    let mut fields = said.split(", ");
    let driver = fields.next().filter(|text| !text.is_empty()).map(str::to_owned);
    let clocks = [fields.next(), fields.next()].map(|text| text.and_then(|text| text.trim().parse().ok()));
    Some(Gpu {
        name: first.name.clone(),
        arch: first.arch.to_string(),
        memory: first.memory as u64,
        driver,
        clocks: if let [Some(multiprocessors), Some(memory)] = clocks {
            Some([multiprocessors, memory])
        } else {
            None
        },
    })
}

/// Of Longhand with its revision, as the pack says, and of NVIDIA's libraries.
pub fn versions(pack: &Path) -> BTreeMap<String, String> {
    let longhand = fs::read_to_string(pack.join("VERSION")).unwrap_or_default().trim().to_owned();
    let mut versions = BTreeMap::from([("longhand".to_owned(), longhand)]);
    let mut add =
        |name: &str, version: Option<String>| versions.extend(version.map(|it| (name.to_owned(), it)));
    add("NVRTC", longhand_gpu::nvrtc::locate().ok().map(|it| it.version));
    add("cuBLASLt", longhand_gpu::cublaslt::locate().ok().map(|it| it.version));
    add("CUDA driver supports", longhand_gpu::driver_info().ok().map(|it| it.cuda_version));
    versions
}

/// The time as `2026-11-23T21:04:05Z`.
pub fn now() -> String {
    output_of(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"])).unwrap_or_default()
}

//! NVRTC for the tests: what the machine has, or the pinned wheel installed into `target/nvrtc`.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};
use longhand_gpu::Found;
use longhand_gpu::nvrtc::{PINNED_WHEEL, locate};

/// The NVRTC the tests will use: the one [`locate`] finds, else the pinned wheel, installed with pip.
pub fn find_or_install(root: &Path) -> Result<Found> {
    if let Ok(found) = locate() {
        return Ok(found);
    }
    let target = root.join("target").join("nvrtc");
    println!("no NVRTC on this machine: installing {PINNED_WHEEL} into {}", target.display());
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target"])
        .arg(&target)
        .arg(PINNED_WHEEL);
    crate::run(&mut pip).context("NVRTC is needed to compile the kernels")?;
    Ok(locate()?)
}

//! `cargo xtask test`.

use std::process::Command;

use anyhow::Result;

use crate::{nvrtc, run, workspace_root};

/// Runs the tests with nextest where it is installed, else with `cargo test`, then the documentation examples, on a
/// machine that may have neither CUDA nor a GPU.
pub fn test(filters: &[String]) -> Result<()> {
    let root = workspace_root();
    let nvrtc = nvrtc::find_or_install(&root)?;
    println!("NVRTC {} at {}", nvrtc.version, nvrtc.path.display());

    let has_nextest =
        Command::new("cargo").args(["nextest", "--version"]).output().is_ok_and(|out| out.status.success());
    let runner: &[&str] = if has_nextest {
        &["nextest", "run", "--workspace", "--locked", "--no-fail-fast"]
    } else {
        &["test", "--workspace", "--locked", "--no-fail-fast", "--lib", "--bins", "--tests"]
    };
    let cargo = |args: &[&str], filters: &[String]| -> Result<()> {
        let mut command = Command::new("cargo");
        command.current_dir(&root).args(args).env("LONGHAND_NVRTC", &nvrtc.path);
        if !filters.is_empty() {
            command.arg("--").args(filters);
        }
        run(&mut command)
    };
    cargo(runner, filters)?;
    if filters.is_empty() {
        cargo(&["test", "--workspace", "--locked", "--doc"], &[])?;
    }
    Ok(())
}

//! Longhand's chores. `cargo xtask test` runs every test on a machine that may have neither CUDA nor a GPU.
#![forbid(unsafe_code)]

mod nvrtc;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};

const USAGE: &str = "usage: cargo xtask test [FILTER...]

  test    find NVRTC (or install it into target/nvrtc) and run every test, documentation examples included;
          with filters, only the tests whose names contain one of them";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let outcome = match args.split_first() {
        Some((command, filters)) if command == "test" => test(filters),
        _ => Err(anyhow::anyhow!(USAGE)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the tests with nextest where it is installed, else with `cargo test`, then the documentation examples.
fn test(filters: &[String]) -> Result<()> {
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

/// Runs `command`, its output going where ours goes; any exit status but 0 is an error.
fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("could not start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_path_buf()
}

//! Longhand's chores.
#![forbid(unsafe_code)]

mod compare;
mod nvrtc;
mod pack;
mod report;
mod run;
mod test;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};

/// Longhand's chores
#[derive(Parser)]
#[command(name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    chore: Chore,
}

#[derive(Subcommand)]
enum Chore {
    /// Find NVRTC (or install it into target/nvrtc) and run every test, documentation examples included
    Test {
        /// Only the tests whose names contain one of these
        filters: Vec<String>,
    },
    Pack(pack::Pack),
    Run(run::Run),
    Report(report::Report),
    BenchCompare(compare::Compare),
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().chore {
        Chore::Test { filters } => test::test(&filters),
        Chore::Pack(pack) => pack.run(),
        Chore::Run(run) => run.run(),
        Chore::Report(report) => report.run(),
        Chore::BenchCompare(compare) => compare.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs `command`, its output going where ours goes; any exit status but 0 is an error.
fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("could not start {command:?}"))?;
    if !status.success() {
        bail!("{command:?} ended with {status}");
    }
    Ok(())
}

/// What `command` prints, without the space around it.
fn output_of(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("could not start {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?} ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn workspace_root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace").to_path_buf()
}

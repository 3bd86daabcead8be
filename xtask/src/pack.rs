//! `cargo xtask pack`.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;

use crate::{output_of, run, workspace_root};

/// The most that a pack may take, in bytes.
const LIMIT: u64 = 60 << 20;

/// Build one folder that proves and measures everything on a machine that has a GPU but no Rust, no network and no root
#[derive(Args)]
pub struct Pack {
    /// The folder
    #[arg(long, default_value = "target/pack")]
    dir: PathBuf,
}

/// What `run.sh` is: the folder it lies in, whatever the working directory, and the program that does the work.
const RUN: &str = include_str!("run.sh");

impl Pack {
    pub fn run(&self) -> Result<()> {
        let root = workspace_root();
        let bin = self.dir.join("bin");
        if self.dir.join("run.sh").exists() {
            fs::remove_dir_all(&bin)?;
        }
        fs::create_dir_all(&bin).with_context(|| bin.display().to_string())?;

        let programs = ["-p", "longhand-cli", "-p", "longhand-benches", "-p", "xtask", "--bins"];
        for (name, path) in executables(&root, "build", &programs)? {
            strip(&path, &bin.join(name))?;
        }
        for (package, test) in [("longhand-tests", "kernels"), ("longhand-gpu", "device")] {
            let name = if package == "longhand-gpu" { "test-gpu" } else { "test-kernels" };
            for (_, path) in executables(&root, "test", &["--no-run", "-p", package, "--test", test])? {
                strip(&path, &bin.join(name))?;
            }
        }
        let candle =
            ["--manifest-path", "benches/peers/candle/Cargo.toml", "--target-dir", "target/candle-peers"];
        for (name, path) in executables(&root, "build", &candle)? {
            strip(&path, &bin.join(name))?;
        }
        let peers = self.dir.join("peers");
        fs::create_dir_all(&peers)?;
        for file in ["torch_peers.py", "requirements.txt"] {
            fs::copy(root.join("benches").join("peers").join(file), peers.join(file))?;
        }
        let script = self.dir.join("run.sh");
        fs::write(&script, RUN)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        fs::write(self.dir.join("VERSION"), version(&root))?;

        let size = size(&self.dir)?;
        println!("{}: {:.1} MB", self.dir.display(), size as f64 / 1e6);
        ensure!(size <= LIMIT, "the pack has {size} bytes, it may have {LIMIT}");
        Ok(())
    }
}

/// Version and revision; `+` where files differ from it.
fn version(root: &Path) -> String {
    let git = |args: &[&str]| output_of(Command::new("git").current_dir(root).args(args));
    let revision = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|_| "no git".to_owned());
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_ok_and(|files| !files.is_empty());
    format!("{} ({revision}{})", env!("CARGO_PKG_VERSION"), if changed { "+" } else { "" })
}

/// Builds for release, and returns each executable with its name.
fn executables(root: &Path, command: &str, arguments: &[&str]) -> Result<Vec<(String, PathBuf)>> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(root).args([
        command,
        "--release",
        "--locked",
        "--message-format=json-render-diagnostics",
    ]);
    let messages = output_of(cargo.args(arguments).stderr(std::process::Stdio::inherit()))?;
    let found = messages.lines().filter_map(|line| {
        let message: Value = serde_json::from_str(line).ok()?;
        Some((message["target"]["name"].as_str()?.to_owned(), PathBuf::from(message["executable"].as_str()?)))
    });
    Ok(found.collect())
}

fn strip(from: &Path, to: &Path) -> Result<()> {
    run(Command::new("strip").arg("-o").args([to, from]))
}

/// Bytes of all files of a folder, but for what a run leaves there.
fn size(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let data = entry.metadata()?;
        bytes += match data.is_dir() {
            true if entry.file_name() == "cache" => 0,
            true => size(&entry.path())?,
            false => data.len(),
        };
    }
    Ok(bytes)
}

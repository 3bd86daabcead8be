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
const LIMIT: u64 = 60_000_000;

/// The C library that the pack is linked for where zig does it: that of Debian 10, Ubuntu 20 and RHEL 8, and of PyTorch.
const GLIBC: &str = "2.28";

/// Build one folder that proves and measures everything on a machine that has a GPU but no Rust, no network and no root
///
/// Where cargo-zigbuild is installed, it is linked for glibc 2.28; else it needs a glibc as new as this machine's.
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
        let peers = root.join("benches").join("peers");
        let to = self.dir.join("peers");
        for folder in ["", "operations"] {
            copy_files(&peers.join(folder), &to.join(folder))?;
        }
        let script = self.dir.join("run.sh");
        fs::write(&script, RUN)?;
        fs::set_permissions(&script, fs::Permissions::from_mode(0o755))?;
        fs::write(self.dir.join("VERSION"), version(&root))?;

        let size = size(&self.dir)?;
        let glibc = needed_glibc(&bin)?.map(|[major, minor]| format!("; needs glibc {major}.{minor}"));
        println!("{}: {:.1} MB{}", self.dir.display(), size as f64 / 1e6, glibc.unwrap_or_default());
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
    let mut cargo = match Command::new("cargo-zigbuild").arg("--version").output() {
        Ok(_) => {
            let mut zig = Command::new("cargo-zigbuild");
            zig.arg(if command == "build" { "zigbuild" } else { command });
            zig.arg(format!("--target={}-unknown-linux-gnu.{GLIBC}", std::env::consts::ARCH));
            zig
        }
        Err(_) => {
            let mut cargo = Command::new("cargo");
            cargo.arg(command);
            cargo
        }
    };
    cargo.current_dir(root).args(["--release", "--locked", "--message-format=json-render-diagnostics"]);
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

/// Copies the files of a folder, but not what lies in folders there.
fn copy_files(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let path = entry?.path();
        if let (true, Some(name)) = (path.is_file(), path.file_name()) {
            fs::copy(&path, to.join(name))?;
        }
    }
    Ok(())
}

/// The newest version of glibc that a program of the folder names.
fn needed_glibc(folder: &Path) -> Result<Option<[u32; 2]>> {
    const NAME: &[u8] = b"GLIBC_";
    let mut newest = None;
    for entry in fs::read_dir(folder)? {
        let bytes = fs::read(entry?.path())?;
        let names = bytes.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME);
        newest = newest.max(names.filter_map(|(at, _)| version_at(&bytes[at + NAME.len()..])).max());
    }
    Ok(newest)
}

/// `2.28`, or `2.3.4` without its last number.
fn version_at(bytes: &[u8]) -> Option<[u32; 2]> {
    let end = bytes.iter().position(|byte| !matches!(byte, b'0'..=b'9' | b'.'))?;
    let mut numbers = std::str::from_utf8(&bytes[..end]).ok()?.split('.').map(str::parse);
    Some([numbers.next()?.ok()?, numbers.next()?.ok()?])
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_glibc_that_any_program_names_is_what_a_pack_needs() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
        write("script", b"no GLIBC_PRIVATE here");
        assert_eq!(needed_glibc(folder.path()).unwrap(), None);
        write("a", b"\0GLIBC_2.2.5\0GLIBC_2.17\0");
        write("b", b"\0GLIBC_2.9\0");
        assert_eq!(needed_glibc(folder.path()).unwrap(), Some([2, 17]));
    }
}

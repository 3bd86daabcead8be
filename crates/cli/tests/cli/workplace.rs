//! The `longhand` binary, run on a text and settings so small that a run takes a moment.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output, Stdio},
};

use serde_json::Value;
use tempfile::TempDir;

/// A folder with a text in it, `text.txt`.
pub struct Workplace(TempDir);

impl Workplace {
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut text = String::new();
        for i in 0..400 {
            writeln!(text, "line {i}: {} times {} is {}; grüße", i % 17, i % 13, (i % 17) * (i % 13))
                .unwrap();
        }
        fs::write(folder.path().join("text.txt"), text).unwrap();
        Self(folder)
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        fs::write(self.path(name), content).unwrap();
        self.path(name)
    }

    /// A command that runs in this folder.
    pub fn longhand(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_longhand"));
        command.args(arguments).current_dir(self.0.path()).stdin(Stdio::null());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Output {
        self.longhand(arguments).output().unwrap()
    }

    /// Runs what has to succeed; returns standard output.
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        assert!(output.status.success(), "{arguments:?}: {}", stderr(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Runs what has to fail with code 1 and one line on standard error that tells all of `parts`.
    #[track_caller]
    pub fn fail(&self, arguments: &[&str], parts: &[&str]) {
        assert_fails(&self.run(arguments), parts);
    }

    /// Trains into the folder `run`.
    pub fn train(&self, options: &[&str]) -> String {
        self.succeed(&tiny(options))
    }
}

/// The arguments of a tiny training run into the folder `run`, with these options in place of its own.
pub fn tiny<'a>(options: &[&'a str]) -> Vec<&'a str> {
    let tiny = "--out run --text text.txt --device cpu --layers 1 --heads 2 --width 16 --vocab 300 --context 16 \
                --batch 2 --warmup 2";
    let tiny: Vec<&str> = tiny.split_whitespace().collect();
    let kept = tiny.chunks(2).filter(|option| !options.contains(&option[0])).flatten().copied();
    ["train"].into_iter().chain(kept).chain(options.iter().copied()).collect()
}

#[track_caller]
pub fn assert_fails(output: &Output, parts: &[&str]) {
    let told = stderr(output);
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert_eq!(told.lines().count(), 1, "{told}");
    assert!(told.starts_with("error: "), "{told}");
    for part in parts {
        assert!(told.contains(part), "{part:?} is not told in {told:?}");
    }
}

pub fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The lines of a run's `metrics.jsonl`.
pub fn metrics(run: &Path) -> Vec<Value> {
    let content = fs::read_to_string(run.join("metrics.jsonl")).unwrap();
    content.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// What of `metrics.jsonl` does not depend on the time it took.
pub fn losses(run: &Path) -> Vec<String> {
    let fields = ["step", "split", "loss", "bits_per_byte"];
    metrics(run).iter().map(|line| fields.map(|field| line[field].to_string()).join(" ")).collect()
}

pub fn checkpoints(run: &Path) -> Vec<String> {
    let names = fs::read_dir(run).into_iter().flatten().map(|entry| entry.unwrap().file_name());
    names.filter_map(|name| name.into_string().ok()).filter(|name| name.starts_with("checkpoint-")).collect()
}

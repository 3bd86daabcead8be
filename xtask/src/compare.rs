//! `cargo xtask bench-compare`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;
use longhand_results::median;

use crate::run::criterion_rows;
use crate::{output_of, run, workspace_root};

/// Run benches of two revisions in turn, A B A B, and print the ratio of their times with its spread
///
/// The only comparison that holds on a noisy machine: whatever slows one revision down slows down the other, too.
#[derive(Args)]
pub struct Compare {
    /// The revision to compare the working tree with
    base: String,
    /// The bench that is run
    #[arg(long, default_value = "attention")]
    bench: String,
    /// Criterion's filter: only benches whose names match
    #[arg(long)]
    filter: Option<String>,
    /// How many times each is run
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// Medians in nanoseconds of each round, by name.
type Times = BTreeMap<String, Vec<f64>>;

impl Compare {
    pub fn run(&self) -> Result<()> {
        let root = workspace_root();
        let target = target(&root);
        let base = target.join("bench-compare").join("base");
        checkout(&root, &self.base, &base)?;
        let programs = [
            build(&base, &target.join("bench-compare").join("target"), &self.bench)?,
            build(&root, &target, &self.bench)?,
        ];
        let mut times = [Times::new(), Times::new()];
        for round in 1..=self.rounds {
            for (program, times) in programs.iter().zip(&mut times) {
                println!("round {round} of {}: {}", self.rounds, program.display());
                let home = target.join("bench-compare").join("criterion");
                let _ = std::fs::remove_dir_all(&home);
                let mut command = Command::new(program);
                command.args(["--bench", "--noplot"]).args(&self.filter).env("CRITERION_HOME", &home);
                run(command.stdout(std::process::Stdio::null()))?;
                for row in criterion_rows(&home)?.0 {
                    let size = row.work.sizes.get(&row.work.axis).copied().unwrap_or(0);
                    let name = [&row.work.operation, &row.implementation, &row.work.dtype, &row.work.variant];
                    let name = name.map(String::as_str).join(" ") + &format!(" {size}");
                    times.entry(name).or_default().push(row.median());
                }
            }
        }
        let [base, tree] = times;
        ensure!(base.keys().any(|name| tree.contains_key(name)), "the two revisions have no bench in common");
        print!("{}", table(&base, &tree));
        Ok(())
    }
}

/// A line for each bench of both: the working tree's time over the base's, the smallest and the largest of the rounds.
fn table(base: &Times, tree: &Times) -> String {
    let width = base.keys().map(String::len).max().unwrap_or(0);
    let mut text = format!("{:width$}  {:>10}  {:>10}  {:>6}  spread\n", "", "base", "tree", "ratio");
    for (name, before) in base {
        let Some(after) = tree.get(name) else { continue };
        let mut ratios: Vec<f64> = before.iter().zip(after).map(|(before, after)| after / before).collect();
        ratios.sort_by(f64::total_cmp);
        let (Some(least), Some(most)) = (ratios.first(), ratios.last()) else { continue };
        let verdict = match (*least > 1.0, *most < 1.0) {
            _ if ratios.len() < 2 => "",
            (true, _) => "  slower in every round",
            (_, true) => "  faster in every round",
            _ => "",
        };
        let milliseconds = |times: &[f64]| format!("{:.3} ms", median(times) / 1e6);
        let (before, after, ratio) = (milliseconds(before), milliseconds(after), median(&ratios));
        text += &format!(
            "{name:width$}  {before:>10}  {after:>10}  {ratio:>6.3}  {least:.3} to {most:.3}{verdict}\n"
        );
    }
    text
}

fn target(root: &Path) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from)
}

/// The revision's files in a worktree of their own.
fn checkout(root: &Path, revision: &str, folder: &Path) -> Result<()> {
    let git = || {
        let mut git = Command::new("git");
        git.current_dir(root);
        git
    };
    let commit = output_of(git().args(["rev-parse", "--verify", &format!("{revision}^{{commit}}")]))?;
    if folder.exists() {
        return run(git()
            .arg("-C")
            .arg(folder)
            .args(["checkout", "--quiet", "--detach", "--force", &commit]));
    }
    run(git().args(["worktree", "prune"]))?;
    run(git().args(["worktree", "add", "--quiet", "--detach"]).arg(folder).arg(&commit))
}

/// The bench's executable.
fn build(root: &Path, target: &Path, bench: &str) -> Result<PathBuf> {
    let mut cargo = Command::new("cargo");
    cargo.current_dir(root).env("CARGO_TARGET_DIR", target);
    cargo.args([
        "bench",
        "--no-run",
        "--message-format=json-render-diagnostics",
        "-p",
        "longhand-benches",
        "--bench",
        bench,
    ]);
    let messages = output_of(cargo.stderr(std::process::Stdio::inherit()))?;
    let mut found = messages.lines().filter_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        // The package's programs are built along.
        let target = &message["target"];
        let wanted = target["name"] == bench && target["kind"] == serde_json::json!(["bench"]);
        wanted.then(|| message["executable"].as_str().map(PathBuf::from))?
    });
    found.next_back().with_context(|| format!("cargo built no bench {bench} in {}", root.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_of_the_same_round_and_only_what_every_round_says_is_a_verdict() {
        let times = |list: &[(&str, &[f64])]| -> Times {
            list.iter().map(|(name, times)| ((*name).to_owned(), times.to_vec())).collect()
        };
        let base = times(&[("a", &[1e6, 3e6]), ("b", &[1e6, 1e6]), ("gone", &[1e6])]);
        let tree = times(&[("a", &[2e6, 6e6]), ("b", &[0.9e6, 1.1e6]), ("new", &[1e6])]);
        let text = table(&base, &tree);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[1].contains("2.000  2.000 to 2.000  slower in every round"), "{text}");
        assert!(lines[2].contains("1.000  0.900 to 1.100") && !lines[2].contains("every"), "{text}");
    }
}

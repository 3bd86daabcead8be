//! `cargo xtask report`.

mod chart;
mod series;
mod text;
mod turns;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use longhand_results::{Machine, Run};

use crate::workspace_root;

/// Turn results into tables and charts
///
/// Each folder is what a run.sh wrote. Its JSON is kept in benches/results/MACHINE, in place of older results of the same
/// parts, and benches/README.md is written from all that is kept.
#[derive(Args)]
pub struct Report {
    /// Folders with results
    folders: Vec<PathBuf>,
}

impl Report {
    pub fn run(&self) -> Result<()> {
        let benches = workspace_root().join("benches");
        write(&self.folders, &benches)
    }
}

/// Keeps the results of the folders below `benches/results`, and writes `benches/README.md`.
fn write(folders: &[PathBuf], benches: &Path) -> Result<()> {
    let kept = benches.join("results");
    for folder in folders {
        let runs = runs(folder)?;
        ensure!(!runs.is_empty(), "{} has no results", folder.display());
        let target = kept.join(machine_of(&runs, folder)?.file_name());
        fs::create_dir_all(&target)?;
        for run in &runs {
            fs::write(target.join(format!("{}.json", run.part)), serde_json::to_string(run)? + "\n")?;
        }
    }
    let mut readme = text::HEAD.to_owned();
    let mut machines: Vec<PathBuf> = fs::read_dir(&kept)
        .into_iter()
        .flatten()
        .flatten()
        .map(|it| it.path())
        .filter(|it| it.is_dir())
        .collect();
    machines.sort();
    for folder in machines {
        let runs = runs(&folder)?;
        if !runs.is_empty() {
            machine_of(&runs, &folder)?;
            readme += &text::machine(&runs, &folder)?;
        }
    }
    fs::write(benches.join("README.md"), readme)?;
    println!("{}", benches.join("README.md").display());
    Ok(())
}

/// The results of a folder, in the order in which they were made.
fn runs(folder: &Path) -> Result<Vec<Run>> {
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .with_context(|| folder.display().to_string())?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.extension().is_some_and(|it| it == "json"))
        .collect();
    files.sort();
    let read = |path: PathBuf| -> Result<Run> {
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        serde_json::from_str(&text).with_context(|| path.display().to_string())
    };
    let mut runs = files.into_iter().map(read).collect::<Result<Vec<_>>>()?;
    runs.sort_by(|a, b| a.date.cmp(&b.date));
    Ok(runs)
}

/// The one machine that all results are of: a ratio of two machines' times says nothing of either program.
fn machine_of<'a>(runs: &'a [Run], folder: &Path) -> Result<&'a Machine> {
    let first = &runs[0].machine;
    for run in runs {
        ensure!(
            run.machine.is_like(first),
            "{} has results of different machines, whose times have no ratio: {} of {}, {} of {}",
            folder.display(),
            runs[0].part,
            first.file_name(),
            run.part,
            run.machine.file_name()
        );
    }
    Ok(first)
}

#[cfg(test)]
mod tests {
    use super::*;
    use longhand_results::{Check, Missing, Row, Work};

    fn row(implementation: &str, operation: &str, tokens: u64, nanoseconds: f64) -> Row {
        Row {
            work: Work {
                operation: operation.to_owned(),
                device: "cpu".to_owned(),
                dtype: "f32".to_owned(),
                variant: "causal D64".to_owned(),
                sizes: [("T".to_owned(), tokens), ("N".to_owned(), tokens)].into(),
                axis: "T".to_owned(),
            },
            implementation: implementation.to_owned(),
            amount: 1e9,
            unit: "FLOP".to_owned(),
            peak_bytes: Some(1 << 30),
            samples: vec![nanoseconds; 3],
        }
    }

    fn run(part: &str, cpu: &str, rows: Vec<Row>) -> Run {
        let machine = Machine { cpu: cpu.to_owned(), cores: 2, memory: 1 << 34, gpu: None };
        let check = Check {
            what: "attention: out".to_owned(),
            against: "PyTorch".to_owned(),
            error: Some(1e-6),
            limit: 1e-5,
            failure: None,
        };
        let missing = Missing { what: "FlexAttention".to_owned(), why: "no GPU".to_owned() };
        Run {
            part: part.to_owned(),
            machine,
            rows,
            checks: vec![check],
            missing: vec![missing],
            ..Run::default()
        }
    }

    fn keep(folder: &Path, runs: &[Run]) {
        fs::create_dir_all(folder).unwrap();
        for run in runs {
            fs::write(folder.join(format!("{}.json", run.part)), serde_json::to_string(run).unwrap())
                .unwrap();
        }
    }

    #[test]
    fn a_report_has_ours_each_peer_the_ratio_the_share_and_a_picture() {
        let place = tempfile::tempdir().unwrap();
        let (folder, benches) = (place.path().join("out"), place.path().join("benches"));
        let rows = vec![
            row("longhand", "attention forward", 1024, 10e6),
            row("SDPA flash", "attention forward", 1024, 5e6),
            row("longhand", "attention forward", 2048, 20e6),
        ];
        let ceilings = run("ceilings", "Xeon", vec![row("torch.matmul", "ceiling matmul", 2048, 2.5e6)]);
        let attention = Run { ceilings: ceilings.rows.clone(), ..run("attention", "Xeon", rows) };
        keep(&folder, &[ceilings, attention]);
        write(&[folder], &benches).unwrap();
        let readme = fs::read_to_string(benches.join("README.md")).unwrap();
        assert!(readme.contains("| 1024 | 10.0 ms | 100 GFLOP/s | 25% |"), "{readme}");
        assert!(readme.contains("5.00 ms (0.50x)"), "{readme}");
        assert!(readme.contains("| T 1024 | 10.0 ms | 100 GFLOP/s | 25% | SDPA flash | 0.50x |"), "{readme}");
        assert!(readme.contains("FlexAttention") && readme.contains("2 of 2 outputs"), "{readme}");
        let kept = benches.join("results").join("xeon-2-cores");
        assert!(kept.join("attention.json").exists());
        let svg = fs::read_to_string(kept.join("attention-forward-cpu-f32-causal-d64.svg")).unwrap();
        assert!(svg.contains("longhand") && svg.contains("SDPA flash") && svg.contains("GFLOP/s"), "{svg}");
    }

    #[test]
    fn what_took_turns_has_its_own_table_of_rounds_and_peaks() {
        let place = tempfile::tempdir().unwrap();
        let (folder, benches) = (place.path().join("out"), place.path().join("benches"));
        let of = |who: &str, samples: [f64; 3], mebibytes: u64| Row {
            samples: samples.into(),
            peak_bytes: Some(mebibytes << 20),
            ..row(who, "training step", 1024, 0.0)
        };
        let rows = vec![of("longhand", [10e6, 20e6, 10e6], 60), of("PyTorch", [20e6, 30e6, 15e6], 80)];
        keep(&folder, &[run("turns", "Xeon", rows)]);
        write(&[folder], &benches).unwrap();
        let readme = fs::read_to_string(benches.join("README.md")).unwrap();
        let line = "| training step f32 causal D64 | T 1024 | 10.0 ms | 100 GFLOP/s |  | 20.0 ms | 1.50x | 1.50 to 2.00 | 60 MiB | 80 MiB | 75% |";
        assert!(readme.contains(line), "{readme}");
        assert_eq!(readme.matches("training step").count(), 1, "{readme}");
    }

    #[test]
    fn parts_of_an_earlier_revision_are_named() {
        let place = tempfile::tempdir().unwrap();
        let (folder, benches) = (place.path().join("out"), place.path().join("benches"));
        let of = |part: &str, revision: &str, date: &str| Run {
            versions: [("longhand".to_owned(), revision.to_owned())].into(),
            date: date.to_owned(),
            ..run(part, "Xeon", vec![row("longhand", part, 1024, 1e6)])
        };
        keep(
            &folder,
            &[of("norm", "0.1.0 (aaa)", "2026-01-02T10"), of("rope", "0.1.0 (bbb)", "2026-01-02T11")],
        );
        write(std::slice::from_ref(&folder), &benches).unwrap();
        let readme = fs::read_to_string(benches.join("README.md")).unwrap();
        assert!(readme.contains("longhand 0.1.0 (bbb)"), "{readme}");
        assert!(readme.contains("Of earlier revisions: norm of 0.1.0 (aaa).\n"), "{readme}");

        keep(&folder, &[of("norm", "0.1.0 (bbb)", "2026-01-02T12")]);
        write(&[folder], &benches).unwrap();
        assert!(!fs::read_to_string(benches.join("README.md")).unwrap().contains("earlier revisions"));
    }

    #[test]
    fn results_of_different_machines_are_refused() {
        let place = tempfile::tempdir().unwrap();
        let folder = place.path().join("out");
        let rows = |who: &str| vec![row(who, "attention forward", 1024, 1e6)];
        keep(&folder, &[run("a", "Xeon", rows("longhand")), run("b", "EPYC", rows("SDPA flash"))]);
        let error = write(&[folder], &place.path().join("benches")).unwrap_err().to_string();
        assert!(error.contains("xeon-2-cores") && error.contains("epyc-2-cores"), "{error}");
        assert!(!place.path().join("benches").join("README.md").exists());
    }
}

//! `metrics.jsonl`: what was measured, one JSON object per line.

use std::{
    fs::{self, File, OpenOptions},
    io::Write,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use crate::{Error, Result, files};

/// Which part of the text a loss is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Split {
    /// What the model learns from.
    Train,
    /// What was held out.
    Valid,
}

/// One line of `metrics.jsonl`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// Optimizer steps made.
    pub step: u64,
    /// Of the batch of that step, or of the held-out text.
    pub split: Split,
    /// Mean cross-entropy, in nats per token.
    pub loss: f64,
    /// The same in bits per byte of the text that the tokens stand for.
    pub bits_per_byte: f64,
    /// Tokens trained on, or evaluated, per second.
    pub tokens_per_second: f64,
    /// Since the run was started, without the time it lay stopped.
    pub seconds: f64,
}

/// The file, open for more.
#[derive(Debug)]
pub struct Metrics {
    path: PathBuf,
    file: File,
    lines: Vec<Metric>,
}

impl Metrics {
    /// An empty `metrics.jsonl` in the run folder.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn create(folder: &Path) -> Result<Self> {
        Self::open(folder, Vec::new())
    }

    /// The `metrics.jsonl` of a run resumed at `step`: lines past it, which the resumed run writes again, and a
    /// last line that was cut off are dropped.
    ///
    /// # Errors
    /// It cannot be read or written, or a line before the last is not a metric.
    pub fn resume(folder: &Path, step: u64) -> Result<Self> {
        let mut lines = read(&folder.join(NAME))?;
        lines.retain(|line| line.step <= step);
        Self::open(folder, lines)
    }

    fn open(folder: &Path, lines: Vec<Metric>) -> Result<Self> {
        let path = folder.join(NAME);
        let content: String = lines.iter().map(to_line).collect();
        files::write(&path, content.as_bytes())?;
        let file = OpenOptions::new().append(true).open(&path).map_err(Error::file("write", &path))?;
        Ok(Self { path, file, lines })
    }

    /// Appends one line.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn push(&mut self, metric: Metric) -> Result<()> {
        self.file.write_all(to_line(&metric).as_bytes()).map_err(Error::file("write", &self.path))?;
        self.lines.push(metric);
        Ok(())
    }

    /// Makes what was appended last.
    ///
    /// # Errors
    /// The operating system cannot.
    pub fn sync(&self) -> Result<()> {
        self.file.sync_all().map_err(Error::file("write", &self.path))
    }

    /// All lines.
    pub fn lines(&self) -> &[Metric] {
        &self.lines
    }
}

const NAME: &str = "metrics.jsonl";

fn to_line(metric: &Metric) -> String {
    let mut line = serde_json::to_string(metric).unwrap_or_default();
    line.push('\n');
    line
}

fn read(path: &Path) -> Result<Vec<Metric>> {
    let content = fs::read_to_string(path).map_err(Error::file("read", path))?;
    let whole = content.rfind('\n').map_or(0, |end| end + 1);
    content[..whole]
        .lines()
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_str(line).map_err(|error| Error::Damaged {
                path: path.into(),
                reason: format!("line {}: {error}", index + 1),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(step: u64, split: Split) -> Metric {
        Metric { step, split, loss: 1.0 / 3.0, bits_per_byte: 0.1, tokens_per_second: 1e4, seconds: 2.5 }
    }

    #[test]
    fn a_line_is_one_json_object_with_the_six_fields() {
        assert_eq!(
            to_line(&metric(7, Split::Valid)),
            "{\"step\":7,\"split\":\"valid\",\"loss\":0.3333333333333333,\"bits_per_byte\":0.1,\
             \"tokens_per_second\":10000.0,\"seconds\":2.5}\n"
        );
    }

    #[test]
    fn resuming_drops_what_came_after_the_checkpoint_and_a_line_cut_off() {
        let folder = tempfile::tempdir().unwrap();
        let mut metrics = Metrics::create(folder.path()).unwrap();
        for step in 0..5 {
            metrics.push(metric(step, Split::Train)).unwrap();
        }
        metrics.file.write_all(b"{\"step\":5,\"spl").unwrap();
        let mut resumed = Metrics::resume(folder.path(), 3).unwrap();
        resumed.push(metric(4, Split::Valid)).unwrap();
        let steps: Vec<u64> = resumed.lines().iter().map(|line| line.step).collect();
        assert_eq!(steps, [0, 1, 2, 3, 4]);
        assert_eq!(read(&folder.path().join(NAME)).unwrap(), resumed.lines());
    }

    #[test]
    fn a_line_that_is_no_metric_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(NAME), "{\"step\":1}\n{}\n").unwrap();
        let error = Metrics::resume(folder.path(), 3).unwrap_err().to_string();
        assert!(error.contains("metrics.jsonl") && error.contains("line 1"), "{error}");
    }
}

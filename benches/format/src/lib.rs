//! The JSON in which what was measured is kept: a [`Run`] per file.
//!
//! Rows of different libraries are of the same [`Work`] exactly when its fields are equal. Times are nanoseconds per
//! iteration, each sample by itself.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One part of a run on one machine: `attention`, `verify`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Run {
    /// What the part is called.
    pub part: String,
    /// When it began: `2026-11-23T21:04:05Z`.
    pub date: String,
    /// How long it took.
    pub seconds: f64,
    /// Where it ran.
    pub machine: Machine,
    /// Version of Longhand with its git revision, NVRTC, PyTorch, ..., each by name.
    pub versions: BTreeMap<String, String>,
    /// What was timed.
    pub rows: Vec<Row>,
    /// What the machine did at most in this run: a large copy, a large matrix product.
    #[serde(default)]
    pub ceilings: Vec<Row>,
    /// What was compared.
    pub checks: Vec<Check>,
    /// What was not there to be timed or compared.
    pub missing: Vec<Missing>,
    /// Why the part did not come to its end.
    pub failure: Option<String>,
}

/// A computer, as far as results depend on it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Machine {
    /// Product name of the processor.
    pub cpu: String,
    /// Logical processors that this process may use.
    pub cores: usize,
    /// Bytes of main memory.
    pub memory: u64,
    /// The GPU, if there is one.
    pub gpu: Option<Gpu>,
}

impl Machine {
    /// Whether results of the two may stand in one ratio. Memory may be shared with other tenants, so that its size
    /// says nothing; clocks vary by the minute.
    #[must_use]
    pub fn is_like(&self, other: &Machine) -> bool {
        let gpu = |machine: &Machine| machine.gpu.as_ref().map(|gpu| gpu.name.clone());
        self.cpu == other.cpu && self.cores == other.cores && gpu(self) == gpu(other)
    }

    /// Its GPU, or else its processor, as a file name.
    #[must_use]
    pub fn file_name(&self) -> String {
        let text = match &self.gpu {
            Some(gpu) => gpu.name.clone(),
            None => format!("{} {} cores", self.cpu, self.cores),
        };
        let words = text.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
    }
}

/// A GPU.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gpu {
    /// Product name.
    pub name: String,
    /// What kernels are compiled for: `sm_90a`.
    pub arch: String,
    /// Bytes of its memory.
    pub memory: u64,
    /// Version of the display driver, as `nvidia-smi` says it.
    pub driver: Option<String>,
    /// Clocks of the multiprocessors and of the memory when the part ended, in MHz.
    pub clocks: Option<[u32; 2]>,
}

/// What is computed, whoever computes it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Work {
    /// `attention forward`.
    pub operation: String,
    /// `cpu`, `cuda` or `emulated`.
    pub device: String,
    /// Type of the elements: `f32`.
    pub dtype: String,
    /// What else is the same along the axis: `causal D128 H16`.
    pub variant: String,
    /// Each size by its letter: `B`, `T`, `H`, `D`.
    pub sizes: BTreeMap<String, u64>,
    /// The size along which a chart goes.
    pub axis: String,
}

/// One timing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Of what.
    #[serde(flatten)]
    pub work: Work,
    /// By what: `longhand`, `SDPA flash`.
    pub implementation: String,
    /// How many [units](Row::unit) an iteration is.
    pub amount: f64,
    /// `FLOP`, `byte`, `token`, ...
    pub unit: String,
    /// The most memory in use at once: on a GPU, of the library's allocations there; on the CPU, of the process.
    pub peak_bytes: Option<u64>,
    /// Nanoseconds per iteration, each sample.
    pub samples: Vec<f64>,
}

impl Row {
    /// The median of the samples; NaN without any.
    #[must_use]
    pub fn median(&self) -> f64 {
        median(&self.samples)
    }

    /// Units per second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.amount / self.median() * 1e9
    }
}

/// The middle of some numbers; NaN of none.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

/// A comparison of two results of the same work.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// What was compared: `attention forward, causal: out`.
    pub what: String,
    /// With what: `PyTorch, f64`.
    pub against: String,
    /// How far they are apart; None where no number came of it.
    pub error: Option<f64>,
    /// How far they may be.
    pub limit: f64,
    /// What was wrong, where it was not the error.
    pub failure: Option<String>,
}

impl Check {
    /// Whether nothing was wrong, and the error within its limit.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failure.is_none() && self.error.is_some_and(|error| error <= self.limit)
    }
}

/// What was not measured.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// What.
    pub what: String,
    /// Why not.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(gpu: Option<&str>) -> Machine {
        let gpu = gpu.map(|name| Gpu { name: name.to_owned(), ..Gpu::default() });
        Machine { cpu: "Intel(R) Xeon(R)".to_owned(), cores: 2, memory: 1, gpu }
    }

    #[test]
    fn machines_are_alike_whatever_their_clocks_and_not_with_other_gpus() {
        let h100 = machine(Some("NVIDIA H100 80GB HBM3"));
        let mut later = h100.clone();
        later.gpu.as_mut().unwrap().clocks = Some([1980, 2619]);
        assert!(h100.is_like(&later));
        assert!(!h100.is_like(&machine(Some("NVIDIA H200"))));
        assert!(!h100.is_like(&machine(None)));
    }

    #[test]
    fn the_name_of_a_machine_is_one_for_files() {
        assert_eq!(machine(Some("NVIDIA H100 80GB HBM3")).file_name(), "nvidia-h100-80gb-hbm3");
        assert_eq!(machine(None).file_name(), "intel-r-xeon-r-2-cores");
    }

    #[test]
    fn the_median_is_in_the_middle_and_of_nothing_no_number() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert!(median(&[]).is_nan());
    }

    #[test]
    fn a_check_without_a_number_does_not_pass() {
        let (what, against) = (String::new(), String::new());
        let check =
            |error| Check { what: what.clone(), against: against.clone(), error, limit: 1e-3, failure: None };
        assert!(check(Some(1e-3)).passed() && !check(Some(2e-3)).passed() && !check(None).passed());
    }
}

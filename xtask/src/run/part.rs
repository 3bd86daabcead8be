//! The parts of a run and their order.

use anyhow::{Result, bail};

use super::Where;

/// Something to run by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// What the machine has.
    Doctor,
    /// Kernels against the reference, those that the arguments name; or the hardware's results against the emulator's.
    Verify { arguments: Vec<&'static str>, compare: bool },
    /// A bench, and then the peers.
    Bench { name: &'static str, filter: Option<&'static str>, arguments: &'static [&'static str] },
    /// Our results against PyTorch's.
    Exchange,
    /// Ours and PyTorch's times in turns.
    Turns,
    /// The test binaries.
    Tests,
}

/// The benches, the most important first.
const BENCHES: [&str; 14] = [
    "attention",
    "norm",
    "adamw",
    "decode",
    "training_step",
    "cross_entropy",
    "matmul",
    "embedding",
    "rope",
    "activation",
    "softmax",
    "sampling",
    "compile",
    "emulator",
];
/// Longhand and PyTorch on the CPU, A B A B.
const TURNS: &str = "turns";
/// What `longhand verify` knows.
const VERIFIED: [&str; 13] = [
    "attention",
    "norm",
    "adamw",
    "cross_entropy",
    "matmul",
    "embedding",
    "rope",
    "activation",
    "elementwise",
    "reduction",
    "sampling",
    "softmax",
    "kv_cache",
];
/// What a training step of GPT-2 does not do.
const OUTSIDE_A_STEP: [&str; 4] = ["kv_cache", "rope", "sampling", "softmax"];

/// How to ask `longhand verify` for what is timed under a name.
fn verify_arguments(name: &str) -> Vec<&'static str> {
    let of =
        |operations: &mut dyn Iterator<Item = &'static str>| operations.flat_map(|it| ["--op", it]).collect();
    match name {
        "decode" => vec!["--row", "attention decode", "--op", "kv_cache"],
        "training_step" => of(&mut VERIFIED.into_iter().filter(|it| !OUTSIDE_A_STEP.contains(it))),
        name => of(&mut VERIFIED.into_iter().filter(|it| *it == name)),
    }
}

/// The context lengths that are measured first, and those that take long.
const USUAL: &str = "/(64|1024|2048|4096|8192|16384|32768|65536)$";
const LONG: &str = "/(131072|262144|524288)$";

/// On a GPU, where an iteration is short and the hour is too.
const BRIEF: &[&str] = &["--warm-up-time", "0.1", "--measurement-time", "0.3"];

impl Part {
    pub fn name(&self) -> String {
        match self {
            Part::Doctor => "doctor".to_owned(),
            Part::Verify { compare: false, .. } => "verify".to_owned(),
            Part::Verify { compare: true, .. } => "hardware".to_owned(),
            Part::Bench { name, filter: Some(LONG), .. } => format!("{name}_long"),
            Part::Bench { name, .. } => (*name).to_owned(),
            Part::Exchange => "exchange".to_owned(),
            Part::Turns => TURNS.to_owned(),
            Part::Tests => "tests".to_owned(),
        }
    }

    /// How much of the time that is left it may take: what comes after it tells something, too.
    pub fn share(&self) -> f64 {
        match self {
            Part::Verify { compare: false, .. } => 0.5,
            Part::Verify { compare: true, .. } => 0.35,
            // The rest is the peers': a time without theirs beside it tells half.
            Part::Bench { .. } => 0.6,
            Part::Doctor | Part::Exchange | Part::Turns | Part::Tests => 1.0,
        }
    }
}

/// The parts in their order; with `only`, those that tell of these operations, for a look within a minute.
pub fn parts(device: Where, only: &[String]) -> Result<Vec<Part>> {
    let known = || {
        let others = VERIFIED.into_iter().filter(|name| !BENCHES.contains(name));
        BENCHES.into_iter().chain(others).chain((device == Where::Cpu).then_some(TURNS))
    };
    if let Some(unknown) = only.iter().find(|name| known().all(|it| it != *name)) {
        bail!("--only {unknown}: it has to be one of {}", known().collect::<Vec<_>>().join(", "));
    }
    let asked = |name: &str| only.is_empty() || only.iter().any(|it| it == name);
    let arguments = match device {
        Where::Cuda => BRIEF,
        Where::Cpu => &[],
        Where::Emulated => &["--quick"],
    };
    let bench = |name, filter| Part::Bench { name, filter, arguments };
    let verified: Vec<&str> = only.iter().flat_map(|name| verify_arguments(name)).collect();

    let mut parts = vec![Part::Doctor];
    match device {
        // There, kernels do not run.
        Where::Cpu => parts.push(Part::Exchange),
        _ if only.is_empty() || !verified.is_empty() => {
            parts.push(Part::Verify { arguments: verified, compare: false });
        }
        _ => (),
    }
    if only.is_empty() && device == Where::Cuda {
        parts.push(Part::Verify { arguments: Vec::new(), compare: true });
    }
    if BENCHES.into_iter().chain([TURNS]).any(asked) {
        parts.push(bench("ceilings", None));
    }
    for name in BENCHES.into_iter().filter(|name| asked(name)) {
        let long_is_apart = name == "attention" && device == Where::Cuda;
        parts.push(bench(name, long_is_apart.then_some(USUAL)));
        if name == "training_step" && only.is_empty() && device != Where::Cpu {
            parts.push(Part::Exchange);
        }
    }
    if device == Where::Cuda && only.is_empty() {
        parts.extend([bench("attention", Some(LONG)), Part::Tests]);
    }
    if device == Where::Cpu && asked(TURNS) {
        parts.push(Part::Turns);
    }
    Ok(parts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(device: Where, only: &[&str]) -> Vec<String> {
        let only: Vec<String> = only.iter().map(|&name| name.to_owned()).collect();
        parts(device, &only).unwrap().iter().map(Part::name).collect()
    }

    #[test]
    fn a_gpu_is_proved_before_it_is_measured_and_each_part_has_its_own_name() {
        let names = names(Where::Cuda, &[]);
        assert_eq!(names[..5], ["doctor", "verify", "hardware", "ceilings", "attention"]);
        assert!(names.contains(&"attention_long".to_owned()) && names.contains(&"exchange".to_owned()));
        let mut unique = names.clone();
        unique.sort();
        unique.dedup();
        assert_eq!(unique.len(), names.len());
    }

    #[test]
    fn only_an_operation_is_that_operation_with_the_ceilings_it_is_a_share_of() {
        assert_eq!(names(Where::Cpu, &["norm"]), ["doctor", "exchange", "ceilings", "norm"]);
        assert_eq!(names(Where::Cpu, &["turns"]), ["doctor", "exchange", "ceilings", "turns"]);
        assert_eq!(names(Where::Emulated, &["attention"]), ["doctor", "verify", "ceilings", "attention"]);
        assert_eq!(names(Where::Cuda, &["attention"]), ["doctor", "verify", "ceilings", "attention"]);
        assert_eq!(names(Where::Cuda, &["reduction"]), ["doctor", "verify"]);
        let parts = parts(Where::Cuda, &["adamw".to_owned()]).unwrap();
        assert!(parts.contains(&Part::Verify { arguments: vec!["--op", "adamw"], compare: false }));
    }

    #[test]
    fn whatever_is_timed_of_kernels_is_verified_first() {
        let verified = |name: &str| match &parts(Where::Cuda, &[name.to_owned()]).unwrap()[1] {
            Part::Verify { arguments, compare: false } => arguments.join(" "),
            _ => String::new(),
        };
        assert_eq!(verified("decode"), "--row attention decode --op kv_cache");
        assert!(verified("training_step").contains("--op adamw --op cross_entropy"));
        for name in BENCHES.into_iter().filter(|name| !["compile", "emulator"].contains(name)) {
            assert_ne!(verified(name), "", "{name}");
        }
    }

    #[test]
    fn what_is_verified_is_what_there_is_to_verify() {
        let mut known = VERIFIED;
        known.sort_unstable();
        assert_eq!(known, longhand_verify::Op::ALL.map(longhand_verify::Op::name));
    }

    #[test]
    fn only_something_unknown_is_an_error_that_lists_what_there_is() {
        let error = parts(Where::Cpu, &["atention".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("atention") && error.contains("attention, norm"), "{error}");
        assert!(parts(Where::Cuda, &["turns".to_owned()]).is_err(), "of the CPU alone");
    }
}

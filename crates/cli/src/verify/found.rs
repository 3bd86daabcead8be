//! What was found of one case on one device.

use longhand_gpu::Device;
use longhand_gpu::emulator::Report;
use longhand_verify::{Case, Outcome, verify};
use serde_json::{Value, json};

/// A case, where it ran, and what came of it.
pub struct Found<'a> {
    pub case: &'a dyn Case,
    pub device: &'a Device,
    pub outcome: Outcome,
}

/// Counts of all launches together.
#[derive(Default)]
pub struct Counts {
    pub instructions: u64,
    pub sectors: u64,
    pub wavefronts: u64,
    pub ideal_wavefronts: u64,
    pub tensor_operations: u64,
}

impl<'a> Found<'a> {
    /// Runs the case.
    pub fn new(case: &'a dyn Case, device: &'a Device) -> Found<'a> {
        Found { case, device, outcome: verify(case, device) }
    }

    /// Operation, case and device.
    pub fn title(&self) -> String {
        format!("{} {} on {}", self.case.operation(), self.case, self.device.name())
    }

    /// What the emulator's checks say; None on a GPU, which checks nothing.
    pub fn sanitizer(&self) -> Option<&'static str> {
        let fault = self.outcome.error.as_ref().and_then(longhand_verify::Error::fault);
        self.device.is_emulated().then_some(if fault.is_some() { "fault" } else { "clean" })
    }

    /// The counts of all launches together; None on a GPU, which counts nothing.
    pub fn counts(&self) -> Option<Counts> {
        let add = |mut sum: Counts, Report { total, .. }: &Report| {
            sum.instructions += total.instructions;
            sum.sectors += total.global_sectors;
            sum.wavefronts += total.shared_wavefronts;
            sum.ideal_wavefronts += total.ideal_shared_wavefronts;
            sum.tensor_operations += total.tensor_operations;
            sum
        };
        let reports = &self.outcome.reports;
        self.device.is_emulated().then(|| reports.iter().fold(Counts::default(), add))
    }

    /// All of it.
    pub fn json(&self) -> Value {
        let outputs: Vec<Value> = self.outcome.outputs.iter().map(|it| {
            json!({
                "name": it.name, "elements": it.elements, "error": it.error, "limit": it.limit, "failure": it.failure,
            })
        }).collect();
        let launches: Vec<Value> = self.outcome.reports.iter().map(|report| {
            json!({
                "kernel": report.kernel, "warp_instructions": report.warp_instructions, "counts": report.total,
            })
        }).collect();
        let error = self.outcome.error.as_ref();
        json!({
            "operation": self.case.operation(),
            "case": self.case.to_string(),
            "device": self.device.name(),
            "arch": self.device.arch().to_string(),
            "passed": self.outcome.passed(),
            "outputs": outputs,
            "sanitizer": self.sanitizer(),
            "fault": error.and_then(longhand_verify::Error::fault),
            "error": error.map(ToString::to_string),
            "launches": launches,
            "seconds": self.outcome.time.as_secs_f64(),
        })
    }
}

//! Running a case, and what came of it.

use crate::tolerance::Judged;
use crate::{Error, Trial, Written};
use longhand_gpu::Device;
use longhand_gpu::emulator::Report;
use std::fmt::{Debug, Display};
use std::time::Duration;

/// One operation with its sizes, types and strides, which [`Display`] tells in short.
pub trait Case: Debug + Display {
    /// What a table calls the operation: `attention forward`.
    fn operation(&self) -> &'static str;

    /// Draws inputs, launches, and has the trial judge the outputs.
    ///
    /// # Errors
    /// Whatever keeps it from that.
    fn run(&self, trial: &mut Trial) -> Result<(), Error>;

    /// The outputs of which the last bits may be others in the next run; those of all others are the same on every run
    /// and every emulated architecture.
    fn varying(&self) -> &'static [&'static str] {
        &[]
    }
}

/// What came of a case on a device.
#[derive(Debug)]
pub struct Outcome {
    /// Each output that was judged.
    pub outputs: Vec<Judged>,
    /// What was written to each of them that is a tensor.
    pub written: Vec<Written>,
    /// What ended the case early.
    pub error: Option<Error>,
    /// On an emulated device, what each launch did, in order.
    pub reports: Vec<Report>,
    /// Time of the launches.
    pub time: Duration,
}

impl Outcome {
    /// Whether nothing failed.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.failures().is_empty()
    }

    /// What failed, a text for each.
    #[must_use]
    pub fn failures(&self) -> Vec<String> {
        let outputs = self.outputs.iter().filter_map(|output| output.failure.clone());
        outputs.chain(self.error.as_ref().map(ToString::to_string)).collect()
    }

    /// The output nearest to its limit, or the furthest beyond.
    #[must_use]
    pub fn worst(&self) -> Option<&Judged> {
        self.outputs.iter().max_by(|a, b| a.ratio().total_cmp(&b.ratio()))
    }
}

/// Runs a case on a device. On an emulated one, nobody else may launch there meanwhile, or the reports mix.
#[must_use]
pub fn verify(case: &dyn Case, device: &Device) -> Outcome {
    device.record_reports(true);
    let stream = match device.new_stream() {
        Ok(stream) => stream,
        Err(error) => {
            let error = Some(error.into());
            return Outcome {
                outputs: Vec::new(),
                written: Vec::new(),
                error,
                reports: Vec::new(),
                time: Duration::ZERO,
            };
        }
    };
    let mut trial = Trial::new(stream);
    let error = case.run(&mut trial).err();
    let reports = device.take_reports();
    device.record_reports(false);
    let (outputs, written, time) = trial.into_parts();
    Outcome { outputs, written, error, reports, time }
}

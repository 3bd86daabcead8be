//! The devices that every case runs on.

use longhand_gpu::{Arch, Device, Error};
use longhand_verify::{Case, Outcome, verify};
use std::io::Write;

/// The architectures whose PTX is run: each path that a kernel has.
const EMULATED: [&str; 2] = ["sm_80", "sm_90a"];

/// Emulated devices, and the first GPU where there is one.
pub struct Devices {
    emulated: Vec<Device>,
    cuda: Option<Device>,
}

impl Devices {
    /// Without NVRTC nothing can run: None, and a line that says so.
    pub fn open() -> Option<Devices> {
        let emulated = EMULATED.map(|arch| Device::emulated(arch.parse().unwrap()).unwrap());
        if let Err(error @ Error::LibraryNotFound { .. }) = emulated[0].compiler() {
            tell(&format!("skipped: {}", reason(&error)));
            return None;
        }
        let cuda = match Device::cuda(0) {
            Ok(device) => Some(device),
            Err(error) => {
                tell(&format!("on emulated devices alone: {}", reason(&error)));
                None
            }
        };
        Some(Devices { emulated: emulated.into(), cuda })
    }

    /// Fails unless the case passes on every device, with the same bits from the PTX of every architecture where it
    /// promises them.
    pub fn check(&self, case: &dyn Case) {
        let outcomes = self.emulated_outcomes(case);
        let [(first_arch, first), rest @ ..] = &outcomes[..] else { return };
        let digests = |outcome| digests(outcome, case.varying());
        for (arch, outcome) in rest {
            assert_eq!(
                digests(outcome),
                digests(first),
                "{} {case}: the bits (here their digests) on {arch} are others than on {first_arch}",
                case.operation()
            );
        }
        if let Some(device) = &self.cuda {
            run(case, device);
        }
    }

    /// Fails unless the case passes on every emulated device.
    pub fn emulated_outcomes(&self, case: &dyn Case) -> Vec<(Arch, Outcome)> {
        self.emulated.iter().map(|device| (device.arch(), run(case, device))).collect()
    }
}

fn digests(outcome: &Outcome, varying: &[&str]) -> Vec<(&'static str, u64)> {
    let promised = outcome.outputs.iter().filter(|output| !varying.contains(&output.name));
    promised.map(|output| (output.name, output.digest)).collect()
}

/// Fails unless the case passes.
fn run(case: &dyn Case, device: &Device) -> Outcome {
    let outcome = verify(case, device);
    let failures = outcome.failures();
    assert!(
        failures.is_empty(),
        "{} {case} on {}:\n{}",
        case.operation(),
        device.name(),
        failures.join("\n")
    );
    outcome
}

/// The error in one line, without the list of places that were looked at.
fn reason(error: &Error) -> String {
    match error {
        Error::LibraryNotFound { library, .. } => format!("{library} was not found"),
        error => error.to_string().replace('\n', " "),
    }
}

/// Not by eprintln!, which the test harness keeps to itself unless the test fails.
pub fn tell(what: &str) {
    let thread = std::thread::current();
    let _ = writeln!(std::io::stderr(), "{}: {what}", thread.name().unwrap_or("a test"));
}

//! The cards of the kernels: what each one uses by architecture, and what it does in its canonical launches.
//!
//! `longhand kernels list --cards` prints them, or writes them into the catalogue, `kernels/README.md`; a test compares.

mod catalogue;
mod launches;
mod resources;

pub use catalogue::{card_in, with_card};
pub use resources::Use;

use crate::{Canonical, Error, Op, Outcome, verify};
use longhand_gpu::{Arch, Compiler, Device};

/// The architecture whose launches a card tells of.
pub const ARCH: &str = "sm_90a";

/// What every kernel uses, on every architecture that is tested.
///
/// # Errors
/// Where a kernel does not compile.
pub fn uses(compiler: &Compiler) -> Result<Vec<Use>, Error> {
    resources::compile(compiler, &Arch::TESTED)
}

/// The card of an operation, in Markdown: [`resources`], a line between, and the [`launches`], which are emulated.
///
/// # Errors
/// Where one of them fails.
pub fn card(op: Op, uses: &[Use]) -> Result<String, Error> {
    let device = Device::emulated(ARCH.parse()?)?;
    let canonical = op.canonical();
    let outcomes = canonical.iter().map(|canonical| (canonical, verify(&*canonical.case, &device)));
    Ok(resources(op, uses) + "\n" + &launches(outcomes)?)
}

/// The table of what the kernels of an operation use.
#[must_use]
pub fn resources(op: Op, uses: &[Use]) -> String {
    resources::table(uses.iter().filter(|used| used.folder() == op.name()))
}

/// The table of what the canonical launches did on an emulated device of [`ARCH`].
///
/// # Errors
/// The first that a launch ended with.
pub fn launches<'a>(outcomes: impl IntoIterator<Item = (&'a Canonical, Outcome)>) -> Result<String, Error> {
    launches::table(outcomes)
}

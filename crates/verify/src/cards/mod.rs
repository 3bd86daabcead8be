//! The cards of the kernels: what each one uses by architecture, and what it does in its canonical launches.
//!
//! `longhand kernels list --cards` prints them; `kernels/README.md` keeps them, and a test compares.

mod launches;
mod resources;

pub use resources::Use;

use crate::{Error, Op};
use longhand_gpu::{Arch, Compiler, Device};
use std::fmt::Write;

/// Where the launches are counted.
const ARCH: &str = "sm_90a";

/// What every kernel uses, on every architecture that is tested.
///
/// # Errors
/// Where a kernel does not compile.
pub fn uses(compiler: &Compiler) -> Result<Vec<Use>, Error> {
    resources::compile(compiler, &Arch::TESTED)
}

/// The cards, in Markdown: a section for each operation. The launches are emulated.
///
/// # Errors
/// Where one of them fails.
pub fn cards(uses: &[Use]) -> Result<String, Error> {
    let device = Device::emulated(ARCH.parse()?)?;
    let mut text = String::new();
    for op in Op::ALL {
        let _ = writeln!(text, "### {}\n", op.name());
        text += &resources::table(uses.iter().filter(|used| used.folder() == op.name()));
        text += "\n";
        text += &launches::table(&op.canonical(), &device)?;
        text += "\n";
    }
    Ok(text.trim_end().to_owned() + "\n")
}

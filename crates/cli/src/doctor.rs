//! `longhand doctor`.

use std::io::{self, Write};

use longhand_gpu::{Check, doctor};

/// Prints what was found and where, and under each thing missing what to install.
pub fn run() -> anyhow::Result<()> {
    let checks = doctor();
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut out = io::stdout().lock();
    for Check { name, found, place, advice } in &checks {
        let found = found.as_deref().unwrap_or("not found");
        let place = place.as_ref().map(|place| format!(", {place}")).unwrap_or_default();
        writeln!(out, "{name:width$}  {found}{place}")?;
        for line in advice.iter().flat_map(|advice| advice.lines()) {
            writeln!(out, "{:width$}  {line}", "")?;
        }
    }
    Ok(())
}

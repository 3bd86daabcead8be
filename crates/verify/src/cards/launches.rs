//! What the canonical launches count, against the least that they could.

use crate::{Canonical, Error, Outcome};
use longhand_gpu::emulator::{Counts, Report};

/// A row for each launch, of a device that is emulated.
pub fn table<'a>(launches: impl IntoIterator<Item = (&'a Canonical, Outcome)>) -> Result<String, Error> {
    let mut text =
        "| launch | bytes / minimum | bank conflicts | matrix operations / useful | error / budget |\n\
         |---|---|---|---|---|\n"
            .to_owned();
    for (canonical, outcome) in launches {
        text += &row(canonical, outcome)?;
    }
    Ok(text)
}

fn row(canonical: &Canonical, outcome: Outcome) -> Result<String, Error> {
    let worst = outcome.worst().map_or("exact".to_owned(), |worst| match worst.ratio() {
        0.0 => "exact".to_owned(),
        ratio => format!("{ratio:.2} ({})", worst.name),
    });
    if let Some(error) = outcome.error {
        return Err(error);
    }
    let sum = |count: fn(&Counts) -> u64| {
        outcome.reports.iter().map(|Report { total, .. }| count(total)).sum::<u64>()
    };
    let bytes = ratio(sum(|it| it.global_bytes), canonical.bytes as u64);
    let conflicts = ratio(sum(|it| it.shared_wavefronts), sum(|it| it.ideal_shared_wavefronts));
    let operations = match canonical.operations {
        0 => "none".to_owned(),
        useful => ratio(sum(|it| it.tensor_operations), useful as u64),
    };
    let (operation, case) = (canonical.case.operation(), &canonical.case);
    Ok(format!("| {operation} {case} | {bytes} | {conflicts} | {operations} | {worst} |\n"))
}

fn ratio(count: u64, best: u64) -> String {
    if best == 0 { "none".to_owned() } else { format!("{:.3}", count as f64 / best as f64) }
}

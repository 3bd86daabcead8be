//! What took turns on the CPU, in a table.

use longhand_results::{Row, Run, median};

use super::series::{Ceilings, OURS, Timing, digits, rate_text, time_text};

/// The part that a run calls so.
pub const PART: &str = "turns";

/// A section with a line for each work; nothing where none took turns.
pub fn section(runs: &[Run]) -> String {
    let Some(run) = runs.iter().find(|run| run.part == PART && !run.rows.is_empty()) else {
        return String::new();
    };
    let ceilings = Ceilings::of(&run.ceilings);
    let ours = run.rows.iter().filter(|row| row.implementation == OURS);
    let lines = ours.filter_map(|ours| {
        let theirs = run.rows.iter().find(|row| row.work == ours.work && row.implementation != OURS)?;
        Some(line(&Timing { row: ours, ceiling: ceilings.over(ours) }, theirs))
    });
    let theirs = run.versions.get("PyTorch").map_or("", String::as_str);
    format!(
        "\n### Longhand and PyTorch in turns, CPU\n\n\
         A round is one of ours and then one of PyTorch's ({theirs}), {} threads each, so that what else the machine does slows \
         both alike: `./run.sh --device cpu --only turns --minutes 20`. Peak memory is beyond what the process began with.\n\n\
         | | size | Longhand | rate | of the ceiling | PyTorch | takes | rounds from to | peak memory | PyTorch's | share |\n\
         |---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|\n{}",
        run.machine.cores,
        lines.collect::<String>()
    )
}

fn line(ours: &Timing<'_>, theirs: &Row) -> String {
    let (row, work) = (ours.row, &ours.row.work);
    // Each of a round, in which both had the same machine.
    let mut ratios: Vec<f64> = theirs.samples.iter().zip(&row.samples).map(|(b, a)| b / a).collect();
    ratios.sort_by(f64::total_cmp);
    let [least, most] = [ratios.first(), ratios.last()].map(|it| digits(it.copied().unwrap_or(f64::NAN)));
    let memory = match (row.peak_bytes, theirs.peak_bytes) {
        (Some(a), Some(b)) if b > 0 => {
            format!("{} MiB | {} MiB | {:.0}%", a >> 20, b >> 20, 100.0 * a as f64 / b as f64)
        }
        _ => " | |".to_owned(),
    };
    format!(
        "| {} {} {} | {} {} | {} | {} | {} | {} | {}x | {least} to {most} | {memory} |\n",
        work.operation,
        work.dtype,
        work.variant,
        work.axis,
        work.sizes.get(&work.axis).copied().unwrap_or_default(),
        time_text(row.median()),
        rate_text(row.rate(), &row.unit),
        ours.share(),
        time_text(theirs.median()),
        digits(median(&ratios)),
    )
}

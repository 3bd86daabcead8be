//! The table, a row at a time.

use longhand_gpu::Device;
use longhand_verify::Case;
use longhand_verify::tolerance::Judged;

use super::found::{Counts, Found};

/// Widths of the columns whose texts are known beforehand.
pub struct Table {
    operation: usize,
    case: usize,
    device: usize,
}

impl Table {
    pub fn new(cases: &[Box<dyn Case>], devices: &[Device]) -> Table {
        let longest = |texts: &mut dyn Iterator<Item = usize>| texts.max().unwrap_or(0);
        Table {
            operation: longest(&mut cases.iter().map(|case| case.operation().len())).max("operation".len()),
            case: longest(&mut cases.iter().map(|case| case.to_string().len())).max("case".len()),
            device: longest(&mut devices.iter().map(|device| device.name().len())).max("device".len()),
        }
    }

    pub fn header(&self) -> String {
        let counts = ["instr.", "sectors", "conflicts", "tensor ops"].map(str::to_owned);
        self.line(["", "operation", "case", "device"], "error / limit", "checks", &counts, "time")
    }

    /// One line, and under it one for each failure.
    pub fn row(&self, found: &Found) -> String {
        let outcome = &found.outcome;
        let verdict = if outcome.passed() { "ok" } else { "FAIL" };
        let case = found.case.to_string();
        let titles = [verdict, found.case.operation(), &case, found.device.name()];
        let error = outcome.worst().map_or_else(|| "-".to_owned(), error);
        let counts = found.counts().map_or_else(|| [(); 4].map(|()| "-".to_owned()), |counts| cells(&counts));
        let time = format!("{:.3} s", outcome.time.as_secs_f64());
        let mut row = self.line(titles, &error, found.sanitizer().unwrap_or("-"), &counts, &time);
        for line in outcome.failures().iter().flat_map(|failure| failure.lines()) {
            row += &format!("\n      {line}");
        }
        row
    }

    fn line(
        &self,
        [verdict, operation, case, device]: [&str; 4],
        error: &str,
        checks: &str,
        [instructions, sectors, conflicts, tensor]: &[String; 4],
        time: &str,
    ) -> String {
        let Table { operation: o, case: c, device: d } = self;
        format!(
            "{verdict:4}  {operation:o$}  {case:c$}  {device:d$}  {error:30}  {checks:6}  {instructions:>7}  {sectors:>7}  \
             {conflicts:>9}  {tensor:>10}  {time:>9}"
        )
    }
}

/// The worst output: its error, its limit, its name.
fn error(worst: &Judged) -> String {
    format!("{:.1e} / {:.1e} {}", worst.error, worst.limit, worst.name)
}

fn cells(counts: &Counts) -> [String; 4] {
    let conflicts = match counts.ideal_wavefronts {
        0 => "-".to_owned(),
        ideal => format!("{:.2}x", counts.wavefronts as f64 / ideal as f64),
    };
    [short(counts.instructions), short(counts.sectors), conflicts, short(counts.tensor_operations)]
}

/// Three or four digits and a unit.
fn short(count: u64) -> String {
    match count {
        0..10_000 => count.to_string(),
        10_000..10_000_000 => format!("{:.1}k", count as f64 / 1e3),
        10_000_000..10_000_000_000 => format!("{:.1}M", count as f64 / 1e6),
        _ => format!("{:.1}G", count as f64 / 1e9),
    }
}

#[cfg(test)]
mod tests {
    use super::short;

    #[test]
    fn a_count_keeps_its_leading_digits() {
        assert_eq!(
            [0, 9999, 12_345, 12_345_678, 12_345_678_901].map(short),
            ["0", "9999", "12.3k", "12.3M", "12.3G"]
        );
    }
}

//! What a launch did.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;

use crate::count::{Class, Counts};
use crate::machine::{Launch, Launched};

/// What a launch did, counted. The same launch always counts the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The entry.
    pub kernel: String,
    /// Distinct bytes of global memory that were read.
    pub global_unique_bytes_read: u64,
    /// Distinct bytes of global memory that were written.
    pub global_unique_bytes_written: u64,
    /// Instructions executed by warps, by class.
    pub warp_instructions: BTreeMap<Class, u64>,
    /// All lines together.
    #[serde(flatten)]
    pub total: Counts,
    /// Each line of the source that executed something, in order; lines of the PTX where it does not say its source.
    pub lines: Vec<LineCounts>,
}

/// One line of the source.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LineCounts {
    /// The source file; None for the PTX text.
    pub file: Option<String>,
    /// Counted from 1.
    pub line: u32,
    /// What it did.
    #[serde(flatten)]
    pub counts: Counts,
}

impl Counts {
    /// The counts with the names they are explained by.
    fn named(&self) -> [(&'static str, u64); 12] {
        [
            ("instructions of warps", self.instructions),
            ("instructions of lanes", self.lane_instructions),
            ("divergent branches", self.divergent_branches),
            ("global bytes requested", self.global_bytes),
            ("global sectors (32 bytes)", self.global_sectors),
            ("shared wavefronts", self.shared_wavefronts),
            ("  without bank conflicts", self.ideal_shared_wavefronts),
            ("tensor-core operations", self.tensor_operations),
            ("bytes copied by cp.async", self.copied_bytes),
            ("bytes of bulk copies", self.bulk_bytes),
            ("barriers", self.barriers),
            ("atomics", self.atomics),
        ]
    }
}

impl Report {
    pub(crate) fn new(launch: &Launch, launched: &Launched) -> Report {
        let program = launch.program;
        let mut report = Report { kernel: program.functions[launch.entry].name.clone(), ..Report::default() };
        let mut lines: BTreeMap<(Option<&str>, u32), Counts> = BTreeMap::new();
        for (instruction, executed) in program.code.iter().zip(&launched.profile.instructions) {
            if executed.instructions == 0 {
                continue;
            }
            let (class, name) = (instruction.form.class, instruction.form.name);
            let counts = Counts {
                barriers: if name.starts_with("bar") { executed.instructions } else { 0 },
                atomics: if class == Class::Atomic { executed.lane_instructions } else { 0 },
                ..*executed
            };
            *report.warp_instructions.entry(class).or_default() += counts.instructions;
            report.total += counts;
            let source = instruction.source.filter(|source| source.line > 0);
            let place = match source {
                Some(source) => (program.files.get(&source.file).map(String::as_str), source.line),
                None => (None, instruction.line),
            };
            *lines.entry(place).or_default() += counts;
        }
        let line = |((file, line), counts): ((Option<&str>, u32), Counts)| LineCounts {
            file: file.map(str::to_owned),
            line,
            counts,
        };
        (report.global_unique_bytes_read, report.global_unique_bytes_written) = launched.touched.count();
        report.lines = lines.into_iter().map(line).collect();
        report
    }

    /// The counts as a table to read, with the lines that cost most and those with bank conflicts.
    ///
    /// ```
    /// let text = longhand_emulator::Report::default().explain();
    /// assert!(text.contains("shared wavefronts"));
    /// ```
    #[must_use]
    pub fn explain(&self) -> String {
        let mut text = format!("{}\n", self.kernel);
        for (name, value) in self.total.named() {
            let _ = writeln!(text, "  {name:<26} {:>20}", grouped(value));
        }
        let distinct = [
            ("distinct global bytes read", self.global_unique_bytes_read),
            ("distinct global bytes written", self.global_unique_bytes_written),
        ];
        for (name, value) in distinct {
            let _ = writeln!(text, "  {name:<29} {:>17}", grouped(value));
        }
        let _ = writeln!(text, "\n  instructions of warps by class");
        for (class, count) in &self.warp_instructions {
            let share = 100.0 * *count as f64 / self.total.instructions.max(1) as f64;
            let name = format!("{class:?}").to_lowercase();
            let _ = writeln!(text, "    {name:<24} {:>20} {share:>5.1} %", grouped(*count));
        }
        let mut dear: Vec<&LineCounts> = self.lines.iter().collect();
        dear.sort_by_key(|it| std::cmp::Reverse(it.counts.instructions));
        table(&mut text, "lines that execute most", "instructions", &dear, |it| it.instructions);
        dear.retain(|it| it.counts.shared_wavefronts > it.counts.ideal_shared_wavefronts);
        dear.sort_by_key(|it| std::cmp::Reverse(conflicts(&it.counts)));
        table(&mut text, "lines with bank conflicts", "extra wavefronts", &dear, conflicts);
        text
    }
}

fn conflicts(counts: &Counts) -> u64 {
    counts.shared_wavefronts.saturating_sub(counts.ideal_shared_wavefronts)
}

/// Lines that a table shows.
const SHOWN: usize = 10;

fn table(text: &mut String, title: &str, what: &str, lines: &[&LineCounts], count: fn(&Counts) -> u64) {
    if lines.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n  {title} ({what})");
    for it in lines.iter().take(SHOWN) {
        let place = format!("{}:{}", it.file.as_deref().unwrap_or("PTX"), it.line);
        let _ = writeln!(text, "    {place:<40} {:>20}", grouped(count(&it.counts)));
    }
}

/// A number with its digits in groups of three.
fn grouped(value: u64) -> String {
    let digits = value.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn digits_come_in_groups_of_three() {
        assert_eq!([0, 999, 1000, 1_234_567].map(grouped), ["0", "999", "1,000", "1,234,567"]);
    }
}

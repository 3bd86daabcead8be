//! Timings along one axis, of ours and of the peers.

use std::collections::BTreeMap;

use longhand_results::{Row, Run};

use super::turns;

/// Who is compared with.
pub const OURS: &str = "longhand";

/// Everything that was timed of one kind of work.
pub struct Series<'a> {
    pub operation: &'a str,
    pub device: &'a str,
    pub dtype: &'a str,
    pub variant: &'a str,
    pub axis: &'a str,
    pub unit: &'a str,
    /// By size along the axis, and then by who computed it.
    pub points: BTreeMap<u64, BTreeMap<&'a str, Timing<'a>>>,
}

/// A row, and the ceiling of its run, in the row's units per second, where one was measured.
#[derive(Clone, Copy)]
pub struct Timing<'a> {
    pub row: &'a Row,
    pub ceiling: Option<f64>,
}

impl Timing<'_> {
    /// The share of the ceiling, or nothing.
    pub fn share(&self) -> String {
        self.ceiling.map_or_else(String::new, |top| format!("{:.0}%", 100.0 * self.row.rate() / top))
    }
}

/// The most that the machine was seen to do in a run.
#[derive(Default)]
pub struct Ceilings {
    /// Bytes per second of a copy, by device.
    copy: BTreeMap<String, f64>,
    /// Operations per second of a matrix product, by device and type.
    product: BTreeMap<(String, String), f64>,
}

impl Ceilings {
    pub fn of(rows: &[Row]) -> Ceilings {
        let mut ceilings = Ceilings::default();
        for row in rows {
            let (device, dtype) = (row.work.device.clone(), row.work.dtype.clone());
            let most = match row.work.operation.as_str() {
                "ceiling copy" => ceilings.copy.entry(device).or_default(),
                "ceiling matmul" => ceilings.product.entry((device, dtype)).or_default(),
                _ => continue,
            };
            *most = most.max(row.rate());
        }
        ceilings
    }

    pub fn over(&self, row: &Row) -> Option<f64> {
        match row.unit.as_str() {
            "byte" => self.copy.get(&row.work.device).copied(),
            "FLOP" => self.product.get(&(row.work.device.clone(), row.work.dtype.clone())).copied(),
            _ => None,
        }
    }

    /// Each with its name, as a rate.
    pub fn list(&self) -> Vec<String> {
        let copies =
            self.copy.iter().map(|(device, rate)| format!("copy on {device} {}", rate_text(*rate, "byte")));
        let products = self.product.iter();
        let products = products.map(|((device, dtype), rate)| {
            format!("matrix product of {dtype} on {device} {}", rate_text(*rate, "FLOP"))
        });
        copies.chain(products).collect()
    }
}

/// The series of a machine's results, in the order in which they were first measured; ceilings are none.
pub fn series(runs: &[Run]) -> Vec<Series<'_>> {
    let mut all: Vec<Series<'_>> = Vec::new();
    // What took turns has a table of its own.
    let alone = runs.iter().filter(|run| run.part != turns::PART);
    let timings = alone.flat_map(|run| {
        let ceilings = Ceilings::of(&run.ceilings);
        run.rows.iter().map(move |row| Timing { row, ceiling: ceilings.over(row) })
    });
    for timing in timings {
        let row = timing.row;
        let work = &row.work;
        let Some(&size) = work.sizes.get(&work.axis) else { continue };
        if work.operation.starts_with("ceiling") || row.samples.is_empty() {
            continue;
        }
        let key =
            |it: &Series<'_>| [it.operation, it.device, it.dtype, it.variant, it.axis].map(str::to_owned);
        let wanted =
            [&work.operation, &work.device, &work.dtype, &work.variant, &work.axis].map(Clone::clone);
        let place = all.iter().position(|it| key(it) == wanted).unwrap_or_else(|| {
            all.push(Series {
                operation: &work.operation,
                device: &work.device,
                dtype: &work.dtype,
                variant: &work.variant,
                axis: &work.axis,
                unit: &row.unit,
                points: BTreeMap::new(),
            });
            all.len() - 1
        });
        all[place].points.entry(size).or_default().insert(&row.implementation, timing);
    }
    all
}

impl<'a> Series<'a> {
    /// Who was timed: ours first, then the others by name.
    pub fn implementations(&self) -> Vec<&'a str> {
        let mut names: Vec<&str> = self.points.values().flat_map(BTreeMap::keys).copied().collect();
        names.sort_by_key(|&name| (name != OURS, name));
        names.dedup();
        names
    }

    pub fn title(&self) -> String {
        let words = [self.operation, self.device, self.dtype, self.variant];
        words.into_iter().filter(|word| !word.is_empty()).collect::<Vec<_>>().join(" ")
    }

    /// The name of its picture.
    pub fn file_name(&self) -> String {
        let words = self.title().to_lowercase();
        let words = words.split(|c: char| !c.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
        words.collect::<Vec<_>>().join("-") + ".svg"
    }
}

/// What a rate is divided by to be readable, and its unit then.
pub fn scale(rate: f64, unit: &str) -> (f64, String) {
    let short = match unit {
        "byte" => "B",
        "FLOP" => "FLOP",
        other => {
            return if rate >= 1e6 { (1e6, format!("M {other}s/s")) } else { (1.0, format!("{other}s/s")) };
        }
    };
    let (factor, prefix) = if rate >= 1e12 && unit == "FLOP" { (1e12, "T") } else { (1e9, "G") };
    (factor, format!("{prefix}{short}/s"))
}

/// A rate in three digits and its unit.
pub fn rate_text(rate: f64, unit: &str) -> String {
    let (factor, name) = scale(rate, unit);
    format!("{} {name}", digits(rate / factor))
}

/// A time in three digits and its unit.
pub fn time_text(nanoseconds: f64) -> String {
    let (factor, unit) = match nanoseconds {
        ..1e3 => (1.0, "ns"),
        ..1e6 => (1e3, "µs"),
        ..1e9 => (1e6, "ms"),
        _ => (1e9, "s"),
    };
    format!("{} {unit}", digits(nanoseconds / factor))
}

/// Three digits.
pub fn digits(value: f64) -> String {
    match value.abs() {
        ..9.995 => format!("{value:.2}"),
        ..99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_fitting_unit() {
        assert_eq!([9.994, 9.996, 99.96, 1234.0].map(digits), ["9.99", "10.0", "100", "1234"]);
        assert_eq!([12.0, 1.5e3, 2e6, 3.25e9].map(time_text), ["12.0 ns", "1.50 µs", "2.00 ms", "3.25 s"]);
        assert_eq!(rate_text(6.6e14, "FLOP"), "660 TFLOP/s");
        assert_eq!(rate_text(3.0e12, "byte"), "3000 GB/s");
        assert_eq!(rate_text(850.0, "token"), "850 tokens/s");
    }
}

//! `longhand verify`.

mod found;
mod hardware;
mod table;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::Instant;

use clap::builder::PossibleValuesParser;
use clap::{Args, ValueEnum};
use longhand_gpu::{Arch, Device, Error, driver_info};
use longhand_verify::{Case, Op};

use found::Found;
use table::Table;

/// Run every kernel on telling shapes and judge it by the float64 reference
///
/// Each kernel runs on a virtual GPU, which needs no hardware, from the very PTX that a GPU would get. A row tells how
/// far the result is from the float64 reference and how far it may be (twice the error of the plain algorithm in the same
/// precision, three times for gradients), whether the virtual GPU found a race, an access out of bounds, a read of what
/// nobody wrote or a forgotten wait, and what the launches did. Any failure makes the exit code 1.
#[derive(Args)]
pub struct Verify {
    /// Only these operations; may be given more than once
    #[arg(long = "op", value_name = "NAME", num_args = 1.., value_delimiter = ',', ignore_case = true,
          value_parser = PossibleValuesParser::new(Op::ALL.map(Op::name)))]
    ops: Vec<String>,
    /// Only the rows whose operation and case contain this, as "attention decode", beside those of --op; may be given more
    /// than once
    #[arg(long = "row", value_name = "TEXT")]
    rows: Vec<String>,
    /// Architectures to compile for and to emulate
    #[arg(long, value_name = "ARCH", value_delimiter = ',', default_value = "sm_80,sm_90a")]
    arch: Vec<Arch>,
    /// Where to run
    #[arg(long, value_enum, default_value_t)]
    device: Where,
    /// Run on the first GPU and on a virtual one of its architecture, and compare what they write
    #[arg(long, conflicts_with_all = ["device", "arch"])]
    compare: bool,
    /// Print a JSON array, an object for each row, with every count
    #[arg(long)]
    json: bool,
}

/// Where to run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum Where {
    /// Virtual GPUs, one for each --arch.
    #[default]
    Emulated,
    /// The first GPU, or an error.
    Cuda,
    /// Virtual GPUs, and the first GPU where there is one.
    All,
}

impl Verify {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let cases = self.selected();
        anyhow::ensure!(!cases.is_empty(), "--row: no row contains {}", self.rows.join(" or "));
        if self.compare {
            return hardware::run(&cases, self.json);
        }
        let devices = self.devices()?;
        let failed = judge(&cases, &devices, self.json, &mut io::stdout().lock())?;
        if failed.is_empty() {
            return Ok(ExitCode::SUCCESS);
        }
        eprintln!("error: {} of {} failed: {}", failed.len(), cases.len() * devices.len(), few(&failed));
        Ok(ExitCode::FAILURE)
    }

    /// What was asked for, in the order of all; without a wish, all.
    fn selected(&self) -> Vec<Box<dyn Case>> {
        let all = self.ops.is_empty() && self.rows.is_empty();
        let of = |op: Op| all || self.ops.iter().any(|name| name.eq_ignore_ascii_case(op.name()));
        let row = |case: &dyn Case| {
            let title = format!("{} {case}", case.operation());
            self.rows.iter().any(|text| title.contains(text.as_str()))
        };
        let cases = |op: Op| op.cases().into_iter().filter(move |case| of(op) || row(&**case));
        Op::ALL.into_iter().flat_map(cases).collect()
    }

    fn devices(&self) -> anyhow::Result<Vec<Device>> {
        let mut devices = Vec::new();
        if self.device != Where::Cuda {
            for arch in &self.arch {
                devices.push(Device::emulated(*arch)?);
            }
        }
        match (self.device, driver_info()) {
            (Where::Cuda, _) | (Where::All, Ok(_)) => devices.push(Device::cuda(0)?),
            (Where::All, Err(error)) => eprintln!("no GPU: {}", first_line(&error)),
            (Where::Emulated, _) => (),
        }
        // Without a compiler nothing can run: better said once than in every row.
        devices.iter().try_for_each(|device| device.compiler().map(|_| ()))?;
        Ok(devices)
    }
}

/// Runs each case on each device and writes a row of it; returns those that failed.
fn judge(
    cases: &[Box<dyn Case>],
    devices: &[Device],
    json: bool,
    out: &mut impl Write,
) -> io::Result<Vec<String>> {
    let start = Instant::now();
    let mut failed = Vec::new();
    let table = Table::new(cases, devices);
    writeln!(out, "{}", if json { "[".to_owned() } else { table.header() })?;
    let total = cases.len() * devices.len();
    let runs = cases.iter().flat_map(|case| devices.iter().map(move |device| (case, device)));
    for (number, (case, device)) in (1..).zip(runs) {
        let found = Found::new(&**case, device);
        if !found.outcome.passed() {
            failed.push(found.title());
        }
        if json {
            writeln!(out, "{}{}", found.json(), if number < total { "," } else { "" })?;
        } else {
            writeln!(out, "{}", table.row(&found))?;
        }
    }
    if json {
        writeln!(out, "]")?;
    } else {
        let seconds = start.elapsed().as_secs_f64();
        writeln!(out, "\n{} of {total} passed in {seconds:.0} s", total - failed.len())?;
    }
    Ok(failed)
}

fn first_line(error: &Error) -> String {
    error.to_string().lines().next().unwrap_or_default().to_owned()
}

/// The first of the names, and how many more there are.
fn few(names: &[String]) -> String {
    const SHOWN: usize = 3;
    let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join("; ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown}; and {more} more"),
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;

    use clap::Parser;
    use longhand_gpu::Device;
    use longhand_verify::{Case, Error, Trial};
    use serde_json::Value;

    use super::{Verify, few, judge};

    fn selected(arguments: &[&str]) -> Vec<String> {
        #[derive(clap::Parser)]
        struct Program {
            #[command(flatten)]
            verify: Verify,
        }
        let program = Program::parse_from([&["longhand"], arguments].concat());
        program.verify.selected().iter().map(|case| case.operation().to_owned()).collect()
    }

    #[test]
    fn rows_are_those_of_an_operation_and_those_that_contain_a_text() {
        let mut found = selected(&["--row", "attention decode", "--op", "kv_cache"]);
        found.dedup();
        assert_eq!(found, ["attention decode", "kv cache append"]);
        assert!(selected(&["--row", "no such row"]).is_empty());
        assert!(selected(&[]).len() > selected(&["--op", "attention"]).len());
    }

    #[test]
    fn of_many_names_the_first_three_are_told_and_the_rest_counted() {
        let names = ["a", "b", "c", "d", "e"].map(String::from);
        assert_eq!(few(&names[..3]), "a; b; c");
        assert_eq!(few(&names), "a; b; c; and 2 more");
    }

    /// A case that passes, or breaks a rule.
    #[derive(Debug)]
    struct Planted {
        passes: bool,
    }

    impl fmt::Display for Planted {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "passes {}", self.passes)
        }
    }

    impl Case for Planted {
        fn operation(&self) -> &'static str {
            "planted"
        }

        fn run(&self, _trial: &mut Trial) -> Result<(), Error> {
            let fault = Error::WrittenBetween { tensor: "out", offset: 3 };
            if self.passes { Ok(()) } else { Err(fault) }
        }
    }

    #[test]
    fn a_case_that_fails_is_told_in_its_row_in_the_sum_and_to_the_caller() {
        let cases = [true, false, true].map(|passes| Box::new(Planted { passes }) as Box<dyn Case>);
        let devices = [Device::emulated("sm_80".parse().unwrap()).unwrap()];
        let mut table = Vec::new();
        let failed = judge(&cases, &devices, false, &mut table).unwrap();
        assert_eq!(failed, [format!("planted passes false on {}", devices[0].name())]);
        let table = String::from_utf8(table).unwrap();
        assert!(table.contains("the byte at offset 3"), "{table}");
        assert!(table.contains("2 of 3 passed"), "{table}");

        let mut json = Vec::new();
        judge(&cases, &devices, true, &mut json).unwrap();
        let rows: Vec<Value> = serde_json::from_slice(&json).unwrap();
        assert_eq!(rows.iter().map(|row| row["passed"] == true).collect::<Vec<_>>(), [true, false, true]);
    }
}

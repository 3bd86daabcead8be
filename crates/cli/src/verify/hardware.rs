//! `longhand verify --compare`.

use std::io::{self, Write};
use std::process::ExitCode;

use longhand_gpu::Device;
use longhand_verify::{Case, Difference, compare};
use serde_json::{Value, json};

/// Runs each case on the GPU and on a virtual one of its architecture, from the same PTX, and prints how far the outputs
/// are apart.
pub fn run(cases: &[Box<dyn Case>], json: bool) -> anyhow::Result<ExitCode> {
    let gpu = Device::cuda(0)?;
    let emulated = Device::emulated(gpu.arch())?;
    gpu.compiler()?;
    let mut out = io::stdout().lock();
    let mut failed = 0;
    for case in cases {
        let differences = compare(&**case, &gpu, &emulated);
        let passed = differences.as_ref().is_ok_and(|all| all.iter().all(Difference::passed));
        failed += usize::from(!passed);
        if json {
            let error = differences.as_ref().err().map(ToString::to_string);
            let outputs: Vec<Value> = differences.iter().flatten().map(output).collect();
            let row = json!({
                "operation": case.operation(), "case": case.to_string(), "device": gpu.name(),
                "against": emulated.name(), "passed": passed, "outputs": outputs, "error": error,
            });
            writeln!(out, "{row}")?;
            continue;
        }
        let verdict = if passed { "ok  " } else { "FAIL" };
        match differences {
            Err(error) => writeln!(out, "{verdict}  {} {case}: {error}", case.operation())?,
            Ok(all) => {
                let words: Vec<String> = all.iter().map(words).collect();
                writeln!(out, "{verdict}  {} {case}: {}", case.operation(), words.join("; "))?;
            }
        }
    }
    if !json {
        writeln!(out, "\n{} of {} agree with {}", cases.len() - failed, cases.len(), emulated.name())?;
    }
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn output(it: &Difference) -> Value {
    json!({
        "name": it.name, "elements": it.elements, "differing": it.differing, "error": it.distance, "limit": it.limit,
    })
}

fn words(it: &Difference) -> String {
    match it.differing {
        0 => format!("{} bitwise the same", it.name),
        differing => {
            format!(
                "{} {differing} of {} differ, by {:.1e} / {:.1e}",
                it.name, it.elements, it.distance, it.limit
            )
        }
    }
}

//! Results out of the files and the output of the programs that were run.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use longhand_results::{Check, Missing, Row};
use serde_json::{Value, json};

/// The rows that the benches noted in criterion's folder, with criterion's samples; and what they left out.
pub fn criterion_rows(folder: &Path) -> Result<(Vec<Row>, Vec<Missing>)> {
    let mut samples = HashMap::new();
    for file in files(folder, "benchmark.json") {
        let id = read(&file)?["full_id"].as_str().unwrap_or_default().to_owned();
        let sample = read(&file.with_file_name("sample.json"))?;
        samples.insert(id, per_iteration(&sample));
    }
    let (mut rows, mut missing) = (Vec::new(), Vec::new());
    let mut notes = files(&folder.join("rows"), ".json");
    notes.sort_by_key(|note| fs::metadata(note).and_then(|it| it.modified()).ok());
    for file in notes {
        let note = read(&file)?;
        if note.get("why").is_some() {
            missing.push(serde_json::from_value(note)?);
            continue;
        }
        let Some(samples) = note["id"].as_str().and_then(|id| samples.get(id)) else { continue };
        let mut row = note["work"].clone();
        for field in ["implementation", "amount", "unit", "peak_bytes"] {
            row[field] = note[field].clone();
        }
        row["samples"] = json!(samples);
        rows.push(serde_json::from_value(row).with_context(|| file.display().to_string())?);
    }
    Ok((rows, missing))
}

/// Criterion keeps how many iterations a sample had, and their time together in nanoseconds.
fn per_iteration(sample: &Value) -> Vec<f64> {
    let numbers = |name: &str| {
        sample[name].as_array().cloned().unwrap_or_default().into_iter().filter_map(|x| x.as_f64())
    };
    numbers("times").zip(numbers("iters")).map(|(time, count)| time / count).collect()
}

/// The files below a folder whose names end so, of what was measured last.
fn files(folder: &Path, end: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() && !path.ends_with("base") && !path.ends_with("rows") {
            found.extend(files(&path, end));
        } else if path.to_string_lossy().ends_with(end) {
            found.push(path);
        }
    }
    found
}

fn read(path: &Path) -> Result<Value> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    serde_json::from_str(&text).with_context(|| path.display().to_string())
}

/// What `longhand verify --json` printed, a case in each line, whole or cut short.
pub fn verified(output: &str) -> Vec<Check> {
    let cases =
        output.lines().filter_map(|line| serde_json::from_str::<Value>(line.trim_end_matches(',')).ok());
    cases.filter(Value::is_object).flat_map(|case| checks(&case)).collect()
}

fn checks(case: &Value) -> Vec<Check> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let [operation, shape, device] =
        ["operation", "case", "device"].map(|name| text(&case[name]).unwrap_or_default());
    let check = |output: &str, error, limit, failure| Check {
        what: format!("{operation} {shape} on {device}: {output}"),
        against: text(&case["against"]).unwrap_or_else(|| "reference, f64".to_owned()),
        error,
        limit,
        failure,
    };
    let outputs = case["outputs"].as_array().into_iter().flatten().map(|output| {
        let name = output["name"].as_str().unwrap_or_default();
        let limit = output["limit"].as_f64().unwrap_or_default();
        check(name, output["error"].as_f64(), limit, text(&output["failure"]))
    });
    let error = text(&case["error"]).map(|error| check("launch", None, 0.0, Some(error)));
    outputs.chain(error).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(folder: &Path, file: &str, value: &Value) {
        let path = folder.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, value.to_string()).unwrap();
    }

    #[test]
    fn a_row_gets_the_samples_of_criterion_under_its_name_and_what_was_left_out_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let at = folder.path();
        let id = "attention forward/longhand cpu f32/256";
        write(at, "attention forward/longhand cpu f32/256/new/benchmark.json", &json!({ "full_id": id }));
        let sample = json!({ "iters": [10.0, 20.0], "times": [100.0, 220.0] });
        write(at, "attention forward/longhand cpu f32/256/new/sample.json", &sample);
        write(at, "attention forward/longhand cpu f32/256/base/benchmark.json", &json!({ "full_id": "old" }));
        let work = json!({
            "operation": "attention forward", "device": "cpu", "dtype": "f32", "variant": "", "sizes": {"T": 256}, "axis": "T",
        });
        let note = json!({
            "id": id, "work": work, "implementation": "longhand", "amount": 8.0, "unit": "FLOP", "peak_bytes": 5,
        });
        write(at, "rows/a.json", &note);
        write(at, "rows/b.json", &json!({ "what": "adamw", "why": "no memory" }));
        let (rows, missing) = criterion_rows(at).unwrap();
        assert_eq!(rows.len(), 1);
        assert_eq!((rows[0].samples.as_slice(), rows[0].peak_bytes), ([10.0, 11.0].as_slice(), Some(5)));
        assert_eq!(missing, [Missing { what: "adamw".to_owned(), why: "no memory".to_owned() }]);
    }

    #[test]
    fn of_an_output_that_was_cut_short_the_whole_lines_count() {
        let output = "[\n{\"operation\":\"norm\",\"case\":\"W8\",\"device\":\"gpu\",\"outputs\":\
                      [{\"name\":\"out\",\"error\":0.5,\"limit\":1.0,\"failure\":null}],\"error\":null},\n\
                      {\"operation\":\"norm\",\"case\":\"W9\",\"device\":\"gpu\",\"outputs\":[],\"error\":\"boom\"},\n{\"oper";
        let checks = verified(output);
        assert_eq!(checks.iter().map(Check::passed).collect::<Vec<_>>(), [true, false]);
        assert_eq!(checks[1].failure.as_deref(), Some("boom"));
    }
}

//! `longhand verify`.

use serde_json::Value;

use crate::workplace::{Workplace, stderr};

/// The command finds NVRTC where this machine has it; where it has none, says so and skips.
fn has_nvrtc() -> bool {
    let found = longhand_gpu::nvrtc::locate().is_ok();
    if !found {
        println!("skipped: NVRTC was not found");
    }
    found
}

#[test]
fn every_case_of_an_operation_is_a_row_and_the_sum_of_them_the_last_line() {
    if !has_nvrtc() {
        return;
    }
    let out = Workplace::new().succeed(&["verify", "--op", "embedding"]);
    let cases = longhand_verify::Op::Embedding.cases().len();
    for arch in ["sm_80", "sm_90a"] {
        let device = format!("emulated {arch} ");
        let rows: Vec<&str> = out.lines().filter(|line| line.contains(&device)).collect();
        assert_eq!(rows.len(), cases, "{out}");
        assert!(
            rows.iter().all(|row| row.starts_with("ok    embedding ") && row.contains(" clean ")),
            "{out}"
        );
    }
    let total = 2 * cases;
    assert!(out.lines().last().unwrap().starts_with(&format!("{total} of {total} passed")), "{out}");
}

#[test]
fn json_has_an_object_for_each_row() {
    if !has_nvrtc() {
        return;
    }
    let out = Workplace::new().succeed(&["verify", "--op", "embedding", "--arch", "sm_80", "--json"]);
    let rows: Vec<Value> = serde_json::from_str(&out).unwrap();
    assert_eq!(rows.len(), longhand_verify::Op::Embedding.cases().len());
    for row in rows {
        assert_eq!((&row["passed"], &row["sanitizer"]), (&Value::Bool(true), &Value::from("clean")), "{row}");
        assert_eq!(row["outputs"][0]["name"], "out", "{row}");
        let kernels: Vec<&Value> =
            row["launches"].as_array().unwrap().iter().map(|it| &it["kernel"]).collect();
        // Without tokens there is nothing to launch.
        let tokens = !row["case"].as_str().unwrap().contains(" N0 ");
        assert_eq!(kernels.contains(&&Value::from("embedding_backward")), tokens, "{row}");
    }
}

#[test]
fn an_operation_an_architecture_or_a_device_that_is_none_is_a_usage_error_that_lists_those_there_are() {
    let place = Workplace::new();
    for (arguments, told) in [
        (["verify", "--op", "convolution"], "cross_entropy"),
        (["verify", "--arch", "ampere"], "sm_90a"),
        (["verify", "--device", "tpu"], "emulated"),
    ] {
        let output = place.run(&arguments);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
        assert!(stderr(&output).contains(told), "{}", stderr(&output));
    }
}

#[test]
fn without_nvrtc_one_line_says_what_to_install() {
    let place = Workplace::new();
    let output =
        place.longhand(&["verify", "--op", "embedding"]).env("LONGHAND_NVRTC", "/nowhere").output().unwrap();
    crate::workplace::assert_fails(&output, &["NVRTC", "pip install"]);
    assert!(output.stdout.is_empty());
}

//! `run.sh` of a pack whose programs are scripts: what it does when they work, crash or take too long.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A bench that writes what criterion and our benches write: a sample of two iterations.
const BENCH: &str = r#"
at="$CRITERION_HOME/op/new"
mkdir -p "$at" "$CRITERION_HOME/rows"
echo '{"full_id":"op"}' > "$at/benchmark.json"
echo '{"iters":[2.0],"times":[3.0]}' > "$at/sample.json"
echo '{"id":"op","work":{"operation":"'$LONGHAND_BENCH'","device":"'$LONGHAND_DEVICE'","dtype":"f32","variant":"",
"sizes":{"T":1},"axis":"T"},"implementation":"longhand","amount":1.0,"unit":"byte","peak_bytes":null}' \
    > "$CRITERION_HOME/rows/op.json"
"#;

struct Pack(tempfile::TempDir);

impl Pack {
    /// `bench` runs after what a working bench does.
    fn new(bench: &str) -> Pack {
        let pack = Pack(tempfile::tempdir().unwrap());
        for folder in ["bin", "peers"] {
            fs::create_dir(pack.path(folder)).unwrap();
        }
        fs::copy(env!("CARGO_BIN_EXE_xtask"), pack.path("bin/xtask")).unwrap();
        let verified = r#"{"operation":"norm","case":"W8","device":"gpu","outputs":[{"name":"out","error":0.5,"limit":1.0}]}"#;
        pack.script("bin/longhand", &format!("echo '[';echo '{verified}';echo ']'"));
        pack.script("bin/longhand-benches", &format!("{BENCH}{bench}"));
        fs::write(pack.path("peers/torch_peers.py"), "raise SystemExit('no PyTorch here')").unwrap();
        fs::write(pack.path("run.sh"), include_str!("../src/run.sh")).unwrap();
        fs::set_permissions(pack.path("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
        pack
    }

    fn script(&self, name: &str, text: &str) {
        fs::write(self.path(name), format!("#!/bin/sh\n{text}\n")).unwrap();
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o755)).unwrap();
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(self.path("run.sh"));
        command.current_dir("/").args(arguments).arg("--out").arg(self.path("out")).output().unwrap()
    }

    fn result(&self, part: &str) -> Value {
        let text = fs::read_to_string(self.path("out").join(format!("{part}.json"))).unwrap();
        serde_json::from_str(&text).unwrap()
    }
}

fn has(folder: &Path, file: &str) -> bool {
    folder.join(file).exists()
}

#[test]
fn only_an_operation_is_verified_and_timed_and_without_pytorch_that_is_missing() {
    let pack = Pack::new("");
    let output = pack.run(&["--device", "emulated", "--only", "norm"]);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(pack.result("verify")["checks"][0]["error"], 0.5);
    let norm = pack.result("norm");
    assert_eq!(
        (&norm["rows"][0]["samples"][0], &norm["rows"][0]["device"]),
        (&1.5.into(), &"emulated".into())
    );
    assert!(norm["missing"][0]["why"].as_str().unwrap().contains("no PyTorch here"), "{norm}");
    assert!(
        norm["machine"]["cores"].as_u64().unwrap() > 0 && norm["date"].as_str().unwrap().ends_with('Z'),
        "{norm}"
    );
    assert!(!has(&pack.path("out"), "attention.json"));
}

#[test]
fn a_part_that_crashes_is_told_of_keeps_its_rows_and_the_next_one_runs() {
    let pack = Pack::new("test $LONGHAND_BENCH = norm && kill -SEGV $$; exit 0");
    let output = pack.run(&["--device", "cpu", "--only", "norm,adamw"]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("crashed: signal 11"), "{output:?}");
    let norm = pack.result("norm");
    assert!(norm["failure"].as_str().unwrap().contains("signal 11") && norm["rows"][0].is_object(), "{norm}");
    assert_eq!(pack.result("adamw")["failure"], Value::Null);
}

#[test]
fn at_the_limit_what_runs_is_stopped_and_what_it_measured_is_kept() {
    let pack = Pack::new("case $LONGHAND_BENCH in ceilings | exchange) ;; *) sleep 60 ;; esac");
    let start = Instant::now();
    let only = "norm,adamw,cross_entropy,matmul";
    let output = pack.run(&["--device", "cpu", "--only", only, "--minutes", "0.12"]);
    assert!(start.elapsed() < Duration::from_secs(30), "{:?}", start.elapsed());
    assert!(!output.status.success());
    let norm = pack.result("norm");
    assert!(
        norm["failure"].as_str().unwrap().contains("out of time") && norm["rows"][0].is_object(),
        "{norm}"
    );
    assert_eq!(norm["ceilings"][0]["operation"], "ceilings");
    // Each took its share of what the one before it left.
    assert!(pack.result("matmul")["failure"].as_str().unwrap().contains("not begun"));
}

#[test]
fn turns_are_what_their_script_wrote_before_it_ended_and_why_it_did_is_told() {
    let pack = Pack::new("");
    let script = r#"
import json, sys
argument = lambda name: sys.argv[sys.argv.index(name) + 1]
work = {"operation": "matmul", "device": "cpu", "dtype": "f32", "variant": "", "sizes": {"M": 1}, "axis": "M"}
row = {**work, "amount": 1, "unit": "FLOP", "implementation": argument("--longhand"), "peak_bytes": None, "samples": [float(argument("--seconds"))]}
machine = {"cpu": "", "cores": 0, "memory": 0, "gpu": None}
run = {"part": "", "date": "", "seconds": 0, "machine": machine, "versions": {"PyTorch": "2"}, "rows": [row], "checks": [], "missing": [], "failure": None}
json.dump(run, open(argument("--out"), "w"))
sys.exit("no memory")
"#;
    fs::write(pack.path("peers/turns.py"), script).unwrap();
    let output = pack.run(&["--device", "cpu", "--only", "turns"]);
    assert!(output.status.success(), "{output:?}");
    let turns = pack.result("turns");
    assert!(turns["rows"][0]["implementation"].as_str().unwrap().ends_with("bin/longhand-turns"), "{turns}");
    assert!(turns["missing"][0]["why"].as_str().unwrap().contains("no memory"), "{turns}");
    assert!(turns["rows"][0]["samples"][0].as_f64().unwrap() < 60.0, "{turns}");
    assert_eq!((&turns["part"], &turns["versions"]["PyTorch"]), (&"turns".into(), &"2".into()));
}

#[test]
fn without_a_gpu_the_answer_is_what_is_missing() {
    if longhand_gpu::driver_info().is_ok() {
        return println!("skipped: this machine has a GPU");
    }
    let pack = Pack::new("");
    let output = pack.run(&[]);
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("libcuda"), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("--device cpu"), "{output:?}");
    assert_eq!(pack.result("doctor")["missing"][0]["what"], "GPU");
    assert!(!has(&pack.path("out"), "verify.json"));
}

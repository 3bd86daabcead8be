//! Training with the real binary: what a run leaves, and that it resumes as if it had never stopped.

use std::{
    fs,
    process::{Child, Command},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::workplace::{Workplace, checkpoints, losses, metrics, stderr, tiny};

#[test]
fn a_run_leaves_a_hugging_face_folder_losses_and_a_picture() {
    let place = Workplace::new();
    let out = place.train(&["--steps", "6", "--eval-every", "2"]);
    for file in ["model.safetensors", "config.json", "tokenizer.json", "tokenizer_config.json", "loss.svg"] {
        assert!(place.path("run").join(file).is_file(), "{file} is missing");
    }
    assert_eq!(checkpoints(&place.path("run")), ["checkpoint-6"]);
    for step in ["step     0", "step     2", "step     4", "step     6"] {
        assert!(out.contains(&format!("{step}  held-out loss")), "{step} is not in\n{out}");
    }
    assert!(out.contains("sample:") && out.contains("are in run"), "{out}");
}

#[test]
fn every_line_of_metrics_has_the_six_fields_and_each_step_is_there_once() {
    let place = Workplace::new();
    place.train(&["--steps", "5", "--eval-every", "2"]);
    let lines = metrics(&place.path("run"));
    let steps = |split: &str| -> Vec<u64> {
        lines
            .iter()
            .filter(|line| line["split"] == split)
            .map(|line| line["step"].as_u64().unwrap())
            .collect()
    };
    assert_eq!(steps("train"), [1, 2, 3, 4, 5]);
    assert_eq!(steps("valid"), [0, 2, 4, 5]);
    let mut before = 0.0;
    for line in &lines {
        assert_eq!(line.as_object().unwrap().len(), 6, "{line}");
        for field in ["loss", "bits_per_byte", "tokens_per_second"] {
            assert!(line[field].as_f64().is_some_and(|value| value > 0.0), "{field} of {line}");
        }
        let seconds = line["seconds"].as_f64().unwrap();
        assert!(seconds >= before, "{line}");
        before = seconds;
    }
}

#[test]
fn the_model_learns() {
    let place = Workplace::new();
    place.train(&["--steps", "150", "--eval-every", "150", "--lr", "0.01"]);
    let lines = metrics(&place.path("run"));
    let held_out: Vec<f64> = lines
        .iter()
        .filter(|line| line["split"] == "valid")
        .map(|line| line["loss"].as_f64().unwrap())
        .collect();
    assert!(held_out[1] < 0.7 * held_out[0], "{held_out:?}");
}

/// Starts a run, waits until it has written the checkpoint of `step` or a later one, and returns it still running.
fn start_until_checkpoint(place: &Workplace, options: &[&str], step: u64) -> Child {
    let mut child = place.longhand(&tiny(options)).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    let there = |name: &String| {
        name.strip_prefix("checkpoint-")
            .and_then(|name| name.parse::<u64>().ok())
            .is_some_and(|found| found >= step)
    };
    while !checkpoints(&place.path("run")).iter().any(there) {
        assert!(child.try_wait().unwrap().is_none(), "the run ended before its checkpoint");
        assert!(Instant::now() < deadline, "no checkpoint after two minutes");
        sleep(Duration::from_millis(2));
    }
    child
}

const LONG: [&str; 4] = ["--steps", "400", "--eval-every", "20"];

#[test]
fn a_killed_run_resumes_bitwise_as_if_it_had_never_stopped() {
    let (whole, killed) = (Workplace::new(), Workplace::new());
    whole.train(&LONG);
    let mut child = start_until_checkpoint(&killed, &LONG, 60);
    child.kill().unwrap();
    assert!(!child.wait().unwrap().success(), "the run was over before it was killed");
    killed.succeed(&["train", "--resume", "--out", "run", "--device", "cpu"]);

    let (whole, killed) = (whole.path("run"), killed.path("run"));
    assert_eq!(losses(&whole), losses(&killed));
    for file in ["model.safetensors", "checkpoint-400/optimizer.safetensors", "tokenizer.json", "config.json"]
    {
        assert!(
            fs::read(whole.join(file)).unwrap() == fs::read(killed.join(file)).unwrap(),
            "{file} differs"
        );
    }
}

#[cfg(unix)]
#[test]
fn ctrl_c_saves_a_checkpoint_says_how_to_resume_and_exits_with_130() {
    let (whole, stopped) = (Workplace::new(), Workplace::new());
    whole.train(&LONG);
    let child = start_until_checkpoint(&stopped, &LONG, 20);
    let kill = Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("resume with: longhand train --resume --out run"),
        "{}",
        stderr(&output)
    );
    stopped.succeed(&["eval", "--model", "run", "--text", "text.txt"]);

    stopped.succeed(&["train", "--resume", "--out", "run", "--device", "cpu"]);
    let model = |place: &Workplace| fs::read(place.path("run/model.safetensors")).unwrap();
    assert!(model(&whole) == model(&stopped), "the models differ");
    assert_eq!(losses(&whole.path("run")), losses(&stopped.path("run")));
}

#[test]
fn a_finished_run_resumes_to_the_same_files() {
    let place = Workplace::new();
    place.train(&["--steps", "4", "--eval-every", "2"]);
    let read = || {
        let metrics = fs::read(place.path("run/metrics.jsonl")).unwrap();
        (metrics, fs::read(place.path("run/model.safetensors")).unwrap())
    };
    let before = read();
    place.succeed(&["train", "--resume", "--out", "run"]);
    assert!(before == read());
}

#[test]
fn patience_stops_the_run_and_keeps_the_best_model() {
    let place = Workplace::new();
    // A learning rate at which the held-out loss soon rises.
    let out = place.train(&["--steps", "400", "--eval-every", "5", "--patience", "2", "--lr", "0.5"]);
    let valid: Vec<_> =
        metrics(&place.path("run")).into_iter().filter(|line| line["split"] == "valid").collect();
    let loss = |i: usize| valid[i]["loss"].as_f64().unwrap();
    let best = (0..valid.len()).min_by(|&a, &b| loss(a).total_cmp(&loss(b))).unwrap();
    assert_eq!(best + 2, valid.len() - 1, "the run did not stop two evaluations after its best");
    assert!(out.contains(&format!("was at step {}; that model is kept", valid[best]["step"])), "{out}");
}

/// The second half resumed: the choice is kept with the run.
#[test]
fn gradient_checkpointing_changes_no_loss() {
    let (kept, again) = (Workplace::new(), Workplace::new());
    let options = ["--steps", "6", "--eval-every", "3", "--layers", "3", "--mlp-chunk", "7"];
    kept.train(&options);
    again.train(&[&options[..], &["--gradient-checkpointing"]].concat());
    assert_eq!(losses(&kept.path("run")), losses(&again.path("run")));
    let state = fs::read_to_string(again.path("run/checkpoint-6/state.json")).unwrap();
    assert!(state.contains("\"gradient_checkpointing\": true"), "{state}");
    assert!(state.contains("\"mlp_chunk\": 7"), "{state}");
}

/// With f32 masters: the losses are those of f32 but for rounding, and a resumed run is the same bit for bit.
#[test]
fn a_run_in_bf16_on_the_cpu_learns_as_one_in_f32_and_resumes() {
    let [wide, narrow, stopped] = [Workplace::new(), Workplace::new(), Workplace::new()];
    let options = ["--steps", "40", "--eval-every", "20", "--lr", "0.01"];
    let narrow_options = [&options[..], &["--dtype", "bf16"]].concat();
    wide.train(&options);
    narrow.train(&narrow_options);
    let last = |place: &Workplace| metrics(&place.path("run")).last().unwrap()["loss"].as_f64().unwrap();
    let (in_f32, in_bf16) = (last(&wide), last(&narrow));
    assert!(in_f32 != in_bf16 && (in_f32 - in_bf16).abs() < 0.02 * in_f32, "{in_f32} and {in_bf16}");

    let mut child = start_until_checkpoint(&stopped, &narrow_options, 20);
    child.kill().unwrap();
    child.wait().unwrap();
    stopped.succeed(&["train", "--resume", "--out", "run", "--device", "cpu"]);
    assert_eq!(losses(&narrow.path("run")), losses(&stopped.path("run")));
}

#[test]
fn a_profile_is_a_table_and_a_trace_of_what_was_run_forward_backward_and_again() {
    let place = Workplace::new();
    let out = place.train(&["--steps", "4", "--gradient-checkpointing", "--profile", "2"]);
    let line = |operation: &str, phase: &str| -> Vec<String> {
        let words = out.lines().map(|line| line.split_whitespace().map(String::from).collect::<Vec<_>>());
        let mut found = words.filter(|words| words.starts_with(&[operation.into(), phase.into()]));
        found.next().unwrap_or_else(|| panic!("no {operation} {phase} in\n{out}"))
    };
    // Two steps of one block, whose forward pass runs twice.
    for (operation, phase, calls) in [
        ("attention", "forward", "2"),
        ("attention", "recompute", "2"),
        ("attention", "backward", "2"),
        ("linear", "backward", "8"),
        ("AdamW", "update", "2"),
    ] {
        assert_eq!(line(operation, phase)[2], calls, "{operation} {phase} in\n{out}");
    }

    let trace: Value =
        serde_json::from_str(&fs::read_to_string(place.path("run/profile.json")).unwrap()).unwrap();
    let events = trace["traceEvents"].as_array().unwrap();
    let count = |name: &str, phase: &str| {
        let found = events.iter().filter(|event| event["name"] == name && event["cat"] == phase);
        found
            .inspect(|event| assert!(event["ph"] == "X" && event["dur"].as_f64() > Some(0.0), "{event}"))
            .count()
    };
    assert_eq!(
        [count("attention", "forward"), count("attention", "backward"), count("AdamW", "update")],
        [2, 2, 2]
    );
    let memory = events.iter().filter(|event| event["ph"] == "C");
    assert!(memory.map(|event| event["args"]["bytes"].as_u64().unwrap()).max() > Some(0));
}

#[test]
fn a_profile_of_no_step_is_said() {
    let place = Workplace::new();
    let output = place.run(&tiny(&["--steps", "1", "--profile", "3"]));
    assert!(output.status.success());
    let told = stderr(&output);
    assert!(told.contains("nothing to profile: of 3 steps after the first, none was made"), "{told}");
    assert!(!place.path("run/profile.json").exists());
}

#[test]
fn two_runs_without_a_name_go_into_folders_of_their_own() {
    let place = Workplace::new();
    for number in ["1", "2"] {
        let arguments = tiny(&["--steps", "1"]);
        let unnamed: Vec<_> = arguments.into_iter().filter(|word| !["--out", "run"].contains(word)).collect();
        place.succeed(&unnamed);
        assert!(place.path("runs").join(number).join("model.safetensors").is_file());
    }
}

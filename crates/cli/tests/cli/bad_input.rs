//! Every bad input gives one clear error that names the thing, and nothing already written is lost.

use std::{fs, path::Path, process::Output};

use crate::workplace::{Workplace, assert_fails, stderr, tiny};

fn folder_is_absent(place: &Workplace) {
    assert!(!place.path("run").exists(), "a run that could not start left its folder behind");
}

#[test]
fn a_missing_text() {
    let place = Workplace::new();
    place.fail(&tiny(&["--text", "nowhere.txt"]), &["nowhere.txt", "No such file"]);
    folder_is_absent(&place);
}

#[test]
fn an_empty_text() {
    let place = Workplace::new();
    place.write("empty.txt", "");
    fs::create_dir(place.path("empty")).unwrap();
    for path in ["empty.txt", "empty"] {
        place.fail(&tiny(&["--text", path]), &[path, "is empty", "expected"]);
    }
    folder_is_absent(&place);
}

#[test]
fn a_text_that_is_not_utf8() {
    let place = Workplace::new();
    place.write("latin1.txt", b"caf\xe9 au lait");
    place.fail(&tiny(&["--text", "latin1.txt"]), &["latin1.txt", "not UTF-8", "offset 3"]);
    folder_is_absent(&place);
}

#[test]
fn a_context_longer_than_the_text() {
    let place = Workplace::new();
    place.write("short.txt", "a short text, too short for the context that is asked for");
    place.fail(
        &tiny(&["--text", "short.txt", "--context", "500"]),
        &["context 500", "training text", "tokens"],
    );
    folder_is_absent(&place);
}

#[test]
fn settings_that_no_run_can_have() {
    let place = Workplace::new();
    place.fail(&tiny(&["--heads", "3"]), &["heads is 3", "divisor of the width"]);
    place.fail(&tiny(&["--vocab", "10"]), &["vocab is 10", "at least 257"]);
    place.fail(&tiny(&["--batch", "0"]), &["batch is 0", "at least 1"]);
    place
        .fail(&tiny(&["--batch", "18446744073709551615"]), &["batch is 18446744073709551615", "2^31 tokens"]);
    place.fail(&tiny(&["--lr", "nan"]), &["lr is NaN", "above 0"]);
    folder_is_absent(&place);
}

#[test]
fn a_loss_that_diverges() {
    let place = Workplace::new();
    let output = place.run(&tiny(&["--lr", "1e30", "--steps", "20", "--warmup", "0"]));
    assert_fails(&output, &["the loss became", "expected a finite number", "resume with"]);
}

#[test]
fn a_run_folder_that_is_in_use() {
    let place = Workplace::new();
    fs::create_dir(place.path("run")).unwrap();
    place.write("run/thesis.txt", "precious");
    place.fail(&tiny(&[]), &["run folder", "run", "not empty"]);
    assert_eq!(fs::read_to_string(place.path("run/thesis.txt")).unwrap(), "precious");
    assert_eq!(fs::read_dir(place.path("run")).unwrap().count(), 1);
}

#[test]
fn resuming_what_is_no_run() {
    let place = Workplace::new();
    place.fail(&["train", "--resume", "--out", "nowhere"], &["nowhere", "No such file"]);
    fs::create_dir(place.path("empty")).unwrap();
    place.fail(&["train", "--resume", "--out", "empty"], &["empty", "no complete checkpoint"]);
}

#[test]
fn resuming_with_other_settings_or_without_a_folder_is_a_usage_error() {
    let place = Workplace::new();
    for arguments in [&["train", "--resume"][..], &["train", "--resume", "--out", "run", "--steps", "9"]] {
        let output = place.run(arguments);
        assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    }
}

#[test]
fn resuming_on_a_text_that_has_changed() {
    let place = Workplace::new();
    place.train(&["--steps", "2"]);
    let mut text = fs::read_to_string(place.path("text.txt")).unwrap();
    text.insert_str(0, "more ");
    place.write("text.txt", &text);
    place.fail(
        &["train", "--resume", "--out", "run"],
        &["the text of run run has changed", &text.len().to_string()],
    );
}

#[test]
fn resuming_from_a_damaged_checkpoint() {
    let place = Workplace::new();
    place.train(&["--steps", "2"]);
    for file in ["state.json", "model.safetensors", "optimizer.safetensors"] {
        let path = place.path("run/checkpoint-2").join(file);
        let content = fs::read(&path).unwrap();
        fs::write(&path, &content[..content.len() / 2]).unwrap();
        place.fail(&["train", "--resume", "--out", "run"], &[file]);
        fs::write(&path, content).unwrap();
    }
    let path = place.path("run/checkpoint-2/state.json");
    let content = fs::read(&path).unwrap();
    let mut state: serde_json::Value = serde_json::from_slice(&content).unwrap();
    state["settings"]["eval_every"] = 0.into();
    fs::write(&path, state.to_string()).unwrap();
    place.fail(&["train", "--resume", "--out", "run"], &["eval-every is 0", "at least 1"]);
    fs::write(&path, content).unwrap();
    place.succeed(&["train", "--resume", "--out", "run"]);
}

#[test]
fn an_output_folder_below_a_file() {
    let place = Workplace::new();
    place.write("file", "");
    place.fail(&tiny(&["--out", "file/run"]), &["cannot create run folder file/run", "Not a directory"]);
}

#[test]
fn a_model_that_is_damaged_or_foreign_or_contradicts_its_config() {
    let place = Workplace::new();
    place.train(&["--steps", "1"]);
    let read = |name: &str| fs::read(place.path("run").join(name)).unwrap();
    let (weights, config) = (read("model.safetensors"), String::from_utf8(read("config.json")).unwrap());
    let eval = ["eval", "--model", "run", "--text", "text.txt"];

    place.write("run/model.safetensors", &weights[..weights.len() - 100]);
    place.fail(&eval, &["run/model.safetensors", "truncated", &weights.len().to_string()]);
    place.write("run/model.safetensors", "GGUF: weights, but of another kind");
    place.fail(&eval, &["run/model.safetensors", "not a safetensors file"]);
    fs::remove_file(place.path("run/model.safetensors")).unwrap();
    place.fail(&eval, &["run", "model.safetensors"]);
    place.write("run/model.safetensors", &weights);

    for (field, value, told) in [
        ("\"n_embd\": 16", "\"n_embd\": 32", "[300, 16]"),
        ("\"n_layer\": 1", "\"n_layer\": 2", "h.1."),
        ("\"n_positions\": 16", "\"n_positions\": 17", "wpe.weight"),
        ("\"n_head\": 2", "\"n_head\": 3", "n_head is 3"),
        ("\"model_type\": \"gpt2\"", "\"model_type\": \"llama\"", "llama"),
    ] {
        assert!(config.contains(field), "{field} is not in {config}");
        place.write("run/config.json", config.replace(field, value));
        place.fail(&eval, &["config", told]);
    }
    place.write("run/config.json", &config[..config.len() / 2]);
    place.fail(&eval, &["run/config.json"]);
    place.write("run/config.json", &config);

    let tokenizer = read("tokenizer.json");
    place.write("run/tokenizer.json", "{}");
    place.fail(&eval, &["run/tokenizer.json"]);
    place.write("run/tokenizer.json", tokenizer);
    place.succeed(&eval);
}

#[test]
fn a_text_or_context_that_eval_cannot_take() {
    let place = Workplace::new();
    place.train(&["--steps", "1"]);
    place.write("short.txt", "short");
    let eval = |text, context| ["eval", "--model", "run", "--text", text, "--context", context];
    place.fail(&eval("missing.txt", "8"), &["missing.txt", "No such file"]);
    place.fail(&eval("short.txt", "10"), &["context 10", "tokens"]);
    place.fail(&eval("text.txt", "17"), &["context 17", "16 positions"]);
    place.fail(&eval("text.txt", "0"), &["context 0"]);
}

#[test]
fn a_sampling_or_prompt_that_generate_cannot_take() {
    let place = Workplace::new();
    place.train(&["--steps", "1"]);
    let generate = |more: &[&'static str]| [&["generate", "--model", "run"], more].concat();
    place.fail(&generate(&["--prompt", "a", "--temperature", "nan"]), &["temperature is NaN"]);
    place.fail(&generate(&["--prompt", "a", "--top-k", "0"]), &["top_k is 0"]);
    place.fail(&generate(&["--prompt", "a", "--top-p", "1.5"]), &["top_p is 1.5"]);
    place.fail(&generate(&["--prompt", "one two three four five six seven"]), &["longer than", "16"]);
}

/// Runs `script` with a file system of its own mounted at `disk` inside the workplace; `$LONGHAND` is the binary.
/// `None`, and says so, where the machine does not let this user mount.
fn with_disk(place: &Workplace, options: &str, script: &str) -> Option<Output> {
    fs::create_dir_all(place.path("disk")).unwrap();
    let run = |script: &str| {
        let mut command = std::process::Command::new("unshare");
        command.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
        command.env("LONGHAND", env!("CARGO_BIN_EXE_longhand")).current_dir(place.path(""));
        command.output()
    };
    let mount = format!("mount -t tmpfs -o {options} tmpfs disk");
    if !run(&mount).is_ok_and(|output| output.status.success()) {
        println!("skipped: this machine lets nobody mount a file system with unshare(1)");
        return None;
    }
    Some(run(&format!("{mount} && {script}")).unwrap())
}

#[test]
fn a_read_only_output_folder() {
    let place = Workplace::new();
    let train = tiny(&["--out", "disk/run"]).join(" ");
    if let Some(output) = with_disk(&place, "ro", &format!("\"$LONGHAND\" {train}")) {
        assert_fails(&output, &["cannot create run folder disk/run", "Read-only file system"]);
    }
}

#[test]
fn a_full_disk() {
    let place = Workplace::new();
    two_of_four_steps(&place);
    // Room for the losses, and not for a checkpoint.
    let fill = "cp -r run disk/run; cat /dev/zero > disk/filler 2> filled; truncate -s -32K disk/filler";
    let script = format!(
        "{fill}; \"$LONGHAND\" train --resume --out disk/run; code=$?; cp -r disk/run kept; exit $code"
    );
    if let Some(output) = with_disk(&place, "size=4m", &script) {
        assert_fails(&output, &["cannot write", "disk/run/checkpoint-4", "No space left", "resume with"]);
        assert_whole(&place, "kept");
    }
}

/// As on a full disk, a file cannot grow any more; this needs no rights.
#[cfg(unix)]
#[test]
fn a_file_that_cannot_grow() {
    let place = Workplace::new();
    two_of_four_steps(&place);
    let limited = "trap '' XFSZ; ulimit -f 20; exec \"$0\" train --resume --out run";
    let output = std::process::Command::new("sh")
        .args(["-c", limited, env!("CARGO_BIN_EXE_longhand")])
        .current_dir(place.path(""))
        .output()
        .unwrap();
    assert_fails(&output, &["cannot write", "run/checkpoint-4", "File too large", "resume with"]);
    assert_whole(&place, "run");
}

/// Makes a run of four steps whose last checkpoint is of the second.
fn two_of_four_steps(place: &Workplace) {
    place.train(&["--steps", "2"]);
    let state = place.path("run/checkpoint-2/state.json");
    let content = fs::read_to_string(&state).unwrap().replace("\"steps\": 2", "\"steps\": 4");
    fs::write(&state, content).unwrap();
}

/// The run's last checkpoint serves to resume it.
fn assert_whole(place: &Workplace, run: &str) {
    place.succeed(&["train", "--resume", "--out", run]);
    assert!(Path::new(&place.path(run)).join("model.safetensors").is_file());
}

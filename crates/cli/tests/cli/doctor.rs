//! `longhand doctor`.

use crate::workplace::Workplace;

#[test]
fn doctor_tells_of_each_thing_and_what_to_install_where_one_is_missing() {
    let place = Workplace::new();
    let missing = place.longhand(&["doctor"]).env("LONGHAND_NVRTC", "/nowhere").output().unwrap();
    let out = String::from_utf8(missing.stdout).unwrap();
    assert!(missing.status.success(), "{out}");
    for name in ["NVRTC", "cuBLASLt", "Kernel cache"] {
        assert!(out.lines().any(|line| line.starts_with(name)), "{name} is not told of in\n{out}");
    }
    let nvrtc: Vec<&str> = out.lines().skip_while(|line| !line.starts_with("NVRTC")).collect();
    assert!(nvrtc[0].contains("not found") && nvrtc.iter().any(|line| line.contains("pip install")), "{out}");
}

#[test]
fn asking_for_a_gpu_where_there_is_none_is_an_error_that_says_what_to_install() {
    let place = Workplace::new();
    let gpu = String::from_utf8(place.run(&["doctor"]).stdout).unwrap().contains("GPU 0");
    if gpu {
        println!("skipped: this machine has a GPU");
        return;
    }
    place.fail(&["train", "--device", "cuda", "--out", "run"], &["CUDA driver", "install"]);
    assert!(!place.path("run").exists());
}

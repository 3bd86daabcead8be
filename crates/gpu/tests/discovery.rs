#![cfg(unix)]
//! Where the libraries are looked for. Each case runs in a process of its own, with its own environment: this very
//! test binary, told to run `child` alone.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use longhand_gpu::{Arch, Compiler, Device, Error, Program, driver_info, nvrtc};

const CHILD: &str = "LONGHAND_TEST_CHILD";

/// Prints where NVRTC was found and whether it compiles, or the error. No test of its own.
#[test]
fn child() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    match nvrtc::locate() {
        Ok(found) => {
            let code = "struct Params { int* x; };\n\
                        extern \"C\" __global__ void k(const __grid_constant__ Params p) { *p.x = 1; }";
            let compiler = Compiler::with_cache(None).unwrap();
            compiler.compile(&Program::new("k.cu", code), Arch::TESTED[0]).unwrap();
            println!("found by {} at {}", found.place, found.path.display());
        }
        Err(error) => println!("error: {error}"),
    }
}

/// What `child` prints in this environment and no other, with this working directory.
fn in_environment(directory: &Path, variables: &[(&str, &Path)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "child", "--nocapture"]).current_dir(directory);
    command.env_clear().env(CHILD, "1").envs(variables.iter().copied());
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// The folder of this machine's NVRTC; None, saying so, where there is none.
fn nvrtc_folder() -> Option<PathBuf> {
    match nvrtc::locate() {
        Ok(found) => Some(found.path.canonicalize().unwrap().parent().unwrap().to_owned()),
        Err(reason) => {
            println!("skipped: {reason}");
            None
        }
    }
}

/// A folder with `path` in it, which leads to this machine's NVRTC.
fn folder_with(path: &str) -> Option<tempfile::TempDir> {
    let nvrtc = nvrtc_folder()?;
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join(path);
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    symlink(nvrtc, link).unwrap();
    Some(folder)
}

#[test]
fn nvrtc_is_found_and_compiles_from_wherever_it_is_kept() {
    let cases = [
        ("LONGHAND_NVRTC", "lib", "lib"),
        ("LONGHAND_NVRTC", "nvidia/cu13/lib", ""),
        ("CUDA_HOME", "lib64", ""),
        ("CUDA_PATH", "targets/x86_64-linux/lib", ""),
    ];
    for (variable, path, pointed_to) in cases {
        let Some(folder) = folder_with(path) else { return };
        let output = in_environment(folder.path(), &[(variable, &folder.path().join(pointed_to))]);
        let place = format!("found by {variable} at {}", folder.path().display());
        assert!(output.contains(&place), "{variable}, {path}: {output}");
    }
}

#[test]
fn nvrtc_may_be_named_by_its_file() {
    let Some(folder) = nvrtc_folder() else { return };
    let file = nvrtc::locate().unwrap().path.canonicalize().unwrap();
    let output = in_environment(&folder, &[("LONGHAND_NVRTC", &file)]);
    assert!(output.contains(&format!("found by LONGHAND_NVRTC at {}", file.display())), "{output}");
}

#[test]
fn nvrtc_of_a_virtual_environment_or_the_target_folder_is_found() {
    let cases = [
        ("Python site-packages", "lib/python3.11/site-packages/nvidia/cu13/lib"),
        ("Python site-packages", "lib/python3.11/site-packages/nvidia/cuda_nvrtc/lib"),
        ("target/nvrtc", "target/nvrtc/nvidia/cu13/lib"),
    ];
    for (place, path) in cases {
        let Some(folder) = folder_with(path) else { return };
        let below = folder.path().join("crates/gpu");
        fs::create_dir_all(&below).unwrap();
        let output = in_environment(&below, &[("VIRTUAL_ENV", folder.path())]);
        if output.contains("found by toolkit") || output.contains("found by loader path") {
            return println!("skipped: this machine has a CUDA toolkit, which comes first");
        }
        assert!(
            output.contains(&format!("found by {place} at {}", folder.path().display())),
            "{path}: {output}"
        );
    }
}

#[test]
fn a_variable_that_leads_nowhere_is_an_error_and_not_passed_over() {
    let Some(toolkit) = folder_with("lib64") else { return };
    let empty = tempfile::tempdir().unwrap();
    let variables = [("LONGHAND_NVRTC", empty.path()), ("CUDA_HOME", toolkit.path())];
    let output = in_environment(empty.path(), &variables);
    assert!(output.contains(&format!("LONGHAND_NVRTC: {} (no ", empty.path().display())), "{output}");
    assert!(!output.contains("CUDA_HOME"), "{output}");
}

#[test]
fn a_missing_nvrtc_is_an_error_that_lists_every_place_and_what_to_install() {
    let empty = tempfile::tempdir().unwrap();
    let output = in_environment(empty.path(), &[("CUDA_HOME", &empty.path().join("nowhere"))]);
    if output.contains("found by ") {
        return println!(
            "skipped: this machine has NVRTC in a place that does not depend on the environment"
        );
    }
    for part in
        ["CUDA_HOME: ", "/usr/local/cuda", "loader path: no ", "pip install nvidia-cuda-nvrtc==13.0.88"]
    {
        assert!(output.contains(part), "no {part:?} in: {output}");
    }
}

#[test]
fn a_file_that_is_no_library_is_an_error_and_the_next_place_is_tried() {
    let Some(good) = folder_with("lib64") else { return };
    let bad = tempfile::tempdir().unwrap();
    fs::write(bad.path().join("libnvrtc.so.13"), "not a library").unwrap();
    let output = in_environment(bad.path(), &[("LONGHAND_NVRTC", bad.path())]);
    assert!(output.contains("error: ") && output.contains("cannot be loaded: "), "{output}");
    let output = in_environment(bad.path(), &[("CUDA_HOME", bad.path()), ("CUDA_PATH", good.path())]);
    assert!(output.contains("found by CUDA_PATH"), "{output}");
}

#[test]
fn a_library_without_nvrtcs_functions_is_an_error_that_names_the_first_missing() {
    let Some(folder) = nvrtc_folder() else { return };
    let builtins = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let builtins = builtins.into_iter().find(|path| path.to_string_lossy().contains("libnvrtc-builtins.so"));
    let Some(builtins) = builtins else { return println!("skipped: no library at hand that is not NVRTC") };
    let other = tempfile::tempdir().unwrap();
    symlink(builtins, other.path().join("libnvrtc.so.13")).unwrap();
    let output = in_environment(other.path(), &[("LONGHAND_NVRTC", other.path())]);
    assert!(output.contains("libnvrtc.so.13 has no function nvrtcVersion"), "{output}");
}

#[test]
fn opening_a_gpu_that_is_not_there_is_a_typed_error() {
    let count = driver_info().map_or(0, |info| info.devices.len());
    let error = Device::cuda(count).unwrap_err();
    match &error {
        Error::LibraryNotFound { advice, .. } => assert!(advice.contains("driver"), "{advice}"),
        Error::NoDevice { .. } => {}
        other => panic!("{other:?}"),
    }
    assert!(Device::cuda(usize::MAX).is_err());
}

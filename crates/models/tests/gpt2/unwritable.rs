//! Saving where it cannot be done. (`folder.rs` has the rest about folders.)

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use longhand_models::Error;

use crate::{tiny, tiny_copy};

/// Set in the process that is not allowed to write much, to the folder it is to save into.
const LIMITED: &str = "LONGHAND_TEST_SAVE_WITH_LITTLE_SPACE";

fn contents(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files.into_iter().map(|path| (path.clone(), fs::read(path).unwrap())).collect()
}

#[test]
fn a_folder_that_is_a_file_is_an_error_naming_it() {
    let folder = tiny_copy();
    let file = folder.path().join("config.json");
    let error = tiny().save(&file).unwrap_err();
    assert!(matches!(&error, Error::Write { path, .. } if *path == file), "{error}");
}

/// A limit on the size of files stands for a full disk: either way `write` fails midway.
#[cfg(unix)]
#[test]
fn no_space_for_the_weights_is_an_error_and_leaves_what_was_there() {
    if let Some(folder) = env::var_os(LIMITED) {
        let error = tiny().save(Path::new(&folder)).unwrap_err();
        assert!(
            matches!(&error, Error::Write { path, .. } if path.ends_with("model.safetensors")),
            "{error}"
        );
        assert!(error.to_string().contains("cannot write"), "{error}");
        return;
    }
    let folder = tiny_copy();
    fs::write(folder.path().join("model.safetensors"), "what was there").unwrap();
    let before = contents(folder.path());

    let test = "unwritable::no_space_for_the_weights_is_an_error_and_leaves_what_was_there";
    let child = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -f 8; exec \"$0\" \"$@\""])
        .arg(env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(LIMITED, folder.path())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success() && said.contains("1 passed"), "{said}");
    assert_eq!(contents(folder.path()), before);
}

#[cfg(unix)]
#[test]
fn a_read_only_folder_is_an_error_and_leaves_what_was_there() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tiny_copy();
    let before = contents(folder.path());
    let allow = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
    allow(0o555);
    let superuser = fs::write(folder.path().join("probe"), "").is_ok();
    let saved = tiny().save(folder.path());
    allow(0o755);
    if superuser {
        println!("skipped: this user may write to read-only folders");
        return;
    }
    let error = saved.unwrap_err();
    assert!(matches!(&error, Error::Write { path, .. } if path.starts_with(folder.path())), "{error}");
    assert_eq!(contents(folder.path()), before);
}

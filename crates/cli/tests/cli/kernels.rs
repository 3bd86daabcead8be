//! `longhand kernels`.

use crate::workplace::Workplace;
use std::fs;
use std::path::Path;

/// `folder/file.cu` of everything in `kernels/`.
fn cuda_files() -> Vec<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../kernels");
    let folders =
        fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap()).map(|entry| entry.unwrap().path());
    let name = |path: &Path| path.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
    files.filter(|path| path.extension().is_some_and(|it| it == "cu")).map(|path| name(&path)).collect()
}

#[test]
fn the_list_names_every_cuda_file() {
    let text = Workplace::new().succeed(&["kernels", "list"]);
    let listed: Vec<&str> = text.lines().filter_map(|line| line.split_whitespace().next()).collect();
    let missing: Vec<String> = cuda_files().into_iter().filter(|file| !listed.contains(&&**file)).collect();
    assert!(missing.is_empty(), "not listed: {missing:?}");
}

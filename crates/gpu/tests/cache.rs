//! The disk cache: what is in it is used, what is wrong with it is survived.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use longhand_gpu::{Arch, Constants, Image, Program};

const ARCH: Arch = Arch::TESTED[0];

fn program(value: i64) -> Program {
    let code = "#include \"constants.cuh\"\nstruct Params { int* x; };\n\
                extern \"C\" __global__ void store(const __grid_constant__ Params p) { *p.x = VALUE; }\n";
    Program::new("store.cu", code).constants(Constants::new().int("VALUE", value))
}

fn entries(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect()
}

fn content(image: &Image) -> (Option<&[u8]>, &str, &str) {
    (image.cubin(), image.ptx(), image.log())
}

#[test]
fn the_second_compilation_comes_from_the_cache_and_is_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let Some(first) = common::compiler_with_cache(Some(folder.path().join("new/sub"))) else { return };
    let compiled = first.compile(&program(1), ARCH).unwrap();
    assert!(!compiled.from_cache());

    let second = common::compiler_with_cache(Some(folder.path().join("new/sub"))).unwrap();
    let cached = second.compile(&program(1), ARCH).unwrap();
    assert!(cached.from_cache());
    assert!(content(&cached) == content(&compiled));
    assert_eq!(cached.resources(), compiled.resources());
    assert_eq!(cached, compiled);
}

#[test]
fn whatever_changes_the_result_changes_the_entry() {
    let folder = tempfile::tempdir().unwrap();
    let Some(compiler) = common::compiler_with_cache(Some(folder.path().to_owned())) else { return };
    let variants = [
        (program(1), ARCH),
        (program(2), ARCH),
        (program(1), Arch::TESTED[1]),
        (program(1).header("unused.cuh", "int x;"), ARCH),
        (program(1).header("unused.cuh", "int y;"), ARCH),
        (Program::new("other.cu", "extern \"C\" __global__ void store(int* x) { *x = 1; }"), ARCH),
    ];
    for (number, (program, arch)) in variants.iter().enumerate() {
        assert!(!compiler.compile(program, *arch).unwrap().from_cache(), "variant {number}");
        assert_eq!(entries(folder.path()).len(), number + 1);
    }
}

#[test]
fn a_damaged_entry_is_compiled_again_and_mended() {
    let folder = tempfile::tempdir().unwrap();
    let Some(compiler) = common::compiler_with_cache(Some(folder.path().to_owned())) else { return };
    let sound = compiler.compile(&program(1), ARCH).unwrap();
    let [path] = &entries(folder.path())[..] else { panic!("one entry expected") };
    let bytes = fs::read(path).unwrap();

    let mut flipped = bytes.clone();
    flipped[bytes.len() / 2] ^= 1;
    let longer = [&bytes[..], b"x"].concat();
    for damaged in [&flipped[..], &longer, &bytes[..bytes.len() - 1], &bytes[..40], &bytes[..7], b""] {
        fs::write(path, damaged).unwrap();
        let again = compiler.compile(&program(1), ARCH).unwrap();
        assert!(!again.from_cache(), "{} of {} bytes were taken as sound", damaged.len(), bytes.len());
        assert!(content(&again) == content(&sound));
        assert!(fs::read(path).unwrap() == bytes, "the entry was not mended");
        assert!(compiler.compile(&program(1), ARCH).unwrap().from_cache());
    }
}

#[test]
fn a_folder_that_cannot_be_written_does_not_fail_the_compilation() {
    let folder = tempfile::tempdir().unwrap();
    // A file where the folder should be: refused to everyone, also to root.
    let blocked = folder.path().join("file");
    fs::write(&blocked, "").unwrap();
    for path in [blocked.clone(), blocked.join("below")] {
        let Some(compiler) = common::compiler_with_cache(Some(path)) else { return };
        for _ in 0..2 {
            assert!(!compiler.compile(&program(1), ARCH).unwrap().from_cache());
        }
    }
}

#[test]
fn a_folder_that_is_read_only_still_serves_what_it_has() {
    let folder = tempfile::tempdir().unwrap();
    let Some(compiler) = common::compiler_with_cache(Some(folder.path().to_owned())) else { return };
    compiler.compile(&program(1), ARCH).unwrap();
    let mut permissions = fs::metadata(folder.path()).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(folder.path(), permissions).unwrap();
    assert!(compiler.compile(&program(1), ARCH).unwrap().from_cache());
    compiler.compile(&program(2), ARCH).unwrap();
}

#[test]
fn compilers_at_the_same_time_agree_and_leave_sound_entries_only() {
    let folder = tempfile::tempdir().unwrap();
    if common::compiler().is_none() {
        return;
    }
    let images: Vec<Image> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|i| {
                let folder = folder.path().to_owned();
                scope.spawn(move || {
                    let compiler = common::compiler_with_cache(Some(folder)).unwrap();
                    compiler.compile(&program(i % 2), ARCH).unwrap()
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    for (i, image) in images.iter().enumerate() {
        assert!(content(image) == content(&images[i % 2]));
    }
    assert_eq!(entries(folder.path()).len(), 2, "a temporary file was left: {:?}", entries(folder.path()));
    let after = common::compiler_with_cache(Some(folder.path().to_owned())).unwrap();
    for value in [0, 1] {
        assert!(after.compile(&program(value), ARCH).unwrap().from_cache());
    }
}

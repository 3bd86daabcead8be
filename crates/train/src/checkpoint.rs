//! Checkpoints in a run folder: `checkpoint-STEP/`, each wholly there or not at all.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{Error, Result, files};

const PREFIX: &str = "checkpoint-";
/// What a checkpoint is called until it is whole.
const UNFINISHED: &str = ".unfinished";

/// Writes the checkpoint of `step` into `folder`: `write` fills a folder under a temporary name, which is renamed
/// when that is done. Then older checkpoints are removed.
///
/// A failure leaves the checkpoints there were.
pub(crate) fn save(folder: &Path, step: u64, write: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
    let name = format!("{PREFIX}{step}");
    let unfinished = folder.join(format!("{name}{UNFINISHED}"));
    let older = find(folder)?;
    remove_unfinished(folder)?;
    fs::create_dir(&unfinished).map_err(Error::file("create folder", &unfinished))?;
    if let Err(error) = write(&unfinished) {
        // Gives the disk its space back; the first error is the one to tell.
        let _ = fs::remove_dir_all(&unfinished);
        return Err(error);
    }
    let path = folder.join(&name);
    files::sync_folder(&unfinished)?;
    fs::rename(&unfinished, &path).map_err(Error::file("write", &path))?;
    files::sync_folder(folder)?;
    for (_, path) in older {
        fs::remove_dir_all(&path).map_err(Error::file("remove", &path))?;
    }
    Ok(())
}

/// The newest checkpoint of a run folder and its step.
///
/// # Errors
/// The folder cannot be read, or holds no checkpoint.
pub(crate) fn latest(folder: &Path) -> Result<(u64, PathBuf)> {
    find(folder)?.into_iter().max().ok_or_else(|| Error::NoCheckpoint { path: folder.into() })
}

fn find(folder: &Path) -> Result<Vec<(u64, PathBuf)>> {
    let step = |path: &Path| path.file_name()?.to_str()?.strip_prefix(PREFIX)?.parse().ok();
    Ok(entries(folder)?.into_iter().filter_map(|path| Some((step(&path)?, path))).collect())
}

fn remove_unfinished(folder: &Path) -> Result<()> {
    for path in entries(folder)? {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with(PREFIX) && name.ends_with(UNFINISHED) {
            fs::remove_dir_all(&path).map_err(Error::file("remove", &path))?;
        }
    }
    Ok(())
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>> {
    fs::read_dir(folder)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect())
        .map_err(Error::file("read run folder", folder))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    fn write_one(folder: &Path) -> Result<()> {
        files::write(&folder.join("file"), b"content")
    }

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = entries(folder)
            .unwrap()
            .iter()
            .map(|path| path.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_new_checkpoint_takes_the_place_of_older_ones_and_of_unfinished_ones() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), 9, write_one).unwrap();
        fs::create_dir(folder.path().join("checkpoint-10.unfinished")).unwrap();
        assert_eq!(latest(folder.path()).unwrap().0, 9);
        save(folder.path(), 10, write_one).unwrap();
        assert_eq!(latest(folder.path()).unwrap().0, 10);
        assert_eq!(names(folder.path()), ["checkpoint-10"]);
        assert_eq!(fs::read(folder.path().join("checkpoint-10/file")).unwrap(), b"content");
    }

    #[test]
    fn a_checkpoint_that_cannot_be_written_leaves_the_one_there_was() {
        let folder = tempfile::tempdir().unwrap();
        save(folder.path(), 1, write_one).unwrap();
        let full = |folder: &Path| {
            write_one(folder)?;
            let full = io::Error::from(io::ErrorKind::StorageFull);
            Err(Error::file("write", folder.join("other"))(full))
        };
        assert!(save(folder.path(), 2, full).is_err());
        assert_eq!(names(folder.path()), ["checkpoint-1"]);
        assert_eq!(fs::read(folder.path().join("checkpoint-1/file")).unwrap(), b"content");
    }

    #[test]
    fn a_folder_without_a_checkpoint_is_an_error_that_names_it() {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("checkpoint-3.unfinished")).unwrap();
        let error = latest(folder.path()).unwrap_err().to_string();
        assert!(error.contains(&folder.path().display().to_string()), "{error}");
    }
}

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::{Error, Result};

/// A file written in full under a temporary name, beside the one it is to become.
///
/// Dropped without [`commit`](Self::commit), it leaves no trace.
pub(crate) struct Staged {
    temporary: NamedTempFile,
    path: PathBuf,
}

impl Staged {
    /// Writes `chunks` one after the other and waits until they are on the disk.
    pub(crate) fn write(path: PathBuf, chunks: impl Iterator<Item = Result<Vec<u8>>>) -> Result<Self> {
        let mut temporary = create(&path).map_err(|source| Error::Write { path: path.clone(), source })?;
        for chunk in chunks {
            let chunk = chunk?;
            temporary
                .as_file_mut()
                .write_all(&chunk)
                .map_err(|source| Error::Write { path: path.clone(), source })?;
        }
        temporary.as_file().sync_all().map_err(|source| Error::Write { path: path.clone(), source })?;
        Ok(Self { temporary, path })
    }

    /// Puts the file in the place of the one that may stand there.
    pub(crate) fn commit(self) -> Result<()> {
        let Self { temporary, path } = self;
        temporary.persist(&path).map_err(|failed| Error::Write { path, source: failed.error })?;
        Ok(())
    }
}

fn create(path: &Path) -> io::Result<NamedTempFile> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".writing-").suffix(".tmp");
    // Readable by others as the umask allows, not by the owner alone as temporary files usually are.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    builder.tempfile_in(folder)
}

pub(crate) fn create_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|source| Error::Write { path: path.into(), source })
}

/// Waits until the renames in a folder are on the disk. Only Unix lets a folder be opened for that.
pub(crate) fn sync_folder(path: &Path) -> Result<()> {
    if cfg!(unix) {
        File::open(path)
            .and_then(|folder| folder.sync_all())
            .map_err(|source| Error::Write { path: path.into(), source })?;
    }
    Ok(())
}

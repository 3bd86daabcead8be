//! Files that are either wholly there or not at all.

use std::{fs::File, io::Write, path::Path};

use crate::{Error, Result};

/// Writes `content` to `path` through a temporary file beside it, synced and renamed: whoever reads `path`, even
/// after a crash, finds either what was there before or all of `content`.
pub(crate) fn write(path: &Path, content: &[u8]) -> Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".writing-").suffix(".tmp");
    // Readable by others as the umask allows, not by the owner alone as temporary files usually are.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder).map_err(Error::file("write", path))?;
    file.write_all(content).map_err(Error::file("write", path))?;
    file.as_file().sync_all().map_err(Error::file("write", path))?;
    file.persist(path).map_err(|error| Error::file("write", path)(error.error))?;
    sync_folder(folder)
}

/// Makes the renames inside `folder` last.
pub(crate) fn sync_folder(folder: &Path) -> Result<()> {
    // Elsewhere a folder cannot be opened, and renames need no help.
    if cfg!(unix) {
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::file("sync", folder))?;
    }
    Ok(())
}

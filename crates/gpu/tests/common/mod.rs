//! What the tests share.

use longhand_gpu::{Compiler, Error};

/// A compiler without a disk cache; None, saying so, on a machine without NVRTC.
pub fn compiler() -> Option<Compiler> {
    compiler_with_cache(None)
}

/// As [`compiler`], with this cache folder.
pub fn compiler_with_cache(folder: Option<std::path::PathBuf>) -> Option<Compiler> {
    match Compiler::with_cache(folder) {
        Ok(compiler) => Some(compiler),
        Err(error @ Error::LibraryNotFound { .. }) => {
            println!("skipped: {error}");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

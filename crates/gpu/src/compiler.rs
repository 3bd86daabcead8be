//! Compiles programs with NVRTC, once.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::cache::{self, Cache, Entry};
use crate::image::Parts;
use crate::nvrtc::Nvrtc;
use crate::{Arch, Error, Image, Program, Result, resources};

/// What every program is compiled with, beside its target.
///
/// Functions without an annotation are for the device, `ptxas` reports resources, and the PTX leads back to the
/// source by line.
const OPTIONS: [&str; 4] = ["--std=c++17", "-default-device", "--ptxas-options=-v", "-lineinfo"];

/// The compiler: NVRTC and the disk cache. Needs no GPU. A cheap handle.
#[derive(Clone)]
pub struct Compiler(Arc<Inner>);

struct Inner {
    nvrtc: Nvrtc,
    cache: Option<Cache>,
}

impl Compiler {
    /// Finds NVRTC, and the disk cache: the folder in `LONGHAND_CACHE`, or else `longhand` in the user's cache
    /// directory. A cache that cannot be written is done without.
    ///
    /// # Errors
    ///
    /// [`Error::LibraryNotFound`] with every place looked at and what to install.
    pub fn new() -> Result<Compiler> {
        Compiler::with_cache(cache::default_folder())
    }

    /// As [`Compiler::new`], with this cache folder, or with none.
    ///
    /// # Errors
    ///
    /// As [`Compiler::new`].
    pub fn with_cache(folder: Option<PathBuf>) -> Result<Compiler> {
        Ok(Compiler(Arc::new(Inner { nvrtc: Nvrtc::find()?, cache: folder.map(Cache::new) })))
    }

    /// Version of NVRTC, such as `13.0`.
    #[must_use]
    pub fn version(&self) -> String {
        self.0.nvrtc.version_text()
    }

    /// The folder of the disk cache.
    #[must_use]
    pub fn cache_folder(&self) -> Option<&Path> {
        self.0.cache.as_ref().map(Cache::folder)
    }

    /// Compiles `program` for `arch`: from the cache within a millisecond, otherwise by NVRTC in 50 ms and more.
    ///
    /// An architecture newer than NVRTC knows gets PTX of the newest one it knows, and no cubin.
    ///
    /// # Errors
    ///
    /// [`Error::Compile`] with NVRTC's log, file and line; [`Error::UnsupportedArch`] for an architecture older
    /// than NVRTC supports; [`Error::Nvrtc`] where NVRTC itself fails.
    pub fn compile(&self, program: &Program, arch: Arch) -> Result<Image> {
        let Inner { nvrtc, cache } = &*self.0;
        let (source, headers) = (program.source(), program.all_headers());
        let mut options = vec![nvrtc.target(arch)?];
        options.extend(OPTIONS.map(str::to_owned));

        let version = nvrtc.version_text();
        let fixed = [cache::FORMAT, &version, program.name(), &source];
        let texts = headers.iter().flat_map(|(name, text)| [name, text]).chain(&options);
        let key = cache::key(fixed.into_iter().chain(texts.map(String::as_str)));
        if let Some(entry) = cache.as_ref().and_then(|cache| cache.get(&key)) {
            return Ok(image(key, program, arch, entry, true));
        }

        let output = nvrtc.compile(program.name(), &source, &headers, &options)?;
        if !output.compiled {
            return Err(Error::Compile {
                program: program.name().to_owned(),
                arch,
                constants: program.constants_text(),
                log: output.log,
            });
        }
        let entry = Entry {
            cubin: output.cubin,
            ptx: without_directory(&output.ptx),
            log: without_timing(&output.log),
        };
        if let Some(cache) = cache {
            // A cache that cannot be written costs time, not results; `doctor` tells of it.
            let _ = cache.put(&key, &entry);
        }
        Ok(image(key, program, arch, entry, false))
    }
}

fn image(key: String, program: &Program, arch: Arch, entry: Entry, from_cache: bool) -> Image {
    Image::new(Parts {
        key,
        program: program.name().to_owned(),
        arch,
        resources: resources::parse(&entry.log),
        cubin: Some(entry.cubin).filter(|cubin| !cubin.is_empty()),
        ptx: entry.ptx,
        log: entry.log,
        from_cache,
    })
}

/// The PTX with file names as the program gives them. NVRTC puts the working directory in front, although the
/// files are in memory only.
fn without_directory(ptx: &str) -> String {
    let Ok(directory) = std::env::current_dir() else { return ptx.to_owned() };
    ptx.replace(&format!("\"{}{}", directory.display(), std::path::MAIN_SEPARATOR), "\"")
}

/// The log without `ptxas info : Compile time = 1.147 ms`, so that it is the same every time.
fn without_timing(log: &str) -> String {
    log.split_inclusive('\n').filter(|line| !line.contains("Compile time = ")).collect()
}

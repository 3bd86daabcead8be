//! Finding and loading NVIDIA's shared libraries at run time.
//!
//! cudarc's own loader is not used: it panics where a library or a function is missing, and it takes the first
//! library that answers to a bare name (`libnvrtc.so`), which may be another installation than the one found
//! here. What comes from cudarc are the types, and the signatures that each table of functions is checked
//! against when it is compiled.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::{Error, Result};

/// A library that was found on this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The file.
    pub path: PathBuf,
    /// What led to it: an environment variable, a folder, the loader.
    pub place: String,
    /// Its version, such as `13.0`.
    pub version: String,
}

/// A library to look for.
pub(crate) struct Wanted {
    /// Its name in messages.
    pub name: &'static str,
    /// The environment variable that says where it is: a file or a folder.
    pub variable: &'static str,
    /// Its file names, the best first.
    pub files: &'static [&'static str],
    /// A file of this prefix in the same folder is loaded first: a library that it opens by bare name.
    pub companion: Option<&'static str>,
    /// What to install when it is nowhere.
    pub advice: &'static str,
}

/// A library that was found and loaded. It stays loaded until the process ends: NVIDIA's libraries keep threads
/// and exit handlers.
#[derive(Clone, Debug)]
pub(crate) struct Library {
    handle: &'static libloading::Library,
    path: PathBuf,
    place: String,
    advice: &'static str,
}

/// Where a toolkit and where the pip wheels keep their libraries, below the folder one is pointed to.
const SUBFOLDERS: [&str; 8] = [
    "",
    "lib64",
    "lib",
    "bin",
    "targets/x86_64-linux/lib",
    "nvidia/cu13/lib",
    "nvidia/cuda_nvrtc/lib",
    "nvidia/cublas/lib",
];

impl Library {
    /// Looks for `wanted` in its environment variable (and then nowhere else), the toolkit that `CUDA_HOME`,
    /// `CUDA_PATH` or `/usr/local/cuda` names, the loader's path, Python's site-packages, `target/nvrtc`.
    pub fn find(wanted: &Wanted) -> Result<Library> {
        let mut tried = Vec::new();
        if let Some(path) = variable(wanted.variable) {
            let place = Place::Folder(wanted.variable.to_owned(), path);
            return place.open(wanted, &mut tried).ok_or_else(|| not_found(wanted, tried));
        }
        tried.push(format!("{}: not set", wanted.variable));
        let found = places().find_map(|place| place.open(wanted, &mut tried));
        found.ok_or_else(|| not_found(wanted, tried))
    }

    /// The library that the loader finds under one of these names.
    pub fn by_name(wanted: &Wanted) -> Result<Library> {
        let mut tried = Vec::new();
        Place::Loader.open(wanted, &mut tried).ok_or_else(|| not_found(wanted, tried))
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What led to it.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// A function of the library.
    ///
    /// # Safety
    ///
    /// `F` is a function pointer type with the signature that the function has.
    pub unsafe fn function<F: Copy>(&self, symbol: &'static str) -> Result<F> {
        // SAFETY: the caller answers for the signature; the library is never unloaded.
        match unsafe { self.handle.get::<F>(symbol) } {
            Ok(function) => Ok(*function),
            Err(_) => {
                Err(Error::MissingSymbol { path: self.path.clone(), symbol, advice: self.advice.to_owned() })
            }
        }
    }
}

fn not_found(wanted: &Wanted, tried: Vec<String>) -> Error {
    Error::LibraryNotFound { library: wanted.name, tried, advice: wanted.advice.to_owned() }
}

enum Place {
    /// What named the folder (or file), and the folder itself.
    Folder(String, PathBuf),
    Loader,
    /// A place that there is not, in words.
    Absent(String),
}

impl Place {
    fn open(&self, wanted: &Wanted, tried: &mut Vec<String>) -> Option<Library> {
        match self {
            Place::Loader => open_by_name(wanted, tried),
            Place::Absent(words) => {
                tried.push(words.clone());
                None
            }
            Place::Folder(label, path) if path.is_file() => open_file(wanted, label, path, tried),
            Place::Folder(label, folder) => {
                let files = SUBFOLDERS.iter().flat_map(|sub| wanted.files.iter().map(move |f| (sub, f)));
                let existing: Vec<PathBuf> = files
                    .map(|(sub, file)| folder.join(sub).join(file))
                    .filter(|path| path.is_file())
                    .collect();
                if existing.is_empty() {
                    tried.push(format!("{label}: {} (no {} there)", folder.display(), wanted.files[0]));
                }
                existing.iter().find_map(|path| open_file(wanted, label, path, tried))
            }
        }
    }
}

fn open_file(wanted: &Wanted, label: &str, path: &Path, tried: &mut Vec<String>) -> Option<Library> {
    let absolute = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    load_companions(wanted, &absolute);
    match load(&absolute) {
        Ok(handle) => {
            Some(Library { handle, path: absolute, place: label.to_owned(), advice: wanted.advice })
        }
        Err(problem) => {
            tried.push(format!("{label}: {} cannot be loaded: {problem}", absolute.display()));
            None
        }
    }
}

fn open_by_name(wanted: &Wanted, tried: &mut Vec<String>) -> Option<Library> {
    for name in wanted.files {
        if let Ok(handle) = load(Path::new(name)) {
            let path = mapped_file(name).unwrap_or_else(|| PathBuf::from(name));
            load_companions(wanted, &path);
            return Some(Library { handle, path, place: "loader path".to_owned(), advice: wanted.advice });
        }
    }
    tried.push(format!("loader path: no {}", wanted.files.join(", no ")));
    None
}

/// NVRTC opens `libnvrtc-builtins` by bare name when it first compiles. Loaded beforehand by its full path, it is
/// found without any `LD_LIBRARY_PATH`. One that does not load shows in NVRTC's own message.
fn load_companions(wanted: &Wanted, library: &Path) {
    let (Some(prefix), Some(folder)) = (wanted.companion, library.parent()) else { return };
    for entry in folder.read_dir().into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            let _ = load(&entry.path());
        }
    }
}

/// Loads a library for good. Its symbols stay its own, so that another version in the same process, PyTorch's for
/// one, is not disturbed.
fn load(path: &Path) -> Result<&'static libloading::Library, String> {
    // SAFETY: running the initialisers of the library that the user's settings or installation name is what loading
    // it means; NVIDIA's have no precondition.
    let loaded = unsafe { libloading::Library::new(path) };
    loaded.map(|library| &*Box::leak(Box::new(library))).map_err(|error| error.to_string())
}

/// The file that a library loaded by bare name came from, where the system tells.
fn mapped_file(name: &str) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let paths = maps.lines().filter_map(|line| line.find('/').map(|start| Path::new(&line[start..])));
    let mut matching =
        paths.filter(|path| path.file_name().is_some_and(|file| file.to_string_lossy().starts_with(stem)));
    matching.next().map(Path::to_owned)
}

/// The path in an environment variable; one that is empty counts as not set.
pub(crate) fn variable(name: &str) -> Option<PathBuf> {
    env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Every place in order; those that take a while to find come when they are asked for.
fn places() -> impl Iterator<Item = Place> {
    let named = ["CUDA_HOME", "CUDA_PATH"].into_iter().map(|name| match variable(name) {
        Some(path) => Place::Folder(name.to_owned(), path),
        None => Place::Absent(format!("{name}: not set")),
    });
    let toolkit = Place::Folder("toolkit".to_owned(), "/usr/local/cuda".into());
    let wheels = std::iter::once_with(|| all("Python site-packages", site_packages())).flatten();
    let targets = std::iter::once_with(|| all("target/nvrtc", target_folders())).flatten();
    named.chain([toolkit, Place::Loader]).chain(wheels).chain(targets)
}

/// The folders under one label, or that there are none.
fn all(label: &str, folders: Vec<PathBuf>) -> Vec<Place> {
    if folders.is_empty() {
        return vec![Place::Absent(format!("{label}: there is none"))];
    }
    folders.into_iter().map(|folder| Place::Folder(label.to_owned(), folder)).collect()
}

/// The site-packages of the active environment, and those that `python3` names.
fn site_packages() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    for root in ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(variable) {
        for entry in root.join("lib").read_dir().into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with("python3") {
                folders.push(entry.path().join("site-packages"));
            }
        }
    }
    let code = "import site; print('\\n'.join([*site.getsitepackages(), site.getusersitepackages()]))";
    let python =
        Command::new("python3").args(["-c", code]).stdin(Stdio::null()).stderr(Stdio::null()).output();
    if let Ok(output) = python {
        folders.extend(String::from_utf8_lossy(&output.stdout).lines().map(PathBuf::from));
    }
    existing(folders)
}

/// `target/nvrtc` of the workspace: above the working directory, or above the executable.
fn target_folders() -> Vec<PathBuf> {
    let mut folders = Vec::new();
    if let Ok(directory) = env::current_dir() {
        folders.extend(directory.ancestors().map(|folder| folder.join("target/nvrtc")));
    }
    if let Ok(executable) = env::current_exe() {
        let above = executable.ancestors().filter(|folder| folder.ends_with("target"));
        folders.extend(above.map(|folder| folder.join("nvrtc")));
    }
    existing(folders)
}

/// The folders that exist, each once.
fn existing(folders: Vec<PathBuf>) -> Vec<PathBuf> {
    let mut kept: Vec<PathBuf> = Vec::new();
    for folder in folders {
        if folder.is_dir() && !kept.contains(&folder) {
            kept.push(folder);
        }
    }
    kept
}

/// Defines a table of a library's C functions, loaded at run time.
///
/// Each is `name: (arguments)` and returns a status, of the type named after `returning` in cudarc's signature,
/// which the compiler checks. The table takes it as an integer, because a Rust enum must never hold a code that
/// cudarc does not know. A symbol after `or` is tried where the first is missing.
macro_rules! functions {
    ($(#[$meta:meta])* struct $table:ident of $sys:path, returning $status:ty {
        $($name:ident $(or $other:literal)? : ($($arg:ty),*),)+
    }) => {
        $(#[$meta])*
        #[allow(non_snake_case)]
        pub(crate) struct $table {
            $(pub $name: unsafe extern "C" fn($($arg),*) -> u32,)+
        }

        impl $table {
            /// Loads every function, or names the one that is missing.
            pub fn load(library: &$crate::library::Library) -> $crate::Result<$table> {
                Ok($table {
                    $(
                        // SAFETY: the signature is NVIDIA's as cudarc has it, which is checked below.
                        $name: unsafe {
                            library.function(stringify!($name))$(.or_else(|_| library.function($other)))?
                        }?,
                    )+
                })
            }
        }

        const _: () = {
            use $sys as signatures;
            $(let _: unsafe fn($($arg),*) -> $status = signatures::$name;)+
        };
    };
}
pub(crate) use functions;

//! NVRTC, the CUDA compiler that is a library: where it is, and one compilation with it.

use std::ffi::{CStr, CString, c_char, c_int};
use std::ptr;

use cudarc::nvrtc::sys;

use crate::library::{Found, Library, Wanted, functions};
use crate::{Arch, Error, Result};

/// The NVRTC that Longhand is tested with, as `pip install` takes it.
pub const PINNED_WHEEL: &str = "nvidia-cuda-nvrtc==13.0.88";

const WANTED: Wanted = Wanted {
    name: "NVRTC (libnvrtc)",
    variable: "LONGHAND_NVRTC",
    files: if cfg!(windows) {
        &["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
    } else {
        &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"]
    },
    companion: Some(if cfg!(windows) { "nvrtc-builtins" } else { "libnvrtc-builtins.so" }),
    advice: "Install it with `pip install nvidia-cuda-nvrtc==13.0.88`, or set LONGHAND_NVRTC to the file or its folder.",
};

functions! {
    /// The functions of NVRTC.
    struct Functions of cudarc::nvrtc::sys, returning sys::nvrtcResult {
        nvrtcVersion: (*mut c_int, *mut c_int),
        nvrtcGetNumSupportedArchs: (*mut c_int),
        nvrtcGetSupportedArchs: (*mut c_int),
        nvrtcCreateProgram:
            (*mut sys::nvrtcProgram, *const c_char, *const c_char, c_int, *const *const c_char, *const *const c_char),
        nvrtcDestroyProgram: (*mut sys::nvrtcProgram),
        nvrtcCompileProgram: (sys::nvrtcProgram, c_int, *const *const c_char),
        nvrtcGetCUBINSize: (sys::nvrtcProgram, *mut usize),
        nvrtcGetCUBIN: (sys::nvrtcProgram, *mut c_char),
        nvrtcGetPTXSize: (sys::nvrtcProgram, *mut usize),
        nvrtcGetPTX: (sys::nvrtcProgram, *mut c_char),
        nvrtcGetProgramLogSize: (sys::nvrtcProgram, *mut usize),
        nvrtcGetProgramLog: (sys::nvrtcProgram, *mut c_char),
    }
}

/// Where NVRTC is on this machine.
///
/// # Errors
///
/// [`Error::LibraryNotFound`] with every place looked at; [`Error::MissingSymbol`] for one that is too old.
pub fn locate() -> Result<Found> {
    let nvrtc = Nvrtc::find()?;
    Ok(Found {
        path: nvrtc.library.path().to_owned(),
        place: nvrtc.library.place().to_owned(),
        version: nvrtc.version_text(),
    })
}

/// NVRTC, loaded.
pub(crate) struct Nvrtc {
    library: Library,
    functions: Functions,
    version: (u32, u32),
    /// The architectures it compiles for, as numbers (90 for `sm_90`), ascending.
    known: Vec<u32>,
}

/// What one compilation yields, also where it fails.
pub(crate) struct Output {
    pub compiled: bool,
    pub cubin: Vec<u8>,
    pub ptx: String,
    pub log: String,
}

impl Nvrtc {
    /// Finds and loads it.
    pub fn find() -> Result<Nvrtc> {
        let library = Library::find(&WANTED)?;
        let functions = Functions::load(&library)?;
        let (mut major, mut minor, mut count) = (0, 0, 0);
        // SAFETY: each pointer is to an integer that NVRTC writes.
        unsafe {
            check("nvrtcVersion", (functions.nvrtcVersion)(&mut major, &mut minor))?;
            check("nvrtcGetNumSupportedArchs", (functions.nvrtcGetNumSupportedArchs)(&mut count))?;
        }
        let mut known: Vec<c_int> = vec![0; usize::try_from(count).unwrap_or(0)];
        // SAFETY: the array has as many elements as NVRTC said that it writes.
        check("nvrtcGetSupportedArchs", unsafe { (functions.nvrtcGetSupportedArchs)(known.as_mut_ptr()) })?;
        let mut known: Vec<u32> = known.into_iter().filter_map(|arch| u32::try_from(arch).ok()).collect();
        known.sort_unstable();
        Ok(Nvrtc { library, functions, version: (major.unsigned_abs(), minor.unsigned_abs()), known })
    }

    /// Its version, such as `13.0`.
    pub fn version_text(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// The option that selects `arch`. For an architecture that NVRTC does not know, the newest older one, as
    /// PTX for the driver to compile.
    pub fn target(&self, arch: Arch) -> Result<String> {
        let newest = self.known.iter().copied().filter(|&known| known <= arch.number()).max();
        match newest {
            Some(number) if number == arch.number() => Ok(format!("--gpu-architecture={arch}")),
            Some(number) => Ok(format!("--gpu-architecture=compute_{number}")),
            None => Err(Error::UnsupportedArch {
                arch,
                version: self.version_text(),
                known: self.known.iter().map(|n| format!("sm_{n}")).collect::<Vec<_>>().join(", "),
            }),
        }
    }

    /// Compiles `source`, named `name`, with in-memory `headers` (name, text).
    pub fn compile(
        &self,
        name: &str,
        source: &str,
        headers: &[(String, String)],
        options: &[String],
    ) -> Result<Output> {
        let names = c_strings("header name", headers.iter().map(|(name, _)| name))?;
        let texts = c_strings("header", headers.iter().map(|(_, text)| text))?;
        let options = c_strings("option", options)?;
        let program = Compilation::new(
            self,
            &c_string("program name", name)?,
            &c_string("source", source)?,
            &names,
            &texts,
        )?;
        program.run(&options)
    }
}

/// An `nvrtcProgram`, destroyed when dropped.
struct Compilation<'a> {
    functions: &'a Functions,
    program: sys::nvrtcProgram,
}

impl<'a> Compilation<'a> {
    fn new(
        nvrtc: &'a Nvrtc,
        name: &CStr,
        source: &CStr,
        names: &[CString],
        texts: &[CString],
    ) -> Result<Self> {
        let functions = &nvrtc.functions;
        let (names, texts) = (pointers(names), pointers(texts));
        let mut program = ptr::null_mut();
        // SAFETY: every pointer is to a string, or to an array of as many strings as said, that lives during the
        // call; NVRTC copies them.
        let status = unsafe {
            (functions.nvrtcCreateProgram)(
                &mut program,
                source.as_ptr(),
                name.as_ptr(),
                count(&names),
                texts.as_ptr(),
                names.as_ptr(),
            )
        };
        check("nvrtcCreateProgram", status)?;
        Ok(Compilation { functions, program })
    }

    fn run(&self, options: &[CString]) -> Result<Output> {
        let f = self.functions;
        let options = pointers(options);
        // SAFETY: the program is alive; the array has as many strings as said.
        let status = unsafe { (f.nvrtcCompileProgram)(self.program, count(&options), options.as_ptr()) };
        let log = text(self.read("nvrtcGetProgramLog", f.nvrtcGetProgramLogSize, f.nvrtcGetProgramLog)?);
        match status {
            SUCCESS => Ok(Output {
                compiled: true,
                cubin: self.read("nvrtcGetCUBIN", f.nvrtcGetCUBINSize, f.nvrtcGetCUBIN)?,
                ptx: text(self.read("nvrtcGetPTX", f.nvrtcGetPTXSize, f.nvrtcGetPTX)?),
                log,
            }),
            COMPILATION => Ok(Output { compiled: false, cubin: Vec::new(), ptx: String::new(), log }),
            other => Err(Error::Nvrtc { operation: "nvrtcCompileProgram", text: status_text(other), log }),
        }
    }

    /// Reads one of the program's products: its size, then as many bytes.
    fn read(
        &self,
        operation: &'static str,
        size: unsafe extern "C" fn(sys::nvrtcProgram, *mut usize) -> u32,
        get: unsafe extern "C" fn(sys::nvrtcProgram, *mut c_char) -> u32,
    ) -> Result<Vec<u8>> {
        let mut bytes = 0;
        // SAFETY: the program is alive; NVRTC writes the size.
        check(operation, unsafe { size(self.program, &mut bytes) })?;
        let mut product = vec![0u8; bytes];
        if bytes > 0 {
            // SAFETY: the program is alive; the buffer has the size that NVRTC asked for.
            check(operation, unsafe { get(self.program, product.as_mut_ptr().cast()) })?;
        }
        Ok(product)
    }
}

impl Drop for Compilation<'_> {
    fn drop(&mut self) {
        // SAFETY: the program is alive, and nobody uses it after this. An error leaves nothing to be done.
        let _ = unsafe { (self.functions.nvrtcDestroyProgram)(&mut self.program) };
    }
}

const SUCCESS: u32 = sys::nvrtcResult::NVRTC_SUCCESS as u32;
const COMPILATION: u32 = sys::nvrtcResult::NVRTC_ERROR_COMPILATION as u32;

fn check(operation: &'static str, status: u32) -> Result<()> {
    if status == SUCCESS {
        return Ok(());
    }
    Err(Error::Nvrtc { operation, text: status_text(status), log: String::new() })
}

fn status_text(status: u32) -> String {
    use sys::nvrtcResult as S;
    let name = match status {
        s if s == S::NVRTC_ERROR_OUT_OF_MEMORY as u32 => "out of memory",
        s if s == S::NVRTC_ERROR_PROGRAM_CREATION_FAILURE as u32 => "the program could not be created",
        s if s == S::NVRTC_ERROR_INVALID_INPUT as u32 => "invalid input",
        s if s == S::NVRTC_ERROR_INVALID_PROGRAM as u32 => "invalid program",
        s if s == S::NVRTC_ERROR_INVALID_OPTION as u32 => "invalid option",
        s if s == S::NVRTC_ERROR_BUILTIN_OPERATION_FAILURE as u32 => {
            "libnvrtc-builtins of the same version has to be in the same folder as libnvrtc"
        }
        _ => "internal error",
    };
    format!("{name} (status {status})")
}

fn c_string(what: &'static str, value: &str) -> Result<CString> {
    CString::new(value)
        .map_err(|_| Error::argument("compile", what, "a text with a NUL byte", "free of NUL bytes"))
}

fn c_strings<'a>(what: &'static str, values: impl IntoIterator<Item = &'a String>) -> Result<Vec<CString>> {
    values.into_iter().map(|value| c_string(what, value)).collect()
}

fn pointers(strings: &[CString]) -> Vec<*const c_char> {
    strings.iter().map(|string| string.as_ptr()).collect()
}

fn count(pointers: &[*const c_char]) -> c_int {
    c_int::try_from(pointers.len()).unwrap_or(c_int::MAX)
}

/// NVRTC's texts end with a NUL byte.
fn text(mut bytes: Vec<u8>) -> String {
    while bytes.last() == Some(&0) {
        bytes.pop();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_is_to_install_the_pinned_wheel() {
        assert!(WANTED.advice.contains(&format!("`pip install {PINNED_WHEEL}`")), "{}", WANTED.advice);
    }
}

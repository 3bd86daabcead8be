//! `libcublasLt`: found and loaded, its functions.

use std::ffi::{CStr, c_char, c_int, c_void};

use cudarc::cublaslt::sys;

use crate::cuda_library::driver_version;
use crate::library::{Found, Library, Wanted, functions};
use crate::{Error, Result};

const ADVICE: &str = "Install it with `pip install nvidia-cublas` (`nvidia-cublas-cu12` for a driver that supports \
                      CUDA 12 only), or set LONGHAND_CUBLASLT to the file or its folder.";

const WANTED: Wanted = Wanted {
    name: "cuBLASLt (libcublasLt)",
    variable: "LONGHAND_CUBLASLT",
    files: if cfg!(windows) {
        &["cublasLt64_13.dll", "cublasLt64_12.dll"]
    } else {
        &["libcublasLt.so.13", "libcublasLt.so.12"]
    },
    companion: None,
    advice: ADVICE,
};

/// For a driver that supports CUDA 12 only, where the library of CUDA 13 does not start.
const WANTED_12: Wanted =
    Wanted { files: if cfg!(windows) { &["cublasLt64_12.dll"] } else { &["libcublasLt.so.12"] }, ..WANTED };

functions! {
    /// The functions of cuBLASLt.
    struct Functions of cudarc::cublaslt::sys, returning sys::cublasStatus_t {
        cublasLtCreate: (*mut sys::cublasLtHandle_t),
        cublasLtDestroy: (sys::cublasLtHandle_t),
        cublasLtMatrixLayoutCreate: (*mut sys::cublasLtMatrixLayout_t, sys::cudaDataType, u64, u64, i64),
        cublasLtMatrixLayoutDestroy: (sys::cublasLtMatrixLayout_t),
        cublasLtMatrixLayoutSetAttribute:
            (sys::cublasLtMatrixLayout_t, sys::cublasLtMatrixLayoutAttribute_t, *const c_void, usize),
        cublasLtMatmulDescCreate:
            (*mut sys::cublasLtMatmulDesc_t, sys::cublasComputeType_t, sys::cudaDataType_t),
        cublasLtMatmulDescDestroy: (sys::cublasLtMatmulDesc_t),
        cublasLtMatmulDescSetAttribute:
            (sys::cublasLtMatmulDesc_t, sys::cublasLtMatmulDescAttributes_t, *const c_void, usize),
        cublasLtMatmulPreferenceCreate: (*mut sys::cublasLtMatmulPreference_t),
        cublasLtMatmulPreferenceDestroy: (sys::cublasLtMatmulPreference_t),
        cublasLtMatmulPreferenceSetAttribute:
            (sys::cublasLtMatmulPreference_t, sys::cublasLtMatmulPreferenceAttributes_t, *const c_void, usize),
        cublasLtMatmulAlgoGetHeuristic: (
            sys::cublasLtHandle_t, sys::cublasLtMatmulDesc_t, sys::cublasLtMatrixLayout_t,
            sys::cublasLtMatrixLayout_t, sys::cublasLtMatrixLayout_t, sys::cublasLtMatrixLayout_t,
            sys::cublasLtMatmulPreference_t, c_int, *mut sys::cublasLtMatmulHeuristicResult_t, *mut c_int
        ),
        cublasLtMatmul: (
            sys::cublasLtHandle_t, sys::cublasLtMatmulDesc_t, *const c_void, *const c_void,
            sys::cublasLtMatrixLayout_t, *const c_void, sys::cublasLtMatrixLayout_t, *const c_void, *const c_void,
            sys::cublasLtMatrixLayout_t, *mut c_void, sys::cublasLtMatrixLayout_t,
            *const sys::cublasLtMatmulAlgo_t, *mut c_void, usize, sys::cudaStream_t
        ),
    }
}

/// The library, loaded.
pub(crate) struct Api {
    library: Library,
    pub f: Functions,
    version: unsafe extern "C" fn() -> usize,
    status_name: unsafe extern "C" fn(u32) -> *const c_char,
}

/// Where the cuBLASLt is that the driver of this machine can start; any, where there is no driver.
///
/// # Errors
///
/// [`Error::LibraryNotFound`] with every place looked at; [`Error::MissingSymbol`] for one that is too old.
pub fn locate() -> Result<Found> {
    let api = Api::open(driver_version().map(|(major, _)| major))?;
    // SAFETY: the function takes nothing and returns major * 10000 + minor * 100 + patch.
    let version = unsafe { (api.version)() };
    Ok(Found {
        path: api.library.path().to_owned(),
        place: api.library.place().to_owned(),
        version: format!("{}.{}.{}", version / 10_000, version / 100 % 100, version % 100),
    })
}

impl Api {
    /// Finds and loads the library; one that a driver of this CUDA major version can start.
    pub fn open(driver: Option<u32>) -> Result<Api> {
        let wanted = if driver.is_some_and(|major| major < 13) { WANTED_12 } else { WANTED };
        let library = Library::find(&wanted)?;
        // SAFETY: the signatures are NVIDIA's as cudarc has them, the status taken as the integer that it is.
        let (version, status_name) =
            unsafe { (library.function("cublasLtGetVersion")?, library.function("cublasLtGetStatusName")?) };
        Ok(Api { f: Functions::load(&library)?, library, version, status_name })
    }

    /// `Ok` for success; otherwise an error with the name of the status.
    pub fn check(&self, status: u32, operation: impl FnOnce() -> String) -> Result<()> {
        if status == sys::cublasStatus_t::CUBLAS_STATUS_SUCCESS as u32 {
            return Ok(());
        }
        // SAFETY: cuBLASLt returns a static text, or null.
        let name = unsafe {
            let name = (self.status_name)(status);
            if name.is_null() { "unknown status".into() } else { CStr::from_ptr(name).to_string_lossy() }
        };
        Err(Error::Cublaslt { operation: operation(), status: format!("{name} ({status})") })
    }
}

//! `libcuda`: found and loaded, its functions, its devices before one is opened.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::path::PathBuf;

use cudarc::driver::sys;
use sys::CUresult as Status;

use crate::library::{Library, Wanted, functions};
use crate::{Arch, Error, Result};

const WANTED: Wanted = Wanted {
    name: "The CUDA driver (libcuda)",
    // The loader alone knows the driver that fits the kernel module.
    variable: "",
    files: if cfg!(windows) { &["nvcuda.dll"] } else { &["libcuda.so.1", "libcuda.so"] },
    companion: None,
    advice: "It comes with NVIDIA's display driver: install that (https://www.nvidia.com/drivers, or your \
             distribution's package). In a container, start it with the NVIDIA Container Toolkit (`--gpus all`).",
};

/// The status that becomes [`Error::OutOfMemory`].
pub(crate) const NOT_ENOUGH_MEMORY: u32 = Status::CUDA_ERROR_OUT_OF_MEMORY as u32;

functions! {
    /// The functions of the driver.
    struct Functions of cudarc::driver::sys, returning sys::CUresult {
        cuInit: (c_uint),
        cuDriverGetVersion: (*mut c_int),
        cuDeviceGetCount: (*mut c_int),
        cuDeviceGet: (*mut sys::CUdevice, c_int),
        cuDeviceGetName: (*mut c_char, c_int, sys::CUdevice),
        cuDeviceGetAttribute: (*mut c_int, sys::CUdevice_attribute, sys::CUdevice),
        cuDeviceTotalMem_v2: (*mut usize, sys::CUdevice),
        cuDevicePrimaryCtxRetain: (*mut sys::CUcontext, sys::CUdevice),
        cuDevicePrimaryCtxRelease_v2: (sys::CUdevice),
        cuCtxPushCurrent_v2: (sys::CUcontext),
        cuCtxPopCurrent_v2: (*mut sys::CUcontext),
        cuCtxSynchronize: (),
        cuMemGetInfo_v2: (*mut usize, *mut usize),
        cuMemPoolCreate: (*mut sys::CUmemoryPool, *const sys::CUmemPoolProps),
        cuMemPoolDestroy: (sys::CUmemoryPool),
        cuMemPoolSetAttribute: (sys::CUmemoryPool, sys::CUmemPool_attribute, *mut c_void),
        cuMemPoolGetAttribute: (sys::CUmemoryPool, sys::CUmemPool_attribute, *mut c_void),
        cuMemAllocFromPoolAsync: (*mut sys::CUdeviceptr, usize, sys::CUmemoryPool, sys::CUstream),
        cuMemFreeAsync: (sys::CUdeviceptr, sys::CUstream),
        cuMemAlloc_v2: (*mut sys::CUdeviceptr, usize),
        cuMemFree_v2: (sys::CUdeviceptr),
        cuMemcpyHtoDAsync_v2: (sys::CUdeviceptr, *const c_void, usize, sys::CUstream),
        cuMemcpyDtoHAsync_v2: (*mut c_void, sys::CUdeviceptr, usize, sys::CUstream),
        cuMemcpyDtoDAsync_v2: (sys::CUdeviceptr, sys::CUdeviceptr, usize, sys::CUstream),
        cuMemsetD8Async: (sys::CUdeviceptr, u8, usize, sys::CUstream),
        cuPointerGetAttribute: (*mut c_void, sys::CUpointer_attribute, sys::CUdeviceptr),
        cuStreamCreate: (*mut sys::CUstream, c_uint),
        cuStreamDestroy_v2: (sys::CUstream),
        cuStreamSynchronize: (sys::CUstream),
        cuStreamWaitEvent: (sys::CUstream, sys::CUevent, c_uint),
        cuEventCreate: (*mut sys::CUevent, c_uint),
        cuEventDestroy_v2: (sys::CUevent),
        cuEventRecord: (sys::CUevent, sys::CUstream),
        cuEventSynchronize: (sys::CUevent),
        cuEventElapsedTime_v2 or "cuEventElapsedTime": (*mut f32, sys::CUevent, sys::CUevent),
        cuModuleLoadDataEx:
            (*mut sys::CUmodule, *const c_void, c_uint, *mut sys::CUjit_option, *mut *mut c_void),
        cuModuleUnload: (sys::CUmodule),
        cuModuleGetFunction: (*mut sys::CUfunction, sys::CUmodule, *const c_char),
        cuFuncGetAttribute: (*mut c_int, sys::CUfunction_attribute, sys::CUfunction),
        cuFuncSetAttribute: (sys::CUfunction, sys::CUfunction_attribute, c_int),
        cuLaunchKernel: (
            sys::CUfunction, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint, c_uint,
            sys::CUstream, *mut *mut c_void, *mut *mut c_void
        ),
    }
}

type ErrorText = unsafe extern "C" fn(u32, *mut *const c_char) -> u32;

/// The driver library, initialised.
pub(crate) struct Api {
    library: Library,
    pub f: Functions,
    /// `cuFuncLoad`, which drivers before CUDA 12.4 lack.
    pub load_function: Option<unsafe extern "C" fn(sys::CUfunction) -> u32>,
    error_name: ErrorText,
    error_string: ErrorText,
}

/// The CUDA driver and its devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DriverInfo {
    /// The driver library.
    pub path: PathBuf,
    /// The newest CUDA version it supports, such as `13.0`.
    pub cuda_version: String,
    /// Its devices, by number.
    pub devices: Vec<DeviceInfo>,
}

/// A CUDA device, before it is opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Product name.
    pub name: String,
    /// What to compile for.
    pub arch: Arch,
    /// Device memory in bytes.
    pub memory: usize,
}

/// The CUDA driver on this machine and its devices. Opens none of them.
///
/// # Errors
///
/// [`Error::LibraryNotFound`] without a driver, [`Error::MissingSymbol`] for one that is too old,
/// [`Error::NoDevice`] where it finds no GPU.
pub fn driver_info() -> Result<DriverInfo> {
    let api = Api::open()?;
    let devices = (0..api.count()?).map(|ordinal| api.device_info(ordinal)).collect::<Result<_>>()?;
    Ok(DriverInfo { path: api.library.path().to_owned(), cuda_version: api.version_text(), devices })
}

/// The newest CUDA version that this machine's driver supports, if it has a driver: major and minor.
pub(crate) fn driver_version() -> Option<(u32, u32)> {
    Api::open().ok().map(|api| api.version())
}

impl Api {
    /// Loads and initialises the driver.
    pub fn open() -> Result<Api> {
        let library = Library::by_name(&WANTED)?;
        let f = Functions::load(&library)?;
        // SAFETY: `cuFuncLoad` takes a function handle (as cudarc has it); the two others an error code, here as the
        // integer that it is, and a place for a static text.
        let (load_function, error_name, error_string) = unsafe {
            (
                library.function("cuFuncLoad").ok(),
                library.function("cuGetErrorName")?,
                library.function("cuGetErrorString")?,
            )
        };
        let api = Api { library, f, load_function, error_name, error_string };
        // SAFETY: the flags have to be 0.
        let status = unsafe { (api.f.cuInit)(0) };
        api.check(status, || "start the CUDA driver (cuInit)".to_owned()).map_err(|error| match status {
            s if s == Status::CUDA_ERROR_NO_DEVICE as u32 => Error::NoDevice {
                ordinal: 0,
                reason:
                    "the driver is installed and sees no GPU; check `nvidia-smi` and CUDA_VISIBLE_DEVICES"
                        .into(),
            },
            s if s == Status::CUDA_ERROR_STUB_LIBRARY as u32 => Error::NoDevice {
                ordinal: 0,
                reason: format!(
                    "{} is the toolkit's stub, not a driver; take its folder out of LD_LIBRARY_PATH",
                    api.library.path().display()
                ),
            },
            _ => error,
        })?;
        Ok(api)
    }

    /// `Ok` for success; otherwise an error with the driver's name and explanation of the status.
    pub fn check(&self, status: u32, operation: impl FnOnce() -> String) -> Result<()> {
        if status == Status::CUDA_SUCCESS as u32 {
            return Ok(());
        }
        Err(Error::Driver {
            operation: operation(),
            code: status,
            name: self.text(self.error_name, status).unwrap_or_else(|| "unknown error".to_owned()),
            text: self.text(self.error_string, status).unwrap_or_default(),
        })
    }

    fn text(&self, lookup: ErrorText, status: u32) -> Option<String> {
        let mut text = std::ptr::null();
        // SAFETY: the driver writes a pointer to a static text, or null for a status it does not know.
        unsafe {
            let _ = lookup(status, &mut text);
            (!text.is_null()).then(|| CStr::from_ptr(text).to_string_lossy().into_owned())
        }
    }

    fn count(&self) -> Result<usize> {
        let mut count = 0;
        // SAFETY: the driver writes one integer.
        self.check(unsafe { (self.f.cuDeviceGetCount)(&mut count) }, || "count the GPUs".to_owned())?;
        Ok(usize::try_from(count).unwrap_or(0))
    }

    /// The device of this number.
    pub fn device(&self, ordinal: usize) -> Result<sys::CUdevice> {
        let count = self.count()?;
        let number = c_int::try_from(ordinal).ok().filter(|_| ordinal < count);
        let number = number.ok_or_else(|| Error::NoDevice {
            ordinal,
            reason: format!("the driver sees {count}, counted from 0"),
        })?;
        let mut device = 0;
        // SAFETY: the driver writes the device.
        self.check(unsafe { (self.f.cuDeviceGet)(&mut device, number) }, || format!("find GPU {ordinal}"))?;
        Ok(device)
    }

    /// An attribute of a device that is never negative.
    pub fn attribute(&self, device: sys::CUdevice, attribute: sys::CUdevice_attribute) -> Result<u32> {
        let mut value = 0;
        // SAFETY: the driver writes one integer.
        let status = unsafe { (self.f.cuDeviceGetAttribute)(&mut value, attribute, device) };
        self.check(status, || format!("query {attribute:?}"))?;
        Ok(u32::try_from(value).unwrap_or(0))
    }

    /// The product name of a device.
    pub fn name(&self, device: sys::CUdevice) -> Result<String> {
        let mut name = [0u8; 256];
        // SAFETY: the buffer has the length that is said.
        let status = unsafe { (self.f.cuDeviceGetName)(name.as_mut_ptr().cast(), 256, device) };
        self.check(status, || "query the name of a GPU".to_owned())?;
        Ok(CStr::from_bytes_until_nul(&name).unwrap_or_default().to_string_lossy().into_owned())
    }

    fn device_info(&self, ordinal: usize) -> Result<DeviceInfo> {
        use sys::CUdevice_attribute as Attribute;
        let device = self.device(ordinal)?;
        let major = self.attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
        let minor = self.attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
        let mut memory = 0;
        // SAFETY: the driver writes one number.
        let status = unsafe { (self.f.cuDeviceTotalMem_v2)(&mut memory, device) };
        self.check(status, || format!("query the memory of GPU {ordinal}"))?;
        Ok(DeviceInfo { name: self.name(device)?, arch: Arch::of_capability(major, minor), memory })
    }

    /// The newest CUDA version that the driver supports: major and minor.
    pub fn version(&self) -> (u32, u32) {
        let mut version: c_int = 0;
        // SAFETY: the driver writes one integer.
        let _ = unsafe { (self.f.cuDriverGetVersion)(&mut version) };
        let version = version.unsigned_abs();
        (version / 1000, version % 1000 / 10)
    }

    fn version_text(&self) -> String {
        let (major, minor) = self.version();
        format!("{major}.{minor}")
    }

    /// What to do about a program that the driver refuses.
    pub fn version_advice(&self) -> String {
        format!(
            "The driver supports CUDA {}: update it, or install an NVRTC of that version and set LONGHAND_NVRTC to it.",
            self.version_text()
        )
    }
}

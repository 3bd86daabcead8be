//! The CUDA driver as a [`Driver`].

use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr;
use std::sync::{Mutex, PoisonError};

use cudarc::driver::sys;
use sys::CUdevice_attribute as Attribute;

use crate::cuda_library::{Api, NOT_ENOUGH_MEMORY};
use crate::driver::{Driver, Launch, Memory, Properties};
use crate::{Arch, DevicePtr, Error, Image, Result};

/// A CUDA device with its primary context.
pub(crate) struct Cuda {
    api: Api,
    device: sys::CUdevice,
    context: sys::CUcontext,
    properties: Properties,
    /// Our own pool, so that memory stays between synchronisations without changing the pool that the process
    /// shares. None where the device has no pools.
    pool: Option<sys::CUmemoryPool>,
    /// Held while a kernel's limit of dynamic shared memory is read and raised.
    shared_limit: Mutex<()>,
}

// SAFETY: CUDA's handles may be used from any thread; the driver locks inside.
unsafe impl Send for Cuda {}
// SAFETY: as above.
unsafe impl Sync for Cuda {}

impl Cuda {
    /// Opens a device and retains its primary context.
    pub fn open(ordinal: usize) -> Result<Cuda> {
        let api = Api::open()?;
        let device = api.device(ordinal)?;
        let properties = properties(&api, device)?;
        let mut context = ptr::null_mut();
        // SAFETY: the device exists; the driver writes the context.
        let status = unsafe { (api.f.cuDevicePrimaryCtxRetain)(&mut context, device) };
        api.check(status, || format!("open {}", properties.name))?;
        let mut cuda = Cuda { api, device, context, properties, pool: None, shared_limit: Mutex::new(()) };
        if cuda.api.attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_MEMORY_POOLS_SUPPORTED)? != 0 {
            cuda.pool = Some(cuda.new_pool()?);
        }
        Ok(cuda)
    }

    fn new_pool(&self) -> Result<sys::CUmemoryPool> {
        // SAFETY: all bits zero is how CUDA asks for the fields of this struct that one does not set.
        let mut wanted: sys::CUmemPoolProps = unsafe { std::mem::zeroed() };
        wanted.allocType = sys::CUmemAllocationType::CU_MEM_ALLOCATION_TYPE_PINNED;
        wanted.location.type_ = sys::CUmemLocationType::CU_MEM_LOCATION_TYPE_DEVICE;
        wanted.location.id = self.device;
        let mut pool = ptr::null_mut();
        let mut keep_everything = u64::MAX;
        let threshold = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_RELEASE_THRESHOLD;
        // SAFETY: the properties live during the call; the attribute is a u64.
        unsafe {
            self.check((self.api.f.cuMemPoolCreate)(&mut pool, &wanted), "create a memory pool")?;
            let value = ptr::from_mut(&mut keep_everything).cast();
            self.check((self.api.f.cuMemPoolSetAttribute)(pool, threshold, value), "set up the memory pool")?;
        }
        Ok(pool)
    }

    /// Makes the context current until the guard is dropped, which brings back the caller's.
    pub fn enter(&self) -> Result<Current<'_>> {
        // SAFETY: the context is retained as long as this device.
        self.check(unsafe { (self.api.f.cuCtxPushCurrent_v2)(self.context) }, "enter the device's context")?;
        Ok(Current(&self.api))
    }

    /// The newest CUDA version that the driver supports: major and minor.
    pub fn version(&self) -> (u32, u32) {
        self.api.version()
    }

    fn check(&self, status: u32, operation: &str) -> Result<()> {
        self.api.check(status, || operation.to_owned())
    }

    /// The pool, which counts the peak.
    fn counting_pool(&self) -> Result<sys::CUmemoryPool> {
        let unsupported = || Error::Unsupported {
            device: self.properties.name.clone(),
            what: "memory pool, which counts the peak",
        };
        self.pool.ok_or_else(unsupported)
    }

    /// Bytes that the pool holds and nobody uses.
    fn idle_in_pool(&self) -> Result<usize> {
        let Some(pool) = self.pool else { return Ok(0) };
        let (mut reserved, mut used) = (0u64, 0u64);
        use sys::CUmemPool_attribute as A;
        let attributes = [
            (A::CU_MEMPOOL_ATTR_RESERVED_MEM_CURRENT, ptr::from_mut(&mut reserved)),
            (A::CU_MEMPOOL_ATTR_USED_MEM_CURRENT, ptr::from_mut(&mut used)),
        ];
        for (attribute, value) in attributes {
            // SAFETY: the pool is alive; both attributes are u64.
            let status = unsafe { (self.api.f.cuMemPoolGetAttribute)(pool, attribute, value.cast()) };
            self.check(status, "query the memory pool")?;
        }
        Ok(usize::try_from(reserved.saturating_sub(used)).unwrap_or(usize::MAX))
    }

    /// Loads a cubin or a PTX text; on failure, what the driver says.
    ///
    /// # Safety
    ///
    /// `image` is a whole ELF file or a text that ends with NUL.
    unsafe fn load_data(&self, image: &[u8]) -> Result<sys::CUmodule, String> {
        const LOG_BYTES: usize = 8192;
        let mut log = vec![0u8; LOG_BYTES];
        let mut options = [
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER,
            sys::CUjit_option::CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES,
        ];
        let mut values = [log.as_mut_ptr().cast::<c_void>(), ptr::without_provenance_mut(LOG_BYTES)];
        let mut module = ptr::null_mut();
        // SAFETY: the caller answers for the image; the options are as many as said, and the buffer for the log is
        // as large as said.
        let status = unsafe {
            (self.api.f.cuModuleLoadDataEx)(
                &mut module,
                image.as_ptr().cast(),
                2,
                options.as_mut_ptr(),
                values.as_mut_ptr(),
            )
        };
        self.check(status, "cuModuleLoadDataEx").map_err(|error| {
            let log = CStr::from_bytes_until_nul(&log).unwrap_or_default().to_string_lossy();
            format!("{error}\n{log}").trim_end().to_owned()
        })?;
        Ok(module)
    }
}

fn properties(api: &Api, device: sys::CUdevice) -> Result<Properties> {
    let attribute = |which| api.attribute(device, which);
    let capability = [
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?,
        attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?,
    ];
    Ok(Properties {
        name: api.name(device)?,
        arch: Arch::of_capability(capability[0], capability[1]),
        multiprocessors: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes_per_block: attribute(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        l2_bytes: attribute(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)? as usize,
    })
}

/// The context is current on this thread as long as this lives.
pub(crate) struct Current<'a>(&'a Api);

impl Drop for Current<'_> {
    fn drop(&mut self) {
        let mut popped = ptr::null_mut();
        // SAFETY: the context on top of the stack is the one that `enter` pushed.
        let _ = unsafe { (self.0.f.cuCtxPopCurrent_v2)(&mut popped) };
    }
}

fn stream(handle: u64) -> sys::CUstream {
    handle as usize as sys::CUstream
}

fn event(handle: u64) -> sys::CUevent {
    handle as usize as sys::CUevent
}

fn function(handle: u64) -> sys::CUfunction {
    handle as usize as sys::CUfunction
}

fn module(handle: u64) -> sys::CUmodule {
    handle as usize as sys::CUmodule
}

fn handle<T>(pointer: *mut T) -> u64 {
    pointer as usize as u64
}

// Every call into the driver below passes handles and addresses that the trait's contract makes valid, from
// within the device's context.
impl Driver for Cuda {
    fn properties(&self) -> &Properties {
        &self.properties
    }

    fn as_cuda(&self) -> Option<&Cuda> {
        Some(self)
    }

    fn memory(&self) -> Result<Memory> {
        let _current = self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: the driver writes two numbers.
        self.check(unsafe { (self.api.f.cuMemGetInfo_v2)(&mut free, &mut total) }, "query memory")?;
        Ok(Memory { free: free + self.idle_in_pool()?, total })
    }

    fn peak_memory(&self) -> Result<usize> {
        let (pool, mut peak) = (self.counting_pool()?, 0u64);
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        let value = ptr::from_mut(&mut peak).cast();
        // SAFETY: the pool is alive; the attribute is a u64.
        let status = unsafe { (self.api.f.cuMemPoolGetAttribute)(pool, attribute, value) };
        self.check(status, "query the memory pool")?;
        Ok(usize::try_from(peak).unwrap_or(usize::MAX))
    }

    fn reset_peak_memory(&self) -> Result<()> {
        // 0 alone may be written, and stands for what is in use (CUDA driver API, "Stream Ordered Memory Allocator").
        let (pool, mut zero) = (self.counting_pool()?, 0u64);
        let attribute = sys::CUmemPool_attribute::CU_MEMPOOL_ATTR_USED_MEM_HIGH;
        let value = ptr::from_mut(&mut zero).cast();
        // SAFETY: as above.
        let status = unsafe { (self.api.f.cuMemPoolSetAttribute)(pool, attribute, value) };
        self.check(status, "reset the peak of the memory pool")
    }

    fn new_stream(&self) -> Result<u64> {
        let _current = self.enter()?;
        let mut stream = ptr::null_mut();
        let flags = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: the driver writes the stream.
        self.check(unsafe { (self.api.f.cuStreamCreate)(&mut stream, flags) }, "create a stream")?;
        Ok(handle(stream))
    }

    unsafe fn free_stream(&self, handle: u64) {
        if let Ok(_current) = self.enter() {
            // SAFETY: the caller gives up the stream. An error here is of earlier work and leaves nothing to do.
            let _ = unsafe { (self.api.f.cuStreamDestroy_v2)(stream(handle)) };
        }
    }

    unsafe fn synchronize(&self, handle: u64) -> Result<()> {
        let _current = self.enter()?;
        // SAFETY: see above the impl.
        self.check(unsafe { (self.api.f.cuStreamSynchronize)(stream(handle)) }, "synchronize a stream")
    }

    fn new_event(&self) -> Result<u64> {
        let _current = self.enter()?;
        let mut event = ptr::null_mut();
        let flags = sys::CUevent_flags::CU_EVENT_DEFAULT as u32;
        // SAFETY: the driver writes the event.
        self.check(unsafe { (self.api.f.cuEventCreate)(&mut event, flags) }, "create an event")?;
        Ok(handle(event))
    }

    unsafe fn free_event(&self, handle: u64) {
        if let Ok(_current) = self.enter() {
            // SAFETY: the caller gives up the event. An error leaves nothing to do.
            let _ = unsafe { (self.api.f.cuEventDestroy_v2)(event(handle)) };
        }
    }

    unsafe fn record(&self, event_handle: u64, stream_handle: u64) -> Result<()> {
        let _current = self.enter()?;
        // SAFETY: see above the impl.
        let status = unsafe { (self.api.f.cuEventRecord)(event(event_handle), stream(stream_handle)) };
        self.check(status, "record an event")
    }

    unsafe fn wait(&self, stream_handle: u64, event_handle: u64) -> Result<()> {
        let _current = self.enter()?;
        // SAFETY: see above the impl.
        let status = unsafe { (self.api.f.cuStreamWaitEvent)(stream(stream_handle), event(event_handle), 0) };
        self.check(status, "have a stream wait for an event")
    }

    unsafe fn elapsed_ms(&self, earlier: u64, later: u64) -> Result<f32> {
        let _current = self.enter()?;
        let mut milliseconds = 0.0;
        // SAFETY: see above the impl.
        unsafe {
            self.check((self.api.f.cuEventSynchronize)(event(later)), "wait for an event")?;
            let status = (self.api.f.cuEventElapsedTime_v2)(&mut milliseconds, event(earlier), event(later));
            self.check(status, "time between events")?;
        }
        Ok(milliseconds)
    }

    unsafe fn alloc(&self, handle: u64, bytes: usize) -> Result<DevicePtr> {
        let current = self.enter()?;
        let mut pointer = 0;
        // SAFETY: see above the impl; the driver writes the pointer.
        let status = unsafe {
            match self.pool {
                Some(pool) => (self.api.f.cuMemAllocFromPoolAsync)(&mut pointer, bytes, pool, stream(handle)),
                None => (self.api.f.cuMemAlloc_v2)(&mut pointer, bytes),
            }
        };
        drop(current);
        if status == NOT_ENOUGH_MEMORY {
            let Memory { free, total } = self.memory()?;
            return Err(Error::OutOfMemory { requested: bytes, free, total });
        }
        self.api.check(status, || format!("allocate {bytes} bytes"))?;
        Ok(DevicePtr(pointer))
    }

    unsafe fn free(&self, handle: u64, pointer: DevicePtr) {
        let Ok(_current) = self.enter() else { return };
        // SAFETY: the caller gives up the memory. An error here is of earlier work and leaves nothing to do.
        unsafe {
            if self.pool.is_some() {
                let _ = (self.api.f.cuMemFreeAsync)(pointer.0, stream(handle));
            } else {
                let _ = (self.api.f.cuStreamSynchronize)(stream(handle));
                let _ = (self.api.f.cuMemFree_v2)(pointer.0);
            }
        }
    }

    unsafe fn upload(&self, handle: u64, target: DevicePtr, source: &[u8]) -> Result<()> {
        let _current = self.enter()?;
        let host = source.as_ptr().cast::<c_void>();
        // SAFETY: see above the impl.
        unsafe {
            let status = (self.api.f.cuMemcpyHtoDAsync_v2)(target.0, host, source.len(), stream(handle));
            self.api.check(status, || format!("upload {} bytes", source.len()))?;
            // Pageable memory has been read when the call returns (CUDA driver API, "API synchronization
            // behavior"). Memory that the driver knows, which is page-locked, may be read later.
            let mut kind = 0u32;
            let which = sys::CUpointer_attribute::CU_POINTER_ATTRIBUTE_MEMORY_TYPE;
            let known =
                (self.api.f.cuPointerGetAttribute)(ptr::from_mut(&mut kind).cast(), which, host as u64);
            if known == 0 {
                self.check((self.api.f.cuStreamSynchronize)(stream(handle)), "wait for an upload")?;
            }
        }
        Ok(())
    }

    unsafe fn download(&self, handle: u64, target: &mut [u8], source: DevicePtr) -> Result<()> {
        let _current = self.enter()?;
        let (host, bytes) = (target.as_mut_ptr().cast(), target.len());
        // SAFETY: see above the impl; the host memory is borrowed until the copy is done.
        unsafe {
            let status = (self.api.f.cuMemcpyDtoHAsync_v2)(host, source.0, bytes, stream(handle));
            self.api.check(status, || format!("download {bytes} bytes"))?;
            self.check((self.api.f.cuStreamSynchronize)(stream(handle)), "wait for a download")
        }
    }

    unsafe fn copy(&self, handle: u64, target: DevicePtr, source: DevicePtr, bytes: usize) -> Result<()> {
        let _current = self.enter()?;
        // SAFETY: see above the impl.
        let status = unsafe { (self.api.f.cuMemcpyDtoDAsync_v2)(target.0, source.0, bytes, stream(handle)) };
        self.api.check(status, || format!("copy {bytes} bytes"))
    }

    unsafe fn fill(&self, handle: u64, target: DevicePtr, value: u8, bytes: usize) -> Result<()> {
        let _current = self.enter()?;
        // SAFETY: see above the impl.
        let status = unsafe { (self.api.f.cuMemsetD8Async)(target.0, value, bytes, stream(handle)) };
        self.api.check(status, || format!("fill {bytes} bytes"))
    }

    fn load(&self, image: &Image) -> Result<u64> {
        let _current = self.enter()?;
        let mut reasons = Vec::new();
        if let Some(cubin) = image.cubin() {
            // SAFETY: a cubin from NVRTC is a whole ELF file, and one from the cache has passed its checksum.
            match unsafe { self.load_data(cubin) } {
                Ok(module) => return Ok(handle(module)),
                Err(reason) => reasons.push(format!("cubin: {reason}")),
            }
        }
        let ptx = CString::new(image.ptx()).unwrap_or_default();
        // SAFETY: the text ends with NUL.
        match unsafe { self.load_data(ptx.as_bytes_with_nul()) } {
            Ok(module) => return Ok(handle(module)),
            Err(reason) => reasons.push(format!("PTX: {reason}")),
        }
        reasons.push(self.api.version_advice());
        Err(Error::Load {
            device: self.properties.name.clone(),
            program: image.program().to_owned(),
            arch: image.arch(),
            reasons: reasons.join("\n"),
        })
    }

    unsafe fn unload(&self, handle: u64) {
        if let Ok(_current) = self.enter() {
            // SAFETY: the caller gives up the module; no kernel of it is left running after the synchronisation.
            unsafe {
                let _ = (self.api.f.cuCtxSynchronize)();
                let _ = (self.api.f.cuModuleUnload)(module(handle));
            }
        }
    }

    unsafe fn kernel(&self, module_handle: u64, name: &str) -> Result<u64> {
        let _current = self.enter()?;
        let c_name =
            CString::new(name).map_err(|_| Error::argument("kernel", "name", name, "free of NUL bytes"))?;
        let mut function = ptr::null_mut();
        // SAFETY: see above the impl; the name lives during the call.
        unsafe {
            let status =
                (self.api.f.cuModuleGetFunction)(&mut function, module(module_handle), c_name.as_ptr());
            self.api.check(status, || format!("find kernel {name}"))?;
            if let Some(load) = self.api.load_function {
                // The driver loads kernels lazily, at their first launch: now is better.
                self.api.check(load(function), || format!("load kernel {name}"))?;
            }
        }
        Ok(handle(function))
    }

    unsafe fn allow_dynamic_shared(&self, kernel: u64, bytes: u32) -> Result<()> {
        let _current = self.enter()?;
        let _guard = self.shared_limit.lock().unwrap_or_else(PoisonError::into_inner);
        let limit = sys::CUfunction_attribute::CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES;
        let mut now: c_int = 0;
        // SAFETY: see above the impl; the driver writes one integer.
        unsafe {
            let status = (self.api.f.cuFuncGetAttribute)(&mut now, limit, function(kernel));
            self.check(status, "query a kernel's limit of shared memory")?;
            let wanted = c_int::try_from(bytes).unwrap_or(c_int::MAX);
            if wanted <= now {
                return Ok(());
            }
            let status = (self.api.f.cuFuncSetAttribute)(function(kernel), limit, wanted);
            self.api.check(status, || format!("let a kernel have {bytes} bytes of shared memory"))
        }
    }

    unsafe fn launch(&self, kernel: u64, handle: u64, shape: &Launch, params: &[u8]) -> Result<()> {
        let _current = self.enter()?;
        let ([gx, gy, gz], [bx, by, bz]) = (shape.grid, shape.block);
        let mut arguments = [params.as_ptr().cast_mut().cast::<c_void>()];
        // SAFETY: see above the impl; the driver copies the parameter during the call and does not write to it.
        let status = unsafe {
            (self.api.f.cuLaunchKernel)(
                function(kernel),
                gx,
                gy,
                gz,
                bx,
                by,
                bz,
                shape.shared_bytes,
                stream(handle),
                arguments.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        self.check(status, "launch")
    }
}

impl Drop for Cuda {
    fn drop(&mut self) {
        // SAFETY: all that used the pool and the context held this device. Errors leave nothing to do.
        unsafe {
            if let Some(pool) = self.pool {
                let _ = (self.api.f.cuMemPoolDestroy)(pool);
            }
            let _ = (self.api.f.cuDevicePrimaryCtxRelease_v2)(self.device);
        }
    }
}

//! Matrix products by cuBLASLt, on row-major matrices.
//!
//! [`Matmul`] says what, [`Cublaslt::plan`] chooses an algorithm for it, [`MatmulPlan::launch`] enqueues it: no
//! allocation, no synchronisation. The workspace belongs to the caller.
//!
//! ```no_run
//! use longhand_gpu::cublaslt::{Cublaslt, Dtype, Matmul, MatmulArgs, Matrix};
//! use longhand_gpu::{Device, DevicePtr};
//!
//! # fn main() -> Result<(), longhand_gpu::Error> {
//! // y (512, 3072) = x (512, 768) · w (768, 3072) + bias (3072), in bf16.
//! let device = Device::cuda(0)?;
//! let plan = Cublaslt::new(&device)?.plan(&Matmul {
//!     m: 512,
//!     n: 3072,
//!     k: 768,
//!     batch: 1,
//!     inputs: Dtype::Bf16,
//!     output: Dtype::Bf16,
//!     a: Matrix::row_major(768),
//!     b: Matrix::row_major(3072),
//!     d: Matrix::row_major(3072),
//!     bias: true,
//!     accumulate: false,
//!     alignment: 16,
//! })?;
//! let stream = device.new_stream()?;
//! let [x, w, bias, y] = [512 * 768, 768 * 3072, 3072, 512 * 3072].map(|n| stream.alloc(2 * n));
//! let (x, w, bias, y) = (x?, w?, bias?, y?);
//! let workspace = stream.alloc(plan.workspace_bytes())?;
//! let args = MatmulArgs { a: x.ptr(), b: w.ptr(), bias: bias.ptr(), d: y.ptr(), workspace: workspace.ptr() };
//! // SAFETY: every buffer has as many elements as the plan says.
//! unsafe { plan.launch(&stream, &args) }
//! # }
//! ```

mod column_major;
mod description;
mod descriptors;
mod library;

use std::sync::{Arc, Mutex, PoisonError};

use cudarc::cublaslt::sys;

use crate::cuda::Cuda;
use crate::{Device, DevicePtr, Error, Result, Stream};
use column_major::Call;
pub use description::{Dtype, Matmul, Matrix, Order};
use descriptors::{Layout, Operation, Preference};
use library::Api;
pub use library::locate;

/// The most workspace that an algorithm may ask for, in bytes: what NVIDIA recommends for Hopper and later.
const MAX_WORKSPACE: usize = 32 << 20;

/// Alignment of the workspace in bytes.
const WORKSPACE_ALIGNMENT: u64 = 256;

/// cuBLASLt on one device. A cheap handle.
#[derive(Clone)]
pub struct Cublaslt(Arc<Inner>);

struct Inner {
    api: Api,
    handle: sys::cublasLtHandle_t,
    device: Device,
}

// SAFETY: cuBLASLt's handle may be used by several threads at once.
unsafe impl Send for Inner {}
// SAFETY: as above.
unsafe impl Sync for Inner {}

fn cuda(device: &Device) -> Result<&Cuda> {
    let unsupported = || Error::Unsupported { device: device.name().to_owned(), what: "cuBLASLt" };
    device.driver().as_cuda().ok_or_else(unsupported)
}

impl Cublaslt {
    /// Finds the library and readies it for a device.
    ///
    /// # Errors
    ///
    /// [`Error::LibraryNotFound`] with every place looked at and what to install; [`Error::Unsupported`] on a
    /// device that is not CUDA's; [`Error::Cublaslt`].
    pub fn new(device: &Device) -> Result<Cublaslt> {
        let cuda = cuda(device)?;
        let api = Api::open(Some(cuda.version().0))?;
        let _current = cuda.enter()?;
        let mut handle = std::ptr::null_mut();
        // SAFETY: cuBLASLt writes the handle, for the device whose context is current.
        api.check(unsafe { (api.f.cublasLtCreate)(&mut handle) }, || "cublasLtCreate".to_owned())?;
        Ok(Cublaslt(Arc::new(Inner { api, handle, device: device.clone() })))
    }

    /// Chooses an algorithm. Milliseconds; keep the plan.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] for a description that contradicts itself; [`Error::Cublaslt`] where no algorithm takes it.
    pub fn plan(&self, matmul: &Matmul) -> Result<MatmulPlan> {
        matmul.check()?;
        let work = match matmul {
            Matmul { m: 0, .. }
            | Matmul { n: 0, .. }
            | Matmul { batch: 0, .. }
            | Matmul { k: 0, accumulate: true, bias: false, .. } => Work::Nothing,
            Matmul { k: 0, .. } => Work::Zero(matmul.bytes_of_zero()?),
            _ => Work::Product(Box::new(self.choose(matmul)?)),
        };
        Ok(MatmulPlan { library: self.clone(), matmul: matmul.clone(), work })
    }

    fn choose(&self, matmul: &Matmul) -> Result<Product> {
        let Inner { api, handle, device } = &*self.0;
        let call = Call::of(matmul);
        let [inputs, output] = [matmul.inputs.cuda(), matmul.output.cuda()];
        let [first, second, result] = [(&call.first, inputs), (&call.second, inputs), (&call.result, output)]
            .map(|(stored, dtype)| Layout::new(api, dtype, stored, matmul.batch));
        let (first, second, result) = (first?, second?, result?);
        let operation = Operation::new(api, &call, matmul.bias.then_some(output))?;
        let preference = Preference::new(api, MAX_WORKSPACE, matmul.alignment)?;

        let _current = cuda(device)?.enter()?;
        let mut found = std::mem::MaybeUninit::<sys::cublasLtMatmulHeuristicResult_t>::zeroed();
        let mut count = 0;
        // SAFETY: every descriptor is alive; cuBLASLt writes at most one result and how many.
        let status = unsafe {
            (api.f.cublasLtMatmulAlgoGetHeuristic)(
                *handle,
                operation.raw(),
                first.raw(),
                second.raw(),
                result.raw(),
                result.raw(),
                preference.raw(),
                1,
                found.as_mut_ptr(),
                &mut count,
            )
        };
        api.check(status, || format!("has no algorithm for {matmul:?}"))?;
        if count == 0 {
            let operation = format!("has no algorithm for {matmul:?}");
            return Err(Error::Cublaslt { operation, status: "none found".to_owned() });
        }
        // SAFETY: cuBLASLt wrote one result. Its status is not read, only plain integers are.
        let (algorithm, workspace) = unsafe { ((*found.as_ptr()).algo, (*found.as_ptr()).workspaceSize) };
        Ok(Product { operation: Mutex::new(operation), first, second, result, algorithm, workspace })
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Ok(_current) = cuda(&self.device).and_then(Cuda::enter) {
            // SAFETY: every plan held this. An error leaves nothing to do.
            let _ = unsafe { (self.api.f.cublasLtDestroy)(self.handle) };
        }
    }
}

/// A matrix product with its algorithm. `Send + Sync`.
pub struct MatmulPlan {
    library: Cublaslt,
    matmul: Matmul,
    work: Work,
}

enum Work {
    /// `d` has no elements, or stays what it is.
    Nothing,
    /// `k` is 0: `d` becomes 0, as many bytes.
    Zero(usize),
    Product(Box<Product>),
}

struct Product {
    /// Locked during a launch, which sets the address of the bias in it.
    operation: Mutex<Operation>,
    first: Layout,
    second: Layout,
    result: Layout,
    algorithm: sys::cublasLtMatmulAlgo_t,
    workspace: usize,
}

/// The addresses of one launch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MatmulArgs {
    /// `a`.
    pub a: DevicePtr,
    /// `b`.
    pub b: DevicePtr,
    /// The bias; [`DevicePtr::NULL`] for a plan without one.
    pub bias: DevicePtr,
    /// `d`.
    pub d: DevicePtr,
    /// As many bytes as the plan says, aligned to 256; [`DevicePtr::NULL`] where it says 0. One launch at a time may
    /// use it.
    pub workspace: DevicePtr,
}

impl MatmulPlan {
    /// What it computes.
    #[must_use]
    pub fn matmul(&self) -> &Matmul {
        &self.matmul
    }

    /// Workspace that a launch needs, in bytes; at most 32 MiB.
    #[must_use]
    pub fn workspace_bytes(&self) -> usize {
        match &self.work {
            Work::Product(product) => product.workspace,
            Work::Nothing | Work::Zero(_) => 0,
        }
    }

    /// Enqueues the product: no allocation, no synchronisation.
    ///
    /// # Safety
    ///
    /// Every address is memory of the plan's device with as many elements as the plan says, which stays allocated
    /// until the product is done; `d` and the workspace overlap nothing else.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`] for an address that is missing or less aligned than planned, or a stream of another
    /// device; [`Error::Cublaslt`].
    pub unsafe fn launch(&self, stream: &Stream, args: &MatmulArgs) -> Result<()> {
        match &self.work {
            Work::Nothing => Ok(()),
            // SAFETY: the caller answers for `d`, which is compact.
            Work::Zero(bytes) => unsafe { stream.fill_zero(args.d, *bytes) },
            Work::Product(product) => {
                self.check(stream, args)?;
                // SAFETY: the caller answers for the addresses.
                unsafe { self.multiply(product, stream, args) }
            }
        }
    }

    fn check(&self, stream: &Stream, args: &MatmulArgs) -> Result<()> {
        let device = &self.library.0.device;
        if stream.device() != device {
            return Err(Error::argument(
                "matmul",
                "stream",
                format!("one of {:?}", stream.device()),
                format!("of {device:?}"),
            ));
        }
        let align = u64::from(self.matmul.alignment);
        let (needs_bias, needs_workspace) = (self.matmul.bias, self.workspace_bytes() > 0);
        let bias_align = self.matmul.output.bytes() as u64;
        let addresses = [
            ("a", args.a, true, align),
            ("b", args.b, true, align),
            ("d", args.d, true, align),
            ("bias", args.bias, needs_bias, bias_align),
            ("workspace", args.workspace, needs_workspace, WORKSPACE_ALIGNMENT),
        ];
        for (name, address, needed, align) in addresses {
            if needed && (address.is_null() || !address.is_aligned(align)) {
                let must = format!("an address that is a multiple of {align} bytes");
                return Err(Error::argument("matmul", name, format!("{address:?}"), must));
            }
        }
        Ok(())
    }

    /// # Safety
    ///
    /// As [`MatmulPlan::launch`].
    unsafe fn multiply(&self, product: &Product, stream: &Stream, args: &MatmulArgs) -> Result<()> {
        let Inner { api, handle, device } = &*self.library.0;
        let _current = cuda(device)?.enter()?;
        let operation = product.operation.lock().unwrap_or_else(PoisonError::into_inner);
        if self.matmul.bias {
            operation.set_bias(api, args.bias)?;
        }
        let (one, of_d) = (1.0f32, if self.matmul.accumulate { 1.0f32 } else { 0.0 });
        // SAFETY: handle and descriptors are alive, the factors are f32 as the operation says, `c` may be `d` and is not
        // read for a factor of 0; the caller answers for the addresses. The operands are exchanged: see `column_major`.
        let status = unsafe {
            (api.f.cublasLtMatmul)(
                *handle,
                operation.raw(),
                (&raw const one).cast(),
                args.b.0 as usize as *const _,
                product.first.raw(),
                args.a.0 as usize as *const _,
                product.second.raw(),
                (&raw const of_d).cast(),
                args.d.0 as usize as *const _,
                product.result.raw(),
                args.d.0 as usize as *mut _,
                product.result.raw(),
                &product.algorithm,
                args.workspace.0 as usize as *mut _,
                product.workspace,
                stream.as_raw() as usize as sys::cudaStream_t,
            )
        };
        api.check(status, || format!("cublasLtMatmul of {:?}", self.matmul))
    }
}

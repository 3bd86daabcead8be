//! Tensors on a GPU: their memory, and the kernels that work on them.

mod cross_entropy;
mod index_lists;
mod matmul;
mod plans;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use longhand_gpu::{Arch, Buffer, DevicePtr, Stream, emulator};
use longhand_kernels as kernels;
use longhand_kernels::elementwise::{CopyArgs, MapArgs, Operand, Operation};

pub(crate) use cross_entropy::Losses;
use index_lists::IndexLists;
pub(crate) use matmul::Product;
pub(crate) use plans::Plans;

use crate::dtype::with_element;
use crate::storage::{Data, Storage};
use crate::tensor::check_shape;
use crate::{Device, Dtype, Element, Error, Result, Tensor};

/// A GPU, the stream on which its work is enqueued in order, and the kernels compiled for it. Cheap to clone; all
/// clones are the same.
#[derive(Clone)]
pub struct Gpu(Arc<Context>);

struct Context {
    /// CUDA's number of it, counted from 0; None for one that is emulated.
    ordinal: Option<usize>,
    device: longhand_gpu::Device,
    stream: Stream,
    plans: Plans,
    index_lists: IndexLists,
}

impl Gpu {
    /// The GPU of this number. While it is in use somewhere, this is the same one: tensors on it fit together.
    pub(crate) fn open(ordinal: usize) -> Result<Gpu> {
        static OPEN: Mutex<Option<HashMap<usize, Weak<Context>>>> = Mutex::new(None);
        let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
        let open = open.get_or_insert_default();
        if let Some(context) = open.get(&ordinal).and_then(Weak::upgrade) {
            return Ok(Gpu(context));
        }
        let gpu = Gpu::new(Some(ordinal), longhand_gpu::Device::cuda(ordinal)?)?;
        open.insert(ordinal, Arc::downgrade(&gpu.0));
        Ok(gpu)
    }

    /// A new emulated GPU.
    pub(crate) fn emulated(arch: Arch, options: emulator::Options) -> Result<Gpu> {
        Gpu::new(None, longhand_gpu::Device::emulated_with(arch, options)?)
    }

    fn new(ordinal: Option<usize>, device: longhand_gpu::Device) -> Result<Gpu> {
        let stream = device.new_stream()?;
        let (plans, index_lists) = (Plans::default(), IndexLists::default());
        Ok(Gpu(Arc::new(Context { ordinal, device, stream, plans, index_lists })))
    }

    /// The GPU's number, counted from 0; None for one that is emulated.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// use longhand_gpu::emulator::Options;
    /// use longhand_tensor::Device;
    ///
    /// let Device::Gpu(gpu) = Device::emulated("sm_80".parse()?, Options::default())? else { unreachable!() };
    /// assert_eq!(gpu.ordinal(), None);
    /// # Ok(())
    /// # }
    /// ```
    pub fn ordinal(&self) -> Option<usize> {
        self.0.ordinal
    }

    /// The device, to compile kernels of your own for.
    pub fn device(&self) -> &longhand_gpu::Device {
        &self.0.device
    }

    /// The stream on which all work on this device's tensors is enqueued. A kernel of your own goes there too.
    pub fn stream(&self) -> &Stream {
        &self.0.stream
    }

    pub(crate) fn plans(&self) -> &Plans {
        &self.0.plans
    }

    /// Scratch memory for what is enqueued next; dropping it returns it to the stream in its turn.
    pub(crate) fn workspace(&self, bytes: usize) -> Result<Buffer> {
        Ok(self.0.stream.alloc(bytes)?)
    }

    /// A contiguous tensor with undefined elements, to be written next on this stream.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// use longhand_gpu::emulator::Options;
    /// use longhand_tensor::{Device, Dtype};
    ///
    /// let Device::Gpu(gpu) = Device::emulated("sm_80".parse()?, Options::default())? else { unreachable!() };
    /// let out = gpu.empty(&[2, 3], Dtype::Bf16)?; // for a kernel to write
    /// assert_eq!((out.shape(), out.dtype()), (&[2, 3][..], Dtype::Bf16));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When there is no memory for it, or `dtype` is `f64`.
    pub fn empty(&self, shape: &[usize], dtype: Dtype) -> Result<Tensor> {
        if dtype == Dtype::F64 {
            return Err(Error::dtype("tensor on a GPU", dtype, "f32, bf16, f16 or u32; f64 is for the CPU"));
        }
        let buffer = self.workspace(check_shape("tensor on a GPU", shape)? * dtype.size())?;
        Ok(Tensor::from_storage(Storage::gpu(buffer), shape, dtype, Device::Gpu(self.clone())))
    }

    pub(crate) fn zeros(&self, shape: &[usize], dtype: Dtype) -> Result<Tensor> {
        let out = self.empty(shape, dtype)?;
        // SAFETY: `out` is an allocation of this size on this stream.
        unsafe { self.stream().fill_zero(out.pointer("zeros")?, out.numel() * dtype.size())? };
        Ok(out)
    }

    pub(crate) fn upload(&self, bytes: &[u8], shape: &[usize], dtype: Dtype) -> Result<Tensor> {
        let out = self.empty(shape, dtype)?;
        // SAFETY: `out` is an allocation for `shape` and `dtype`, and `bytes` holds as many elements.
        unsafe { self.stream().upload(out.pointer("to_device")?, bytes)? };
        Ok(out)
    }

    /// Fills `bytes` with the elements of a contiguous tensor; waits until they are computed.
    pub(crate) fn download(&self, tensor: &Tensor, bytes: &mut [u8]) -> Result<()> {
        // SAFETY: the tensor is contiguous and `bytes` is of its size.
        unsafe { self.stream().download(tensor.pointer("to_device")?, bytes)? };
        Ok(())
    }

    /// Elementwise arithmetic of contiguous operands, of which the second is repeated to fill the output.
    pub(crate) fn map(
        &self,
        name: &str,
        operation: Operation,
        (a, b): (&Tensor, Option<&Tensor>),
        scalar: f64,
        (shape, dtype): (&[usize], Dtype),
    ) -> Result<Tensor> {
        let out = self.empty(shape, dtype)?;
        self.map_into(name, operation, (a, b), scalar, &out)?;
        Ok(out)
    }

    /// The same into `out`, which may be the first operand itself.
    pub(crate) fn map_into(
        &self,
        name: &str,
        operation: Operation,
        (a, b): (&Tensor, Option<&Tensor>),
        scalar: f64,
        out: &Tensor,
    ) -> Result<()> {
        let (input, output) = (kernel_dtype(name, a.dtype())?, kernel_dtype(name, out.dtype())?);
        let plan = self.plans().map.get((operation, input, output), |(operation, input, output)| {
            kernels::elementwise::Map::new(operation, input).output(output).plan(self.device())
        })?;
        let operand = |tensor: &Tensor| -> Result<Operand> {
            Ok(Operand { data: tensor.pointer(name)?, count: tensor.numel() })
        };
        let args = MapArgs {
            count: out.numel(),
            a: operand(a)?,
            b: b.map(operand).transpose()?.unwrap_or(Operand::NONE),
            scalar: scalar as f32,
            out: out.pointer(name)?,
        };
        // SAFETY: operands and output are contiguous tensors of this device with as many elements as said; the output
        // is a new one, or the first operand, which then has its size and type.
        unsafe { plan.launch(self.stream(), &args)? };
        Ok(())
    }

    /// Sets every element of a new tensor to `value`, rounded once.
    pub(crate) fn fill(&self, name: &str, value: f64, out: &Tensor) -> Result<()> {
        let dtype = kernel_dtype(name, out.dtype())?;
        let plan = self.plans().map.get((Operation::Fill, dtype, dtype), |(operation, dtype, _)| {
            kernels::elementwise::Map::new(operation, dtype).plan(self.device())
        })?;
        let scalar = with_element!(out.dtype(), E => E::from_f64(value).to_f32());
        let (a, b) = (Operand::NONE, Operand::NONE);
        let args = MapArgs { count: out.numel(), a, b, scalar, out: out.pointer(name)? };
        // SAFETY: the output is a new contiguous tensor of this device.
        unsafe { plan.launch(self.stream(), &args)? };
        Ok(())
    }

    /// Copies the elements of `source` to where those of `target`, a view of the same shape, lie.
    pub(crate) fn copy(&self, name: &str, source: &Tensor, target: &Tensor) -> Result<()> {
        let plan = self.plans().copy.get((), |()| kernels::elementwise::Copy::new().plan(self.device()))?;
        let args = CopyArgs {
            element_bytes: source.dtype().size(),
            shape: source.shape(),
            source: source.pointer(name)?,
            source_strides: &signed(source.strides()),
            target: target.pointer(name)?,
            target_strides: &signed(target.strides()),
        };
        // SAFETY: both tensors lie in memory of this device as their strides say; the target is new.
        unsafe { plan.launch(self.stream(), &args)? };
        Ok(())
    }
}

/// The same open GPU.
impl PartialEq for Gpu {
    fn eq(&self, other: &Gpu) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for Gpu {}

impl Tensor {
    /// Where the first element lies in GPU memory, for kernels of your own: they go on [`Gpu::stream`], and may write
    /// only to tensors that [`Gpu::empty`] has just made. `operation` is named in the error.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// use longhand_gpu::emulator::Options;
    /// use longhand_tensor::{Device, Tensor};
    ///
    /// let device = Device::emulated("sm_80".parse()?, Options::default())?;
    /// let x = Tensor::from([1.0f32, 2.0, 3.0]).to_device(&device)?;
    /// let last = x.slice(2..)?; // a view
    /// assert_eq!(last.pointer("own")?.0, x.pointer("own")?.0 + 8);
    /// assert!(Tensor::from([1.0f32]).pointer("own").is_err()); // not on a GPU
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the tensor is on the CPU.
    pub fn pointer(&self, operation: &str) -> Result<DevicePtr> {
        match &self.storage().data {
            Data::Gpu(buffer) => Ok(buffer.ptr().offset((self.layout().offset * self.dtype().size()) as i64)),
            Data::Cpu(_) => Err(Error::argument(operation, "a tensor", "on the CPU", "on a GPU")),
        }
    }
}

/// [`Tensor::pointer`], or null where there is no tensor.
pub(crate) fn pointer_or_null(operation: &str, tensor: Option<&Tensor>) -> Result<DevicePtr> {
    tensor.map_or(Ok(DevicePtr::NULL), |tensor| tensor.pointer(operation))
}

/// The name that the kernels have for an element type.
pub(crate) fn kernel_dtype(operation: &str, dtype: Dtype) -> Result<kernels::Dtype> {
    match dtype {
        Dtype::F32 => Ok(kernels::Dtype::F32),
        Dtype::Bf16 => Ok(kernels::Dtype::Bf16),
        Dtype::F16 => Ok(kernels::Dtype::F16),
        Dtype::F64 | Dtype::U32 => Err(Error::dtype(operation, dtype, "f32, bf16 or f16 on a GPU")),
    }
}

fn signed(strides: &[usize]) -> Vec<i64> {
    strides.iter().map(|&stride| stride as i64).collect()
}

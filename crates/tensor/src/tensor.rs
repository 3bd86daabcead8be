//! The tensor: a cheap handle on elements, their layout, and where they came from.

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

use crate::autograd::{Edge, Gradients};
use crate::dtype::with_element;
use crate::layout::{Layout, count};
use crate::storage::{Data, Host, Read, Storage, Write};
use crate::{Device, Dtype, Element, Error, Result};

/// An array of numbers on a device, of any number of dimensions, and the way back to what it was computed from.
///
/// Cloning copies a pointer. Views ([`reshape`](Tensor::reshape), [`transpose`](Tensor::transpose),
/// [`narrow`](Tensor::narrow)) share the elements. Elements never change, save by an optimiser's step.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// use longhand_tensor::{Device, Dtype, Tensor};
///
/// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0], &[3], &Device::Cpu)?.requires_grad();
/// assert_eq!((x.shape(), x.numel(), x.dtype(), x.device()), (&[3][..], 3, Dtype::F32, &Device::Cpu));
/// assert!(x.is_contiguous() && x.needs_gradient() && x.id() == x.clone().id());
///
/// let loss = x.mul(&x)?.sum_all()?;
/// let gradients = loss.backward()?;
/// assert_eq!(loss.item()?, 14.0);
/// assert_eq!(gradients.get(&x).unwrap().to_vec::<f32>()?, [2.0, 4.0, 6.0]);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Tensor(Arc<Inner>);

/// Tells one tensor from another; clones of a tensor have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TensorId(u64);

struct Inner {
    id: TensorId,
    storage: Arc<Storage>,
    layout: Layout,
    dtype: Dtype,
    device: Device,
    edge: Option<Edge>,
}

impl TensorId {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        TensorId(NEXT.fetch_add(1, Ordering::Relaxed))
    }
}

impl Tensor {
    /// A tensor of `shape` with these elements in row-major order.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Tensor};
    /// let x = Tensor::from_vec(vec![1.0f32, 2.0, 3.0, 4.0], &[2, 2], &Device::Cpu)?;
    /// assert_eq!(x.shape(), [2, 2]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the number of elements is not the product of `shape`.
    pub fn from_vec<E: Element>(values: Vec<E>, shape: &[usize], device: &Device) -> Result<Tensor> {
        check_count("from_vec", values.len(), shape)?;
        Tensor::from_host(E::into_host(values), shape).to_device(device)
    }

    /// A tensor of `shape` with a copy of these elements, in row-major order.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Tensor};
    /// let x = Tensor::from_slice(&[1.0f32, 2.0, 3.0, 4.0], &[2, 2], &Device::Cpu)?;
    /// assert_eq!(x.shape(), [2, 2]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the number of elements is not the product of `shape`.
    pub fn from_slice<E: Element>(values: &[E], shape: &[usize], device: &Device) -> Result<Tensor> {
        check_count("from_slice", values.len(), shape)?;
        Tensor::from_host(E::into_host(values.to_vec()), shape).to_device(device)
    }

    /// The numbers of a range, `u32`, of shape `[n]`: positions of tokens, for one.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Tensor};
    /// assert_eq!(Tensor::arange(2..5, &Device::Cpu)?.to_vec::<u32>()?, [2, 3, 4]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn arange(range: Range<u32>, device: &Device) -> Result<Tensor> {
        check_new("arange", &[range.len()], Dtype::U32, &Device::Cpu)?;
        let values: Vec<u32> = range.collect();
        let count = values.len();
        Tensor::from_vec(values, &[count], device)
    }

    /// A tensor of `shape` filled with 0.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Dtype, Tensor};
    /// assert_eq!(Tensor::zeros(&[2], Dtype::F32, &Device::Cpu)?.to_vec::<f32>()?, [0.0, 0.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the device is out of memory or does not take `dtype`, or `shape` has more elements than any memory.
    pub fn zeros(shape: &[usize], dtype: Dtype, device: &Device) -> Result<Tensor> {
        let count = check_new("zeros", shape, dtype, device)?;
        match device {
            Device::Cpu => Ok(Tensor::from_host(Host::zeros(dtype, count), shape)),
            Device::Gpu(gpu) => gpu.zeros(shape, dtype),
        }
    }

    /// A tensor of `shape` filled with 1.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Dtype, Tensor};
    /// assert_eq!(Tensor::ones(&[2], Dtype::F32, &Device::Cpu)?.to_vec::<f32>()?, [1.0, 1.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the device is out of memory or does not take `dtype`, or `shape` has more elements than any memory.
    pub fn ones(shape: &[usize], dtype: Dtype, device: &Device) -> Result<Tensor> {
        Tensor::full(shape, 1.0, dtype, device)
    }

    /// A tensor of `shape` filled with `value`.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Dtype, Tensor};
    /// assert_eq!(Tensor::full(&[2], 1.5, Dtype::F32, &Device::Cpu)?.to_vec::<f32>()?, [1.5, 1.5]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the device is out of memory or does not take `dtype`, or `shape` has more elements than any memory.
    pub fn full(shape: &[usize], value: f64, dtype: Dtype, device: &Device) -> Result<Tensor> {
        if let Device::Gpu(gpu) = device
            && dtype.is_float()
        {
            let out = gpu.empty(shape, dtype)?;
            gpu.fill("full", value, &out)?;
            return Ok(out);
        }
        let count = check_new("full", shape, dtype, &Device::Cpu)?;
        let host = with_element!(dtype, E => E::into_host(vec![E::from_f64(value); count]));
        Tensor::from_host(host, shape).to_device(device)
    }

    /// Zeros in the shape, element type and device of this tensor.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// assert_eq!(Tensor::from([1.0f32, 2.0]).zeros_like()?.to_vec::<f32>()?, [0.0, 0.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn zeros_like(&self) -> Result<Tensor> {
        Tensor::zeros(self.shape(), self.dtype(), self.device())
    }

    /// Ones in the shape, element type and device of this tensor.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// assert_eq!(Tensor::from([5.0f32, 2.0]).ones_like()?.to_vec::<f32>()?, [1.0, 1.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the device is out of memory.
    pub fn ones_like(&self) -> Result<Tensor> {
        Tensor::ones(self.shape(), self.dtype(), self.device())
    }

    /// A tensor of `shape` with normally distributed elements of mean 0 and the given standard deviation.
    ///
    /// The numbers depend on `rng` alone: the same on every device, for every `dtype` up to its rounding.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Dtype, Tensor};
    /// use rand::{SeedableRng, rngs::StdRng};
    ///
    /// let draw = || Tensor::randn(&[2, 3], 0.02, Dtype::F32, &Device::Cpu, &mut StdRng::seed_from_u64(1));
    /// assert_eq!(draw()?.to_vec::<f32>()?, draw()?.to_vec::<f32>()?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the device is out of memory or does not take `dtype`, or `shape` has more elements than any memory.
    pub fn randn(
        shape: &[usize],
        std: f64,
        dtype: Dtype,
        device: &Device,
        rng: &mut impl rand::Rng,
    ) -> Result<Tensor> {
        let count = check_new("randn", shape, Dtype::F64, &Device::Cpu)?;
        let values = standard_normal(count, rng);
        let host = with_element!(dtype, E => {
            E::into_host(values.iter().map(|value| E::from_f64(value * std)).collect())
        });
        Tensor::from_host(host, shape).to_device(device)
    }

    /// Sizes of the dimensions.
    pub fn shape(&self) -> &[usize] {
        &self.0.layout.shape
    }

    /// The number of dimensions.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Dtype, Tensor};
    /// assert_eq!(Tensor::zeros(&[2, 3, 4], Dtype::F32, &Device::Cpu)?.rank(), 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn rank(&self) -> usize {
        self.shape().len()
    }

    /// Distance in elements between neighbours along each dimension; 0 where one element is repeated.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Dtype, Tensor};
    /// let x = Tensor::zeros(&[2, 3], Dtype::F32, &Device::Cpu)?;
    /// assert_eq!((x.strides(), x.transpose(0, 1)?.strides()), (&[3, 1][..], &[1, 3][..]));
    /// # Ok(())
    /// # }
    /// ```
    pub fn strides(&self) -> &[usize] {
        &self.0.layout.strides
    }

    /// Type of the elements.
    pub fn dtype(&self) -> Dtype {
        self.0.dtype
    }

    /// Where the elements are.
    pub fn device(&self) -> &Device {
        &self.0.device
    }

    /// Number of elements.
    pub fn numel(&self) -> usize {
        self.0.layout.numel()
    }

    /// Tells this tensor from others; clones share it.
    pub fn id(&self) -> TensorId {
        self.0.id
    }

    /// Whether elements follow one another in memory in row-major order.
    pub fn is_contiguous(&self) -> bool {
        self.0.layout.is_contiguous()
    }

    /// Whether [`backward`](Tensor::backward) would lead somewhere from here.
    pub fn needs_gradient(&self) -> bool {
        self.0.edge.is_some()
    }

    /// The same elements as a new leaf whose gradient is wanted: a parameter.
    ///
    /// The gradient is found in [`Gradients`] under the tensor returned here.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// let weight = Tensor::from([2.0f32]).requires_grad();
    /// assert!(weight.mul(&weight)?.needs_gradient());
    /// # Ok(())
    /// # }
    /// ```
    pub fn requires_grad(&self) -> Tensor {
        let id = TensorId::new();
        self.derive(id, Some(Edge::Leaf(id)))
    }

    /// The same elements with no way back: gradients stop here.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// let weight = Tensor::from([2.0f32]).requires_grad();
    /// assert!(!weight.detach().needs_gradient());
    /// # Ok(())
    /// # }
    /// ```
    pub fn detach(&self) -> Tensor {
        if self.0.edge.is_none() { self.clone() } else { self.derive(TensorId::new(), None) }
    }

    /// Gradients of this one number by every leaf that [`requires_grad`](Tensor::requires_grad) and that it was
    /// computed from. Frees what the operations had saved, so it can be called once per forward pass.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// let x = Tensor::from([1.0f32, 2.0]).requires_grad();
    /// let gradients = x.mul(&x)?.sum_all()?.backward()?;
    /// assert_eq!(gradients.get(&x).unwrap().to_vec::<f32>()?, [2.0, 4.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When the tensor is not a single number, depends on no such leaf, was walked before, or when an operation
    /// on the way has no backward rule.
    pub fn backward(&self) -> Result<Gradients> {
        let mut gradients = Gradients::default();
        gradients.accumulate(self)?;
        Ok(gradients)
    }

    /// The elements in row-major order, copied to CPU memory.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// assert_eq!(Tensor::from([1.0f32, 2.0]).scale(2.0)?.to_vec::<f32>()?, [2.0, 4.0]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When `E` is not the element type.
    pub fn to_vec<E: Element>(&self) -> Result<Vec<E>> {
        if self.dtype() != E::DTYPE {
            return Err(Error::Dtypes { operation: "to_vec".into(), left: self.dtype(), right: E::DTYPE });
        }
        let tensor = self.detach().to_device(&Device::Cpu)?.contiguous()?;
        let values = tensor.read::<E>("to_vec")?;
        Ok(values[..tensor.numel()].to_vec())
    }

    /// The single element.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::Tensor;
    /// assert_eq!(Tensor::from([1.0f32, 2.0]).sum_all()?.item()?, 3.0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When there is more or less than one.
    pub fn item(&self) -> Result<f64> {
        if self.numel() != 1 {
            return Err(Error::argument(
                "item",
                "the tensor",
                format!("of shape {:?}", self.shape()),
                "one element",
            ));
        }
        with_element!(self.dtype(), E => Ok(self.to_vec::<E>()?[0].to_f64()))
    }

    /// The same elements in a storage of their own on `device`.
    pub(crate) fn copied(&self, device: &Device) -> Result<Tensor> {
        with_element!(self.dtype(), E => Tensor::from_vec(self.to_vec::<E>()?, self.shape(), device))
    }

    /// How often the elements were changed in place, here or through a view.
    pub(crate) fn version(&self) -> u64 {
        self.0.storage.version()
    }

    pub(crate) fn edge(&self) -> Option<&Edge> {
        self.0.edge.as_ref()
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.0.layout
    }

    pub(crate) fn storage(&self) -> &Storage {
        &self.0.storage
    }

    /// A new contiguous tensor on the CPU, made by no operation.
    pub(crate) fn from_host(host: Host, shape: &[usize]) -> Tensor {
        let dtype = host.dtype();
        Tensor::from_storage(Storage::cpu(host), shape, dtype, Device::Cpu)
    }

    /// Like [`Tensor::from_host`], from elements that are known to fit the shape.
    pub(crate) fn from_elements<E: Element>(values: Vec<E>, shape: &[usize]) -> Tensor {
        debug_assert_eq!(values.len(), shape.iter().product::<usize>());
        Tensor::from_host(E::into_host(values), shape)
    }

    pub(crate) fn from_storage(storage: Storage, shape: &[usize], dtype: Dtype, device: Device) -> Tensor {
        let layout = Layout::contiguous(shape);
        Tensor(Arc::new(Inner {
            id: TensorId::new(),
            storage: Arc::new(storage),
            layout,
            dtype,
            device,
            edge: None,
        }))
    }

    /// The same storage under another layout, made by no operation.
    pub(crate) fn view(&self, layout: Layout) -> Tensor {
        Tensor(Arc::new(Inner {
            id: TensorId::new(),
            storage: Arc::clone(&self.0.storage),
            layout,
            dtype: self.0.dtype,
            device: self.0.device.clone(),
            edge: None,
        }))
    }

    /// The same tensor with another history.
    pub(crate) fn with_edge(&self, edge: Edge) -> Tensor {
        self.derive(TensorId::new(), Some(edge))
    }

    /// Whether both are views of the same elements, or of some of them.
    pub(crate) fn shares_storage(&self, other: &Tensor) -> bool {
        Arc::ptr_eq(&self.0.storage, &other.0.storage)
    }

    /// Whether it lies in its storage from the start on, row after row.
    pub(crate) fn is_whole(&self) -> bool {
        self.0.layout == Layout::contiguous(self.shape())
    }

    /// Whether no other tensor shares the elements, so that they may be changed in place.
    pub(crate) fn is_only_handle(&mut self) -> bool {
        Arc::get_mut(&mut self.0).is_some_and(|inner| Arc::get_mut(&mut inner.storage).is_some())
    }

    fn derive(&self, id: TensorId, edge: Option<Edge>) -> Tensor {
        Tensor(Arc::new(Inner {
            id,
            storage: Arc::clone(&self.0.storage),
            layout: self.0.layout.clone(),
            dtype: self.0.dtype,
            device: self.0.device.clone(),
            edge,
        }))
    }

    /// The elements from the first on, in CPU memory; where each stands is up to the strides.
    pub(crate) fn read<E: Element>(&self, operation: &str) -> Result<Read<'_, E>> {
        let lock = self.host(operation)?;
        Read::new(lock, self.0.layout.offset).ok_or_else(|| self.wrong_element::<E>(operation))
    }

    /// The same, to be changed in place; the caller says so with [`Storage::bump_version`].
    pub(crate) fn write<E: Element>(&self, operation: &str) -> Result<Write<'_, E>> {
        let lock = self.host(operation)?;
        Write::new(lock, self.0.layout.offset).ok_or_else(|| self.wrong_element::<E>(operation))
    }

    fn host(&self, operation: &str) -> Result<&RwLock<Host>> {
        match &self.0.storage.data {
            Data::Cpu(lock) => Ok(lock),
            Data::Gpu(_) => {
                Err(Error::argument(operation, "a tensor", format!("on {}", self.device()), "on the CPU"))
            }
        }
    }

    fn wrong_element<E: Element>(&self, operation: &str) -> Error {
        Error::Dtypes { operation: operation.into(), left: self.dtype(), right: E::DTYPE }
    }
}

/// Of shape `[n]`, on the CPU.
///
/// ```
/// let x = longhand_tensor::Tensor::from(vec![1.0f32, 2.0]);
/// assert_eq!(x.shape(), [2]);
/// ```
impl<E: Element> From<Vec<E>> for Tensor {
    fn from(values: Vec<E>) -> Tensor {
        let count = values.len();
        Tensor::from_elements(values, &[count])
    }
}

/// Of shape `[n]`, on the CPU.
///
/// ```
/// let x = longhand_tensor::Tensor::from(&[1u32, 2, 3][..]);
/// assert_eq!(x.shape(), [3]);
/// ```
impl<E: Element> From<&[E]> for Tensor {
    fn from(values: &[E]) -> Tensor {
        values.to_vec().into()
    }
}

/// Of shape `[n]`, on the CPU.
///
/// ```
/// let x = longhand_tensor::Tensor::from([1.0f64, 2.0]);
/// assert_eq!(x.shape(), [2]);
/// ```
impl<E: Element, const N: usize> From<[E; N]> for Tensor {
    fn from(values: [E; N]) -> Tensor {
        values.to_vec().into()
    }
}

/// [`Tensor::to_vec`].
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// let x = longhand_tensor::Tensor::from([1.0f32, 2.0]);
/// let values: Vec<f32> = (&x).try_into()?;
/// assert_eq!(values, [1.0, 2.0]);
/// # Ok(())
/// # }
/// ```
impl<E: Element> TryFrom<&Tensor> for Vec<E> {
    type Error = Error;

    fn try_from(tensor: &Tensor) -> Result<Vec<E>> {
        tensor.to_vec()
    }
}

/// The number of elements, if there can be as many.
pub(crate) fn check_shape(operation: &str, shape: &[usize]) -> Result<usize> {
    let expected = "one whose elements memory could hold";
    count(shape).ok_or_else(|| Error::argument(operation, "shape", format!("{shape:?}"), expected))
}

/// The number of elements of a new tensor of `shape`, for which the CPU has memory; a GPU says so itself.
pub(crate) fn check_new(operation: &str, shape: &[usize], dtype: Dtype, device: &Device) -> Result<usize> {
    /// Less than this is there, or the program has other sorrows.
    const LARGE: usize = 1 << 30;
    let count = check_shape(operation, shape)?;
    let bytes = count * dtype.size();
    if device.is_cpu() && bytes >= LARGE && Vec::<u8>::new().try_reserve_exact(bytes).is_err() {
        let expected = format!("one for which there is memory: it takes {bytes} bytes");
        return Err(Error::argument(operation, "shape", format!("{shape:?}"), expected));
    }
    Ok(count)
}

fn check_count(operation: &str, count: usize, shape: &[usize]) -> Result<()> {
    let expected = check_shape(operation, shape)?;
    if count == expected {
        return Ok(());
    }
    let expected = format!("{expected} for shape {shape:?}");
    Err(Error::argument(operation, "number of elements", count.to_string(), expected))
}

/// Normal deviates in pairs (Box and Muller 1958).
fn standard_normal(count: usize, rng: &mut impl rand::Rng) -> Vec<f64> {
    let mut uniform = || ((rng.next_u64() >> 11) as f64 + 0.5) / (1u64 << 53) as f64; // in (0, 1)
    let mut values = Vec::with_capacity(count + 1);
    while values.len() < count {
        let radius = (-2.0 * uniform().ln()).sqrt();
        let (sin, cos) = (std::f64::consts::TAU * uniform()).sin_cos();
        values.extend([radius * cos, radius * sin]);
    }
    values.truncate(count);
    values
}

//! Gradient clipping by global norm.

use longhand_kernels::TensorList;
use longhand_kernels::elementwise::Operation as Map;

use super::norm;
use crate::gpu::kernel_dtype;
use crate::ops::check_device;
use crate::{Device, Dtype, Error, Gpu, Gradients, Result, Tensor};

const NAME: &str = "clip_grad_norm";

/// Scales the gradients by `parameters` so that their norm, taken over all of them together, is at most `max_norm`
/// (Pascanu, Mikolov and Bengio 2013, arXiv 1211.5063). Returns the norm before, of shape `[]`, on the gradients' device:
/// a GPU is not waited for before somebody reads it. Parameters without a gradient do not count. Where the norm is not
/// finite, nothing is scaled.
///
/// [`AdamW`](crate::AdamW) clips by itself, without another pass over the gradients:
/// [`AdamWOptions::max_grad_norm`](crate::AdamWOptions::max_grad_norm).
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::{Tensor, clip_grad_norm};
/// let x = Tensor::from([3.0f32, 4.0]).requires_grad();
/// let mut gradients = x.mul(&x)?.sum_all()?.backward()?; // (6, 8)
/// assert_eq!(clip_grad_norm(&mut gradients, [&x], 5.0)?.item()?, 10.0);
/// assert!((gradients.get(&x).unwrap().slice(0)?.item()? - 3.0).abs() < 1e-5);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When `max_norm` is not positive, gradients are on several devices, or there is no memory for a scaled gradient.
pub fn clip_grad_norm<'a>(
    gradients: &mut Gradients,
    parameters: impl IntoIterator<Item = &'a Tensor>,
    max_norm: f64,
) -> Result<Tensor> {
    if max_norm.is_nan() || max_norm <= 0.0 {
        return Err(Error::argument(NAME, "max_norm", max_norm.to_string(), "positive"));
    }
    let leaves: Vec<&Tensor> = parameters.into_iter().filter(|leaf| gradients.get(leaf).is_some()).collect();
    let found = leaves.iter().filter_map(|leaf| gradients.get(leaf)).map(Tensor::contiguous);
    let found = found.collect::<Result<Vec<_>>>()?;
    let Some((first, rest)) = found.split_first() else {
        return Tensor::full(&[], 0.0, Dtype::F64, &Device::Cpu);
    };
    rest.iter().try_for_each(|other| check_device(NAME, first, other))?;
    let (norm, clipped) = match first.device() {
        Device::Cpu => on_cpu(&found, max_norm)?,
        Device::Gpu(gpu) => on_gpu(gpu, &found, max_norm)?,
    };
    leaves.into_iter().zip(clipped).for_each(|(leaf, gradient)| gradients.set(leaf, gradient));
    Ok(norm)
}

fn on_cpu(gradients: &[Tensor], max_norm: f64) -> Result<(Tensor, Vec<Tensor>)> {
    let norm = norm::on_cpu(NAME, gradients)?;
    let clipped = match norm::factor(norm, max_norm) {
        1.0 => gradients.to_vec(),
        factor => gradients.iter().map(|gradient| gradient.scale(factor)).collect::<Result<_>>()?,
    };
    Ok((Tensor::full(&[], norm, Dtype::F64, &Device::Cpu)?, clipped))
}

fn on_gpu(gpu: &Gpu, gradients: &[Tensor], max_norm: f64) -> Result<(Tensor, Vec<Tensor>)> {
    let list = |dtype: Dtype| -> Result<TensorList> {
        let of_type = || gradients.iter().filter(|gradient| gradient.dtype() == dtype);
        let list = TensorList::new(gpu.stream(), &of_type().map(Tensor::numel).collect::<Vec<_>>())?;
        list.set(&of_type().map(|gradient| gradient.pointer(NAME)).collect::<Result<Vec<_>>>()?)?;
        Ok(list)
    };
    let dtypes = [Dtype::F32, Dtype::Bf16, Dtype::F16];
    if let Some(other) = gradients.iter().find(|gradient| !dtypes.contains(&gradient.dtype())) {
        return Err(Error::dtype(NAME, other.dtype(), "f32, bf16 or f16 on a GPU"));
    }
    let lists = dtypes.map(|dtype| Ok((kernel_dtype(NAME, dtype)?, list(dtype)?)));
    let lists = lists.into_iter().collect::<Result<Vec<_>>>()?;
    let lists: Vec<_> = lists.iter().map(|(dtype, list)| (*dtype, list)).collect();
    let [norm, factor] = norm::on_gpu(NAME, gpu, &lists, max_norm)?;
    let scaled = |gradient: &Tensor| {
        let (shape, dtype) = (gradient.shape(), gradient.dtype());
        gpu.map(NAME, Map::ScaleBy, (gradient, Some(&factor)), 0.0, (shape, dtype))
    };
    Ok((norm, gradients.iter().map(scaled).collect::<Result<_>>()?))
}

//! Gradient clipping by global norm.

use longhand_kernels::TensorList;
use longhand_kernels::reduction::{GradientNorm, GradientNormArgs};

use crate::cpu::parallel::{CHUNK, map_indices};
use crate::cpu::reduce;
use crate::dtype::with_real;
use crate::gpu::kernel_dtype;
use crate::ops::widened;
use crate::{Device, Dtype, Element, Gpu, Gradients, Result, Tensor};

const NAME: &str = "clip_grad_norm";

/// Scales the gradients by `parameters` so that their norm, taken over all of them together, is at most `max_norm`
/// (Pascanu, Mikolov and Bengio 2013, arXiv 1211.5063). Returns the norm before. Parameters without a gradient do
/// not count.
///
/// # Errors
/// When there is no memory for a scaled gradient.
pub fn clip_grad_norm<'a>(
    gradients: &mut Gradients,
    parameters: impl IntoIterator<Item = &'a Tensor>,
    max_norm: f64,
) -> Result<f64> {
    let leaves: Vec<&Tensor> = parameters.into_iter().filter(|leaf| gradients.get(leaf).is_some()).collect();
    let found = leaves.iter().filter_map(|leaf| gradients.get(leaf)).map(Tensor::contiguous);
    let found = found.collect::<Result<Vec<_>>>()?;
    let norm = squares(&found)?.sqrt();
    if norm > max_norm {
        for (leaf, gradient) in leaves.into_iter().zip(found) {
            gradients.set(leaf, gradient.scale(max_norm / norm)?);
        }
    }
    Ok(norm)
}

/// The sum of the squares of all elements.
fn squares(gradients: &[Tensor]) -> Result<f64> {
    let mut sum = 0.0;
    let mut on_gpus: Vec<(&Gpu, Dtype, Vec<&Tensor>)> = Vec::new();
    for gradient in gradients {
        match gradient.device() {
            Device::Cpu => sum += cpu(gradient)?,
            Device::Gpu(gpu) => {
                let same =
                    |group: &&mut (&Gpu, Dtype, Vec<&Tensor>)| group.0 == gpu && group.1 == gradient.dtype();
                match on_gpus.iter_mut().find(same) {
                    Some((_, _, members)) => members.push(gradient),
                    None => on_gpus.push((gpu, gradient.dtype(), vec![gradient])),
                }
            }
        }
    }
    for (gpu, dtype, members) in on_gpus {
        sum += on_gpu(gpu, dtype, &members)?.powi(2);
    }
    Ok(sum)
}

fn cpu(gradient: &Tensor) -> Result<f64> {
    let wide = widened(NAME, gradient)?;
    with_real!(NAME, wide.dtype(), T => {
        let values = &wide.read::<T>(NAME)?[..wide.numel()];
        let partial = map_indices(values.len().div_ceil(CHUNK), |i| {
            let start = i * CHUNK;
            reduce::sum_squares_chunk(&values[start..values.len().min(start + CHUNK)]).to_f64()
        });
        Ok(partial.iter().sum())
    })
}

/// The norm of all these together, waited for.
fn on_gpu(gpu: &Gpu, dtype: Dtype, gradients: &[&Tensor]) -> Result<f64> {
    let dtype = kernel_dtype(NAME, dtype)?;
    let plan = gpu.plans().gradient_norm.get(dtype, |dtype| GradientNorm::new(dtype).plan(gpu.device()))?;
    let counts: Vec<usize> = gradients.iter().map(|gradient| gradient.numel()).collect();
    let list = TensorList::new(gpu.stream(), &counts)?;
    list.set(&gradients.iter().map(|gradient| gradient.pointer(NAME)).collect::<Result<Vec<_>>>()?)?;
    let [norm, factor] = [gpu.empty(&[], Dtype::F32)?, gpu.empty(&[], Dtype::F32)?];
    let workspace = gpu.workspace(plan.workspace_bytes(&list))?;
    let args = GradientNormArgs {
        gradients: &list,
        max_norm: f32::INFINITY,
        norm: norm.pointer(NAME)?,
        factor: factor.pointer(NAME)?,
        workspace: workspace.ptr(),
    };
    // SAFETY: the gradients are contiguous tensors of this type and GPU, outputs and workspace are new; all are used
    // and freed on its one stream, on which the list was uploaded too.
    unsafe { plan.launch(gpu.stream(), &args)? };
    norm.item()
}

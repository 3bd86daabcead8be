//! The norm of all gradients together, and the factor that clips it (Pascanu, Mikolov and Bengio 2013, arXiv
//! 1211.5063): `min(1, max_norm / (norm + 1e-6))`, and 1 for a norm that is not finite.

use longhand_kernels::TensorList;
use longhand_kernels::reduction::{GradientNorm, GradientNormArgs};

use crate::cpu::parallel::{CHUNK, map_indices};
use crate::cpu::reduce;
use crate::dtype::with_real;
use crate::ops::widened;
use crate::{Dtype, Element, Gpu, Result, Tensor};

/// The norm of these together, which are contiguous and on the CPU.
pub(super) fn on_cpu(name: &str, gradients: &[Tensor]) -> Result<f64> {
    gradients.iter().map(|gradient| squares(name, gradient)).sum::<Result<f64>>().map(f64::sqrt)
}

pub(super) fn factor(norm: f64, max_norm: f64) -> f64 {
    if norm.is_finite() { (max_norm / (norm + 1e-6)).min(1.0) } else { 1.0 }
}

fn squares(name: &str, gradient: &Tensor) -> Result<f64> {
    let wide = widened(name, gradient)?;
    with_real!(name, wide.dtype(), T => {
        let values = &wide.read::<T>(name)?[..wide.numel()];
        let partial = map_indices(values.len().div_ceil(CHUNK), |i| {
            let start = i * CHUNK;
            reduce::sum_squares_chunk(&values[start..values.len().min(start + CHUNK)]).to_f64()
        });
        Ok(partial.iter().sum())
    })
}

/// Norm and factor, one f32 each on the GPU, of gradients whose addresses have been set. Nothing is waited for.
pub(super) fn on_gpu(
    name: &str,
    gpu: &Gpu,
    gradients: &[(longhand_kernels::Dtype, &TensorList)],
    max_norm: f64,
) -> Result<[Tensor; 2]> {
    let plan = gpu.plans().gradient_norm.get((), |()| GradientNorm::new().plan(gpu.device()))?;
    let [norm, factor] = [gpu.empty(&[], Dtype::F32)?, gpu.empty(&[], Dtype::F32)?];
    let workspace = gpu.workspace(plan.workspace_bytes(gradients))?;
    let args = GradientNormArgs {
        gradients,
        max_norm: max_norm as f32,
        norm: norm.pointer(name)?,
        factor: factor.pointer(name)?,
        workspace: workspace.ptr(),
    };
    // SAFETY: the gradients are contiguous tensors of this type and GPU, outputs and workspace are new; all are used
    // and freed on its one stream, on which the lists were uploaded too.
    unsafe { plan.launch(gpu.stream(), &args)? };
    Ok([norm, factor])
}

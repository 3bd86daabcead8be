//! Gradient clipping by global norm.

use crate::cpu::parallel::{CHUNK, map_indices};
use crate::cpu::reduce;
use crate::dtype::with_real;
use crate::{Device, Element, Gradients, Result, Tensor};

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
    let parameters: Vec<&Tensor> =
        parameters.into_iter().filter(|leaf| gradients.get(leaf).is_some()).collect();
    let mut squares = 0.0;
    for gradient in parameters.iter().filter_map(|leaf| gradients.get(leaf)) {
        squares += sum_of_squares(gradient)?;
    }
    let norm = squares.sqrt();
    if norm > max_norm {
        for leaf in parameters {
            if let Some(scaled) = gradients.get(leaf).map(|gradient| gradient.scale(max_norm / norm)) {
                gradients.set(leaf, scaled?);
            }
        }
    }
    Ok(norm)
}

fn sum_of_squares(gradient: &Tensor) -> Result<f64> {
    let gradient = gradient.contiguous()?;
    match gradient.device() {
        Device::Cpu => {
            let wide = crate::ops::widened("clip_grad_norm", &gradient)?;
            with_real!("clip_grad_norm", wide.dtype(), T => {
                let values = &wide.read::<T>("clip_grad_norm")?[..wide.numel()];
                let partial = map_indices(values.len().div_ceil(CHUNK), |i| {
                    let start = i * CHUNK;
                    reduce::sum_squares_chunk(&values[start..values.len().min(start + CHUNK)]).to_f64()
                });
                Ok(partial.iter().sum())
            })
        }
    }
}

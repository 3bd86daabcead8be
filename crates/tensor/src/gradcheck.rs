//! Gradients checked against finite differences.

use std::fmt::{self, Display};

use crate::tensor::check_new;
use crate::{Device, Dtype, Error, Result, Tensor};

/// The element whose gradient disagrees most, from [`check_gradient`].
#[derive(Clone, Debug, PartialEq)]
pub struct GradientError {
    /// Which input.
    pub input: usize,
    /// Which of its elements, in row-major order.
    pub element: usize,
    /// What backward says.
    pub backward: f64,
    /// What finite differences say.
    pub finite_difference: f64,
    /// Their distance, relative to the larger one or to 1, whichever is greater.
    pub error: f64,
}

impl Display for GradientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let GradientError { input, element, backward, finite_difference, error } = self;
        write!(
            f,
            "input {input}, element {element}: backward says {backward}, finite differences {finite_difference} \
             (error {error:.1e})"
        )
    }
}

/// Compares the backward of `function` with central differences, and returns the worst element over all `inputs`
/// (`None` when they have no elements).
///
/// `function` may return any number of tensors of any shape. The inputs are `f64` on the CPU; `u32` inputs are passed
/// on as they are. Each output is summed up with its own fixed weights, so that every element of it counts
/// differently.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// use longhand_tensor::{Device, Tensor, check_gradient};
///
/// let x = Tensor::from_slice(&[0.5, -1.5], &[2], &Device::Cpu)?;
/// let worst = check_gradient(|x| Ok(vec![x[0].mul(&x[0])?]), &[x])?.unwrap();
/// assert!(worst.error < 1e-8, "{worst}");
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// Whatever `function` and its backward return, and when an input is neither `f64` nor `u32` on the CPU, or an output is not
/// `f64`.
pub fn check_gradient(
    function: impl Fn(&[Tensor]) -> Result<Vec<Tensor>>,
    inputs: &[Tensor],
) -> Result<Option<GradientError>> {
    const STEP: f64 = 1e-5; // about the cube root of the rounding error: the best for central differences
    for input in inputs {
        if !input.device().is_cpu() || !matches!(input.dtype(), Dtype::F64 | Dtype::U32) {
            let expected = "f64 (or u32 for indices) on the CPU";
            return Err(Error::argument("check_gradient", "an input", input.described(), expected));
        }
    }
    let leaves: Vec<Tensor> = inputs.iter().map(as_leaf).collect();
    let gradients = weighted_sum(&function(&leaves)?)?.backward()?;
    let mut worst: Option<GradientError> = None;
    for (index, input) in inputs.iter().enumerate().filter(|(_, input)| input.dtype() == Dtype::F64) {
        let by_backward = match gradients.get(&leaves[index]) {
            Some(gradient) => gradient.to_vec::<f64>()?,
            None => vec![0.0; input.numel()],
        };
        let values = input.to_vec::<f64>()?;
        for (element, &backward) in by_backward.iter().enumerate() {
            let at = |offset: f64| {
                let mut values = values.clone();
                values[element] += offset;
                let mut moved = inputs.to_vec();
                moved[index] = like(input, values)?;
                weighted_sum(&function(&moved)?)?.item()
            };
            let finite_difference = (at(STEP)? - at(-STEP)?) / (2.0 * STEP);
            let scale = backward.abs().max(finite_difference.abs()).max(1.0);
            let error = (backward - finite_difference).abs() / scale;
            if worst.as_ref().is_none_or(|worst| error.is_nan() || error > worst.error) {
                worst = Some(GradientError { input: index, element, backward, finite_difference, error });
            }
        }
    }
    Ok(worst)
}

fn as_leaf(input: &Tensor) -> Tensor {
    if input.dtype() == Dtype::F64 { input.requires_grad() } else { input.clone() }
}

/// `values` with the strides of `input`, as far as a permutation of dimensions can give them.
fn like(input: &Tensor, values: Vec<f64>) -> Result<Tensor> {
    let contiguous = Tensor::from_vec(values, input.shape(), &Device::Cpu)?;
    let mut order: Vec<usize> = (0..input.shape().len()).collect();
    order.sort_by_key(|&dim| std::cmp::Reverse(input.strides()[dim]));
    // Lay the elements out in that order of dimensions, then look at them in the original one.
    let permuted = contiguous.permute(&order)?.contiguous()?;
    let mut inverse = vec![0; order.len()];
    order.iter().enumerate().for_each(|(i, &dim)| inverse[dim] = i);
    permuted.permute(&inverse)
}

fn weighted_sum(outputs: &[Tensor]) -> Result<Tensor> {
    let mut total = Tensor::zeros(&[], Dtype::F64, &Device::Cpu)?;
    for (index, output) in outputs.iter().enumerate() {
        if output.dtype() != Dtype::F64 {
            return Err(Error::argument("check_gradient", "an output", output.described(), "f64"));
        }
        check_new("check_gradient", output.shape(), Dtype::F64, &Device::Cpu)?;
        let weights = (0..output.numel()).map(|i| ((i + 7 * index) as f64 * 0.7 + 0.3).cos()).collect();
        let weights = Tensor::from_vec::<f64>(weights, output.shape(), &Device::Cpu)?;
        total = total.add(&output.mul(&weights)?.sum_all()?)?;
    }
    Ok(total)
}

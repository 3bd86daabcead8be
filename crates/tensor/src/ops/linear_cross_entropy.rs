//! The cross-entropy of a linear head, some rows at a time.

use super::cross_entropy::{check_options, check_targets, mean_of, read_targets};
use super::{LossOptions, check_alike, widened, with_contiguous_lines};
use crate::autograd::apply1;
use crate::cpu::cross_entropy::{losses, losses_and_gradients};
use crate::cpu::matmul::{Mat, multiply};
use crate::cpu::pool;
use crate::cpu::tile::Then;
use crate::dtype::with_real;
use crate::gpu::{Losses, Product};
use crate::tensor::check_new;
use crate::{Backward, Device, Dtype, Element, Error, Forward, Gpu, Operation, Result, Tensor};

/// [`cross_entropy`](super::cross_entropy) of the logits `hidden weight^T`, which are never held all at once: `hidden` is
/// `(N, W)`, `weight` is `(V, W)` as Hugging Face stores an output head, `targets` is `(N)` of `u32`.
///
/// Memory grows with `N * W`, not with `N * V`: beside the gradients there are the logits of as many rows as `W` is wide
/// (256 at least), about as many elements as the weight has; on the CPU, 64 MB of them. The gradient of the weight is summed
/// up in f32 over all rows, whatever its type.
///
/// ```
/// use longhand_tensor::ops::{LossOptions, linear_cross_entropy};
/// use longhand_tensor::{Device, Dtype, Tensor};
///
/// # fn main() -> longhand_tensor::Result<()> {
/// let hidden = Tensor::zeros(&[3, 4], Dtype::F32, &Device::Cpu)?;
/// let weight = Tensor::zeros(&[5, 4], Dtype::F32, &Device::Cpu)?.requires_grad();
/// let targets = Tensor::from_slice(&[0u32, 4, 2], &[3], &Device::Cpu)?;
/// let loss = linear_cross_entropy(&hidden, &weight, &targets, &LossOptions::default())?;
/// assert!((loss.item()? - 5f64.ln()).abs() < 1e-6);
/// assert_eq!(loss.backward()?.get(&weight).unwrap().shape(), [5, 4]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When a target is V or more (on a GPU, which is not waited for, the mean is NaN instead), options make no sense, V or W
/// is 0, or shapes, element types or devices do not fit.
pub fn linear_cross_entropy(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    options: &LossOptions,
) -> Result<Tensor> {
    apply1(LinearCrossEntropy(*options), &[hidden, weight, targets])
}

struct LinearCrossEntropy(LossOptions);

const NAME: &str = "linear_cross_entropy";

impl Operation for LinearCrossEntropy {
    fn name(&self) -> &str {
        NAME
    }

    /// Computes the gradients as well where they are wanted: the logits are there once, and computing them again in
    /// backward would be a fourth product beside three.
    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let (hidden, weight, targets) = (&inputs[0], &inputs[1], &inputs[2].contiguous()?);
        check(hidden, weight, targets)?;
        check_options(NAME, &self.0)?;
        let wanted = Wanted { hidden: needs[0], weight: needs[1] };
        let Computed { mean, dhidden, dweight } = match hidden.device() {
            Device::Cpu => cpu(hidden, weight, targets, &self.0, wanted)?,
            Device::Gpu(gpu) => on_gpu(gpu, hidden, weight, targets, &self.0, wanted)?,
        };
        Ok(Forward::new([mean]).save([dhidden, dweight]))
    }

    /// What forward computed, times the gradient of the mean, which is nearly always 1.
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let dmean = ctx.grad(0)?;
        let mut grads = vec![None; 3];
        for (i, grad) in grads.iter_mut().enumerate().take(2).filter(|(i, _)| ctx.needs(*i)) {
            *grad = Some(scaled(ctx.saved(i)?, &dmean)?);
        }
        Ok(grads)
    }
}

/// `gradient * factor`, in place on a GPU, which is not asked what the factor is.
fn scaled(gradient: &Tensor, factor: &Tensor) -> Result<Tensor> {
    match gradient.device() {
        Device::Gpu(gpu) => gpu.scale_in_place(NAME, gradient, factor)?,
        Device::Cpu => {
            let factor = factor.item()?;
            if factor != 1.0 {
                return gradient.scale(factor);
            }
        }
    }
    Ok(gradient.clone())
}

fn check(hidden: &Tensor, weight: &Tensor, targets: &Tensor) -> Result<()> {
    check_alike(NAME, &[hidden, weight])?;
    check_targets(NAME, hidden, targets)?;
    let &[(1..), width @ (1..)] = weight.shape() else {
        let found = format!("of shape {:?}", weight.shape());
        return Err(Error::argument(NAME, "weight", found, "of shape (V, W), neither of them 0"));
    };
    for tensor in [hidden, weight] {
        check_new(NAME, tensor.shape(), tensor.dtype(), tensor.device())?;
    }
    match (hidden.shape(), targets.shape()) {
        (&[rows, of_hidden], &[of_targets]) if of_hidden == width && rows == of_targets => Ok(()),
        (&[_, of_hidden], _) if of_hidden != width => Err(Error::shapes(
            NAME,
            hidden.shape(),
            weight.shape(),
            "hidden must be (N, W) and weight (V, W)",
        )),
        _ => {
            Err(Error::shapes(NAME, hidden.shape(), targets.shape(), "hidden must be (N, W) and targets (N)"))
        }
    }
}

/// Which gradients are.
#[derive(Clone, Copy)]
struct Wanted {
    hidden: bool,
    weight: bool,
}

impl Wanted {
    fn any(self) -> bool {
        self.hidden || self.weight
    }
}

struct Computed {
    mean: Tensor,
    dhidden: Option<Tensor>,
    dweight: Option<Tensor>,
}

/// What the logits of a chunk may take on the CPU.
const LOGITS: usize = 64 << 20; // bytes
/// As few rows make a chunk whatever they take.
const MIN_ROWS: usize = 64;

/// So many rows that their logits take as much memory as the weight: fewer would read and write its gradient more often than
/// the products can hide.
fn rows_like_weight(width: usize) -> usize {
    width.max(256)
}

/// Chunks of rows, about equally many and at most so many: where they start, and how many each has.
fn chunks(rows: usize, most: usize) -> impl Iterator<Item = (usize, usize)> {
    let chunk = rows.div_ceil(rows.div_ceil(most).max(1)).max(1);
    (0..rows).step_by(chunk).map(move |start| (start, chunk.min(rows - start)))
}

fn cpu(
    hidden: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    options: &LossOptions,
    wanted: Wanted,
) -> Result<Computed> {
    let ([rows, width], classes) = ([hidden.shape()[0], hidden.shape()[1]], weight.shape()[0]);
    let (targets, share) = read_targets(NAME, targets, classes)?;
    let dtype = hidden.dtype();
    let wide = |matrix: &Tensor| with_contiguous_lines(&widened(NAME, matrix)?);
    let (hidden, weight) = (wide(hidden)?, wide(weight)?);
    with_real!(NAME, hidden.dtype(), T => {
        let (hidden_values, weight_values) = (hidden.read::<T>(NAME)?, weight.read::<T>(NAME)?);
        let [row, column] = [hidden.strides()[0], hidden.strides()[1]];
        let weight = Mat::new(&weight_values, (classes, width), (weight.strides()[0], weight.strides()[1]));
        let chunks = || chunks(rows, rows_like_weight(width).min(LOGITS / (classes * size_of::<T>())).max(MIN_ROWS));
        // Tensors from the start, so that the pool makes room for them.
        let empty = |rows, width| Tensor::from_elements(pool::buffer::<T>(rows * width), &[rows, width]);
        let dhidden = wanted.hidden.then(|| empty(rows, width));
        let dweight = wanted.weight.then(|| Tensor::zeros(&[classes, width], T::DTYPE, &Device::Cpu)).transpose()?;
        let logits = empty(chunks().next().map_or(0, |(_, count)| count), classes);
        let mut logits = logits.write::<T>(NAME)?;
        let mut sum = 0.0;
        for (start, count) in chunks() {
            let hidden = Mat::new(&hidden_values[start * row..], (count, width), (row, column));
            let (logits, targets) = (&mut logits[..count * classes], &targets[start..start + count]);
            multiply(hidden, weight.transposed(), Then::Overwrite, logits);
            if !wanted.any() {
                sum += mean_of(&losses(logits, targets, options).0, share);
                continue;
            }
            sum += mean_of(&losses_and_gradients(logits, targets, options, T::from_f64(share)), share);
            let dlogits = Mat::new(logits, (count, classes), (classes, 1));
            if let Some(dhidden) = &dhidden {
                let mut dhidden = dhidden.write::<T>(NAME)?;
                multiply(dlogits, weight, Then::Overwrite, &mut dhidden[start * width..][..count * width]);
            }
            if let Some(dweight) = &dweight {
                multiply(dlogits.transposed(), hidden, Then::Add, &mut dweight.write::<T>(NAME)?);
            }
        }
        let mean = Tensor::full(&[], sum, T::DTYPE, &Device::Cpu)?;
        let rounded = |wide: Option<Tensor>| wide.map(|wide| wide.to_dtype(dtype)).transpose();
        Ok(Computed { mean, dhidden: rounded(dhidden)?, dweight: rounded(dweight)? })
    })
}

fn on_gpu(
    gpu: &Gpu,
    hidden: &Tensor,
    weight: &Tensor,
    targets: &Tensor,
    options: &LossOptions,
    wanted: Wanted,
) -> Result<Computed> {
    let ([rows, width], classes) = ([hidden.shape()[0], hidden.shape()[1]], weight.shape()[0]);
    let dtype = hidden.dtype();
    let all = Losses::new(NAME, gpu, targets, options)?;
    let dhidden = wanted.hidden.then(|| gpu.empty(&[rows, width], dtype)).transpose()?;
    let dweight = wanted.weight.then(|| gpu.zeros(&[classes, width], Dtype::F32)).transpose()?;
    let most = rows_like_weight(width);
    let all_logits = gpu.empty(&[rows.min(most), classes], dtype)?;
    let multiply = |a: &Tensor, b: &Tensor, out: &Tensor, accumulate: bool| {
        let [a, b] = [a, b].map(|factor| factor.reshape(&[1, factor.shape()[0], factor.shape()[1]]));
        gpu.multiply_into(&Product { name: NAME, a: &a?, b: &b?, bias: None }, out, accumulate)
    };
    for (start, count) in chunks(rows, most) {
        let (hidden, logits) = (hidden.narrow(0, start, count)?, all_logits.narrow(0, 0, count)?);
        multiply(&hidden, &weight.transpose(0, 1)?, &logits, false)?;
        if !wanted.any() {
            all.of_rows(start, &logits)?;
            continue;
        }
        all.of_rows_with_gradient(start, &logits)?;
        if let Some(dhidden) = &dhidden {
            multiply(&logits, weight, &dhidden.narrow(0, start, count)?, false)?;
        }
        if let Some(dweight) = &dweight {
            multiply(&logits.transpose(0, 1)?, &hidden, dweight, true)?;
        }
    }
    let (mean, _) = all.into_mean()?;
    Ok(Computed { mean, dhidden, dweight: dweight.map(|sum| sum.to_dtype(dtype)).transpose()? })
}

//! The operations, each with its forward on every device and its backward rule.

mod activation;
mod add;
mod add_scaled;
pub(crate) mod attention;
mod axis;
mod cast;
mod cat;
mod contiguous;
mod cross_entropy;
mod embedding;
mod index;
mod linear;
mod linear_cross_entropy;
mod matmul;
mod merge;
mod mul;
mod norm;
mod range;
mod reduce;
mod reshape;
mod rope;
mod sample;
mod scale;
mod shape;
mod slice;
mod softmax;
mod sub;
mod to_device;

pub use activation::{Activation, Gelu, activation, gated, gated_halves, gelu};
pub use attention::{
    AttentionOptions, BlockMask, Documents, Named, Score, ScoreMask, attention, attention_decode,
    attention_with_lse,
};
pub use cross_entropy::{IGNORE_INDEX, LossOptions, cross_entropy, cross_entropy_per_row};
pub use embedding::{embedding, embedding_with_padding};
pub use linear::linear;
pub use linear_cross_entropy::linear_cross_entropy;
pub use merge::attention_merge;
pub use norm::{NormOptions, layer_norm, rms_norm};
pub use range::{DimRange, Ranges};
pub use rope::{Rope, rope};
pub use sample::{argmax, sample};
pub use softmax::{log_softmax, log_sum_exp, softmax};

pub use longhand_kernels::attention::{BlockKind, Blocks};
pub use longhand_kernels::sampling::SampleOptions;

pub use crate::cpu::attention::{Dual, Position};

use crate::layout::broadcast_shapes;
use crate::tensor::check_new;
use crate::{Dtype, Error, Result, Tensor};

/// The type that the CPU computes in: 16-bit types are widened first, and results rounded once.
fn compute_dtype(operation: &str, dtype: Dtype) -> Result<Dtype> {
    match dtype {
        Dtype::F64 => Ok(Dtype::F64),
        Dtype::F32 | Dtype::Bf16 | Dtype::F16 => Ok(Dtype::F32),
        Dtype::U32 => Err(Error::dtype(operation, dtype, "a floating-point type")),
    }
}

/// The argument as the CPU computes with it.
pub(crate) fn widened(operation: &str, tensor: &Tensor) -> Result<Tensor> {
    tensor.to_dtype(compute_dtype(operation, tensor.dtype())?)
}

/// The matrices of `tensor` as products take them: itself, where the elements of their rows or of their columns are next
/// to each other.
fn with_contiguous_lines(tensor: &Tensor) -> Result<Tensor> {
    let contiguous = |dim: usize| tensor.shape()[dim] <= 1 || tensor.strides()[dim] == 1;
    let rank = tensor.shape().len();
    if contiguous(rank - 1) || contiguous(rank - 2) { Ok(tensor.clone()) } else { tensor.contiguous() }
}

/// Arguments of one operation must be of one type and on one device.
pub(crate) fn check_alike(operation: &str, tensors: &[&Tensor]) -> Result<()> {
    let Some((first, rest)) = tensors.split_first() else { return Ok(()) };
    for other in rest {
        check_device(operation, first, other)?;
        if other.dtype() != first.dtype() {
            let (left, right) = (first.dtype(), other.dtype());
            return Err(Error::Dtypes { operation: operation.into(), left, right });
        }
    }
    Ok(())
}

pub(crate) fn check_device(operation: &str, a: &Tensor, b: &Tensor) -> Result<()> {
    if a.device() == b.device() {
        return Ok(());
    }
    let (left, right) = (a.device().to_string(), b.device().to_string());
    Err(Error::Devices { operation: operation.into(), left, right })
}

/// The size along dimension `dim`, checked to be there.
pub(crate) fn check_dim(operation: &str, tensor: &Tensor, dim: usize) -> Result<usize> {
    tensor.shape().get(dim).copied().ok_or_else(|| {
        Error::argument(
            operation,
            "dim",
            dim.to_string(),
            format!("less than the rank of shape {:?}", tensor.shape()),
        )
    })
}

/// `a` and `b`, of which the longer is contiguous in the common shape, and the other is repeated to fill it.
fn broadcast(operation: &str, a: &Tensor, b: &Tensor) -> Result<(Tensor, Tensor, Vec<usize>)> {
    check_alike(operation, &[a, b])?;
    let shape = broadcast_shapes(a.shape(), b.shape()).ok_or_else(|| {
        let rule = "each pair of sizes, from the last on, must be equal or have a 1";
        Error::shapes(operation, a.shape(), b.shape(), rule)
    })?;
    check_new(operation, &shape, a.dtype(), a.device())?;
    let whole = |t: &Tensor| -> Result<Tensor> {
        match t.layout().broadcast_to(&shape) {
            Some(layout) => t.view(layout).contiguous(),
            None => {
                Err(Error::shapes(operation, t.shape(), &shape, "the first must broadcast to the second"))
            }
        }
    };
    let repeats = |t: &Tensor| {
        let leading = t.shape().iter().take_while(|&&size| size == 1).count();
        shape.ends_with(&t.shape()[leading..])
    };
    let b = if repeats(b) && b.numel() > 0 { b.contiguous()? } else { whole(b)? };
    Ok((whole(a)?, b, shape))
}

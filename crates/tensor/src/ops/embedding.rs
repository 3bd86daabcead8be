//! Rows of a table, picked by index.

use super::{check_alike, widened};
use crate::autograd::apply1;
use crate::cpu::elementwise::add_chunk;
use crate::cpu::parallel::{for_chunks, rows_per_chunk};
use crate::cpu::pool;
use crate::dtype::{with_element, with_real};
use crate::{Backward, Device, Dtype, Error, Forward, Operation, Result, Tensor};

/// Row `ids[i]` of `weight` `(V, C)` for each index: `ids` is `u32` of any shape, the result has that shape and C.
///
/// # Errors
/// When an index is V or more, or shapes, element types or devices do not fit.
pub fn embedding(weight: &Tensor, ids: &Tensor) -> Result<Tensor> {
    apply1(Embedding, &[weight, ids])
}

struct Embedding;

impl Operation for Embedding {
    fn name(&self) -> &str {
        "embedding"
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let (weight, ids) = (&inputs[0].contiguous()?, &inputs[1].contiguous()?);
        if weight.shape().len() != 2 {
            let found = format!("of shape {:?}", weight.shape());
            return Err(Error::argument("embedding", "weight", found, "of shape (V, C)"));
        }
        if ids.dtype() != Dtype::U32 {
            return Err(Error::dtype("embedding", ids.dtype(), "u32 for the ids"));
        }
        let out = match weight.device() {
            Device::Cpu => cpu(weight, ids)?,
        };
        let shape: Vec<usize> = ids.shape().iter().chain(&weight.shape()[1..]).copied().collect();
        Ok(Forward::new([out.reshape(&shape)?]).save([needs[0].then(|| ids.clone())]))
    }

    /// Each row of the gradient is added to the row it was read from.
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let (grad, ids) = (ctx.grad(0)?.contiguous()?, ctx.saved(0)?);
        let shape = &ctx.input(0).shape;
        let grad = match grad.device() {
            Device::Cpu => cpu_backward(&grad, ids, (shape[0], shape[1]))?,
        };
        Ok(vec![Some(grad), None])
    }
}

fn cpu(weight: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let (rows, width) = (weight.shape()[0], weight.shape()[1]);
    let ids = &ids.read::<u32>("embedding")?[..ids.numel()];
    if let Some(id) = ids.iter().find(|&&id| id as usize >= rows) {
        return Err(Error::argument("embedding", "an id", id.to_string(), format!("less than {rows}")));
    }
    with_element!(weight.dtype(), E => {
        let table = weight.read::<E>("embedding")?;
        let mut out = pool::buffer::<E>(ids.len() * width);
        for_chunks(&mut out, (rows_per_chunk(width) * width).max(1), |start, out| {
            for (out, &id) in out.chunks_exact_mut(width).zip(&ids[start / width..]) {
                out.copy_from_slice(&table[id as usize * width..][..width]);
            }
        });
        Ok(Tensor::from_elements(out, &[ids.len(), width]))
    })
}

/// Each thread owns a range of the table's rows, and adds what belongs there in the order of the ids.
fn cpu_backward(grad: &Tensor, ids: &Tensor, (rows, width): (usize, usize)) -> Result<Tensor> {
    check_alike("embedding", &[grad])?;
    const RANGES: usize = 16;
    let ids = &ids.read::<u32>("embedding")?[..ids.numel()];
    let wide = widened("embedding", grad)?;
    with_real!("embedding", wide.dtype(), T => {
        let mut out = pool::zeros::<T>(rows * width);
        let range = rows.div_ceil(RANGES).max(1);
        let source = wide.read::<T>("embedding")?;
        for_chunks(&mut out, (range * width).max(1), |start, out| {
            let first = start / width;
            for (i, &id) in ids.iter().enumerate() {
                if let Some(row) = (id as usize).checked_sub(first).filter(|&row| row < out.len() / width) {
                    add_chunk(&mut out[row * width..][..width], &source[i * width..][..width]);
                }
            }
        });
        Tensor::from_elements(out, &[rows, width]).to_dtype(grad.dtype())
    })
}

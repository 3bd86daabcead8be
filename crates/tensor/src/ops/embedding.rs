//! Rows of a table, picked by index.

use longhand_kernels::embedding::{
    EmbeddingBackward, EmbeddingBackwardArgs, EmbeddingForward, EmbeddingForwardArgs, EmbeddingShape,
};

use super::{check_device, widened};
use crate::autograd::apply1;
use crate::cpu::elementwise::add_chunk;
use crate::cpu::parallel::{for_chunks, rows_per_chunk};
use crate::cpu::pool;
use crate::dtype::{with_element, with_real};
use crate::gpu::kernel_dtype;
use crate::tensor::check_new;
use crate::{Backward, Device, Dtype, Error, Forward, Gpu, Operation, Result, Tensor};

/// Row `ids[i]` of `weight` `(V, C)` for each index: `ids` is `u32` of any shape, the result has that shape and C.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::{Device, Tensor, ops};
/// let table = Tensor::from_slice(&[0.0f32, 1.0, 10.0, 11.0], &[2, 2], &Device::Cpu)?;
/// let ids = Tensor::from([1u32, 0, 1]);
/// assert_eq!(ops::embedding(&table, &ids)?.to_vec::<f32>()?, [10.0, 11.0, 0.0, 1.0, 10.0, 11.0]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When an index is V or more (on a GPU, which is not waited for, its row is NaN instead), or shapes, element types
/// or devices do not fit.
pub fn embedding(weight: &Tensor, ids: &Tensor) -> Result<Tensor> {
    rows_of(NAME, weight, ids)
}

/// The same, where row `padding` of the table gets no gradient.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::{Device, Tensor, ops};
/// let table = Tensor::from_slice(&[5.0f32, 6.0, 7.0], &[3, 1], &Device::Cpu)?.requires_grad();
/// let rows = ops::embedding_with_padding(&table, &Tensor::from([0u32, 2, 2]), 0)?;
/// assert_eq!(rows.to_vec::<f32>()?, [5.0, 7.0, 7.0]);
/// let gradients = rows.sum_all()?.backward()?;
/// assert_eq!(gradients.get(&table).unwrap().to_vec::<f32>()?, [0.0, 0.0, 2.0]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`embedding`].
pub fn embedding_with_padding(weight: &Tensor, ids: &Tensor, padding: u32) -> Result<Tensor> {
    apply1(Embedding { name: NAME, padding: Some(padding) }, &[weight, ids])
}

/// [`embedding`], under the name of the operation that it is a part of.
pub(super) fn rows_of(name: &'static str, weight: &Tensor, ids: &Tensor) -> Result<Tensor> {
    apply1(Embedding { name, padding: None }, &[weight, ids])
}

struct Embedding {
    name: &'static str,
    padding: Option<u32>,
}

const NAME: &str = "embedding";

impl Operation for Embedding {
    fn name(&self) -> &str {
        self.name
    }

    fn forward(&self, inputs: &[Tensor], needs: &[bool]) -> Result<Forward> {
        let name = self.name;
        let (weight, ids) = (&inputs[0].contiguous()?, &inputs[1].contiguous()?);
        if weight.shape().len() != 2 {
            let found = format!("of shape {:?}", weight.shape());
            return Err(Error::argument(name, "weight", found, "of shape (V, C)"));
        }
        if ids.dtype() != Dtype::U32 {
            return Err(Error::dtype(name, ids.dtype(), "u32 for the ids"));
        }
        check_device(name, weight, ids)?;
        let shape: Vec<usize> = ids.shape().iter().chain(&weight.shape()[1..]).copied().collect();
        check_new(name, &shape, weight.dtype(), weight.device())?;
        let out = match weight.device() {
            Device::Cpu => cpu(name, weight, ids)?,
            Device::Gpu(gpu) => on_gpu(name, gpu, weight, ids)?,
        };
        Ok(Forward::new([out.reshape(&shape)?]).save([needs[0].then(|| ids.clone())]))
    }

    /// Each row of the gradient is added to the row it was read from: in place where the table has a gradient already, as
    /// that of a model whose output head is its embedding does.
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let (grad, ids) = (ctx.grad(0)?.contiguous()?, ctx.saved(0)?);
        let table = ctx.input(0);
        let grad = grad.reshape(&[ids.numel(), table.shape[1]])?;
        let sum = match ctx.take_sum(0) {
            Some(sum) => sum,
            None => Tensor::zeros(&table.shape, table.dtype, &table.device)?,
        };
        Ok(vec![Some(add_rows(self.name, sum, &grad, (ids, self.padding))?), None])
    }
}

/// Adds each row `(N, C)` of `source` to the row of `table` with its id, in place; those of the id `padding` are left out.
/// Nobody else holds `table`, which is contiguous.
///
/// # Errors
/// When there is no row of an id; on a GPU, it is left out.
pub(super) fn add_rows(
    name: &str,
    table: Tensor,
    source: &Tensor,
    (ids, padding): (&Tensor, Option<u32>),
) -> Result<Tensor> {
    match source.device() {
        Device::Cpu => {
            check_ids(name, &ids.read::<u32>(name)?[..ids.numel()], table.shape()[0])?;
            add_rows_on_cpu(name, &table, source, (ids, padding))
        }
        Device::Gpu(gpu) => {
            add_rows_on_gpu(name, gpu, &table, source, (ids, padding))?;
            Ok(table)
        }
    }
}

fn check_ids(name: &str, ids: &[u32], rows: usize) -> Result<()> {
    match ids.iter().find(|&&id| id as usize >= rows) {
        Some(id) => Err(Error::argument(name, "an id", id.to_string(), format!("less than {rows}"))),
        None => Ok(()),
    }
}

fn cpu(name: &str, weight: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let (rows, width) = (weight.shape()[0], weight.shape()[1]);
    let ids = &ids.read::<u32>(name)?[..ids.numel()];
    check_ids(name, ids, rows)?;
    with_element!(weight.dtype(), E => {
        let table = weight.read::<E>(name)?;
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
fn add_rows_on_cpu(
    name: &str,
    table: &Tensor,
    source: &Tensor,
    (ids, padding): (&Tensor, Option<u32>),
) -> Result<Tensor> {
    const RANGES: usize = 16;
    let (rows, width) = (table.shape()[0], table.shape()[1]);
    let ids = &ids.read::<u32>(name)?[..ids.numel()];
    let (table, source, dtype) = (widened(name, table)?, widened(name, source)?, table.dtype());
    with_real!(name, table.dtype(), T => {
        let range = rows.div_ceil(RANGES).max(1);
        let source = source.read::<T>(name)?;
        for_chunks(&mut table.write::<T>(name)?[..rows * width], (range * width).max(1), |start, table| {
            let first = start / width;
            for (i, &id) in ids.iter().enumerate().filter(|(_, id)| Some(**id) != padding) {
                if let Some(row) = (id as usize).checked_sub(first).filter(|&row| row < table.len() / width) {
                    add_chunk(&mut table[row * width..][..width], &source[i * width..][..width]);
                }
            }
        });
        table.to_dtype(dtype)
    })
}

fn on_gpu(name: &str, gpu: &Gpu, weight: &Tensor, ids: &Tensor) -> Result<Tensor> {
    let dtype = kernel_dtype(name, weight.dtype())?;
    let plan = gpu.plans().embedding.get(dtype, |dtype| EmbeddingForward::new(dtype).plan(gpu.device()))?;
    let (vocabulary, width, count) = (weight.shape()[0], weight.shape()[1], ids.numel());
    let out = gpu.empty(&[count, width], weight.dtype())?;
    let args = EmbeddingForwardArgs {
        shape: EmbeddingShape { vocabulary, width, count },
        weight: weight.pointer(name)?,
        ids: ids.pointer(name)?,
        out: out.pointer(name)?,
    };
    // SAFETY: table and ids are contiguous, the output is new, all on this device and freed on this stream.
    unsafe { plan.launch(gpu.stream(), &args)? };
    Ok(out)
}

fn add_rows_on_gpu(
    name: &str,
    gpu: &Gpu,
    table: &Tensor,
    source: &Tensor,
    (ids, padding): (&Tensor, Option<u32>),
) -> Result<()> {
    let (vocabulary, width) = (table.shape()[0], table.shape()[1]);
    let dtype = kernel_dtype(name, source.dtype())?;
    let plan = |dtype| EmbeddingBackward::new(dtype).accumulate(true).plan(gpu.device());
    let plan = gpu.plans().embedding_backward.get(dtype, plan)?;
    let shape = EmbeddingShape { vocabulary, width, count: ids.numel() };
    let workspace = gpu.workspace(plan.workspace_bytes(shape))?;
    let args = EmbeddingBackwardArgs {
        shape,
        dout: source.pointer(name)?,
        ids: ids.pointer(name)?,
        padding,
        dweight: table.pointer(name)?,
        workspace: workspace.ptr(),
    };
    // SAFETY: all are contiguous, nobody else holds the table, the workspace is new, all on this device and freed on this
    // stream.
    unsafe { plan.launch(gpu.stream(), &args)? };
    Ok(())
}

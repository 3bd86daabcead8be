//! The kernels in bf16.

use anyhow::Result;
use longhand_benches::{Bench, Gpu};
use longhand_gpu::Buffer;
use longhand_kernels::Dtype;
use longhand_kernels::norm::{
    LayerNormBackward, LayerNormBackwardArgs, LayerNormForward, LayerNormForwardArgs,
};

use super::{WIDTH, row};

const TOKENS: [usize; 7] = [1024, 4096, 16_384, 65_536, 131_072, 262_144, 524_288];
const WIDTHS: [usize; 7] = [768, 1024, 2048, 4096, 8192, 16_384, 65_536];
/// Elements of a tensor while the width varies: 128 MiB.
const ELEMENTS: usize = 1 << 26;
const ELEMENT: (&str, usize) = ("bf16", 2);

pub fn gpu(bench: &mut Bench, gpu: &Gpu) -> Result<()> {
    for rows in gpu.lengths(&TOKENS, 64) {
        forward(bench, gpu, "N", rows, WIDTH)?;
        backward(bench, gpu, "N", rows, WIDTH)?;
    }
    let elements = if gpu.device.is_emulated() { 1 << 16 } else { ELEMENTS };
    for width in gpu.lengths(&WIDTHS, 1024) {
        forward(bench, gpu, "W", elements / width, width)?;
        backward(bench, gpu, "W", elements / width, width)?;
    }
    Ok(())
}

/// `x`, residual, sum and output; or sum, the two gradients of them and that of `x`.
struct Set {
    rows: [Buffer; 4],
    columns: [Buffer; 4],
    mean: Buffer,
    rstd: Buffer,
}

fn set(gpu: &Gpu, rows: usize, width: usize) -> Result<Set> {
    let matrix = || gpu.random(Dtype::Bf16, rows * width);
    let vector = || gpu.random(Dtype::Bf16, width);
    Ok(Set {
        rows: [matrix()?, matrix()?, matrix()?, matrix()?],
        columns: [vector()?, vector()?, vector()?, vector()?],
        mean: gpu.random(Dtype::F32, rows)?,
        rstd: gpu.random_positive(Dtype::F32, rows)?,
    })
}

fn forward(bench: &mut Bench, gpu: &Gpu, axis: &str, rows: usize, width: usize) -> Result<()> {
    let bytes = 4 * 2 * rows * width;
    let row = row("forward", axis, rows, width, ELEMENT).needs(gpu.sets(bytes) * bytes);
    bench.measure(row, || {
        let plan = LayerNormForward::new(Dtype::Bf16, width)?.plan(&gpu.device)?;
        let mut sets = gpu.cycle(bytes, || set(gpu, rows, width))?;
        Ok(move || {
            let Set { rows: [x, residual, sum, out], columns: [weight, bias, ..], mean, rstd } = sets.take();
            let args = LayerNormForwardArgs {
                rows,
                eps: 1e-5,
                x: x.ptr(),
                x_stride: width as i64,
                residual: residual.ptr(),
                weight: weight.ptr(),
                bias: bias.ptr(),
                sum: sum.ptr(),
                out: out.ptr(),
                mean: mean.ptr(),
                rstd: rstd.ptr(),
            };
            // SAFETY: every tensor is an allocation of this shape, and lives until criterion has synchronised.
            Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
        })
    })
}

fn backward(bench: &mut Bench, gpu: &Gpu, axis: &str, rows: usize, width: usize) -> Result<()> {
    let bytes = 4 * 2 * rows * width;
    let row = row("backward", axis, rows, width, ELEMENT).needs(gpu.sets(bytes) * bytes);
    bench.measure(row, || {
        let plan = LayerNormBackward::new(Dtype::Bf16, width)?.plan(&gpu.device)?;
        let workspace = gpu.stream.alloc(plan.workspace_bytes(rows))?;
        let mut sets = gpu.cycle(bytes, || set(gpu, rows, width))?;
        Ok(move || {
            let Set { rows: [sum, dy, dr, dx], columns: [weight, dweight, dbias, _], mean, rstd } =
                sets.take();
            let args = LayerNormBackwardArgs {
                rows,
                dy: dy.ptr(),
                dr: dr.ptr(),
                sum: sum.ptr(),
                sum_stride: width as i64,
                weight: weight.ptr(),
                mean: mean.ptr(),
                rstd: rstd.ptr(),
                dx: dx.ptr(),
                dweight: dweight.ptr(),
                dbias: dbias.ptr(),
                workspace: workspace.ptr(),
            };
            // SAFETY: as above.
            Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
        })
    })
}

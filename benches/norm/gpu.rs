//! The kernels in bf16.

use anyhow::Result;
use longhand_benches::{Bench, Gpu};
use longhand_gpu::{Buffer, DevicePtr};
use longhand_kernels::Dtype;
use longhand_kernels::norm::{Norm, NormBackwardArgs, NormForwardArgs};

use super::{KINDS, Kind, WIDTH, row};

const TOKENS: [usize; 7] = [1024, 4096, 16_384, 65_536, 131_072, 262_144, 524_288];
const WIDTHS: [usize; 8] = [768, 1024, 2048, 4096, 8192, 16_384, 65_536, 131_072];
/// Elements of a tensor while the width varies: 128 MiB.
const ELEMENTS: usize = 1 << 26;
const ELEMENT: (&str, usize) = ("bf16", 2);

pub fn gpu(bench: &mut Bench, gpu: &Gpu) -> Result<()> {
    let elements = if gpu.device.is_emulated() { 1 << 16 } else { ELEMENTS };
    for kind in KINDS {
        for rows in gpu.lengths(&TOKENS, 64) {
            forward(bench, gpu, kind, "N", rows, WIDTH)?;
            backward(bench, gpu, kind, "N", rows, WIDTH)?;
        }
        for width in gpu.lengths(&WIDTHS, 1024) {
            forward(bench, gpu, kind, "W", elements / width, width)?;
            backward(bench, gpu, kind, "W", elements / width, width)?;
        }
    }
    Ok(())
}

impl Kind {
    fn norm(self, width: usize) -> Norm {
        match self {
            Kind::Layer => Norm::layer(Dtype::Bf16, width),
            Kind::Rms => Norm::rms(Dtype::Bf16, width),
        }
    }

    /// What layer norm has, and RMSNorm has not.
    fn only_layer(self, buffer: &Buffer) -> DevicePtr {
        if self == Kind::Layer { buffer.ptr() } else { DevicePtr::NULL }
    }
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

fn forward(bench: &mut Bench, gpu: &Gpu, kind: Kind, axis: &str, rows: usize, width: usize) -> Result<()> {
    let bytes = 4 * 2 * rows * width;
    let row = row(kind, "forward", axis, rows, width, ELEMENT).needs(gpu.sets(bytes) * bytes);
    bench.measure(row, || {
        let plan = kind.norm(width).plan_forward(&gpu.device)?;
        let mut sets = gpu.cycle(bytes, || set(gpu, rows, width))?;
        Ok(move || {
            let Set { rows: [x, residual, sum, out], columns: [weight, bias, ..], mean, rstd } = sets.take();
            let args = NormForwardArgs {
                rows,
                eps: 1e-5,
                x: x.ptr(),
                x_stride: width as i64,
                residual: residual.ptr(),
                dropout: None,
                weight: weight.ptr(),
                bias: kind.only_layer(bias),
                sum: sum.ptr(),
                out: out.ptr(),
                mean: kind.only_layer(mean),
                rstd: rstd.ptr(),
            };
            // SAFETY: every tensor is an allocation of this shape, and lives until criterion has synchronised.
            Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
        })
    })
}

fn backward(bench: &mut Bench, gpu: &Gpu, kind: Kind, axis: &str, rows: usize, width: usize) -> Result<()> {
    let bytes = 4 * 2 * rows * width;
    let row = row(kind, "backward", axis, rows, width, ELEMENT).needs(gpu.sets(bytes) * bytes);
    bench.measure(row, || {
        let plan = kind.norm(width).plan_backward(&gpu.device)?;
        let workspace = gpu.stream.alloc(plan.workspace_bytes(rows))?;
        let mut sets = gpu.cycle(bytes, || set(gpu, rows, width))?;
        Ok(move || {
            let Set { rows: [sum, dy, dr, dx], columns: [weight, dweight, dbias, _], mean, rstd } =
                sets.take();
            let args = NormBackwardArgs {
                rows,
                dout: dy.ptr(),
                dsum: dr.ptr(),
                sum: sum.ptr(),
                sum_stride: width as i64,
                dropout: None,
                weight: weight.ptr(),
                mean: kind.only_layer(mean),
                rstd: rstd.ptr(),
                dx: dx.ptr(),
                dresidual: DevicePtr::NULL,
                dweight: dweight.ptr(),
                dbias: kind.only_layer(dbias),
                workspace: workspace.ptr(),
            };
            // SAFETY: as above.
            Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
        })
    })
}

//! The kernels in bf16 at width 768.

use criterion::{BenchmarkId, Criterion, Throughput};
use longhand_benches::Gpu;
use longhand_kernels::norm::{
    LayerNormBackward, LayerNormBackwardArgs, LayerNormForward, LayerNormForwardArgs,
};
use longhand_kernels::{Dtype, Result};

use crate::WIDTH;

const TOKENS: [usize; 5] = [1024, 4096, 16_384, 65_536, 262_144];

pub fn gpu(c: &mut Criterion) {
    let Some(gpu) = Gpu::open("norm") else { return };
    for tokens in TOKENS {
        passes(c, &gpu, tokens).expect("the kernels take these shapes");
    }
}

fn passes(c: &mut Criterion, gpu: &Gpu, rows: usize) -> Result<()> {
    let [x, residual, sum, out, dy, dr, dx] =
        [(); 7].map(|()| gpu.random_bf16(rows * WIDTH).expect("device memory"));
    let [weight, bias, dweight, dbias] = [(); 4].map(|()| gpu.random_bf16(WIDTH).expect("device memory"));
    let [mean, rstd] = [(); 2].map(|()| gpu.random_f32(rows).expect("device memory"));

    let plan = LayerNormForward::new(Dtype::Bf16, WIDTH)?.plan(&gpu.device)?;
    let args = LayerNormForwardArgs {
        rows,
        eps: 1e-5,
        x: x.ptr(),
        x_stride: WIDTH as i64,
        residual: residual.ptr(),
        weight: weight.ptr(),
        bias: bias.ptr(),
        sum: sum.ptr(),
        out: out.ptr(),
        mean: mean.ptr(),
        rstd: rstd.ptr(),
    };
    // SAFETY: every tensor is an allocation above of this shape, and lives until the timing has synchronised.
    let forward = || unsafe { plan.launch(&gpu.stream, &args) };
    let mut group = c.benchmark_group("norm/forward/gpu_bf16");
    group.throughput(Throughput::Bytes((4 * rows * WIDTH * 2) as u64));
    group.bench_function(BenchmarkId::from_parameter(rows), |b| {
        b.iter_custom(|iterations| gpu.time(iterations, forward).expect("a launch"));
    });
    group.finish();

    let plan = LayerNormBackward::new(Dtype::Bf16, WIDTH)?.plan(&gpu.device)?;
    let workspace = gpu.stream.alloc(plan.workspace_bytes(rows))?;
    let args = LayerNormBackwardArgs {
        rows,
        dy: dy.ptr(),
        dr: dr.ptr(),
        sum: sum.ptr(),
        sum_stride: WIDTH as i64,
        weight: weight.ptr(),
        mean: mean.ptr(),
        rstd: rstd.ptr(),
        dx: dx.ptr(),
        dweight: dweight.ptr(),
        dbias: dbias.ptr(),
        workspace: workspace.ptr(),
    };
    // SAFETY: as above; `sum`, `mean` and `rstd` were left by the forward pass.
    let backward = || unsafe { plan.launch(&gpu.stream, &args) };
    let mut group = c.benchmark_group("norm/backward/gpu_bf16");
    group.throughput(Throughput::Bytes((4 * rows * WIDTH * 2) as u64));
    group.bench_function(BenchmarkId::from_parameter(rows), |b| {
        b.iter_custom(|iterations| gpu.time(iterations, backward).expect("a launch"));
    });
    group.finish();
    Ok(())
}

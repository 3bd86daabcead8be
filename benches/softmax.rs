//! Softmax by width of a row, in bytes that have to move: forward reads a matrix and writes one, backward reads two and
//! writes one.

use anyhow::Result;
use longhand_benches::{Bench, Gpu, Row, normal};
use longhand_gpu::DevicePtr;
use longhand_kernels::Dtype;
use longhand_kernels::softmax::{SoftmaxArgs, SoftmaxBackward, SoftmaxBackwardArgs, SoftmaxForward};
use longhand_tensor::{Tensor, no_grad, ops};

const WIDTHS: [usize; 4] = [1024, 4096, 32_768, 262_144];
/// Elements of a tensor while the width varies.
const ELEMENTS: usize = 1 << 22;
const GPU_ELEMENTS: usize = 1 << 27;

fn row(pass: &str, rows: usize, width: usize, (dtype, bytes): (&str, usize)) -> Row {
    let matrices = if pass == "forward" { 2 } else { 3 };
    let row = Row::new(&format!("softmax {pass}"), dtype, "W", width);
    let millions = (rows * width) >> 20;
    row.variant(&format!("{millions}M elements")).sizes([("N", rows)]).moves(matrices * rows * width * bytes)
}

fn cpu(bench: &mut Bench) -> Result<()> {
    for width in WIDTHS {
        let rows = ELEMENTS / width;
        let input = || -> Result<Tensor> { Ok(normal(&[rows, width])?.requires_grad()) };
        bench.measure(row("forward", rows, width, ("f32", 4)), || {
            let x = input()?;
            Ok(move || Ok(no_grad(|| ops::softmax(&x))?))
        })?;
        bench.measure_backward(row("backward", rows, width, ("f32", 4)), || {
            let x = input()?;
            Ok(move || Ok(vec![ops::softmax(&x)?]))
        })?;
    }
    Ok(())
}

fn gpu(bench: &mut Bench, gpu: &Gpu) -> Result<()> {
    let elements = if gpu.device.is_emulated() { 1 << 16 } else { GPU_ELEMENTS };
    for width in gpu.lengths(&WIDTHS, 4096) {
        forward(bench, gpu, elements / width, width)?;
        backward(bench, gpu, elements / width, width)?;
    }
    Ok(())
}

fn forward(bench: &mut Bench, gpu: &Gpu, rows: usize, width: usize) -> Result<()> {
    let bytes = 2 * 2 * rows * width;
    let row = row("forward", rows, width, ("bf16", 2)).needs(gpu.sets(bytes) * bytes);
    bench.measure(row, || {
        let plan = SoftmaxForward::new(Dtype::Bf16, width).plan(&gpu.device)?;
        let matrix = || gpu.random(Dtype::Bf16, rows * width);
        let mut sets = gpu.cycle(bytes, || Ok([matrix()?, matrix()?]))?;
        Ok(move || {
            let [x, out] = sets.take();
            let stride = width as i64;
            let (x, out) = (x.ptr(), out.ptr());
            let args = SoftmaxArgs { rows, x, stride, out, out_stride: stride, lse: DevicePtr::NULL };
            // SAFETY: every tensor is an allocation of this shape, and lives until criterion has synchronised.
            Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
        })
    })
}

fn backward(bench: &mut Bench, gpu: &Gpu, rows: usize, width: usize) -> Result<()> {
    let bytes = 3 * 2 * rows * width;
    let row = row("backward", rows, width, ("bf16", 2)).needs(gpu.sets(bytes) * bytes);
    bench.measure(row, || {
        let plan = SoftmaxBackward::new(Dtype::Bf16, width).plan(&gpu.device)?;
        let matrix = || gpu.random(Dtype::Bf16, rows * width);
        let mut sets = gpu.cycle(bytes, || Ok([matrix()?, matrix()?, matrix()?]))?;
        Ok(move || {
            let [out, dout, dx] = sets.take();
            let (out, dout, dx) = (out.ptr(), dout.ptr(), dx.ptr());
            let args = SoftmaxBackwardArgs { rows, out, dout, dlse: DevicePtr::NULL, dx };
            // SAFETY: as above.
            Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
        })
    })
}

pub(crate) fn main() -> Result<()> {
    longhand_benches::main(cpu, gpu)
}

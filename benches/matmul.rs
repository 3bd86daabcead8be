//! Matrix products: square ones, and those of GPT-2's feed-forward layer, 768 to 3072, by context length.

use anyhow::Result;
use longhand_benches::{Bench, Gpu, Row, normal};
use longhand_gpu::DevicePtr;
use longhand_kernels::Dtype;
use longhand_kernels::matmul::{Matmul, MatmulArgs, Matrix, Operand, Order};
use longhand_tensor::no_grad;

const SQUARES: [usize; 4] = [256, 512, 1024, 2048];
const GPU_SQUARES: [usize; 4] = [1024, 2048, 4096, 8192];
const TOKENS: [usize; 4] = [256, 1024, 4096, 16_384];

fn row(dtype: &str, [m, n, k]: [usize; 3]) -> Row {
    let row = match n == k {
        true => Row::new("matmul", dtype, "M", m).variant("square"),
        false => Row::new("matmul", dtype, "M", m).variant(&format!("K{k} N{n}")),
    };
    row.sizes([("N", n), ("K", k)]).flops(2 * (m * n * k) as u64)
}

fn shapes(squares: &[usize], tokens: &[usize]) -> Vec<[usize; 3]> {
    let squares = squares.iter().map(|&size| [size; 3]);
    squares.chain(tokens.iter().map(|&tokens| [tokens, 3072, 768])).collect()
}

fn cpu(bench: &mut Bench) -> Result<()> {
    for [m, n, k] in shapes(&SQUARES, &TOKENS) {
        bench.measure(row("f32", [m, n, k]), || {
            let (a, b) = (normal(&[m, k])?, normal(&[k, n])?);
            Ok(move || Ok(no_grad(|| a.matmul(&b))?))
        })?;
    }
    Ok(())
}

fn gpu(bench: &mut Bench, gpu: &Gpu) -> Result<()> {
    const DTYPE: Dtype = Dtype::Bf16;
    let tokens = if gpu.device.is_emulated() { &[][..] } else { &TOKENS };
    for [m, n, k] in shapes(&gpu.lengths(&GPU_SQUARES, 128), tokens) {
        let bytes = 2 * (m * k + k * n + m * n);
        bench.measure(row("bf16", [m, n, k]).needs(gpu.sets(bytes) * bytes), || {
            let plan = Matmul::new(DTYPE).orders(Order::RowMajor, Order::RowMajor).plan(&gpu.device)?;
            let mut sets = gpu.cycle(bytes, || {
                Ok([gpu.random(DTYPE, m * k)?, gpu.random(DTYPE, k * n)?, gpu.random(DTYPE, m * n)?])
            })?;
            Ok(move || {
                let [a, b, d] = sets.take();
                let operand = |data: DevicePtr, columns: usize| Operand {
                    data,
                    matrix: Matrix::row_major(columns as i64),
                };
                let args = MatmulArgs {
                    m,
                    n,
                    k,
                    batch: 1,
                    a: operand(a.ptr(), k),
                    b: operand(b.ptr(), n),
                    bias: DevicePtr::NULL,
                    c: None,
                    d: operand(d.ptr(), n),
                };
                // SAFETY: every matrix is an allocation of this size, and lives until criterion has synchronised.
                Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
            })
        })?;
    }
    Ok(())
}

pub(crate) fn main() -> Result<()> {
    longhand_benches::main(cpu, gpu)
}

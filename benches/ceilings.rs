//! What the machine can do: the ceilings that other benches' rates are shares of. A large copy within the device's
//! memory, in bytes read and written, and a large matrix product, by the fastest library at hand.

use anyhow::Result;
use longhand_benches::{Bench, Gpu, Row, normal};
use longhand_gpu::cublaslt::{self, Cublaslt, Matmul, MatmulArgs, Matrix};
use longhand_gpu::{DevicePtr, Error, Stream};
use longhand_kernels::Dtype;
use longhand_tensor::no_grad;
use rayon::prelude::*;

fn copy_row(bytes: usize) -> Row {
    Row::new("ceiling copy", "u8", "bytes", bytes).moves(2 * bytes).needs(2 * bytes)
}

fn product_row(dtype: &str, library: &str, size: usize) -> Row {
    let row = Row::new("ceiling matmul", dtype, "N", size).by(library);
    row.sizes([("M", size), ("K", size)]).flops(2 * (size as u64).pow(3))
}

fn cpu(bench: &mut Bench) -> Result<()> {
    const BYTES: usize = 512 << 20;
    const CHUNK: usize = 1 << 20;
    bench.measure(copy_row(BYTES), || {
        let source: Vec<u8> = (0..BYTES).map(|i| (i * 31) as u8).collect();
        let mut target = vec![1; BYTES];
        Ok(move || {
            let chunks = target.par_chunks_mut(CHUNK).zip(source.par_chunks(CHUNK));
            chunks.for_each(|(target, source)| target.copy_from_slice(source));
            Ok(())
        })
    })?;
    const SIZE: usize = 2048;
    bench.measure(product_row("f32", "longhand", SIZE), || {
        let (a, b) = (normal(&[SIZE, SIZE])?, normal(&[SIZE, SIZE])?);
        Ok(move || Ok(no_grad(|| a.matmul(&b))?))
    })
}

fn gpu(bench: &mut Bench, gpu: &Gpu) -> Result<()> {
    for bytes in gpu.lengths(&[2 << 30], 1 << 20) {
        bench.measure(copy_row(bytes), || {
            let [source, target] = [gpu.random(Dtype::F32, bytes / 4)?, gpu.stream.alloc(bytes)?];
            // SAFETY: both are allocations of this size.
            Ok(move || Ok(unsafe { gpu.stream.copy(target.ptr(), source.ptr(), bytes) }?))
        })?;
    }
    if gpu.device.is_emulated() {
        return Ok(()); // which has no library
    }
    let library = match Cublaslt::new(&gpu.device) {
        Err(error @ Error::LibraryNotFound { .. }) => {
            return bench.leave_out("ceiling matmul", &error.to_string());
        }
        library => library?,
    };
    const SIZE: usize = 8192;
    for (dtype, lt) in [(Dtype::Bf16, cublaslt::Dtype::Bf16), (Dtype::F16, cublaslt::Dtype::F16)] {
        bench.measure(product_row(&dtype.to_string(), "cuBLASLt", SIZE), || {
            product(gpu, &library, dtype, lt)
        })?;
    }
    Ok(())
}

fn product<'a>(
    gpu: &'a Gpu,
    library: &Cublaslt,
    dtype: Dtype,
    inputs: cublaslt::Dtype,
) -> Result<impl FnMut() -> Result<()> + use<'a>> {
    const SIZE: usize = 8192;
    let matrix = Matrix::row_major(SIZE as i64);
    let plan = library.plan(&Matmul {
        m: SIZE,
        n: SIZE,
        k: SIZE,
        batch: 1,
        inputs,
        output: inputs,
        a: matrix,
        b: matrix,
        d: matrix,
        bias: false,
        accumulate: false,
        alignment: 256,
    })?;
    let [a, b, d] = [(); 3].map(|()| gpu.random(dtype, SIZE * SIZE));
    let (a, b, d, workspace) = (a?, b?, d?, gpu.stream.alloc(plan.workspace_bytes())?);
    let stream: &Stream = &gpu.stream;
    Ok(move || {
        let args = MatmulArgs {
            a: a.ptr(),
            b: b.ptr(),
            bias: DevicePtr::NULL,
            d: d.ptr(),
            workspace: workspace.ptr(),
        };
        // SAFETY: every buffer has as many elements as the plan says.
        Ok(unsafe { plan.launch(stream, &args) }?)
    })
}

pub(crate) fn main() -> Result<()> {
    longhand_benches::main(cpu, gpu)
}

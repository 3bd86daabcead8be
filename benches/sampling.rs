//! The next token by size of the vocabulary, from as many rows of logits as are decoded at once: top-k 50 and top-p 0.9,
//! in bytes of logits.

use anyhow::Result;
use longhand_benches::{Bench, Gpu, Row, normal};
use longhand_kernels::sampling::{Sample, SampleArgs, SampleOptions};
use longhand_kernels::{Dtype, Random};
use longhand_tensor::ops;

const ROWS: usize = 16;
const VOCABULARIES: [usize; 4] = [32_768, 65_536, 131_072, 262_144];
const OPTIONS: SampleOptions = SampleOptions { temperature: 0.8, top_k: Some(50), top_p: 0.9 };
const RANDOM: Random = Random { seed: 1, offset: 0 };

fn row(rows: usize, vocabulary: usize, (dtype, bytes): (&str, usize)) -> Row {
    let row = Row::new("sampling", dtype, "V", vocabulary).variant("top-k 50 top-p 0.9");
    row.sizes([("N", rows)]).moves(rows * vocabulary * bytes)
}

fn cpu(bench: &mut Bench) -> Result<()> {
    for vocabulary in VOCABULARIES {
        bench.measure(row(ROWS, vocabulary, ("f32", 4)), || {
            let logits = normal(&[ROWS, vocabulary])?;
            Ok(move || Ok(ops::sample(&logits, &OPTIONS, RANDOM)?))
        })?;
    }
    Ok(())
}

fn gpu(bench: &mut Bench, gpu: &Gpu) -> Result<()> {
    for vocabulary in gpu.lengths(&VOCABULARIES, 2048) {
        let bytes = 2 * ROWS * vocabulary;
        bench.measure(row(ROWS, vocabulary, ("bf16", 2)).needs(gpu.sets(bytes) * bytes), || {
            let plan = Sample::new(Dtype::Bf16, vocabulary).plan(&gpu.device)?;
            let tokens = gpu.stream.alloc(4 * ROWS)?;
            let mut sets = gpu.cycle(bytes, || gpu.random(Dtype::Bf16, ROWS * vocabulary))?;
            Ok(move || {
                let args = SampleArgs {
                    rows: ROWS,
                    logits: sets.take().ptr(),
                    stride: vocabulary as i64,
                    options: OPTIONS,
                    random: RANDOM,
                    tokens: tokens.ptr(),
                };
                // SAFETY: both tensors are allocations of this shape, and live until criterion has synchronised.
                Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
            })
        })?;
    }
    Ok(())
}

pub(crate) fn main() -> Result<()> {
    longhand_benches::main(cpu, gpu)
}

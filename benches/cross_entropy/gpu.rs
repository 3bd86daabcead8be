//! The kernels in bf16, on 8192 tokens.

use anyhow::Result;
use longhand_benches::{Bench, Gpu};
use longhand_gpu::Buffer;
use longhand_kernels::Dtype;
use longhand_kernels::cross_entropy::{
    CrossEntropyBackward, CrossEntropyBackwardArgs, CrossEntropyForward, CrossEntropyForwardArgs, Logits,
};

use super::row;

const ROWS: usize = 8192;
const VOCABULARIES: [usize; 4] = [32_768, 65_536, 131_072, 262_144];
const ELEMENT: (&str, usize) = ("bf16", 2);

pub fn gpu(bench: &mut Bench, gpu: &Gpu) -> Result<()> {
    let rows = if gpu.device.is_emulated() { 4 } else { ROWS };
    for vocabulary in gpu.lengths(&VOCABULARIES, 4096) {
        forward(bench, gpu, rows, vocabulary)?;
        backward(bench, gpu, rows, vocabulary)?;
    }
    Ok(())
}

struct Set {
    logits: Buffer,
    targets: Buffer,
    dlogits: Option<Buffer>,
    /// Of each row.
    loss: Buffer,
    lse: Buffer,
    /// Single numbers: the mean or its gradient, and the share of a row in it.
    mean: Buffer,
    share: Buffer,
}

impl Set {
    fn new(gpu: &Gpu, rows: usize, vocabulary: usize, backward: bool) -> Result<Set> {
        let matrix = || gpu.random(Dtype::Bf16, rows * vocabulary);
        Ok(Set {
            logits: matrix()?,
            targets: gpu.random_ids(rows, vocabulary)?,
            dlogits: backward.then(matrix).transpose()?,
            loss: gpu.random(Dtype::F32, rows)?,
            lse: gpu.random(Dtype::F32, rows)?,
            mean: gpu.random(Dtype::F32, 1)?,
            share: gpu.random(Dtype::F32, 1)?,
        })
    }

    fn logits(&self, rows: usize, vocabulary: usize) -> Logits {
        let (data, targets) = (self.logits.ptr(), self.targets.ptr());
        Logits { rows, vocabulary, data, stride: vocabulary as i64, targets }
    }

    fn forward(&self, rows: usize, vocabulary: usize) -> CrossEntropyForwardArgs {
        CrossEntropyForwardArgs {
            logits: self.logits(rows, vocabulary),
            loss: self.loss.ptr(),
            lse: self.lse.ptr(),
            mean: self.mean.ptr(),
            share: self.share.ptr(),
        }
    }
}

fn forward(bench: &mut Bench, gpu: &Gpu, rows: usize, vocabulary: usize) -> Result<()> {
    let bytes = 2 * rows * vocabulary;
    let row = row("forward", rows, vocabulary, ELEMENT).needs(gpu.sets(bytes) * bytes);
    bench.measure(row, || {
        let plan = CrossEntropyForward::new(Dtype::Bf16).plan(&gpu.device)?;
        let mut sets = gpu.cycle(bytes, || Set::new(gpu, rows, vocabulary, false))?;
        Ok(move || {
            let args = sets.take().forward(rows, vocabulary);
            // SAFETY: every tensor is an allocation of this shape, and lives until criterion has synchronised.
            Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
        })
    })
}

fn backward(bench: &mut Bench, gpu: &Gpu, rows: usize, vocabulary: usize) -> Result<()> {
    let bytes = 4 * rows * vocabulary;
    let row = row("backward", rows, vocabulary, ELEMENT).needs(gpu.sets(bytes) * bytes);
    bench.measure(row, || {
        let forward = CrossEntropyForward::new(Dtype::Bf16).plan(&gpu.device)?;
        let plan = CrossEntropyBackward::new(Dtype::Bf16).plan(&gpu.device)?;
        let mut sets = gpu.cycle(bytes, || {
            let set = Set::new(gpu, rows, vocabulary, true)?;
            // SAFETY: as above. `lse` and `share` have to be those of the logits.
            unsafe { forward.launch(&gpu.stream, &set.forward(rows, vocabulary)) }?;
            Ok(set)
        })?;
        Ok(move || {
            let set = sets.take();
            let args = CrossEntropyBackwardArgs {
                logits: set.logits(rows, vocabulary),
                lse: set.lse.ptr(),
                dmean: set.mean.ptr(),
                share: set.share.ptr(),
                dlogits: set.dlogits.as_ref().map_or(set.logits.ptr(), Buffer::ptr),
                dlogits_stride: vocabulary as i64,
            };
            // SAFETY: as above.
            Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
        })
    })
}

//! The kernels in bf16, on 8192 tokens; of an output head as wide as Llama 3 8B's.

use anyhow::Result;
use longhand_benches::{Bench, Gpu};
use longhand_gpu::{Buffer, DevicePtr};
use longhand_kernels::Dtype;
use longhand_kernels::cross_entropy::{CrossEntropy, CrossEntropyArgs, Gradient, Logits, LossOptions};

use super::{heads, row};

const ROWS: usize = 8192;
const VOCABULARIES: [usize; 4] = [32_768, 65_536, 131_072, 262_144];
const ELEMENT: (&str, usize) = ("bf16", 2);

pub fn gpu(bench: &mut Bench, gpu: &Gpu) -> Result<()> {
    let rows = if gpu.device.is_emulated() { 4 } else { ROWS };
    for vocabulary in gpu.lengths(&VOCABULARIES, 4096) {
        pass(bench, gpu, rows, vocabulary, false)?;
        pass(bench, gpu, rows, vocabulary, true)?;
    }
    let (rows, width) = if gpu.device.is_emulated() { (64, 64) } else { (ROWS, 4096) };
    heads(bench, rows, width, &gpu.lengths(&VOCABULARIES, 512), longhand_tensor::Dtype::Bf16)
}

struct Set {
    logits: Buffer,
    targets: Buffer,
    dlogits: Option<Buffer>,
    /// Of each row.
    loss: Buffer,
    /// The share of a row in the mean.
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
            share: gpu.random(Dtype::F32, 1)?,
        })
    }

    fn args(&self, rows: usize, vocabulary: usize) -> CrossEntropyArgs {
        let (data, targets, stride) = (self.logits.ptr(), self.targets.ptr(), vocabulary as i64);
        let gradient = |dlogits: &Buffer| Gradient {
            scale: 1.0,
            dmean: DevicePtr::NULL,
            share: self.share.ptr(),
            dlogits: dlogits.ptr(),
            stride,
        };
        CrossEntropyArgs {
            logits: Logits { rows, data, stride, targets },
            options: LossOptions::default(),
            loss: self.loss.ptr(),
            lse: DevicePtr::NULL,
            gradient: self.dlogits.as_ref().map(gradient),
        }
    }
}

/// The loss alone, or in the same pass its gradient: to another tensor, so that every run has the same logits.
fn pass(bench: &mut Bench, gpu: &Gpu, rows: usize, vocabulary: usize, backward: bool) -> Result<()> {
    let bytes = if backward { 4 } else { 2 } * rows * vocabulary;
    let name = if backward { "backward" } else { "forward" };
    let row = row(name, rows, vocabulary, ELEMENT).needs(gpu.sets(bytes) * bytes);
    bench.measure(row, || {
        let plan = CrossEntropy::new(Dtype::Bf16, vocabulary).gradient(backward).plan(&gpu.device)?;
        let mut sets = gpu.cycle(bytes, || Set::new(gpu, rows, vocabulary, backward))?;
        Ok(move || {
            let args = sets.take().args(rows, vocabulary);
            // SAFETY: every tensor is an allocation of this shape, and lives until criterion has synchronised.
            Ok(unsafe { plan.launch(&gpu.stream, &args) }?)
        })
    })
}

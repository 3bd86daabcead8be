//! The next token from a row of logits.

use longhand_kernels::sampling::{NONE, Sample as Kernel, SampleArgs, SampleOptions, bits, weight};
use rayon::prelude::*;

use super::widened;
use crate::autograd::apply1;
use crate::gpu::kernel_dtype;
use crate::{Device, Dtype, Error, Forward, Gpu, Operation, Random, Result, Tensor};

/// One token for each row of `logits` `(N, V)`, as `(N)` of `u32`, chosen as `options` say and drawn with `random` by row.
/// The same logits and `random` give the same tokens on every device.
///
/// ```
/// use longhand_tensor::ops::{SampleOptions, sample};
/// use longhand_tensor::{Device, Random, Tensor};
///
/// # fn main() -> longhand_tensor::Result<()> {
/// let logits = Tensor::from_slice(&[0.1f32, 2.0, -9.0], &[1, 3], &Device::Cpu)?;
/// let options = SampleOptions { temperature: 0.8, top_k: Some(2), top_p: 0.95 };
/// let token = sample(&logits, &options, Random { seed: 7, offset: 0 })?.to_vec::<u32>()?[0];
/// assert!(token < 2);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// When options make no sense, logits are not `(N, V)` of a floating-point type other than `f64` with a V of at least 1, or
/// a row holds NaN or +∞, or nothing above -∞ (on a GPU, which is not waited for, its token is `u32::MAX` instead).
pub fn sample(logits: &Tensor, options: &SampleOptions, random: Random) -> Result<Tensor> {
    apply1(Sample { name: "sample", options: *options, random }, &[logits])
}

/// The index of the largest element of each row of `x` `(N, W)`, the first of them if there are more, as `(N)` of `u32`.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// # use longhand_tensor::{Device, Tensor, ops};
/// let logits = Tensor::from_slice(&[0.0f32, 3.0, 1.0], &[1, 3], &Device::Cpu)?;
/// assert_eq!(ops::argmax(&logits)?.to_vec::<u32>()?, [1]);
/// # Ok(())
/// # }
/// ```
///
/// # Errors
/// As [`sample`].
pub fn argmax(x: &Tensor) -> Result<Tensor> {
    let (options, random) = (SampleOptions::GREEDY, Random::default());
    apply1(Sample { name: "argmax", options, random }, &[x])
}

struct Sample {
    name: &'static str,
    options: SampleOptions,
    random: Random,
}

impl Operation for Sample {
    fn name(&self) -> &str {
        self.name
    }

    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let logits = &inputs[0].contiguous()?;
        if let Some((field, was, expected)) = self.options.fault() {
            return Err(Error::argument(self.name, field, was, expected));
        }
        if !matches!(logits.shape(), [_, (1..)]) {
            let found = format!("of shape {:?}", logits.shape());
            return Err(Error::argument(self.name, "an argument", found, "of shape (N, V), V at least 1"));
        }
        let tokens = match logits.device() {
            Device::Cpu => self.cpu(logits)?,
            Device::Gpu(gpu) => self.on_gpu(gpu, logits)?,
        };
        Ok(Forward::new([tokens]))
    }
}

impl Sample {
    fn cpu(&self, logits: &Tensor) -> Result<Tensor> {
        let classes = logits.shape()[1];
        let wide = widened(self.name, logits)?;
        if wide.dtype() == Dtype::F64 {
            return Err(Error::dtype(self.name, Dtype::F64, "f32, bf16 or f16"));
        }
        let values = &wide.read::<f32>(self.name)?[..logits.numel()];
        let rows = values.par_chunks_exact(classes).enumerate();
        let tokens: Vec<u32> = rows.map(|(row, logits)| self.choose(row, logits)).collect();
        match tokens.iter().position(|&token| token == NONE) {
            None => Ok(Tensor::from_elements(tokens, &[logits.shape()[0]])),
            Some(row) => {
                let found = format!("NaN, +inf or nothing above -inf in row {row}");
                Err(Error::argument(self.name, "an argument", found, "finite numbers or -inf, not all"))
            }
        }
    }

    /// As `kernels/sampling/sample.cu` has it, by sorting what the options keep.
    fn choose(&self, row: usize, logits: &[f32]) -> u32 {
        let maximum = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        if maximum == f32::NEG_INFINITY || !logits.iter().all(|x| *x < f32::INFINITY) {
            return NONE;
        }
        let kept = self.options.kept(logits.len());
        if kept == 1 {
            return logits.iter().position(|x| *x == maximum).map_or(NONE, |i| i as u32);
        }
        // Most likely first; of equals the first.
        let order = |&a: &usize, &b: &usize| (logits[b] + 0.0).total_cmp(&(logits[a] + 0.0)).then(a.cmp(&b));
        let mut tokens: Vec<usize> = (0..logits.len()).collect();
        if kept < tokens.len() {
            tokens.select_nth_unstable_by(kept - 1, order);
            tokens.truncate(kept);
        }
        let inverse = self.options.inverse_temperature();
        let weight_of = |&token: &usize| weight(logits[token], maximum, inverse);
        let total: u64 = tokens.iter().map(weight_of).sum();
        let top_p = self.options.top_p_bits();
        if top_p != u64::MAX {
            tokens.sort_unstable_by(order);
            let needed = u128::from(total) * u128::from(top_p);
            let mut held = 0u128;
            let enough = tokens.iter().position(|token| {
                held += u128::from(weight_of(token)) << 64;
                held >= needed
            });
            tokens.truncate(enough.map_or(tokens.len(), |last| last + 1));
        }
        tokens.sort_unstable();
        let total: u64 = tokens.iter().map(weight_of).sum();
        let draw = ((u128::from(bits(self.random, row)) * u128::from(total)) >> 64) as u64;
        let mut upto = 0;
        let drawn = tokens.iter().find(|token| {
            upto += weight_of(token);
            draw < upto
        });
        drawn.map_or(NONE, |&token| token as u32)
    }

    fn on_gpu(&self, gpu: &Gpu, logits: &Tensor) -> Result<Tensor> {
        let dtype = kernel_dtype(self.name, logits.dtype())?;
        let (rows, vocabulary) = (logits.shape()[0], logits.shape()[1]);
        let kernel = Kernel::new(dtype, vocabulary);
        let plan = gpu.plans().sample.get(kernel, |kernel| kernel.plan(gpu.device()))?;
        let tokens = gpu.empty(&[rows], Dtype::U32)?;
        let args = SampleArgs {
            rows,
            logits: logits.pointer(self.name)?,
            stride: vocabulary as i64,
            options: self.options,
            random: self.random,
            tokens: tokens.pointer(self.name)?,
        };
        // SAFETY: the logits are contiguous, the tokens new, both on this device and freed on this stream.
        unsafe { plan.launch(gpu.stream(), &args)? };
        Ok(tokens)
    }
}

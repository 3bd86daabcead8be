//! The next token from a row of logits.

use longhand_kernels::sampling::{NONE, Sample as Kernel, SampleArgs, SampleOptions, bits, weight};
use rayon::prelude::*;

use super::widened;
use crate::autograd::apply1;
use crate::cpu::reduce::max_lanes;
use crate::cpu::simd::vectorised;
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
        let mut maxima = vec![f32::NEG_INFINITY; logits.len().div_ceil(BLOCK)];
        let finite = maxima_of_blocks(&mut maxima, logits);
        let maximum = max_lanes(&maxima);
        if maximum == f32::NEG_INFINITY || !finite {
            return NONE;
        }
        let kept = self.options.kept(logits.len());
        if kept == 1 {
            return logits.iter().position(|x| *x == maximum).map_or(NONE, |i| i as u32);
        }
        let mut likely = at_least(logits, &maxima, kept);
        if kept < likely.len() {
            likely.select_nth_unstable(kept - 1);
            likely.truncate(kept);
        }
        let inverse = self.options.inverse_temperature();
        let weight_of = |token: u32| weight(logits[token as usize], maximum, inverse);
        let top_p = self.options.top_p_bits();
        if top_p != u64::MAX {
            likely.sort_unstable();
            let total: u64 = likely.iter().map(|likely| weight_of(likely.token())).sum();
            let needed = u128::from(total) * u128::from(top_p);
            let mut held = 0u128;
            let enough = likely.iter().position(|likely| {
                held += u128::from(weight_of(likely.token())) << 64;
                held >= needed
            });
            likely.truncate(enough.map_or(likely.len(), |last| last + 1));
        }
        let mut tokens: Vec<u32> = likely.into_iter().map(Likely::token).collect();
        tokens.sort_unstable();
        let total: u64 = tokens.iter().copied().map(weight_of).sum();
        let draw = ((u128::from(bits(self.random, row)) * u128::from(total)) >> 64) as u64;
        let mut upto = 0;
        let drawn = tokens.iter().find(|token| {
            upto += weight_of(**token);
            draw < upto
        });
        drawn.copied().unwrap_or(NONE)
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

/// A token and how likely it is, as one number: more likely ones are smaller, and of equals the first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Likely(u64);

impl Likely {
    fn new(logit: f32, token: usize) -> Likely {
        let bits = (logit + 0.0).to_bits(); // -0 is 0
        let falling = if bits >> 31 == 1 { bits } else { bits ^ 0x7fff_ffff };
        Likely(u64::from(falling) << 32 | token as u64)
    }

    fn token(self) -> u32 {
        self.0 as u32
    }
}

/// Logits of which the largest is found first, so that most need not be looked at again.
const BLOCK: usize = 128;

/// All tokens whose logits are at least some number, at which there are `kept` or more: the one that so many blocks reach.
fn at_least(logits: &[f32], maxima: &[f32], kept: usize) -> Vec<Likely> {
    let mut least = f32::NEG_INFINITY;
    if kept < maxima.len() {
        let mut maxima = maxima.to_vec();
        least = *maxima.select_nth_unstable_by(kept - 1, |a, b| b.total_cmp(a)).1;
    }
    let mut found = Vec::new();
    for (i, (block, maximum)) in logits.chunks(BLOCK).zip(maxima).enumerate() {
        if *maximum >= least {
            let tokens = (i * BLOCK..).zip(block).filter(|(_, logit)| **logit >= least);
            found.extend(tokens.map(|(token, logit)| Likely::new(*logit, token)));
        }
    }
    found
}

vectorised! {
    /// The largest logit of each block; whether all are below +∞, and none is NaN.
    fn maxima_of_blocks(maxima: &mut [f32], logits: &[f32]) -> bool {
        let mut finite = true;
        for (maximum, block) in maxima.iter_mut().zip(logits.chunks(BLOCK)) {
            *maximum = max_lanes(block);
            finite &= block.iter().fold(true, |finite, x| finite & (*x < f32::INFINITY));
        }
        finite
    }
}

//! `kernels/sampling/`: the next token, from a row of logits.
//!
//! ```no_run
//! use longhand_gpu::Device;
//! use longhand_kernels::sampling::{Sample, SampleArgs, SampleOptions};
//! use longhand_kernels::{Dtype, Random};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A token for each of 8 rows of 50,257 logits.
//! let device = Device::emulated("sm_80".parse()?)?;
//! let stream = device.new_stream()?;
//! let (logits, tokens) = (stream.alloc(2 * 8 * 50_257)?, stream.alloc(4 * 8)?);
//! let plan = Sample::new(Dtype::Bf16, 50_257).plan(&device)?;
//! let args = SampleArgs {
//!     rows: 8,
//!     logits: logits.ptr(),
//!     stride: 50_257,
//!     options: SampleOptions { temperature: 0.8, top_k: Some(40), top_p: 0.95 },
//!     random: Random { seed: 42, offset: 0 },
//!     tokens: tokens.ptr(),
//! };
//! // SAFETY: the tensors are the allocations above, which outlive the launch.
//! unsafe { plan.launch(&stream, &args)? };
//! # Ok(())
//! # }
//! ```

use longhand_gpu::{Arch, Device, DevicePtr, Stream, params};

use crate::check::Check;
use crate::extent::Extent;
use crate::held::{Holding, MAX_ROWS, REDUCTIONS, Row, Slicing};
use crate::source::{cuda_files, program};
use crate::{Dtype, Random, Result, Variant};

const CHECK: Check = Check("sample");
const THREADS: u32 = 1024;
/// Bytes of shared memory for sums by digit: DIGITS of 64 bits.
const SUMS: u32 = 2048 * 8;
/// Tokens of a long row that a block gathers in shared memory, where it has the row for itself.
const MAX_GATHERED: u32 = 2048;

/// The token of a row that none can be drawn from: one that holds NaN or +inf, or nothing above -inf.
pub const NONE: u32 = u32::MAX;

params! {
    struct Params {
        logits: DevicePtr,
        tokens: DevicePtr,
        stride: i64,
        philox_key: u64,
        top_p: u64,
        vocabulary: i32,
        top_k: i32,
        held: i32,
        inverse_temperature: f32,
    }
}

/// How a token is chosen: the highest logit, or a draw from the softmax of `logits / temperature`, cut to the `top_k` most
/// likely tokens, and then to the fewest whose probabilities add up to `top_p`. Of equal logits the smaller token counts
/// as the more likely.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SampleOptions {
    /// Divides the logits; 0 takes the highest and draws nothing.
    pub temperature: f32,
    /// Keeps only this many tokens.
    pub top_k: Option<usize>,
    /// Keeps only the most likely tokens that make up this share (Holtzman et al. 2020, arXiv 1904.09751, section 3.1); 1
    /// keeps all.
    pub top_p: f64,
}

impl SampleOptions {
    /// The highest logit, always.
    pub const GREEDY: SampleOptions = SampleOptions { temperature: 0.0, top_k: None, top_p: 1.0 };

    /// The first field that makes no sense: its name, what it was, and what it has to be.
    #[must_use]
    pub fn fault(&self) -> Option<(&'static str, String, &'static str)> {
        let SampleOptions { temperature, top_k, top_p } = *self;
        if temperature != 0.0 && !(1e-30..=1e30).contains(&temperature) {
            return Some(("temperature", temperature.to_string(), "0, or 1e-30 to 1e30"));
        }
        if top_k == Some(0) {
            return Some(("top_k", "0".to_owned(), "at least 1"));
        }
        if !(top_p > 0.0 && top_p <= 1.0) {
            return Some(("top_p", top_p.to_string(), "above 0 and at most 1"));
        }
        None
    }

    /// How many tokens of this many are kept at most.
    #[must_use]
    pub fn kept(&self, vocabulary: usize) -> usize {
        if self.temperature == 0.0 { 1 } else { self.top_k.unwrap_or(vocabulary).min(vocabulary) }
    }

    /// One over the temperature.
    #[must_use]
    pub fn inverse_temperature(&self) -> f32 {
        if self.temperature == 0.0 { 1.0 } else { 1.0 / self.temperature }
    }

    /// `top_p` in 2^-64; all ones keep everything.
    #[must_use]
    pub fn top_p_bits(&self) -> u64 {
        (self.top_p * 18_446_744_073_709_551_616.0) as u64
    }
}

/// `floor(2^32 exp((logit - maximum) / temperature))`, with `exp` in f32 as the kernel computes it: bit for bit, on every
/// device. The maximum's own weight is 2^32; what is less than 2^-33 as likely has none.
#[must_use]
pub fn weight(logit: f32, maximum: f32, inverse_temperature: f32) -> u64 {
    const ROUND: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer, which is left in the low bits
    let x = (logit - maximum) * inverse_temperature;
    if x < -23.0 {
        return 0;
    }
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * 0.693_359_4 - n * -2.121_944_4e-4;
    let mut e = 1.987_569_1e-4;
    for coefficient in [1.398_2e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 0.5] {
        e = e * r + coefficient;
    }
    let e = e * (r * r) + r + 1.0;
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32;
    (e * f32::from_bits(((exponent + 159) as u32) << 23)) as u64
}

/// The 64 random bits of this row: the first two words at counter (row, 0).
#[must_use]
pub fn bits(random: Random, row: usize) -> u64 {
    let [low, high, ..] = random.words([row as u32, 0, 0, 0]);
    u64::from(high) << 32 | u64::from(low)
}

/// One token for each row of logits, as [`SampleOptions`] says, drawn with Philox by row. It is found without sorting,
/// by integers alone, so the same logits and [`Random`] give the same token on every device.
///
/// As much of a row as fits stays in shared memory; the rest is read up to six times (eight of f32), but of a long row three
/// times as soon as 11 bits of the logits leave no more than 2048 tokens, as a `top_k` below a few hundred does. From sm_90
/// on a cluster of 8 blocks holds a long row together: at least 320,000 logits of 16 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sample {
    dtype: Dtype,
    vocabulary: usize,
}

impl Sample {
    /// From rows of `vocabulary` (`V`, 1 to 2³⁰) logits of `dtype`.
    #[must_use]
    pub fn new(dtype: Dtype, vocabulary: usize) -> Sample {
        Sample { dtype, vocabulary }
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for a vocabulary that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<SamplePlan> {
        CHECK.size("vocabulary", self.vocabulary, 1, 1 << 30)?;
        let slicing = self.slicing(device.arch());
        let reserved = REDUCTIONS + SUMS + gathered_bytes(slicing);
        let rows = Holding::new(device, &self.variant(slicing, 0), slicing, self.row(), reserved)?;
        Ok(SamplePlan { kind: *self, rows })
    }

    fn row(self) -> Row {
        Row { dtype: self.dtype, width: self.vocabulary, tensors: 1 }
    }

    fn slicing(self, arch: Arch) -> Slicing {
        if self.row().is_long() { Slicing::of_long_rows(arch, THREADS) } else { Slicing::none(THREADS) }
    }

    fn variant(self, slicing: Slicing, shared_bytes: u32) -> Variant {
        let [file] = cuda_files!["sampling/sample.cu"];
        let constants = slicing.constants(self.dtype).int("MAX_GATHERED", MAX_GATHERED);
        let program = program(*file, &[], constants).params(Params::LAYOUT);
        Variant { program, entry: "sample", threads: THREADS, shared_bytes }
    }
}

/// Bytes of shared memory for the logits and the numbers of tokens that are gathered.
fn gathered_bytes(slicing: Slicing) -> u32 {
    if slicing.slices > slicing.cluster { 8 * MAX_GATHERED } else { 0 }
}

/// Each type in short rows; one in long rows.
pub(crate) fn variants(arch: Arch) -> Vec<Variant> {
    [(Dtype::F32, 16_384), (Dtype::Bf16, 16_384), (Dtype::F16, 16_384), (Dtype::F32, 128_256)]
        .map(|(dtype, vocabulary)| {
            let kind = Sample::new(dtype, vocabulary);
            let slicing = kind.slicing(arch);
            kind.variant(slicing, slicing.held(kind.row(), (80 << 10) - gathered_bytes(slicing)).0)
        })
        .into()
}

/// What [`SamplePlan::launch`] chooses from.
#[derive(Clone, Copy, Debug)]
pub struct SampleArgs {
    /// `N`, below 2²⁸.
    pub rows: usize,
    /// `(N, V)`, rows `stride` elements apart.
    pub logits: DevicePtr,
    /// Elements from one row to the next.
    pub stride: i64,
    /// How.
    pub options: SampleOptions,
    /// What is drawn with.
    pub random: Random,
    /// `(N)` u32, overwritten: the tokens, [`NONE`] where there is none.
    pub tokens: DevicePtr,
}

/// A compiled [`Sample`].
#[derive(Clone, Debug)]
pub struct SamplePlan {
    kind: Sample,
    rows: Holding,
}

impl SamplePlan {
    /// Enqueues on `stream`: no allocation, no synchronisation. Launches nothing where there are no rows.
    ///
    /// # Safety
    ///
    /// Both tensors lie, with these sizes and strides, in memory of the stream's device that stays allocated until the
    /// stream has come to this point; they do not overlap.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for options that make no sense, for sizes, strides or addresses that
    /// the kernel cannot take; [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &SampleArgs) -> Result<()> {
        let SampleArgs { rows, logits, stride, options, random, tokens } = *args;
        let vocabulary = self.kind.vocabulary;
        check(self.kind, args)?;
        if rows == 0 {
            return Ok(());
        }
        let top_k = options.kept(vocabulary);
        let again = top_k > 1; // The highest logit is found in one pass.
        let params = Params {
            logits,
            tokens,
            stride,
            philox_key: random.key(),
            top_p: options.top_p_bits(),
            vocabulary: vocabulary as i32,
            top_k: top_k as i32,
            held: self.rows.held(again),
            inverse_temperature: options.inverse_temperature(),
        };
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { self.rows.launch(stream, rows, again, &params) }
    }
}

fn check(kind: Sample, args: &SampleArgs) -> Result<()> {
    let SampleArgs { rows, logits, stride, options, tokens, .. } = *args;
    if let Some((field, was, expected)) = options.fault() {
        return Err(CHECK.error(field, was, expected));
    }
    CHECK.size("rows", rows, 0, MAX_ROWS)?;
    if rows == 0 {
        return Ok(());
    }
    CHECK.tensor("logits", logits, kind.dtype)?;
    CHECK.stride("stride", stride, rows)?;
    CHECK.memory("tokens", tokens, 4)?;
    CHECK.apart(&[
        Extent::rows("logits", logits, [rows, kind.vocabulary], stride, kind.dtype.size()),
        Extent::contiguous("tokens", tokens, rows, 4).written(),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::{assert_apart, pointers};

    #[test]
    fn tokens_are_apart_from_the_logits() {
        let [logits, tokens] = [1, 2].map(|i| DevicePtr(i << 20));
        let (options, random) = (SampleOptions::GREEDY, Random::default());
        let args = SampleArgs { rows: 9, logits, stride: 10, options, random, tokens };
        let kind = Sample::new(Dtype::Bf16, 10);
        assert_apart(args, |args| check(kind, args), 1, pointers![tokens, logits], &[]);
    }

    #[test]
    fn options_that_make_no_sense_and_addresses_are_named() {
        let plain = SampleOptions { temperature: 1.0, ..SampleOptions::GREEDY };
        let at = DevicePtr(4096);
        let args = SampleArgs {
            rows: 2,
            logits: at,
            stride: 10,
            options: plain,
            random: Random::default(),
            tokens: DevicePtr(8192),
        };
        let message = |args: SampleArgs| {
            check(Sample::new(Dtype::F32, 10), &args)
                .map_or_else(|error| error.to_string(), |()| "fine".into())
        };
        let with = |options| message(SampleArgs { options, ..args });
        assert_eq!(message(args), "fine");
        let expected = "sample: temperature is -1, it has to be 0, or 1e-30 to 1e30";
        assert_eq!(with(SampleOptions { temperature: -1.0, ..plain }), expected);
        assert!(with(SampleOptions { temperature: f32::NAN, ..plain }).contains("temperature is NaN"));
        assert_eq!(
            with(SampleOptions { top_k: Some(0), ..plain }),
            "sample: top_k is 0, it has to be at least 1"
        );
        assert_eq!(
            with(SampleOptions { top_p: 1.5, ..plain }),
            "sample: top_p is 1.5, it has to be above 0 and at most 1"
        );
        assert!(message(SampleArgs { logits: DevicePtr(2), ..args }).contains("logits is DevicePtr(0x2)"));
    }

    #[test]
    fn weights_are_exp_to_seven_digits() {
        assert_eq!(weight(3.0, 3.0, 0.7), 1 << 32);
        for i in 0..22_000 {
            let x = -1e-3 * i as f32;
            let exact = f64::from(x).exp() * 4_294_967_296.0;
            let found = weight(x, 0.0, 1.0) as f64;
            assert!((found - exact).abs() <= 2.5e-7 * exact + 1.0, "{x}: {found}, not {exact}");
        }
        assert_eq!([weight(-24.0, 0.0, 1.0), weight(f32::NEG_INFINITY, 0.0, 1.0)], [0; 2]);
    }
}

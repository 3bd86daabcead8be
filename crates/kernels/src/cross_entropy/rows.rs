//! `kernels/cross_entropy/rows.cu`.

use longhand_gpu::{Arch, Constants, Device, DevicePtr, Launch, Stream, params};

use crate::check::{Check, MAX_BLOCKS};
use crate::held::{Holding, REDUCTIONS, held};
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("cross-entropy");
const ENTRY: &str = "cross_entropy_rows";
/// Of a row that has more than [`SHORT_BYTES`].
const SLICES: usize = 8;
/// The longest row that a block holds, beside another block's, where there is the most shared memory.
const SHORT_BYTES: usize = 112 << 10;

params! {
    struct Params {
        logits: DevicePtr,
        targets: DevicePtr,
        loss: DevicePtr,
        lse: DevicePtr,
        dlogits: DevicePtr,
        dmean: DevicePtr,
        share: DevicePtr,
        stride: i64,
        dlogits_stride: i64,
        vocabulary: i32,
        held: i32,
        scale: f32,
        smoothing: f32,
        z_loss: f32,
        softcap: f32,
    }
}

/// What the loss of a row is, beside the plain cross-entropy that it is by default.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct LossOptions {
    /// Label smoothing, in `0.0..=1.0` (Szegedy et al. 2016, arXiv 1512.00567, section 7): the share of the target that
    /// is spread evenly over the vocabulary. 0 for none.
    pub label_smoothing: f32,
    /// Weight of the z-loss `lse²` (Chowdhery et al. 2022, arXiv 2204.02311, section 5), which keeps the logits near
    /// what softmax does not change: 1e-4 there. 0 for none.
    pub z_loss: f32,
    /// The logits are first softly cut to `softcap * tanh(logits / softcap)` (Gemma 2, arXiv 2408.00118, section 2).
    pub softcap: Option<f32>,
}

impl LossOptions {
    /// The first field that makes no sense: its name, and what it has to be.
    #[must_use]
    pub fn fault(&self) -> Option<(&'static str, String, &'static str)> {
        let LossOptions { label_smoothing, z_loss, softcap } = *self;
        if !(0.0..=1.0).contains(&label_smoothing) {
            return Some(("label_smoothing", label_smoothing.to_string(), "0 to 1"));
        }
        if !(z_loss >= 0.0 && z_loss.is_finite()) {
            return Some(("z_loss", z_loss.to_string(), "a finite number, 0 or above"));
        }
        match softcap {
            Some(softcap) if !(softcap > 0.0 && softcap.is_finite()) => {
                Some(("softcap", softcap.to_string(), "a finite number above 0"))
            }
            _ => None,
        }
    }
}

/// Logits and their targets. Rows may have any alignment.
#[derive(Clone, Copy, Debug)]
pub struct Logits {
    /// `N`, below 2²⁸.
    pub rows: usize,
    /// `V`, at most 2³¹ - 1.
    pub vocabulary: usize,
    /// `(N, V)`, rows `stride` elements apart.
    pub data: DevicePtr,
    /// Elements from one row of the logits to the next.
    pub stride: i64,
    /// `(N)` u32: below `V`, or [`IGNORE`](super::IGNORE). Any other gives NaN: loss, log-sum-exp and gradient of its row.
    pub targets: DevicePtr,
}

/// Cross-entropy of softmax in nats (Bishop 2006, eq. 4.108) of each row, with the terms of [`LossOptions`], and its
/// gradient, in one pass over the logits: `loss = log(sum(exp(logits))) - logits[target]`. Statistics are f32.
///
/// As much of a row as fits stays in shared memory between its statistics and its gradient; the rest is read twice. From
/// sm_90 on a cluster of 8 blocks holds a long row together: at least 400,000 logits of 16 bits.
///
/// Deterministic: the same inputs give the same bits, on every GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CrossEntropy {
    dtype: Dtype,
    gradient: bool,
    softcap: bool,
}

impl CrossEntropy {
    /// The loss alone, of logits of `dtype`, which are not capped.
    #[must_use]
    pub fn new(dtype: Dtype) -> CrossEntropy {
        CrossEntropy { dtype, gradient: false, softcap: false }
    }

    /// Whether to compute the gradient as well.
    #[must_use]
    pub fn gradient(self, gradient: bool) -> CrossEntropy {
        CrossEntropy { gradient, ..self }
    }

    /// Whether the logits are softly capped first.
    #[must_use]
    pub fn softcap(self, softcap: bool) -> CrossEntropy {
        CrossEntropy { softcap, ..self }
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<CrossEntropyPlan> {
        let load = |slicing: Slicing| -> Result<(Slicing, Holding)> {
            let variant = self.variant(slicing, 0);
            Ok((slicing, Holding::new(device, &variant, self.gradient.then_some(REDUCTIONS))?))
        };
        let long = self.gradient.then(|| load(Slicing::of_long_rows(device.arch()))).transpose()?;
        Ok(CrossEntropyPlan { kind: *self, short: load(Slicing::NONE)?, long })
    }

    fn variant(self, slicing: Slicing, shared_bytes: u32) -> Variant {
        let [file] = cuda_files!["cross_entropy/rows.cu"];
        let constants = Constants::new()
            .alias("Element", self.dtype.cuda_name())
            .int("THREADS", slicing.threads)
            .int("SLICES", slicing.slices as i64)
            .int("CLUSTER", slicing.cluster as i64)
            .bool("GRADIENT", self.gradient)
            .bool("SOFTCAP", self.softcap);
        Variant {
            program: program(*file, &[], constants).params(Params::LAYOUT),
            entry: ENTRY,
            threads: slicing.threads,
            shared_bytes,
        }
    }
}

/// How many slices a row has, and how many blocks of so many threads take them.
#[derive(Clone, Copy, Debug)]
struct Slicing {
    threads: u32,
    slices: usize,
    cluster: usize,
}

impl Slicing {
    const NONE: Slicing = Slicing { threads: 1024, slices: 1, cluster: 1 };

    /// The slices are the same on every architecture, and so is the order of the sums.
    fn of_long_rows(arch: Arch) -> Slicing {
        Slicing { threads: 512, slices: SLICES, cluster: if arch.number() >= 90 { SLICES } else { 1 } }
    }

    /// Columns of a block, at most: as the kernel cuts them.
    fn columns(self, vocabulary: usize, dtype: Dtype) -> usize {
        let wide = 16 / dtype.size();
        if self.cluster == 1 { vocabulary } else { (vocabulary / self.slices / wide + 1) * wide }
    }
}

/// What [`CrossEntropyPlan::launch`] computes with.
#[derive(Clone, Copy, Debug)]
pub struct CrossEntropyArgs {
    /// Logits and targets.
    pub logits: Logits,
    /// What the loss is.
    pub options: LossOptions,
    /// `(N)` f32, overwritten: the loss of each row, 0 for one that is ignored; [`DevicePtr::NULL`] where it is not
    /// wanted.
    pub loss: DevicePtr,
    /// `(N)` f32, overwritten: `log(sum(exp(logits)))`, 0 for a row that is ignored; [`DevicePtr::NULL`] where it is not
    /// wanted.
    pub lse: DevicePtr,
    /// Of a plan with gradient.
    pub gradient: Option<Gradient>,
}

/// The gradient of the logits: that of each row's loss times `scale * dmean * share`.
#[derive(Clone, Copy, Debug)]
pub struct Gradient {
    /// A factor.
    pub scale: f32,
    /// One f32, a factor: the gradient of the mean; [`DevicePtr::NULL`] for 1.
    pub dmean: DevicePtr,
    /// One f32, a factor: the share of a row in the mean, of [`MeanLoss`](super::MeanLoss); [`DevicePtr::NULL`] for 1.
    pub share: DevicePtr,
    /// `(N, V)`, rows `stride` elements apart, overwritten: 0 in the rows that are ignored. It may be the logits
    /// themselves.
    pub dlogits: DevicePtr,
    /// Elements from one row of the gradient to the next.
    pub stride: i64,
}

impl Gradient {
    /// What the parameters hold where no gradient is computed.
    const NONE: Gradient = Gradient {
        scale: 0.0,
        dmean: DevicePtr::NULL,
        share: DevicePtr::NULL,
        dlogits: DevicePtr::NULL,
        stride: 0,
    };
}

/// A compiled [`CrossEntropy`].
#[derive(Clone, Debug)]
pub struct CrossEntropyPlan {
    kind: CrossEntropy,
    short: (Slicing, Holding),
    /// Where something is read twice: with a gradient.
    long: Option<(Slicing, Holding)>,
}

impl CrossEntropyPlan {
    /// Enqueues on `stream`: no allocation, no synchronisation. Launches nothing where there are no rows.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes and strides, in memory of the stream's device that stays allocated until the
    /// stream has come to this point; no output overlaps another tensor, but for what is said of `dlogits`.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for options that make no sense or that the plan is not for, for sizes,
    /// strides or addresses that the kernel cannot take; [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &CrossEntropyArgs) -> Result<()> {
        let CrossEntropyArgs { logits, options, loss, lse, gradient } = *args;
        check(self.kind, args)?;
        if logits.rows == 0 {
            return Ok(());
        }
        let is_short = logits.vocabulary * self.kind.dtype.size() <= SHORT_BYTES;
        let (slicing, holding) = self.long.as_ref().filter(|_| !is_short).unwrap_or(&self.short);
        let columns = slicing.columns(logits.vocabulary, self.kind.dtype);
        let (shared_bytes, held) = holding.held(self.kind.dtype, columns, 1);
        let gradient = gradient.unwrap_or(Gradient::NONE);
        let params = Params {
            logits: logits.data,
            targets: logits.targets,
            loss,
            lse,
            dlogits: gradient.dlogits,
            dmean: gradient.dmean,
            share: gradient.share,
            stride: logits.stride,
            dlogits_stride: gradient.stride,
            vocabulary: logits.vocabulary as i32,
            held,
            scale: gradient.scale,
            smoothing: options.label_smoothing,
            z_loss: options.z_loss,
            softcap: options.softcap.unwrap_or(0.0),
        };
        let blocks = (logits.rows * slicing.cluster) as u32;
        let shape = Launch { grid: [blocks, 1, 1], block: [slicing.threads, 1, 1], shared_bytes };
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        Ok(unsafe { holding.kernel.launch(stream, shape, &params) }?)
    }
}

fn check(kind: CrossEntropy, args: &CrossEntropyArgs) -> Result<()> {
    let CrossEntropyArgs { logits, options, loss, lse, gradient } = *args;
    if let Some((field, was, expected)) = options.fault() {
        return Err(CHECK.error(field, was, expected));
    }
    let planned = |planned: bool| if planned { "given, as planned" } else { "none, as planned" };
    let given = |given: bool| if given { "given" } else { "none" };
    if options.softcap.is_some() != kind.softcap {
        return Err(CHECK.error("softcap", given(options.softcap.is_some()), planned(kind.softcap)));
    }
    if gradient.is_some() != kind.gradient {
        return Err(CHECK.error("gradient", given(gradient.is_some()), planned(kind.gradient)));
    }
    CHECK.size("rows", logits.rows, 0, MAX_BLOCKS / SLICES)?;
    CHECK.size("vocabulary", logits.vocabulary, 1, MAX_BLOCKS)?;
    if logits.rows == 0 {
        return Ok(());
    }
    CHECK.tensor("logits", logits.data, kind.dtype)?;
    CHECK.memory("targets", logits.targets, 4)?;
    CHECK.stride("stride", logits.stride, logits.rows)?;
    CHECK.optional("loss", loss, Dtype::F32)?;
    CHECK.optional("lse", lse, Dtype::F32)?;
    gradient.map_or(Ok(()), |gradient| check_gradient(kind, &logits, &gradient))
}

fn check_gradient(kind: CrossEntropy, logits: &Logits, gradient: &Gradient) -> Result<()> {
    CHECK.optional("dmean", gradient.dmean, Dtype::F32)?;
    CHECK.optional("share", gradient.share, Dtype::F32)?;
    CHECK.tensor("dlogits", gradient.dlogits, kind.dtype)?;
    if gradient.dlogits == logits.data && gradient.stride != logits.stride {
        let expected = format!("{}, the logits' own, in their place", logits.stride);
        return Err(CHECK.error("stride of dlogits", gradient.stride, expected));
    }
    CHECK.written_stride("stride of dlogits", gradient.stride, logits.rows, logits.vocabulary)
}

pub(super) fn variants(arch: Arch) -> Vec<Variant> {
    let gradient = |dtype| CrossEntropy::new(dtype).gradient(true);
    let with = |kind: CrossEntropy, slicing: Slicing, vocabulary| {
        kind.variant(slicing, held(kind.dtype, slicing.columns(vocabulary, kind.dtype), 1, 90 << 10).0)
    };
    let short = |kind| with(kind, Slicing::NONE, 32_000);
    let long = |kind| with(kind, Slicing::of_long_rows(arch), 128_256);
    let mut all = vec![CrossEntropy::new(Dtype::Bf16).variant(Slicing::NONE, 0)];
    all.extend([Dtype::F32, Dtype::Bf16, Dtype::F16].map(gradient).map(short));
    all.extend([Dtype::F32, Dtype::Bf16].map(|dtype| short(gradient(dtype).softcap(true))));
    all.extend([Dtype::F32, Dtype::Bf16].map(gradient).map(long));
    all.push(long(gradient(Dtype::Bf16).softcap(true)));
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: DevicePtr = DevicePtr(4096);

    fn args() -> CrossEntropyArgs {
        let logits = Logits { rows: 2, vocabulary: 10, data: DevicePtr(64), stride: 10, targets: AT };
        let gradient = Gradient { scale: 1.0, dmean: AT, share: AT, dlogits: AT, stride: 10 };
        CrossEntropyArgs {
            logits,
            options: LossOptions::default(),
            loss: AT,
            lse: DevicePtr::NULL,
            gradient: Some(gradient),
        }
    }

    fn message(args: CrossEntropyArgs) -> String {
        let kind = CrossEntropy::new(Dtype::Bf16).gradient(true);
        check(kind, &args).map_or_else(|error| error.to_string(), |()| "fine".into())
    }

    fn with_gradient(change: impl Fn(&mut Gradient)) -> String {
        let mut args = args();
        args.gradient.iter_mut().for_each(change);
        message(args)
    }

    fn with_options(options: LossOptions) -> String {
        message(CrossEntropyArgs { options, ..args() })
    }

    #[test]
    fn gradients_whose_rows_would_overlap_are_refused() {
        assert_eq!(message(args()), "fine");
        assert_eq!(
            with_gradient(|gradient| gradient.stride = 9),
            "cross-entropy: stride of dlogits is 9, it has to be at least 10: rows would overlap"
        );
        assert_eq!(
            with_gradient(|gradient| (gradient.dlogits, gradient.stride) = (DevicePtr(64), 16)),
            "cross-entropy: stride of dlogits is 16, it has to be 10, the logits' own, in their place"
        );
    }

    #[test]
    fn what_the_plan_is_not_for_is_refused() {
        assert_eq!(
            message(CrossEntropyArgs { gradient: None, ..args() }),
            "cross-entropy: gradient is none, it has to be given, as planned"
        );
        assert_eq!(
            with_options(LossOptions { softcap: Some(30.0), ..LossOptions::default() }),
            "cross-entropy: softcap is given, it has to be none, as planned"
        );
    }

    #[test]
    fn options_that_make_no_sense_are_named() {
        let plain = LossOptions::default();
        assert_eq!(
            with_options(LossOptions { label_smoothing: 1.5, ..plain }),
            "cross-entropy: label_smoothing is 1.5, it has to be 0 to 1"
        );
        assert_eq!(
            with_options(LossOptions { z_loss: f32::NAN, ..plain }),
            "cross-entropy: z_loss is NaN, it has to be a finite number, 0 or above"
        );
        assert_eq!(
            with_options(LossOptions { softcap: Some(0.0), ..plain }),
            "cross-entropy: softcap is 0, it has to be a finite number above 0"
        );
    }

    #[test]
    fn sizes_and_addresses_are_checked() {
        let logits = args().logits;
        let with = |logits| message(CrossEntropyArgs { logits, ..args() });
        assert_eq!(
            with(Logits { vocabulary: 0, ..logits }),
            "cross-entropy: vocabulary is 0, it has to be 1 to 2147483647"
        );
        assert!(with(Logits { data: DevicePtr(65), ..logits }).contains("logits is DevicePtr(0x41)"));
        assert!(with(Logits { targets: DevicePtr::NULL, ..logits }).contains("targets is"));
        assert_eq!(with(Logits { rows: 0, data: DevicePtr::NULL, ..logits }), "fine");
    }
}

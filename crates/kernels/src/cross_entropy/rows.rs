//! `kernels/cross_entropy/rows.cu`.

use longhand_gpu::{Arch, Device, DevicePtr, Stream, params};

use crate::check::{Check, MAX_BLOCKS};
use crate::extent::Extent;
use crate::held::{Holding, MAX_ROWS, REDUCTIONS, Row, Slicing};
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("cross-entropy");
const ENTRY: &str = "cross_entropy_rows";
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
    vocabulary: usize,
    gradient: bool,
    softcap: bool,
}

impl CrossEntropy {
    /// The loss alone, of rows of `vocabulary` (`V`, 1 to 2³¹ - 1) logits of `dtype`, which are not capped.
    #[must_use]
    pub fn new(dtype: Dtype, vocabulary: usize) -> CrossEntropy {
        CrossEntropy { dtype, vocabulary, gradient: false, softcap: false }
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
    /// [`Error::Argument`](crate::Error::Argument) for a vocabulary that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<CrossEntropyPlan> {
        CHECK.size("vocabulary", self.vocabulary, 1, MAX_BLOCKS)?;
        let slicing = self.slicing(device.arch());
        let rows = Holding::new(device, &self.variant(slicing, 0), slicing, self.row(), REDUCTIONS)?;
        Ok(CrossEntropyPlan { kind: *self, rows })
    }

    /// Only with a gradient is there a second pass.
    fn row(self) -> Row {
        Row { dtype: self.dtype, width: self.vocabulary, tensors: usize::from(self.gradient) }
    }

    fn slicing(self, arch: Arch) -> Slicing {
        if self.row().is_long() { Slicing::of_long_rows(arch, 512) } else { Slicing::none(1024) }
    }

    fn variant(self, slicing: Slicing, shared_bytes: u32) -> Variant {
        let [file] = cuda_files!["cross_entropy/rows.cu"];
        let constants =
            slicing.constants(self.dtype).bool("GRADIENT", self.gradient).bool("SOFTCAP", self.softcap);
        let program = program(*file, &[], constants).params(Params::LAYOUT);
        Variant { program, entry: ENTRY, threads: slicing.threads, shared_bytes }
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
    rows: Holding,
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
        let again = gradient.is_some();
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
            vocabulary: self.kind.vocabulary as i32,
            held: self.rows.held(again),
            scale: gradient.scale,
            smoothing: options.label_smoothing,
            z_loss: options.z_loss,
            softcap: options.softcap.unwrap_or(0.0),
        };
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { self.rows.launch(stream, logits.rows, again, &params) }
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
    CHECK.size("rows", logits.rows, 0, MAX_ROWS)?;
    if logits.rows == 0 {
        return Ok(());
    }
    CHECK.tensor("logits", logits.data, kind.dtype)?;
    CHECK.memory("targets", logits.targets, 4)?;
    CHECK.stride("stride", logits.stride, logits.rows)?;
    CHECK.optional("loss", loss, Dtype::F32)?;
    CHECK.optional("lse", lse, Dtype::F32)?;
    if let Some(gradient) = gradient {
        CHECK.optional("dmean", gradient.dmean, Dtype::F32)?;
        CHECK.optional("share", gradient.share, Dtype::F32)?;
        CHECK.tensor("dlogits", gradient.dlogits, kind.dtype)?;
        CHECK.written_stride("stride of dlogits", gradient.stride, logits.rows, kind.vocabulary)?;
    }
    let Gradient { dmean, share, dlogits, stride, .. } = gradient.unwrap_or(Gradient::NONE);
    let shape = [logits.rows, kind.vocabulary];
    let numbers = |name, data, count| Extent::contiguous(name, data, count, 4);
    CHECK.apart(&[
        Extent::rows("logits", logits.data, shape, logits.stride, kind.dtype.size()),
        numbers("targets", logits.targets, logits.rows),
        numbers("dmean", dmean, 1),
        numbers("share", share, 1),
        numbers("loss", loss, logits.rows).written(),
        numbers("lse", lse, logits.rows).written(),
        Extent::rows("dlogits", dlogits, shape, stride, kind.dtype.size()).written().may_be(&["logits"]),
    ])
}

pub(super) fn variants(arch: Arch) -> Vec<Variant> {
    let [short, long] =
        [32_000, 128_256].map(|vocabulary| move |dtype| CrossEntropy::new(dtype, vocabulary).gradient(true));
    let mut all = vec![short(Dtype::Bf16).gradient(false)];
    all.extend([Dtype::F32, Dtype::Bf16, Dtype::F16].map(short));
    all.extend([Dtype::F32, Dtype::Bf16].map(|dtype| short(dtype).softcap(true)));
    all.extend([Dtype::F32, Dtype::Bf16].map(long));
    all.push(long(Dtype::Bf16).softcap(true));
    let variant = |kind: CrossEntropy| {
        let slicing = kind.slicing(arch);
        kind.variant(slicing, slicing.held(kind.row(), 90 << 10).0)
    };
    all.into_iter().map(variant).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::assert_apart;

    fn args() -> CrossEntropyArgs {
        let [data, targets, dmean, share, loss, lse, dlogits] =
            [1, 2, 3, 4, 5, 6, 7].map(|i| DevicePtr(i << 20));
        let logits = Logits { rows: 9, data, stride: 10, targets };
        let gradient = Some(Gradient { scale: 1.0, dmean, share, dlogits, stride: 10 });
        CrossEntropyArgs { logits, options: LossOptions::default(), loss, lse, gradient }
    }

    fn gradient(args: &mut CrossEntropyArgs) -> &mut Gradient {
        args.gradient.as_mut().expect("given")
    }

    #[test]
    fn what_is_written_is_apart_from_all_else_but_for_the_logits() {
        let kind = CrossEntropy::new(Dtype::Bf16, 10).gradient(true);
        assert_apart(
            args(),
            |args| check(kind, args),
            3,
            &[
                ("dlogits", |args| &mut gradient(args).dlogits),
                ("loss", |args| &mut args.loss),
                ("lse", |args| &mut args.lse),
                ("logits", |args| &mut args.logits.data),
                ("targets", |args| &mut args.logits.targets),
                ("dmean", |args| &mut gradient(args).dmean),
                ("share", |args| &mut gradient(args).share),
            ],
            &[["dlogits", "logits"]],
        );
    }

    fn message(args: CrossEntropyArgs) -> String {
        let kind = CrossEntropy::new(Dtype::Bf16, 10).gradient(true);
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
            with_gradient(|gradient| (gradient.dlogits, gradient.stride) = (DevicePtr(1 << 20), 16)),
            "cross-entropy: dlogits is at 0x100000..0x100114, it has to be apart from logits at 0x100000..0x1000b4, or in its very place"
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
        assert!(with(Logits { data: DevicePtr(65), ..logits }).contains("logits is DevicePtr(0x41)"));
        assert!(with(Logits { targets: DevicePtr::NULL, ..logits }).contains("targets is"));
        assert_eq!(with(Logits { rows: 0, data: DevicePtr::NULL, ..logits }), "fine");
    }
}

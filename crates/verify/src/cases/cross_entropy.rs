//! Cross-entropy of softmax and its mean, then the same with its gradient.

use crate::tolerance::Rule::{Forward, Gradient};
use crate::{Canonical, Case, Draw, Error, Layout, Precision, Trial, View, plain};
use longhand_gpu::DevicePtr;
use longhand_kernels::cross_entropy::{
    CrossEntropy as Kernel, CrossEntropyArgs, Gradient as KernelGradient, IGNORE, Logits, LossOptions,
    MeanLoss,
};
use longhand_reference::{self as reference, CrossEntropyOptions};
use std::fmt;

/// One loss, without its gradient and with it.
#[derive(Clone, Debug)]
pub struct CrossEntropy {
    /// Of the logits and their gradient.
    pub precision: Precision,
    /// Logits of a row.
    pub vocabulary: usize,
    /// One for each row: below the vocabulary, or [`IGNORE`].
    pub targets: Vec<u32>,
    /// Elements between the rows.
    pub gap: usize,
    /// Where the gradient goes.
    pub place: Place,
    /// What the loss is made of.
    pub options: LossOptions,
    /// The gradient of the mean.
    pub dmean: f32,
    /// Of the logits.
    pub seed: u64,
}

/// Where the gradient of the logits goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Over the logits.
    Logits,
    /// To a tensor with their strides.
    Alike,
    /// To one whose rows have another alignment.
    Apart,
}

/// What is absolutely allowed of a loss: it is a difference, and may be far less than what it is the difference of.
const CANCELLATION: f64 = 1e-5;

impl Case for CrossEntropy {
    fn operation(&self) -> &'static str {
        "cross-entropy"
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        let CrossEntropy { precision, vocabulary, ref targets, options, .. } = *self;
        let shape = [targets.len(), vocabulary];
        let stride = vocabulary + self.gap;
        let layout = Layout::strided(&shape, &[stride as i64, 1]);
        let values = Draw::new(precision, self.seed).vec(targets.len() * vocabulary);
        let name = if self.place == Place::Logits { "dlogits" } else { "logits" };
        let device_logits = trial.input(name, precision, &layout, &values)?;
        let device_targets = trial.integers(targets)?;
        let logits = Logits {
            rows: targets.len(),
            data: device_logits.ptr(),
            stride: stride as i64,
            targets: device_targets.ptr(),
        };
        let expected = Expected::of(self, &values);

        let [per_row, number] = [&[targets.len()][..], &[]].map(Layout::contiguous);
        let loss = trial.output("loss", Precision::F32, &per_row)?;
        let lse = trial.output("lse", Precision::F32, &per_row)?;
        let mean = trial.output("mean", Precision::F32, &number)?;
        let share = trial.output("share", Precision::F32, &number)?;
        let device = trial.stream().device().clone();
        let of_rows = Kernel::new(precision.dtype(), vocabulary).softcap(options.softcap.is_some());
        let (rows_plan, mean_plan) = (of_rows.plan(&device)?, MeanLoss::new().plan(&device)?);
        let [loss_ptr, lse_ptr, mean_ptr, share_ptr] = [&loss, &lse, &mean, &share].map(View::ptr);
        let args = CrossEntropyArgs { logits, options, loss: loss_ptr, lse: lse_ptr, gradient: None };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the downloads.
        trial.launch(|stream| unsafe {
            mean_plan.share(stream, targets.len(), device_targets.ptr(), share_ptr)?;
            rows_plan.launch(stream, &args)?;
            mean_plan.mean(stream, targets.len(), loss_ptr, share_ptr, mean_ptr)
        })?;
        trial.judge_with(Forward, &loss, &expected.plain.loss, &expected.exact.loss, CANCELLATION)?;
        trial.judge_with(Forward, &lse, &expected.plain.lse, &expected.exact.lse, CANCELLATION)?;
        trial.judge_with(Forward, &mean, &[expected.plain.mean], &[expected.exact.mean], CANCELLATION)?;

        let other = Layout::strided(&shape, &[(stride + usize::from(self.place == Place::Apart)) as i64, 1]);
        let dlogits = trial.output("dlogits", precision, &other)?;
        let dlogits = if self.place == Place::Logits { &device_logits } else { &dlogits };
        let loss = trial.output("loss beside its gradient", Precision::F32, &per_row)?;
        let dmean = trial.vector("dmean", Precision::F32, &[self.dmean.into()])?;
        let plan = of_rows.gradient(true).plan(&device)?;
        let gradient = KernelGradient {
            scale: SCALE,
            dmean: dmean.ptr(),
            share: share_ptr,
            dlogits: dlogits.ptr(),
            stride: dlogits.strides()[0],
        };
        let loss_ptr = loss.ptr();
        let args =
            CrossEntropyArgs { loss: loss_ptr, lse: DevicePtr::NULL, gradient: Some(gradient), ..args };
        // SAFETY: as above; `share` is what was launched before.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        trial.judge_with(Forward, &loss, &expected.plain.loss, &expected.exact.loss, CANCELLATION)?;
        // Softmax, less one where the target is: what is left is the rest of its row.
        let rest = 1e-6 * f64::from(self.dmean.abs().max(1.0)) / self.counted();
        trial.judge_with(Gradient, dlogits, &expected.plain.dlogits, &expected.exact.dlogits, rest)
    }
}

/// What the gradient is multiplied by besides; a power of two, which rounds nothing.
const SCALE: f32 = 0.5;

struct Expected {
    exact: Losses,
    plain: Losses,
}

struct Losses {
    mean: f64,
    loss: Vec<f64>,
    lse: Vec<f64>,
    dlogits: Vec<f64>,
}

impl Expected {
    fn of(case: &CrossEntropy, logits: &[f64]) -> Expected {
        let CrossEntropy { precision, vocabulary, ref targets, options, dmean, .. } = *case;
        let exact_options = CrossEntropyOptions {
            label_smoothing: options.label_smoothing.into(),
            z_loss: options.z_loss.into(),
            softcap: options.softcap.map(f64::from),
        };
        let result = reference::cross_entropy(logits, vocabulary, targets, IGNORE, &exact_options);
        let dloss = f64::from(SCALE * dmean);
        let dlogits =
            reference::cross_entropy_backward(logits, vocabulary, targets, IGNORE, &exact_options, dloss);
        let exact = Losses { mean: result.mean, loss: result.loss, lse: result.lse, dlogits };

        let rows = || logits.chunks_exact(vocabulary).zip(targets);
        let plain_row = |(row, &target): (&[f64], &u32)| match target {
            IGNORE => (0.0, 0.0),
            target => plain::cross_entropy(row, target as usize, &options),
        };
        let (loss, lse): (Vec<f64>, Vec<f64>) = rows().map(plain_row).unzip();
        let share = SCALE * dmean / case.counted() as f32;
        let plain_gradient = |(row, &target): (&[f64], &u32)| match target {
            IGNORE => vec![0.0; vocabulary],
            target => plain::cross_entropy_backward(precision, row, target as usize, &options, share),
        };
        let mean = loss.iter().sum::<f64>() / case.counted();
        let plain = Losses { mean, loss, lse, dlogits: rows().flat_map(plain_gradient).collect() };
        Expected { exact, plain }
    }
}

impl fmt::Display for CrossEntropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CrossEntropy { precision, vocabulary, targets, gap, place, options, .. } = self;
        write!(f, "{precision} N{} V{vocabulary}", targets.len())?;
        f.write_str(match place {
            Place::Logits => " in place",
            Place::Alike => "",
            Place::Apart => " apart",
        })?;
        let LossOptions { label_smoothing, z_loss, softcap } = options;
        write!(f, "{}", if *label_smoothing > 0.0 { " smoothed" } else { "" })?;
        write!(f, "{}", if *z_loss > 0.0 { " z-loss" } else { "" })?;
        write!(f, "{}", if softcap.is_some() { " capped" } else { "" })?;
        if *gap > 0 { write!(f, " gap {gap}") } else { Ok(()) }
    }
}

impl CrossEntropy {
    /// The cases that tell the most: each type at a size of no alignment, GPT-2's vocabulary, the smallest, each term of
    /// the loss, and a row that no shared memory holds.
    #[must_use]
    pub fn telling() -> Vec<CrossEntropy> {
        let mut cases: Vec<CrossEntropy> = Precision::ALL.map(|precision| new(precision, 33, 1000)).into();
        cases.extend(
            [(2, 50_257), (300, 1), (0, 8), (7, 2049)]
                .map(|(rows, vocabulary)| new(Precision::Bf16, rows, vocabulary)),
        );
        cases.push(CrossEntropy { place: Place::Logits, gap: 3, ..new(Precision::Bf16, 9, 257) });
        cases.push(CrossEntropy { place: Place::Apart, ..new(Precision::F16, 5, 1003) });
        let all = LossOptions { label_smoothing: 0.1, z_loss: 1e-3, softcap: Some(2.0) };
        let plain = LossOptions::default();
        for options in [
            LossOptions { label_smoothing: 0.1, ..plain },
            LossOptions { z_loss: 1e-3, ..plain },
            LossOptions { softcap: Some(2.0), ..plain },
            all,
        ] {
            cases.push(CrossEntropy { options, ..new(Precision::Bf16, 12, 1001) });
        }
        cases.push(CrossEntropy {
            place: Place::Logits,
            options: LossOptions { softcap: None, ..all },
            ..new(Precision::F32, 2, 70_001)
        });
        cases
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let one = |name, rows, vocabulary| {
            let case = CrossEntropy { place: Place::Logits, ..new(Precision::Bf16, rows, vocabulary) };
            // Logits are read for the loss, and read and overwritten for the gradient.
            Canonical::moving(name, case, 3 * 2 * rows * vocabulary)
        };
        // GPT-2's; and the largest that there are.
        vec![one("cross_entropy", 4, 50_257), one("cross_entropy_long", 2, 262_144)]
    }

    /// The rows that count, at least 1.
    fn counted(&self) -> f64 {
        self.targets.iter().filter(|&&target| target != IGNORE).count().max(1) as f64
    }
}

/// The plain loss, of contiguous rows, of which every fifth is ignored.
fn new(precision: Precision, rows: usize, vocabulary: usize) -> CrossEntropy {
    CrossEntropy {
        precision,
        vocabulary,
        targets: (0..rows)
            .map(|row| if row % 5 == 4 { IGNORE } else { (row * 7919 % vocabulary) as u32 })
            .collect(),
        gap: 0,
        place: Place::Alike,
        options: LossOptions::default(),
        dmean: 1.0,
        seed: 1,
    }
}

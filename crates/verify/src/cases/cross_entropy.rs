//! Cross-entropy of softmax and its mean, then the gradient of that.

use crate::tolerance::Rule::{Forward, Gradient};
use crate::{Canonical, Case, Draw, Error, Layout, Precision, Trial, View, plain};
use longhand_kernels::cross_entropy::{
    CrossEntropyBackward, CrossEntropyBackwardArgs, CrossEntropyForward, CrossEntropyForwardArgs, IGNORE,
    Logits,
};
use longhand_reference as reference;
use std::fmt;

/// One loss, forward and backward.
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
    /// Whether the gradient overwrites the logits.
    pub in_place: bool,
    /// The gradient of the mean.
    pub dmean: f32,
    /// Of the logits.
    pub seed: u64,
}

impl Case for CrossEntropy {
    fn operation(&self) -> &'static str {
        "cross-entropy"
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        let CrossEntropy { precision, vocabulary, ref targets, dmean, .. } = *self;
        let stride = (vocabulary + self.gap) as i64;
        let layout = Layout::strided(&[targets.len(), vocabulary], &[stride, 1]);
        let values = Draw::new(precision, self.seed).vec(targets.len() * vocabulary);
        let name = if self.in_place { "dlogits" } else { "logits" };
        let device_logits = trial.input(name, precision, &layout, &values)?;
        let device_targets = trial.integers(targets)?;
        let logits = Logits {
            rows: targets.len(),
            vocabulary,
            data: device_logits.ptr(),
            stride,
            targets: device_targets.ptr(),
        };

        let [per_row, number] = [&[targets.len()][..], &[]].map(Layout::contiguous);
        let loss = trial.output("loss", Precision::F32, &per_row)?;
        let lse = trial.output("lse", Precision::F32, &per_row)?;
        let mean = trial.output("mean", Precision::F32, &number)?;
        let share = trial.output("share", Precision::F32, &number)?;
        let plan = CrossEntropyForward::new(precision.dtype()).plan(trial.stream().device())?;
        let [loss_ptr, lse_ptr, mean_ptr, share_ptr] = [&loss, &lse, &mean, &share].map(View::ptr);
        let args = CrossEntropyForwardArgs {
            logits,
            loss: loss_ptr,
            lse: lse_ptr,
            mean: mean_ptr,
            share: share_ptr,
        };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the downloads.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        let expected: Vec<f64> = self
            .rows(&values)
            .map(|(row, &target)| reference::cross_entropy(row, vocabulary, &[target], IGNORE))
            .collect();
        let plain: Vec<f64> = self
            .rows(&values)
            .map(
                |(row, &target)| {
                    if target == IGNORE { 0.0 } else { plain::cross_entropy(row, target as usize) }
                },
            )
            .collect();
        // The loss is a difference, and may be far less than what it is the difference of.
        trial.judge_with(Forward, &loss, &plain, &expected, 1e-5)?;
        let counted = targets.iter().filter(|&&target| target != IGNORE).count().max(1) as f64;
        let expected = reference::cross_entropy(&values, vocabulary, targets, IGNORE);
        let plain = plain.iter().sum::<f64>() / counted;
        trial.judge_with(Forward, &mean, &[plain], &[expected], 1e-5)?;

        let dlogits = trial.output("dlogits", precision, &layout)?;
        let dlogits = if self.in_place { &device_logits } else { &dlogits };
        let dmean = trial.vector("dmean", Precision::F32, &[dmean.into()])?;
        let plan = CrossEntropyBackward::new(precision.dtype()).plan(trial.stream().device())?;
        let args = CrossEntropyBackwardArgs {
            logits,
            lse: lse_ptr,
            dmean: dmean.ptr(),
            share: share_ptr,
            dlogits: dlogits.ptr(),
            dlogits_stride: stride,
        };
        // SAFETY: as above; `lse` and `share` are what forward wrote.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        let dloss = f64::from(self.dmean);
        let expected = reference::cross_entropy_backward(&values, vocabulary, targets, IGNORE, dloss);
        let share = self.dmean / counted as f32;
        let plain: Vec<f64> = self
            .rows(&values)
            .flat_map(|(row, &target)| match target {
                IGNORE => vec![0.0; vocabulary],
                _ => plain::cross_entropy_backward(precision, row, target as usize, share),
            })
            .collect();
        // Softmax, less one where the target is: what is left is the rest of its row.
        trial.judge_with(Gradient, dlogits, &plain, &expected, 1e-6 / counted)
    }
}

impl fmt::Display for CrossEntropy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let CrossEntropy { precision, vocabulary, targets, gap, .. } = self;
        write!(f, "{precision} N{} V{vocabulary}", targets.len())?;
        write!(f, "{}", if self.in_place { " in place" } else { "" })?;
        if *gap > 0 { write!(f, " gap {gap}") } else { Ok(()) }
    }
}

impl CrossEntropy {
    /// The cases that tell the most: each type at a size of no alignment, GPT-2's vocabulary, and the smallest.
    #[must_use]
    pub fn telling() -> Vec<CrossEntropy> {
        let new = |precision, rows: usize, vocabulary: usize| CrossEntropy {
            precision,
            vocabulary,
            // Every fifth row is ignored.
            targets: (0..rows)
                .map(|row| if row % 5 == 4 { IGNORE } else { (row * 7919 % vocabulary) as u32 })
                .collect(),
            gap: 0,
            in_place: false,
            dmean: 1.0,
            seed: 1,
        };
        let mut cases: Vec<CrossEntropy> = Precision::ALL.map(|precision| new(precision, 33, 1000)).into();
        cases.extend(
            [(2, 50_257), (300, 1), (0, 8), (7, 2049)]
                .map(|(rows, vocabulary)| new(Precision::Bf16, rows, vocabulary)),
        );
        cases.push(CrossEntropy { in_place: true, gap: 3, ..new(Precision::Bf16, 9, 257) });
        cases
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let (rows, vocabulary) = (32, 8192);
        let case = CrossEntropy {
            precision: Precision::Bf16,
            vocabulary,
            targets: (0..rows as u32).map(|row| row * 7).collect(),
            gap: 0,
            in_place: false,
            dmean: 1.0,
            seed: 1,
        };
        // Logits are read forward and backward, their gradient written.
        vec![Canonical::moving("cross_entropy", case, 3 * 2 * rows * vocabulary)]
    }

    fn rows<'a>(&'a self, logits: &'a [f64]) -> impl Iterator<Item = (&'a [f64], &'a u32)> {
        logits.chunks_exact(self.vocabulary).zip(&self.targets)
    }
}

//! Tokens from rows of logits.

use crate::{Canonical, Case, Draw, Error, Layout, Precision, Trial};
use longhand_kernels::Random;
use longhand_kernels::sampling::{NONE, Sample as Kernel, SampleArgs, SampleOptions, bits};
use longhand_reference as reference;
use std::fmt;

/// One launch.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Of the logits.
    pub precision: Precision,
    /// Rows.
    pub rows: usize,
    /// Logits of a row.
    pub vocabulary: usize,
    /// Elements between the rows.
    pub gap: usize,
    /// What the logits are rounded to a multiple of, so that there are equals; 0 for nothing.
    pub step: f64,
    /// How tokens are chosen.
    pub options: SampleOptions,
    /// Of the logits, and what is drawn with.
    pub seed: u64,
}

impl Case for Sample {
    fn operation(&self) -> &'static str {
        "sample"
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        let &Sample { precision, rows, vocabulary, gap, step, options, seed } = self;
        let mut values = Draw::new(precision, seed).vec(rows * vocabulary);
        if step > 0.0 {
            values.iter_mut().for_each(|x| *x = (*x / step).round() * step);
        }
        // Some cannot be drawn: the first of every fifth row, and the whole of one.
        values.iter_mut().step_by(5 * vocabulary).for_each(|x| *x = f64::NEG_INFINITY);
        if rows > 7 {
            values[7 * vocabulary..8 * vocabulary].fill(f64::NEG_INFINITY);
        }
        let stride = (vocabulary + gap) as i64;
        let layout = Layout::strided(&[rows, vocabulary], &[stride, 1]);
        let logits = trial.input("logits", precision, &layout, &values)?;
        let tokens = trial.integers(&vec![12_345; rows])?;
        let random = Random { seed, offset: 3 };
        let plan = Kernel::new(precision.dtype(), vocabulary).plan(trial.stream().device())?;
        let args = SampleArgs { rows, logits: logits.ptr(), stride, options, random, tokens: tokens.ptr() };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the download.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        let mut bytes = vec![0; 4 * rows];
        tokens.download(0, &mut bytes)?;
        let exact = reference::SampleOptions {
            temperature: options.temperature.into(),
            top_k: options.kept(vocabulary),
            top_p: options.top_p,
        };
        for (row, token) in bytes.as_chunks::<4>().0.iter().enumerate() {
            let draw = bits(random, row) as f64 / 2f64.powi(64);
            let expected = reference::sample(&values[row * vocabulary..][..vocabulary], &exact, draw);
            let expected = expected.map_or(NONE, |token| token as u32);
            trial.judge_number("token", u32::from_le_bytes(*token).into(), expected.into());
        }
        Ok(())
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Sample { precision, rows, vocabulary, options, .. } = self;
        let SampleOptions { temperature, top_k, top_p } = options;
        write!(f, "{precision} N{rows} V{vocabulary} temperature {temperature}")?;
        if let Some(k) = top_k {
            write!(f, " top-k {k}")?;
        }
        if *top_p < 1.0 { write!(f, " top-p {top_p}") } else { Ok(()) }
    }
}

impl Sample {
    /// The cases that tell the most: each type with both cuts, each cut alone and none, equal logits, the highest, the
    /// smallest vocabulary, and long rows.
    #[must_use]
    pub fn telling() -> Vec<Sample> {
        let plain = SampleOptions { temperature: 0.8, ..SampleOptions::GREEDY };
        let both = SampleOptions { top_k: Some(40), top_p: 0.9, ..plain };
        let new = |precision, vocabulary, options| Sample {
            precision,
            rows: 10,
            vocabulary,
            gap: 0,
            step: 0.0,
            options,
            seed: 1,
        };
        let mut cases: Vec<Sample> = Precision::ALL.map(|precision| new(precision, 1500, both)).into();
        for options in [
            plain,
            SampleOptions { top_k: Some(5), ..plain },
            SampleOptions { top_p: 0.5, ..plain },
            SampleOptions::GREEDY,
        ] {
            cases.push(Sample { step: 0.5, gap: 3, ..new(Precision::Bf16, 1030, options) });
        }
        cases.push(new(Precision::F32, 1, both));
        // Rows that no block holds, most of them of equal logits.
        cases.extend(
            [both, SampleOptions { top_k: None, ..both }, SampleOptions::GREEDY].map(|options| Sample {
                rows: 3,
                step: 0.5,
                gap: 1,
                ..new(Precision::F32, 30_001, options)
            }),
        );
        // Both cuts leave few, of different logits and of many that are equal.
        let most = SampleOptions { top_k: Some(300), top_p: 0.8, ..plain };
        cases.push(Sample { rows: 2, ..new(Precision::F32, 60_000, most) });
        cases.push(Sample {
            rows: 2,
            gap: 3,
            ..new(Precision::Bf16, 60_001, SampleOptions { temperature: 3.0, ..most })
        });
        // One that no cluster of blocks holds.
        let few = SampleOptions { top_k: Some(5), ..plain };
        cases.push(Sample { rows: 1, ..new(Precision::F32, 450_001, few) });
        cases
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let options = SampleOptions { temperature: 0.8, top_k: Some(50), top_p: 0.9 };
        let case = |precision, vocabulary| Sample {
            precision,
            rows: 1,
            vocabulary,
            gap: 0,
            step: 0.0,
            options,
            seed: 1,
        };
        // A block holds the first row; the second one a cluster, where there are clusters.
        vec![
            Canonical::moving("sample", case(Precision::Bf16, 8192), 2 * 8192),
            Canonical::moving("sample_long", case(Precision::F32, 262_144), 4 * 262_144),
        ]
    }
}

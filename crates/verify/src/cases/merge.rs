//! Merging partial results of attention, forward and backward.

use super::{HeadLayout, Pass};
use crate::tolerance::Rule::{Forward, Gradient};
use crate::{Canonical, Case, Draw, Error, Layout, Precision, Trial, View, plain};
use longhand_gpu::DevicePtr;
use longhand_kernels::attention::{
    AttentionMerge as Kernel, AttentionMergeArgs, AttentionMergeBackward, AttentionMergeBackwardArgs, Heads,
    PartialAttention, Strides,
};
use longhand_reference as reference;
use std::fmt;

/// One merge.
#[derive(Clone, Debug)]
pub struct AttentionMerge {
    /// Forward or backward.
    pub pass: Pass,
    /// Of the parts, the merged result and their gradients.
    pub precision: Precision,
    /// Batches, tokens, heads and elements of a head.
    pub sizes: [usize; 4],
    /// How many parts there are.
    pub parts: usize,
    /// One LSE in so many is -inf; and all of a row in one of so many rows. 0 for none.
    pub empty: usize,
    /// Each tensor takes the next, starting over after the last.
    pub layouts: [HeadLayout; 2],
    /// Backward: whether there is a gradient of the merged LSE.
    pub dlse: bool,
    /// Backward: whether the gradients of the `out` and of the LSE of each part are wanted.
    pub wanted: [bool; 2],
    /// Of the inputs.
    pub seed: u64,
}

impl AttentionMerge {
    /// The cases that tell the most: each type, parts without keys, many parts, heads of any size and alignment.
    #[must_use]
    pub fn telling() -> Vec<AttentionMerge> {
        let base = AttentionMerge {
            pass: Pass::Forward,
            precision: Precision::Bf16,
            sizes: [2, 37, 3, 64],
            parts: 2,
            empty: 3,
            layouts: [HeadLayout::default(); 2],
            dlse: true,
            wanted: [true; 2],
            seed: 1,
        };
        let strided = HeadLayout { heads_before_tokens: true, gap: 8 };
        let mut cases: Vec<AttentionMerge> =
            Precision::ALL.map(|precision| AttentionMerge { precision, ..base.clone() }).into();
        cases.extend([
            AttentionMerge { parts: 8, layouts: [HeadLayout::default(), strided], ..base.clone() },
            AttentionMerge { sizes: [1, 5, 2, 24], parts: 3, dlse: false, ..base.clone() },
            AttentionMerge {
                sizes: [3, 2, 1, 7],
                layouts: [HeadLayout { gap: 3, ..strided }; 2],
                ..base.clone()
            },
            AttentionMerge { sizes: [1, 1, 4, 256], precision: Precision::F32, empty: 0, ..base.clone() },
            AttentionMerge { sizes: [1, 0, 4, 64], ..base },
        ]);
        let backward = |case: &AttentionMerge| AttentionMerge { pass: Pass::Backward, ..case.clone() };
        cases.iter().cloned().chain(cases.iter().map(backward)).collect()
    }

    /// The launches whose counts are held.
    #[must_use]
    pub fn canonical() -> Vec<Canonical> {
        let sizes @ [batch, tokens, heads, dim] = [1, 128, 8, 128];
        let case = |pass| AttentionMerge {
            pass,
            precision: Precision::Bf16,
            sizes,
            parts: 2,
            empty: 0,
            layouts: [HeadLayout::default(); 2],
            dlse: true,
            wanted: [true; 2],
            seed: 1,
        };
        let (out, lse) = (2 * batch * tokens * heads * dim, 4 * batch * tokens * heads);
        // Two parts and the merged result; backward, two parts, their gradients, and that of the merged result.
        vec![
            Canonical::moving("attention_merge", case(Pass::Forward), 3 * (out + lse)),
            Canonical::moving("attention_merge_backward", case(Pass::Backward), 5 * (out + lse)),
        ]
    }

    /// `out` and LSE of each part.
    fn inputs(&self, draw: &mut Draw) -> Vec<(Vec<f64>, Vec<f64>)> {
        let [batch, tokens, heads, dim] = self.sizes;
        let rows = batch * tokens * heads;
        let is_empty = |part: usize, row: usize| {
            self.empty > 0 && ((row + part).is_multiple_of(self.empty) || row.is_multiple_of(4 * self.empty))
        };
        let part = |part: usize| {
            let out = draw.vec(rows * dim);
            let lse = draw.vec(rows).into_iter().enumerate();
            (
                out,
                lse.map(|(row, lse)| if is_empty(part, row) { f64::NEG_INFINITY } else { 3.0 * lse })
                    .collect(),
            )
        };
        (0..self.parts).map(part).collect()
    }

    fn out_layout(&self, which: usize) -> Layout {
        Layout::strided(&self.sizes, &self.layouts[which % 2].strides(self.sizes))
    }

    fn lse_layout(&self) -> Layout {
        let [batch, tokens, heads, _] = self.sizes;
        Layout::contiguous(&[batch, heads, tokens])
    }

    fn upload(&self, trial: &Trial, parts: &[(Vec<f64>, Vec<f64>)]) -> Result<Vec<[View; 2]>, Error> {
        let upload = |(i, (out, lse)): (usize, &(Vec<f64>, Vec<f64>))| {
            let out = trial.input("out_i", self.precision, &self.out_layout(i), out)?;
            Ok([out, trial.input("lse_i", Precision::F32, &self.lse_layout(), lse)?])
        };
        parts.iter().enumerate().map(upload).collect()
    }

    fn forward(&self, trial: &mut Trial) -> Result<(), Error> {
        let [batch, tokens, heads, dim] = self.sizes;
        let values = self.inputs(&mut Draw::new(self.precision, self.seed));
        let views = self.upload(trial, &values)?;
        let out = trial.output("out", self.precision, &self.out_layout(1))?;
        let lse = trial.output("lse", Precision::F32, &self.lse_layout())?;
        let plan = Kernel::new(self.precision.dtype(), dim, self.parts).plan(trial.stream().device())?;
        let parts: Vec<PartialAttention> = views.iter().map(|[out, lse]| partial(out, lse)).collect();
        let args = AttentionMergeArgs { batch, tokens, heads, parts: &parts, merged: partial(&out, &lse) };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the downloads.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;

        let parts = borrowed(&values);
        let expected = reference::attention_merge(self.sizes, &parts);
        let plain = plain::attention_merge(self.precision, self.sizes, &parts);
        trial.judge(Forward, &out, &plain.out, &expected.out)?;
        trial.judge(Forward, &lse, &plain.lse, &expected.lse)
    }

    fn backward(&self, trial: &mut Trial) -> Result<(), Error> {
        let [batch, tokens, heads, dim] = self.sizes;
        let mut draw = Draw::new(self.precision, self.seed);
        let values = self.inputs(&mut draw);
        let views = self.upload(trial, &values)?;
        let dout = draw.vec(batch * tokens * heads * dim);
        let dlse =
            if self.dlse { draw.vec(batch * tokens * heads) } else { vec![0.0; batch * tokens * heads] };
        let dout_view = trial.input("dout", self.precision, &self.out_layout(0), &dout)?;
        let dlse_view = trial.input("dlse", Precision::F32, &self.lse_layout(), &dlse)?;
        let grads = (0..self.parts).map(|i| -> Result<[View; 2], Error> {
            let out = trial.output("dout_i", self.precision, &self.out_layout(i + 1))?;
            Ok([out, trial.output("dlse_i", Precision::F32, &self.lse_layout())?])
        });
        let grads = grads.collect::<Result<Vec<_>, _>>()?;
        let plan = AttentionMergeBackward::new(self.precision.dtype(), dim, self.parts);
        let plan = plan.plan(trial.stream().device())?;
        let parts: Vec<PartialAttention> = views.iter().map(|[out, lse]| partial(out, lse)).collect();
        let [wants_out, wants_lse] = self.wanted;
        let wanted = |[out, lse]: &[View; 2]| {
            let PartialAttention { out, lse } = partial(out, lse);
            PartialAttention {
                out: if wants_out { out } else { Heads::NONE },
                lse: if wants_lse { lse } else { DevicePtr::NULL },
            }
        };
        let written: Vec<PartialAttention> = grads.iter().map(wanted).collect();
        let args = AttentionMergeBackwardArgs {
            batch,
            tokens,
            heads,
            parts: &parts,
            dout: partial(&dout_view, &dlse_view).out,
            dlse: if self.dlse { dlse_view.ptr() } else { DevicePtr::NULL },
            dparts: &written,
        };
        // SAFETY: as above.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;

        let parts = borrowed(&values);
        let expected = reference::attention_merge_backward(self.sizes, &parts, &dout, &dlse);
        let plain = plain::attention_merge_backward(self.precision, self.sizes, &parts, &dout, &dlse);
        // D products, of which the sums cancel.
        let cancellation = f64::from(f32::EPSILON) * 4.0 * (dim as f64 + 1.0);
        for (i, [out, lse]) in grads.iter().enumerate() {
            if wants_out {
                trial.judge(Gradient, out, &plain.dout[i], &expected.dout[i])?;
            }
            if wants_lse {
                trial.judge_with(Gradient, lse, &plain.dlse[i], &expected.dlse[i], cancellation)?;
            }
        }
        Ok(())
    }
}

fn borrowed(values: &[(Vec<f64>, Vec<f64>)]) -> Vec<reference::PartialAttention<'_>> {
    values.iter().map(|(out, lse)| reference::PartialAttention { out, lse }).collect()
}

fn partial(out: &View, lse: &View) -> PartialAttention {
    let [batch, token, head] = [0, 1, 2].map(|dim| out.strides()[dim]);
    PartialAttention {
        out: Heads { data: out.ptr(), strides: Strides { batch, token, head } },
        lse: lse.ptr(),
    }
}

impl Case for AttentionMerge {
    fn operation(&self) -> &'static str {
        match self.pass {
            Pass::Forward => "attention merge",
            Pass::Backward => "attention merge backward",
        }
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        match self.pass {
            Pass::Forward => self.forward(trial),
            Pass::Backward => self.backward(trial),
        }
    }
}

impl fmt::Display for AttentionMerge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AttentionMerge { precision, sizes: [batch, tokens, heads, dim], parts, .. } = self;
        write!(f, "{precision} B{batch} T{tokens} H{heads} D{dim} of {parts}")?;
        let strided = self.layouts.iter().any(|layout| *layout != HeadLayout::default());
        f.write_str(if strided { " strided" } else { "" })?;
        f.write_str(if self.empty > 0 { " some empty" } else { "" })?;
        f.write_str(if self.wanted[0] { "" } else { " without gradients of out" })?;
        f.write_str(if self.wanted[1] { "" } else { " without gradients of LSE" })
    }
}

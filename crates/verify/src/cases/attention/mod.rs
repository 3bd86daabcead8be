//! Attention, forward and backward.

mod blocks;
mod canonical;
mod decode;
mod mask;
mod scores;

pub use blocks::Blocks;
pub use decode::AttentionDecode;
pub use mask::Mask;
pub use scores::Scores;

use crate::tolerance::Rule::{Forward, Gradient};
use crate::{Case, Draw, Error, Layout, Precision, Trial, View, plain};
use longhand_gpu::DevicePtr;
use longhand_kernels::attention::{
    self as kernel, AttentionBackwardArgs, AttentionForwardArgs, Heads, Named, Operands, Strides,
};
use longhand_reference::{self as reference, AttentionShape};
use mask::MaskOperands;
use scores::{Drawn, ScoresOperands};
use std::fmt;

/// One attention.
#[derive(Clone, Debug)]
pub struct Attention {
    /// Forward or backward.
    pub pass: Pass,
    /// Whether backward adds up the gradient of q by atomics.
    pub atomic: bool,
    /// Of q, k, v and their gradients.
    pub precision: Precision,
    /// The sizes.
    pub shape: AttentionShape,
    /// Which keys a query sees.
    pub mask: Mask,
    /// What becomes of scores and probabilities.
    pub scores: Scores,
    /// Whether the LSE has a gradient too; for backward.
    pub lse_gradient: bool,
    /// What scores are multiplied by.
    pub scale: f32,
    /// Each tensor takes the next, starting over after the last.
    pub layouts: [HeadLayout; 3],
    /// Of the inputs.
    pub seed: u64,
}

/// Which of the two kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Pass {
    Forward,
    Backward,
}

/// How a `(B, N, heads, D)` tensor lies in memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct HeadLayout {
    /// Whether the tokens of a head are neighbours, rather than the heads of a token.
    pub heads_before_tokens: bool,
    /// Elements left out after each head, token and batch.
    pub gap: usize,
}

impl Case for Attention {
    fn operation(&self) -> &'static str {
        match self.pass {
            Pass::Forward => "attention forward",
            Pass::Backward if self.atomic => "attention backward atomic",
            Pass::Backward => "attention backward",
        }
    }

    fn run(&self, trial: &mut Trial) -> Result<(), Error> {
        match self.pass {
            Pass::Forward => self.forward(trial),
            Pass::Backward => self.backward(trial),
        }
    }

    fn varying(&self) -> &'static [&'static str] {
        if self.pass == Pass::Backward && self.atomic { &["dq"] } else { &[] }
    }
}

impl fmt::Display for Attention {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let AttentionShape { batch, queries, keys, heads, kv_heads, head_dim, value_dim } = self.shape;
        write!(f, "{} B{batch} T{queries} S{keys} H{heads}/{kv_heads} D{head_dim}", self.precision)?;
        if value_dim != head_dim {
            write!(f, "/{value_dim}")?;
        }
        write!(f, " {}{}", self.mask, self.scores)?;
        let strided = self.layouts.iter().any(|layout| *layout != HeadLayout::default());
        write!(f, "{}", if strided { " strided" } else { "" })?;
        write!(f, "{}", if self.lse_gradient { " dlse" } else { "" })
    }
}

impl Attention {
    /// The cases that tell the most: for each type, head dim and mask, grouped heads over several blocks and key
    /// tiles; then the edges of tiles, and none of this or that.
    #[must_use]
    pub fn telling() -> Vec<Attention> {
        let mut cases = Vec::new();
        let strided = HeadLayout { heads_before_tokens: true, gap: 8 };
        for precision in [Precision::Bf16, Precision::F16] {
            for head_dim in [64, 128] {
                for causal in [false, true] {
                    let shape = shape(1, 200, 200, [2, 1], head_dim);
                    cases.push(Attention::new(precision, shape, causal));
                }
            }
        }
        for (queries, keys) in
            [(0, 5), (5, 0), (1, 1), (1, 300), (17, 15), (127, 129), (129, 64), (130, 97), (33, 257)]
        {
            let shape = shape(2, queries, keys, [3, 3], 64);
            let causal = queries % 2 == 1;
            let layouts = [HeadLayout::default(), strided, HeadLayout { gap: 24, ..strided }];
            cases.push(Attention { layouts, ..Attention::new(Precision::Bf16, shape, causal) });
        }
        cases.extend(Attention::telling_dims());
        cases.extend(Attention::telling_masks());
        cases.extend(Attention::telling_blocks());
        cases.extend(Attention::telling_scores());
        let backward = cases.iter().map(|case| {
            let lse_gradient = case.precision == Precision::F16 || case.scores.sinks;
            Attention { pass: Pass::Backward, lse_gradient, ..case.clone() }
        });
        let backward = backward.chain(Attention::telling_atomic());
        cases.iter().cloned().chain(backward).collect()
    }

    /// Where the gradient of q is shared out differently: widths, documents, a group of heads, no query or key.
    fn telling_atomic() -> impl Iterator<Item = Attention> {
        let usual = [(64, 200, 200), (128, 200, 200), (64, 0, 5), (64, 5, 0), (64, 33, 257)];
        let usual = usual.map(|(head_dim, queries, keys)| {
            Attention::new(Precision::Bf16, shape(2, queries, keys, [4, 2], head_dim), true)
        });
        let scores = Scores {
            softcap: Some(3.0),
            bias: Some([true; 4]),
            sinks: true,
            dropout: Some(0.25),
            ..Scores::default()
        };
        let scored = Attention { scores, ..usual[0].clone() };
        let cases = usual.into_iter().chain([scored]).chain(Attention::telling_dims());
        let cases = cases.chain(Attention::telling_masks()).chain(Attention::telling_blocks());
        cases.map(|case| Attention { pass: Pass::Backward, atomic: true, ..case })
    }

    /// The widest rows, those that end in the middle of a fragment, values wider and narrower than keys; f32.
    fn telling_dims() -> impl Iterator<Item = Attention> {
        use Precision::{Bf16, F16, F32};
        let dims =
            [(Bf16, 256, 256), (F16, 72, 72), (Bf16, 8, 40), (Bf16, 192, 128), (F32, 64, 64), (F32, 256, 40)];
        dims.into_iter().map(|(precision, head_dim, value_dim)| {
            let shape = AttentionShape { value_dim, ..shape(1, 130, 150, [2, 1], head_dim) };
            Attention::new(precision, shape, true)
        })
    }

    /// Each mask over several blocks, on both sides of the diagonal.
    fn telling_masks() -> Vec<Attention> {
        let window = |causal, left, right| Mask { causal, left, right, ..Mask::default() };
        let prefixes = vec![150, 0];
        let documents = vec![[70, 150], [0, 3], [1, 1], [129, 40], [5, 0], [30, 30]];
        let masks = [
            (200, 264, window(true, Some(70), None)),
            (264, 200, window(false, Some(70), Some(40))),
            (200, 200, Mask { prefixes: prefixes.clone(), ..window(true, Some(180), None) }),
            (235, 224, Mask { documents: documents.clone(), ..window(true, None, None) }),
            (235, 224, Mask { documents, prefixes, ..window(false, Some(20), Some(9)) }),
        ];
        let case = |(queries, keys, mask): (usize, usize, Mask)| {
            let batch = if mask.prefixes.is_empty() || !mask.documents.is_empty() { 1 } else { 2 };
            let shape =
                AttentionShape { batch, queries, keys, heads: 2, kv_heads: 1, head_dim: 64, value_dim: 64 };
            Attention { mask, ..Attention::new(Precision::Bf16, shape, false) }
        };
        masks.into_iter().map(case).collect()
    }

    /// Blocks that are full, partial and empty by the user's mask; that are chosen; of documents.
    fn telling_blocks() -> Vec<Attention> {
        let found = Blocks { per_batch: true, per_head: true, ..Blocks::default() };
        let documents = vec![[130, 260], [0, 3], [257, 129]];
        let shared = Blocks::default();
        let masks = [
            (2, 300, 390, 64, found, Mask::default()),
            (1, 390, 390, 128, shared, Mask { causal: true, ..Mask::default() }),
            (1, 300, 520, 64, Blocks { larger: 1, ..shared }, Mask { left: Some(300), ..Mask::default() }),
            (1, 387, 392, 64, found, Mask { causal: true, documents, ..Mask::default() }),
            (2, 390, 300, 64, Blocks { chosen: true, ..found }, Mask::default()),
        ];
        let case = |(batch, queries, keys, head_dim, blocks, mask)| {
            let shape = shape(batch, queries, keys, [2, 1], head_dim);
            let mask = Mask { blocks: Some(blocks), ..mask };
            let scores = Scores { mask_expression: true, ..Scores::default() };
            Attention { mask, scores, ..Attention::new(Precision::Bf16, shape, false) }
        };
        masks.map(case).into()
    }

    /// Each feature of scores, over several blocks.
    fn telling_scores() -> Vec<Attention> {
        let none = Scores::default;
        let scores = [
            Scores { softcap: Some(3.0), ..none() },
            Scores { alibi: true, ..none() },
            Scores { sinks: true, ..none() },
            Scores { bias: Some([true; 4]), ..none() },
            Scores { bias: Some([false, true, false, true]), ..none() },
            Scores { dropout: Some(0.25), ..none() },
            Scores { expression: true, ..none() },
            Scores { mask_expression: true, ..none() },
        ];
        let case = |scores| {
            let shape = shape(2, 135, 200, [4, 2], 64);
            Attention { scores, ..Attention::new(Precision::Bf16, shape, true) }
        };
        scores.into_iter().map(case).collect()
    }

    /// Forward, contiguous, with the usual scale.
    #[must_use]
    pub fn new(precision: Precision, shape: AttentionShape, causal: bool) -> Attention {
        let scale = 1.0 / (shape.head_dim as f32).sqrt();
        let layouts = [HeadLayout::default(); 3];
        let mask = Mask { causal, ..Mask::default() };
        Attention {
            pass: Pass::Forward,
            atomic: false,
            precision,
            shape,
            mask,
            scores: Scores::default(),
            lse_gradient: false,
            scale,
            layouts,
            seed: 1,
        }
    }

    fn forward(&self, trial: &mut Trial) -> Result<(), Error> {
        let [q, k, v, ..] = self.inputs();
        let (scale, shape) = (self.scale.into(), &self.shape);
        let drawn = self.drawn();
        let (expected, plain) = drawn.with_scoring(|scoring| {
            (
                reference::attention_scored(shape, &q, &k, &v, scale, scoring),
                plain::attention(self.precision, shape, &q, &k, &v, scale, scoring),
            )
        });

        let q = trial.input("q", self.precision, &self.layout(0, self.query_shape()), &q)?;
        let k = trial.input("k", self.precision, &self.layout(1, self.key_shape()), &k)?;
        let v = trial.input("v", self.precision, &self.layout(2, self.value_shape()), &v)?;
        let out = trial.output("out", self.precision, &self.layout(0, self.out_shape()))?;
        let lse = trial.output("lse", Precision::F32, &self.lse_layout())?;
        let given = self.give(&drawn, trial)?;
        let plan = self.described().forward(trial.stream().device())?;
        let args = AttentionForwardArgs {
            shape: self.kernel_shape(),
            scale: self.scale,
            q: heads(&q),
            k: heads(&k),
            v: heads(&v),
            out: heads(&out),
            lse: lse.ptr(),
            operands: given.operands(&drawn),
        };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the downloads.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        trial.judge(Forward, &out, &plain.out, &expected.out)?;
        // One score can be anything down to 0, while the products it is the sum of are of size 1.
        trial.judge_with(Forward, &lse, &plain.lse, &expected.lse, 4e-6)
    }

    fn backward(&self, trial: &mut Trial) -> Result<(), Error> {
        let [q, k, v, dout_values, dlse_values] = self.inputs();
        let upstream = [&dout_values[..], &dlse_values];
        let (scale, shape) = (self.scale.into(), &self.shape);
        let drawn = self.drawn();
        let (forward, expected, plain) = drawn.with_scoring(|scoring| {
            let (q, k, v) = (&q, &k, &v);
            (
                reference::attention_scored(shape, q, k, v, scale, scoring),
                reference::attention_scored_backward(shape, q, k, v, scale, scoring, upstream),
                plain::attention_backward(self.precision, shape, q, k, v, scale, scoring, upstream),
            )
        });

        let query = |layout| self.layout(layout, self.query_shape());
        let key = |layout| self.layout(layout, self.key_shape());
        let value = |layout| self.layout(layout, self.value_shape());
        let returned = |layout| self.layout(layout, self.out_shape());
        let q = trial.input("q", self.precision, &query(0), &q)?;
        let k = trial.input("k", self.precision, &key(1), &k)?;
        let v = trial.input("v", self.precision, &value(2), &v)?;
        let out = trial.input("out", self.precision, &returned(0), &forward.out)?;
        let dout = trial.input("dout", self.precision, &returned(1), &dout_values)?;
        let lse = trial.input("lse", Precision::F32, &self.lse_layout(), &forward.lse)?;
        let dlse =
            trial.input("dlse", Precision::F32, &Layout::contiguous(&[dlse_values.len()]), &dlse_values)?;
        let dq = trial.output("dq", self.precision, &query(2))?;
        let dk = trial.output("dk", self.precision, &key(0))?;
        let dv = trial.output("dv", self.precision, &value(1))?;
        let bias_layout = self.scores.bias_layout(&self.mask, self.shape);
        let dbias = trial.output("dbias", self.precision, &bias_layout)?;
        let dsinks = trial.output("dsinks", Precision::F32, &Layout::contiguous(&[drawn.sinks.len()]))?;
        let given = self.give(&drawn, trial)?;
        let plan = self.described().backward(trial.stream().device())?;
        let workspace = trial.workspace(plan.workspace_bytes(&self.kernel_shape()))?;
        let args = AttentionBackwardArgs {
            shape: self.kernel_shape(),
            scale: self.scale,
            q: heads(&q),
            k: heads(&k),
            v: heads(&v),
            out: heads(&out),
            dout: heads(&dout),
            lse: lse.ptr(),
            dlse: if self.lse_gradient { dlse.ptr() } else { DevicePtr::NULL },
            workspace: workspace.ptr(),
            dq: heads(&dq),
            dk: heads(&dk),
            dv: heads(&dv),
            dbias: self.scores.bias(&dbias),
            dsinks: if self.scores.sinks { dsinks.ptr() } else { DevicePtr::NULL },
            operands: given.operands(&drawn),
        };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the downloads.
        trial.launch(|stream| unsafe { plan.launch(stream, &args) })?;
        workspace.download()?; // nothing was written around it
        let cancellation = self.delta_rounding(&forward.out, &dout_values);
        trial.judge_with(Gradient, &dq, &plain.dq, &expected.dq, cancellation)?;
        trial.judge_with(Gradient, &dk, &plain.dk, &expected.dk, cancellation)?;
        trial.judge(Gradient, &dv, &plain.dv, &expected.dv)?;
        if self.scores.bias.is_some() && bias_layout.count() > 0 && self.sees() {
            let [plain, expected] = [&plain.dscore, &expected.dscore].map(|dscore| drawn.dbias(dscore));
            // Summed over all keys, what is left of a query's gradient is the rounding of its delta.
            let keys_summed = self.scores.bias.is_some_and(|there| !there[3]);
            let allowed =
                if keys_summed { self.sum_rounding(&forward.out, &dout_values) } else { cancellation };
            trial.judge_with(Gradient, &dbias, &plain, &expected, allowed)?;
        }
        if self.scores.sinks {
            trial.judge_with(Gradient, &dsinks, &plain.dsinks, &expected.dsinks, cancellation)?;
        }
        Ok(())
    }

    /// What rounding `out` does to the gradients of the scores by way of `delta`, the sum of the Dv products `out *
    /// dout`; and they to those of q and k, whose elements go up to 4 or so. On few rows the plain algorithm may be
    /// luckier.
    fn delta_rounding(&self, out: &[f64], dout: &[f64]) -> f64 {
        let products: Vec<f64> = out.iter().zip(dout).map(|(out, dout)| out * dout).collect();
        let rows = products.chunks_exact(self.shape.value_dim);
        let largest = rows.map(|row| row.iter().map(|x| x * x).sum::<f64>().sqrt()).fold(0.0, f64::max);
        self.precision.spacing(1.0) * largest * f64::from(self.scale) * 4.0
    }

    /// What rounding `out` does to the sum of `delta` over all queries, whose roundings do not depend on each other.
    fn sum_rounding(&self, out: &[f64], dout: &[f64]) -> f64 {
        let squares = out.iter().zip(dout).map(|(out, dout)| (out * dout).powi(2));
        self.precision.spacing(1.0) * squares.sum::<f64>().sqrt()
    }

    /// Whether there are queries and keys: without, gradients of what is added to scores are not written.
    fn sees(&self) -> bool {
        self.mask.longest([self.shape.queries, self.shape.keys]).iter().all(|&tokens| tokens > 0)
    }

    fn drawn(&self) -> Drawn<'_> {
        self.scores.draw(&self.mask, self.precision, self.shape, self.seed)
    }

    /// What the kernels are given beside q, k and v, on the device.
    fn give(&self, drawn: &Drawn<'_>, trial: &mut Trial) -> Result<Given, Error> {
        let masks = self.mask.upload(trial, self.shape.batch)?;
        let scores = drawn.upload(trial, self.precision)?;
        let mut given = Given { masks, named: drawn.named(&scores), scores, blocks: None };
        given.blocks = blocks::lists(self, drawn, given.operands(drawn), trial)?;
        Ok(given)
    }

    /// q, k, v, dout and dlse, which has no elements where the LSE has no gradient.
    fn inputs(&self) -> [Vec<f64>; 5] {
        let mut draw = Draw::new(self.precision, self.seed);
        let rows = if self.lse_gradient { self.lse_layout().count() } else { 0 };
        let shapes = [self.query_shape(), self.key_shape(), self.value_shape(), self.out_shape()];
        let [q, k, v, dout] = shapes.map(|shape| draw.vec(shape.iter().product()));
        [q, k, v, dout, draw.vec(rows)]
    }

    fn described(&self) -> kernel::Attention {
        let AttentionShape { head_dim, value_dim, .. } = self.shape;
        let attention = kernel::Attention::new(self.precision.dtype(), head_dim).value_dim(value_dim);
        let attention = self.scores.describe(self.mask.describe(attention), &self.mask);
        attention.atomic(self.atomic)
    }

    fn query_shape(&self) -> [usize; 4] {
        [self.shape.batch, self.shape.queries, self.shape.heads, self.shape.head_dim]
    }

    fn key_shape(&self) -> [usize; 4] {
        [self.shape.batch, self.shape.keys, self.shape.kv_heads, self.shape.head_dim]
    }

    fn value_shape(&self) -> [usize; 4] {
        [self.shape.batch, self.shape.keys, self.shape.kv_heads, self.shape.value_dim]
    }

    fn out_shape(&self) -> [usize; 4] {
        [self.shape.batch, self.shape.queries, self.shape.heads, self.shape.value_dim]
    }

    fn lse_layout(&self) -> Layout {
        Layout::contiguous(&[self.shape.batch, self.shape.heads, self.shape.queries])
    }

    fn kernel_shape(&self) -> kernel::AttentionShape {
        let AttentionShape { batch, queries, keys, heads, kv_heads, .. } = self.shape;
        kernel::AttentionShape { batch: self.mask.sequences(batch), queries, keys, heads, kv_heads }
    }

    fn layout(&self, which: usize, shape: [usize; 4]) -> Layout {
        Layout::strided(&shape, &self.layouts[which].strides(shape))
    }
}

/// Tensors of the features.
struct Given {
    masks: MaskOperands,
    scores: ScoresOperands,
    named: Vec<(&'static str, Named)>,
    blocks: Option<View>,
}

impl Given {
    fn operands(&self, drawn: &Drawn<'_>) -> Operands<'_> {
        let blocks = self.blocks.as_ref().map_or(DevicePtr::NULL, View::ptr);
        Operands { blocks, ..drawn.operands(&self.scores, &self.named, self.masks.operands()) }
    }
}

/// With values as wide as keys.
fn shape(
    batch: usize,
    queries: usize,
    keys: usize,
    [heads, kv_heads]: [usize; 2],
    head_dim: usize,
) -> AttentionShape {
    AttentionShape { batch, queries, keys, heads, kv_heads, head_dim, value_dim: head_dim }
}

impl HeadLayout {
    pub(super) fn strides(self, [_, tokens, heads, head_dim]: [usize; 4]) -> [i64; 4] {
        let near = head_dim + self.gap;
        let [head, token, batch] = if self.heads_before_tokens {
            let head = tokens * near + self.gap;
            [head, near, heads * head + self.gap]
        } else {
            let token = heads * near + self.gap;
            [near, token, tokens * token + self.gap]
        };
        [batch as i64, token as i64, head as i64, 1]
    }
}

fn heads(view: &View) -> Heads {
    let [batch, token, head, _] = view.strides()[..] else { unreachable!("(B, N, heads, D)") };
    Heads { data: view.ptr(), strides: Strides { batch, token, head } }
}

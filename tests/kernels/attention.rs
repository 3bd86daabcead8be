use crate::device::{View, stream};
use crate::draw::{dtype, for_all, lengths};
use longhand_gpu::Stream;
use longhand_kernels::attention::{
    AttentionBackward, AttentionBackwardArgs, AttentionForward, AttentionForwardArgs,
    AttentionShape as KernelShape, HEAD_DIMS, Heads, Strides,
};
use longhand_reference::{self as reference, AttentionShape};
use longhand_tests::tolerance::Output;
use longhand_tests::{Draw, Precision, plain};
use proptest::prelude::*;

#[test]
fn forward_is_as_close_to_the_reference_as_its_precision_allows() {
    let Some(stream) = stream() else { return };
    for_all(48, cases(lengths(), 1..3usize), |case| case.check_forward(&stream));
}

#[test]
fn backward_is_as_close_to_the_reference_as_its_precision_allows() {
    let Some(stream) = stream() else { return };
    for_all(48, cases(lengths(), 1..3usize), |case| case.check_backward(&stream));
}

#[test]
fn both_hold_at_lengths_around_a_thousand() {
    let Some(stream) = stream() else { return };
    for_all(4, cases(1020..1030usize, Just(1)), |mut case| {
        (case.shape.heads, case.shape.kv_heads) = (2, 1);
        case.check_forward(&stream);
        case.check_backward(&stream);
    });
}

/// One drawn attention.
#[derive(Debug)]
struct Case {
    precision: Precision,
    shape: AttentionShape,
    causal: bool,
    scale: f32,
    /// Each tensor takes the next, starting over after the last.
    layouts: [Layout; 3],
    seed: u64,
}

/// How a `(B, N, heads, D)` tensor lies in memory.
#[derive(Clone, Copy, Debug)]
struct Layout {
    heads_before_tokens: bool,
    /// Elements left out after each head, token and batch
    gap: usize,
}

prop_compose! {
    fn layouts()(heads_before_tokens: bool, gap in prop::sample::select(vec![0, 8, 24])) -> Layout {
        Layout { heads_before_tokens, gap }
    }
}

prop_compose! {
    /// Half of the cases have as many keys as queries.
    fn cases(lengths: impl Strategy<Value = usize> + Clone, batches: impl Strategy<Value = usize>)(
        precision in prop::sample::select(vec![Precision::Bf16, Precision::F16]),
        batch in batches, queries in lengths.clone(), keys in prop::option::of(lengths),
        kv_heads in 1..3usize, group in 1..4usize, head_dim in prop::sample::select(HEAD_DIMS.to_vec()),
        causal: bool, scale in 0.03..0.3f32, layouts in [layouts(), layouts(), layouts()], seed: u64,
    ) -> Case {
        let keys = keys.unwrap_or(queries);
        let shape = AttentionShape { batch, queries, keys, heads: kv_heads * group, kv_heads, head_dim };
        Case { precision, shape, causal, scale, layouts, seed }
    }
}

impl Case {
    fn check_forward(&self, stream: &Stream) {
        let AttentionShape { head_dim, .. } = self.shape;
        let [q, k, v, _] = self.inputs();
        let visible = |b, h, t, s| self.visible(b, h, t, s);
        let expected = reference::attention(&self.shape, &q, &k, &v, self.scale.into(), visible);
        let plain = plain::attention(self.precision, &self.shape, &q, &k, &v, self.scale.into(), visible);

        let [q, k, v] = [
            self.upload(stream, 0, self.query_shape(), &q),
            self.upload(stream, 1, self.key_shape(), &k),
            self.upload(stream, 2, self.key_shape(), &v),
        ];
        let out = self.poisoned(stream, 0, self.query_shape());
        let lse = View::poisoned_contiguous(stream, Precision::F32, &self.lse_shape());
        let plan = AttentionForward::new(dtype(self.precision), head_dim).causal(self.causal);
        let plan = plan.plan(stream.device()).unwrap();
        let args = AttentionForwardArgs {
            shape: self.kernel_shape(),
            scale: self.scale,
            q: heads(&q),
            k: heads(&k),
            v: heads(&v),
            out: heads(&out),
            lse: lse.ptr(),
        };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the downloads.
        unsafe { plan.launch(stream, &args) }.unwrap();
        let (out, lse) = (out.download(), lse.download());
        Output::new("out", self.precision, &out, &plain.out, &expected.out).assert_forward();
        // One score can be anything down to 0, while the products it is the sum of are of size 1.
        Output::new("lse", Precision::F32, &lse, &plain.lse, &expected.lse)
            .cancellation(4e-6)
            .assert_forward();
    }

    fn check_backward(&self, stream: &Stream) {
        let AttentionShape { head_dim, .. } = self.shape;
        let [q, k, v, dout_values] = self.inputs();
        let scale = self.scale.into();
        let visible = |b, h, t, s| self.visible(b, h, t, s);
        let forward = reference::attention(&self.shape, &q, &k, &v, scale, visible);
        let expected = reference::attention_backward(&self.shape, &q, &k, &v, scale, visible, &dout_values);
        let plain =
            plain::attention_backward(self.precision, &self.shape, &q, &k, &v, scale, visible, &dout_values);

        let [q, k, v, out, dout] = [
            self.upload(stream, 0, self.query_shape(), &q),
            self.upload(stream, 1, self.key_shape(), &k),
            self.upload(stream, 2, self.key_shape(), &v),
            self.upload(stream, 0, self.query_shape(), &forward.out),
            self.upload(stream, 1, self.query_shape(), &dout_values),
        ];
        let lse = View::upload_contiguous(stream, Precision::F32, &self.lse_shape(), &forward.lse);
        let [dq, dk, dv] = [
            self.poisoned(stream, 2, self.query_shape()),
            self.poisoned(stream, 0, self.key_shape()),
            self.poisoned(stream, 1, self.key_shape()),
        ];
        let plan = AttentionBackward::new(dtype(self.precision), head_dim).causal(self.causal);
        let plan = plan.plan(stream.device()).unwrap();
        let workspace = plan.workspace_bytes(&self.kernel_shape()).div_ceil(4);
        let workspace = View::poisoned_contiguous(stream, Precision::F32, &[workspace]);
        let args = AttentionBackwardArgs {
            shape: self.kernel_shape(),
            scale: self.scale,
            q: heads(&q),
            k: heads(&k),
            v: heads(&v),
            out: heads(&out),
            grad_out: heads(&dout),
            lse: lse.ptr(),
            workspace: workspace.ptr(),
            grad_q: heads(&dq),
            grad_k: heads(&dk),
            grad_v: heads(&dv),
        };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the downloads.
        unsafe { plan.launch(stream, &args) }.unwrap();
        workspace.download(); // nothing was written around it
        let cancellation = self.delta_rounding(&forward.out, &dout_values);
        let [dq, dk, dv] = [dq, dk, dv].map(|gradient| gradient.download());
        let output =
            |name, kernel, plain, expected| Output::new(name, self.precision, kernel, plain, expected);
        output("dq", &dq, &plain.dq, &expected.dq).cancellation(cancellation).assert_gradient();
        output("dk", &dk, &plain.dk, &expected.dk).cancellation(cancellation).assert_gradient();
        output("dv", &dv, &plain.dv, &expected.dv).assert_gradient();
    }

    /// What rounding `out` does to the gradients of the scores by way of `delta`, the sum of the D products `out *
    /// dout`; and they to those of q and k, whose elements go up to 4 or so. On few rows the plain algorithm may be
    /// luckier.
    fn delta_rounding(&self, out: &[f64], dout: &[f64]) -> f64 {
        let products: Vec<f64> = out.iter().zip(dout).map(|(out, dout)| out * dout).collect();
        let rows = products.chunks_exact(self.shape.head_dim);
        let largest = rows.map(|row| row.iter().map(|x| x * x).sum::<f64>().sqrt()).fold(0.0, f64::max);
        self.precision.spacing(1.0) * largest * f64::from(self.scale) * 4.0
    }

    /// q, k, v and dout.
    fn inputs(&self) -> [Vec<f64>; 4] {
        let mut draw = Draw::new(self.precision, self.seed);
        [self.query_shape(), self.key_shape(), self.key_shape(), self.query_shape()]
            .map(|shape| draw.vec(shape.iter().product()))
    }

    fn visible(&self, b: usize, h: usize, t: usize, s: usize) -> bool {
        !self.causal || reference::causal(self.shape.queries, self.shape.keys)(b, h, t, s)
    }

    fn query_shape(&self) -> [usize; 4] {
        [self.shape.batch, self.shape.queries, self.shape.heads, self.shape.head_dim]
    }

    fn key_shape(&self) -> [usize; 4] {
        [self.shape.batch, self.shape.keys, self.shape.kv_heads, self.shape.head_dim]
    }

    fn lse_shape(&self) -> [usize; 3] {
        [self.shape.batch, self.shape.heads, self.shape.queries]
    }

    fn kernel_shape(&self) -> KernelShape {
        let AttentionShape { batch, queries, keys, heads, kv_heads, .. } = self.shape;
        KernelShape { batch, queries, keys, heads, kv_heads }
    }

    fn upload(&self, stream: &Stream, layout: usize, shape: [usize; 4], values: &[f64]) -> View {
        View::upload(stream, self.precision, &shape, &self.layouts[layout].strides(shape), values)
    }

    fn poisoned(&self, stream: &Stream, layout: usize, shape: [usize; 4]) -> View {
        View::poisoned(stream, self.precision, &shape, &self.layouts[layout].strides(shape))
    }
}

impl Layout {
    fn strides(self, [_, tokens, heads, head_dim]: [usize; 4]) -> [i64; 4] {
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
    let [batch, token, head, _] = view.strides[..] else { unreachable!("(B, N, heads, D)") };
    Heads { data: view.ptr(), strides: Strides { batch, token, head } }
}

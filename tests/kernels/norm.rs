use crate::device::{View, stream};
use crate::draw::{dtype, for_all, precisions};
use longhand_gpu::{DevicePtr, Stream};
use longhand_kernels::norm::{
    LayerNormBackward, LayerNormBackwardArgs, LayerNormForward, LayerNormForwardArgs,
};
use longhand_reference as reference;
use longhand_tests::tolerance::Output;
use longhand_tests::{Draw, Precision, plain};
use proptest::prelude::*;

#[test]
fn forward_is_as_close_to_the_reference_as_its_precision_allows() {
    let Some(stream) = stream() else { return };
    for_all(64, cases(), |case| case.check_forward(&stream));
}

#[test]
fn backward_is_as_close_to_the_reference_as_its_precision_allows() {
    let Some(stream) = stream() else { return };
    for_all(64, cases(), |case| case.check_backward(&stream));
}

/// One drawn layer norm.
#[derive(Debug)]
struct Case {
    precision: Precision,
    rows: usize,
    width: usize,
    /// Elements between the rows of the tensor that may have some
    gap: usize,
    /// Whether there is a residual, or a gradient of the sum
    residual: bool,
    /// Whether the sum overwrites the residual, or `dx` the gradient of the sum
    in_place: bool,
    eps: f32,
    seed: u64,
}

prop_compose! {
    /// Widths at and around the edges of what one warp and one block hold, and any other up to 2000; rows of up to a
    /// quarter million elements in all.
    fn cases()(
        precision in precisions(),
        width in prop_oneof![
            2 => prop::sample::select(vec![
                1, 2, 7, 8, 32, 33, 100, 256, 768, 1024, 1025, 1600, 4096, 4097, 4104, 8192, 8193, 8200, 16_384, 16_392,
                32_768, 32_769, 65_536,
            ]),
            1 => 1..2000usize,
        ],
        rows in prop::sample::select(vec![0, 1, 2, 3, 7, 8, 9, 31, 33, 255, 257, 2100]),
        gap in prop::sample::select(vec![0, 0, 8, 3]),
        residual: bool, in_place: bool, eps in prop::sample::select(vec![1e-5, 1e-2f32]), seed: u64,
    ) -> Case {
        Case { precision, rows: rows.min(1 + (1 << 18) / width), width, gap, residual, in_place, eps, seed }
    }
}

impl Case {
    fn check_forward(&self, stream: &Stream) {
        let &Case { precision, rows, width, eps, .. } = self;
        let mut draw = Draw::new(precision, self.seed);
        let (x, residual) = (draw.vec(rows * width), draw.vec(rows * width));
        let (weight_values, bias_values) = (draw.vec(width), draw.vec(width));
        let added = self.residual.then_some(&*residual);
        let expected = reference::layer_norm(&x, added, &weight_values, &bias_values, eps.into());
        let plain = plain::layer_norm(precision, &x, added, &weight_values, &bias_values, eps.into());

        let contiguous =
            |values: &[f64], shape: &[usize]| View::upload_contiguous(stream, precision, shape, values);
        let x = View::upload(stream, precision, &[rows, width], &self.strides(), &x);
        let residual = contiguous(&residual, &[rows, width]);
        let (weight, bias) = (contiguous(&weight_values, &[width]), contiguous(&bias_values, &[width]));
        let [sum, out] = [(); 2].map(|()| View::poisoned_contiguous(stream, precision, &[rows, width]));
        let [mean, rstd] = [(); 2].map(|()| View::poisoned_contiguous(stream, Precision::F32, &[rows]));
        let sum = if self.in_place { &residual } else { &sum };
        let plan = LayerNormForward::new(dtype(precision), width).unwrap().plan(stream.device()).unwrap();
        let args = LayerNormForwardArgs {
            rows,
            eps,
            x: x.ptr(),
            x_stride: x.strides[0],
            residual: self.given(&residual),
            weight: weight.ptr(),
            bias: bias.ptr(),
            sum: self.given(sum),
            out: out.ptr(),
            mean: mean.ptr(),
            rstd: rstd.ptr(),
        };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the downloads.
        unsafe { plan.launch(stream, &args) }.unwrap();
        if self.residual {
            Output::new("sum", precision, &sum.download(), &plain.sum, &expected.sum).assert_forward();
        }
        Output::new("out", precision, &out.download(), &plain.out, &expected.out).assert_forward();
        // The statistics are those of the sum as it is written.
        let expected = reference::layer_norm(&plain.sum, None, &weight_values, &bias_values, eps.into());
        Output::new("mean", Precision::F32, &mean.download(), &plain.mean, &expected.mean)
            .cancellation(1e-6)
            .assert_forward();
        Output::new("rstd", Precision::F32, &rstd.download(), &plain.rstd, &expected.rstd).assert_forward();
    }

    fn check_backward(&self, stream: &Stream) {
        let &Case { precision, rows, width, eps, .. } = self;
        let mut draw = Draw::new(precision, self.seed);
        let [sum, dout, dsum] = [(); 3].map(|()| draw.vec(rows * width));
        let weight = draw.vec(width);
        let forward = reference::layer_norm(&sum, None, &weight, &weight, eps.into());
        let added = self.residual.then_some(&*dsum);
        let expected = reference::layer_norm_backward(&sum, &weight, eps.into(), &dout, added);
        let plain = plain::layer_norm_backward(precision, &sum, &weight, eps.into(), &dout, added);

        let contiguous = |values: &[f64]| View::upload_contiguous(stream, precision, &[rows, width], values);
        let sum = View::upload(stream, precision, &[rows, width], &self.strides(), &sum);
        let (dout, dsum) = (contiguous(&dout), contiguous(&dsum));
        let weight = View::upload_contiguous(stream, precision, &[width], &weight);
        let [mean, rstd] = [&forward.mean, &forward.rstd]
            .map(|values| View::upload_contiguous(stream, Precision::F32, &[rows], values));
        let dx = View::poisoned_contiguous(stream, precision, &[rows, width]);
        let dx = if self.in_place && self.residual { &dsum } else { &dx };
        let [dweight, dbias] = [(); 2].map(|()| View::poisoned_contiguous(stream, precision, &[width]));
        let plan = LayerNormBackward::new(dtype(precision), width).unwrap().plan(stream.device()).unwrap();
        let workspace = plan.workspace_bytes(rows).div_ceil(4);
        let workspace = View::poisoned_contiguous(stream, Precision::F32, &[workspace]);
        let args = LayerNormBackwardArgs {
            rows,
            dy: dout.ptr(),
            dr: self.given(&dsum),
            sum: sum.ptr(),
            sum_stride: sum.strides[0],
            weight: weight.ptr(),
            mean: mean.ptr(),
            rstd: rstd.ptr(),
            dx: dx.ptr(),
            dweight: dweight.ptr(),
            dbias: dbias.ptr(),
            workspace: workspace.ptr(),
        };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the downloads.
        unsafe { plan.launch(stream, &args) }.unwrap();
        // In two columns, and in one, the parts of the gradient cancel but for eps.
        let largest_rstd = forward.rstd.iter().fold(0.0, |max: f64, rstd| max.max(*rstd));
        Output::new("dx", precision, &dx.download(), &plain.dx, &expected.dx)
            .cancellation(1e-6 * largest_rstd)
            .assert_gradient();
        Output::new("dweight", precision, &dweight.download(), &plain.dweight, &expected.dweight)
            .assert_gradient();
        Output::new("dbias", precision, &dbias.download(), &plain.dbias, &expected.dbias).assert_gradient();
        workspace.download(); // nothing was written around it
    }

    fn strides(&self) -> [i64; 2] {
        [(self.width + self.gap) as i64, 1]
    }

    /// What is there in half of the cases.
    fn given(&self, tensor: &View) -> DevicePtr {
        if self.residual { tensor.ptr() } else { DevicePtr::NULL }
    }
}

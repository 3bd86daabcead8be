use crate::check::{Draw, assert_close, assert_gradient, dot};
use longhand_reference::{dropout, layer_norm, layer_norm_backward, rms_norm, rms_norm_backward};
use proptest::prelude::*;

/// So large that a row of nearly equal numbers does not curve faster than finite differences can follow.
const EPS: f64 = 0.25;

proptest! {
    #[test]
    fn gradients_agree_with_finite_differences(rows in 0..5usize, width in 1..6usize, seed: u64) {
        let mut draw = Draw::new(seed);
        let [x, residual, dout, dsum] = [(); 4].map(|()| draw.vec(rows * width));
        let [weight, bias] = [(); 2].map(|()| draw.vec(width));
        let loss = |x: &[f64], residual: &[f64], weight: &[f64], bias: &[f64]| {
            let result = layer_norm(x, Some(residual), weight, bias, EPS);
            dot(&result.out, &dout) + dot(&result.sum, &dsum)
        };
        let sum = layer_norm(&x, Some(&residual), &weight, &bias, EPS).sum;
        let gradients = layer_norm_backward(&sum, &weight, EPS, &dout, Some(&dsum));
        assert_gradient("dx", &x, &gradients.dx, |x| loss(x, &residual, &weight, &bias));
        assert_gradient("dresidual", &residual, &gradients.dx, |residual| loss(&x, residual, &weight, &bias));
        assert_gradient("dweight", &weight, &gradients.dweight, |weight| loss(&x, &residual, weight, &bias));
        assert_gradient("dbias", &bias, &gradients.dbias, |bias| loss(&x, &residual, &weight, bias));
    }

    #[test]
    fn gradients_of_rms_norm_agree_with_finite_differences(rows in 0..5usize, width in 1..6usize, seed: u64) {
        let mut draw = Draw::new(seed);
        let [x, residual, dout, dsum] = [(); 4].map(|()| draw.vec(rows * width));
        let [weight, bias] = [(); 2].map(|()| draw.vec(width));
        let loss = |x: &[f64], residual: &[f64], weight: &[f64], bias: &[f64]| {
            let result = rms_norm(x, Some(residual), weight, bias, EPS);
            dot(&result.out, &dout) + dot(&result.sum, &dsum)
        };
        let sum = rms_norm(&x, Some(&residual), &weight, &bias, EPS).sum;
        let gradients = rms_norm_backward(&sum, &weight, EPS, &dout, Some(&dsum));
        assert_gradient("dx", &x, &gradients.dx, |x| loss(x, &residual, &weight, &bias));
        assert_gradient("dresidual", &residual, &gradients.dx, |residual| loss(&x, residual, &weight, &bias));
        assert_gradient("dweight", &weight, &gradients.dweight, |weight| loss(&x, &residual, weight, &bias));
        assert_gradient("dbias", &bias, &gradients.dbias, |bias| loss(&x, &residual, &weight, bias));
    }

    #[test]
    fn the_gradient_of_dropout_is_dropout(len in 0..40usize, key: [u32; 2], probability in 0.0..0.9, seed: u64) {
        let mut draw = Draw::new(seed);
        let [x, dout] = [(); 2].map(|()| draw.vec(len));
        let dx = dropout(&dout, key, probability);
        assert_gradient("dx", &x, &dx, |x| dot(&dropout(x, key, probability), &dout));
    }

    /// Of centred rows, the two norms are one.
    #[test]
    fn rms_norm_of_rows_with_mean_zero_is_layer_norm(rows in 0..4usize, half in 1..5usize, seed: u64) {
        let mut draw = Draw::new(seed);
        let x: Vec<f64> = draw.vec(rows * half).into_iter().flat_map(|x| [x, -x]).collect();
        let (weight, bias) = (draw.vec(2 * half), draw.vec(2 * half));
        let (rms, layer) = (rms_norm(&x, None, &weight, &bias, EPS), layer_norm(&x, None, &weight, &bias, EPS));
        assert_close(&rms.out, &layer.out);
        assert_close(&rms.rstd, &layer.rstd);
    }

    #[test]
    fn rows_come_out_with_mean_zero_and_variance_one(rows in 0..4usize, width in 2..9usize, seed: u64) {
        let mut x = Draw::new(seed).vec(rows * width);
        x.iter_mut().step_by(2).for_each(|x| *x += 8.0); // no row is nearly constant
        let result = layer_norm(&x, None, &vec![1.0; width], &vec![0.0; width], 0.0);
        for row in result.out.chunks_exact(width) {
            assert_close(&[row.iter().sum::<f64>(), dot(row, row)], &[0.0, width as f64]);
        }
    }

    #[test]
    fn a_missing_residual_is_a_residual_of_zeros(rows in 0..4usize, width in 1..5usize, seed: u64) {
        let mut draw = Draw::new(seed);
        let (x, weight, bias) = (draw.vec(rows * width), draw.vec(width), draw.vec(width));
        let zeros = vec![0.0; x.len()];
        prop_assert_eq!(
            layer_norm(&x, None, &weight, &bias, EPS),
            layer_norm(&x, Some(&zeros), &weight, &bias, EPS)
        );
        prop_assert_eq!(
            layer_norm_backward(&x, &weight, EPS, &x, None),
            layer_norm_backward(&x, &weight, EPS, &x, Some(&zeros))
        );
    }
}

#[test]
fn a_constant_row_gives_the_bias() {
    let result = layer_norm(&[3.0; 4], None, &[2.0; 4], &[1.0, 2.0, 3.0, 4.0], 0.25);
    assert_eq!(result.out, [1.0, 2.0, 3.0, 4.0]);
    assert_eq!(result.rstd, [2.0]);
}

#[test]
#[should_panic(expected = "x (N, W) has 5 elements, must be rows of 2")]
fn a_broken_row_is_named() {
    layer_norm(&[0.0; 5], None, &[1.0; 2], &[0.0; 2], EPS);
}

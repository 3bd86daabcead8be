use crate::check::{Draw, assert_close, assert_gradient, dot};
use longhand_reference::{linear, linear_backward};
use proptest::prelude::*;

proptest! {
    #[test]
    fn gradients_agree_with_finite_differences(rows in 0..4usize, inputs in 1..4usize, outputs in 1..4usize, seed: u64) {
        let sizes = (inputs, outputs);
        let mut draw = Draw::new(seed);
        let [x, weight, bias, dy] = [rows * inputs, inputs * outputs, outputs, rows * outputs].map(|len| draw.vec(len));
        let gradients = linear_backward(sizes, &x, &weight, &dy);
        let loss = |x: &[f64], weight: &[f64], bias: &[f64]| dot(&linear(sizes, x, weight, Some(bias)), &dy);
        assert_gradient("dx", &x, &gradients.dx, |x| loss(x, &weight, &bias));
        assert_gradient("dweight", &weight, &gradients.dweight, |weight| loss(&x, weight, &bias));
        assert_gradient("dbias", &bias, &gradients.dbias, |bias| loss(&x, &weight, bias));
    }
}

#[test]
fn each_output_is_a_column_of_the_weight() {
    let y = linear((2, 3), &[1.0, 10.0], &[1.0, 2.0, 3.0, 4.0, 5.0, 6.0], None);
    assert_close(&y, &[41.0, 52.0, 63.0]);
}

#[test]
#[should_panic(expected = "weight (in, out) has 5 elements, must have 6")]
fn a_weight_of_the_wrong_size_is_named() {
    linear((2, 3), &[0.0; 2], &[0.0; 5], None);
}

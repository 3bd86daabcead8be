use crate::check::{Draw, assert_close, assert_gradient};
use longhand_reference::{softmax, softmax_backward};
use proptest::prelude::*;

proptest! {
    #[test]
    fn gradients_agree_with_finite_differences(rows in 0..4usize, width in 1..6usize, seed: u64) {
        let mut draw = Draw::new(seed);
        let [x, dout] = [(); 2].map(|()| draw.vec(rows * width));
        let dlse = draw.vec(rows);
        let dx = softmax_backward(&softmax(&x, width).out, width, &dout, &dlse);
        assert_gradient("dx", &x, &dx, |x| {
            let result = softmax(x, width);
            let of = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
            of(&result.out, &dout) + of(&result.lse, &dlse)
        });
    }

    #[test]
    fn a_row_adds_up_to_1_whatever_is_added_to_it(width in 1..6usize, shift in -500.0..500.0f64, seed: u64) {
        let x = Draw::new(seed).vec(width);
        let shifted: Vec<f64> = x.iter().map(|x| x + shift).collect();
        let (result, moved) = (softmax(&x, width), softmax(&shifted, width));
        assert_close(&[result.out.iter().sum::<f64>()], &[1.0]);
        assert!(result.out.iter().zip(&moved.out).all(|(a, b)| (a - b).abs() < 1e-12));
        assert!((result.lse[0] + shift - moved.lse[0]).abs() < 1e-12);
    }
}

#[test]
fn a_row_of_minus_infinity_is_zero() {
    let result = softmax(&[f64::NEG_INFINITY; 2], 2);
    assert_eq!((result.out, result.lse), (vec![0.0; 2], vec![f64::NEG_INFINITY]));
}

use crate::check::{Draw, assert_gradient, dot};
use longhand_reference::{embedding, embedding_backward};
use proptest::prelude::*;

proptest! {
    #[test]
    fn gradients_agree_with_finite_differences(ids in prop::collection::vec(0..4u32, 0..7), width in 1..4usize, seed: u64) {
        let mut draw = Draw::new(seed);
        let (weight, dout) = (draw.vec(4 * width), draw.vec(ids.len() * width));
        let dweight = embedding_backward(4, width, &ids, &dout);
        assert_gradient("dweight", &weight, &dweight, |weight| dot(&embedding(weight, width, &ids), &dout));
    }
}

#[test]
#[should_panic(expected = "an id is 3, must be below V = 3")]
fn an_id_outside_the_table_is_named() {
    embedding(&[0.0; 6], 2, &[0, 3]);
}

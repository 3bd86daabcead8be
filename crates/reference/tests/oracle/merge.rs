use crate::check::{Draw, assert_close, assert_gradient, dot};
use longhand_reference::{
    AttentionShape, PartialAttention, attention, attention_merge, attention_merge_backward, full,
};

const SIZES: [usize; 4] = [2, 3, 2, 4];

fn parts<'a>(outs: &'a [Vec<f64>], lses: &'a [Vec<f64>]) -> Vec<PartialAttention<'a>> {
    outs.iter().zip(lses).map(|(out, lse)| PartialAttention { out, lse }).collect()
}

/// Three parts, of which some have no key in some rows, and all of them none in one.
fn inputs() -> [Vec<Vec<f64>>; 2] {
    let mut draw = Draw::new(1);
    let [mut outs, mut lses] = [48, 12].map(|len| (0..3).map(|_| draw.vec(len)).collect::<Vec<_>>());
    for (i, lse) in lses.iter_mut().enumerate() {
        for row in [i, 7] {
            lse[row] = f64::NEG_INFINITY;
        }
    }
    // Whatever is there: it counts for nothing. Row 0 of the lse is row 0 of the out.
    outs[0][..4].fill(f64::NAN);
    [outs, lses]
}

#[test]
fn attention_over_slices_of_the_keys_merges_to_attention_over_all_of_them() {
    let shape =
        AttentionShape { batch: 1, queries: 3, keys: 7, heads: 2, kv_heads: 1, head_dim: 4, value_dim: 4 };
    let mut draw = Draw::new(2);
    let (q, k, v) = (draw.vec(24), draw.vec(28), draw.vec(28));
    let all = attention(&shape, &q, &k, &v, 0.7, full);
    let slices = [0..2, 2..2, 2..7].map(|keys: std::ops::Range<usize>| {
        let slice = keys.start * 4..keys.end * 4;
        let shape = AttentionShape { keys: keys.len(), ..shape };
        attention(&shape, &q, &k[slice.clone()], &v[slice], 0.7, full)
    });
    let parts = slices.each_ref().map(|part| PartialAttention { out: &part.out, lse: &part.lse });
    let merged = attention_merge([1, 3, 2, 4], &parts);
    assert_close(&merged.out, &all.out);
    assert_close(&merged.lse, &all.lse);
}

#[test]
fn parts_without_keys_count_for_nothing() {
    let [outs, lses] = inputs();
    let merged = attention_merge(SIZES, &parts(&outs, &lses));
    assert!(merged.out.iter().all(|x| x.is_finite()));
    // (b, h, t) = (1, 0, 1): the row of no part.
    assert_eq!(merged.lse[7], f64::NEG_INFINITY);
    assert_eq!(merged.out[32..36], [0.0; 4]);
}

#[test]
fn merge_backward_is_the_derivative_of_merge() {
    let [mut outs, lses] = inputs();
    outs[0][..4].fill(0.5); // a number, so that it can be moved
    let (dout, dlse) = (Draw::new(3).vec(48), Draw::new(4).vec(12));
    let gradients = attention_merge_backward(SIZES, &parts(&outs, &lses), &dout, &dlse);
    let loss = |outs: &[Vec<f64>], lses: &[Vec<f64>]| {
        let merged = attention_merge(SIZES, &parts(outs, lses));
        let finite =
            merged.lse.iter().map(|lse| if lse.is_finite() { *lse } else { 0.0 }).collect::<Vec<_>>();
        dot(&merged.out, &dout) + dot(&finite, &dlse)
    };
    for i in 0..3 {
        let with = |values: &[Vec<f64>], moved: &[f64]| {
            let mut values = values.to_vec();
            values[i] = moved.to_vec();
            values
        };
        assert_gradient("dout", &outs[i], &gradients.dout[i], |moved| loss(&with(&outs, moved), &lses));
        assert_gradient("dlse", &lses[i], &gradients.dlse[i], |moved| loss(&outs, &with(&lses, moved)));
    }
}

use crate::{add_scaled, check_len, check_rows};

/// Looks up the rows of a table: `out[i] = weight[ids[i]]`.
///
/// `weight` is `(V, C)`, `ids` `(N)`; returns `(N, C)`.
///
/// # Panics
/// When `weight` is not whole rows of `width`, or an id is not below `V`.
///
/// ```
/// assert_eq!(longhand_reference::embedding(&[1.0, 2.0, 3.0, 4.0], 2, &[1, 1]), [3.0, 4.0, 3.0, 4.0]);
/// ```
pub fn embedding(weight: &[f64], width: usize, ids: &[u32]) -> Vec<f64> {
    check_ids(ids, check_rows("weight (V, C)", weight, width));
    ids.iter().flat_map(|&id| &weight[id as usize * width..][..width]).copied().collect()
}

/// Backward of [`embedding`]: `dweight[ids[i]] += dout[i]`, so an id that occurs twice gets both.
///
/// `dout` is `(N, C)`; returns `(V, C)`.
///
/// # Panics
/// When `dout` is not `ids.len()` rows of `width`, or an id is not below `vocabulary`.
///
/// ```
/// assert_eq!(longhand_reference::embedding_backward(2, 1, &[1, 1], &[3.0, 4.0]), [0.0, 7.0]);
/// ```
pub fn embedding_backward(vocabulary: usize, width: usize, ids: &[u32], dout: &[f64]) -> Vec<f64> {
    check_rows("dout (N, C)", dout, width);
    check_len("dout (N, C)", dout, ids.len() * width);
    check_ids(ids, vocabulary);
    let mut dweight = vec![0.0; vocabulary * width];
    for (&id, dout) in ids.iter().zip(dout.chunks_exact(width)) {
        add_scaled(&mut dweight[id as usize * width..][..width], 1.0, dout);
    }
    dweight
}

#[track_caller]
fn check_ids(ids: &[u32], vocabulary: usize) {
    for &id in ids {
        assert!((id as usize) < vocabulary, "an id is {id}, must be below V = {vocabulary}");
    }
}

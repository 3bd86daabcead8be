use crate::philox;

/// Dropout (Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting") of each element
/// with `probability`: element `i` has word `i % 4` of [`philox`](philox()) of the counter `(i / 4, 0)`, is zero where
/// that is below `probability * 2³²`, and is multiplied by `1 / (1 - probability)` otherwise. Its gradient is the same
/// function of the gradient of the output.
///
/// ```
/// let dropped = longhand_reference::dropout(&[1.0; 1000], [1, 2], 0.75);
/// assert!(dropped.iter().all(|x| [0.0, 4.0].contains(x)));
/// ```
#[must_use]
pub fn dropout(x: &[f64], key: [u32; 2], probability: f64) -> Vec<f64> {
    let word = |i: usize| {
        let quad = (i / 4) as u64;
        philox(key, [quad as u32, (quad >> 32) as u32, 0, 0])[i % 4]
    };
    let is_dropped = |i: usize| f64::from(word(i)) < (probability * 4_294_967_296.0).floor();
    x.iter().enumerate().map(|(i, x)| if is_dropped(i) { 0.0 } else { x / (1.0 - probability) }).collect()
}

use crate::{add_scaled, check_len, check_rows, dot};

/// What [`linear_backward`] returns.
#[derive(Clone, Debug, PartialEq)]
pub struct LinearGradients {
    /// `(N, in)`
    pub dx: Vec<f64>,
    /// `(in, out)`
    pub dweight: Vec<f64>,
    /// `(out)`
    pub dbias: Vec<f64>,
}

/// An affine map: `y = x · weight + bias`.
///
/// `x` is `(N, in)`, `weight` `(in, out)` (GPT-2's layout, the transpose of PyTorch's `nn.Linear`), `bias`
/// `(out)`; `in` and `out` are `sizes`. Returns `(N, out)`.
///
/// # Panics
/// When a slice's length contradicts `sizes`, or a size is 0.
///
/// ```
/// let y = longhand_reference::linear((2, 1), &[1.0, 2.0], &[3.0, 4.0], Some(&[0.5]));
/// assert_eq!(y, [11.5]);
/// ```
pub fn linear(sizes: (usize, usize), x: &[f64], weight: &[f64], bias: Option<&[f64]>) -> Vec<f64> {
    let (inputs, outputs) = sizes;
    let rows = check(sizes, x, weight);
    let mut y = vec![0.0; rows * outputs];
    for (x, y) in x.chunks_exact(inputs).zip(y.chunks_exact_mut(outputs)) {
        for (x, weight) in x.iter().zip(weight.chunks_exact(outputs)) {
            add_scaled(y, *x, weight);
        }
        if let Some(bias) = bias {
            check_len("bias (out)", bias, outputs);
            add_scaled(y, 1.0, bias);
        }
    }
    y
}

/// Backward of [`linear`]:
///
/// ```text
/// dx      = dy · weightᵀ
/// dweight = xᵀ · dy
/// dbias   = Σ dy over the rows
/// ```
///
/// `dy` is `(N, out)`.
///
/// # Panics
/// As [`linear`].
///
/// ```
/// let gradients = longhand_reference::linear_backward((2, 1), &[1.0, 2.0], &[3.0, 4.0], &[10.0]);
/// assert_eq!(gradients.dx, [30.0, 40.0]);
/// assert_eq!(gradients.dweight, [10.0, 20.0]);
/// assert_eq!(gradients.dbias, [10.0]);
/// ```
pub fn linear_backward(sizes: (usize, usize), x: &[f64], weight: &[f64], dy: &[f64]) -> LinearGradients {
    let (inputs, outputs) = sizes;
    let rows = check(sizes, x, weight);
    check_len("dy (N, out)", dy, rows * outputs);
    let mut dx = Vec::with_capacity(x.len());
    let mut dweight = vec![0.0; weight.len()];
    let mut dbias = vec![0.0; outputs];
    for (x, dy) in x.chunks_exact(inputs).zip(dy.chunks_exact(outputs)) {
        dx.extend(weight.chunks_exact(outputs).map(|weight| dot(dy, weight)));
        for (x, dweight) in x.iter().zip(dweight.chunks_exact_mut(outputs)) {
            add_scaled(dweight, *x, dy);
        }
        add_scaled(&mut dbias, 1.0, dy);
    }
    LinearGradients { dx, dweight, dbias }
}

#[track_caller]
fn check((inputs, outputs): (usize, usize), x: &[f64], weight: &[f64]) -> usize {
    assert!(outputs > 0, "out is 0, must be at least 1");
    check_len("weight (in, out)", weight, inputs * outputs);
    check_rows("x (N, in)", x, inputs)
}

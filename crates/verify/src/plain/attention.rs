use super::{log_sum_exp, sum, to_f32, to_f64};
use crate::Precision;
use longhand_reference::{Attention, AttentionGradients, AttentionShape};

/// Attention in three steps with the scores in memory: queries times keys and scaled, softmax, times values.
///
/// The arguments are those of `longhand_reference::attention`. `lse` is f32, of the scores before they are rounded.
pub fn attention(
    precision: Precision,
    shape: &AttentionShape,
    q: &[f64],
    k: &[f64],
    v: &[f64],
    scale: f64,
    visible: impl Fn(usize, usize, usize, usize) -> bool,
) -> Attention {
    let mut out = vec![0.0; q.len()];
    let mut lse = Vec::with_capacity(shape.batch * shape.heads * shape.queries);
    for (b, h) in heads(shape) {
        let head = Head::new(precision, shape, q, k, v, scale as f32, b, h);
        let (probabilities, head_lse) = head.softmax(|t, s| visible(b, h, t, s));
        lse.extend(to_f64(&head_lse));
        shape.put(&mut out, b, h, &probabilities.times(&head.v).rounded(precision));
    }
    Attention { out, lse }
}

/// Backward of [`attention`], step by step, with the probabilities and their gradients in memory.
///
/// The arguments are those of `longhand_reference::attention_backward`. What the query heads of a group add to one
/// key head is summed in f32.
#[expect(clippy::too_many_arguments, reason = "those of the reference, and the precision")]
pub fn attention_backward(
    precision: Precision,
    shape: &AttentionShape,
    q: &[f64],
    k: &[f64],
    v: &[f64],
    scale: f64,
    visible: impl Fn(usize, usize, usize, usize) -> bool,
    dout: &[f64],
) -> AttentionGradients {
    let round = |x| precision.round(x);
    let scale = scale as f32;
    let keys = AttentionShape { queries: shape.keys, heads: shape.kv_heads, ..*shape };
    let group = shape.heads / shape.kv_heads;
    let mut gradients =
        AttentionGradients { dq: vec![0.0; q.len()], dk: vec![0.0; k.len()], dv: vec![0.0; v.len()] };
    for (b, kv_head) in heads(&keys) {
        let mut dk = Matrix::zeros(shape.keys, shape.head_dim);
        let mut dv = Matrix::zeros(shape.keys, shape.head_dim);
        for h in kv_head * group..(kv_head + 1) * group {
            let head = Head::new(precision, shape, q, k, v, scale, b, h);
            let dout = shape.get(dout, b, h);
            let (p, _) = head.softmax(|t, s| visible(b, h, t, s));
            let out = p.times(&head.v).rounded(precision);
            let dp = dout.times(&head.v.transposed()).rounded(precision);
            let mut ds = Matrix::zeros(shape.queries, shape.keys);
            for t in 0..shape.queries {
                let delta = sum(dout.row(t).iter().zip(out.row(t)).map(|(dout, out)| dout * out));
                for s in 0..shape.keys {
                    ds.row_mut(t)[s] = round(p.row(t)[s] * (dp.row(t)[s] - delta));
                }
            }
            dv.add(&p.transposed().times(&dout).rounded(precision));
            dk.add(&ds.transposed().times(&head.q).scaled(scale).rounded(precision));
            shape.put(&mut gradients.dq, b, h, &ds.times(&head.k).scaled(scale).rounded(precision));
        }
        keys.put(&mut gradients.dk, b, kv_head, &dk.rounded(precision));
        keys.put(&mut gradients.dv, b, kv_head, &dv.rounded(precision));
    }
    gradients
}

/// One query head and the key head it reads.
struct Head {
    precision: Precision,
    scale: f32,
    q: Matrix,
    k: Matrix,
    v: Matrix,
}

impl Head {
    #[expect(clippy::too_many_arguments, reason = "those of attention, and which head")]
    fn new(
        precision: Precision,
        shape: &AttentionShape,
        q: &[f64],
        k: &[f64],
        v: &[f64],
        scale: f32,
        b: usize,
        h: usize,
    ) -> Head {
        let keys = AttentionShape { queries: shape.keys, heads: shape.kv_heads, ..*shape };
        let kv_head = h / (shape.heads / shape.kv_heads);
        Head {
            precision,
            scale,
            q: shape.get(q, b, h),
            k: keys.get(k, b, kv_head),
            v: keys.get(v, b, kv_head),
        }
    }

    /// `(T, S)` probabilities and `(T)` LSE.
    fn softmax(&self, visible: impl Fn(usize, usize) -> bool) -> (Matrix, Vec<f32>) {
        let exact = self.q.times(&self.k.transposed()).scaled(self.scale);
        let mut p = Matrix::zeros(exact.rows, exact.columns);
        let lse = (0..exact.rows).map(|t| {
            let seen: Vec<usize> = (0..exact.columns).filter(|&s| visible(t, s)).collect();
            let rounded = |s: &usize| self.precision.round(exact.row(t)[*s]);
            let lse = log_sum_exp(seen.iter().map(rounded));
            for s in &seen {
                p.row_mut(t)[*s] = self.precision.round((rounded(s) - lse).exp());
            }
            log_sum_exp(seen.iter().map(|s| exact.row(t)[*s]))
        });
        let lse = lse.collect();
        (p, lse)
    }
}

/// Every `(b, h)`.
fn heads(shape: &AttentionShape) -> impl Iterator<Item = (usize, usize)> + use<> {
    let heads = shape.heads;
    (0..shape.batch).flat_map(move |b| (0..heads).map(move |h| (b, h)))
}

/// One head of a `(B, T, H, D)` tensor as a `(T, D)` matrix.
trait HeadOf {
    fn get(&self, tensor: &[f64], b: usize, h: usize) -> Matrix;
    fn put(&self, tensor: &mut [f64], b: usize, h: usize, head: &Matrix);
}

impl HeadOf for AttentionShape {
    fn get(&self, tensor: &[f64], b: usize, h: usize) -> Matrix {
        let rows = (0..self.queries).flat_map(|t| {
            let start = ((b * self.queries + t) * self.heads + h) * self.head_dim;
            to_f32(&tensor[start..start + self.head_dim])
        });
        Matrix { rows: self.queries, columns: self.head_dim, values: rows.collect() }
    }

    fn put(&self, tensor: &mut [f64], b: usize, h: usize, head: &Matrix) {
        for t in 0..self.queries {
            let start = ((b * self.queries + t) * self.heads + h) * self.head_dim;
            tensor[start..start + self.head_dim].copy_from_slice(&to_f64(head.row(t)));
        }
    }
}

/// Row-major.
struct Matrix {
    rows: usize,
    columns: usize,
    values: Vec<f32>,
}

impl Matrix {
    fn zeros(rows: usize, columns: usize) -> Matrix {
        Matrix { rows, columns, values: vec![0.0; rows * columns] }
    }

    fn row(&self, row: usize) -> &[f32] {
        &self.values[row * self.columns..][..self.columns]
    }

    fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.values[row * self.columns..][..self.columns]
    }

    fn transposed(&self) -> Matrix {
        let mut transposed = Matrix::zeros(self.columns, self.rows);
        for i in 0..self.rows {
            for j in 0..self.columns {
                transposed.values[j * self.rows + i] = self.values[i * self.columns + j];
            }
        }
        transposed
    }

    /// `self · other`, summed in f32.
    fn times(&self, other: &Matrix) -> Matrix {
        let mut product = Matrix::zeros(self.rows, other.columns);
        for i in 0..self.rows {
            for (k, left) in self.row(i).iter().enumerate() {
                for (sum, right) in product.row_mut(i).iter_mut().zip(other.row(k)) {
                    *sum += left * right;
                }
            }
        }
        product
    }

    fn add(&mut self, other: &Matrix) {
        for (sum, x) in self.values.iter_mut().zip(&other.values) {
            *sum += x;
        }
    }

    fn scaled(mut self, scale: f32) -> Matrix {
        self.values.iter_mut().for_each(|x| *x *= scale);
        self
    }

    fn rounded(mut self, precision: Precision) -> Matrix {
        self.values.iter_mut().for_each(|x| *x = precision.round(*x));
        self
    }
}

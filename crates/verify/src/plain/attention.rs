use super::{log_sum_exp, sum, to_f32, to_f64};
use crate::Precision;
use longhand_reference::{Attention, AttentionGradients, AttentionShape, Scoring};
use std::ops::Range;

/// Attention in three steps with the scores in memory: queries times keys and scaled, softmax, times values.
///
/// The arguments are those of `longhand_reference::attention_scored`. `lse` is f32, of the scores before they are rounded.
pub fn attention(
    precision: Precision,
    shape: &AttentionShape,
    q: &[f64],
    k: &[f64],
    v: &[f64],
    scale: f64,
    scoring: &Scoring<'_>,
) -> Attention {
    let mut out = vec![0.0; shape.batch * shape.queries * shape.heads * shape.value_dim];
    let mut lse = Vec::with_capacity(shape.batch * shape.heads * shape.queries);
    for (b, h) in pairs(shape.batch, shape.heads) {
        let head = Head::new(precision, shape, q, k, v, scale as f32, b, h);
        let softmax = head.softmax(scoring);
        lse.extend(to_f64(&softmax.lse));
        let kept = head.kept(&softmax.p, scoring);
        queries(shape, shape.value_dim).put(&mut out, b, h, &kept.times(&head.v).rounded(precision));
    }
    Attention { out, lse }
}

/// Backward of [`attention`], step by step, with the probabilities and their gradients in memory.
///
/// The arguments are those of `longhand_reference::attention_scored_backward`. What the query heads of a group add to one
/// key head is summed in f32.
#[expect(clippy::too_many_arguments, reason = "those of the reference, and the precision")]
pub fn attention_backward(
    precision: Precision,
    shape: &AttentionShape,
    q: &[f64],
    k: &[f64],
    v: &[f64],
    scale: f64,
    scoring: &Scoring<'_>,
    [dout, dlse]: [&[f64]; 2],
) -> AttentionGradients {
    let round = |x| precision.round(x);
    let scale = scale as f32;
    let group = shape.heads / shape.kv_heads;
    let mut gradients = AttentionGradients {
        dq: vec![0.0; q.len()],
        dk: vec![0.0; k.len()],
        dv: vec![0.0; v.len()],
        dsinks: vec![0.0; scoring.sinks.len()],
        dscore: vec![0.0; shape.batch * shape.heads * shape.queries * shape.keys],
    };
    for (b, kv_head) in pairs(shape.batch, shape.kv_heads) {
        let mut dk = Matrix::zeros(shape.keys, shape.head_dim);
        let mut dv = Matrix::zeros(shape.keys, shape.value_dim);
        for h in kv_head * group..(kv_head + 1) * group {
            let head = Head::new(precision, shape, q, k, v, scale, b, h);
            let dout = queries(shape, shape.value_dim).get(dout, b, h);
            let Softmax { p, slope, lse } = head.softmax(scoring);
            let kept = head.kept(&p, scoring);
            let out = kept.times(&head.v).rounded(precision);
            let dp = head.kept(&dout.times(&head.v.transposed()).rounded(precision), scoring);
            let mut ds = Matrix::zeros(shape.queries, shape.keys);
            for (t, &lse) in lse.iter().enumerate() {
                let row = (b * shape.heads + h) * shape.queries + t;
                let dlse = dlse.get(row).copied().unwrap_or(0.0) as f32;
                let delta = sum(dout.row(t).iter().zip(out.row(t)).map(|(dout, out)| dout * out)) - dlse;
                if let Some(&sink) = scoring.sinks.get(h)
                    && lse > f32::NEG_INFINITY
                {
                    let p = round((sink as f32 - lse).exp());
                    gradients.dsinks[h] = f64::from(gradients.dsinks[h] as f32 - p * delta);
                }
                for s in 0..shape.keys {
                    let of_score = round(p.row(t)[s] * (dp.row(t)[s] - delta));
                    gradients.dscore[row * shape.keys + s] = of_score.into();
                    ds.row_mut(t)[s] = round(of_score * slope.row(t)[s]);
                }
            }
            dv.add(&kept.transposed().times(&dout).rounded(precision));
            dk.add(&ds.transposed().times(&head.q).scaled(scale).rounded(precision));
            let dq = &ds.times(&head.k).scaled(scale).rounded(precision);
            queries(shape, shape.head_dim).put(&mut gradients.dq, b, h, dq);
        }
        keys(shape, shape.head_dim).put(&mut gradients.dk, b, kv_head, &dk.rounded(precision));
        keys(shape, shape.value_dim).put(&mut gradients.dv, b, kv_head, &dv.rounded(precision));
    }
    gradients
}

/// One query head and the key head it reads.
struct Head {
    precision: Precision,
    place: [usize; 2],
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
        let kv_head = h / (shape.heads / shape.kv_heads);
        Head {
            precision,
            place: [b, h],
            scale,
            q: queries(shape, shape.head_dim).get(q, b, h),
            k: keys(shape, shape.head_dim).get(k, b, kv_head),
            v: keys(shape, shape.value_dim).get(v, b, kv_head),
        }
    }

    fn softmax(&self, scoring: &Scoring<'_>) -> Softmax {
        let [b, h] = self.place;
        let products = self.q.times(&self.k.transposed()).scaled(self.scale);
        let zeros = || Matrix::zeros(products.rows, products.columns);
        let (mut p, mut slope, mut lse) = (zeros(), zeros(), Vec::new());
        let sink = scoring.sinks.get(h).map(|&sink| sink as f32);
        for t in 0..products.rows {
            let seen: Vec<usize> = (0..products.columns).filter(|&s| (scoring.visible)(b, h, t, s)).collect();
            let scored = |s: &usize| (scoring.score)(products.row(t)[*s].into(), [b, h, t, *s]);
            let scores: Vec<f32> = seen.iter().map(|s| scored(s).0 as f32).collect();
            let rounded: Vec<f32> = scores.iter().map(|score| self.precision.round(*score)).collect();
            let of_rounded = log_sum_exp(rounded.iter().copied().chain(sink));
            for (s, score) in seen.iter().zip(&rounded) {
                p.row_mut(t)[*s] = self.precision.round((score - of_rounded).exp());
                slope.row_mut(t)[*s] = scored(s).1 as f32;
            }
            lse.push(log_sum_exp(scores.into_iter().chain(sink)));
        }
        Softmax { p, slope, lse }
    }

    /// Times what each is kept with.
    fn kept(&self, values: &Matrix, scoring: &Scoring<'_>) -> Matrix {
        let [b, h] = self.place;
        let mut kept = Matrix::zeros(values.rows, values.columns);
        for t in 0..values.rows {
            for s in 0..values.columns {
                let keep = (scoring.keep)(b, h, t, s) as f32;
                kept.row_mut(t)[s] = if keep == 1.0 {
                    values.row(t)[s]
                } else {
                    self.precision.round(values.row(t)[s] * keep)
                };
            }
        }
        kept
    }
}

/// `(T, S)` probabilities and derivatives of scores by products, and `(T)` LSE.
struct Softmax {
    p: Matrix,
    slope: Matrix,
    lse: Vec<f32>,
}

/// Every `(b, h)`.
fn pairs(batch: usize, heads: usize) -> impl Iterator<Item = (usize, usize)> {
    (0..batch).flat_map(move |b| (0..heads).map(move |h| (b, h)))
}

/// A `(B, N, heads, width)` tensor, of which one head is an `(N, width)` matrix.
struct Heads {
    tokens: usize,
    heads: usize,
    width: usize,
}

fn queries(shape: &AttentionShape, width: usize) -> Heads {
    Heads { tokens: shape.queries, heads: shape.heads, width }
}

fn keys(shape: &AttentionShape, width: usize) -> Heads {
    Heads { tokens: shape.keys, heads: shape.kv_heads, width }
}

impl Heads {
    fn get(&self, tensor: &[f64], b: usize, h: usize) -> Matrix {
        let rows = (0..self.tokens).flat_map(|t| to_f32(&tensor[self.row(b, t, h)]));
        Matrix { rows: self.tokens, columns: self.width, values: rows.collect() }
    }

    fn put(&self, tensor: &mut [f64], b: usize, h: usize, head: &Matrix) {
        for t in 0..self.tokens {
            tensor[self.row(b, t, h)].copy_from_slice(&to_f64(head.row(t)));
        }
    }

    fn row(&self, b: usize, t: usize, h: usize) -> Range<usize> {
        let start = ((b * self.tokens + t) * self.heads + h) * self.width;
        start..start + self.width
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

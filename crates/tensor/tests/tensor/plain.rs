//! The textbook algorithms in the type's own precision, as a framework runs them without fusing anything: every tensor that
//! would be written to memory is rounded to the type, what is in between is f32, and sums are taken from the first term to
//! the last. Their gradients are those of the steps, in the same precision.
//!
//! On the CPU, of f32, bf16 and f16. The steps are this file's own; of the crate are the views, and the walk back.

use longhand_reference::{causal, erf};
use longhand_tensor::ops::{IGNORE_INDEX, LossOptions};
use longhand_tensor::{Backward, Device, Dtype, Forward, Operation, Result, Tensor, apply};

fn floats(x: &Tensor) -> Vec<f32> {
    x.detach().to_dtype(Dtype::F32).unwrap().to_vec::<f32>().unwrap()
}

fn rounded(values: Vec<f32>, shape: &[usize], dtype: Dtype) -> Tensor {
    Tensor::from_vec(values, shape, &Device::Cpu).unwrap().to_dtype(dtype).unwrap()
}

/// A function of each element, by its place and value, with its derivative.
struct Map<F>(F);

impl<F: Fn(usize, f32) -> (f32, f32) + Send + Sync + 'static> Operation for Map<F> {
    fn name(&self) -> &str {
        "plain map"
    }
    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let x = &inputs[0];
        let values = floats(x).into_iter().enumerate().map(|(i, x)| (self.0)(i, x).0).collect();
        Ok(Forward::new([rounded(values, x.shape(), x.dtype())]).save([Some(x.clone())]))
    }
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let (x, grad) = (ctx.saved(0)?, floats(&ctx.grad(0)?));
        let values =
            floats(x).into_iter().zip(grad).enumerate().map(|(i, (x, grad))| grad * (self.0)(i, x).1);
        Ok(vec![Some(rounded(values.collect(), x.shape(), x.dtype()))])
    }
}

fn map(x: &Tensor, f: impl Fn(f32) -> (f32, f32) + Send + Sync + 'static) -> Result<Tensor> {
    Ok(apply(Map(move |_, x| f(x)), &[x])?.remove(0))
}

/// A function of two elements, with both derivatives.
struct Zip(fn(f32, f32) -> (f32, [f32; 2]));

impl Operation for Zip {
    fn name(&self) -> &str {
        "plain zip"
    }
    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let (a, b) = (&inputs[0], &inputs[1]);
        assert_eq!((a.shape(), a.dtype()), (b.shape(), b.dtype()));
        let values = floats(a).into_iter().zip(floats(b)).map(|(a, b)| (self.0)(a, b).0).collect();
        let saved = [a, b].map(|x| Some(x.clone()));
        Ok(Forward::new([rounded(values, a.shape(), a.dtype())]).save(saved))
    }
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let (a, b, grad) = (ctx.saved(0)?, ctx.saved(1)?, floats(&ctx.grad(0)?));
        let slopes: Vec<[f32; 2]> =
            floats(a).into_iter().zip(floats(b)).map(|(a, b)| (self.0)(a, b).1).collect();
        let of = |which: usize| {
            let values = slopes.iter().zip(&grad).map(|(slopes, grad)| grad * slopes[which]).collect();
            Some(rounded(values, a.shape(), a.dtype()))
        };
        Ok(vec![of(0), of(1)])
    }
}

fn zip(f: fn(f32, f32) -> (f32, [f32; 2]), a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok(apply(Zip(f), &[a, b])?.remove(0))
}

/// `a b` of matrices, as many of the one as of the other.
struct Product;

impl Operation for Product {
    fn name(&self) -> &str {
        "plain product"
    }
    fn forward(&self, inputs: &[Tensor], _: &[bool]) -> Result<Forward> {
        let saved = [0, 1].map(|i| Some(inputs[i].clone()));
        Ok(Forward::new([products(&inputs[0], &inputs[1])]).save(saved))
    }
    fn backward(&self, ctx: &Backward<'_>) -> Result<Vec<Option<Tensor>>> {
        let (a, b, grad) = (ctx.saved(0)?, ctx.saved(1)?, ctx.grad(0)?);
        let last = a.rank() - 1;
        let (da, db) =
            (products(&grad, &b.transpose(last - 1, last)?), products(&a.transpose(last - 1, last)?, &grad));
        Ok(vec![Some(da), Some(db)])
    }
}

fn products(a: &Tensor, b: &Tensor) -> Tensor {
    let (shape_a, shape_b) = (a.shape(), b.shape());
    let ([batch @ .., m, k], [batch_b @ .., of_b, n]) = (shape_a, shape_b) else {
        panic!("{shape_a:?}, {shape_b:?}")
    };
    assert_eq!((batch, k), (batch_b, of_b));
    let (values_a, values_b) = (floats(a), floats(b));
    let mut out = Vec::with_capacity(batch.iter().product::<usize>() * m * n);
    for i in 0..batch.iter().product() {
        let (a, b) = (&values_a[i * m * k..][..m * k], &values_b[i * k * n..][..k * n]);
        for row in 0..*m {
            let mut sums = vec![0.0; *n];
            for inner in 0..*k {
                let factor = a[row * k + inner];
                sums.iter_mut().zip(&b[inner * n..]).for_each(|(sum, b)| *sum += factor * b);
            }
            out.extend(sums);
        }
    }
    let shape = [batch, &[*m, *n]].concat();
    rounded(out, &shape, a.dtype())
}

pub fn product(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    Ok(apply(Product, &[a, b])?.remove(0))
}

/// As many ones, in the type of `like`.
fn ones(shape: &[usize], like: &Tensor) -> Result<Tensor> {
    Tensor::ones(shape, like.dtype(), &Device::Cpu)
}

pub fn add(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    zip(|a, b| (a + b, [1.0, 1.0]), a, b)
}

pub fn sub(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    zip(|a, b| (a - b, [1.0, -1.0]), a, b)
}

pub fn mul(a: &Tensor, b: &Tensor) -> Result<Tensor> {
    zip(|a, b| (a * b, [b, a]), a, b)
}

pub fn scale(x: &Tensor, factor: f32) -> Result<Tensor> {
    map(x, move |x| (x * factor, factor))
}

/// `(W)` as a row of each of those of `(.., W)`.
pub fn like_rows(row: &Tensor, of: &Tensor) -> Result<Tensor> {
    let width = row.numel();
    product(&ones(&[of.numel() / width, 1], row)?, &row.reshape(&[1, width])?)?.reshape(of.shape())
}

/// `(.., 1)` in each column of `(.., W)`.
pub fn like_columns(column: &Tensor, of: &Tensor) -> Result<Tensor> {
    let rows = column.numel();
    product(&column.reshape(&[rows, 1])?, &ones(&[1, of.numel() / rows], column)?)?.reshape(of.shape())
}

/// The sum of each row of `(.., W)`: `(.., 1)`.
pub fn row_sums(x: &Tensor) -> Result<Tensor> {
    let (width, shape) = with_one_column(x);
    product(&x.reshape(&[x.numel() / width, width])?, &ones(&[width, 1], x)?)?.reshape(&shape)
}

fn with_one_column(x: &Tensor) -> (usize, Vec<usize>) {
    let mut shape = x.shape().to_vec();
    let width = std::mem::replace(shape.last_mut().unwrap(), 1);
    (width, shape)
}

pub fn sum(x: &Tensor, dim: usize) -> Result<Tensor> {
    let mut shape = x.shape().to_vec();
    shape.remove(dim);
    let last = x.rank() - 1;
    row_sums(&x.transpose(dim, last)?)?.transpose(dim, last)?.reshape(&shape)
}

/// The largest element of each row, through which no gradient passes.
fn row_maxima(x: &Tensor) -> Tensor {
    let (width, shape) = with_one_column(x);
    let maxima =
        floats(x).chunks(width).map(|row| row.iter().copied().fold(f32::NEG_INFINITY, f32::max)).collect();
    rounded(maxima, &shape, x.dtype())
}

fn exp(x: &Tensor) -> Result<Tensor> {
    map(x, |x| (x.exp(), x.exp()))
}

fn ln(x: &Tensor) -> Result<Tensor> {
    map(x, |x| (x.ln(), 1.0 / x))
}

/// `exp(x - max)` of each row, its sum, and the maximum.
fn exponentials(x: &Tensor) -> Result<(Tensor, Tensor, Tensor)> {
    let maxima = row_maxima(x);
    let powers = exp(&sub(x, &like_columns(&maxima, x)?)?)?;
    let sums = row_sums(&powers)?;
    Ok((powers, sums, maxima))
}

pub fn softmax(x: &Tensor) -> Result<Tensor> {
    let (powers, sums, _) = exponentials(x)?;
    mul(&powers, &like_columns(&map(&sums, |x| (1.0 / x, -1.0 / (x * x)))?, x)?)
}

/// `(.., 1)`.
pub fn log_sum_exp(x: &Tensor) -> Result<Tensor> {
    let (_, sums, maxima) = exponentials(x)?;
    add(&ln(&sums)?, &maxima)
}

/// `f(x + bias)`, `(.., W)`.
pub fn with_bias(x: &Tensor, bias: &Tensor) -> Result<Tensor> {
    add(x, &like_rows(bias, x)?)
}

pub fn gelu_tanh(x: &Tensor) -> Result<Tensor> {
    let cube = mul(&mul(x, x)?, x)?;
    let inner = scale(&add(x, &scale(&cube, 0.044_715)?)?, 0.797_884_6)?;
    let tanh = map(&inner, |x| (x.tanh(), 1.0 - x.tanh() * x.tanh()))?;
    mul(&scale(x, 0.5)?, &map(&tanh, |x| (1.0 + x, 1.0))?)
}

pub fn gelu_erf(x: &Tensor) -> Result<Tensor> {
    let normal = |x: f32| {
        let density = 0.398_942_3 * (-0.5 * x * x).exp();
        (0.5 * (1.0 + erf(f64::from(x) * std::f64::consts::FRAC_1_SQRT_2) as f32), density)
    };
    mul(x, &map(x, normal)?)
}

pub fn silu(x: &Tensor) -> Result<Tensor> {
    let sigmoid = |x: f32| {
        let gate = 1.0 / (1.0 + (-x).exp());
        (gate, gate * (1.0 - gate))
    };
    mul(x, &map(x, sigmoid)?)
}

pub fn relu_squared(x: &Tensor) -> Result<Tensor> {
    let positive = map(x, |x| (x.max(0.0), if x > 0.0 { 1.0 } else { 0.0 }))?;
    mul(&positive, &positive)
}

/// A row for each id, 1 in its place and 0 elsewhere, in the type of `like`.
pub fn one_hot(ids: &Tensor, classes: usize, like: &Tensor) -> Result<Tensor> {
    let ids = ids.to_vec::<u32>()?;
    let values = ids.iter().flat_map(|&id| (0..classes).map(move |i| f32::from(u8::from(id as usize == i))));
    Ok(rounded(values.collect(), &[ids.len(), classes], like.dtype()))
}

pub fn cross_entropy(logits: &Tensor, targets: &Tensor, options: &LossOptions) -> Result<Tensor> {
    let (losses, counts) = losses(logits, targets, options)?;
    let share = 1.0 / floats(&counts).iter().sum::<f32>();
    scale(&product(&counts.reshape(&[1, counts.numel()])?, &losses)?, share)?.reshape(&[])
}

/// The loss of each row, `(N, 1)`, 0 of those that do not count, and 1 for each of the others.
pub fn losses(logits: &Tensor, targets: &Tensor, options: &LossOptions) -> Result<(Tensor, Tensor)> {
    let (rows, classes) = (logits.shape()[0], logits.shape()[1]);
    let z = match options.softcap {
        None => logits.clone(),
        Some(cap) => map(logits, move |x| {
            let tanh = (x / cap).tanh();
            (cap * tanh, 1.0 - tanh * tanh)
        })?,
    };
    let lse = log_sum_exp(&z)?;
    let of_target = row_sums(&mul(&z, &one_hot(targets, classes, &z)?)?)?;
    let mut losses = sub(&lse, &scale(&of_target, 1.0 - options.label_smoothing)?)?;
    losses = sub(&losses, &scale(&row_sums(&z)?, options.label_smoothing / classes as f32)?)?;
    losses = add(&losses, &scale(&mul(&lse, &lse)?, options.z_loss)?)?;
    let counts: Vec<f32> =
        targets.to_vec::<u32>()?.iter().map(|&id| f32::from(u8::from(id != IGNORE_INDEX))).collect();
    let counts = rounded(counts, &[rows, 1], logits.dtype());
    Ok((mul(&losses, &counts)?, counts))
}

/// `y` and `r` of a norm over rows, layer norm or RMSNorm, with the factor that dropout has for each element of `x`.
pub struct Norm<'a> {
    pub layer: bool,
    pub eps: f32,
    pub dropout: Option<Vec<f32>>,
    pub residual: Option<&'a Tensor>,
    pub weight: Option<&'a Tensor>,
    pub bias: Option<&'a Tensor>,
}

impl Norm<'_> {
    pub fn layer(eps: f32) -> Self {
        Norm { layer: true, eps, dropout: None, residual: None, weight: None, bias: None }
    }

    pub fn rms(eps: f32) -> Self {
        Norm { layer: false, ..Norm::layer(eps) }
    }

    pub fn of(self, x: &Tensor) -> Result<[Tensor; 2]> {
        let mut r = match self.dropout {
            Some(factors) => apply(Map(move |i, x| (x * factors[i], factors[i])), &[x])?.remove(0),
            None => x.clone(),
        };
        if let Some(residual) = self.residual {
            r = add(residual, &r)?;
        }
        let share = 1.0 / *x.shape().last().unwrap() as f32;
        let mean_of = |x: &Tensor| scale(&row_sums(x)?, share);
        let centred = if self.layer { sub(&r, &like_columns(&mean_of(&r)?, &r)?)? } else { r.clone() };
        let eps = self.eps;
        let inverse = map(&mean_of(&mul(&centred, &centred)?)?, move |x| {
            let root = 1.0 / (x + eps).sqrt();
            (root, -0.5 * root * root * root)
        })?;
        let mut y = mul(&centred, &like_columns(&inverse, &r)?)?;
        if let Some(weight) = self.weight {
            y = mul(&y, &like_rows(weight, &y)?)?;
        }
        if let Some(bias) = self.bias {
            y = with_bias(&y, bias)?;
        }
        Ok([y, r])
    }
}

/// Heads `(B, T, H, D)`, of which the first `2 n` elements turn by `positions`, in pairs `i` and `i + n`, or `2 i` and `2 i + 1`.
pub fn rope(
    x: &Tensor,
    positions: &[u32],
    (frequencies, factor): (&[f32], f64),
    interleaved: bool,
) -> Result<Tensor> {
    let &[batch, tokens, heads, dim] = x.shape() else { panic!("{:?}", x.shape()) };
    let pairs = frequencies.len();
    let table = |f: fn(f64) -> f64| {
        let angles =
            positions.iter().flat_map(|&p| frequencies.iter().map(move |&w| f64::from(p) * f64::from(w)));
        let values: Vec<f32> = angles.map(|angle| (factor * f(angle)) as f32).collect();
        let table = rounded(values, &[1, tokens, 1, pairs], x.dtype());
        table.broadcast_to(&[batch, tokens, heads, pairs])
    };
    let (cos, sin) = (table(f64::cos)?, table(f64::sin)?);
    let turning = x.narrow(3, 0, 2 * pairs)?;
    let shape = [batch, tokens, heads, pairs];
    let (split, which) = match interleaved {
        true => (turning.reshape(&[batch, tokens, heads, pairs, 2])?, 4),
        false => (turning.reshape(&[batch, tokens, heads, 2, pairs])?, 3),
    };
    let half = |i: usize| split.narrow(which, i, 1)?.reshape(&shape);
    let (a, b) = (half(0)?, half(1)?);
    let turned = [sub(&mul(&a, &cos)?, &mul(&b, &sin)?)?, add(&mul(&b, &cos)?, &mul(&a, &sin)?)?];
    let apart: Vec<usize> = [&shape[..which], &[1], &shape[which..]].concat();
    let turned = [turned[0].reshape(&apart)?, turned[1].reshape(&apart)?];
    let turned =
        Tensor::cat(&[&turned[0], &turned[1]], which)?.reshape(&[batch, tokens, heads, 2 * pairs])?;
    Tensor::cat(&[&turned, &x.narrow(3, 2 * pairs, dim - 2 * pairs)?], 3)
}

/// Heads of `q` `(B, T, H, D)` over those of `k` and `v` `(B, S, Hkv, D)`.
pub fn attention(q: &Tensor, k: &Tensor, v: &Tensor, is_causal: bool) -> Result<Tensor> {
    let (&[batch, queries, heads, dim], &[_, keys, kv_heads, _]) = (q.shape(), k.shape()) else { panic!() };
    let group = heads / kv_heads;
    let repeated = |x: &Tensor| -> Result<Tensor> {
        let x = x.permute(&[0, 2, 1, 3])?.reshape(&[batch * kv_heads, 1, keys * dim])?;
        product(&ones(&[batch * kv_heads, group, 1], &x)?, &x)?.reshape(&[batch, heads, keys, dim])
    };
    let (q, k, v) = (q.permute(&[0, 2, 1, 3])?, repeated(k)?, repeated(v)?);
    let mut scores = scale(&product(&q, &k.transpose(2, 3)?)?, 1.0 / (dim as f32).sqrt())?;
    if is_causal {
        let visible = causal(queries, keys);
        let hidden = move |i: usize, x: f32| match visible(0, 0, i / keys % queries, i % keys) {
            true => (x, 1.0),
            false => (f32::NEG_INFINITY, 0.0),
        };
        scores = apply(Map(hidden), &[&scores])?.remove(0);
    }
    product(&softmax(&scores)?, &v)?.permute(&[0, 2, 1, 3])
}

/// Results over disjoint keys, each with its LSE in f32.
pub fn attention_merge([(a, lse_a), (b, lse_b)]: [(&Tensor, &Tensor); 2]) -> Result<[Tensor; 2]> {
    let &[batch, tokens, heads, _] = a.shape() else { panic!() };
    let both = [lse_a, lse_b].map(|lse| lse.reshape(&[lse.numel(), 1]));
    let [row_a, row_b] = both;
    let lse = log_sum_exp(&Tensor::cat(&[&row_a?, &row_b?], 1)?)?.reshape(lse_a.shape())?;
    let weighted = |out: &Tensor, of: &Tensor| {
        let weight = exp(&sub(of, &lse)?)?.transpose(1, 2)?.reshape(&[batch, tokens, heads, 1])?;
        mul(out, &like_columns(&weight.to_dtype(out.dtype())?, out)?)
    };
    Ok([add(&weighted(a, lse_a)?, &weighted(b, lse_b)?)?, lse])
}

use crate::{add_scaled, check_len, dot};
use std::ops::Range;

/// The sizes of one attention: queries are `(B, T, H, D)`, keys `(B, S, Hkv, D)`, values `(B, S, Hkv, Dv)`, all
/// row-major.
///
/// With fewer key heads than query heads (grouped queries, Ainslie et al. 2023), query head `h` reads key head
/// `h / (H / Hkv)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttentionShape {
    /// B
    pub batch: usize,
    /// T, query tokens
    pub queries: usize,
    /// S, key tokens
    pub keys: usize,
    /// H, query heads, a multiple of `kv_heads`
    pub heads: usize,
    /// Hkv, key and value heads
    pub kv_heads: usize,
    /// D, of queries and keys
    pub head_dim: usize,
    /// Dv, of values and what attention returns
    pub value_dim: usize,
}

/// What [`attention`] returns.
#[derive(Clone, Debug, PartialEq)]
pub struct Attention {
    /// `(B, T, H, Dv)`
    pub out: Vec<f64>,
    /// `(B, H, T)`: the natural logarithm of the sum of `exp(score)` over the visible keys; minus infinity where
    /// there is none.
    pub lse: Vec<f64>,
}

/// What [`attention_backward`] returns.
#[derive(Clone, Debug, PartialEq)]
pub struct AttentionGradients {
    /// `(B, T, H, D)`
    pub dq: Vec<f64>,
    /// `(B, S, Hkv, D)`
    pub dk: Vec<f64>,
    /// `(B, S, Hkv, Dv)`
    pub dv: Vec<f64>,
    /// `(H)`, of the sinks; empty where there are none.
    pub dsinks: Vec<f64>,
    /// `(B, H, T, S)`, of what the softmax is of; 0 where it is hidden. It is the gradient of all that is added to it.
    pub dscore: Vec<f64>,
}

/// Scaled dot-product attention (Vaswani et al. 2017, arXiv 1706.03762, eq. 1), for each `b`, `h`, `t`:
///
/// ```text
/// score[s] = scale * q[t]·k[s]               for every visible key s
/// lse      = ln Σ exp(score[s])
/// out[t]   = Σ exp(score[s] - lse) * v[s]
/// ```
///
/// Key `s` is visible to query `t` when `visible(b, h, t, s)`; see [`causal`] and [`full`]. A query that sees no
/// key gets `out = 0` and `lse = -∞`.
///
/// # Panics
/// When a slice's length contradicts `shape`, or `heads` is no multiple of `kv_heads`.
///
/// ```
/// use longhand_reference::{AttentionShape, attention, full};
/// let shape =
///     AttentionShape { batch: 1, queries: 1, keys: 2, heads: 1, kv_heads: 1, head_dim: 1, value_dim: 1 };
/// let result = attention(&shape, &[0.0], &[5.0, 7.0], &[1.0, 3.0], 1.0, full);
/// assert_eq!(result.out, [2.0]); // a zero query weighs every key alike
/// assert_eq!(result.lse, [2f64.ln()]);
/// ```
pub fn attention(
    shape: &AttentionShape,
    q: &[f64],
    k: &[f64],
    v: &[f64],
    scale: f64,
    visible: impl Fn(usize, usize, usize, usize) -> bool,
) -> Attention {
    attention_scored(shape, q, k, v, scale, &Scoring { visible: &visible, ..Scoring::PLAIN })
}

/// What scores and probabilities of an attention go through, for each `(b, h, t, s)`.
#[derive(Clone, Copy)]
pub struct Scoring<'a> {
    /// Whether the query sees the key.
    pub visible: &'a dyn Fn(usize, usize, usize, usize) -> bool,
    /// Of the scaled product, `scale * q[t]·k[s]`, and its place: the score, and its derivative by the product.
    pub score: &'a dyn Fn(f64, [usize; 4]) -> (f64, f64),
    /// `(H)`: for each head, the score of one more key, whose value is 0 and which every query sees; empty without.
    pub sinks: &'a [f64],
    /// What the probability is multiplied by: with dropout, 0 or `1 / (1 - p)`.
    pub keep: &'a dyn Fn(usize, usize, usize, usize) -> f64,
}

impl Scoring<'_> {
    /// Scaled products of all keys.
    pub const PLAIN: Scoring<'static> =
        Scoring { visible: &full, score: &|product, _| (product, 1.0), sinks: &[], keep: &|_, _, _, _| 1.0 };
}

impl std::fmt::Debug for Scoring<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Scoring").field("sinks", &self.sinks).finish_non_exhaustive()
    }
}

/// [`attention`] whose scores and probabilities go through `scoring`, for each `b`, `h`, `t`:
///
/// ```text
/// score[s] = scoring.score(scale * q[t]·k[s])               for every visible key s
/// lse      = ln (Σ exp(score[s]) + exp(sinks[h]))           without the last term where there are no sinks
/// out[t]   = Σ keep[s] * exp(score[s] - lse) * v[s]
/// ```
///
/// # Panics
/// As [`attention`], or when there are sinks, but not one for each head.
pub fn attention_scored(
    shape: &AttentionShape,
    q: &[f64],
    k: &[f64],
    v: &[f64],
    scale: f64,
    scoring: &Scoring<'_>,
) -> Attention {
    shape.check(q, k, v);
    if !scoring.sinks.is_empty() {
        check_len("sinks (H)", scoring.sinks, shape.heads);
    }
    let mut out = vec![0.0; shape.out_len()];
    let mut lse = vec![f64::NEG_INFINITY; shape.batch * shape.heads * shape.queries];
    for (b, h, t) in shape.rows() {
        let q_row = &q[shape.q_row(b, t, h)];
        let scores: Vec<(usize, f64)> = (0..shape.keys)
            .filter(|&s| (scoring.visible)(b, h, t, s))
            .map(|s| (s, (scoring.score)(scale * dot(q_row, &k[shape.k_row(b, s, h)]), [b, h, t, s]).0))
            .collect();
        let sink = scoring.sinks.get(h).copied().unwrap_or(f64::NEG_INFINITY);
        let max = scores.iter().fold(sink, |max, &(_, score)| max.max(score));
        if max == f64::NEG_INFINITY {
            continue;
        }
        let sum = scores.iter().map(|(_, score)| (score - max).exp()).sum::<f64>() + (sink - max).exp();
        let row_lse = max + sum.ln();
        lse[shape.lse_index(b, h, t)] = row_lse;
        for (s, score) in scores {
            let p = (scoring.keep)(b, h, t, s) * (score - row_lse).exp();
            add_scaled(&mut out[shape.out_row(b, t, h)], p, &v[shape.v_row(b, s, h)]);
        }
    }
    Attention { out, lse }
}

/// Backward of [`attention`] (Dao 2023, arXiv 2307.08691, section 3.1.2, algorithm 2), for each `b`, `h`, `t`:
///
/// ```text
/// p[s]   = exp(score[s] - lse)
/// dp[s]  = dout[t]·v[s]
/// delta  = dout[t]·out[t]
/// ds[s]  = p[s] * (dp[s] - delta)
/// dv[s] += p[s] * dout[t]
/// dq[t] += scale * ds[s] * k[s]
/// dk[s] += scale * ds[s] * q[t]
/// ```
///
/// `dout` is `(B, T, H, Dv)`. A query that sees no key gives no gradient to anything, and `dq = 0`.
///
/// # Panics
/// As [`attention`].
///
/// ```
/// use longhand_reference::{AttentionShape, attention_backward, full};
/// let shape =
///     AttentionShape { batch: 1, queries: 1, keys: 2, heads: 1, kv_heads: 1, head_dim: 1, value_dim: 1 };
/// let gradients = attention_backward(&shape, &[0.0], &[5.0, 7.0], &[1.0, 3.0], 1.0, full, &[1.0]);
/// assert_eq!(gradients.dv, [0.5, 0.5]);
/// assert_eq!(gradients.dq, [1.0]); // 0.5 * (1 - 2) * 5 + 0.5 * (3 - 2) * 7
/// ```
pub fn attention_backward(
    shape: &AttentionShape,
    q: &[f64],
    k: &[f64],
    v: &[f64],
    scale: f64,
    visible: impl Fn(usize, usize, usize, usize) -> bool,
    dout: &[f64],
) -> AttentionGradients {
    let scoring = Scoring { visible: &visible, ..Scoring::PLAIN };
    attention_scored_backward(shape, q, k, v, scale, &scoring, [dout, &[]])
}

/// Backward of [`attention_scored`], for each `b`, `h`, `t`:
///
/// ```text
/// p[s]       = exp(score[s] - lse)
/// dp[s]      = keep[s] * dout[t]·v[s]
/// delta      = dout[t]·out[t] - dlse
/// dscore[s]  = p[s] * (dp[s] - delta)
/// dv[s]     += keep[s] * p[s] * dout[t]
/// dq[t]     += scale * score'[s] * dscore[s] * k[s]
/// dk[s]     += scale * score'[s] * dscore[s] * q[t]
/// dsinks[h] -= exp(sinks[h] - lse) * delta
/// ```
///
/// The gradients of what forward returned are `dout`, `(B, T, H, Dv)`, and `dlse`, `(B, H, T)`, or empty where nothing
/// depends on the LSE.
///
/// # Panics
/// As [`attention_scored`].
pub fn attention_scored_backward(
    shape: &AttentionShape,
    q: &[f64],
    k: &[f64],
    v: &[f64],
    scale: f64,
    scoring: &Scoring<'_>,
    [dout, dlse]: [&[f64]; 2],
) -> AttentionGradients {
    check_len("dout (B, T, H, Dv)", dout, shape.out_len());
    if !dlse.is_empty() {
        check_len("dlse (B, H, T)", dlse, shape.batch * shape.heads * shape.queries);
    }
    let Attention { out, lse } = attention_scored(shape, q, k, v, scale, scoring);
    let mut dq = vec![0.0; q.len()];
    let mut dk = vec![0.0; k.len()];
    let mut dv = vec![0.0; v.len()];
    let mut dsinks = vec![0.0; scoring.sinks.len()];
    let mut dscore = vec![0.0; lse.len() * shape.keys];
    for (b, h, t) in shape.rows() {
        let row = shape.q_row(b, t, h);
        let index = shape.lse_index(b, h, t);
        let lse = lse[index];
        let dout_row = &dout[shape.out_row(b, t, h)];
        let delta = dot(dout_row, &out[shape.out_row(b, t, h)]) - dlse.get(index).unwrap_or(&0.0);
        if let Some(sink) = scoring.sinks.get(h)
            && lse > f64::NEG_INFINITY
        {
            dsinks[h] -= (sink - lse).exp() * delta;
        }
        for s in (0..shape.keys).filter(|&s| (scoring.visible)(b, h, t, s)) {
            let key = shape.k_row(b, s, h);
            let (score, slope) = (scoring.score)(scale * dot(&q[row.clone()], &k[key.clone()]), [b, h, t, s]);
            if score == f64::NEG_INFINITY {
                continue;
            }
            let p = (score - lse).exp();
            let keep = (scoring.keep)(b, h, t, s);
            let ds = p * (keep * dot(dout_row, &v[shape.v_row(b, s, h)]) - delta);
            dscore[index * shape.keys + s] = ds;
            add_scaled(&mut dv[shape.v_row(b, s, h)], keep * p, dout_row);
            add_scaled(&mut dq[row.clone()], scale * slope * ds, &k[key.clone()]);
            add_scaled(&mut dk[key], scale * slope * ds, &q[row.clone()]);
        }
    }
    AttentionGradients { dq, dk, dv, dsinks, dscore }
}

/// The causal mask aligned to the bottom right: the last query sees every key, the one before all but the last,
/// and so on, so query `t` sees key `s` when `s <= t + S - T`. With `T > S` the first `T - S` queries see none.
///
/// ```
/// let visible = longhand_reference::causal(2, 3);
/// assert!(visible(0, 0, 0, 1) && !visible(0, 0, 0, 2) && visible(0, 0, 1, 2));
/// ```
pub fn causal(queries: usize, keys: usize) -> impl Fn(usize, usize, usize, usize) -> bool + Copy {
    move |_, _, t, s| s + queries <= t + keys
}

/// The sliding window (Beltagy et al. 2020, arXiv 2004.05150), aligned as [`causal`] is: query `t` sees key `s` when
/// `t + S - T - left <= s <= t + S - T + right`, and every key of a side that is `None`.
///
/// ```
/// let visible = longhand_reference::window(3, 4, Some(1), Some(0));
/// assert!(!visible(0, 0, 2, 1) && visible(0, 0, 2, 2) && visible(0, 0, 2, 3) && !visible(0, 0, 1, 3));
/// ```
pub fn window(
    queries: usize,
    keys: usize,
    left: Option<usize>,
    right: Option<usize>,
) -> impl Fn(usize, usize, usize, usize) -> bool + Copy {
    move |_, _, t, s| {
        // Both sides plus `queries`, so that nothing is negative.
        let (key, place) = (s + queries, t + keys);
        left.is_none_or(|left| place <= key + left) && right.is_none_or(|right| key <= place + right)
    }
}

/// The mask that hides nothing: every query sees every key.
pub fn full(_: usize, _: usize, _: usize, _: usize) -> bool {
    true
}

impl AttentionShape {
    #[track_caller]
    fn check(&self, q: &[f64], k: &[f64], v: &[f64]) {
        assert!(
            self.kv_heads > 0 && self.heads.is_multiple_of(self.kv_heads),
            "heads is {}, must be a multiple of kv_heads, which is {} and must be at least 1",
            self.heads,
            self.kv_heads
        );
        check_len("q (B, T, H, D)", q, self.batch * self.queries * self.heads * self.head_dim);
        check_len("k (B, S, Hkv, D)", k, self.batch * self.keys * self.kv_heads * self.head_dim);
        check_len("v (B, S, Hkv, Dv)", v, self.batch * self.keys * self.kv_heads * self.value_dim);
    }

    /// Every `(b, h, t)`.
    fn rows(self) -> impl Iterator<Item = (usize, usize, usize)> {
        (0..self.batch)
            .flat_map(move |b| (0..self.heads).flat_map(move |h| (0..self.queries).map(move |t| (b, h, t))))
    }

    /// Elements of `out` and its gradient.
    fn out_len(&self) -> usize {
        self.batch * self.queries * self.heads * self.value_dim
    }

    /// Where query `t` of head `h` lies in `q` and its gradient.
    fn q_row(&self, b: usize, t: usize, h: usize) -> Range<usize> {
        row(self.query_index(b, t, h), self.head_dim)
    }

    /// Where query `t` of head `h` lies in `out` and its gradient.
    fn out_row(&self, b: usize, t: usize, h: usize) -> Range<usize> {
        row(self.query_index(b, t, h), self.value_dim)
    }

    /// Where key `s`, as query head `h` sees it, lies in `k` and its gradient.
    fn k_row(&self, b: usize, s: usize, h: usize) -> Range<usize> {
        row(self.key_index(b, s, h), self.head_dim)
    }

    /// Where key `s`, as query head `h` sees it, lies in `v` and its gradient.
    fn v_row(&self, b: usize, s: usize, h: usize) -> Range<usize> {
        row(self.key_index(b, s, h), self.value_dim)
    }

    fn query_index(&self, b: usize, t: usize, h: usize) -> usize {
        (b * self.queries + t) * self.heads + h
    }

    fn key_index(&self, b: usize, s: usize, h: usize) -> usize {
        (b * self.keys + s) * self.kv_heads + h / (self.heads / self.kv_heads)
    }

    fn lse_index(&self, b: usize, h: usize, t: usize) -> usize {
        (b * self.heads + h) * self.queries + t
    }
}

/// Where row `index` of a row-major matrix of this width lies.
fn row(index: usize, width: usize) -> Range<usize> {
    index * width..(index + 1) * width
}

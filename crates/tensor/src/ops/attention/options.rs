//! How attention weighs the values.

use std::fmt::{self, Debug};
use std::sync::Arc;

use longhand_kernels::random::Dropout;

use super::{BlockMask, NAME};
use crate::cpu::attention::{Dual, Position};
use crate::{Device, Error, Result, Tensor};

/// How [`attention`](super::attention) weighs the values. Of T queries and S keys (of a document, where there are
/// [`documents`](AttentionOptions::documents)), query `t` stands at key `t + S - T`: the last query at the last key.
///
/// What is done to a score, in this order: the [`scale`](AttentionOptions::scale), the user's
/// [`score`](AttentionOptions::score), the [`softcap`](AttentionOptions::softcap),
/// [`alibi`](AttentionOptions::alibi), [`bias`](AttentionOptions::bias). Masks restrict each other.
#[derive(Clone, Debug, Default)]
pub struct AttentionOptions {
    /// A query sees no key beyond the one it stands at.
    pub causal: bool,
    /// Factor on the products of queries and keys; `None` for `1 / sqrt(D)`.
    pub scale: Option<f64>,
    /// A query sees so many keys before the one it stands at; `None` for all of them.
    pub window_left: Option<usize>,
    /// A query sees so many keys behind the one it stands at; `None` for all of them.
    pub window_right: Option<usize>,
    /// `(B)` u32, or one for each document: so many first keys are seen from before them too, in spite of `causal` and
    /// `window_right` (prefix language models: Raffel et al. 2020, arXiv 1910.10683, section 3.2.1).
    pub prefix: Option<Tensor>,
    /// The tokens are documents, packed behind each other in one batch: queries see keys of their own document.
    pub documents: Option<Documents>,
    /// Hides further keys.
    pub mask: Option<ScoreMask>,
    /// In which blocks there is anything to compute; has to be of these masks, and of tensors of these sizes.
    pub blocks: Option<BlockMask>,
    /// Changes scores.
    pub score: Option<Score>,
    /// `c`: scores become `c tanh(score / c)` (Gemma 2, arXiv 2408.00118, section 2).
    pub softcap: Option<f64>,
    /// `(H)`: the scores of a head fall by its slope for each token between the key and the one that the query stands at
    /// (ALiBi: Press et al. 2022, arXiv 2108.12409, section 3).
    pub alibi: Option<Tensor>,
    /// Added to the scores; broadcasts to `(B, H, T, S)`, or, where there are documents, to how many there are, H, and T
    /// and S of the longest, counted from the first token of each. Has a gradient.
    pub bias: Option<Tensor>,
    /// `(H)`: a score beside those of the keys, which takes a share of the weight and has no value. Has a gradient.
    pub sinks: Option<Tensor>,
    /// Drops weights: the same ones of the same batch, head, query and key on every device, forward and backward.
    pub dropout: Option<Dropout>,
}

/// Documents packed behind each other in tensors of one batch.
#[derive(Clone, Debug)]
pub struct Documents {
    pub(super) queries: Vec<u32>,
    pub(super) keys: Vec<u32>,
    /// The same on the device, u32.
    pub(super) on_device: [Tensor; 2],
}

impl Documents {
    /// Documents of so many query tokens and as many keys, for tensors on `device`.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, Dtype, Tensor, ops};
    /// use longhand_tensor::ops::{AttentionOptions, Documents};
    ///
    /// let x = Tensor::zeros(&[1, 8, 1, 8], Dtype::F32, &Device::Cpu)?;
    /// let documents = Documents::new(&[5, 3], &Device::Cpu)?;
    /// let options = AttentionOptions { causal: true, documents: Some(documents), ..Default::default() };
    /// assert_eq!(ops::attention(&x, &x, &x, &options)?.shape(), [1, 8, 1, 8]);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When they have 2^32 tokens or more together, or the device has no memory for their boundaries.
    pub fn new(lengths: &[usize], device: &Device) -> Result<Documents> {
        Documents::with_keys(lengths, lengths, device)
    }

    /// Documents of so many query tokens, and so many keys.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Device, ops::Documents};
    /// // Queries of 4 and 1 tokens, over keys of 4 and 9: the second goes on a text.
    /// let documents = Documents::with_keys(&[4, 1], &[4, 9], &Device::Cpu)?;
    /// assert_eq!(documents.count(), 2);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// When there are not as many of each, or else as [`Documents::new`].
    pub fn with_keys(queries: &[usize], keys: &[usize], device: &Device) -> Result<Documents> {
        if queries.len() != keys.len() {
            let found = format!("lengths of {} in queries and of {} in keys", queries.len(), keys.len());
            return Err(Error::argument(NAME, "documents", found, "as many of each"));
        }
        let (queries, keys) = (boundaries(queries)?, boundaries(keys)?);
        let upload = |ends: &[u32]| Tensor::from_slice(ends, &[ends.len()], device);
        Ok(Documents { on_device: [upload(&queries)?, upload(&keys)?], queries, keys })
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.queries.len() - 1
    }

    /// The most queries and keys that one of them has.
    pub(super) fn longest(&self) -> [usize; 2] {
        [&self.queries, &self.keys]
            .map(|ends| ends.windows(2).map(|ends| (ends[1] - ends[0]) as usize).max().unwrap_or(0))
    }

    pub(super) fn check(&self, batch: usize, queries: usize, keys: usize) -> Result<()> {
        if batch != 1 {
            return Err(Error::argument(
                NAME,
                "documents",
                format!("given with a batch of {batch}"),
                "given with one batch",
            ));
        }
        for (name, ends, tokens) in [("queries", &self.queries, queries), ("keys", &self.keys, keys)] {
            let all = ends.last().copied().unwrap_or(0) as usize;
            if all != tokens {
                let expected = format!("as many as the tensors have, {tokens}");
                return Err(Error::argument(
                    NAME,
                    &format!("number of {name} in documents"),
                    all.to_string(),
                    expected,
                ));
            }
        }
        Ok(())
    }
}

/// 0, and where each document ends.
fn boundaries(lengths: &[usize]) -> Result<Vec<u32>> {
    let mut all = 0usize;
    let mut ends = vec![0];
    for length in lengths {
        all = all.saturating_add(*length);
        let end = u32::try_from(all);
        ends.push(end.map_err(|_| {
            Error::argument(NAME, "number of tokens in documents", all.to_string(), "less than 2^32")
        })?);
    }
    Ok(ends)
}

/// What a CUDA expression calls by name.
#[derive(Clone, Debug)]
pub enum Named {
    /// A tensor, which the expression indexes by elements, in row-major order: `table[h * 128 + q]`. Elements are `float`,
    /// or of u32 `int`.
    Tensor(Tensor),
    /// A `float`.
    Float(f32),
    /// A `long long`.
    Integer(i64),
}

/// A function of the user's own as GPUs take it.
#[derive(Clone, Debug)]
pub(super) struct Expression {
    pub(super) text: String,
    pub(super) named: Vec<(String, Named)>,
}

impl Expression {
    fn new(text: &str, named: &[(&str, Named)]) -> Expression {
        let named = named.iter().map(|(name, value)| ((*name).to_string(), value.clone())).collect();
        Expression { text: text.to_string(), named }
    }
}

/// A user's own mask. Not called `Mask`, which would say too little where it is imported.
#[derive(Clone)]
pub struct ScoreMask {
    pub(super) cpu: Arc<dyn Fn(Position) -> bool + Send + Sync>,
    pub(super) cuda: Option<Expression>,
}

impl ScoreMask {
    /// Queries see the keys for which this is true. On the CPU every place that the other masks leave is asked for; blocks
    /// without any key cost nothing beyond.
    ///
    /// ```
    /// use longhand_tensor::ops::{Named, ScoreMask};
    ///
    /// // Every key of the query's own block of 64, and the first of every other.
    /// let mask = ScoreMask::new(|at| at.query / 64 == at.key / 64 || at.key % 64 == 0)
    ///     .cuda("q / block == k / block || k % block == 0", &[("block", Named::Integer(64))]);
    /// ```
    pub fn new(sees: impl Fn(Position) -> bool + Send + Sync + 'static) -> ScoreMask {
        ScoreMask { cpu: Arc::new(sees), cuda: None }
    }

    /// The same as a CUDA expression, for GPUs: of the integers `b` (batch, or document), `h` (query head), `q` and `k`
    /// (query and key in their batch or document), and of what it calls by name.
    #[must_use]
    pub fn cuda(self, expression: &str, named: &[(&str, Named)]) -> ScoreMask {
        ScoreMask { cuda: Some(Expression::new(expression, named)), ..self }
    }
}

impl Debug for ScoreMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ScoreMask").field("cuda", &self.cuda).finish_non_exhaustive()
    }
}

/// A user's own score.
#[derive(Clone)]
pub struct Score {
    pub(super) cpu: Arc<dyn Fn(Position, Dual) -> Dual + Send + Sync>,
    pub(super) cuda: Option<Expression>,
}

impl Score {
    /// Scores become what this makes of the scaled product of query and key. Computed with [`Dual`], they have
    /// their gradient.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// use longhand_tensor::ops::{AttentionOptions, Score, attention};
    /// use longhand_tensor::{Device, Dtype, Tensor};
    ///
    /// // Scores of keys at an odd distance are halved.
    /// let score = Score::new(|at, score| if at.key % 2 == at.query % 2 { score } else { score * 0.5 })
    ///     .cuda("k % 2 == q % 2 ? score : score * 0.5f", &[]);
    /// let x = Tensor::zeros(&[1, 5, 2, 8], Dtype::F32, &Device::Cpu)?;
    /// let options = AttentionOptions { score: Some(score), ..Default::default() };
    /// assert_eq!(attention(&x, &x, &x, &options)?.shape(), [1, 5, 2, 8]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(score: impl Fn(Position, Dual) -> Dual + Send + Sync + 'static) -> Score {
        Score { cpu: Arc::new(score), cuda: None }
    }

    /// The same as a CUDA expression, for GPUs: of `score`, and of all that one of [`ScoreMask::cuda`] is of. Its
    /// derivative by `score` comes from the expression itself.
    #[must_use]
    pub fn cuda(self, expression: &str, named: &[(&str, Named)]) -> Score {
        Score { cuda: Some(Expression::new(expression, named)), ..self }
    }
}

impl Debug for Score {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Score").field("cuda", &self.cuda).finish_non_exhaustive()
    }
}

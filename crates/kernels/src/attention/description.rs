//! Which attention.

use std::fmt;

use longhand_gpu::{Arch, Constants, Program};

use super::block_mask::Blocks;
use super::expression::Expressions;
use super::tuning::{Step, Tile, Widths, tile};
use super::{HEADERS, NamedType};
use crate::random::Random;
use crate::source::program;
use crate::{Dtype, Error, Result};

/// The largest head dim.
const MAX_HEAD_DIM: usize = 256;

/// Scaled dot-product attention, said once for both passes: [`forward`](Attention::forward) and
/// [`backward`](Attention::backward) compile it for a device.
///
/// ```text
/// score = scale * q k^T
/// out   = softmax(score, over the keys that the query sees) v
/// ```
///
/// Scores may become more than that, in this order: the user's [`score`](Attention::score),
/// [`softcap`](Attention::softcap), [`alibi`](Attention::alibi), [`bias`](Attention::bias).
///
/// Masks restrict each other: a query sees the keys that all of them let it see. One that sees no key gets `out = 0`,
/// `lse = -inf` and gives no gradient.
///
/// Deterministic, unless [`atomic`](Attention::atomic): the same inputs give the same bits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Attention {
    pub(super) dtype: Dtype,
    pub(super) head_dim: usize,
    pub(super) value_dim: usize,
    pub(super) causal: bool,
    pub(super) left: Option<usize>,
    pub(super) right: Option<usize>,
    pub(super) prefix: bool,
    pub(super) documents: bool,
    pub(super) softcap: Option<Number>,
    pub(super) alibi: bool,
    pub(super) bias: bool,
    pub(super) sinks: bool,
    pub(super) dropout: Option<Number>,
    pub(super) expressions: Expressions,
    pub(super) blocks: Option<Blocks>,
    pub(super) atomic: bool,
}

/// An f32 that is equal to another when its bits are.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Number(u32);

impl Number {
    pub(super) fn get(self) -> f32 {
        f32::from_bits(self.0)
    }
}

impl From<f32> for Number {
    fn from(x: f32) -> Number {
        Number(x.to_bits())
    }
}

impl fmt::Debug for Number {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

impl Attention {
    /// Attention in which every query sees every key. `head_dim` is D, a multiple of 8 from 8 to 256. Kernels are tuned
    /// for 64, 128 and 256, and for 16-bit types; f32 is for exactness, at a sixth of their speed.
    #[must_use]
    pub fn new(dtype: Dtype, head_dim: usize) -> Attention {
        Attention {
            dtype,
            head_dim,
            value_dim: head_dim,
            causal: false,
            left: None,
            right: None,
            prefix: false,
            documents: false,
            softcap: None,
            alibi: false,
            bias: false,
            sinks: false,
            dropout: None,
            expressions: Expressions::default(),
            blocks: None,
            atomic: false,
        }
    }

    /// The head dim of `v` and `out`, where it is another than that of `q` and `k`: Dv, a multiple of 8 from 8 to 256.
    #[must_use]
    pub fn value_dim(self, value_dim: usize) -> Attention {
        Attention { value_dim, ..self }
    }

    /// Whether query `t` sees only the keys `s <= t + S - T`: the last query sees them all.
    #[must_use]
    pub fn causal(self, causal: bool) -> Attention {
        Attention { causal, ..self }
    }

    /// Query `t` sees only the keys `t + S - T - left <= s <= t + S - T + right` (sliding window; Beltagy et al. 2020,
    /// Longformer, arXiv 2004.05150): so many before its own place and so many after it, and all of a side that is `None`.
    #[must_use]
    pub fn window(self, left: impl Into<Option<usize>>, right: impl Into<Option<usize>>) -> Attention {
        Attention { left: left.into(), right: right.into(), ..self }
    }

    /// Whether every query sees the first so many keys of its batch, too, though they lie after its own place: as many as
    /// [`Operands::prefix`](super::Operands::prefix) says (prefix language model; Raffel et al. 2019, arXiv 1910.10683,
    /// section 3.2.1). The left side of a window holds for them as well.
    #[must_use]
    pub fn prefix(self, prefix: bool) -> Attention {
        Attention { prefix, ..self }
    }

    /// Whether each batch is one of many documents of different lengths, packed behind each other in tensors of one batch:
    /// `(1, all tokens, heads, D)`, see [`Operands::documents`](super::Operands::documents). Queries see the keys of their
    /// own document; masks begin anew in each. `lse` is `(H, all queries)`.
    #[must_use]
    pub fn documents(self, documents: bool) -> Attention {
        Attention { documents, ..self }
    }

    /// `score = softcap * tanh(score / softcap)` (Gemma 2, arXiv 2408.00118, section 2); positive.
    #[must_use]
    pub fn softcap(self, softcap: impl Into<Option<f32>>) -> Attention {
        Attention { softcap: softcap.into().map(Number::from), ..self }
    }

    /// Whether `score -= slope[h] * |t + S - T - s|`, with the slopes of
    /// [`Operands::slopes`](super::Operands::slopes) (Press et al. 2021, arXiv 2108.12409, section 3). They are no
    /// parameters: they have no gradient.
    #[must_use]
    pub fn alibi(self, alibi: bool) -> Attention {
        Attention { alibi, ..self }
    }

    /// Whether a tensor is added to the scores: [`Operands::bias`](super::Operands::bias). Its gradient sums over the
    /// dimensions in which the gradient's stride is 0.
    #[must_use]
    pub fn bias(self, bias: bool) -> Attention {
        Attention { bias, ..self }
    }

    /// Whether each head has one more key, without a value, whose score is the head's
    /// [sink](super::Operands::sinks) (gpt-oss, arXiv 2508.10925, section 2.1): `lse` includes it, and a query that sees
    /// no key has `lse = sink`.
    #[must_use]
    pub fn sinks(self, sinks: bool) -> Attention {
        Attention { sinks, ..self }
    }

    /// Each probability becomes 0 with this `probability` (at least 0, less than 1), and is divided by `1 - probability`
    /// otherwise. Which: [`Operands::random`](super::Operands::random), [`dropout_word`].
    #[must_use]
    pub fn dropout(self, probability: impl Into<Option<f32>>) -> Attention {
        Attention { dropout: probability.into().map(Number::from), ..self }
    }

    /// A mask of the user's own: a query sees a key only where this CUDA expression is true. It is of the integers `b`, `h`
    /// (query head), `q` and `k` (query and key, in their sequence), and of what it calls by
    /// [name](Attention::named).
    ///
    /// ```
    /// use longhand_kernels::{Dtype, attention::{Attention, NamedType}};
    /// // Every key of its own block, and the first of every other.
    /// let blocks = Attention::new(Dtype::Bf16, 64)
    ///     .named("block", NamedType::Integer)
    ///     .mask("q / block == k / block || k % block == 0");
    /// ```
    #[must_use]
    pub fn mask(mut self, expression: &str) -> Attention {
        self.expressions.mask = Some(expression.to_owned());
        self
    }

    /// A score of the user's own: a CUDA expression of `score`, which it replaces, and of all that
    /// [`mask`](Attention::mask) is of. Backward gets its derivative by `score` from the expression itself: operators,
    /// `?:`, and `fabsf`, `fminf`, `fmaxf`, `sqrtf`, `expf`, `logf`, `sinf`, `cosf`, `tanhf` and `powf` may be of it. There
    /// are no gradients for what it calls by name. A key whose score is `-infinity()` is hidden.
    ///
    /// ```
    /// use longhand_kernels::{Dtype, attention::{Attention, NamedType}};
    /// let relative = Attention::new(Dtype::Bf16, 64)
    ///     .named("table", NamedType::Tensor(Dtype::F32))
    ///     .score("score + table[h * 32 + min(abs(q - k), 31)]");
    /// ```
    #[must_use]
    pub fn score(mut self, expression: &str) -> Attention {
        self.expressions.score = Some(expression.to_owned());
        self
    }

    /// A name that expressions may use, at most 8 of them. Its value: [`Operands::named`](super::Operands::named).
    #[must_use]
    pub fn named(mut self, name: &str, of: NamedType) -> Attention {
        self.expressions.named.push((name.to_owned(), of));
        self
    }

    /// Kernels visit the blocks of queries and keys alone that a block mask lists, and ask the [mask](Attention::mask) in
    /// those that are partial: what is full or empty pays nothing for it (FlexAttention; Dong et al. 2024, arXiv
    /// 2412.05496). [`block_mask`](Attention::block_mask) finds the blocks, or lists those that the user chose, in memory
    /// that grows with `T / size * S / size`; forward and backward take them as [`Operands::blocks`](super::Operands::blocks).
    ///
    /// ```
    /// use longhand_kernels::{Dtype, attention::{Attention, Blocks}};
    /// // Every fourth block of 256 keys, and the query's own: three quarters of the work are left out.
    /// let strided = Attention::new(Dtype::Bf16, 64)
    ///     .causal(true)
    ///     .mask("k / 256 % 4 == 0 || k / 256 == q / 256")
    ///     .blocks(Blocks { size: 256, ..Blocks::default() });
    /// ```
    #[must_use]
    pub fn blocks(self, blocks: impl Into<Option<Blocks>>) -> Attention {
        Attention { blocks: blocks.into(), ..self }
    }

    /// Whether backward adds up the gradient of `q` with atomics, in whatever order they come: its last bits then differ
    /// from run to run. In return the scores are computed once instead of twice, five matrix products instead of seven
    /// (six instead of eight where D and Dv together are too wide: see `kernels/attention/backward_key.cu`), at the price of
    /// `4 D` bytes of [workspace](super::AttentionBackwardPlan::workspace_bytes) for each query and head. All other
    /// gradients, and forward, stay deterministic.
    #[must_use]
    pub fn atomic(self, atomic: bool) -> Attention {
        Attention { atomic, ..self }
    }

    pub(super) fn check(&self, operation: &'static str, arch: Arch) -> Result<()> {
        for (name, dim) in [("head dim", self.head_dim), ("value dim", self.value_dim)] {
            if dim == 0 || dim % 8 != 0 || dim > MAX_HEAD_DIM {
                let expected = format!("a multiple of 8 from 8 to {MAX_HEAD_DIM}");
                return Err(Error::argument(operation, name, dim, expected));
            }
        }
        if arch.number() < 80 {
            return Err(Error::argument(operation, "architecture", arch, "sm_80 or later"));
        }
        if self.prefix && !self.causal && self.right.is_none() {
            let expected =
                "of an attention that is causal or has a window with a right side: others see every key";
            return Err(Error::argument(operation, "prefix", "given", expected));
        }
        if let Some(softcap) = self.softcap.map(Number::get)
            && !(softcap > 0.0 && softcap.is_finite())
        {
            return Err(Error::argument(operation, "softcap", softcap, "positive and finite"));
        }
        if let Some(probability) = self.dropout.map(Number::get)
            && !(0.0..1.0).contains(&probability)
        {
            return Err(Error::argument(operation, "dropout", probability, "at least 0 and less than 1"));
        }
        self.expressions.check(operation)?;
        self.blocks.map_or(Ok(()), |blocks| blocks.check(operation, self))
    }

    /// Whether the last queries see the most keys, and each those up to its own place.
    pub(super) fn is_causal(&self) -> bool {
        self.causal || self.right == Some(0)
    }

    fn is_window(&self) -> bool {
        self.left.is_some() || self.right.is_some() && !self.is_causal()
    }

    pub(super) fn tile(&self, step: Step, arch: Arch) -> Tile {
        let expressions = self.expressions.score.is_some() || self.expressions.mask.is_some();
        let scores = self.softcap.is_some()
            || self.alibi
            || self.bias
            || self.sinks
            || self.dropout.is_some()
            || expressions;
        let masks = self.is_window() || self.prefix || self.documents || self.blocks.is_some();
        let featured = masks || scores;
        tile(step, arch, self.widths(), self.is_causal(), featured)
    }

    pub(super) fn widths(&self) -> Widths {
        Widths::new(self.dtype, self.head_dim, self.value_dim)
    }

    /// The program of a kernel that walks over scores.
    pub(super) fn program(&self, file: (&'static str, &'static str), constants: Constants) -> Program {
        let expressions = self.expressions.header();
        program(file, HEADERS, constants).header("attention/expression.cuh", expressions)
    }

    /// Of every kernel.
    pub(super) fn constants(&self) -> Constants {
        Constants::new()
            .alias("Element", self.dtype.cuda_name())
            .int("HEAD_DIM", self.head_dim as i64)
            .int("VALUE_DIM", self.value_dim as i64)
            .bool("DOCUMENTS", self.documents)
    }

    /// Of those that walk over scores.
    pub(super) fn tile_constants(&self, tile: Tile) -> Constants {
        self.constants()
            .bool("CAUSAL", self.is_causal())
            .bool("WINDOW", self.is_window())
            .bool("PREFIX", self.prefix)
            .bool("SOFTCAP", self.softcap.is_some())
            .bool("SCORE_EXPRESSION", self.expressions.score.is_some())
            .bool("ALIBI", self.alibi)
            .bool("BIAS", self.bias)
            .bool("MASK_EXPRESSION", self.expressions.mask.is_some())
            .bool("BLOCK_MASK", self.blocks.is_some())
            .int("MASK_BLOCK", self.blocks.unwrap_or_default().size as i64)
            .bool("SINKS", self.sinks)
            .bool("DROPOUT", self.dropout.is_some())
            .int("BLOCK_Q", tile.block_q)
            .int("BLOCK_K", tile.block_k)
            .int("WARPS", tile.warps)
            .int("STAGES", tile.stages)
    }
}

/// The random word of one probability: [dropout](Attention::dropout) keeps it where the word is at least
/// [`drop_below`](crate::random::drop_below) of the probability (`kernels/attention/dropout.cuh`). `head` is `b * H + h`;
/// query and key are counted in their sequence.
#[must_use]
pub fn dropout_word(random: Random, head: u32, query: u32, key: u32) -> u32 {
    let patch = |n: u32| n / 16 * 8 + n % 8;
    random.words([patch(query), patch(key), head, 0])[(query / 8 % 2 * 2 + key / 8 % 2) as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejected(attention: &Attention, arch: &str) -> String {
        attention.check("attention forward", arch.parse().unwrap()).unwrap_err().to_string()
    }

    #[test]
    fn head_dims_without_a_kernel_are_errors_that_say_which_there_are() {
        for dim in [0, 4, 68, 264] {
            let error = rejected(&Attention::new(Dtype::Bf16, dim).value_dim(64), "sm_80");
            let expected = "it has to be a multiple of 8 from 8 to 256";
            assert_eq!(error, format!("attention forward: head dim is {dim}, {expected}"));
            let error = rejected(&Attention::new(Dtype::F32, 64).value_dim(dim), "sm_80");
            assert_eq!(error, format!("attention forward: value dim is {dim}, {expected}"));
        }
    }

    #[test]
    fn an_architecture_before_ampere_is_an_error() {
        let error = rejected(&Attention::new(Dtype::F16, 64), "sm_75");
        assert_eq!(error, "attention forward: architecture is sm_75, it has to be sm_80 or later");
    }

    #[test]
    fn a_prefix_of_what_sees_every_key_anyway_is_an_error() {
        let full = Attention::new(Dtype::F16, 64).prefix(true);
        let error = rejected(&full, "sm_80");
        assert!(
            error.starts_with(
                "attention forward: prefix is given, it has to be of an attention that is causal"
            )
        );
        full.clone().causal(true).check("attention forward", "sm_80".parse().unwrap()).unwrap();
        full.window(None, 3).check("attention forward", "sm_80".parse().unwrap()).unwrap();
    }

    #[test]
    fn numbers_without_a_meaning_are_errors() {
        let new = || Attention::new(Dtype::F16, 64);
        for softcap in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert!(rejected(&new().softcap(softcap), "sm_80").contains("softcap is"));
        }
        for probability in [1.0, -0.1, f32::NAN] {
            let error = rejected(&new().dropout(probability), "sm_80");
            assert!(error.ends_with("it has to be at least 0 and less than 1"), "{error}");
        }
    }

    #[test]
    fn each_probability_has_a_word_of_its_own() {
        let random = Random { seed: 5, offset: 0 };
        let mut words: Vec<u32> = (0..2)
            .flat_map(|head| {
                (0..40).flat_map(move |q| (0..40).map(move |k| dropout_word(random, head, q, k)))
            })
            .collect();
        words.sort_unstable();
        words.dedup();
        assert!(words.len() > 3190, "{} of 3200", words.len());
    }

    #[test]
    fn a_window_without_keys_to_the_right_is_causal() {
        let new = || Attention::new(Dtype::F16, 64);
        assert!(new().window(None, 0).is_causal() && !new().window(None, 0).is_window());
        assert!(new().causal(true).window(8, 5).is_causal() && new().causal(true).window(8, 5).is_window());
        assert!(!new().causal(true).window(None, 5).is_window());
        assert!(new().window(None, 5).is_window() && new().window(5, None).is_window());
    }
}

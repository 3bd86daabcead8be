use longhand_tensor::{Device, Dtype, Tensor};
use rand::Rng;

use super::{Gpt2, KvCache};
use crate::sampling::Sampling;
use crate::{Error, Result};

/// The tokens that follow a prompt, one by one; made by [`Gpt2::generate`].
///
/// Ends before an end-of-text token, or when prompt and tokens fill the context, or after an error.
#[derive(Debug)]
pub struct Generation<'a, R> {
    model: &'a Gpt2,
    sampling: Sampling,
    rng: R,
    cache: KvCache,
    /// Tokens not in the cache yet.
    unseen: Vec<u32>,
    ended: bool,
}

impl Gpt2 {
    /// Continues `prompt`. [`Iterator::take`] bounds the number of tokens.
    ///
    /// # Errors
    ///
    /// An empty prompt, one longer than `n_positions`, a sampling that is not valid.
    pub fn generate<R: Rng>(&self, prompt: &[u32], sampling: Sampling, rng: R) -> Result<Generation<'_, R>> {
        sampling.validate()?;
        if prompt.is_empty() {
            return Err(Error::Argument {
                operation: "Gpt2::generate",
                argument: "prompt",
                was: "empty".into(),
                expected: "at least one token".into(),
            });
        }
        let n_positions = self.config().n_positions;
        if prompt.len() > n_positions {
            return Err(Error::ContextTooLong { tokens: prompt.len(), n_positions });
        }
        let (cache, unseen) = (KvCache::new(), prompt.to_vec());
        Ok(Generation { model: self, sampling, rng, cache, unseen, ended: false })
    }
}

impl<R: Rng> Generation<'_, R> {
    fn device(&self) -> &Device {
        self.model.parameters()[0].tensor.device()
    }

    /// The next token, or `None` at an end-of-text token.
    fn choose(&mut self) -> Result<Option<u32>> {
        let ids = Tensor::from_slice(&self.unseen, &[1, self.unseen.len()], self.device())?;
        let logits = self.model.forward_with_cache(&ids, &mut self.cache)?;
        let logits = logits.to_dtype(Dtype::F32)?.to_vec::<f32>()?;
        let token = self.sampling.choose(&logits, &mut self.rng)?;
        self.unseen = vec![token];
        Ok((!self.model.config().eos_token_id.contains(&token)).then_some(token))
    }
}

impl<R: Rng> Iterator for Generation<'_, R> {
    type Item = Result<u32>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.ended || self.cache.tokens() + self.unseen.len() >= self.model.config().n_positions {
            return None;
        }
        let token = self.choose().transpose();
        self.ended = !matches!(token, Some(Ok(_)));
        token
    }
}

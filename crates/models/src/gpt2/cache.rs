use longhand_tensor as tensor;

use crate::{Error, Result};

/// The keys and values of the tokens a model has seen, so that the next ones need not compute them again.
///
/// Starts empty; [`Gpt2::forward_with_cache`](super::Gpt2::forward_with_cache) appends to it. It belongs to one model
/// and one batch of texts.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    pub(super) layers: Vec<tensor::KvCache>,
}

impl KvCache {
    /// A cache of no tokens.
    pub fn new() -> Self {
        Self::default()
    }

    /// S, the tokens seen.
    pub fn tokens(&self) -> usize {
        self.layers.first().and_then(|layer| layer.lengths().first().copied()).unwrap_or(0)
    }

    /// Makes room for a model's layers, and checks that the cache is of as many texts.
    pub(super) fn prepare(&mut self, batch: usize, layers: usize) -> Result<()> {
        if self.tokens() == 0 {
            self.layers = vec![tensor::KvCache::new(batch); layers];
            return Ok(());
        }
        let texts = self.layers[0].lengths().len();
        if texts != batch || self.layers.len() != layers {
            return Err(Error::Argument {
                operation: "Gpt2::forward_with_cache",
                argument: "cache",
                was: format!("of {texts} texts in {} layers", self.layers.len()),
                expected: format!("{batch} texts in {layers} layers"),
            });
        }
        Ok(())
    }

    /// Drops what was appended since there were so many tokens: some layers may have it and some not.
    pub(super) fn truncate(&mut self, tokens: usize) -> Result<()> {
        for layer in &mut self.layers {
            for text in 0..layer.lengths().len() {
                layer.truncate(text, tokens.min(layer.lengths()[text]))?;
            }
        }
        Ok(())
    }
}

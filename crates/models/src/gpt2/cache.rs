use longhand_tensor::Tensor;

use crate::{Error, Result};

/// The keys and values of the tokens a model has seen, so that the next ones need not compute them again.
///
/// Starts empty; [`Gpt2::forward_with_cache`](super::Gpt2::forward_with_cache) appends to it. It belongs to one model
/// and one batch of texts.
#[derive(Clone, Debug, Default)]
pub struct KvCache {
    pub(super) layers: Vec<LayerCache>,
}

/// Keys and values of one layer, each (B, S, H, D).
#[derive(Clone, Debug, Default)]
pub(super) struct LayerCache(Option<(Tensor, Tensor)>);

impl KvCache {
    /// A cache of no tokens.
    pub fn new() -> Self {
        Self::default()
    }

    /// S, the tokens seen.
    pub fn tokens(&self) -> usize {
        self.layers.first().and_then(LayerCache::shape).map_or(0, |shape| shape[1])
    }

    /// Makes room for a model's layers, and checks that the cache is of as many texts.
    pub(super) fn prepare(&mut self, batch: usize, layers: usize) -> Result<()> {
        if let Some(shape) = self.layers.first().and_then(LayerCache::shape)
            && (shape[0] != batch || self.layers.len() != layers)
        {
            return Err(Error::Argument {
                operation: "Gpt2::forward_with_cache",
                argument: "cache",
                was: format!("of {} texts in {} layers", shape[0], self.layers.len()),
                expected: format!("{batch} texts in {layers} layers"),
            });
        }
        self.layers.resize_with(layers, LayerCache::default);
        Ok(())
    }
}

impl LayerCache {
    fn shape(&self) -> Option<&[usize]> {
        self.0.as_ref().map(|(k, _)| k.shape())
    }

    /// Adds the keys and values of new tokens; returns those of all tokens.
    pub(super) fn append(&mut self, k: &Tensor, v: &Tensor) -> Result<(Tensor, Tensor)> {
        let all = match &self.0 {
            // A copy: the views would keep the queries alive beside them.
            None => (k.contiguous()?, v.contiguous()?),
            Some((old_k, old_v)) => (Tensor::cat(&[old_k, k], 1)?, Tensor::cat(&[old_v, v], 1)?),
        };
        Ok(self.0.insert(all).clone())
    }
}

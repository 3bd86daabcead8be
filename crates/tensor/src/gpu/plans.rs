//! Compiled kernels, kept for the next time.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use longhand_gpu::cublaslt::{self, Cublaslt};
use longhand_kernels::{
    Dtype, activation, adamw, attention, cross_entropy, elementwise, embedding, kv_cache, matmul, norm,
    reduction, rope, sampling, softmax,
};

use crate::Result;

/// One cache for each kind of plan, by what its kernels are compiled for.
#[derive(Default)]
pub(crate) struct Plans {
    pub(crate) map: Cache<(elementwise::Operation, Dtype, Dtype), elementwise::MapPlan>,
    pub(crate) copy: Cache<(), elementwise::CopyPlan>,
    pub(crate) sum: Cache<Dtype, reduction::SumPlan>,
    pub(crate) axis_sum: Cache<Dtype, reduction::AxisSumPlan>,
    pub(crate) column_sum: Cache<Dtype, reduction::ColumnSumPlan>,
    pub(crate) gradient_norm: Cache<(), reduction::GradientNormPlan>,
    pub(crate) embedding: Cache<Dtype, embedding::EmbeddingForwardPlan>,
    pub(crate) embedding_backward: Cache<Dtype, embedding::EmbeddingBackwardPlan>,
    pub(crate) cross_entropy: Cache<cross_entropy::CrossEntropy, cross_entropy::CrossEntropyPlan>,
    pub(crate) mean_loss: Cache<(), cross_entropy::MeanLossPlan>,
    pub(crate) gradient_scale: Cache<Dtype, cross_entropy::GradientScalePlan>,
    pub(crate) norm: Cache<norm::Norm, norm::NormForwardPlan>,
    pub(crate) norm_backward: Cache<norm::Norm, norm::NormBackwardPlan>,
    pub(crate) attention: Cache<attention::Attention, attention::AttentionForwardPlan>,
    pub(crate) attention_decode: Cache<attention::AttentionDecode, attention::AttentionDecodePlan>,
    pub(crate) kv_append: Cache<kv_cache::KvAppend, kv_cache::KvAppendPlan>,
    pub(crate) attention_backward: Cache<attention::Attention, attention::AttentionBackwardPlan>,
    pub(crate) block_mask: Cache<attention::Attention, attention::BlockMaskPlan>,
    /// By head dim and number of parts.
    pub(crate) attention_merge: Cache<(Dtype, usize, usize), attention::AttentionMergePlan>,
    pub(crate) attention_merge_backward: Cache<(Dtype, usize, usize), attention::AttentionMergeBackwardPlan>,
    pub(crate) activation: Cache<activation::Activation, activation::ActivationForwardPlan>,
    pub(crate) activation_backward: Cache<activation::Activation, activation::ActivationBackwardPlan>,
    pub(crate) rope: Cache<rope::Rope, rope::RopePlan>,
    pub(crate) sample: Cache<sampling::Sample, sampling::SamplePlan>,
    pub(crate) softmax: Cache<softmax::SoftmaxForward, softmax::SoftmaxForwardPlan>,
    pub(crate) softmax_backward: Cache<softmax::SoftmaxBackward, softmax::SoftmaxBackwardPlan>,
    pub(crate) adamw: Cache<adamw::AdamW, adamw::AdamWPlan>,
    pub(crate) matmul: Cache<matmul::Matmul, matmul::MatmulPlan>,
    pub(crate) cublaslt_matmul: Cache<cublaslt::Matmul, cublaslt::MatmulPlan>,
    /// None where it is missing.
    pub(crate) cublaslt: OnceLock<Option<Cublaslt>>,
}

/// Values that are slow to make.
pub(crate) struct Cache<K, V>(Mutex<HashMap<K, Arc<V>>>);

impl<K, V> Default for Cache<K, V> {
    fn default() -> Self {
        Cache(Mutex::default())
    }
}

impl<K: Hash + Eq + Clone, V> Cache<K, V> {
    /// The value of `key`, made when it is first asked for.
    pub(crate) fn get<E>(&self, key: K, make: impl FnOnce(K) -> std::result::Result<V, E>) -> Result<Arc<V>>
    where
        crate::Error: From<E>,
    {
        let mut values = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = values.get(&key) {
            return Ok(Arc::clone(value));
        }
        let value = Arc::new(make(key.clone())?);
        values.insert(key, Arc::clone(&value));
        Ok(value)
    }
}

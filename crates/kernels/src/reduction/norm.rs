//! `kernels/reduction/norm.cu`.

use longhand_gpu::{Constants, Device, DevicePtr, Stream, params};

use crate::check::Check;
use crate::loaded::Loaded;
use crate::source::{cuda_files, program};
use crate::tensor_list::{CHUNK, TensorList};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("gradient norm");
const THREADS: u32 = 512;

params! {
    struct Params {
        tensors: DevicePtr,
        counts: DevicePtr,
        chunks: DevicePtr,
        partials: DevicePtr,
        norm: DevicePtr,
        factor: DevicePtr,
        parts: i64,
        max_norm: f32,
        _pad: u32,
    }
}

/// The norm of all gradients together, and the factor that clips it (Pascanu et al. 2013, arXiv 1211.5063, algorithm
/// 1):
///
/// ```text
/// norm   = sqrt(sum over all elements of all tensors of x²)
/// factor = min(1, max_norm / (norm + 1e-6))
/// ```
///
/// Both stay on the device, where [`AdamW`](crate::adamw::AdamW) takes the factor as its gradient scale: nobody waits.
///
/// Deterministic: the same inputs give the same bits, on every GPU.
#[derive(Clone, Copy, Debug)]
pub struct GradientNorm(Dtype);

impl GradientNorm {
    /// Of gradients of `dtype`.
    #[must_use]
    pub fn new(dtype: Dtype) -> GradientNorm {
        GradientNorm(dtype)
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<GradientNormPlan> {
        let [partial, finish] = &variants(self.0);
        Ok(GradientNormPlan { partial: Loaded::new(device, partial)?, finish: Loaded::new(device, finish)? })
    }
}

pub(super) fn variants(dtype: Dtype) -> [Variant; 2] {
    let [file] = cuda_files!["reduction/norm.cu"];
    let constants = Constants::new()
        .alias("Element", dtype.cuda_name())
        .int("CHUNK", CHUNK as i64)
        .int("THREADS", THREADS);
    let program = program(*file, &[], constants).params(Params::LAYOUT);
    ["norm_partial", "norm_finish"].map(|entry| Variant {
        program: program.clone(),
        entry,
        threads: THREADS,
        shared_bytes: 0,
    })
}

/// What [`GradientNormPlan::launch`] computes with.
#[derive(Clone, Copy, Debug)]
pub struct GradientNormArgs<'a> {
    /// The gradients, of any alignment.
    pub gradients: &'a TensorList,
    /// The norm that is not to be exceeded; infinite for the norm alone.
    pub max_norm: f32,
    /// One f32, overwritten.
    pub norm: DevicePtr,
    /// One f32, overwritten.
    pub factor: DevicePtr,
    /// [`GradientNormPlan::workspace_bytes`] of scratch memory at a multiple of 4 bytes.
    pub workspace: DevicePtr,
}

/// A compiled [`GradientNorm`].
#[derive(Clone, Debug)]
pub struct GradientNormPlan {
    partial: Loaded,
    finish: Loaded,
}

impl GradientNormPlan {
    /// Bytes of scratch memory that a launch with these gradients needs.
    #[must_use]
    pub fn workspace_bytes(&self, gradients: &TensorList) -> usize {
        gradients.blocks() * Dtype::F32.size()
    }

    /// Enqueues on `stream`: no allocation, no synchronisation. Without elements, the norm is 0.
    ///
    /// # Safety
    ///
    /// The gradients (which have been set), of the plan's dtype, outputs and workspace lie in memory of the stream's
    /// device that stays allocated until the stream has come to this point, and do not overlap. The list was made, and
    /// last set, on this stream, or on one that this stream has waited for.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for numbers or addresses that the kernels cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &GradientNormArgs) -> Result<()> {
        let GradientNormArgs { gradients, max_norm, norm, factor, workspace } = *args;
        let blocks = gradients.blocks();
        CHECK.tensor("norm", norm, Dtype::F32)?;
        CHECK.tensor("factor", factor, Dtype::F32)?;
        if blocks > 0 {
            CHECK.tensor("workspace", workspace, Dtype::F32)?;
        }
        if max_norm.is_nan() || max_norm <= 0.0 {
            return Err(CHECK.error("max_norm", max_norm, "positive"));
        }
        let params = Params {
            tensors: gradients.pointers_ptr(),
            counts: gradients.counts_ptr(),
            chunks: gradients.chunks_ptr(),
            partials: workspace,
            norm,
            factor,
            parts: blocks as i64,
            max_norm,
            _pad: 0,
        };
        // SAFETY: the caller answers for the memory; the checks above for the kernels' other assumptions.
        unsafe {
            if blocks > 0 {
                self.partial.launch(stream, [blocks as u32, 1], &params)?;
            }
            self.finish.launch(stream, [1, 1], &params)
        }
    }
}

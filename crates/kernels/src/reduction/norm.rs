//! `kernels/reduction/norm.cu`.

use longhand_gpu::{Constants, Device, DevicePtr, Stream, params};

use crate::check::Check;
use crate::extent::Extent;
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
    }
}

params! {
    struct FinishParams {
        partials: DevicePtr,
        parts: i64,
        norm: DevicePtr,
        factor: DevicePtr,
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
/// Both stay on the device, where [`AdamW`](crate::adamw::AdamW) takes the norm, to skip the step where it is not finite,
/// and the factor as its gradient scale: nobody waits.
///
/// The norm is finite exactly where every element is and no sum of squares leaves the range of f32 (an element of 1.8e19
/// does). Where it is not, the factor is 1.
///
/// Deterministic: the same inputs give the same bits, on every GPU.
#[derive(Clone, Copy, Debug, Default)]
pub struct GradientNorm;

impl GradientNorm {
    /// Of gradients of any types together.
    #[must_use]
    pub fn new() -> GradientNorm {
        GradientNorm
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<GradientNormPlan> {
        let [f32, bf16, f16] =
            [Dtype::F32, Dtype::Bf16, Dtype::F16].map(|dtype| Loaded::new(device, &variants(dtype)[0]));
        let finish = Loaded::new(device, &variants(Dtype::F32)[1])?;
        Ok(GradientNormPlan { f32: f32?, bf16: bf16?, f16: f16?, finish })
    }
}

pub(super) fn variants(dtype: Dtype) -> [Variant; 2] {
    let [file] = cuda_files!["reduction/norm.cu"];
    let constants = Constants::new()
        .alias("Element", dtype.cuda_name())
        .int("CHUNK", CHUNK as i64)
        .int("THREADS", THREADS);
    let program = program(*file, &[], constants).params(Params::LAYOUT).params(FinishParams::LAYOUT);
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
    /// The gradients, of any alignment: a list for each type that there is, or several.
    pub gradients: &'a [(Dtype, &'a TensorList)],
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
    f32: Loaded,
    bf16: Loaded,
    f16: Loaded,
    finish: Loaded,
}

impl GradientNormPlan {
    /// Bytes of scratch memory that a launch with these gradients needs.
    #[must_use]
    pub fn workspace_bytes(&self, gradients: &[(Dtype, &TensorList)]) -> usize {
        blocks(gradients) * Dtype::F32.size()
    }

    /// Enqueues on `stream`: no allocation, no synchronisation. Without elements, the norm is 0.
    ///
    /// # Safety
    ///
    /// The gradients (which have been set), of the type that is said, outputs and workspace lie in memory of the stream's
    /// device that stays allocated until the stream has come to this point, and do not overlap. The lists were made, and
    /// last set, on this stream, or on one that this stream has waited for.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for numbers or addresses that the kernels cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &GradientNormArgs) -> Result<()> {
        let GradientNormArgs { gradients, max_norm, norm, factor, workspace } = *args;
        let parts = blocks(gradients);
        check(args, parts)?;
        let mut partials = workspace;
        for (dtype, list) in gradients.iter().filter(|(_, list)| list.blocks() > 0) {
            // SAFETY: the caller answers for the memory; the checks above for the kernels' other assumptions.
            unsafe { self.partial(stream, *dtype, list, partials)? };
            partials = partials.offset((list.blocks() * Dtype::F32.size()) as i64);
        }
        let params =
            FinishParams { partials: workspace, parts: parts as i64, norm, factor, max_norm, _pad: 0 };
        // SAFETY: as above.
        unsafe { self.finish.launch(stream, [1, 1], &params) }
    }

    /// # Safety
    ///
    /// As [`GradientNormPlan::launch`].
    unsafe fn partial(
        &self,
        stream: &Stream,
        dtype: Dtype,
        list: &TensorList,
        partials: DevicePtr,
    ) -> Result<()> {
        let kernel = match dtype {
            Dtype::F32 => &self.f32,
            Dtype::Bf16 => &self.bf16,
            Dtype::F16 => &self.f16,
        };
        let params = Params {
            tensors: list.pointers_ptr(),
            counts: list.counts_ptr(),
            chunks: list.chunks_ptr(),
            partials,
        };
        // SAFETY: the caller answers for it.
        unsafe { kernel.launch(stream, [list.blocks() as u32, 1], &params) }
    }
}

fn check(args: &GradientNormArgs, parts: usize) -> Result<()> {
    let GradientNormArgs { gradients, max_norm, norm, factor, workspace } = *args;
    CHECK.tensor("norm", norm, Dtype::F32)?;
    CHECK.tensor("factor", factor, Dtype::F32)?;
    if parts > 0 {
        CHECK.tensor("workspace", workspace, Dtype::F32)?;
    }
    if max_norm.is_nan() || max_norm <= 0.0 {
        return Err(CHECK.error("max_norm", max_norm, "positive"));
    }
    let written = [
        Extent::contiguous("norm", norm, 1, 4).written(),
        Extent::contiguous("factor", factor, 1, 4).written(),
        Extent::contiguous("workspace", workspace, parts, 4).written(),
    ];
    CHECK.apart(&written)?;
    gradients.iter().try_for_each(|(dtype, list)| list.check_apart(CHECK, dtype.size(), &written))
}

fn blocks(gradients: &[(Dtype, &TensorList)]) -> usize {
    gradients.iter().map(|(_, list)| list.blocks()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::{assert_apart, pointers};

    #[test]
    fn what_is_written_lies_apart() {
        let [norm, factor, workspace] = [1, 2, 3].map(|i| DevicePtr(i << 20));
        assert_apart(
            GradientNormArgs { gradients: &[], max_norm: 1.0, norm, factor, workspace },
            |args| check(args, 9),
            3,
            pointers![norm, factor, workspace],
            &[],
        );
    }
}

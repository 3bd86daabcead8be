//! `kernels/attention/merge_backward.cu`.

use longhand_gpu::{Device, DevicePtr, Stream, params};

use super::{
    Call, DPARTS, HEADERS, Heads, Kind, MAX_PARTS, PARTS, Part, PartialAttention, Strides, THREADS, listed,
};
use crate::check::Check;
use crate::extent::Extent;
use crate::loaded::{ByAlignment, Loaded};
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("attention merge backward");

params! {
    #[allow(non_snake_case, reason = "dimensions have their letters, as in CUDA")]
    struct Params {
        parts: [Part; MAX_PARTS],
        dparts: [Part; MAX_PARTS],
        dout: DevicePtr,
        dlse: DevicePtr,
        dout_strides: Strides,
        tokens: i64,
        T: i32,
        _pad: u32,
    }
}

/// The gradients of [`AttentionMerge`](super::AttentionMerge): of the `out` and the LSE of each part, from those of the
/// merged result.
///
/// Deterministic: the same inputs give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionMergeBackward(Kind);

impl AttentionMergeBackward {
    /// As [`AttentionMerge::new`](super::AttentionMerge::new).
    #[must_use]
    pub fn new(dtype: Dtype, head_dim: usize, parts: usize) -> AttentionMergeBackward {
        AttentionMergeBackward(Kind { dtype, head_dim, parts })
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// As [`AttentionMerge::plan`](super::AttentionMerge::plan).
    pub fn plan(&self, device: &Device) -> Result<AttentionMergeBackwardPlan> {
        Ok(AttentionMergeBackwardPlan { kind: self.0, kernel: self.0.load(CHECK, device, variant)? })
    }
}

pub(super) fn variant(kind: Kind, vector: usize) -> Variant {
    let [file] = cuda_files!["attention/merge_backward.cu"];
    Variant {
        program: program(*file, HEADERS, kind.constants(vector)).params(Params::LAYOUT),
        entry: "attention_merge_backward",
        threads: THREADS,
        shared_bytes: 0,
    }
}

/// What [`AttentionMergeBackwardPlan::launch`] computes with.
#[derive(Clone, Copy, Debug)]
pub struct AttentionMergeBackwardArgs<'a> {
    /// `B`, at most 2³¹ - 1.
    pub batch: usize,
    /// `T`, at most 2³¹ - 1.
    pub tokens: usize,
    /// `H`, at most 65,535.
    pub heads: usize,
    /// What was merged, as many as planned.
    pub parts: &'a [PartialAttention],
    /// `(B, T, H, D)`: the gradient of the merged `out`.
    pub dout: Heads,
    /// `(B, H, T)` contiguous f32: the gradient of the merged LSE; null for zeros.
    pub dlse: DevicePtr,
    /// The gradients of the parts, overwritten: of each, [`Heads::NONE`] and null where nobody wants them.
    pub dparts: &'a [PartialAttention],
}

/// A compiled [`AttentionMergeBackward`].
#[derive(Clone, Debug)]
pub struct AttentionMergeBackwardPlan {
    kind: Kind,
    kernel: ByAlignment<Loaded>,
}

impl AttentionMergeBackwardPlan {
    /// Enqueues on `stream`: no allocation, no synchronisation. Launches nothing where there are no tokens or heads.
    ///
    /// # Safety
    ///
    /// As [`AttentionMergePlan::launch`](super::AttentionMergePlan::launch).
    ///
    /// # Errors
    ///
    /// As [`AttentionMergePlan::launch`](super::AttentionMergePlan::launch).
    pub unsafe fn launch(&self, stream: &Stream, args: &AttentionMergeBackwardArgs<'_>) -> Result<()> {
        let AttentionMergeBackwardArgs { batch, tokens, heads, parts, dout, dlse, dparts } = *args;
        let call = Call { check: CHECK, kind: self.kind, batch, tokens, heads };
        let outs = parts.iter().chain(dparts).map(|part| &part.out);
        let (kernel, vector) = self.kernel.get(outs.chain([&dout]).all(|out| call.is_aligned(out)));
        let Some(blocks) = check(&call, args, self.kind.group(vector))? else { return Ok(()) };
        let params = Params {
            parts: listed(parts),
            dparts: listed(dparts),
            dout: dout.data,
            dlse,
            dout_strides: dout.strides,
            tokens: (batch * tokens) as i64,
            T: tokens as i32,
            _pad: 0,
        };
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { kernel.launch(stream, [blocks, heads as u32], &params) }
    }
}

/// Blocks in x; None where there is nothing to do.
fn check(call: &Call, args: &AttentionMergeBackwardArgs<'_>, lanes: usize) -> Result<Option<u32>> {
    call.count("parts", args.parts)?;
    call.count("dparts", args.dparts)?;
    let blocks = call.blocks(lanes)?;
    if blocks.is_some() {
        for (i, (part, grad)) in args.parts.iter().zip(args.dparts).enumerate() {
            call.read(PARTS[i], part)?;
            call.wanted(DPARTS[i], grad)?;
        }
        CHECK.heads("dout", &args.dout, call.kind.dtype, call.shape())?;
        CHECK.optional("dlse", args.dlse, Dtype::F32)?;
        let merged = PartialAttention { out: args.dout, lse: args.dlse };
        let upstream = call.extents(["dout", "dlse"], &merged);
        let dparts = call.extents_of(&DPARTS, args.dparts).map(|grad| grad.map(Extent::written));
        let parts = call.extents_of(&PARTS, args.parts);
        CHECK.apart(parts.iter().chain(&dparts).flatten().chain(&upstream))?;
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_argument_that_cannot_be_used_is_named_with_what_it_was_and_has_to_be() {
        let kind = Kind { dtype: Dtype::F32, head_dim: 10, parts: 2 };
        let call = Call { check: CHECK, kind, batch: 2, tokens: 5, heads: 4 };
        let out = Heads { data: DevicePtr(4096), strides: Strides::token_major(5, 4, 10) };
        let part = PartialAttention { out, lse: DevicePtr(4096) };
        let at = |i: u64| PartialAttention {
            out: Heads { data: DevicePtr(i << 20), ..out },
            lse: DevicePtr((i << 20) + (1 << 19)),
        };
        let (parts, dparts) = ([part; 2], [at(1), at(2)]);
        let args = AttentionMergeBackwardArgs {
            batch: 2,
            tokens: 5,
            heads: 4,
            parts: &parts,
            dout: out,
            dlse: DevicePtr::NULL,
            dparts: &dparts,
        };
        let message =
            |args| check(&call, &args, 16).map_or_else(|error| error.to_string(), |_| "fine".into());
        assert_eq!(message(args), "fine");
        assert_eq!(
            message(AttentionMergeBackwardArgs { dparts: &parts[..1], ..args }),
            "attention merge backward: dparts is 1, it has to be as many as planned: 2"
        );
        assert_eq!(
            message(AttentionMergeBackwardArgs { dlse: DevicePtr(2), ..args }),
            "attention merge backward: dlse is DevicePtr(0x2), it has to be an address that is a multiple of 4"
        );
        let overlapping =
            PartialAttention { out: Heads { strides: Strides { token: 8, ..out.strides }, ..out }, ..part };
        let in_place = [at(1), part];
        assert_eq!(
            message(AttentionMergeBackwardArgs { dparts: &in_place, ..args }),
            "attention merge backward: dparts[1].out is at 0x1000..0x1640, it has to be apart from parts[0].out at 0x1000..0x1640"
        );
        assert!(
            message(AttentionMergeBackwardArgs { dparts: &[at(1), overlapping], ..args })
                .starts_with("attention merge backward: stride of dparts[1].out is")
        );
    }
}

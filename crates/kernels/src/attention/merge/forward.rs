//! `kernels/attention/merge.cu`.

use longhand_gpu::{Device, DevicePtr, Stream, params};

use super::{Call, HEADERS, Kind, MAX_PARTS, Names, PARTS, Part, PartialAttention, Strides, THREADS, listed};
use crate::check::Check;
use crate::extent::Extent;
use crate::loaded::{ByAlignment, Loaded};
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("attention merge");
const MERGED: Names = ["merged.out", "merged.lse"];

params! {
    #[allow(non_snake_case, reason = "dimensions have their letters, as in CUDA")]
    struct Params {
        parts: [Part; MAX_PARTS],
        out: DevicePtr,
        lse: DevicePtr,
        out_strides: Strides,
        tokens: i64,
        T: i32,
        _pad: u32,
    }
}

/// Partial results of attention over disjoint keys, merged into the one over all their keys (Ye et al. 2025, FlashInfer,
/// arXiv 2501.01005, section 2.2): `lse = ln Σ exp(lse_i)`, `out = Σ exp(lse_i - lse) out_i`.
///
/// A part with an LSE of -inf counts for nothing, whatever its `out` holds. Deterministic: the same inputs give the same
/// bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AttentionMerge(Kind);

impl AttentionMerge {
    /// Of so many parts, 2 to [`MAX_PARTS`](super::MAX_PARTS), with heads of `head_dim` elements.
    #[must_use]
    pub fn new(dtype: Dtype, head_dim: usize, parts: usize) -> AttentionMerge {
        AttentionMerge(Kind { dtype, head_dim, parts })
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for a head dim outside 1 to 1024, or parts outside 2 to 8;
    /// [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<AttentionMergePlan> {
        Ok(AttentionMergePlan { kind: self.0, kernel: self.0.load(CHECK, device, variant)? })
    }
}

pub(super) fn variant(kind: Kind, vector: usize) -> Variant {
    let [file] = cuda_files!["attention/merge.cu"];
    Variant {
        program: program(*file, HEADERS, kind.constants(vector)).params(Params::LAYOUT),
        entry: "attention_merge",
        threads: THREADS,
        shared_bytes: 0,
    }
}

/// What [`AttentionMergePlan::launch`] computes with.
#[derive(Clone, Copy, Debug)]
pub struct AttentionMergeArgs<'a> {
    /// `B`, at most 2³¹ - 1.
    pub batch: usize,
    /// `T`, at most 2³¹ - 1.
    pub tokens: usize,
    /// `H`, at most 65,535.
    pub heads: usize,
    /// As many as planned.
    pub parts: &'a [PartialAttention],
    /// Overwritten.
    pub merged: PartialAttention,
}

/// A compiled [`AttentionMerge`].
#[derive(Clone, Debug)]
pub struct AttentionMergePlan {
    kind: Kind,
    kernel: ByAlignment<Loaded>,
}

impl AttentionMergePlan {
    /// Enqueues on `stream`: no allocation, no synchronisation. Launches nothing where there are no tokens or heads.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes and strides, in memory of the stream's device that stays allocated until
    /// the stream has come to this point; what is written overlaps nothing else.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes, strides or addresses that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &AttentionMergeArgs<'_>) -> Result<()> {
        let AttentionMergeArgs { batch, tokens, heads, parts, merged } = *args;
        let call = Call { check: CHECK, kind: self.kind, batch, tokens, heads };
        let aligned = parts.iter().chain([&merged]).all(|part| call.is_aligned(&part.out));
        let (kernel, vector) = self.kernel.get(aligned);
        let Some(blocks) = check(&call, args, self.kind.group(vector))? else { return Ok(()) };
        let params = Params {
            parts: listed(parts),
            out: merged.out.data,
            lse: merged.lse,
            out_strides: merged.out.strides,
            tokens: (batch * tokens) as i64,
            T: tokens as i32,
            _pad: 0,
        };
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { kernel.launch(stream, [blocks, heads as u32], &params) }
    }
}

/// Blocks in x; None where there is nothing to do.
fn check(call: &Call, args: &AttentionMergeArgs<'_>, lanes: usize) -> Result<Option<u32>> {
    call.count("parts", args.parts)?;
    let blocks = call.blocks(lanes)?;
    if blocks.is_some() {
        for (names, part) in PARTS.into_iter().zip(args.parts) {
            call.read(names, part)?;
        }
        call.written(MERGED, &args.merged)?;
        let merged = call.extents(MERGED, &args.merged).map(Extent::written);
        CHECK.apart(call.extents_of(&PARTS, args.parts).iter().flatten().chain(&merged))?;
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attention::Heads;
    use crate::extent::assert_apart;

    const KIND: Kind = Kind { dtype: Dtype::Bf16, head_dim: 64, parts: 2 };

    /// Each number is that of another place.
    fn part_at(i: u64) -> PartialAttention {
        let out = Heads { data: DevicePtr(i << 20), strides: Strides::token_major(5, 4, 64) };
        PartialAttention { out, lse: DevicePtr((i << 20) + (1 << 19)) }
    }

    fn part() -> PartialAttention {
        part_at(1)
    }

    #[test]
    fn what_is_written_is_apart_from_all_else() {
        let check = |[parts @ .., merged]: &[PartialAttention; 3]| {
            let args = AttentionMergeArgs { batch: 2, tokens: 5, heads: 4, parts, merged: *merged };
            check(&Call { check: CHECK, kind: KIND, batch: 2, tokens: 5, heads: 4 }, &args, 8).map(drop)
        };
        assert_apart(
            [1, 2, 3].map(part_at),
            check,
            2,
            &[
                ("merged.out", |args| &mut args[2].out.data),
                ("merged.lse", |args| &mut args[2].lse),
                ("parts[0].out", |args| &mut args[0].out.data),
                ("parts[0].lse", |args| &mut args[0].lse),
                ("parts[1].out", |args| &mut args[1].out.data),
                ("parts[1].lse", |args| &mut args[1].lse),
            ],
            &[],
        );
    }

    fn message(parts: &[PartialAttention], change: impl Fn(&mut AttentionMergeArgs<'_>)) -> String {
        let mut args = AttentionMergeArgs { batch: 2, tokens: 5, heads: 4, parts, merged: part_at(3) };
        change(&mut args);
        let AttentionMergeArgs { batch, tokens, heads, .. } = args;
        let call = Call { check: CHECK, kind: KIND, batch, tokens, heads };
        check(&call, &args, 8).map_or_else(|error| error.to_string(), |blocks| format!("{blocks:?}"))
    }

    #[test]
    fn an_argument_that_cannot_be_used_is_named_with_what_it_was_and_has_to_be() {
        let parts = [part(), part()];
        assert_eq!(message(&parts, |_| ()), "Some(1)");
        assert_eq!(
            message(&parts[..1], |_| ()),
            "attention merge: parts is 1, it has to be as many as planned: 2"
        );
        assert_eq!(
            message(&parts, |args| args.heads = 65_536),
            "attention merge: heads is 65536, it has to be 0 to 65535"
        );
        assert_eq!(
            message(&[part(), PartialAttention { lse: DevicePtr::NULL, ..part() }], |_| ()),
            "attention merge: parts[1].lse is DevicePtr(0x0), it has to be an address that is a multiple of 4"
        );
        assert_eq!(
            message(&parts, |args| args.merged.out.strides.head = 32),
            "attention merge: stride of merged.out is 32, it has to be at least 64: its elements overlap"
        );
        assert_eq!(
            message(&parts, |args| (args.batch, args.tokens) = (1 << 20, 1 << 19)),
            "attention merge: batch * tokens is 549755813888, it has to be 0 to 34359738240"
        );
    }

    #[test]
    fn without_tokens_nothing_is_looked_at_and_nothing_launched() {
        let null = DevicePtr::NULL;
        let none = PartialAttention { out: Heads { data: null, ..part().out }, lse: null };
        assert_eq!(message(&[none, none], |args| (args.tokens, args.merged) = (0, none)), "None");
    }

    #[test]
    fn parts_and_head_dims_without_a_kernel_are_errors() {
        let device = Device::emulated("sm_80".parse().unwrap()).unwrap();
        let message = |head_dim, parts| {
            AttentionMerge::new(Dtype::F32, head_dim, parts).plan(&device).unwrap_err().to_string()
        };
        assert_eq!(message(64, 1), "attention merge: parts is 1, it has to be 2 to 8");
        assert_eq!(message(64, 9), "attention merge: parts is 9, it has to be 2 to 8");
        assert_eq!(message(1025, 2), "attention merge: head dim is 1025, it has to be 1 to 1024");
    }
}

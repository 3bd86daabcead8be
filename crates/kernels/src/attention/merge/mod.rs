//! Partial results of attention over disjoint keys, merged into one, forward and backward: what ring attention, cascades
//! over a shared prefix, and attention whose keys do not fit in one call need.
//!
//! ```no_run
//! use longhand_gpu::Device;
//! use longhand_kernels::Dtype;
//! use longhand_kernels::attention::{AttentionMerge, AttentionMergeArgs, Heads, PartialAttention, Strides};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let device = Device::cuda(0)?;
//! let stream = device.new_stream()?;
//! let plan = AttentionMerge::new(Dtype::Bf16, 64, 2).plan(&device)?;
//!
//! let (batch, tokens, heads) = (1, 4096, 12);
//! let alloc = || Ok::<_, longhand_gpu::Error>((stream.alloc(tokens * heads * 64 * 2)?, stream.alloc(heads * tokens * 4)?));
//! let [near, far, all] = [alloc()?, alloc()?, alloc()?]; // out and lse of each
//! let strides = Strides::token_major(tokens, heads, 64);
//! let of = |(out, lse): &(longhand_gpu::Buffer, longhand_gpu::Buffer)| PartialAttention {
//!     out: Heads { data: out.ptr(), strides },
//!     lse: lse.ptr(),
//! };
//! let args = AttentionMergeArgs { batch, tokens, heads, parts: &[of(&near), of(&far)], merged: of(&all) };
//! // SAFETY: all tensors lie within the allocations above, which outlive the launch.
//! unsafe { plan.launch(&stream, &args)? };
//! # Ok(())
//! # }
//! ```

mod backward;
mod forward;

use bytemuck::{Pod, Zeroable};
use longhand_gpu::{Constants, Device, DevicePtr};

pub use backward::{AttentionMergeBackward, AttentionMergeBackwardArgs, AttentionMergeBackwardPlan};
pub use forward::{AttentionMerge, AttentionMergeArgs, AttentionMergePlan};

use super::{Heads, Strides};
use crate::check::{Check, MAX_BLOCKS, MAX_BLOCKS_YZ, aligned};
use crate::extent::Extent;
use crate::loaded::{ByAlignment, Loaded};
use crate::source::cuda_files;
use crate::{Dtype, Result, Variant};

/// The most parts that one launch merges. More are merged in several.
pub const MAX_PARTS: usize = 8;
const MAX_HEAD_DIM: usize = 1024;
const THREADS: u32 = 128;

const HEADERS: &[(&str, &str)] = cuda_files!["attention/merge.cuh"];

/// A result of attention over some of the keys, or the gradient of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartialAttention {
    /// `(B, T, H, D)`. Any strides and alignment of whole elements will do; with every head at a multiple of 16 bytes,
    /// memory is accessed 16 bytes at a time.
    pub out: Heads,
    /// `(B, H, T)` contiguous f32: the natural logarithm of the sum of `exp(score)` over the keys; -inf where there is
    /// none.
    pub lse: DevicePtr,
}

/// Of the two tensors of a part.
type Names = [&'static str; 2];

/// Those of every part, or of the gradient of every part.
macro_rules! numbered {
    ($name:literal) => { numbered!($name: 0 1 2 3 4 5 6 7) };
    ($name:literal: $($i:literal)*) => {
        [$([concat!($name, "[", $i, "].out"), concat!($name, "[", $i, "].lse")]),*]
    };
}
const PARTS: [Names; MAX_PARTS] = numbered!("parts");
const DPARTS: [Names; MAX_PARTS] = numbered!("dparts");

/// `Part` and `Gradient` of the kernels.
#[repr(C)]
#[derive(Clone, Copy, Debug, Pod, Zeroable)]
struct Part {
    out: DevicePtr,
    lse: DevicePtr,
    strides: Strides,
}

/// The list that a kernel takes, of which it looks at the first so many.
fn listed(parts: &[PartialAttention]) -> [Part; MAX_PARTS] {
    let mut list = [Part::zeroed(); MAX_PARTS];
    for (listed, PartialAttention { out, lse }) in list.iter_mut().zip(parts) {
        *listed = Part { out: out.data, lse: *lse, strides: out.strides };
    }
    list
}

/// What the kernels are specialised on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Kind {
    dtype: Dtype,
    head_dim: usize,
    parts: usize,
}

impl Kind {
    fn load(
        self,
        check: Check,
        device: &Device,
        variant: fn(Kind, usize) -> Variant,
    ) -> Result<ByAlignment<Loaded>> {
        check.size("head dim", self.head_dim, 1, MAX_HEAD_DIM)?;
        check.size("parts", self.parts, 2, MAX_PARTS)?;
        let load = |vector| Loaded::new(device, &variant(self, vector));
        ByAlignment::new(self.head_dim.is_multiple_of(8), load)
    }

    /// Lanes that share a row: no more than have something to load.
    fn group(self, vector: usize) -> usize {
        (self.head_dim / vector).next_power_of_two().min(32)
    }

    fn constants(self, vector: usize) -> Constants {
        Constants::new()
            .alias("Element", self.dtype.cuda_name())
            .int("HEAD_DIM", self.head_dim as i64)
            .int("PARTS", self.parts as i64)
            .int("MAX_PARTS", MAX_PARTS as i64)
            .int("VECTOR", vector as i64)
            .int("GROUP", self.group(vector) as i64)
            .int("THREADS", THREADS)
    }

    /// Representatives: each type, then the most registers.
    fn listed() -> [Kind; 4] {
        let kind = |dtype, parts| Kind { dtype, head_dim: 128, parts };
        let most = Kind { head_dim: 256, ..kind(Dtype::F32, MAX_PARTS) };
        [kind(Dtype::F32, 2), kind(Dtype::Bf16, 2), kind(Dtype::F16, 2), most]
    }
}

pub(crate) fn variants() -> Vec<Variant> {
    let both = |kind, vector| [forward::variant(kind, vector), backward::variant(kind, vector)];
    let [_, bf16, ..] = Kind::listed();
    Kind::listed().into_iter().flat_map(|kind| both(kind, 8)).chain(both(bf16, 1)).collect()
}

/// The sizes of one call, and what is checked of its tensors.
#[derive(Clone, Copy)]
struct Call {
    check: Check,
    kind: Kind,
    batch: usize,
    tokens: usize,
    heads: usize,
}

impl Call {
    /// How many blocks in x it takes, with so many threads for each token of a head; None where there is nothing to do.
    fn blocks(&self, lanes: usize) -> Result<Option<u32>> {
        let Call { check, batch, tokens, heads, .. } = *self;
        check.size("batch", batch, 0, i32::MAX as usize)?;
        check.size("tokens", tokens, 0, i32::MAX as usize)?;
        check.size("heads", heads, 0, MAX_BLOCKS_YZ)?;
        check.size("batch * tokens", batch * tokens, 0, MAX_BLOCKS / lanes * THREADS as usize)?;
        let blocks = (batch * tokens * lanes).div_ceil(THREADS as usize);
        Ok(if blocks * heads == 0 { None } else { Some(blocks as u32) })
    }

    fn count(&self, name: &str, parts: &[PartialAttention]) -> Result<()> {
        if parts.len() != self.kind.parts {
            return Err(self.check.error(
                name,
                parts.len(),
                format!("as many as planned: {}", self.kind.parts),
            ));
        }
        Ok(())
    }

    fn read(&self, [out, lse]: Names, part: &PartialAttention) -> Result<()> {
        self.check.heads(out, &part.out, self.kind.dtype, self.shape())?;
        self.check.memory(lse, part.lse, 4)
    }

    fn written(&self, [out, lse]: Names, part: &PartialAttention) -> Result<()> {
        self.check.heads_written(out, &part.out, self.kind.dtype, self.shape())?;
        self.check.memory(lse, part.lse, 4)
    }

    /// A gradient, what is wanted of it.
    fn wanted(&self, [out, lse]: Names, grad: &PartialAttention) -> Result<()> {
        if !grad.out.data.is_null() {
            self.check.heads_written(out, &grad.out, self.kind.dtype, self.shape())?;
        }
        self.check.optional(lse, grad.lse, Dtype::F32)
    }

    /// Of both tensors of a part.
    fn extents(&self, names: Names, part: &PartialAttention) -> [Extent; 2] {
        let numbers = self.batch * self.tokens * self.heads;
        [
            Extent::heads(names[0], &part.out, self.shape(), self.kind.dtype.size()),
            Extent::contiguous(names[1], part.lse, numbers, 4),
        ]
    }

    /// Of all parts, of which there are no more than names.
    fn extents_of(&self, names: &[Names; MAX_PARTS], parts: &[PartialAttention]) -> [[Extent; 2]; MAX_PARTS] {
        let none = PartialAttention { out: Heads::NONE, lse: DevicePtr::NULL };
        std::array::from_fn(|i| self.extents(names[i], parts.get(i).unwrap_or(&none)))
    }

    fn shape(&self) -> [usize; 4] {
        [self.batch, self.tokens, self.heads, self.kind.head_dim]
    }

    /// Whether every head of the tensor begins at a multiple of 16 bytes.
    fn is_aligned(&self, Heads { data, strides }: &Heads) -> bool {
        let steps = [(self.batch, strides.batch), (self.tokens, strides.token), (self.heads, strides.head)];
        aligned([*data]) && steps.iter().all(|&(size, stride)| size <= 1 || stride % 8 == 0)
    }
}

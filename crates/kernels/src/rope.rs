//! `kernels/rope/rotate.cu`: rotary position embedding.

use longhand_gpu::{Constants, Device, DevicePtr, Stream, params};

use crate::attention::{Heads, Strides};
use crate::check::{Check, MAX_BLOCKS, aligned};
use crate::extent::Extent;
use crate::loaded::{ByAlignment, Loaded};
use crate::source::{cuda_files, program};
use crate::{Dtype, Result, Variant};

const CHECK: Check = Check("rope");
const THREADS: u32 = 128;
/// Heads that a thread turns by the angles that it has computed: more would save f64 operations, of which there are few
/// enough by then, and leave a single token with too few threads.
const HEADS: usize = 16;
const MAX_HEAD_DIM: usize = 1024;

params! {
    #[allow(non_snake_case, reason = "dimensions have their letters, as in CUDA")]
    struct Params {
        q: DevicePtr,
        k: DevicePtr,
        q_out: DevicePtr,
        k_out: DevicePtr,
        positions: DevicePtr,
        frequencies: DevicePtr,
        q_strides: Strides,
        k_strides: Strides,
        q_out_strides: Strides,
        k_out_strides: Strides,
        positions_stride: i64,
        tokens: i64,
        T: i32,
        q_heads: i32,
        k_heads: i32,
        factor: f32,
        direction: f32,
        _pad: u32,
    }
}

/// Rotary position embedding (Su et al. 2021, RoFormer, arXiv 2104.09864, eq. 34) of queries and keys in one launch, in
/// place if wanted. The frequencies are data, so that every scaling of them (linear, NTK, YaRN, LongRoPE, llama3) is one
/// table.
///
/// Angles are exact to f32 at every position. Deterministic: the same inputs give the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rope {
    dtype: Dtype,
    head_dim: usize,
    rotary: usize,
    interleaved: bool,
}

impl Rope {
    /// Of heads of `head_dim` elements, all of which turn: element `i` with element `i + head_dim / 2`.
    #[must_use]
    pub fn new(dtype: Dtype, head_dim: usize) -> Rope {
        Rope { dtype, head_dim, rotary: head_dim, interleaved: false }
    }

    /// Only the first `rotary` elements of a head turn; the others stay.
    #[must_use]
    pub fn rotary(self, rotary: usize) -> Rope {
        Rope { rotary, ..self }
    }

    /// Whether element `2i` turns with element `2i + 1`.
    #[must_use]
    pub fn interleaved(self, interleaved: bool) -> Rope {
        Rope { interleaved, ..self }
    }

    fn check(&self) -> Result<()> {
        CHECK.size("head dim", self.head_dim, 1, MAX_HEAD_DIM)?;
        if self.rotary == 0 || !self.rotary.is_multiple_of(2) || self.rotary > self.head_dim {
            let expected = format!("even, and 2 to the head dim ({})", self.head_dim);
            return Err(CHECK.error("rotary", self.rotary, expected));
        }
        Ok(())
    }

    fn can_be_aligned(&self) -> bool {
        self.rotary.is_multiple_of(16) && self.head_dim.is_multiple_of(8)
    }

    /// Threads of a token.
    fn lanes(&self, vector: usize) -> usize {
        self.rotary / 2 / vector + (self.head_dim - self.rotary) / vector
    }

    /// Compiles for `device`: slow the first time, then from the cache.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for a head dim outside 1 to 1024, or elements to turn that are odd or
    /// more than a head has; [`Error::Gpu`](crate::Error::Gpu) where compiling or loading fails.
    pub fn plan(&self, device: &Device) -> Result<RopePlan> {
        self.check()?;
        let load = |vector| Loaded::new(device, &variant(*self, vector));
        Ok(RopePlan { kind: *self, kernel: ByAlignment::new(self.can_be_aligned(), load)? })
    }
}

fn variant(kind: Rope, vector: usize) -> Variant {
    let [file] = cuda_files!["rope/rotate.cu"];
    let constants = Constants::new()
        .alias("Element", kind.dtype.cuda_name())
        .int("HEAD_DIM", kind.head_dim as i64)
        .int("ROTARY", kind.rotary as i64)
        .bool("INTERLEAVED", kind.interleaved)
        .int("VECTOR", vector as i64)
        .int("HEADS", HEADS as i64)
        .int("THREADS", THREADS);
    Variant {
        program: program(*file, &[], constants).params(Params::LAYOUT),
        entry: "rope_rotate",
        threads: THREADS,
        shared_bytes: 0,
    }
}

pub(crate) fn variants() -> Vec<Variant> {
    let new = |dtype| Rope::new(dtype, 128);
    let bf16 = [new(Dtype::Bf16), new(Dtype::Bf16).interleaved(true), new(Dtype::Bf16).rotary(64)];
    let others = [Dtype::F32, Dtype::F16].map(|dtype| variant(new(dtype), 8));
    bf16.into_iter().flat_map(|kind| [8, 1].map(|vector| variant(kind, vector))).chain(others).collect()
}

/// Which way [`RopePlan::launch`] turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// By the angle: the embedding.
    Forward,
    /// By minus the angle: its gradient. `q` and `k` are then the gradients of the turned ones.
    Backward,
}

/// What [`RopePlan::launch`] computes with. Any strides and alignment of whole elements will do; with all heads and
/// the frequencies at multiples of 16 bytes, memory is accessed 16 bytes at a time.
#[derive(Clone, Copy, Debug)]
pub struct RopeArgs {
    /// Which way.
    pub direction: Direction,
    /// `B`, at most 2³¹ - 1.
    pub batch: usize,
    /// `T`, at most 2³¹ - 1.
    pub tokens: usize,
    /// `H`.
    pub heads: usize,
    /// `Hkv`; 0 without keys. With `heads` at most 1,048,560.
    pub kv_heads: usize,
    /// `(B, T, H, D)`.
    pub q: Heads,
    /// `(B, T, Hkv, D)`.
    pub k: Heads,
    /// `(B, T, H, D)`, overwritten. It may be `q` itself, with its strides.
    pub q_out: Heads,
    /// `(B, T, Hkv, D)`, overwritten. It may be `k` itself, with its strides.
    pub k_out: Heads,
    /// `(B, T)` u32, tokens next to each other.
    pub positions: DevicePtr,
    /// Elements from the positions of one batch to those of the next; 0 where all have the same.
    pub positions_stride: i64,
    /// `(rotary / 2)` f32: radians per position of each pair.
    pub frequencies: DevicePtr,
    /// What the turned elements are multiplied by: 1, or YaRN's attention factor.
    pub factor: f32,
}

/// A compiled [`Rope`].
#[derive(Clone, Debug)]
pub struct RopePlan {
    kind: Rope,
    kernel: ByAlignment<Loaded>,
}

impl RopePlan {
    /// Enqueues on `stream`: no allocation, no synchronisation. Launches nothing where there are no tokens or heads.
    ///
    /// # Safety
    ///
    /// Every tensor lies, with these sizes and strides, in memory of the stream's device that stays allocated until
    /// the stream has come to this point; no output overlaps another tensor, but for the input that it is.
    ///
    /// # Errors
    ///
    /// [`Error::Argument`](crate::Error::Argument) for sizes, strides or addresses that the kernel cannot take;
    /// [`Error::Gpu`](crate::Error::Gpu) where the device refuses.
    pub unsafe fn launch(&self, stream: &Stream, args: &RopeArgs) -> Result<()> {
        check(self.kind, args)?;
        let RopeArgs { batch, tokens, heads, kv_heads, q, k, q_out, k_out, .. } = *args;
        if batch * tokens * (heads + kv_heads) == 0 {
            return Ok(());
        }
        let params = Params {
            q: q.data,
            k: k.data,
            q_out: q_out.data,
            k_out: k_out.data,
            positions: args.positions,
            frequencies: args.frequencies,
            q_strides: q.strides,
            k_strides: k.strides,
            q_out_strides: q_out.strides,
            k_out_strides: k_out.strides,
            positions_stride: args.positions_stride,
            tokens: (batch * tokens) as i64,
            T: tokens as i32,
            q_heads: heads as i32,
            k_heads: kv_heads as i32,
            factor: args.factor,
            direction: if args.direction == Direction::Forward { 1.0 } else { -1.0 },
            _pad: 0,
        };
        let sides = [(q, heads), (q_out, heads), (k, kv_heads), (k_out, kv_heads)];
        let (kernel, vector) =
            self.kernel.get(sides.iter().all(|(side, heads)| *heads == 0 || is_aligned(args, side, *heads)));
        let lanes = self.kind.lanes(vector);
        CHECK.size("batch * tokens", batch * tokens, 0, MAX_BLOCKS / lanes * THREADS as usize)?;
        let blocks = (batch * tokens * lanes).div_ceil(THREADS as usize);
        let grid = [blocks as u32, (heads + kv_heads).div_ceil(HEADS) as u32];
        // SAFETY: the caller answers for the memory; the checks above for the kernel's other assumptions.
        unsafe { kernel.launch(stream, grid, &params) }
    }
}

/// Whether every head of a tensor begins at a multiple of 16 bytes.
fn is_aligned(args: &RopeArgs, tensor: &Heads, heads: usize) -> bool {
    let Strides { batch, token, head } = tensor.strides;
    let steps = [(args.batch, batch), (args.tokens, token), (heads, head)];
    aligned([tensor.data]) && steps.iter().all(|&(size, stride)| size <= 1 || stride % 8 == 0)
}

fn check(kind: Rope, args: &RopeArgs) -> Result<()> {
    let RopeArgs { batch, tokens, heads, kv_heads, .. } = *args;
    CHECK.size("batch", batch, 0, i32::MAX as usize)?;
    CHECK.size("tokens", tokens, 0, i32::MAX as usize)?;
    CHECK.size("heads and kv_heads", heads.saturating_add(kv_heads), 0, 65_535 * HEADS)?;
    if !args.factor.is_finite() {
        return Err(CHECK.error("factor", args.factor, "finite"));
    }
    if batch * tokens * (heads + kv_heads) == 0 {
        return Ok(());
    }
    CHECK.memory("positions", args.positions, 4)?;
    CHECK.stride("positions_stride", args.positions_stride, batch)?;
    CHECK.memory("frequencies", args.frequencies, 4)?;
    for (names, heads, from, to) in
        [(["q", "q_out"], heads, args.q, args.q_out), (["k", "k_out"], kv_heads, args.k, args.k_out)]
    {
        if heads == 0 {
            continue;
        }
        let shape = [batch, tokens, heads, kind.head_dim];
        CHECK.heads(names[0], &from, kind.dtype, shape)?;
        CHECK.heads_written(names[1], &to, kind.dtype, shape)?;
    }
    let of = |name, tensor, heads| {
        Extent::heads(name, tensor, [batch, tokens, heads, kind.head_dim], kind.dtype.size())
    };
    CHECK.apart(&[
        of("q", &args.q, heads),
        of("k", &args.k, kv_heads),
        Extent::rows("positions", args.positions, [batch, tokens], args.positions_stride, 4),
        Extent::contiguous("frequencies", args.frequencies, kind.rotary / 2, 4),
        of("q_out", &args.q_out, heads).written().may_be(&["q"]),
        of("k_out", &args.k_out, kv_heads).written().may_be(&["k"]),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::extent::assert_apart;

    fn args() -> RopeArgs {
        let heads =
            |i: u64, heads| Heads { data: DevicePtr(i << 20), strides: Strides::token_major(5, heads, 64) };
        RopeArgs {
            direction: Direction::Forward,
            batch: 2,
            tokens: 5,
            heads: 4,
            kv_heads: 2,
            q: heads(1, 4),
            k: heads(2, 2),
            q_out: heads(3, 4),
            k_out: heads(4, 2),
            positions: DevicePtr(5 << 20),
            positions_stride: 0,
            frequencies: DevicePtr(6 << 20),
            factor: 1.0,
        }
    }

    fn message(args: RopeArgs) -> String {
        check(Rope::new(Dtype::Bf16, 64), &args).map_or_else(|error| error.to_string(), |()| "fine".into())
    }

    #[test]
    fn what_is_written_is_apart_from_all_else_but_for_what_it_is_of() {
        assert_apart(
            args(),
            |args| check(Rope::new(Dtype::Bf16, 64), args),
            2,
            &[
                ("q_out", |args| &mut args.q_out.data),
                ("k_out", |args| &mut args.k_out.data),
                ("q", |args| &mut args.q.data),
                ("k", |args| &mut args.k.data),
                ("positions", |args| &mut args.positions),
                ("frequencies", |args| &mut args.frequencies),
            ],
            &[["q_out", "q"], ["k_out", "k"]],
        );
    }

    #[test]
    fn an_argument_that_cannot_be_used_is_named_with_what_it_was_and_has_to_be() {
        assert_eq!(message(args()), "fine");
        let null = DevicePtr::NULL;
        assert_eq!(
            message(RopeArgs { positions: null, ..args() }),
            "rope: positions is DevicePtr(0x0), it has to be an address that is a multiple of 4"
        );
        assert_eq!(
            message(RopeArgs { factor: f32::NAN, ..args() }),
            "rope: factor is NaN, it has to be finite"
        );
        assert_eq!(
            message(RopeArgs { heads: 1_100_000, ..args() }),
            "rope: heads and kv_heads is 1100002, it has to be 0 to 1048560"
        );
        let q_out = Heads { strides: Strides { head: 32, ..args().q.strides }, ..args().q };
        assert_eq!(
            message(RopeArgs { q_out, ..args() }),
            "rope: stride of q_out is 32, it has to be at least 64: its elements overlap"
        );
        let k_out = Heads { strides: Strides::head_major(5, 2, 64), ..args().k };
        assert_eq!(
            message(RopeArgs { k_out, ..args() }),
            "rope: k_out is at 0x200000..0x200a00, it has to be apart from k at 0x200000..0x200a00, or in its very place"
        );
        let q = Heads { strides: Strides { batch: i64::MAX, ..args().q.strides }, ..args().q };
        assert!(message(RopeArgs { q, ..args() }).ends_with("small enough for 64-bit addresses"));
    }

    #[test]
    fn without_keys_their_tensors_are_not_looked_at() {
        let none = Heads { data: DevicePtr::NULL, strides: Strides::token_major(0, 0, 0) };
        assert_eq!(message(RopeArgs { kv_heads: 0, k: none, k_out: none, ..args() }), "fine");
    }

    #[test]
    fn elements_that_cannot_be_paired_are_refused() {
        for rotary in [0, 7, 66] {
            let error = Rope::new(Dtype::F32, 64).rotary(rotary).check().unwrap_err().to_string();
            assert_eq!(
                error,
                format!("rope: rotary is {rotary}, it has to be even, and 2 to the head dim (64)")
            );
        }
        let error = Rope::new(Dtype::F32, 63).check().unwrap_err().to_string();
        assert_eq!(error, "rope: rotary is 63, it has to be even, and 2 to the head dim (63)");
    }
}

//! Which kernels an attention takes: the one place where that is decided.

use longhand_gpu::Arch;

use super::Attention;

/// A kernel of the backward pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kernel {
    /// `backward_query.cu`.
    Query,
    /// `backward_key.cu`, of these gradients.
    Key(Gradients),
    /// `backward_convert.cu`, after `backward_key.cu` has added up the gradient of q.
    Convert { added: u32 },
}

/// What `backward_key.cu` computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Gradients {
    pub k: bool,
    pub v: bool,
    /// By atomics, each of which adds so many floats.
    pub q: Option<u32>,
}

/// The kernels that compute the gradients of q, k and v, in the order of their launches.
///
/// All of them, and the one of forward, take `mma.sync` and `cp.async`, which every architecture from sm_80 on has, with
/// tiles by architecture (tuning.rs). Kernels with `wgmma` and TMA, which sm_90a alone has, would be chosen here for the
/// head dims and features that they have, before all others. Decoding is an operation of its own: decode/.
pub(super) fn backward(attention: &Attention, arch: Arch) -> Vec<Kernel> {
    use Kernel::{Convert, Key, Query};
    let added = if arch.number() >= 90 { 4 } else { 1 };
    let [k, v] = [Gradients { k: true, v: false, q: None }, Gradients { k: false, v: true, q: None }];
    let both = Gradients { k: true, v: true, q: None };
    match (attention.atomic, attention.widths().keys_at_once()) {
        (false, true) => vec![Query, Key(both)],
        (false, false) => vec![Query, Key(k), Key(v)],
        (true, true) => vec![Key(Gradients { q: Some(added), ..both }), Convert { added }],
        (true, false) => vec![Key(Gradients { q: Some(added), ..k }), Key(v), Convert { added }],
    }
}

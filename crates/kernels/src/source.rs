//! The CUDA sources, embedded.

use longhand_gpu::{Arch, Constants, Program};

use crate::{
    activation, adamw, attention, cross_entropy, elementwise, embedding, kv_cache, matmul, norm, reduction,
    rope, sampling, softmax,
};

macro_rules! cuda_files {
    ($($name:literal),+ $(,)?) => {
        &[$(($name, include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../../kernels/", $name)))),+]
    };
}
pub(crate) use cuda_files;

/// `kernels/common/`: what any kernel may include.
const COMMON: &[(&str, &str)] = cuda_files![
    "common/atomic.cuh",
    "common/chunks.cuh",
    "common/cluster.cuh",
    "common/convert.cuh",
    "common/element.cuh",
    "common/math.cuh",
    "common/matrix.cuh",
    "common/memory.cuh",
    "common/philox.cuh",
    "common/quantised.cuh",
    "common/reduce.cuh",
    "common/rotary.cuh",
    "common/row.cuh",
    "common/slices.cuh",
    "common/softmax.cuh",
    "common/strides.cuh",
    "common/thread.cuh",
];

/// The program of one CUDA file, given as [`cuda_files!`] gives it, that finds `headers` and those in `common/`.
pub(crate) fn program(
    (name, code): (&'static str, &'static str),
    headers: &[(&'static str, &'static str)],
    constants: Constants,
) -> Program {
    Program::new(name, code).headers(COMMON).headers(headers).constants(constants)
}

/// One kernel as it is compiled for one architecture.
#[derive(Clone, Debug)]
pub struct Variant {
    /// The program: source and constants.
    pub program: Program,
    /// The kernel in it.
    pub entry: &'static str,
    /// Threads of a block.
    pub threads: u32,
    /// Dynamic shared memory of a block in bytes.
    pub shared_bytes: u32,
}

/// Every kernel in every form that can be tuned for `arch`: to compile them all ahead of time, or to
/// see what they use. Widths, which each model has its own of, are represented by some.
#[must_use]
pub fn variants(arch: Arch) -> Vec<Variant> {
    [
        activation::variants(),
        adamw::variants(),
        attention::variants(arch),
        attention::decode_variants(),
        attention::merge_variants(),
        cross_entropy::variants(arch),
        elementwise::variants(),
        embedding::variants(),
        kv_cache::variants(),
        matmul::variants(),
        norm::variants(arch),
        reduction::variants(),
        rope::variants(),
        sampling::variants(arch),
        softmax::variants(arch),
    ]
    .concat()
}

//! What operations share on the CPU: threads, vector instructions, matrix products, strided copies.

pub(crate) mod activation;
pub(crate) mod attention;
pub(crate) mod cached;
pub(crate) mod copy;
pub(crate) mod cross_entropy;
pub(crate) mod elementwise;
pub(crate) mod math;
pub(crate) mod matmul;
pub(crate) mod norm;
pub(crate) mod parallel;
pub(crate) mod pool;
pub(crate) mod real;
pub(crate) mod reduce;
pub(crate) mod simd;
pub(crate) mod stored;
pub(crate) mod tile;

pub(crate) use real::Real;
pub(crate) use stored::Stored;

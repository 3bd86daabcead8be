//! Tensor-core operations, matrix moves and tensor copies as pure functions over fragments and addresses.

mod accumulator;
mod block;
mod element;
pub mod ldmatrix;
pub mod mma;
mod product;
pub(crate) mod rare;
pub mod tma;
pub mod wgmma;
pub(crate) mod wmma;

pub use accumulator::Accumulator;
pub use element::Element;

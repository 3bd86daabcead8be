//! The registers of one activation of a function, for the 32 lanes of a warp.

use crate::lanes::Lanes;

/// Registers by width. Immediate operands are registers too, which nothing writes: an instruction reads all its
/// operands alike.
#[derive(Clone, Debug, Default)]
pub(crate) struct RegisterFile {
    pub b32: Vec<Lanes<u32>>,
    pub b64: Vec<Lanes<u64>>,
    pub b128: Vec<Lanes<u128>>,
    /// A bit for each lane.
    pub pred: Vec<u32>,
}

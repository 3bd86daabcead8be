//! State spaces, and accesses to them by the lanes of a warp.
//!
//! Each space has addresses of its own, counted from 0; generic addresses hold them all, each in its window, as on
//! hardware. Global addresses are generic addresses.

mod access;
mod engine;
mod global;
mod journal;
mod local;
mod place;
mod proxy;
mod range;
mod shared;
mod transfer;

pub(crate) use access::{Kind, Request, Scope, Space, Strong, Target};
pub use global::MemoryError;
pub(crate) use global::{Found, GlobalMemory, GlobalView};
pub(crate) use journal::{Journal, Keeper};
pub(crate) use local::LocalMemory;
pub(crate) use proxy::{Proxies, Writer};
pub(crate) use shared::{Issuer, SharedMemory};

/// Generic addresses of shared memory: the address of `shared::cluster` within.
pub(crate) const SHARED_WINDOW: u64 = 0x0100_0000_0000;
/// Generic addresses of local memory.
pub(crate) const LOCAL_WINDOW: u64 = 0x0200_0000_0000;
/// Generic addresses of constant memory.
pub(crate) const CONST_WINDOW: u64 = 0x0300_0000_0000;
/// Generic addresses of kernel parameters.
pub(crate) const PARAM_WINDOW: u64 = 0x0400_0000_0000;
/// Bytes of each of them.
pub(crate) const WINDOW: u64 = 1 << 32;
/// Global memory starts here.
pub(crate) const GLOBAL_BASE: u64 = 0x1000_0000_0000;

/// What memory holds that nobody wrote: NaN in every floating-point type, -1 in every integer.
pub(crate) const POISON: u8 = 0xFF;

/// A `shared::cluster` address is the address within a block, and above bit 24 one more than the rank of the block;
/// 0 there means the block that executes.
pub(crate) const CLUSTER_SHIFT: u32 = 24;

/// The `.const` variables of a module.
#[derive(Clone, Debug, Default)]
pub(crate) struct Constants {
    pub bytes: Vec<u8>,
}

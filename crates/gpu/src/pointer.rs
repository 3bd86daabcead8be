//! Addresses in device memory.

use std::fmt;

use bytemuck::{Pod, Zeroable};

/// An address in device memory, as a kernel sees it. It carries no lifetime and no length: whoever passes one
/// to a kernel answers for it.
#[repr(transparent)]
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Pod, Zeroable)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// The address that is never valid: an optional argument that is absent.
    pub const NULL: DevicePtr = DevicePtr(0);

    /// Whether this is [`DevicePtr::NULL`].
    #[must_use]
    pub fn is_null(self) -> bool {
        self == DevicePtr::NULL
    }

    /// The address `bytes` further on (or back).
    #[must_use]
    pub fn offset(self, bytes: i64) -> DevicePtr {
        DevicePtr(self.0.wrapping_add_signed(bytes))
    }

    /// Whether the address is a multiple of `alignment` bytes (a power of two).
    #[must_use]
    pub fn is_aligned(self, alignment: u64) -> bool {
        self.0 & (alignment - 1) == 0
    }
}

impl fmt::Debug for DevicePtr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DevicePtr({:#x})", self.0)
    }
}

//! Registers that hold several values: the x2 forms of 16-bit types, and bytes.

/// The register that holds two values.
#[inline(always)]
fn join(low: u16, high: u16) -> u32 {
    u32::from(low) | u32::from(high) << 16
}

/// An operation of one operand on both halves.
#[inline(always)]
#[must_use]
pub fn map1(a: u32, f: impl Fn(u16) -> u16) -> u32 {
    join(f(a as u16), f((a >> 16) as u16))
}

/// An operation of two operands on both halves.
#[inline(always)]
#[must_use]
pub fn map2(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    join(f(a as u16, b as u16), f((a >> 16) as u16, (b >> 16) as u16))
}

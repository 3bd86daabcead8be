//! Registers that hold several values: the x2 forms of 16-bit types, and bytes.

/// Two 16-bit values of one register: `{low, high}`.
#[inline(always)]
#[must_use]
pub fn halves(x: u32) -> [u16; 2] {
    [x as u16, (x >> 16) as u16]
}

/// The register that holds `low` and `high`.
#[inline(always)]
#[must_use]
pub fn join([low, high]: [u16; 2]) -> u32 {
    u32::from(low) | u32::from(high) << 16
}

/// An operation of one operand on both halves.
#[inline(always)]
#[must_use]
pub fn map1(a: u32, f: impl Fn(u16) -> u16) -> u32 {
    join(halves(a).map(f))
}

/// An operation of two operands on both halves.
#[inline(always)]
#[must_use]
pub fn map2(a: u32, b: u32, f: impl Fn(u16, u16) -> u16) -> u32 {
    let ([a0, a1], [b0, b1]) = (halves(a), halves(b));
    join([f(a0, b0), f(a1, b1)])
}

/// An operation of three operands on both halves.
#[inline(always)]
#[must_use]
pub fn map3(a: u32, b: u32, c: u32, f: impl Fn(u16, u16, u16) -> u16) -> u32 {
    let ([a0, a1], [b0, b1], [c0, c1]) = (halves(a), halves(b), halves(c));
    join([f(a0, b0, c0), f(a1, b1, c1)])
}

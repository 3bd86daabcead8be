//! Bits (PTX ISA, "Logic and Shift Instructions", and `bfi`, `fns`, `szext`, `bmsk`, `prmt`). Shifts and fields that
//! depend on a sign: [`int`](super::int).

/// What a shift or a field does with an amount of 32 or more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Amount {
    /// `.wrap`: only its low 5 bits count.
    Wrap,
    /// `.clamp`: it counts as 32.
    Clamp,
}

impl Amount {
    #[inline(always)]
    fn of(self, amount: u32) -> u32 {
        match self {
            Amount::Wrap => amount & 31,
            Amount::Clamp => amount.min(32),
        }
    }
}

/// `lop3`: bit `4a + 2b + c` of `table` for each bit.
#[inline(always)]
#[must_use]
pub fn lop3(a: u32, b: u32, c: u32, table: u8) -> u32 {
    let mut result = 0;
    for row in 0..8 {
        let chosen = 0_u32.wrapping_sub(u32::from(table) >> row & 1);
        let a = if row & 4 == 0 { !a } else { a };
        let b = if row & 2 == 0 { !b } else { b };
        let c = if row & 1 == 0 { !c } else { c };
        result |= a & b & c & chosen;
    }
    result
}

#[inline(always)]
fn joined(low: u32, high: u32) -> u64 {
    u64::from(high) << 32 | u64::from(low)
}

/// `shf.l`: the upper word of `high:low` shifted left.
#[inline(always)]
#[must_use]
pub fn shf_l(low: u32, high: u32, by: u32, amount: Amount) -> u32 {
    ((joined(low, high) << amount.of(by)) >> 32) as u32
}

/// `shf.r`: the lower word of `high:low` shifted right.
#[inline(always)]
#[must_use]
pub fn shf_r(low: u32, high: u32, by: u32, amount: Amount) -> u32 {
    (joined(low, high) >> amount.of(by)) as u32
}

/// `bfi.b64`: the `length` low bits of `a` put into `b` from `position` on; of both operands the low 8 bits count.
#[inline(always)]
#[must_use]
pub fn bfi64(a: u64, b: u64, position: u32, length: u32) -> u64 {
    let (position, length) = (position & 0xff, length & 0xff);
    let field = if length < 64 { (1 << length) - 1 } else { u64::MAX };
    if position < 64 { (b & !(field << position)) | (a & field) << position } else { b }
}

/// `bfi.b32`: like [`bfi64`].
#[inline(always)]
#[must_use]
pub fn bfi32(a: u32, b: u32, position: u32, length: u32) -> u32 {
    bfi64(a.into(), b.into(), position, length) as u32
}

/// `fns`: the position of the `|offset|`-th bit of `mask` from `base` on, upwards or (negative) downwards; for 0, of
/// the bit at `base` itself. All ones where there is none.
#[inline]
#[must_use]
pub fn fns(mask: u32, base: u32, offset: i32) -> u32 {
    if base > 31 {
        return u32::MAX;
    }
    let upwards = mask >> base << base;
    let downwards = mask << (31 - base) >> (31 - base);
    let candidates = match offset {
        0 => upwards & downwards,
        1.. => upwards,
        ..0 => downwards.reverse_bits(),
    };
    let skipped = offset.unsigned_abs().saturating_sub(1).min(32);
    let rest = (0..skipped).fold(candidates, |left, _| left & left.wrapping_sub(1));
    match rest.trailing_zeros() {
        32 => u32::MAX,
        position if offset < 0 => 31 - position,
        position => position,
    }
}

/// `szext`: the low `width` bits of `a`, extended by their sign or by zeros; nothing of a width of 0.
#[inline(always)]
#[must_use]
pub fn szext(a: u32, width: u32, amount: Amount, signed: bool) -> u32 {
    let width = amount.of(width);
    let unused = 32 - width;
    let top = (u64::from(a) << unused) as u32;
    let extended =
        if signed { (i64::from(top as i32) >> unused) as u32 } else { (u64::from(top) >> unused) as u32 };
    if width == 0 { 0 } else { extended }
}

/// `bmsk`: `width` ones from `position` on.
#[inline(always)]
#[must_use]
pub fn bmsk(position: u32, width: u32, amount: Amount) -> u32 {
    let (position, width) = (amount.of(position), amount.of(width));
    (((1_u64 << width) - 1) << position) as u32
}

/// What `prmt`'s selector means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Permutation {
    /// Four bits for each byte: which one, and whether its sign alone, repeated.
    Index,
    /// `.f4e`: four bytes upwards.
    Forward4,
    /// `.b4e`: four bytes downwards.
    Backward4,
    /// `.rc8`: one byte, repeated.
    Replicate8,
    /// `.ecl`: clamped from the left.
    EdgeClampLeft,
    /// `.ecr`: clamped from the right.
    EdgeClampRight,
    /// `.rc16`: one half, repeated.
    Replicate16,
}

/// `prmt`: four of the eight bytes of `b:a`.
#[inline(always)]
#[must_use]
pub fn prmt(a: u32, b: u32, selector: u32, permutation: Permutation) -> u32 {
    let n = selector & 3;
    let mut result = 0;
    for i in 0..4 {
        let nibble = selector >> (4 * i) & 0xf;
        let index = match permutation {
            Permutation::Index => nibble & 7,
            Permutation::Forward4 => n + i,
            Permutation::Backward4 => n.wrapping_sub(i) & 7,
            Permutation::Replicate8 => n,
            Permutation::EdgeClampLeft => n.max(i),
            Permutation::EdgeClampRight => n.min(i),
            Permutation::Replicate16 => (n & 1) << 1 | (i & 1),
        };
        let word = if index & 4 == 0 { a } else { b };
        let byte = word >> (8 * (index & 3)) & 0xff;
        let signed = permutation == Permutation::Index && nibble & 8 != 0;
        let sign = if byte & 0x80 == 0 { 0 } else { 0xff };
        result |= (if signed { sign } else { byte }) << (8 * i);
    }
    result
}

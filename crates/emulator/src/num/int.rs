//! Integer arithmetic (PTX ISA, "Integer Arithmetic Instructions" and "Extended-Precision Integer Arithmetic
//! Instructions"), and the shifts and bit fields that depend on the type's sign.
//!
//! What Rust's own operators do (`add`, `mul.lo`, `popc`, `clz`, `add.sat`, ...) has no function here.

/// The integers of 16, 32 and 64 bits, with and without sign.
pub trait Int: Copy + Ord {
    /// `mul.hi`: the upper half of the product.
    #[must_use]
    fn mul_hi(self, b: Self) -> Self;

    /// `div`; by zero: all ones. That is what the code gives that `ptxas` makes of it; the ISA leaves it open.
    #[must_use]
    fn div(self, b: Self) -> Self;

    /// `rem`; by zero: all ones, like `div`.
    #[must_use]
    fn rem(self, b: Self) -> Self;

    /// `sad`: `c + |self - b|`.
    #[must_use]
    fn sad(self, b: Self, c: Self) -> Self;

    /// `add.cc` and `addc`: the sum, and whether it carries.
    #[must_use]
    fn add_carry(self, b: Self, carry: bool) -> (Self, bool);

    /// `sub.cc` and `subc`: the difference, and whether it borrows.
    #[must_use]
    fn sub_borrow(self, b: Self, borrow: bool) -> (Self, bool);

    /// `shl`: 0 where no bit is left.
    #[must_use]
    fn shl(self, by: u32) -> Self;

    /// `shr`: copies of the sign (0 without one) where no bit is left.
    #[must_use]
    fn shr(self, by: u32) -> Self;

    /// `bfind`: where the highest bit is that differs from the sign; all ones if there is none.
    #[must_use]
    fn bfind(self) -> u32;

    /// `bfind.shiftamt`: how far left of its place the top is; all ones if there is no such bit.
    #[must_use]
    fn bfind_shiftamt(self) -> u32;

    /// `bfe`: the `length` bits from `position` on, extended by the sign; of both operands the low 8 bits count.
    #[must_use]
    fn bfe(self, position: u32, length: u32) -> Self;
}

macro_rules! int {
    ($t:ty, $unsigned:ty, $wide:ty, $signed:literal) => {
        impl Int for $t {
            #[inline(always)]
            fn mul_hi(self, b: Self) -> Self {
                ((<$wide>::from(self) * <$wide>::from(b)) >> Self::BITS) as Self
            }

            #[inline(always)]
            fn div(self, b: Self) -> Self {
                if b == 0 { !0 } else { self.wrapping_div(b) }
            }

            #[inline(always)]
            fn rem(self, b: Self) -> Self {
                if b == 0 { !0 } else { self.wrapping_rem(b) }
            }

            #[inline(always)]
            fn sad(self, b: Self, c: Self) -> Self {
                let distance = if self < b { b.wrapping_sub(self) } else { self.wrapping_sub(b) };
                c.wrapping_add(distance)
            }

            #[inline(always)]
            fn add_carry(self, b: Self, carry: bool) -> (Self, bool) {
                let (sum, first) = (self as $unsigned).overflowing_add(b as $unsigned);
                let (sum, second) = sum.overflowing_add(carry.into());
                (sum as Self, first | second)
            }

            #[inline(always)]
            fn sub_borrow(self, b: Self, borrow: bool) -> (Self, bool) {
                let (difference, first) = (self as $unsigned).overflowing_sub(b as $unsigned);
                let (difference, second) = difference.overflowing_sub(borrow.into());
                (difference as Self, first | second)
            }

            #[inline(always)]
            fn shl(self, by: u32) -> Self {
                if by < Self::BITS { self << (by % Self::BITS) } else { 0 }
            }

            #[inline(always)]
            fn shr(self, by: u32) -> Self {
                let sign = if $signed { self >> (Self::BITS - 1) } else { 0 };
                if by < Self::BITS { self >> (by % Self::BITS) } else { sign }
            }

            #[inline(always)]
            fn bfind(self) -> u32 {
                let magnitude = if $signed && self >> (Self::BITS - 1) != 0 { !self } else { self };
                (Self::BITS - 1).wrapping_sub(magnitude.leading_zeros())
            }

            #[inline(always)]
            fn bfind_shiftamt(self) -> u32 {
                let position = self.bfind();
                if position == u32::MAX { position } else { Self::BITS - 1 - position }
            }

            #[inline(always)]
            fn bfe(self, position: u32, length: u32) -> Self {
                // Of a field that reaches past the top, `shr` has already made the missing bits.
                let unused = Self::BITS - (length & 0xff).min(Self::BITS);
                let field = Int::shr(self, position & 0xff);
                Int::shr(Int::shl(field, unused), unused)
            }
        }
    };
}

int!(u16, u16, u32, false);
int!(u32, u32, u64, false);
int!(u64, u64, u128, false);
int!(i16, u16, i32, true);
int!(i32, u32, i64, true);
int!(i64, u64, i128, true);

/// `mul24`, before a half is chosen: the product of the low 24 bits of both, in 48 bits. `.lo` is its bits from 0 on,
/// `.hi` its bits from 16 on.
#[inline(always)]
#[must_use]
pub fn mul24(a: u32, b: u32, signed: bool) -> u64 {
    let signed_product = i64::from((a << 8) as i32 >> 8) * i64::from((b << 8) as i32 >> 8);
    let product = u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff);
    if signed { signed_product as u64 } else { product }
}

/// Byte `i` of `x`, extended to 32 bits.
#[inline(always)]
fn byte(x: u32, i: u32, signed: bool) -> u32 {
    let low = (x >> (8 * i)) as u8;
    if signed { low as i8 as u32 } else { low.into() }
}

/// `dp4a`: `c` and the products of four bytes.
#[inline(always)]
#[must_use]
pub fn dp4a(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool) -> u32 {
    let mut sum = c;
    for i in 0..4 {
        sum = sum.wrapping_add(byte(a, i, a_signed).wrapping_mul(byte(b, i, b_signed)));
    }
    sum
}

/// `dp2a`: `c` and the products of the halves of `a` with the two low or (`.hi`) high bytes of `b`.
#[inline(always)]
#[must_use]
pub fn dp2a(a: u32, b: u32, c: u32, a_signed: bool, b_signed: bool, high: bool) -> u32 {
    let half = |i: u32| {
        let low = (a >> (16 * i)) as u16;
        if a_signed { low as i16 as u32 } else { low.into() }
    };
    let first = if high { 2 } else { 0 };
    (0..2).fold(c, |sum, i| sum.wrapping_add(half(i).wrapping_mul(byte(b, first + i, b_signed))))
}

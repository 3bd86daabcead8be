use super::super::bits::*;
use super::super::int::*;
use proptest::prelude::*;

/// 32-bit values with few or many ones, and the borders.
fn word() -> impl Strategy<Value = u32> {
    let border = prop::sample::select(vec![0, 1, 0x7fff_ffff, 0x8000_0000, u32::MAX]);
    prop_oneof![any::<u32>(), border, (any::<u32>(), 0..32_u32).prop_map(|(x, by)| x >> by)]
}

fn double_word() -> impl Strategy<Value = u64> {
    (word(), word()).prop_map(|(low, high)| u64::from(high) << 32 | u64::from(low))
}

/// Bit `i` of `x`.
fn bit(x: u32, i: u32) -> u32 {
    x >> i & 1
}

/// The word whose bit `i` is `f(i)`.
fn from_bits(f: impl Fn(u32) -> u32) -> u32 {
    (0..32).map(|i| f(i) << i).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn products_have_the_upper_half_of_the_exact_one(a in double_word(), b in double_word()) {
        prop_assert_eq!(u128::from(a.mul_hi(b)), (u128::from(a) * u128::from(b)) >> 64);
        let (c, d) = (a as i64, b as i64);
        prop_assert_eq!(i128::from(c.mul_hi(d)), (i128::from(c) * i128::from(d)) >> 64);
        let (e, f) = (a as u32, b as u32);
        prop_assert_eq!(u64::from(e.mul_hi(f)), (u64::from(e) * u64::from(f)) >> 32);
        let (e, f) = (a as i32, b as i32);
        prop_assert_eq!(i64::from(e.mul_hi(f)), (i64::from(e) * i64::from(f)) >> 32);
        let (e, f) = (a as i16, b as i16);
        prop_assert_eq!(i32::from(e.mul_hi(f)), (i32::from(e) * i32::from(f)) >> 16);
    }

    #[test]
    fn division_truncates_and_by_zero_gives_ones(a in double_word(), b in double_word()) {
        let (c, d) = (a as i64, b as i64);
        if b == 0 {
            prop_assert_eq!((a.div(b), a.rem(b), c.div(d), c.rem(d)), (u64::MAX, u64::MAX, -1, -1));
        } else {
            prop_assert_eq!((a.div(b), a.rem(b)), (a / b, a % b));
            let (quotient, rest) = (i128::from(c) / i128::from(d), i128::from(c) % i128::from(d));
            prop_assert_eq!((c.div(d), c.rem(d)), (quotient as i64, rest as i64));
        }
    }

    #[test]
    fn carries_chain_to_a_wider_sum(a in any::<u128>(), b in any::<u128>(), carry: bool) {
        let ((a0, a1), (b0, b1)) = ((a as u64, (a >> 64) as u64), (b as u64, (b >> 64) as u64));
        let (low, middle) = a0.add_carry(b0, carry);
        let (high, out) = a1.add_carry(b1, middle);
        let (sum, first) = a.overflowing_add(b);
        let (sum, second) = sum.overflowing_add(carry.into());
        prop_assert_eq!((u128::from(high) << 64 | u128::from(low), out), (sum, first | second));
        let (low, middle) = a0.sub_borrow(b0, carry);
        let (high, out) = a1.sub_borrow(b1, middle);
        let (difference, first) = a.overflowing_sub(b);
        let (difference, second) = difference.overflowing_sub(carry.into());
        prop_assert_eq!((u128::from(high) << 64 | u128::from(low), out), (difference, first | second));
    }

    #[test]
    fn sad_adds_the_distance(a in word(), b in word(), c in word()) {
        prop_assert_eq!(a.sad(b, c), c.wrapping_add(a.abs_diff(b)));
        let (a, b, c) = (a as i32, b as i32, c as i32);
        prop_assert_eq!(a.sad(b, c), c.wrapping_add_unsigned(a.abs_diff(b)));
    }

    #[test]
    fn shifts_clamp(a in word(), by in prop_oneof![0..80_u32, any::<u32>()]) {
        prop_assert_eq!(Int::shl(a, by), from_bits(|i| if i >= by { bit(a, i - by) } else { 0 }));
        let shifted = |sign| from_bits(|i| match i.checked_add(by) { Some(j @ 0..32) => bit(a, j), _ => sign });
        prop_assert_eq!(Int::shr(a, by), shifted(0));
        prop_assert_eq!(Int::shr(a as i32, by) as u32, shifted(a >> 31));
    }

    #[test]
    fn bfind_finds_the_first_bit_unlike_the_sign(a in word()) {
        let find = |wanted: u32| (0..32).rev().find(|&i| bit(a, i) == wanted);
        prop_assert_eq!(a.bfind(), find(1).unwrap_or(u32::MAX));
        let unlike = find(1 - (a >> 31));
        prop_assert_eq!((a as i32).bfind(), unlike.unwrap_or(u32::MAX));
        prop_assert_eq!((a as i32).bfind_shiftamt(), unlike.map_or(u32::MAX, |i| 31 - i));
        prop_assert_eq!(u64::from(a).bfind_shiftamt(), find(1).map_or(u32::MAX, |i| 63 - i));
    }

    #[test]
    fn bit_fields_follow_the_isa_s_loops(a in word(), b in word(), position in 0..300_u32, length in 0..300_u32) {
        let (pos, len) = (position & 0xff, length & 0xff);
        let field = |sign: u32| from_bits(|i| if i < len && pos + i <= 31 { bit(a, pos + i) } else { sign });
        prop_assert_eq!(a.bfe(position, length), field(0));
        let sign = if len == 0 { 0 } else { bit(a, (pos + len - 1).min(31)) };
        prop_assert_eq!((a as i32).bfe(position, length) as u32, field(sign));
        let inserted = from_bits(|i| if i >= pos && i - pos < len { bit(a, i - pos) } else { bit(b, i) });
        prop_assert_eq!(bfi32(a, b, position, length), inserted);
    }

    #[test]
    fn wide_bit_fields_come_back(a in double_word(), b in double_word(), position in 0..64_u32, length in 1..64_u32) {
        let length = length.min(64 - position);
        let inserted = bfi64(a, b, position, length);
        prop_assert_eq!(inserted.bfe(position, length), a << (64 - length) >> (64 - length));
        let outside = !((u64::MAX >> (64 - length)) << position);
        prop_assert_eq!(inserted & outside, b & outside);
    }

    #[test]
    fn fns_follows_the_isa_s_loop(mask in word(), base in 0..32_u32, offset in -34..35_i32) {
        let mut expected = u32::MAX;
        if offset == 0 {
            if bit(mask, base) == 1 { expected = base; }
        } else {
            let (mut position, mut count) = (base as i32, offset.abs() - 1);
            while (0..32).contains(&position) {
                if bit(mask, position as u32) == 1 {
                    if count == 0 { expected = position as u32; break; }
                    count -= 1;
                }
                position += offset.signum();
            }
        }
        prop_assert_eq!(fns(mask, base, offset), expected);
    }

    #[test]
    fn funnel_shifts_move_through_both_words(low in word(), high in word(), by in 0..70_u32) {
        for (amount, n) in [(Amount::Wrap, by % 32), (Amount::Clamp, by.min(32))] {
            let left = from_bits(|i| if i >= n { bit(high, i - n) } else { bit(low, 32 + i - n) });
            let right = from_bits(|i| if i + n < 32 { bit(low, i + n) } else { bit(high, i + n - 32) });
            prop_assert_eq!((shf_l(low, high, by, amount), shf_r(low, high, by, amount)), (left, right));
        }
    }

    #[test]
    fn szext_and_bmsk_follow_the_isa(a in word(), b in 0..70_u32, c in 0..70_u32) {
        for amount in [Amount::Wrap, Amount::Clamp] {
            let too_large = b >= 32 && amount == Amount::Clamp;
            let (mask, width) = (if too_large { 0 } else { u32::MAX << (b & 31) }, b & 31);
            let sign = width > 0 && !too_large && bit(a, width.wrapping_sub(1) & 31) == 1;
            prop_assert_eq!(szext(a, b, amount, false), a & !mask);
            prop_assert_eq!(szext(a, b, amount, true), (a & !mask) | if sign { mask } else { 0 });

            let start = if too_large { 0 } else { u32::MAX << (b & 31) };
            let beyond = (b & 31) + (c & 31) >= 32 || (amount == Amount::Clamp && (b >= 32 || c >= 32));
            let end = if beyond { 0 } else { u32::MAX << ((b & 31) + (c & 31)) };
            prop_assert_eq!(bmsk(b, c, amount), start & !end);
        }
    }

    #[test]
    fn lop3_looks_every_bit_up(a in word(), b in word(), c in word(), table: u8) {
        let expected = from_bits(|i| u32::from(table) >> (4 * bit(a, i) + 2 * bit(b, i) + bit(c, i)) & 1);
        prop_assert_eq!(lop3(a, b, c, table), expected);
    }

    #[test]
    fn dot_products_add_to_c(a in word(), b in word(), c in word(), a_signed: bool, b_signed: bool) {
        let extend = |x: i64, bits: u32, signed: bool| if signed { x << (64 - bits) >> (64 - bits) } else { x };
        let byte = |x: u32, i: u32, signed| extend(i64::from(x >> (8 * i) & 0xff), 8, signed);
        let half = |i: u32| extend(i64::from(a >> (16 * i) & 0xffff), 16, a_signed);
        let four: i64 = (0..4).map(|i| byte(a, i, a_signed) * byte(b, i, b_signed)).sum();
        prop_assert_eq!(dp4a(a, b, c, a_signed, b_signed), (four + i64::from(c)) as u32);
        for (high, first) in [(false, 0), (true, 2)] {
            let two: i64 = (0..2).map(|i| half(i) * byte(b, first + i, b_signed)).sum();
            prop_assert_eq!(dp2a(a, b, c, a_signed, b_signed, high), (two + i64::from(c)) as u32);
        }
    }

    #[test]
    fn mul24_multiplies_the_low_24_bits(a in word(), b in word()) {
        prop_assert_eq!(mul24(a, b, false), u64::from(a & 0xff_ffff) * u64::from(b & 0xff_ffff));
        let low = |x: u32| i64::from(x) << 40 >> 40;
        prop_assert_eq!(mul24(a, b, true) as i64, low(a) * low(b));
    }
}

#[test]
fn prmt_picks_bytes_in_every_mode() {
    let (a, b) = (0x8382_0100, 0x0786_0584);
    let index = |selector| prmt(a, b, selector, Permutation::Index);
    assert_eq!([index(0x3210), index(0x7654), index(0x0426)], [a, b, 0x0084_8286]);
    assert_eq!([index(0xb9ec), index(0x3b3b)], [0xff00_ffff, 0x83ff_83ff]);
    let rows = |permutation| [0, 1, 2, 3].map(|n| prmt(0x0302_0100, 0x0706_0504, n, permutation));
    assert_eq!(rows(Permutation::Forward4), [0x0302_0100, 0x0403_0201, 0x0504_0302, 0x0605_0403]);
    assert_eq!(rows(Permutation::Backward4), [0x0506_0700, 0x0607_0001, 0x0700_0102, 0x0001_0203]);
    assert_eq!(rows(Permutation::Replicate8), [0, 0x0101_0101, 0x0202_0202, 0x0303_0303]);
    assert_eq!(rows(Permutation::EdgeClampLeft), [0x0302_0100, 0x0302_0101, 0x0302_0202, 0x0303_0303]);
    assert_eq!(rows(Permutation::EdgeClampRight), [0, 0x0101_0100, 0x0202_0100, 0x0302_0100]);
    assert_eq!(rows(Permutation::Replicate16), [0x0100_0100, 0x0302_0302, 0x0100_0100, 0x0302_0302]);
}

use super::super::convert::*;
use super::super::small::{BF16, F16, narrow};
use super::super::{Round, odd};
use super::exact::{Magnitudes, rounded};
use super::{any_f32, any_f64, round};
use proptest::prelude::*;

const TYPES: [Integer; 8] = {
    let mut types = [Integer { bits: 0, signed: false }; 8];
    let mut i = 0;
    while i < 8 {
        types[i] = Integer { bits: 8 << (i / 2), signed: i % 2 == 1 };
        i += 1;
    }
    types
};

fn integer() -> impl Strategy<Value = Integer> {
    prop::sample::select(TYPES.to_vec())
}

/// The value of 64 bits extended from a type.
fn value(x: u64, signed: bool) -> i128 {
    if signed { (x as i64).into() } else { x.into() }
}

/// Integers with borders of the types.
fn any_integer() -> impl Strategy<Value = u64> {
    let border = (0..64_u32, -2..3_i64).prop_map(|(bit, step)| (1_u64 << bit).wrapping_add_signed(step));
    prop_oneof![
        any::<u64>(),
        border.clone(),
        border.prop_map(u64::wrapping_neg),
        any::<u8>().prop_map(u64::from)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn integers_wrap_or_saturate(x in any_integer(), from in integer(), to in integer()) {
        let x = from.extend(x);
        let (least, greatest) = (i128::from(to.min()), i128::from(to.max()));
        let exact = value(x, from.signed);
        let clamped = exact.clamp(least, greatest);
        prop_assert_eq!(value(integer_from_integer(x, from, to, true), to.signed), clamped);
        let wrapped = value(integer_from_integer(x, from, to, false), to.signed);
        prop_assert!((least..=greatest).contains(&wrapped));
        prop_assert_eq!((wrapped - exact).rem_euclid(1 << to.bits), 0);
    }

    #[test]
    fn floats_become_the_integer_next_to_them_or_the_last_one(
        x in prop_oneof![any_f64(), -1e3..1e3, -1e20..1e20, any_f32().prop_map(f64::from)],
        to in integer(),
        round in round(),
        double: bool,
    ) {
        let result = value(integer_from_f64(x, round, to, double), to.signed);
        let (least, greatest) = (i128::from(to.min()), i128::from(to.max()));
        if x.is_nan() {
            let high = if to.signed { least } else { 1 << (to.bits - 1) };
            prop_assert_eq!(result, if double || to.bits == 64 { high } else { 0 });
            return Ok(());
        }
        let floor = x.clamp(-1e30, 1e30).floor() as i128;
        let rest = x - x.floor();
        let up = match round {
            Round::Rn | Round::Rna => rest > 0.5 || (rest == 0.5 && floor % 2 != 0),
            Round::Rz => rest > 0.0 && x < 0.0,
            Round::Rm => false,
            Round::Rp => rest > 0.0,
        };
        prop_assert_eq!(result, (floor + i128::from(up)).clamp(least, greatest));
    }

    #[test]
    fn the_short_ways_to_32_bits_give_the_same(x in prop_oneof![any_f32(), -3e9_f32..5e9, -9.0_f32..9.0], round in round()) {
        let long = |signed| integer_from_f64(x.into(), round, Integer { bits: 32, signed }, false);
        prop_assert_eq!(s32_from_f32(x, round), long(true) as i32);
        prop_assert_eq!(u64::from(u32_from_f32(x, round)), long(false));
    }

    #[test]
    fn an_integer_is_rounded_once(x in any_integer(), signed: bool, round in round()) {
        let exact = value(x, signed);
        let (negative, magnitude) = (exact < 0, exact.unsigned_abs());
        let single = f32_from_integer(x, signed, round);
        let double = f64_from_integer(x, signed, round);
        // No value that matters has bits below 2^-60.
        if exact == 0 {
            prop_assert_eq!((single.to_bits(), double.to_bits()), (0, 0));
            return Ok(());
        }
        let compare = |v: f64| {
            let scaled = if v < 1e20 { (v * 2.0_f64.powi(60)) as u128 } else { u128::MAX };
            (magnitude << 60).cmp(&scaled)
        };
        let place32 = |bits: u64| f64::from(f32::from_bits(bits as u32));
        let expected = rounded(
            &Magnitudes { value: place32, infinity: 0x7f80_0000 }, negative, compare, round, single.abs().to_bits().into(),
        );
        prop_assert_eq!(single.abs().to_bits(), expected as u32);
        // No double is the middle of two.
        let expected = match round {
            Round::Rn => (magnitude as f64).to_bits(),
            _ => rounded(
                &Magnitudes { value: f64::from_bits, infinity: 0x7ff << 52 },
                negative,
                compare,
                round,
                double.abs().to_bits(),
            ),
        };
        prop_assert_eq!(double.abs().to_bits(), expected);
        prop_assert_eq!((single.is_sign_negative(), double.is_sign_negative()), (negative, negative));
    }

    #[test]
    fn a_small_integer_becomes_the_half_that_single_precision_becomes(x in any::<i16>(), round in round()) {
        for format in [F16, BF16] {
            let expected = narrow(x.into(), format, round, false) as u16;
            prop_assert_eq!(half_from_integer(x as u64, true, format, round), expected);
        }
    }

    #[test]
    fn a_double_becomes_a_half_in_one_rounding(x in any_f64(), step in -1..2_i64, round in round()) {
        // Near the middle of two halves, single precision would lose on which side.
        let middle = f64::from(f32::from_bits(x.to_bits() as u32 & 0xffff_8000 | 0x8000));
        let x = if middle.is_finite() { f64::from_bits(middle.to_bits().wrapping_add_signed(step)) } else { x };
        let single = odd::to_f32(x, Round::Rz);
        let inexact = f64::from(single) != x && !x.is_nan();
        for format in [F16, BF16] {
            // What lies strictly between two values of single precision rounds as any other value there does.
            let toward = f32::from_bits(single.to_bits() | u32::from(inexact));
            prop_assert_eq!(half_from_f64(x, format, round), narrow(toward, format, round, false) as u16);
        }
    }

    #[test]
    fn pack_clamps_and_joins(a in any_integer(), b in any_integer(), c: u32, to in prop::sample::select(vec![2, 4, 8, 16])) {
        let (a, b) = (a as i32, b as i32);
        for signed in [false, true] {
            let (least, greatest) = if signed { (-(1_i64 << (to - 1)), (1_i64 << (to - 1)) - 1) } else { (0, (1_i64 << to) - 1) };
            let mask = (1_u64 << to) - 1;
            let field = |x: i32| i64::from(x).clamp(least, greatest) as u64 & mask;
            let rest = u64::from(c) << (2 * to);
            prop_assert_eq!(pack(a, b, c, Integer { bits: to, signed }), (field(b) | field(a) << to | rest) as u32);
        }
    }
}

#[test]
fn precisions_hand_nan_on_as_the_canonical_one() {
    assert_eq!(f32_from_f64(f64::NAN, Round::Rz).to_bits(), 0x7fff_ffff);
    assert_eq!(f64_from_f32(f32::NAN).to_bits(), 0x7fff_ffff_e000_0000);
    assert_eq!(half_from_f64(-f64::NAN, F16, Round::Rn), 0x7fff);
    assert_eq!(f32_from_f64(1e300, Round::Rz), f32::MAX);
    assert_eq!(f32_from_f64(1e-300, Round::Rp), f32::from_bits(1));
}

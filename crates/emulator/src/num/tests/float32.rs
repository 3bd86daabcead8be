use super::super::Round;
use super::super::float32::*;
use super::exact::{Exact, Magnitudes, rounded};
use super::{any_f32, finite_f32, round};
use proptest::prelude::*;
use std::cmp::Ordering;

const INFINITY: u64 = 0x7f80_0000;

fn value(bits: u64) -> f64 {
    if bits == INFINITY { f64::from_bits((1023 + 128) << 52) } else { f32::from_bits(bits as u32).into() }
}

/// `result` is the value that `magnitude` measures, rounded.
fn is_rounded(result: f32, negative: bool, magnitude: impl Fn(f64) -> Ordering, round: Round) -> bool {
    let format = Magnitudes { value, infinity: INFINITY };
    let guess = u64::from(result.abs().to_bits());
    let expected = rounded(&format, negative, magnitude, round, guess) as u32 | u32::from(negative) << 31;
    result.to_bits() == expected
}

fn is_rounded_exact(result: f32, exact: Exact, round: Round) -> bool {
    let magnitude = exact.abs();
    is_rounded(result, exact.is_negative(), |v| magnitude.partial_cmp(&Exact::new(v)).unwrap(), round)
}

fn same(a: f32, b: f32) -> bool {
    a.to_bits() == b.to_bits()
}

fn zero(negative: bool) -> f32 {
    if negative { -0.0 } else { 0.0 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn a_sum_is_the_exact_one_rounded_once(a in any_f32(), b in any_f32(), round in round()) {
        let result = add(a, b, round);
        if !(a.is_finite() && b.is_finite()) {
            prop_assert!(same(result, canonical(a + b)));
        } else {
            let exact = Exact::new(a.into()).plus(Exact::new(b.into()));
            if exact.is_zero() {
                let negative = if same(a, b) { a.is_sign_negative() } else { round == Round::Rm };
                prop_assert!(same(result, zero(negative)));
            } else {
                prop_assert!(is_rounded_exact(result, exact, round), "{result:e}");
            }
        }
        prop_assert!(same(result, sub(a, -b, round)));
    }

    #[test]
    fn a_product_is_the_exact_one_rounded_once(a in any_f32(), b in any_f32(), round in round()) {
        let result = mul(a, b, round);
        let exact = if a.is_finite() && b.is_finite() { Some(Exact::product(a.into(), b.into())) } else { None };
        match exact {
            Some(exact) if !exact.is_zero() => prop_assert!(is_rounded_exact(result, exact, round), "{result:e}"),
            _ => prop_assert!(same(result, canonical(a * b))),
        }
    }

    #[test]
    fn fma_is_rounded_once(a in any_f32(), b in any_f32(), c in any_f32(), round in round()) {
        let result = fma(a, b, c, round);
        if !(a.is_finite() && b.is_finite() && c.is_finite()) {
            prop_assert!(same(result, canonical(a.mul_add(b, c))));
            return Ok(());
        }
        let exact = Exact::product(a.into(), b.into()).plus(Exact::new(c.into()));
        if exact.is_zero() {
            let product_negative = a.is_sign_negative() ^ b.is_sign_negative();
            let both = product_negative == c.is_sign_negative();
            let negative = if both { product_negative } else { round == Round::Rm };
            prop_assert!(same(result, zero(negative)));
        } else {
            prop_assert!(is_rounded_exact(result, exact, round), "{result:e}");
        }
    }

    #[test]
    fn fma_that_cancels_leaves_the_product_s_error(a in finite_f32(), b in finite_f32(), round in round()) {
        let c = -mul(a, b, Round::Rz);
        let exact = Exact::product(a.into(), b.into()).plus(Exact::new(c.into()));
        if !exact.is_zero() {
            prop_assert!(is_rounded_exact(fma(a, b, c, round), exact, round));
        }
    }

    #[test]
    fn a_quotient_is_the_exact_one_rounded_once(a in any_f32(), b in any_f32(), round in round()) {
        let result = div(a, b, round);
        if !(a.is_finite() && b.is_finite()) || a == 0.0 || b == 0.0 {
            prop_assert!(same(result, canonical(a / b)));
            return Ok(());
        }
        let dividend = Exact::new(a.into()).abs();
        let magnitude = |v: f64| dividend.partial_cmp(&Exact::product(v, b.abs().into())).unwrap();
        prop_assert!(is_rounded(result, (a < 0.0) != (b < 0.0), magnitude, round), "{result:e}");
        prop_assert!(same(rcp(b, round), div(1.0, b, round)));
    }

    #[test]
    fn a_root_is_the_exact_one_rounded_once(a in any_f32(), round in round()) {
        let result = sqrt(a, round);
        if a > 0.0 && a.is_finite() {
            let square = Exact::new(a.into());
            let magnitude = |v: f64| square.partial_cmp(&Exact::product(v, v)).unwrap();
            prop_assert!(is_rounded(result, false, magnitude, round), "{result:e}");
        } else {
            prop_assert!(same(result, canonical(a.sqrt())));
        }
    }

    #[test]
    fn ftz_makes_zeros_of_subnormals_alone(a in any_f32()) {
        let expected = if a.is_subnormal() { 0.0_f32.copysign(a) } else { a };
        prop_assert!(same(ftz(a), expected));
    }

    #[test]
    fn sat_clamps_and_makes_zero_of_nan(a in any_f32()) {
        let expected = if a.is_nan() || a <= 0.0 { 0.0 } else { a.min(1.0) };
        prop_assert!(same(sat(a), expected));
    }

    #[test]
    fn min_and_max_order_zeros_and_prefer_numbers(a in any_f32(), b in any_f32()) {
        let (least, greatest) = match (a.is_nan(), b.is_nan()) {
            (true, true) => (NAN, NAN),
            (true, false) => (b, b),
            (false, true) => (a, a),
            (false, false) if a.total_cmp(&b).is_lt() => (a, b),
            (false, false) => (b, a),
        };
        prop_assert!(same(min(a, b), least) && same(max(a, b), greatest));
        let nan = a.is_nan() || b.is_nan();
        let or_nan = |x| if nan { NAN } else { x };
        prop_assert!(same(min_nan(a, b), or_nan(least)) && same(max_nan(a, b), or_nan(greatest)));
    }

    #[test]
    fn xorsign_gives_the_product_s_sign_to_the_chosen_magnitude(a in any_f32(), b in any_f32()) {
        let result = xorsign_abs(a, b, max);
        let magnitude = max(a.abs(), b.abs());
        if magnitude.is_nan() {
            prop_assert!(same(result, NAN));
        } else {
            prop_assert!(same(result.abs(), magnitude));
            prop_assert_eq!(result.is_sign_negative(), a.is_sign_negative() != b.is_sign_negative());
        }
    }

    #[test]
    fn copysign_takes_the_sign_of_its_first_operand(a in any_f32(), b in any_f32()) {
        let result = copysign(a, b);
        prop_assert_eq!(result.is_sign_negative(), a.is_sign_negative());
        prop_assert!(same(result.abs(), b.abs()));
    }
}

#[test]
fn an_invalid_operation_gives_the_one_nan() {
    let infinity = f32::INFINITY;
    for round in [Round::Rn, Round::Rz, Round::Rm, Round::Rp] {
        for result in [
            add(infinity, -infinity, round),
            sub(infinity, infinity, round),
            mul(0.0, infinity, round),
            fma(infinity, 1.0, -infinity, round),
            fma(0.0, infinity, 1.0, round),
            div(0.0, 0.0, round),
            div(infinity, infinity, round),
            sqrt(-1.0, round),
            add(f32::from_bits(0xffc0_1234), 1.0, round),
            rcp(f32::from_bits(0x7f80_0001), round),
        ] {
            assert_eq!(result.to_bits(), 0x7fff_ffff);
        }
    }
    assert_eq!(abs(f32::from_bits(0xffc0_0000)).to_bits(), 0x7fff_ffff);
    assert_eq!(neg(f32::from_bits(0x7fc0_0000)).to_bits(), 0x7fff_ffff);
}

use super::super::Round;
use super::super::float64::*;
use super::super::soft;
use super::exact::{Exact, Magnitudes, rounded};
use super::{any_f64, finite_f64, nonzero_f64, round};
use proptest::prelude::*;
use std::cmp::Ordering;

const INFINITY: u64 = 0x7ff0_0000_0000_0000;

fn same(a: f64, b: f64) -> bool {
    a.to_bits() == b.to_bits()
}

/// `result` is the value that `magnitude` measures, rounded in a directed mode; `nearest` is what the host's unit
/// gives.
fn is_rounded(
    result: f64,
    nearest: f64,
    negative: bool,
    magnitude: impl Fn(f64) -> Ordering,
    round: Round,
) -> bool {
    if round == Round::Rn {
        return same(result, nearest);
    }
    // No double follows the largest: everything is below 2^1024, which only an infinite `nearest` reaches.
    let format = Magnitudes { value: f64::from_bits, infinity: INFINITY };
    let guess = nearest.abs().to_bits();
    let measure = |v: f64| if v.is_infinite() { Ordering::Less } else { magnitude(v) };
    let place = rounded(&format, negative, measure, round, guess);
    same(result, f64::from_bits(place).copysign(if negative { -1.0 } else { 1.0 }))
}

fn is_rounded_exact(result: f64, nearest: f64, exact: Exact, round: Round) -> bool {
    let magnitude = exact.abs();
    is_rounded(
        result,
        nearest,
        exact.is_negative(),
        |v| magnitude.partial_cmp(&Exact::new(v)).unwrap(),
        round,
    )
}

fn zero(negative: bool) -> f64 {
    if negative { -0.0 } else { 0.0 }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn a_sum_is_the_exact_one_rounded_once(a in finite_f64(), b in finite_f64(), round in round()) {
        let (result, exact) = (add(a, b, round), Exact::new(a).plus(Exact::new(b)));
        if exact.is_zero() {
            let negative = if same(a, b) { a.is_sign_negative() } else { round == Round::Rm };
            prop_assert!(same(result, zero(negative)));
        } else {
            prop_assert!(is_rounded_exact(result, a + b, exact, round), "{result:e}");
        }
        prop_assert!(same(result, sub(a, -b, round)));
    }

    #[test]
    fn a_product_is_the_exact_one_rounded_once(a in finite_f64(), b in finite_f64(), round in round()) {
        let (result, exact) = (mul(a, b, round), Exact::product(a, b));
        if exact.is_zero() {
            prop_assert!(same(result, a * b));
        } else {
            prop_assert!(is_rounded_exact(result, a * b, exact, round), "{result:e}");
        }
    }

    #[test]
    fn fma_is_rounded_once(a in finite_f64(), b in finite_f64(), c in finite_f64(), round in round(), cancel: bool) {
        let c = if cancel && (a * b).is_finite() { -(a * b) } else { c };
        let (result, exact) = (fma(a, b, c, round), Exact::product(a, b).plus(Exact::new(c)));
        if exact.is_zero() {
            let product_negative = a.is_sign_negative() ^ b.is_sign_negative();
            let both = product_negative == c.is_sign_negative();
            let negative = if both { product_negative } else { round == Round::Rm };
            prop_assert!(same(result, zero(negative)));
        } else {
            prop_assert!(is_rounded_exact(result, a.mul_add(b, c), exact, round), "{result:e}");
        }
    }

    #[test]
    fn a_quotient_is_the_exact_one_rounded_once(a in nonzero_f64(), b in nonzero_f64(), round in round()) {
        let dividend = Exact::new(a).abs();
        let magnitude = |v: f64| dividend.partial_cmp(&Exact::product(v, b.abs())).unwrap();
        let result = div(a, b, round);
        prop_assert!(is_rounded(result, a / b, (a < 0.0) != (b < 0.0), magnitude, round), "{result:e}");
        prop_assert!(same(rcp(b, round), div(1.0, b, round)));
    }

    #[test]
    fn a_root_is_the_exact_one_rounded_once(a in nonzero_f64(), round in round()) {
        let a = a.abs();
        let square = Exact::new(a);
        let magnitude = |v: f64| square.partial_cmp(&Exact::product(v, v)).unwrap();
        prop_assert!(is_rounded(sqrt(a, round), a.sqrt(), false, magnitude, round));
    }

    #[test]
    fn integers_give_to_nearest_what_the_host_s_unit_gives(a in nonzero_f64(), b in nonzero_f64(), c in finite_f64()) {
        let (x, y, z) = (soft::Exact::new(a), soft::Exact::new(b), soft::Exact::new(c));
        let round = Round::Rn;
        prop_assert!(same(x.add(z, round).round(round), a + c));
        prop_assert!(same(x.mul(y).round(round), a * b));
        prop_assert!(same(x.mul(y).add(z, round).round(round), a.mul_add(b, c)));
        prop_assert!(same(x.div(y).round(round), a / b));
        prop_assert!(same(soft::Exact::new(a.abs()).sqrt().round(round), a.abs().sqrt()));
    }

    #[test]
    fn min_and_max_order_zeros_and_prefer_numbers(a in any_f64(), b in any_f64()) {
        prop_assume!(!(a.is_nan() && b.is_nan()));
        let (least, greatest) = match (a.is_nan(), b.is_nan()) {
            (true, _) => (b, b),
            (_, true) => (a, a),
            _ if a.total_cmp(&b).is_lt() => (a, b),
            _ => (b, a),
        };
        prop_assert!(same(min(a, b), least) && same(max(a, b), greatest));
    }

    #[test]
    fn the_first_nan_is_handed_on_quiet(payload in 1..1_u64 << 51, other in any_f64(), round in round(), negative: bool) {
        let nan = f64::from_bits(0x7ff << 52 | payload | u64::from(negative) << 63);
        let quiet = f64::from_bits(nan.to_bits() | 1 << 51);
        prop_assert!(same(add(nan, other, round), quiet));
        prop_assert!(same(mul(nan, other, round), quiet));
        prop_assert!(same(div(nan, other, round), quiet));
        prop_assert!(same(fma(nan, other, other, round), quiet));
        prop_assert!(same(sqrt(nan, round), quiet));
        if !other.is_nan() {
            prop_assert!(same(sub(other, nan, round), quiet));
            prop_assert!(same(fma(other, other, nan, round), quiet));
        }
    }
}

#[test]
fn what_is_not_finite_is_the_same_in_every_mode() {
    for round in [Round::Rn, Round::Rz, Round::Rm, Round::Rp] {
        assert_eq!(add(f64::INFINITY, f64::MAX, round), f64::INFINITY);
        assert_eq!(div(1.0, 0.0, round), f64::INFINITY);
        assert_eq!(div(1.0, -f64::INFINITY, round).to_bits(), 1 << 63);
        assert_eq!(sqrt(f64::INFINITY, round), f64::INFINITY);
        assert_eq!(sqrt(-0.0, round).to_bits(), 1 << 63);
        for result in [
            add(f64::INFINITY, -f64::INFINITY, round),
            mul(0.0, f64::INFINITY, round),
            div(0.0, 0.0, round),
            sqrt(-1.0, round),
        ] {
            assert_eq!(result.to_bits(), NAN.to_bits());
        }
    }
}

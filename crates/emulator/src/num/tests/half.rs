use super::super::half::*;
use super::super::small::{BF16, F16, Format, narrow, widen};
use super::super::{Round, float32};
use super::exact::{Exact, Magnitudes, rounded};
use super::half_format;
use proptest::prelude::*;

fn value(bits: u16, format: Format) -> f32 {
    widen(bits.into(), format)
}

/// `exact` rounded to nearest, or None where it is zero.
fn nearest(exact: Exact, format: Format, guess: u16) -> Option<u16> {
    let infinity = u64::from(format.infinity);
    let next = f64::from(widen(format.max, format)) + f64::from(widen(format.max, format))
        - f64::from(widen(format.max - 1, format));
    let place = |bits: u64| if bits == infinity { next } else { widen(bits as u32, format).into() };
    let magnitude = exact.abs();
    let compare = |v: f64| magnitude.partial_cmp(&Exact::new(v)).unwrap();
    let format = Magnitudes { value: place, infinity };
    let sign = u16::from(exact.is_negative()) << 15;
    (!exact.is_zero()).then(|| {
        rounded(&format, exact.is_negative(), compare, Round::Rn, u64::from(guess & 0x7fff)) as u16 | sign
    })
}

/// Finite in both formats: uniform, or numbers around 1.
fn bits() -> impl Strategy<Value = u16> {
    let uniform = any::<u16>().prop_map(|x| if x & 0x7c00 == 0x7c00 { x ^ 0x4000 } else { x });
    prop_oneof![uniform, any::<u16>().prop_map(|x| (x & 0x87ff) | 0x3800)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn sums_and_products_are_rounded_once(a in bits(), b in bits(), format in half_format()) {
        let (x, y) = (value(a, format), value(b, format));
        let sum = Exact::new(x.into()).plus(Exact::new(y.into()));
        let zero = narrow(x + y, format, Round::Rn, false) as u16;
        prop_assert_eq!(add(a, b, format), nearest(sum, format, add(a, b, format)).unwrap_or(zero));
        prop_assert_eq!(sub(a, b ^ 0x8000, format), add(a, b, format));
        let product = Exact::product(x.into(), y.into());
        let zero = (a ^ b) & 0x8000;
        prop_assert_eq!(mul(a, b, format), nearest(product, format, mul(a, b, format)).unwrap_or(zero));
    }

    #[test]
    fn fma_is_rounded_once(a in bits(), b in bits(), c in bits(), format in half_format(), cancel: bool) {
        let product = mul(a, b, format);
        let c = if cancel && value(product, format).is_finite() { product ^ 0x8000 } else { c };
        let (x, y, z) = (value(a, format), value(b, format), value(c, format));
        let exact = Exact::product(x.into(), y.into()).plus(Exact::new(z.into()));
        let zero = if (a ^ b) & c & 0x8000 == 0 { 0 } else { 0x8000 };
        let result = fma(a, b, c, format);
        prop_assert_eq!(result, nearest(exact, format, result).unwrap_or(zero));
    }

    #[test]
    fn what_is_not_finite_follows_single_precision(
        [a, b, c] in prop::array::uniform3(prop_oneof![any::<u16>(), prop::sample::select(vec![0, 0x7c00, 0xfc00, 0x7e00])]),
    ) {
        let format = F16;
        let (x, y, z) = (value(a, format), value(b, format), value(c, format));
        if x.is_finite() && y.is_finite() && z.is_finite() {
            return Ok(());
        }
        let single = |x: f32| if x.is_nan() { 0x7fff } else { narrow(x, format, Round::Rn, false) as u16 };
        prop_assert_eq!(add(a, b, format), single(x + y));
        prop_assert_eq!(mul(a, b, format), single(x * y));
        prop_assert_eq!(fma(a, b, c, format), single((f64::from(x) * f64::from(y) + f64::from(z)) as f32));
    }

    #[test]
    fn comparing_and_signs_follow_single_precision(a: u16, b: u16, format in half_format()) {
        let (x, y) = (value(a, format), value(b, format));
        let same = |bits: u16, single: f32| value(bits, format).to_bits() == single.to_bits();
        prop_assert!(same(min(a, b, format), float32::min(x, y)));
        prop_assert!(same(max(a, b, format), float32::max(x, y)));
        prop_assert!(same(min_nan(a, b, format), float32::min_nan(x, y)));
        prop_assert!(same(max_nan(a, b, format), float32::max_nan(x, y)));
        if !(x.is_nan() || y.is_nan()) {
            let choose = |a, b| max(a, b, format);
            prop_assert!(same(xorsign_abs(a, b, format, choose), float32::xorsign_abs(x, y, float32::max)));
        }
        prop_assert!(same(abs(a, format), float32::abs(x)));
        prop_assert!(same(neg(a, format), float32::neg(x)));
        prop_assert!(same(sat(a, format), float32::sat(x)));
        let positive = if x.is_sign_negative() && !x.is_nan() { 0.0 } else { x };
        prop_assert!(same(relu(a, format), positive));
    }
}

#[test]
fn ftz_makes_zeros_of_subnormals_alone() {
    assert_eq!(
        [ftz(0x03ff, F16), ftz(0x83ff, F16), ftz(0x0400, F16), ftz(0x7e00, F16)],
        [0, 0x8000, 0x0400, 0x7e00]
    );
    assert_eq!([ftz(0x007f, BF16), ftz(0x807f, BF16), ftz(0x0080, BF16)], [0, 0x8000, 0x0080]);
}

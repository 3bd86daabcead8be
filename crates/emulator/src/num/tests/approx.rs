use super::super::approx::*;
use super::super::convert::half_from_f64;
use super::super::small::{BF16, F16, widen};
use super::super::{Round, float32};
use super::any_f32;
use proptest::prelude::*;

/// `result` is `exact`, given with an error of a few units of double precision, rounded to nearest: what 2^-46 more or
/// less would be rounded to at the most.
fn is_nearest(result: f32, exact: f64) -> bool {
    let error = exact.abs() * 2.0_f64.powi(-46);
    let bounds = float32::canonical((exact - error) as f32)..=float32::canonical((exact + error) as f32);
    result.to_bits() == float32::canonical(exact as f32).to_bits() || bounds.contains(&result)
}

/// Arguments over the range where exponentials neither vanish nor overflow, or any.
fn moderate() -> impl Strategy<Value = f32> {
    prop_oneof![-160.0_f32..130.0, -1.0_f32..1.0, any_f32()]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100_000))]

    #[test]
    fn exponentials_and_logarithms_are_the_nearest(x in moderate()) {
        let wide = f64::from(x);
        prop_assert!(is_nearest(ex2(x), wide.exp2()), "2^{x:e} = {:e}", ex2(x));
        prop_assert!(is_nearest(tanh(x), wide.tanh()), "tanh {x:e} = {:e}", tanh(x));
        prop_assert!(is_nearest(lg2(x), wide.log2()), "lg2 {x:e} = {:e}", lg2(x));
    }

    #[test]
    fn roots_and_reciprocals_are_the_nearest(x in any_f32(), y in any_f32()) {
        let wide = f64::from(x);
        prop_assert!(is_nearest(rcp(x), 1.0 / wide));
        prop_assert!(is_nearest(sqrt(x), wide.sqrt()));
        prop_assert!(is_nearest(rsqrt(x), 1.0 / wide.sqrt()));
        prop_assert!(is_nearest(div_full(x, y), wide / f64::from(y)));
        if y.abs() <= 2.0_f32.powi(126) || y.is_nan() {
            prop_assert_eq!(div(x, y).to_bits(), div_full(x, y).to_bits());
        }
    }

    #[test]
    fn sine_and_cosine_are_the_nearest_for_any_angle(x in prop_oneof![any_f32(), -700.0_f32..700.0]) {
        prop_assert!(is_nearest(sin(x), f64::from(x).sin()), "sin {x:e} = {:e}", sin(x));
        prop_assert!(is_nearest(cos(x), f64::from(x).cos()), "cos {x:e} = {:e}", cos(x));
    }

    #[test]
    fn reciprocals_of_doubles_have_20_bits(bits in any::<u64>()) {
        let x = f64::from_bits(bits);
        if x.is_normal() && x.abs() > 1e-300 && x.abs() < 1e300 {
            for (result, exact) in [(rcp_ftz_f64(x), 1.0 / x), (rsqrt_ftz_f64(x.abs()), 1.0 / x.abs().sqrt())] {
                prop_assert_eq!(result.to_bits() as u32, 0);
                prop_assert!((result / exact - 1.0).abs() < 2.0_f64.powi(-18));
            }
        }
    }
}

#[test]
fn half_precision_results_are_the_nearest_for_every_operand() {
    for format in [F16, BF16] {
        for bits in 0..=u16::MAX {
            let x = f64::from(widen(bits.into(), format));
            assert_eq!(ex2_half(bits, format), half_from_f64(x.exp2(), format, Round::Rn), "2^{x:e}");
            assert_eq!(tanh_half(bits, format), half_from_f64(x.tanh(), format, Round::Rn), "tanh {x:e}");
        }
    }
}

#[test]
fn special_operands_give_what_the_isa_s_tables_say() {
    let (infinity, nan) = (f32::INFINITY, 0x7fff_ffff);
    let bits = |x: f32| x.to_bits();
    assert_eq!(
        [ex2(-infinity), ex2(-0.0), ex2(0.0), ex2(infinity)].map(bits),
        [0.0, 1.0, 1.0, infinity].map(bits)
    );
    let logarithms = [lg2(-infinity), lg2(-1.0), lg2(-0.0), lg2(0.0), lg2(infinity)].map(bits);
    assert_eq!(logarithms, [nan, nan, bits(-infinity), bits(-infinity), bits(infinity)]);
    let roots = [rsqrt(-infinity), rsqrt(-1.0), rsqrt(-0.0), rsqrt(0.0), rsqrt(infinity)].map(bits);
    assert_eq!(roots, [nan, nan, bits(-infinity), bits(infinity), 0]);
    assert_eq!(
        [rcp(-infinity), rcp(-0.0), rcp(0.0), rcp(infinity)].map(bits),
        [-0.0, -infinity, infinity, 0.0].map(bits)
    );
    assert_eq!([sin(-0.0), sin(0.0), cos(-0.0), cos(0.0)].map(bits), [-0.0, 0.0, 1.0, 1.0].map(bits));
    assert_eq!([sin(infinity), sin(-infinity), cos(infinity), cos(-infinity)].map(bits), [nan; 4]);
    assert_eq!(
        [tanh(-infinity), tanh(-0.0), tanh(0.0), tanh(infinity)].map(bits),
        [-1.0, -0.0, 0.0, 1.0].map(bits)
    );
    let not = f32::from_bits(0xffc0_0001);
    for result in
        [ex2(not), lg2(not), rsqrt(not), rcp(not), sqrt(not), sin(not), cos(not), tanh(not), div(not, 1.0)]
    {
        assert_eq!(bits(result), nan);
    }
    let huge = 2.0_f32.powi(127);
    assert_eq!([div(1.0, huge), div(-1.0, huge), div(infinity, huge)].map(bits), [0, 1 << 31, nan]);

    let word = |x: f64| (x.to_bits() >> 32) as u32;
    let subnormal = f64::from_bits(1 << 40);
    let doubles =
        [rcp_ftz_f64(subnormal), rcp_ftz_f64(-subnormal), rcp_ftz_f64(1e308 * 1.7), rcp_ftz_f64(f64::NAN)];
    assert_eq!(doubles.map(word), [0x7ff0_0000, 0xfff0_0000, 0, 0x7fff_ffff]);
    assert_eq!([rsqrt_ftz_f64(-subnormal), rsqrt_ftz_f64(-1.0)].map(word), [0xfff0_0000, 0x7fff_ffff]);
}

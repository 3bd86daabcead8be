use super::super::Round;
use super::super::float32;
use super::super::small::*;
use super::exact::{Magnitudes, rounded};
use super::finite_f32;
use proptest::prelude::*;

const FORMATS: [Format; 8] = [F16, BF16, TF32, E5M2, E4M3, E3M2, E2M3, E2M1];

fn format() -> impl Strategy<Value = Format> {
    prop::sample::select(FORMATS.to_vec())
}

/// The bits that the definition of rounding gives for a finite value, the format being unbounded by one step.
fn expected(x: f32, format: Format, round: Round, satfinite: bool) -> u32 {
    let top = u64::from(format.max) + 1;
    let value = |bits: u64| {
        // By the formula of the format's definition.
        let (fraction, field) = (bits & ((1 << format.mantissa) - 1), bits >> format.mantissa);
        let hidden = if field == 0 { 0 } else { 1 << format.mantissa };
        let exponent = field.max(1) as i32 - format.bias as i32 - format.mantissa as i32;
        (fraction + hidden) as f64 * 2.0_f64.powi(exponent)
    };
    let magnitude = |v: f64| f64::from(x.abs()).partial_cmp(&v).unwrap();
    let guess = (0..=top).collect::<Vec<_>>().partition_point(|&m| value(m) <= f64::from(x.abs())) as u64;
    let place =
        rounded(&Magnitudes { value, infinity: top }, x < 0.0, magnitude, round, guess.saturating_sub(1));
    let bounded = match (place == top, satfinite) {
        (false, _) => place as u32,
        (true, true) => format.max,
        (true, false) => format.infinity,
    };
    bounded | u32::from(x.is_sign_negative()) << (format.bits - 1)
}

/// Values near those of a format and near the middle between two.
fn near_format(format: Format) -> impl Strategy<Value = f32> {
    (0..=format.max, -2..3_i32, any::<bool>(), any::<bool>()).prop_map(
        move |(bits, step, middle, negative)| {
            let (low, high) = (widen(bits, format), widen((bits + 1).min(format.max), format));
            let start = if middle { low / 2.0 + high / 2.0 } else { low };
            let near = f32::from_bits(start.to_bits().saturating_add_signed(step));
            if negative { -near } else { near }
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3000))]

    #[test]
    fn narrowing_rounds_by_definition(
        (x, format) in format().prop_flat_map(|f| (prop_oneof![finite_f32(), near_format(f)], Just(f))),
        round in prop_oneof![super::round(), Just(Round::Rna)],
        satfinite: bool,
    ) {
        prop_assert_eq!(narrow(x, format, round, satfinite), expected(x, format, round, satfinite));
    }

    #[test]
    fn stochastic_rounding_goes_up_as_often_as_the_rest_is_large(
        x in finite_f32(),
        (format, random_bits) in prop::sample::select(vec![(F16, 13), (BF16, 16), (E5M2, 16), (E4M3, 16), (E2M1, 8)]),
    ) {
        let (down, up) = (narrow(x, format, Round::Rz, true), away(x, format));
        let samples: Vec<u32> =
            (0..1 << random_bits).step_by(7).map(|r| narrow_stochastic(x, format, r, random_bits, true)).collect();
        prop_assert!(samples.iter().all(|&s| s == down || s == up));
        if down != up {
            let (low, high) = (f64::from(widen(down, format)).abs(), f64::from(widen(up, format)).abs());
            let part = (f64::from(x).abs() - low) / (high - low);
            let ups = samples.iter().filter(|&&s| s == up).count() as f64 / samples.len() as f64;
            prop_assert!((ups - part).abs() < 16.0 / samples.len() as f64, "{ups} of {part}");
        }
    }
}

/// Rounded away from zero.
fn away(x: f32, format: Format) -> u32 {
    narrow(x, format, if x.is_sign_negative() { Round::Rm } else { Round::Rp }, true)
}

#[test]
fn every_value_of_a_format_survives_widening_and_narrowing() {
    for format in FORMATS {
        for bits in 0..1_u32 << format.bits {
            let back = narrow(widen(bits, format), format, Round::Rz, false);
            let magnitude = bits & ((1 << (format.bits - 1)) - 1);
            let is_nan =
                magnitude > format.max && (magnitude != format.infinity || format.infinity == format.nan);
            assert_eq!(back, if is_nan { format.nan } else { bits }, "{format:?} {bits:#x}");
        }
    }
}

#[test]
fn widening_agrees_with_the_half_crate() {
    for bits in 0..=u16::MAX {
        let (f16, bf16) = (half::f16::from_bits(bits).to_f32(), half::bf16::from_bits(bits).to_f32());
        assert_eq!(widen(bits.into(), F16).to_bits(), float32::canonical(f16).to_bits());
        assert_eq!(widen(bits.into(), BF16).to_bits(), float32::canonical(bf16).to_bits());
    }
}

#[test]
fn formats_have_the_largest_values_of_their_definitions() {
    let largest = FORMATS.map(|format| widen(format.max, format));
    let two_to_127 = 2.0_f32.powi(127);
    let bf16 = two_to_127 * (2.0 - 2.0_f32.powi(-7));
    let tf32 = two_to_127 * (2.0 - 2.0_f32.powi(-10));
    assert_eq!(largest, [65504.0, bf16, tf32, 57344.0, 448.0, 28.0, 7.5, 6.0]);
}

#[test]
fn infinities_stay_unless_satfinite_and_nan_becomes_canonical() {
    let infinity = f32::INFINITY;
    for round in [Round::Rn, Round::Rz, Round::Rm, Round::Rp] {
        assert_eq!(narrow(infinity, F16, round, false), 0x7c00);
        assert_eq!(narrow(-infinity, BF16, round, false), 0xff80);
        assert_eq!(narrow(-infinity, F16, round, true), 0xfbff);
        assert_eq!(narrow(infinity, E4M3, round, true), 0x7e);
        assert_eq!(narrow(-f32::NAN, F16, round, true), 0x7fff);
        assert_eq!(narrow(f32::NAN, E5M2, round, true), 0x7f);
        assert_eq!(narrow(f32::NAN, E2M1, round, true), 0x7);
        assert_eq!(tf32(f32::NAN, round, true), 0x7fff_ffff);
    }
    assert_eq!(tf32(1.0 + 2.0_f32.powi(-11), Round::Rna, false), 0x3f80_2000);
    assert_eq!(tf32(1.0 + 2.0_f32.powi(-11), Round::Rn, false), 0x3f80_0000);
}

#[test]
fn ue8m0_holds_powers_of_two() {
    for bits in 0..255_u32 {
        let power = 2.0_f64.powi(bits as i32 - 127) as f32;
        assert_eq!(widen(ue8m0_to_bf16(bits), BF16), power);
        assert_eq!((to_ue8m0(power, Round::Rz, false), to_ue8m0(-power, Round::Rp, false)), (bits, bits));
        let above = f32::from_bits(power.to_bits() + 1);
        assert_eq!(to_ue8m0(above, Round::Rz, true), bits);
        assert_eq!(to_ue8m0(above, Round::Rp, true), (bits + 1).min(254));
    }
    assert_eq!((to_ue8m0(0.0, Round::Rp, true), to_ue8m0(f32::NAN, Round::Rz, true)), (0, 0xff));
    assert_eq!(
        (to_ue8m0(f32::INFINITY, Round::Rz, true), to_ue8m0(f32::INFINITY, Round::Rz, false)),
        (254, 255)
    );
    assert_eq!(ue8m0_to_bf16(0xff), 0x7fff);
}

#[test]
fn relu_stops_what_is_negative() {
    assert_eq!((relu(-1.0).to_bits(), relu(-0.0).to_bits(), relu(2.0)), (0, 0, 2.0));
    assert!(relu(f32::NAN).is_nan() && relu(-f32::NAN).is_nan());
}

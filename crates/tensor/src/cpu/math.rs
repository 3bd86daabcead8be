//! Functions that the compiler can put into vector instructions: no calls, no branches, no float-to-integer casts.

use super::Real;

/// `e^x` within 2 units in the last place; 0 below -87.33, where the result would be denormal.
#[inline(always)]
pub(crate) fn exp_f32(x: f32) -> f32 {
    let clamped = if x > 88.72 { 88.72 } else { x };
    let (mantissa, n) = exp_parts::<false>(if clamped < LEAST { LEAST } else { clamped });
    // 2^n in two factors, since n reaches 128.
    let low = n >> 1;
    let scaled = mantissa * power_of_two(low) * power_of_two(n - low);
    let flushed = if x < LEAST { 0.0 } else { scaled };
    if x > 88.72 { f32::INFINITY } else { flushed }
}

/// [`exp_f32`] of `x` up to 80, bit for bit where nothing is `FUSED`: what softmax takes, whose arguments are 0 or below.
#[inline(always)]
pub(crate) fn exp_negative_f32<const FUSED: bool>(x: f32) -> f32 {
    // Below LEAST the parts may be anything.
    let (mantissa, n) = exp_parts::<FUSED>(x);
    let scaled = mantissa * power_of_two(n);
    if x < LEAST { 0.0 } else { scaled }
}

/// [`exp_negative_f32`] of `x - shift`, for each `x` of a row, in its place. In two passes: within one, an exponential is a
/// chain of instructions that wait for each other, so long that the processor has but a few of them in view at a time.
#[inline(always)]
pub(crate) fn exp_row_f32<const FUSED: bool, const N: usize>(row: &mut [f32; N], shift: f32) {
    let mut powers = [0.0; N];
    for (x, power) in row.iter_mut().zip(&mut powers) {
        let below = *x - shift;
        let (rest, n) = exp_reduce::<FUSED>(if below < LEAST { NONE } else { below });
        (*x, *power) = (rest, power_of_two(n));
    }
    for (x, power) in row.iter_mut().zip(&powers) {
        *x = exp_polynomial::<FUSED>(*x) * *power;
    }
}

/// Where `e^x` becomes denormal.
const LEAST: f32 = -87.33;
/// Whose power of two is the one that [`power_of_two`] has no bits for.
const NONE: f32 = -88.0;

/// `2^n` for `n` in -126..=127, 0 for -127, and some number for any other.
#[inline(always)]
fn power_of_two(n: i32) -> f32 {
    f32::from_bits((n.wrapping_add(127) as u32) << 23)
}

/// `e^x` as a number around 1 and a power of two.
#[inline(always)]
fn exp_parts<const FUSED: bool>(x: f32) -> (f32, i32) {
    let (rest, n) = exp_reduce::<FUSED>(x);
    (exp_polynomial::<FUSED>(rest), n)
}

/// The `r` and `n` of `x = n ln 2 + r` with `|r| <= ln 2 / 2`.
#[inline(always)]
fn exp_reduce<const FUSED: bool>(x: f32) -> (f32, i32) {
    // 1.5 * 2^23 + 127: adding it rounds to an integer, and leaves the exponent of 2^n in the low bits.
    const ROUND: f32 = 12_583_039.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let shifted = Real::mul_add::<FUSED>(x, std::f32::consts::LOG2_E, ROUND);
    let n = shifted - ROUND;
    let r = Real::mul_add::<FUSED>(n, -LN2_LOW, Real::mul_add::<FUSED>(n, -LN2_HIGH, x));
    (r, shifted.to_bits().wrapping_sub(ROUND.to_bits()) as i32)
}

/// The polynomial in `r`, `|r| <= ln 2 / 2`, that is closest to `e^r` relative to it among those of degree 6 that begin with
/// `1 + r` (3.1e-9, by Remez' algorithm).
#[inline(always)]
fn exp_polynomial<const FUSED: bool>(r: f32) -> f32 {
    const COEFFICIENTS: [f32; 6] = [8.368_745e-3, 4.166_839e-2, 1.666_652_1e-1, 4.999_999_4e-1, 1.0, 1.0];
    COEFFICIENTS.iter().fold(1.381_454e-3, |sum, coefficient| Real::mul_add::<FUSED>(sum, r, *coefficient))
}

/// Up to what `|x|` [`sin_cos`] is exact: 2^32 quarter turns.
pub(crate) const MOST_TURNED: f64 = 6.7e9;

/// Sine and cosine of `x` up to [`MOST_TURNED`], with absolute errors below 3e-16.
#[inline(always)]
pub(crate) fn sin_cos(x: f64) -> (f64, f64) {
    // 1.5 * 2^52: adding it rounds to an integer, and leaves that in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    // Pi / 2: pieces of 21 bits, whose products with an integer of 32 bits are exact, and the rest (Cody and Waite 1980).
    const QUARTER: [f64; 4] = [
        1.570_796_012_878_418,
        3.139_164_164_167_596e-7,
        6.223_369_259_164_557e-14,
        2.912_732_056_093_356e-20,
    ];
    let shifted = x * std::f64::consts::FRAC_2_PI + ROUND;
    let (turns, quadrant) = (shifted - ROUND, shifted.to_bits());
    let r = QUARTER.iter().fold(x, |r, piece| r - turns * piece);
    let z = r * r;
    let series = |terms: [f64; TERMS]| terms.iter().fold(0.0, |sum, term| sum * z + term);
    let sin = r + r * z * series(const { taylor(3, -1.0) });
    let cos = 1.0 - (0.5 * z - z * z * series(const { taylor(4, 1.0) }));
    let (a, b) = if quadrant & 1 == 0 { (sin, cos) } else { (cos, sin) };
    let signed = |x: f64, turned: u64| f64::from_bits(x.to_bits() ^ ((turned & 2) << 62));
    (signed(a, quadrant), signed(b, quadrant.wrapping_add(1)))
}

/// So many that the first one left out is below 1e-19 for angles up to pi / 4.
const TERMS: usize = 8;

/// Taylor's coefficients of sine or cosine from that of the power `first` on, the last one first: `sign / first!`,
/// `-sign / (first + 2)!`, ...
const fn taylor(first: u32, mut sign: f64) -> [f64; TERMS] {
    let mut terms = [0.0; TERMS];
    let (mut power, mut factorial, mut term) = (1, 1.0, TERMS);
    while term > 0 {
        factorial *= power as f64;
        if power >= first && (power - first).is_multiple_of(2) {
            term -= 1;
            terms[term] = sign / factorial;
            sign = -sign;
        }
        power += 1;
    }
    terms
}

/// The error function, with an absolute error below 5e-7 (Abramowitz and Stegun 1964, 7.1.26).
#[inline(always)]
pub(crate) fn erf_f32(x: f32) -> f32 {
    let magnitude = x.abs();
    let t = 1.0 / (1.0 + 0.327_591_1 * magnitude);
    let mut p = 1.061_405_4;
    p = p * t - 1.453_152;
    p = p * t + 1.421_413_8;
    p = p * t - 0.284_496_74;
    p = p * t + 0.254_829_6;
    (1.0 - p * t * exp_f32(-magnitude * magnitude)).copysign(x)
}

/// The error function (Abramowitz and Stegun 1964, 7.1.6), a sum of positive terms, for gradient checks.
pub(crate) fn erf_f64(x: f64) -> f64 {
    if x.is_nan() || x.abs() > 6.0 {
        return if x.is_nan() { x } else { x.signum() };
    }
    let mut term = x;
    let mut sum = x;
    let mut n = 0.0;
    while term.abs() > 1e-17 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_within_two_units_in_the_last_place() {
        for i in -87_300..88_700 {
            let x = i as f32 * 1e-3;
            let exact = f64::from(x).exp();
            let unit = f64::from((exact as f32).next_up()) - f64::from(exact as f32);
            assert!(
                (f64::from(exp_f32(x)) - exact).abs() <= 2.0 * unit,
                "exp({x}) = {}, not {exact}",
                exp_f32(x)
            );
        }
    }

    #[test]
    fn exp_of_what_is_not_above_0_is_exp() {
        for i in -100_000..1000 {
            let x = i as f32 * 1e-3;
            assert_eq!(exp_negative_f32::<false>(x), exp_f32(x), "exp({x})");
            let (fused, unit) = (exp_negative_f32::<true>(x), exp_f32(x).next_up() - exp_f32(x));
            assert!((fused - exp_f32(x)).abs() <= 2.0 * unit, "exp({x}) = {fused}, not {}", exp_f32(x));
        }
        for exp in [exp_negative_f32::<false>, exp_negative_f32::<true>] {
            assert_eq!([exp(0.0), exp(-87.4), exp(-1e30), exp(f32::NEG_INFINITY)], [1.0, 0.0, 0.0, 0.0]);
            assert!(exp(f32::NAN).is_nan());
        }
    }

    #[test]
    fn exp_of_a_row_is_exp_of_each_less_the_shift() {
        let special = [f32::NEG_INFINITY, f32::NAN, -1e30, -87.4, -87.33, -87.32, 0.0, 80.0];
        let values: Vec<f32> = (0..96_000).map(|i| i as f32 * -1e-3).chain(special).collect();
        for chunk in values.as_chunks::<8>().0 {
            for shift in [0.0, 1.5] {
                let expected = chunk.map(|x| exp_negative_f32::<false>(x - shift).to_bits());
                let mut row = *chunk;
                exp_row_f32::<false, 8>(&mut row, shift);
                assert_eq!(row.map(f32::to_bits), expected, "{chunk:?} - {shift}");
            }
        }
    }

    #[test]
    fn exp_has_the_limits_of_exp() {
        assert_eq!([exp_f32(f32::NEG_INFINITY), exp_f32(-1000.0), exp_f32(-87.4)], [0.0; 3]);
        assert_eq!([exp_f32(f32::INFINITY), exp_f32(89.0)], [f32::INFINITY; 2]);
        assert_eq!(exp_f32(0.0), 1.0);
        assert!(exp_f32(f32::NAN).is_nan());
    }

    #[test]
    fn sine_and_cosine_are_precise_at_every_angle() {
        let near_0 = (-200_000..200_000).map(|i| f64::from(i) * 1.1e-4);
        let far = (0..200_000).map(|i| f64::from(i) * MOST_TURNED / 2e5);
        let quarters = (0..40_000).map(|i| f64::from(i) * 107_373.0 * std::f64::consts::FRAC_PI_2);
        for x in near_0.chain(far).chain(quarters).chain([MOST_TURNED, 1e-300, 0.0]) {
            for x in [x, -x] {
                let (sin, cos) = sin_cos(x);
                assert!((sin - x.sin()).abs() < 3e-16, "sin({x}) = {sin}, not {}", x.sin());
                assert!((cos - x.cos()).abs() < 3e-16, "cos({x}) = {cos}, not {}", x.cos());
            }
        }
    }

    #[test]
    fn erf_is_precise() {
        for i in -700..=700 {
            let x = f64::from(i) * 0.01;
            let exact = longhand_reference::erf(x);
            assert!((erf_f64(x) - exact).abs() < 1e-14, "erf({x}) = {}, not {exact}", erf_f64(x));
            assert!((f64::from(erf_f32(x as f32)) - exact).abs() < 5e-7, "erf({x}) = {}", erf_f32(x as f32));
        }
        assert!(erf_f32(f32::NAN).is_nan() && erf_f64(f64::NAN).is_nan());
    }
}

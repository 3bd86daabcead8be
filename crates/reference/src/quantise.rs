//! Elements of 8 bits.

/// The value of a code of e4m3: a sign, 4 bits of exponent with a bias of 7, 3 of mantissa (OCP 8-bit Floating Point
/// Specification, table 1). No infinities; all ones are a NaN.
#[must_use]
pub fn e4m3(code: u8) -> f64 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f64::from(code & 7));
    let size = match (exponent, code & 7) {
        (15, 7) => f64::NAN,
        (0, _) => mantissa / 8.0 * 2f64.powi(-6),
        _ => (1.0 + mantissa / 8.0) * 2f64.powi(exponent - 7),
    };
    if code & 0x80 == 0 { size } else { -size }
}

/// The nearest e4m3 to a finite number, ties to an even code; beyond 448, 448.
#[must_use]
pub fn to_e4m3(x: f64) -> u8 {
    // Sizes grow with their codes: of two that are as near, the even one.
    let distance = |code: u8| (e4m3(code) - x.abs()).abs();
    let nearest = (0..0x7f).min_by(|&a, &b| distance(a).total_cmp(&distance(b)).then((a & 1).cmp(&(b & 1))));
    nearest.unwrap_or(0) | if x.is_sign_negative() { 0x80 } else { 0 }
}

/// The nearest whole number, ties to even.
#[must_use]
pub fn to_int8(x: f64) -> i8 {
    x.round_ties_even() as i8
}

//! What the arithmetic is held against: integers of thousands of bits.

mod approx;
mod convert;
mod exact;
mod float32;
mod float64;
mod half;
mod int;
mod small;

use super::Round;
use super::small::Format;
use proptest::prelude::*;

fn round() -> impl Strategy<Value = Round> {
    prop_oneof![Just(Round::Rn), Just(Round::Rz), Just(Round::Rm), Just(Round::Rp)]
}

fn half_format() -> impl Strategy<Value = Format> {
    prop_oneof![Just(super::small::F16), Just(super::small::BF16)]
}

/// Any single-precision bits: uniform ones, the borders between the kinds of numbers, and numbers of few bits near 1,
/// whose sums and products meet ties and cancel.
fn any_f32() -> impl Strategy<Value = f32> {
    let borders = prop::sample::select(vec![
        0,
        1,
        0x7f_ffff,
        0x80_0000,
        0x3f80_0000,
        0x7f7f_ffff,
        0x7f80_0000,
        0x7fc0_0000,
    ]);
    let near_border = (borders, -3..4_i32, any::<bool>()).prop_map(|(bits, step, negative)| {
        ((bits as u32).wrapping_add_signed(step)) ^ (u32::from(negative) << 31)
    });
    let short = (any::<u32>(), 100..150_u32).prop_map(|(x, e)| (x & 0x807f_f000) | e << 23);
    let long = (any::<u32>(), 110..140_u32).prop_map(|(x, e)| (x & 0x807f_ffff) | e << 23);
    prop_oneof![any::<u32>(), near_border, short, long].prop_map(f32::from_bits)
}

/// Any double-precision bits, drawn as those of [`any_f32`] are.
fn any_f64() -> impl Strategy<Value = f64> {
    let borders: Vec<u64> =
        vec![0, 1, 0xf_ffff_ffff_ffff, 1 << 52, 0x3ff << 52, 0x7fef_ffff_ffff_ffff, 0x7ff << 52];
    let near_border = (prop::sample::select(borders), -3..4_i64, any::<bool>())
        .prop_map(|(bits, step, negative)| bits.wrapping_add_signed(step) ^ (u64::from(negative) << 63));
    let short = (any::<u64>(), 1000..1050_u64).prop_map(|(x, e)| (x & 0x800f_ffff_0000_0000) | e << 52);
    let long = (any::<u64>(), 960..1080_u64).prop_map(|(x, e)| (x & 0x800f_ffff_ffff_ffff) | e << 52);
    let tiny = (any::<u64>(), 480..540_u64).prop_map(|(x, e)| (x & 0x800f_ffff_ffff_ffff) | e << 52);
    prop_oneof![any::<u64>(), near_border, short, long, tiny].prop_map(f64::from_bits)
}

/// [`any_f32`] without infinities and NaN.
fn finite_f32() -> impl Strategy<Value = f32> {
    any_f32().prop_map(|x| if x.is_finite() { x } else { f32::from_bits(x.to_bits() ^ 1 << 30) })
}

/// [`any_f64`] without infinities and NaN.
fn finite_f64() -> impl Strategy<Value = f64> {
    any_f64().prop_map(|x| if x.is_finite() { x } else { f64::from_bits(x.to_bits() ^ 1 << 62) })
}

/// [`finite_f64`] without zeros.
fn nonzero_f64() -> impl Strategy<Value = f64> {
    finite_f64().prop_map(|x| if x == 0.0 { 3.0 } else { x })
}

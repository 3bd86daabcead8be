//! Reductions in global memory.

use std::cmp::Ordering;

use super::*;

/// Numbers that are no NaN in any type, subnormal ones among them, as words of so many bytes.
fn numbers(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let mut next = move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        state >> 16
    };
    (0..1024 / bytes)
        .flat_map(|i| {
            let value = next() as u8;
            let mut word: Vec<u8> = (0..bytes).map(|_| next() as u8).collect();
            // The exponent is never that of infinity; each third number is subnormal.
            word[bytes - 1] = if i % 3 == 0 { value & 0x80 } else { value & 0xBF };
            if i % 3 == 0 && bytes >= 2 {
                word[bytes - 2] &= 0x03;
            }
            word
        })
        .collect()
}

fn reduce(name: &str, bytes: usize) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let (new, old) = (numbers(bytes, 1), numbers(bytes, 2));
    let policy = if bytes == 4 { (".L2::cache_hint", ", %policy") } else { ("", "") };
    let load =
        "@%q cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [buffer], [%in], 1024, [bar];";
    let body = format!(
        "{} {load} {WAIT} @%q cp.reduce.async.bulk.global.shared::cta.bulk_group{}.{name} [%out], [buffer], 1024{};
        {COMMIT} {DONE}",
        expect(1024),
        policy.0,
        policy.1
    );
    let (out, _) = launch_with(&body, ONE, &new, &old).unwrap_or_else(|fault| panic!("{name}: {fault}"));
    (old, new, out)
}

macro_rules! check {
    ($name:literal, $ty:ty, $f:expr) => {{
        const BYTES: usize = size_of::<$ty>();
        let (old, new, out) = reduce($name, BYTES);
        let f: fn($ty, $ty) -> $ty = $f;
        let word = |data: &[u8], i: usize| <$ty>::from_le_bytes(data[i..i + BYTES].try_into().unwrap());
        for i in (0..1024).step_by(BYTES) {
            let expected = f(word(&old, i), word(&new, i));
            assert_eq!(out[i..i + BYTES], expected.to_le_bytes(), "{} at {i}", $name);
        }
    }};
}

#[test]
fn reductions_in_global_memory_are_those_of_their_names() {
    check!("add.u32", u32, u32::wrapping_add);
    check!("add.s32", u32, u32::wrapping_add);
    check!("add.u64", u64, u64::wrapping_add);
    check!("min.u32", u32, u32::min);
    check!("max.u32", u32, u32::max);
    check!("min.s32", i32, i32::min);
    check!("max.s32", i32, i32::max);
    check!("min.u64", u64, u64::min);
    check!("max.u64", u64, u64::max);
    check!("min.s64", i64, i64::min);
    check!("max.s64", i64, i64::max);
    check!("inc.u32", u32, |a, b| if a >= b { 0 } else { a + 1 });
    check!("dec.u32", u32, |a, b| if a == 0 || a > b { b } else { a - 1 });
    check!("and.b32", u32, |a, b| a & b);
    check!("or.b32", u32, |a, b| a | b);
    check!("xor.b32", u32, |a, b| a ^ b);
    check!("and.b64", u64, |a, b| a & b);
    check!("or.b64", u64, |a, b| a | b);
    check!("xor.b64", u64, |a, b| a ^ b);
    check!("add.f64", f64, |a, b| a + b);
    check!("add.f32", f32, |a, b| {
        let flush = |x: f32| if x.is_subnormal() { 0f32.copysign(x) } else { x };
        flush(flush(a) + flush(b))
    });
}

#[test]
fn reductions_of_halves_keep_subnormal_numbers() {
    use half::{bf16, f16};
    check!("add.noftz.f16", u16, |a, b| {
        f16::from_f64(f16::from_bits(a).to_f64() + f16::from_bits(b).to_f64()).to_bits()
    });
    check!("add.noftz.bf16", u16, |a, b| {
        bf16::from_f64(bf16::from_bits(a).to_f64() + bf16::from_bits(b).to_f64()).to_bits()
    });
    for_halves("f16", |bits| f16::from_bits(bits).to_f64());
    for_halves("bf16", |bits| bf16::from_bits(bits).to_f64());
}

/// The smaller and the larger of each two, where -0 is below 0.
fn for_halves(ty: &str, value: fn(u16) -> f64) {
    for (operation, wanted) in [("min", Ordering::Less), ("max", Ordering::Greater)] {
        let (old, new, out) = reduce(&format!("{operation}.{ty}"), 2);
        for i in (0..1024).step_by(2) {
            let word = |data: &[u8]| u16::from_le_bytes([data[i], data[i + 1]]);
            let (a, b) = (word(&old), word(&new));
            let expected = if value(b).total_cmp(&value(a)) == wanted { b } else { a };
            assert_eq!(word(&out), expected, "{operation}.{ty} at {i}");
        }
    }
}

#[test]
fn reductions_of_several_blocks_add_up() {
    let body = format!(
        "st.shared.u32 [%to], %t; {FENCE}
        @%q cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%out], [buffer], 256; {COMMIT} {DONE}"
    );
    for cluster in [1, 4] {
        let (out, _) = launch_with(&body, Setup { cluster, ..ONE }, &[], &[0; 256]).unwrap();
        assert!((0..64).all(|t| out[4 * t..4 * t + 4] == (cluster * t as u32).to_le_bytes()));
    }
}

#[test]
fn a_reduction_of_what_nobody_wrote_is_found() {
    let body = format!(
        "st.shared.u32 [%to], %t; {FENCE}
        @%q cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [%out], [buffer], 256; {COMMIT} {DONE}"
    );
    let problem = launch_with(&body, ONE, &[], &[0; 252]).unwrap_err().problem;
    assert!(matches!(problem, Problem::Uninitialised { .. }), "{problem}");
}

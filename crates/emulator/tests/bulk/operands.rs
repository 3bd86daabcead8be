//! Whatever the operands are, a launch ends: with a result, or with a fault.

use longhand_emulator::Checks;
use longhand_emulator::tensor::tma::{Mode, TensorMap};
use proptest::prelude::*;

use super::tensor_kernel::{EXPECT, Given, plain};

/// Numbers near the ends of what they may be, and any others.
fn numbers() -> impl Strategy<Value = u64> {
    let edges = prop::sample::select(vec![
        0,
        1 << 24,
        1 << 31,
        1 << 32,
        0x0100_0000_0000,
        0x1000_0000_0000,
        u64::MAX,
    ]);
    prop_oneof![
        any::<u64>(),
        (edges, 0..64u64).prop_map(|(edge, add)| edge.wrapping_add(16 * add).wrapping_sub(512))
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn copies_of_bytes_end(a in numbers(), b in numbers(), size in numbers(), mbarrier in numbers(), good in 0..16u32) {
        // Some of the operands are right, so that the others come to be used.
        let set = |bit: u32, right: &str, wrong: u64| match good >> bit & 1 {
            1 => right.to_owned(),
            _ => (wrong as i64).to_string(),
        };
        let global = format!("mov.b64 %rd1, {};", set(0, "%in", a));
        let shared = format!("mov.b32 %r1, {};", set(1, "tile", b & 0xFFFF_FFFF));
        let bytes = format!("mov.b32 %r2, {};", set(2, "64", size & 0xFFFF_FFFF));
        let barrier = format!("mov.b32 %r3, {};", set(3, "bar", mbarrier & 0xFFFF_FFFF));
        let given = Given::new(plain());
        for copy in [
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r1], [%rd1], %r2, [%r3];",
            "cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes.ignore_oob [%r1], [%rd1], %r2, 15, %r2, [%r3];",
            "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r1], [%rd1], %r2, [%r3], %r2;",
            "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes [%r1], [%r2], %r2, [%r3];",
            "cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.u64 [%r1], [%r2], %r2, [%r3];",
            "cp.async.bulk.global.shared::cta.bulk_group.cp_mask [%rd1], [%r1], %r2, %r3;",
            "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.f32 [%rd1], [%r1], %r2;",
            "cp.async.bulk.prefetch.L2.global [%rd1], %r2;",
        ] {
            // Which of the two it is depends on the operands.
            let _ = given.launch(&format!("{EXPECT} {global} {shared} {bytes} {barrier} @%q {copy}"), false);
        }
    }

    #[test]
    fn copies_of_tensors_end(at in prop::array::uniform5(any::<i32>()), address in numbers(), dims in prop::array::uniform4(1..=1u64 << 32), stride in 0..1u64 << 36, reach in 1..=256u16, pixels in 1..=1024u16, tiled: bool) {
        let mode = if tiled {
            Mode::Tiled { box_dims: vec![8, reach, 1, 2] }
        } else {
            Mode::Im2col { lower: vec![-128, -3], upper: vec![127, 2], channels: 8, pixels }
        };
        let map = TensorMap {
            address: (address & 0x7FFF_FFFF_FFFF) & !15,
            dims: dims.to_vec(),
            strides: vec![16 * stride; 3],
            mode,
            element_strides: vec![1, 8, 1, 2],
            ..plain()
        };
        let given = Given { at, checks: Checks::ALL, ..Given::new(map) };
        for copy in [
            "cp.async.bulk.tensor.4d.shared::cta.global.mbarrier::complete_tx::bytes [tile], [%map, {%c0, %c1, %c2, %c3}], [bar];",
            "cp.async.bulk.tensor.4d.shared::cta.global.im2col.mbarrier::complete_tx::bytes [tile], [%map, {%c0, -1, -1, %c3}], [bar], {%o0, %o1};",
            "cp.async.bulk.tensor.4d.global.shared::cta.bulk_group [%map, {%c0, %c1, %c2, %c3}], [tile];",
        ] {
            let _ = given.launch(&format!("{EXPECT} @%q {copy}"), false);
        }
    }
}

//! Copies from shared to global memory.

use super::*;

#[test]
fn what_is_copied_is_there_after_the_wait() {
    let body = format!(
        "{FILL} {FENCE} {} {COMMIT} {DONE} @%q ld.global.u32 %r1, [%out+64]; @%q st.global.u32 [%out+4096], %r1;",
        store(1024)
    );
    let out = run(&body);
    assert!((0..1024).all(|i| out[i] == input(i)));
    assert!((1024..4096).all(|i| out[i] == BEFORE));
    assert!((0..4).all(|i| out[4096 + i] == input(64 + i)));
}

#[test]
fn hints_change_nothing() {
    let store =
        "@%q cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%out], [buffer], 64, %policy;";
    let out = run(&format!("{FILL} {FENCE} {store} {COMMIT} {DONE}"));
    assert!((0..64).all(|i| out[i] == input(i)) && out[64] == BEFORE);
}

#[test]
fn reading_what_is_written_before_the_wait_is_found() {
    let read = "ld.global.u32 %r1, [%out+64];";
    for wait in ["", "@%q cp.async.bulk.wait_group.read 0;", "@%q cp.async.bulk.wait_group 1;"] {
        let body = format!("{FILL} {FENCE} {} {COMMIT} {wait} @%q {read} {DONE}", store(1024));
        let checks = Checks { race: false, ..Checks::ALL };
        let problem = problem(&body, Setup { checks, ..ONE });
        assert!(matches!(problem, Problem::Uninitialised { .. }), "{problem}");
    }
    run(&format!("{FILL} {FENCE} {} {COMMIT} {DONE} @%q {read}", store(1024)));
}

#[test]
fn unchecked_memory_holds_poison_until_the_wait() {
    let read = "@%q ld.global.u32 %r1, [%out+64]; @%q st.global.u32 [%out+4096], %r1;";
    let body = format!("{FILL} {FENCE} {} {COMMIT} {read} {DONE}", store(1024));
    let out = launch(&body, UNCHECKED).unwrap().0;
    assert_eq!(out[4096..4100], [0xFF; 4]);
    assert!((0..1024).all(|i| out[i] == input(i)));
}

#[test]
fn overwriting_the_source_before_the_wait_is_found() {
    let again = "@%q st.shared.u32 [buffer+1020], %t;";
    let issue = format!("{FILL} {FENCE} {} {COMMIT}", store(1024));
    let what = fault(&format!("{issue} {again} {DONE}"));
    assert!(what.contains("may still read"), "{what}");
    for wait in ["cp.async.bulk.wait_group.read 0;", "cp.async.bulk.wait_group 0;"] {
        let out = run(&format!("{issue} @%q {wait} {again} {DONE}"));
        assert!((0..1024).all(|i| out[i] == input(i)));
    }
}

#[test]
fn a_missing_proxy_fence_is_found() {
    let what = fault(&format!("{FILL} bar.sync 0; {} {COMMIT} {DONE}", store(1024)));
    assert!(what.contains("without fence.proxy.async since"), "{what}");
    run(&format!("{FILL} fence.proxy.async; bar.sync 0; {} {COMMIT} {DONE}", store(1024)));
    run(&format!("{FILL} bar.sync 0; @%q fence.proxy.async; {} {COMMIT} {DONE}", store(1024)));
}

#[test]
fn what_a_copy_brought_may_leave_without_a_fence() {
    let load =
        "@%q cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [buffer], [%in], 256, [bar];";
    let out = run(&format!("{} {load} {WAIT} {} {COMMIT} {DONE}", expect(256), store(256)));
    assert!((0..256).all(|i| out[i] == input(i)));
    let what = fault(&format!("{} {load} {} {COMMIT} {WAIT} {DONE}", expect(256), store(256)));
    assert!(what.contains("by a bulk copy, that an asynchronous copy has not finished writing"), "{what}");
}

#[test]
fn shared_bytes_that_nobody_wrote_are_found() {
    let body = |bytes| format!("st.shared.u32 [%to], %t; {FENCE} {} {COMMIT} {DONE}", store(bytes));
    run(&body(256));
    let problem = problem(&body(272), ONE);
    assert!(matches!(problem, Problem::Uninitialised { .. }), "{problem}");
}

#[test]
fn each_lane_waits_for_its_own_groups_the_oldest_first() {
    let store = |group: u32| {
        format!(
            "@%q cp.async.bulk.global.shared::cta.bulk_group [%out+{0}], [buffer+{0}], 256; {COMMIT}",
            256 * group
        )
    };
    let issue = format!("{FILL} {FENCE} {} {} {}", store(0), store(1), store(2));
    let write = |group: u32| format!("@%q st.shared.u32 [buffer+{}], %t;", 256 * group);
    let one = "@%q cp.async.bulk.wait_group.read 1;";
    run(&format!("{issue} {one} {} {} {DONE}", write(0), write(1)));
    fault(&format!("{issue} {one} {} {DONE}", write(2)));
    fault(&format!("{issue} @!%q cp.async.bulk.wait_group.read 0; bar.sync 0; {} {DONE}", write(0)));
}

#[test]
fn a_lane_that_waits_for_its_own_groups_waits_for_no_other_lane() {
    let issue = format!("{FILL} {FENCE} {} cp.async.bulk.commit_group;", store(256));
    let write = "bar.sync 0; @%q st.shared.u32 [buffer], %t;";
    fault(&format!("{issue} @!%q cp.async.bulk.wait_group.read 0; {write} {DONE}"));
    run(&format!("{issue} cp.async.bulk.wait_group.read 0; {write} {DONE}"));
}

#[test]
fn what_was_not_committed_is_not_waited_for() {
    let write = "@%q st.shared.u32 [buffer], %t;";
    let wait = "@%q cp.async.bulk.wait_group.read 0;";
    fault(&format!("{FILL} {FENCE} {} {wait} {write} {COMMIT} {DONE}", store(64)));
    run(&format!("{FILL} {FENCE} {} {COMMIT} {wait} {write} {DONE}", store(64)));
}

#[test]
fn what_was_read_and_not_waited_for_is_written_when_the_block_ends() {
    let issue = format!("{FILL} {FENCE} {} {COMMIT}", store(1024));
    let out = run(&format!("{issue} @%q cp.async.bulk.wait_group.read 0;"));
    assert!((0..1024).all(|i| out[i] == input(i)));
}

#[test]
fn a_block_that_ends_before_its_memory_was_read_is_found() {
    for committed in [COMMIT, ""] {
        let what = fault(&format!("{FILL} {FENCE} {} {committed}", store(1024)));
        assert!(what.contains("cp.async.bulk.wait_group.read is missing"), "{what}");
    }
}

#[test]
fn a_mask_tells_which_bytes_of_each_16_are_written() {
    let mask = 0b1000_0000_1111_0001_u32;
    let body = format!(
        "mov.b16 %h1, {mask}; @%q cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint.cp_mask [%out], [buffer], 64, %policy, %h1;"
    );
    let out = run(&format!("{FILL} {FENCE} {body} {COMMIT} {DONE}"));
    let expected = |i| if i < 64 && mask >> (i % 16) & 1 == 1 { input(i) } else { BEFORE };
    assert!((0..96).all(|i| out[i] == expected(i)));
}

#[test]
fn addresses_and_sizes_are_checked() {
    let store = |to: &str, from: &str, bytes: &str| {
        let copy = format!("@%q cp.async.bulk.global.shared::cta.bulk_group [{to}], [{from}], {bytes};");
        problem(&format!("{FILL} {FENCE} {copy}"), ONE)
    };
    let misaligned = |problem| matches!(problem, Problem::Misaligned { align: 16, .. });
    assert!(misaligned(store("%out+4", "buffer", "64")));
    assert!(misaligned(store("%out", "buffer+4", "64")));
    assert!(matches!(store("%out", "buffer", "56"), Problem::Illegal(_)));
    assert!(matches!(store("%out+16368", "buffer", "32"), Problem::OutOfBounds { .. }));
    assert!(matches!(store("%out", "buffer+17408", "64"), Problem::OutOfBounds { .. }));
}

#[test]
fn bytes_and_sectors_are_counted() {
    let body = |store: &str| format!("st.shared.u32 [%to], %t; {FENCE} {store} {COMMIT} {DONE}");
    let (_, report) = launch(&body(&store(192)), ONE).unwrap();
    let total = report.total;
    assert_eq!((total.global_bytes, total.global_sectors, total.bulk_bytes), (192, 6, 192));
    assert_eq!((report.global_unique_bytes_read, report.global_unique_bytes_written), (0, 192));
}

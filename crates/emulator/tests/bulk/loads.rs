//! Copies from global to shared memory.

use super::*;

const LOAD: &str =
    "@%q cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [buffer], [%in+64], 256, [bar];";

#[test]
fn what_is_copied_is_there_after_the_wait() {
    for form in [
        LOAD,
        "@%q cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%buffer], [%in+64], 256, [%bar];",
        "@%q cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [buffer], [%in+64], 256, [bar], %policy;",
    ] {
        let out = run(&format!("{} {form} {WAIT} {SHOW}", expect(256)));
        assert!((0..256).all(|i| out[i] == input(64 + i)), "{form}");
    }
}

#[test]
fn several_copies_of_any_size_land_in_one_phase() {
    let copy = |to: u32, from: u32, bytes: u32| {
        format!(
            "@%q cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [buffer+{to}], [%in+{from}], {bytes}, [bar];"
        )
    };
    let body = [copy(0, 160, 16), copy(16, 0, 0), copy(16, 4096, 128), copy(144, 16, 112)].concat();
    let out = run(&format!("{} {body} {WAIT} {SHOW}", expect(256)));
    let expected = |i| match i {
        0..16 => input(160 + i),
        16..144 => input(4096 + i - 16),
        _ => input(16 + i - 144),
    };
    assert!((0..256).all(|i| out[i] == expected(i)));
}

#[test]
fn reading_before_the_wait_is_found() {
    let what = fault(&format!("{} {LOAD} bar.sync 0; {SHOW} {WAIT}", expect(256)));
    assert!(what.contains("has not finished writing"), "{what}");
}

#[test]
fn unchecked_memory_holds_poison_until_the_wait() {
    let body = format!("{} {LOAD} bar.sync 0; {SHOW} bar.sync 0; {WAIT}", expect(256));
    assert_eq!(launch(&body, UNCHECKED).unwrap().0[..256], [0xFF; 256]);
}

#[test]
fn a_copy_to_what_another_writes_reads_or_signals_is_found() {
    let other = "@%q cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [buffer+240], [%in], 16, [bar];";
    let what = fault(&format!("{} {LOAD} {other}", expect(272)));
    assert!(what.contains("has not finished writing"), "{what}");
    let what = fault(&format!("{FILL} {FENCE} {} {COMMIT} {} {LOAD}", store(64), expect(256)));
    assert!(what.contains("may still read"), "{what}");
    let read = "@%q cp.async.bulk.wait_group.read 0;";
    run(&format!("{FILL} {FENCE} {} {COMMIT} {read} {} {LOAD} {WAIT}", store(64), expect(256)));
    let onto =
        "@%q cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [bar], [%in], 16, [bar];";
    assert!(fault(&format!("{} {onto}", expect(16))).contains("belong to an mbarrier"));
}

#[test]
fn bytes_that_the_phase_does_not_expect_are_found() {
    let what = fault(&format!("{} {LOAD} {WAIT}", expect(240)));
    assert!(what.contains("16 bytes more were copied than phase 0 expects"), "{what}");
    let problem = problem(&format!("{} {LOAD} {WAIT}", expect(272)), ONE);
    assert!(matches!(problem, Problem::Deadlock(_)), "{problem}");
}

#[test]
fn a_barrier_that_is_not_initialised_is_found() {
    assert!(fault(LOAD).contains("is not initialised"));
}

#[test]
fn a_block_that_ends_before_its_data_came_is_found() {
    let what = fault(&format!("{} {LOAD}", expect(256)));
    assert!(what.contains("256 bytes are in flight"), "{what}");
    run(&format!("{} {LOAD} {WAIT}", expect(256)));
}

#[test]
fn addresses_and_sizes_are_checked() {
    let load = |to: &str, from: &str, bytes: &str, bar: &str| {
        let copy = format!(
            "@%q cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [{to}], [{from}], {bytes}, [{bar}];"
        );
        problem(&format!("{} {copy}", expect(256)), ONE)
    };
    let misaligned = |problem| matches!(problem, Problem::Misaligned { align: 16, .. });
    assert!(misaligned(load("buffer+8", "%in", "256", "bar")));
    assert!(misaligned(load("buffer", "%in+8", "256", "bar")));
    assert!(matches!(load("buffer", "%in", "256", "bar+4"), Problem::Misaligned { align: 8, .. }));
    assert!(matches!(load("buffer", "%in", "250", "bar"), Problem::Illegal(_)));
    assert!(matches!(load("buffer", "%in+16224", "256", "bar"), Problem::OutOfBounds { .. }));
    assert!(matches!(load("buffer+16288", "%in", "256", "bar"), Problem::OutOfBounds { .. }));
    assert!(matches!(load("buffer", "-16", "256", "bar"), Problem::OutOfBounds { .. }));
    assert!(matches!(load("buffer", "%buffer", "256", "bar"), Problem::OutOfBounds { .. }));
}

#[test]
fn global_bytes_that_nobody_wrote_are_found() {
    let data = vec![0; 200];
    let copy = |bytes| {
        let copy = format!(
            "@%q cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [buffer], [%in], {bytes}, [bar];"
        );
        launch_with(&format!("{} {copy} {WAIT}", expect(bytes)), ONE, &data, &[])
    };
    copy(192).unwrap();
    let problem = copy(208).unwrap_err().problem;
    assert!(matches!(problem, Problem::Uninitialised { .. }), "{problem}");
}

#[test]
fn bytes_out_of_bounds_that_are_ignored_are_not_known() {
    let copy = |from: &str, left: u32, right: u32| {
        format!(
            "@%q cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes.ignore_oob [buffer], [{from}], 256, {left}, {right}, [bar];"
        )
    };
    let body = |copy: &str| format!("{} {copy} {WAIT} {SHOW}", expect(256));
    let out = run(&body(&copy("%in", 3, 5)));
    let expected = |i| if (3..251).contains(&i) { input(i) } else { 0xFF };
    assert!((0..256).all(|i| out[i] == expected(i)));
    let data = vec![7; 251];
    launch_with(&body(&copy("%in", 0, 5)), ONE, &data, &[]).unwrap();
    launch_with(&body(&copy("%in", 0, 4)), ONE, &data, &[]).unwrap_err();
    assert!(matches!(problem(&body(&copy("%in", 16, 0)), ONE), Problem::Illegal(_)));
}

#[test]
fn bytes_and_sectors_are_counted() {
    let (_, report) = launch(&format!("{} {LOAD} {WAIT}", expect(256)), ONE).unwrap();
    let total = report.total;
    assert_eq!((total.global_bytes, total.global_sectors, total.bulk_bytes), (256, 8, 256));
    assert_eq!((report.global_unique_bytes_read, report.global_unique_bytes_written), (256, 0));
    assert!(report.explain().contains("bytes of bulk copies"));
    assert!(report.explain().contains("distinct global bytes read"));
}

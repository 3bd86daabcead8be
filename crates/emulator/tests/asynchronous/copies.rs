//! Copies by lanes (`cp.async`).

use super::*;

const COPY: &str = "cp.async.cg.shared.global [%to], [%from], 16;";
const READ: &str = "ld.shared.u32 %r1, [%to+4]; st.global.u32 [%mine], %r1;";

#[test]
fn what_is_copied_is_there_after_the_wait() {
    let wait = "cp.async.commit_group; cp.async.wait_group 0;";
    let out = run(&format!("{COPY} {wait} {READ}"));
    assert!((0..32).all(|t| out[t] == 1001 + 4 * t as u32));
}

#[test]
fn reading_before_the_wait_is_found() {
    for early in [
        "",
        "cp.async.commit_group;",
        "cp.async.wait_group 0;",
        "cp.async.commit_group; cp.async.wait_group 1;",
    ] {
        let what = fault(&format!("{COPY} {early} {READ}"), WARP);
        assert!(what.contains("has not finished writing"), "{what}");
    }
}

#[test]
fn writing_before_the_wait_is_found() {
    let what = fault(&format!("{COPY} st.shared.u32 [%to], %t; cp.async.wait_all;"), WARP);
    assert!(what.contains("has not finished writing"), "{what}");
    run(&format!("{COPY} cp.async.wait_all; st.shared.u32 [%to], %t;"));
}

#[test]
fn unchecked_memory_holds_poison_until_the_wait() {
    let body = format!("st.shared.u32 [%to+4], %t; {COPY} {READ} cp.async.wait_all;");
    let (out, _) = launch(&body, Setup { checks: Checks::NONE, ..WARP }).unwrap();
    assert_eq!(out[..32], [u32::MAX; 32]);
}

#[test]
fn a_group_lands_when_no_more_than_so_many_younger_ones_are_pending() {
    let copy = |group: u32| {
        format!(
            "cp.async.ca.shared.global [%to+{}], [%from+{}], 4; cp.async.commit_group;",
            1024 * group,
            512 * group
        )
    };
    let read = |group: u32| format!("ld.shared.u32 %r1, [%to+{}]; st.global.u32 [%mine], %r1;", 1024 * group);
    let issue = format!("{} {} {} cp.async.wait_group 1;", copy(0), copy(1), copy(2));
    assert_eq!(run(&format!("{issue} {}", read(1)))[3], 1000 + 128 + 12);
    assert_eq!(run(&format!("{issue} {}", read(0)))[3], 1000 + 12);
    fault(&format!("{issue} {}", read(2)), WARP);
}

#[test]
fn each_lane_waits_for_its_own_copies() {
    let wait = |lanes: &str| format!("setp.{lanes}.u32 %p1, %t, 5; @%p1 cp.async.wait_all;");
    let read = "setp.eq.u32 %p2, %t, 7; @%p2 ld.shared.u32 %r1, [%to];";
    fault(&format!("{COPY} {} {read}", wait("lt")), WARP);
    launch(&format!("{COPY} {} {read}", wait("ge")), WARP).unwrap();
}

#[test]
fn two_copies_to_the_same_bytes_at_once_are_found() {
    let again = "cp.async.ca.shared.global [%to+8], [%from], 4; cp.async.wait_all;";
    fault(&format!("{COPY} {again}"), WARP);
    run(&format!("{COPY} cp.async.wait_all; {again}"));
    let what = fault("cp.async.ca.shared.global [buffer], [%from], 4; cp.async.wait_all;", WARP);
    assert!(what.contains("another lane"), "{what}");
}

#[test]
fn what_is_not_read_becomes_zero() {
    let wait = "cp.async.wait_all; ld.shared.v4.u32 {%r1, %r2, %r3, %r4}, [%to];";
    for (bytes, expected) in
        [(0, [0, 0]), (4, [1000, 0]), (6, [1000, 1001]), (8, [1000, 1001]), (16, [1000, 1001])]
    {
        let copy = format!("mov.u32 %r9, {bytes}; cp.async.cg.shared.global [%to], [%from], 16, %r9;");
        let out = run(&format!(
            "{copy} {wait}
            setp.eq.u32 %p1, %t, 0; @!%p1 exit; st.global.u32 [%out], %r1; st.global.u32 [%out+4], %r2;"
        ));
        assert_eq!(out[..2], expected, "{bytes}");
    }
}

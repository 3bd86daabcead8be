//! `mbarrier` objects.

use super::*;

const ZERO: &str = "setp.eq.u32 %q, %t, 0;";

/// Thread 0 initialises `bar` for so many arrivals.
fn init(count: u32) -> String {
    format!("{ZERO} @%q mbarrier.init.shared.b64 [bar], {count}; bar.sync 0;")
}

fn wait(name: &str, parity: u32) -> String {
    format!(
        "{name}: mbarrier.try_wait.parity.shared::cta.b64 %p1, [bar], {parity};
        @!%p1 bra {name};"
    )
}

#[test]
fn a_phase_completes_when_all_have_arrived() {
    let body = format!(
        "{} mbarrier.arrive.shared.b64 %s1, [bar];
        mbarrier.test_wait.shared.b64 %p2, [bar], %s1;
        bar.sync 0;
        mbarrier.test_wait.shared.b64 %p3, [bar], %s1;
        selp.u32 %r1, 1, 0, %p2; selp.u32 %r2, 2, 0, %p3; add.u32 %r1, %r1, %r2;
        st.global.u32 [%mine], %r1;",
        init(64)
    );
    let (out, _) = launch(&body, Setup { threads: 64, ..WARP }).unwrap();
    let mut seen = [out[0], out[63]];
    seen.sort_unstable();
    assert_eq!(seen, [2, 3], "one warp asks before the other has arrived");
}

#[test]
fn phases_alternate_in_parity() {
    let body = format!(
        "{} mov.u32 %r2, 0;
        mbarrier.arrive.shared.b64 _, [bar]; {} add.u32 %r2, %r2, 1;
        mbarrier.arrive.release.cta.shared::cta.b64 _, [bar]; {} add.u32 %r2, %r2, 1;
        mbarrier.test_wait.parity.b64 %p2, [%rd1], 0;
        selp.u32 %r1, 10, 0, %p2; add.u32 %r2, %r2, %r1; st.global.u32 [%mine], %r2;",
        init(96),
        wait("A", 0),
        wait("B", 1)
    );
    let body = format!("mov.u64 %rd1, bar; cvta.shared.u64 %rd1, %rd1; {body}");
    let (out, _) = launch(&body, Setup { threads: 96, ..WARP }).unwrap();
    assert_eq!(out[..96], [2; 96], "phase 2 has the parity of phase 0, and is not over");
}

#[test]
fn a_state_tells_how_many_arrivals_were_pending() {
    let body = format!(
        "{} mbarrier.arrive.noComplete.shared.b64 %s1, [bar], 2;
        mbarrier.pending_count.b64 %r1, %s1; st.global.u32 [%mine], %r1;",
        init(65)
    );
    let out = run(&body);
    assert_eq!(out[..32], std::array::from_fn::<u32, 32, _>(|t| 65 - 2 * t as u32));
}

#[test]
fn copies_arrive_when_they_are_needed() {
    let copy = "cp.async.cg.shared.global [%to], [%from], 16;";
    let read = "ld.shared.u32 %r1, [%to]; st.global.u32 [%mine], %r1;";
    let more = "mbarrier.arrive.shared.b64 _, [bar];";
    for (arrive, more) in [("noinc.shared.b64", ""), ("shared.b64", more)] {
        let issue = format!("{} {copy} cp.async.mbarrier.arrive.{arrive} [bar];", init(64));
        let all = Setup { threads: 64, ..WARP };
        let what = fault(&format!("{issue} {read}"), all);
        assert!(what.contains("has not finished writing"), "{what}");
        let (out, _) = launch(&format!("{issue} {more} {} {read}", wait("A", 0)), all).unwrap();
        assert_eq!((out[1], out[63]), (1004, 1252));
    }
}

#[test]
fn copies_that_are_issued_later_do_not_land_with_the_arrival() {
    let copy = |offset: u32| format!("cp.async.cg.shared.global [%to+{offset}], [%from], 16;");
    let arrive = "cp.async.mbarrier.arrive.noinc.shared::cta.b64 [bar];";
    let body = |first: u32, last: u32| {
        format!(
            "{} {} {arrive} {} {} ld.shared.u32 %r1, [%to];",
            init(32),
            copy(first),
            copy(last),
            wait("A", 0)
        )
    };
    run(&body(0, 1024));
    fault(&body(1024, 0), WARP);
}

#[test]
fn a_phase_waits_for_the_bytes_that_it_expects() {
    let expect = "@%q mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], 128;";
    let complete = "@%q mbarrier.complete_tx.relaxed.cta.shared::cta.b64 [bar], 128;";
    run(&format!("{} {expect} {complete} {}", init(1), wait("A", 0)));
    let problem = launch(&format!("{} {expect} {}", init(1), wait("A", 0)), WARP).unwrap_err().problem;
    let Problem::Deadlock(waits) = problem else { panic!("{problem}") };
    assert!(waits[0].contains("0 arrivals and 128 bytes are missing"), "{waits:?}");
}

#[test]
fn an_arrival_that_is_dropped_is_not_expected_again() {
    let arrive = "@%q mbarrier.arrive.shared.b64 _, [bar];";
    let first = |drop: &str| {
        format!("{} mbarrier.arrive{drop}.shared.b64 _, [bar]; {arrive} {}", init(33), wait("A", 0))
    };
    run(&format!("{} {arrive} {}", first("_drop"), wait("B", 1)));
    let problem = launch(&format!("{} {arrive} {}", first(""), wait("B", 1)), WARP).unwrap_err().problem;
    assert!(matches!(problem, Problem::Deadlock(_)), "{problem}");
}

#[test]
fn misuse_is_found() {
    let init32 = init(32);
    let cases = [
        ("mbarrier.arrive.shared.b64 _, [bar];".to_owned(), "not initialised"),
        (format!("{init32} @%q mbarrier.init.shared.b64 [bar], 32;"), "without mbarrier.inval"),
        (format!("{ZERO} @%q mbarrier.init.shared.b64 [bar], 0;"), "must be 1 to 1048575"),
        (format!("{ZERO} @%q mbarrier.init.shared.b64 [bar], 1048576;"), "must be 1 to 1048575"),
        (format!("{init32} mbarrier.arrive.shared.b64 _, [bar], 3;"), "3 arrivals, where 2 are"),
        (format!("{init32} mbarrier.arrive.noComplete.shared.b64 %s1, [bar], 1;"), ".noComplete"),
        (format!("{init32} @%q ld.shared.u32 %r1, [bar+4];"), "belong to an mbarrier"),
        (format!("{init32} @%q st.shared.u64 [bar], %wide;"), "belong to an mbarrier"),
        (format!("{init32} mbarrier.test_wait.parity.shared.b64 %p1, [bar], 2;"), "must be 0 or 1"),
        (
            format!("{init32} mov.u64 %s1, 0x700000; mbarrier.test_wait.shared.b64 %p1, [bar], %s1;"),
            "a wait for phase 7",
        ),
        (format!("{init32} mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], 40000;"), "at most 1048575"),
        (
            format!(
                "{init32} mbarrier.arrive.shared.b64 _, [bar]; bar.warp.sync -1; @%q mbarrier.inval.shared.b64 [bar]; @%q mbarrier.arrive.shared.b64 _, [bar];"
            ),
            "not initialised",
        ),
        (
            format!(
                "{init32} @%q mbarrier.complete_tx.relaxed.cta.shared.b64 [bar], 8; mbarrier.arrive.shared.b64 _, [bar];"
            ),
            "8 bytes more",
        ),
        (
            format!(
                "{init32} cp.async.mbarrier.arrive.noinc.shared.b64 [bar]; @%q mbarrier.inval.shared.b64 [bar];"
            ),
            "in flight that signal it",
        ),
        (
            format!(
                "{init32} cp.async.mbarrier.arrive.noinc.shared.b64 [bar]; mbarrier.arrive.shared.b64 _, [bar];"
            ),
            "in flight that it does not expect",
        ),
    ];
    for (body, expected) in cases {
        let what = fault(&body, WARP);
        assert!(what.contains(expected), "{what}, and not: {expected}\n{body}");
    }
    let mended = "mbarrier.arrive.shared.b64 _, [bar]; bar.warp.sync -1; @%q mbarrier.inval.shared.b64 [bar];
        @%q st.shared.u64 [bar], %wide; @%q mbarrier.init.shared.b64 [bar], 1;";
    run(&format!("{init32} {mended}"));
}

#[test]
fn unknown_forms_are_refused() {
    for (body, expected) in [
        ("mbarrier.arrive.acquire.shared.b64 %s1, [bar];", ".acquire"),
        ("mbarrier.init.shared::cluster.b64 [bar], 1;", ".shared::cluster"),
        ("mbarrier.arrive.shared::cluster.b64 %s1, [bar];", "another block"),
        ("mbarrier.try_wait.parity.gpu.shared.b64 %p1, [bar], 0;", ".gpu"),
        ("cp.async.mbarrier.arrive.global.b64 [bar];", ".global"),
        ("cp.async.cg.shared.global [%to], [%from], 8;", "must be 16"),
        ("cp.async.ca.shared.global [%to], [%from], 12;", "must be 4, 8 or 16"),
        ("cp.async.ca.shared.global.L2::512B [%to], [%from], 4;", "L2::512B"),
    ] {
        let what = refusal(body);
        assert!(what.contains(expected), "{what}");
    }
}

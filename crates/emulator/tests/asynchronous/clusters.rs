//! Clusters: their barrier, and the memory and barriers of other blocks.

use super::*;

const PAIR: Setup = Setup { cluster: 2, threads: 64, checks: Checks::ALL };
const SYNC: &str = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;";

/// The address of the thread's 16 bytes in the other block, `%r5`.
const OTHER: &str = "xor.b32 %r4, %rank, 1; mapa.shared::cluster.u32 %r5, %to, %r4;";

fn synchronisation(body: &str, setup: Setup) -> String {
    match launch(body, setup) {
        Err(Fault { problem: Problem::Synchronisation(what), .. }) => what,
        Err(other) => panic!("another fault: {other}"),
        Ok(_) => panic!("no fault: {body}"),
    }
}

#[test]
fn a_block_reads_what_another_wrote() {
    let body = |last: &str| {
        format!(
            "st.shared.u32 [%to], %word; {SYNC} {OTHER} ld.shared::cluster.u32 %r1, [%r5];
            getctarank.shared::cluster.u32 %r2, %r5; mad.lo.u32 %r1, %r2, 100000, %r1;
            st.global.u32 [%mine], %r1; {last}"
        )
    };
    let (out, _) = launch(&body(SYNC), PAIR).unwrap();
    assert_eq!((out[3], out[256 + 3]), (100_000 + 256 + 3, 3));
}

#[test]
fn generic_addresses_are_mapped_too() {
    let body = format!(
        "st.shared.u32 [%to], %word; {SYNC} xor.b32 %r4, %rank, 1;
        cvt.u64.u32 %rd1, %to; cvta.shared.u64 %rd1, %rd1; mapa.u64 %rd2, %rd1, %r4;
        getctarank.u64 %r2, %rd2; getctarank.u64 %r3, %rd1; mad.lo.u32 %r2, %r3, 10, %r2;
        ld.u32 %r1, [%rd2]; mad.lo.u32 %r1, %r2, 100000, %r1; st.global.u32 [%mine], %r1; {SYNC}"
    );
    let (out, _) = launch(&body, PAIR).unwrap();
    assert_eq!((out[3], out[256 + 3]), (100_000 + 256 + 3, 1_000_000 + 3));
}

#[test]
fn reading_a_block_before_it_has_begun_is_found() {
    let what = synchronisation(&format!("{OTHER} st.shared::cluster.u32 [%r5], %t; {SYNC}"), PAIR);
    assert!(what.contains("may not have begun"), "{what}");
}

#[test]
fn reading_a_block_that_has_exited_is_found() {
    let body = |last: &str| {
        format!(
            "st.shared.u32 [%to], %word; {SYNC} setp.eq.u32 %p1, %rank, 0; @%p1 bra END;
            mov.u32 %r9, 0; SPIN: add.u32 %r9, %r9, 1; setp.lt.u32 %p2, %r9, 20000; @%p2 bra SPIN;
            {OTHER} ld.shared::cluster.u32 %r1, [%r5];
            END: {last}"
        )
    };
    let what = synchronisation(&body(""), PAIR);
    assert!(what.contains("have exited"), "{what}");
    launch(&body(SYNC), PAIR).unwrap();
}

#[test]
fn the_barrier_of_the_cluster_alternates_between_arriving_and_waiting() {
    let arrive = "barrier.cluster.arrive;";
    let wait = "barrier.cluster.wait;";
    for (body, expected) in [
        (format!("{arrive} {arrive}"), "again"),
        (wait.to_owned(), "without barrier.cluster.arrive"),
        (format!("{SYNC} {wait}"), "without barrier.cluster.arrive"),
        (format!("setp.eq.u32 %p1, %t, 3; @%p1 {SYNC}"), "divergent"),
    ] {
        let what = synchronisation(&body, PAIR);
        assert!(what.contains(expected), "{what}");
    }
    launch(&format!("{arrive} {wait} {SYNC} setp.eq.u32 %p1, %t, 3; @%p1 exit; {arrive} {wait}"), PAIR)
        .unwrap();
}

#[test]
fn a_block_that_does_not_come_to_the_barrier_is_a_deadlock() {
    let body = |rank: u32| {
        format!(
            "setp.ne.u32 %p1, %rank, {rank}; @%p1 bra WAIT; bar.sync 1, 96;
            WAIT: {SYNC}"
        )
    };
    let setup = Setup { threads: 96, ..PAIR };
    launch(&body(1), setup).unwrap();
    let problem =
        launch(&body(1).replace("bar.sync 1, 96", "setp.lt.u32 %p2, %t, 64; @%p2 bar.sync 1, 96"), setup);
    let problem = problem.unwrap_err().problem;
    let Problem::Deadlock(waits) = problem else { panic!("{problem}") };
    assert!(waits.iter().any(|it| it.contains("waits at the cluster's barrier")), "{waits:?}");
}

#[test]
fn a_barrier_of_another_block_is_arrived_at() {
    let body = |waits: &str| {
        format!(
            "setp.eq.u32 %q, %t, 0; @%q mbarrier.init.shared.b64 [bar], 64; fence.mbarrier_init.release.cluster; {SYNC}
            mov.u32 %r6, bar; xor.b32 %r4, %rank, 1; mapa.shared::cluster.u32 %r6, %r6, %r4;
            mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r6];
            {waits}
            {SYNC}"
        )
    };
    let own = "W: mbarrier.try_wait.parity.acquire.cluster.shared::cta.b64 %p1, [bar], 0; @!%p1 bra W;";
    launch(&body(own), PAIR).unwrap();
    let what = fault(&body(&own.replace("[bar]", "[%r6]")), PAIR);
    assert!(what.contains("is not the block itself"), "{what}");
}

#[test]
fn stores_to_another_block_land_when_its_barrier_is_waited_for() {
    let body = |early: &str, bytes: u32| {
        format!(
            "setp.eq.u32 %q, %t, 0; @%q mbarrier.init.shared.b64 [bar], 1;
            @%q mbarrier.arrive.expect_tx.shared.b64 _, [bar], {bytes}; mov.u32 %r1, 0; st.shared.u32 [%to+8], %t; {SYNC}
            {OTHER} mov.u32 %r6, bar; mapa.shared::cluster.u32 %r6, %r6, %r4; add.u32 %r7, %word, 1;
            st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.b32 [%r5], {{%word, %r7}}, [%r6];
            red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [%r5+8], %r7, [%r6];
            {early}
            W: mbarrier.try_wait.parity.shared::cta.b64 %p1, [bar], 0; @!%p1 bra W;
            ld.shared.v2.u32 {{%r1, %r2}}, [%to]; ld.shared.u32 %r3, [%to+8];
            mul.lo.u32 %r1, %r1, %r2; add.u32 %r1, %r1, %r3; st.global.u32 [%mine], %r1; {SYNC}"
        )
    };
    let (out, _) = launch(&body("", 64 * 12), PAIR).unwrap();
    assert_eq!((out[2], out[256 + 2]), (258 * 259 + 2 + 259, 2 * 3 + 2 + 3));
    let what = fault(&body(&format!("{SYNC} ld.shared.u32 %r1, [%to];"), 64 * 12), PAIR);
    assert!(what.contains("has not finished writing"), "{what}");
    let what = fault(&body("", 64 * 8), PAIR);
    assert!(what.contains("bytes more were copied"), "{what}");
}

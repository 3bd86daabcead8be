//! Blocks of a cluster, which reach each other's shared memory.

use super::*;

/// So many clusters of two blocks.
fn pairs(clusters: u32, block: u32) -> Shape {
    Shape { cluster: [2, 1, 1], ..shape(2 * clusters, block) }
}

/// All blocks have begun; the address of the thread's own first word in the other block is `%r5`.
const BEGIN: &str = "
    barrier.cluster.arrive; barrier.cluster.wait;
    xor.b32 %r4, %rank, 1; mapa.shared::cluster.u32 %r5, %st, %r4;";

/// No block exits before the others are done with it.
const END: &str = "barrier.cluster.arrive; barrier.cluster.wait;";

const SYNC: &str = "barrier.cluster.arrive.release; barrier.cluster.wait.acquire;";

fn exchange(sync: &str) -> String {
    format!("{BEGIN}\nst.shared.u32 [%st], %t;\n{sync}\nld.shared::cluster.u32 %r1, [%r5];\n{END}")
}

#[test]
fn the_barrier_of_the_cluster_orders_accesses_to_the_memory_of_another_block() {
    let (later, earlier) = needs_in(SYNC, &exchange(SYNC), &pairs(3, 64));
    // The block of rank 0 goes first: it reads before the other one writes.
    assert_eq!(later, "st.shared.u32 [%st], %t;");
    assert_eq!(earlier, "ld.shared::cluster.u32 %r1, [%r5];");
    let generic = exchange(SYNC).replace(
        "ld.shared::cluster.u32 %r1, [%r5];",
        "cvt.u64.u32 %rd5, %r5; cvta.shared.u64 %rd5, %rd5;\nld.u32 %r1, [%rd5];",
    );
    let (_, earlier) = needs_in(SYNC, &generic, &pairs(3, 64));
    assert_eq!(earlier, "ld.u32 %r1, [%rd5];");
}

#[test]
fn a_barrier_of_each_block_orders_nothing_between_them() {
    race_in(&exchange("bar.sync 0;"), &pairs(1, 64));
}

#[test]
fn a_relaxed_arrival_orders_what_a_fence_before_it_does() {
    let relaxed = "barrier.cluster.arrive.relaxed; barrier.cluster.wait.acquire;";
    race_in(&exchange(relaxed), &pairs(1, 64));
    for fence in ["fence.acq_rel.cluster;", "fence.sc.gpu;", "fence.mbarrier_init.release.cluster;"] {
        no_race_in(&exchange(&format!("{fence} {relaxed}")), &pairs(1, 64));
    }
    race_in(&exchange(&format!("fence.acq_rel.cta; {relaxed}")), &pairs(1, 64));
    race_in(
        &exchange("barrier.cluster.arrive.relaxed; fence.acq_rel.cluster; barrier.cluster.wait.acquire;"),
        &pairs(1, 64),
    );
}

#[test]
fn what_is_done_between_arriving_and_waiting_is_not_ordered() {
    let body = |before: &str, between: &str| {
        format!(
            "{BEGIN}
            {before}
            barrier.cluster.arrive;
            {between}
            barrier.cluster.wait;
            ld.shared::cluster.u32 %r1, [%r5]; {END}"
        )
    };
    let write = "st.shared.u32 [%st], %t;";
    no_race_in(&body(write, ""), &pairs(1, 96));
    race_in(&body("", write), &pairs(1, 96));
    // Another word.
    no_race_in(&body("", "st.shared.u32 [%st + 1024], %t;"), &pairs(1, 96));
}

#[test]
fn threads_that_have_exited_have_come_to_the_barrier_of_the_cluster() {
    let body = "
        setp.ge.u32 %p1, %t, 32;
        @%p1 st.shared.u32 [s], %t;
        @%p1 exit;
        sync
        @%first ld.shared::cluster.u32 %r1, [%r5];";
    let body = format!("{BEGIN} {body} {END}").replace("st.shared.u32 [s]", "st.shared.u32 [%st + -128]");
    no_race_in(&body.replace("sync\n", SYNC), &pairs(1, 64));
    race_in(&body.replace("sync\n", ""), &pairs(1, 64));
}

#[test]
fn blocks_of_a_cluster_are_ordered_in_global_memory_too() {
    let body = |sync: &str| {
        format!("{BEGIN} xor.b32 %r6, %b, 1; mad.lo.u32 %r6, %r6, 256, %t; mul.wide.u32 %rd6, %r6, 4; add.s64 %rd6, %out, %rd6;
        st.global.u32 [%mine], %t;
        {sync}
        ld.global.u32 %r1, [%rd6];")
    };
    needs_in(SYNC, &body(SYNC), &pairs(3, 64));
}

#[test]
fn an_mbarrier_of_another_block_hands_over_what_was_done_before_it_was_arrived_at() {
    // Block 0 writes to the memory of block 1, whose barrier it arrives at.
    let body = |arrive: &str, wait: &str| {
        format!(
            "
            @%first mbarrier.init.shared.b64 [bar], 64;
            {BEGIN}
            mov.u32 %r6, bar; mapa.shared::cluster.u32 %r6, %r6, 1;
            setp.eq.u32 %p1, %rank, 1;
            @%p1 bra WAIT;
            st.shared::cluster.u32 [%r5], %t;
            {arrive}
            bra OVER;
            WAIT: {wait}
            xor.b32 %r7, %t, 32; mov.u32 %r8, s; mad.lo.u32 %r8, %r7, 4, %r8;
            ld.shared.u32 %r1, [%r8];
            OVER: {END}"
        )
    };
    let arrive = "mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r6];";
    let wait = |order: &str| {
        format!("mbarrier.try_wait.parity{order}.shared::cta.b64 %p2, [bar], 0; @!%p2 bra WAIT;")
    };
    no_race_in(&body(arrive, &wait(".acquire.cluster")), &pairs(2, 64));
    no_race_in(&body(&arrive.replace(".release.cluster", ""), &wait("")), &pairs(2, 64));
    race_in(&body(arrive, ""), &pairs(2, 64));
    race_in(&body(arrive, &wait(".relaxed.cluster")), &pairs(2, 64));
    no_race_in(&body(arrive, &format!("{} fence.acquire.cluster;", wait(".relaxed.cluster"))), &pairs(2, 64));
    let relaxed = arrive.replace("release", "relaxed");
    race_in(&body(&relaxed, &wait("")), &pairs(2, 64));
    no_race_in(&body(&format!("fence.release.cluster; {relaxed}"), &wait("")), &pairs(2, 64));
}

#[test]
fn an_mbarrier_is_used_by_others_only_after_they_know_that_it_is_initialised() {
    let init = "setp.eq.u32 %p3, %t, 63; @%p3 mbarrier.init.shared.b64 [bar], 64;";
    needs_in(
        "bar.sync 1;",
        &format!("{init} bar.sync 1;\nmbarrier.arrive.shared.b64 _, [bar];"),
        &shape(1, 64),
    );
    let remote = format!(
        "{init}
        fence.mbarrier_init.release.cluster;
        barrier.cluster.arrive.relaxed; barrier.cluster.wait;
        xor.b32 %r4, %rank, 1; mov.u32 %r6, bar; mapa.shared::cluster.u32 %r6, %r6, %r4;
        mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r6];
        {END}"
    );
    let (later, earlier) = needs_in("fence.mbarrier_init.release.cluster;", &remote, &pairs(2, 64));
    assert!(later.contains("mbarrier.arrive") && earlier.contains("mbarrier.init"), "{later} {earlier}");
}

#[test]
fn a_flag_hands_over_to_another_block_what_was_written_before_it() {
    let body = |release: &str, acquire: &str| {
        format!(
            "{BEGIN}
            @!%first bra OVER;
            setp.eq.u32 %p1, %rank, 0;
            @%p1 bra WAIT;
            st.shared::cluster.u32 [%r5 + 1024], %one;
            {release}
            bra OVER;
            WAIT: {acquire}
            setp.eq.u32 %p2, %r1, 0;
            @%p2 bra WAIT;
            ld.shared.u32 %r2, [%st + 1024];
            OVER: {END}"
        )
    };
    let release = "st.release.cluster.shared::cluster.u32 [%r5], %one;";
    let acquire = "ld.acquire.cluster.shared.u32 %r1, [%st];";
    no_race_in(&body(release, acquire), &pairs(2, 32));
    race_in(&body(&release.replace("release.cluster", "relaxed.cluster"), acquire), &pairs(2, 32));
    race_in(&body(&release.replace(".cluster.shared", ".cta.shared"), acquire), &pairs(2, 32));
    race_in(&body(release, &acquire.replace("acquire", "relaxed")), &pairs(2, 32));
    let atomic = "atom.release.cluster.shared::cluster.exch.b32 %r9, [%r5], %one;";
    no_race_in(&body(atomic, acquire), &pairs(2, 32));
}

#[test]
fn an_atomic_operation_for_the_block_is_none_for_the_cluster() {
    let body = |scope: &str| {
        format!(
            "{BEGIN} mov.u32 %r6, s; mapa.shared::cluster.u32 %r6, %r6, 0; @%first red.relaxed.{scope}.shared::cluster.add.u32 [%r6], 1; {END}"
        )
    };
    no_race_in(&body("cluster"), &pairs(2, 64));
    race_in(&body("cta"), &pairs(2, 64));
}

#[test]
fn a_block_exits_only_after_others_are_done_with_its_memory() {
    // The block of rank 1 reads before the other one exits, here; nothing makes it do so.
    let body = |end: &str| {
        format!("{BEGIN}\nsetp.eq.u32 %p1, %rank, 1;\n@%p1 ld.shared::cluster.u32 %r1, [%r5];\n{end}")
    };
    no_race_in(&body(END), &pairs(2, 64));
    let fault = fault(&body(""), &pairs(2, 64));
    let Problem::Synchronisation(what) = &fault.problem else { panic!("{fault}") };
    assert!(what.contains("@%p1 ld.shared::cluster.u32 %r1, [%r5];"), "{what}");
    assert_eq!(fault.place.unwrap().block, [0; 3]);
    // An arrival that only one side waits for is enough.
    let handed = format!(
        "@%first mbarrier.init.shared.b64 [bar], 1; {BEGIN} setp.eq.u32 %p1, %rank, 1; @%p1 bra WAIT;
        @!%first bra OVER;
        ld.shared::cluster.u32 %r1, [%r5]; mov.u32 %r6, bar; mapa.shared::cluster.u32 %r6, %r6, 1;
        mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r6]; bra OVER;
        WAIT: mbarrier.try_wait.parity.acquire.cluster.shared.b64 %p2, [bar], 0; @!%p2 bra WAIT;
        OVER:"
    );
    no_race_in(&handed, &pairs(2, 64));
}

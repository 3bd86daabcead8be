//! What is done asynchronously.

use super::*;

fn pair(block: u32) -> Shape {
    Shape { cluster: [2, 1, 1], ..shape(2, block) }
}

/// Each thread of block 0 stores to its own word of block 1, whose threads wait; `%r8` is the address of the word of
/// the thread's number `xor` 32.
fn store(before: &str, wait: &str, after: &str) -> String {
    format!(
        "
        @%first mbarrier.init.shared.b64 [bar], 1;
        @%first mbarrier.arrive.expect_tx.shared.b64 _, [bar], 256;
        barrier.cluster.arrive; barrier.cluster.wait;
        mapa.shared::cluster.u32 %r5, %st, 1;
        mov.u32 %r6, bar; mapa.shared::cluster.u32 %r6, %r6, 1;
        xor.b32 %r7, %t, 32; mov.u32 %r8, s; mad.lo.u32 %r8, %r7, 4, %r8;
        setp.eq.u32 %p1, %rank, 1;
        @%p1 bra WAIT;
        {before}
        st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%r5], %t, [%r6];
        bra OVER;
        WAIT: {wait}
        {after}
        OVER: barrier.cluster.arrive; barrier.cluster.wait;"
    )
}

const ONLY_RACES: Checks = Checks { race: true, ..Checks::NONE };

const WAIT: &str = "mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; @!%p2 bra WAIT;";

#[test]
fn who_waits_for_the_mbarrier_reads_what_was_stored() {
    no_race_in(&store("", WAIT, "ld.shared.u32 %r1, [%r8];"), &pair(64));
}

#[test]
fn who_does_not_wait_himself_races_with_what_was_stored() {
    // Warp 1 alone waits; warp 0 spins until its data have landed, and nothing orders it after that.
    let wait = |sync: &str| {
        format!(
            "setp.lt.u32 %p3, %t, 32; @%p3 bra SPIN;
            FIRST: mbarrier.try_wait.parity.shared.b64 %p2, [bar], 0; @!%p2 bra FIRST; bra JOIN;
            SPIN: add.u32 %r9, %zero, 0;
            LOOP: add.u32 %r9, %r9, 1; setp.lt.u32 %p2, %r9, 20000; @%p2 bra LOOP;
            JOIN: {sync}"
        )
    };
    let read = "ld.shared.u32 %r1, [%st];";
    no_race_in(&store("", &wait("bar.sync 1;"), read), &pair(64));
    let (later, earlier) = race_in(&store("", &wait(""), read), &pair(64));
    assert!(later.contains("ld.shared") && earlier.contains("st.async"), "{later} {earlier}");
}

#[test]
fn who_waits_knows_what_the_issuer_did_before() {
    let before = "st.shared::cluster.u32 [%r5 + 1024], %t;";
    no_race_in(&store(before, WAIT, "ld.shared.u32 %r1, [%st + 1024];"), &pair(64));
    let after = before.replace("1024", "2048");
    let body = store(before, WAIT, "ld.shared.u32 %r1, [%st + 2048];")
        .replace("bra OVER;", &format!("{after} bra OVER;"));
    race_in(&body, &pair(64));
}

#[test]
fn a_store_races_with_what_its_issuer_does_not_know_of() {
    let body = store("", WAIT, "")
        .replace("setp.eq.u32 %p1, %rank, 1;", "setp.eq.u32 %p1, %rank, 1; @%p1 ld.shared.u32 %r1, [%st];");
    let (later, earlier) = race_in(&body, &pair(64));
    assert!(later.contains("ld.shared") || earlier.contains("ld.shared"), "{later} {earlier}");
}

#[test]
fn asynchronous_reductions_do_not_race_with_each_other() {
    let body = |address: &str, operation: &str| {
        store("", WAIT, "ld.shared.u32 %r1, [s];")
            .replace("[%r5], %t, [%r6]", &format!("[{address}], %t, [%r6]"))
            .replace("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32", operation)
            .replace(
                "mapa.shared::cluster.u32 %r5",
                "mov.u32 %r9, s; mapa.shared::cluster.u32 %r9, %r9, 1; mapa.shared::cluster.u32 %r5",
            )
    };
    let reduce = "red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32";
    no_race_in(&body("%r9", reduce), &pair(64));
}

/// 128 threads write a (64 by 16, bf16) and the last of them b (16 by 8) to shared memory; `%a` and `%d` are the descriptors,
/// and `product` multiplies them.
fn product(sync: &str, after: &str) -> String {
    format!(
        "
        .reg .f32 %f<4>;
        .reg .b64 %a, %d;
        mov.f32 %f0, 0f00000000; mov.f32 %f1, %f0; mov.f32 %f2, %f0; mov.f32 %f3, %f0;
        shl.b32 %r1, %t, 4; mov.u32 %r2, s; add.u32 %r1, %r1, %r2;
        st.shared.v4.u32 [%r1], {{%zero, %zero, %zero, %zero}};
        setp.ge.u32 %p1, %t, 112;
        @%p1 st.shared.v4.u32 [%r1 + 256], {{%zero, %zero, %zero, %zero}};
        shr.u32 %r3, %r2, 4; or.b32 %r3, %r3, 0x80000; mov.u32 %r4, 16; mov.b64 %a, {{%r3, %r4}};
        add.u32 %r3, %r3, 128; mov.b64 %d, {{%r3, %r4}};
        fence.proxy.async;
        {sync}
        wgmma.fence.sync.aligned;
        setp.eq.u32 %p2, %t, %t;
        wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {{%f0, %f1, %f2, %f3}}, %a, %d, %p2, 1, 1, 0, 0;
        wgmma.commit_group.sync.aligned;
        {after}"
    )
}

#[test]
fn a_product_reads_what_is_ordered_before_it() {
    let wait = "wgmma.wait_group.sync.aligned 0;";
    let body = product("bar.sync 1;", wait);
    no_race(&body, 1, 128);
    // The warp that writes b comes first.
    let (later, earlier) = race(&body.replace("bar.sync 1;", ""), 1, 128);
    assert!(later.contains("wgmma") && earlier.contains("@%p1 st.shared.v4"), "{later} {earlier}");
}

#[test]
fn operands_may_be_overwritten_once_all_warps_have_waited() {
    let wait = "wgmma.wait_group.sync.aligned 0;";
    let write = "@%p1 st.shared.u32 [%r1 + 256], %zero;";
    no_race(&product("bar.sync 1;", &format!("{wait} bar.sync 2; {write}")), 1, 128);
    // The writer has waited, and the other warps not yet, or not so that it would know.
    let body = product("bar.sync 1;", &format!("{wait} \n{write}"));
    let fault = run_with((0, ONLY_RACES), &body, &shape(1, 128)).unwrap_err();
    let Problem::Race { earlier, .. } = &fault.problem else { panic!("{fault}") };
    assert!(earlier.text.contains("wgmma.mma_async"), "{fault}");
    assert_eq!(fault.place.unwrap().text, write);
}

#[test]
fn writing_an_operand_in_flight_tells_both_lines() {
    let write = "@%p1 st.shared.u32 [%r1 + 256], %zero;";
    let body = product("bar.sync 1;", &format!("bar.sync 2;\n{write}\nwgmma.wait_group.sync.aligned 0;"));
    let fault = fault(&body, &shape(1, 128));
    let Problem::Asynchronous(what) = &fault.problem else { panic!("{fault}") };
    assert!(what.contains("a wait is missing") && what.contains("wgmma.mma_async"), "{what}");
    assert_eq!(fault.place.unwrap().text, write);
    // Where only races are looked for, it is one.
    let problem = run_with((0, ONLY_RACES), &body, &shape(1, 128)).unwrap_err().problem;
    assert!(matches!(problem, Problem::Race { .. }), "{problem}");
}

/// Six rounds of a ring of two buffers of 256 bytes each: thread 0 fills them by bulk copies, warps 1 and 2 read them.
/// `bar` are two barriers of full buffers, and two of empty ones.
const RING: &str = "
    @%first mbarrier.init.shared.b64 [bar], 1; @%first mbarrier.init.shared.b64 [bar + 8], 1;
    @%first mbarrier.init.shared.b64 [bar + 16], 64; @%first mbarrier.init.shared.b64 [bar + 24], 64;
    st.shared.u32 [%st + 128], %zero;
    fence.proxy.async;
    bar.sync 1;
    mov.u32 %r9, 0;
    LOOP:
    and.b32 %r10, %r9, 1; shr.u32 %r11, %r9, 1; and.b32 %r11, %r11, 1;
    mov.u32 %r12, bar; mad.lo.u32 %r12, %r10, 8, %r12;
    mov.u32 %r13, s; mad.lo.u32 %r13, %r10, 256, %r13;
    setp.lt.u32 %p1, %t, 32; @%p1 bra PRODUCE;
    FULL: mbarrier.try_wait.parity.shared.b64 %p2, [%r12], %r11; @!%p2 bra FULL;
    sub.u32 %r14, %t, 32; mad.lo.u32 %r14, %r14, 4, %r13;
    ld.shared.u32 %r15, [%r14];
    mbarrier.arrive.shared.b64 _, [%r12 + 16];
    bra NEXT;
    PRODUCE: @!%first bra NEXT;
    xor.b32 %r11, %r11, 1;
    EMPTY: mbarrier.try_wait.parity.shared.b64 %p2, [%r12 + 16], %r11; @!%p2 bra EMPTY;
    mbarrier.arrive.expect_tx.shared.b64 _, [%r12], 256;
    cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r13], [%out], 256, [%r12];
    NEXT: add.u32 %r9, %r9, 1; setp.lt.u32 %p3, %r9, 6; @%p3 bra LOOP;";

const FULL: &str = "FULL: mbarrier.try_wait.parity.shared.b64 %p2, [%r12], %r11; @!%p2 bra FULL;";
const EMPTY: &str = "EMPTY: mbarrier.try_wait.parity.shared.b64 %p2, [%r12 + 16], %r11; @!%p2 bra EMPTY;";

/// A text in which something was replaced is found to be wrong: a race, or an access to what is in flight.
#[track_caller]
fn wrong(text: &str, from: &str, to: &str, shape: &Shape) {
    assert_eq!(text.matches(from).count(), 1, "{from}");
    let fault = fault(&text.replace(from, to), shape);
    assert!(matches!(fault.problem, Problem::Race { .. } | Problem::Asynchronous(_)), "{fault}");
}

#[test]
fn a_ring_of_buffers_needs_both_its_barriers() {
    no_race(RING, 2, 96);
    wrong(RING, EMPTY, "EMPTY:", &shape(2, 96));
    // Readers who do not wait run ahead, and the ring stops.
    let fault = fault(&RING.replace(FULL, "FULL:"), &shape(2, 96));
    assert!(matches!(fault.problem, Problem::Deadlock(_)), "{fault}");
    // The other buffer.
    wrong(
        RING,
        "mad.lo.u32 %r14, %r14, 4, %r13;",
        "mad.lo.u32 %r14, %r14, 4, %r13; xor.b32 %r14, %r14, 256;",
        &shape(2, 96),
    );
    // Lanes that say so for others who are not done.
    let one = RING.replace("[bar + 16], 64", "[bar + 16], 2").replace("[bar + 24], 64", "[bar + 24], 2");
    let arrive = "mbarrier.arrive.shared.b64 _, [%r12 + 16];";
    let elected = format!("setp.eq.u32 %p4, %lane, 0; bar.warp.sync -1; @%p4 {arrive}");
    let elected = one.replace(arrive, &elected);
    no_race(&elected, 2, 96);
    race(&elected.replace("bar.warp.sync -1;", ""), 2, 96);
}

/// The same in clusters of two blocks: the block of rank 0 copies to both, and waits for the readers of both.
fn multicast() -> String {
    let initialised = "bar.sync 1;";
    let copy =
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%r13], [%out], 256, [%r12];";
    let copies = "mov.b16 %h1, 3;
        cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r13], [%out], 256, [%r12], %h1;";
    let ring = RING
        .replace("], 64;", "], 128;")
        .replace(initialised, "fence.mbarrier_init.release.cluster; barrier.cluster.arrive.relaxed; barrier.cluster.wait; bar.sync 1;")
        .replace(
            "mbarrier.arrive.shared.b64 _, [%r12 + 16];",
            "add.u32 %r16, %r12, 16; mapa.shared::cluster.u32 %r16, %r16, 0;
            mbarrier.arrive.release.cluster.shared::cluster.b64 _, [%r16];",
        )
        // The other block only says that it expects the bytes, once the round before is over.
        .replace(
            "EMPTY:",
            "setp.eq.u32 %p5, %rank, 0; @%p5 bra EMPTY;
            BEFORE: mbarrier.try_wait.parity.shared.b64 %p2, [%r12], %r11; @!%p2 bra BEFORE;
            mbarrier.arrive.expect_tx.shared.b64 _, [%r12], 256; bra NEXT;
            EMPTY:",
        )
        .replace(copy, copies);
    format!("{ring} barrier.cluster.arrive; barrier.cluster.wait;")
}

#[test]
fn a_ring_that_is_filled_for_two_blocks_waits_for_the_readers_of_both() {
    let two = Shape { cluster: [2, 1, 1], ..shape(4, 96) };
    no_race_in(&multicast(), &two);
    wrong(&multicast(), EMPTY, "EMPTY:", &two);
    // Only the block's own readers.
    let own = multicast().replace("], 128;", "], 64;");
    wrong(
        &own,
        "mapa.shared::cluster.u32 %r16, %r16, 0;",
        "mapa.shared::cluster.u32 %r16, %r16, %rank;",
        &two,
    );
}

#[test]
fn a_bulk_store_reads_and_writes_until_it_was_waited_for() {
    let body = |wait: &str, after: &str| {
        format!(
            "st.shared.u32 [%st], %t; fence.proxy.async; bar.sync 1;
            @%first cp.async.bulk.global.shared::cta.bulk_group [%out], [s], 256;
            @%first cp.async.bulk.commit_group;
            @%first {wait}
            bar.sync 2;
            {after}"
        )
    };
    let (read, all) = ("cp.async.bulk.wait_group.read 0;", "cp.async.bulk.wait_group 0;");
    let (reuse, overwrite) = ("st.shared.u32 [%st], %zero;", "st.global.u32 [%mine], %zero;");
    no_race(&body(read, reuse), 1, 64);
    no_race(&body(all, overwrite), 1, 64);
    let (later, earlier) = race(&body(read, overwrite), 1, 64);
    assert!(later.contains("st.global") && earlier.contains("cp.async.bulk.global"), "{later} {earlier}");
    // Two blocks write the same bytes.
    race(&body(all, ""), 2, 64);
    let add = body(all, "").replace(
        "cp.async.bulk.global.shared::cta.bulk_group",
        "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32",
    );
    no_race(&add, 2, 64);
}

#[test]
fn a_product_that_is_never_waited_for_is_found() {
    let wait = "wgmma.wait_group.sync.aligned 0;";
    no_race(&product("bar.sync 1;", wait), 1, 128);
    for wait in ["", "wgmma.wait_group.sync.aligned 1;"] {
        let fault = fault(&product("bar.sync 1;", wait), &shape(1, 128));
        let Problem::Asynchronous(what) = &fault.problem else { panic!("{fault}") };
        assert!(what.contains("without wgmma.wait_group") && what.contains("wgmma.mma_async"), "{what}");
    }
}

//! Threads of a block, and blocks that are not in a cluster.

use super::*;

#[test]
fn without_a_barrier_a_read_races_with_another_warps_write() {
    let body = "
        st.shared.u32 [%st], %t;
        bar.sync 0;
        xor.b32 %r1, %t, 32;
        mov.u32 %r2, s;
        mad.lo.u32 %r2, %r1, 4, %r2;
        ld.shared.u32 %r3, [%r2];
        st.global.u32 [%mine], %r3;";
    let (later, earlier) = needs("bar.sync 0;", body, 1, 64);
    // Warp 1, which completes the first barrier and goes on first, reads before warp 0 writes.
    assert_eq!(later, "st.shared.u32 [%st], %t;");
    assert_eq!(earlier, "ld.shared.u32 %r3, [%r2];");
}

#[test]
fn without_a_barrier_of_the_warp_a_read_races_with_another_lanes_write() {
    let body = "
        st.shared.u32 [%st], %t;
        bar.warp.sync 0xffffffff;
        xor.b32 %r1, %t, 1;
        mov.u32 %r2, s;
        mad.lo.u32 %r2, %r1, 4, %r2;
        ld.shared.u32 %r3, [%r2];";
    let (later, earlier) = needs("bar.warp.sync 0xffffffff;", body, 1, 32);
    assert_eq!(later, "ld.shared.u32 %r3, [%r2];");
    assert_eq!(earlier, "st.shared.u32 [%st], %t;");
}

#[test]
fn exchange_between_lanes_is_no_barrier() {
    let body = "
        st.shared.u32 [%st], %t;
        shfl.sync.bfly.b32 %r9, %t, 1, 31, 0xffffffff;
        xor.b32 %r1, %t, 1;
        mov.u32 %r2, s;
        mad.lo.u32 %r2, %r1, 4, %r2;
        ld.shared.u32 %r3, [%r2];";
    race(body, 1, 32);
}

#[test]
fn a_barrier_of_the_warp_orders_only_the_lanes_it_names() {
    let body = |mask: &str| {
        format!(
            "
        setp.lt.u32 %p1, %lane, 16;
        mov.u32 %r9, 0xffff0000;
        @%p1 mov.u32 %r9, 0x0000ffff;
        st.shared.u32 [%st], %t;
        bar.warp.sync {mask};
        xor.b32 %r1, %t, 16;
        mov.u32 %r2, s;
        mad.lo.u32 %r2, %r1, 4, %r2;
        ld.shared.u32 %r3, [%r2];"
        )
    };
    no_race(&body("0xffffffff"), 1, 32);
    race(&body("%r9"), 1, 32);
}

#[test]
fn lanes_that_meet_at_different_barriers_of_the_warp_are_ordered() {
    let body = "
        setp.lt.u32 %p1, %lane, 16;
        @%p1 bra LOW;
        st.shared.u32 [%st], %t;
        bar.warp.sync 0xffffffff;
        bra JOIN;
        LOW: bar.warp.sync 0xffffffff;
        mov.u32 %r2, s;
        mad.lo.u32 %r2, %t, 4, %r2;
        ld.shared.u32 %r3, [%r2 + 64];
        JOIN: st.global.u32 [%mine], %t;";
    no_race(body, 1, 32);
    let body =
        body.replace("LOW: bar.warp.sync 0xffffffff;", "LOW:").replace("bar.warp.sync 0xffffffff;", "");
    race(&body, 1, 32);
}

#[test]
fn the_same_thread_never_races_with_itself() {
    no_race("st.shared.u32 [%st], %t; ld.shared.u32 %r1, [%st]; st.shared.u32 [%st], %r1;", 1, 64);
}

#[test]
fn lanes_of_one_instruction_may_write_the_same_value_but_not_different_ones() {
    no_race("st.shared.u32 [s], %one;", 1, 32);
    let (later, earlier) = race("st.shared.u32 [s], %t;", 1, 32);
    assert_eq!(later, earlier);
    race("and.b32 %r1, %t, 1; mov.u32 %r2, s; mad.lo.u32 %r2, %r1, 4, %r2; st.shared.u32 [%r2], %t;", 1, 32);
    // Lanes of different warps do not execute the same instruction.
    race("st.shared.u32 [s], %one;", 1, 64);
}

#[test]
fn neighbouring_bytes_are_not_the_same_bytes() {
    let body = |address: &str| {
        format!(
            "
        mov.u32 %r2, s;
        add.u32 %r2, %r2, {address};
        mov.b32 {{%h0, %h1}}, %t;
        st.shared.u8 [%r2], %h0;
        bar.sync 0;
        ld.shared.u32 %r3, [%st];"
        )
    };
    no_race(&body("%t"), 1, 128);
    race(&format!("shr.u32 %r8, %t, 1; {}", body("%r8")), 1, 128);
    let halves = |shift: u32| {
        format!(
            "mov.b32 {{%h0, %h1}}, %t; shl.b32 %r8, %t, {shift}; mov.u32 %r2, s; add.u32 %r2, %r2, %r8; st.shared.u16 [%r2], %h0;"
        )
    };
    no_race(&halves(1), 1, 128);
}

#[test]
fn a_whole_word_races_with_one_of_its_bytes() {
    let body = "
        setp.lt.u32 %p1, %t, 32;
        mov.b32 {%h0, %h1}, %t;
        @%first st.shared.u8 [s + 6], %h0;
        bar.sync 0;
        mov.u32 %r2, s;
        setp.eq.u32 %p2, %t, 40;
        @%p2 ld.shared.u32 %r3, [s + 4];";
    let (later, earlier) = needs("bar.sync 0;", body, 1, 64);
    assert_eq!(later, "@%first st.shared.u8 [s + 6], %h0;");
    assert_eq!(earlier, "@%p2 ld.shared.u32 %r3, [s + 4];");
    no_race(&body.replace("bar.sync 0;", "").replace("[s + 4]", "[s + 8]"), 1, 64);
}

#[test]
fn a_named_barrier_orders_those_who_come_to_it() {
    // Warps 0 and 1 meet at one barrier, 2 and 3 at another.
    let body = |partner: u32| {
        format!(
            "
        shr.u32 %r1, %warp, 1;
        add.u32 %r1, %r1, 1;
        st.shared.u32 [%st], %t;
        bar.sync %r1, 64;
        xor.b32 %r2, %t, {partner};
        mov.u32 %r3, s;
        mad.lo.u32 %r3, %r2, 4, %r3;
        ld.shared.u32 %r4, [%r3];"
        )
    };
    no_race(&body(32), 1, 128);
    race(&body(64), 1, 128);
}

#[test]
fn who_only_arrives_is_ordered_before_who_waits_and_not_the_other_way_round() {
    let body = |producer: &str, consumer: &str| {
        format!(
            "
        setp.lt.u32 %p1, %t, 32;
        mov.u32 %r3, s;
        mad.lo.u32 %r3, %lane, 4, %r3;
        @%p1 bra PRODUCER;
        bar.sync 1, 64;
        {consumer}
        bra END;
        PRODUCER: {producer}
        END: "
        )
    };
    no_race(&body("st.shared.u32 [%r3], %t; bar.arrive 1, 64;", "ld.shared.u32 %r4, [%r3];"), 1, 64);
    race(&body("bar.arrive 1, 64; st.shared.u32 [%r3], %t;", "ld.shared.u32 %r4, [%r3];"), 1, 64);
}

#[test]
fn a_buffer_may_be_overwritten_only_after_all_have_read_it() {
    // Two buffers in turn: one barrier in each step is enough. One buffer: two are needed.
    let step = |buffer: u32, barrier: &str| {
        format!(
            "
        st.shared.u32 [%st + {buffer}], %t;
        bar.sync 0;
        ld.shared.u32 %r4, [%r3 + {buffer}];
        {barrier}"
        )
    };
    let partner = "xor.b32 %r2, %t, 32; mov.u32 %r3, s; mad.lo.u32 %r3, %r2, 4, %r3;";
    let steps = |buffers: [u32; 4], barrier: &str| {
        let steps: String = buffers.iter().map(|buffer| step(*buffer, barrier)).collect();
        format!("{partner} {steps}")
    };
    no_race(&steps([0, 1024, 0, 1024], ""), 1, 64);
    no_race(&steps([0, 0, 0, 0], "bar.sync 0;"), 1, 64);
    race(&steps([0, 0, 0, 0], ""), 1, 64);
}

#[test]
fn a_thread_that_exits_has_come_to_the_barriers_of_its_block() {
    let body = "
        setp.lt.u32 %p1, %t, 32;
        @%p1 st.shared.u32 [%st], %t;
        @%p1 exit;
        bar.sync 0;
        mov.u32 %r3, s;
        mad.lo.u32 %r3, %lane, 4, %r3;
        ld.shared.u32 %r4, [%r3];";
    needs("bar.sync 0;", body, 1, 96);
}

#[test]
fn threads_of_a_block_race_in_global_memory_too() {
    let body = "
        st.global.u32 [%mine], %t;
        bar.sync 0;
        ld.global.u32 %r1, [%mine];
        @%first ld.global.u32 %r2, [%mine + 252];";
    let (later, earlier) = needs("bar.sync 0;", body, 3, 64);
    // Warp 1 completes the first barrier, and goes on first.
    assert_eq!(later, "@%first ld.global.u32 %r2, [%mine + 252];");
    assert_eq!(earlier, "st.global.u32 [%mine], %t;");
}

#[test]
fn blocks_that_write_the_same_bytes_race() {
    let body = |address: &str| format!("@%first st.global.u32 [{address}], %b;");
    no_race(&body("%mine"), 16, 64);
    let (later, earlier) = race(&body("%out"), 16, 64);
    assert_eq!(later, earlier);
    // Not even the same value may be written.
    race("@%first st.global.u32 [%out], %one;", 16, 64);
}

#[test]
fn a_block_that_reads_what_another_writes_races_with_it() {
    // Each block reads what the next one writes.
    let body = "st.global.u32 [%mine], %t;\nld.global.u32 %r1, [%mine + 1024];";
    let (later, earlier) = race(body, 7, 64);
    assert_eq!(later, "st.global.u32 [%mine], %t;");
    assert_eq!(earlier, "ld.global.u32 %r1, [%mine + 1024];");
    no_race("st.global.u32 [%mine], %t; ld.global.u32 %r1, [%mine + 512];", 7, 64);
}

#[test]
fn a_race_that_decides_what_is_done_is_told_alike_whatever_the_number_of_threads() {
    // A block goes wrong in another way if it sees what a later one wrote, which in order it never does.
    let body = "
        ld.global.u32 %r1, [%mine + 1024];
        setp.eq.u32 %p1, %r1, 0;
        @%p1 st.global.u32 [%mine], %one;
        @!%p1 trap;";
    race(body, 15, 64);
}

#[test]
fn memory_is_as_if_a_launch_had_run_once() {
    // The last block sums up what the others did: their partial results are shared, so that the launch runs again.
    let (_, words) = run_with((0, Checks::ALL), &last_block("fence.acq_rel.gpu;"), &shape(9, 64)).unwrap();
    assert_eq!(words[4000], 9);
    assert_eq!(words[4001], 9 * 8 / 2);
}

/// Each block writes a partial result and counts itself; the last one adds them up.
fn last_block(fence: &str) -> String {
    format!(
        "
        @!%first bra END;
        add.s64 %rd9, %out, 16000;
        st.global.u32 [%mine], %b;
        {fence}
        atom.global.add.u32 %r1, [%rd9], 1;
        mov.u32 %r2, %nctaid.x;
        sub.u32 %r2, %r2, 1;
        setp.ne.u32 %p1, %r1, %r2;
        @%p1 bra END;
        {fence}
        mov.u64 %rd1, %out;
        mov.u32 %r3, 0;
        mov.u32 %r4, 0;
        LOOP: ld.global.u32 %r5, [%rd1];
        add.u32 %r3, %r3, %r5;
        add.s64 %rd1, %rd1, 1024;
        add.u32 %r4, %r4, 1;
        setp.le.u32 %p1, %r4, %r2;
        @%p1 bra LOOP;
        st.global.u32 [%rd9 + 4], %r3;
        END: "
    )
}

#[test]
fn blocks_that_only_read_the_same_bytes_do_not_race() {
    no_race("ld.global.u32 %r1, [%out]; st.global.u32 [%mine + 8192], %r1;", 7, 64);
}

#[test]
fn atomic_operations_do_not_race_with_each_other() {
    no_race("red.shared.add.u32 [s], 1; red.global.add.u32 [%out], 1;", 9, 96);
    race("red.shared.add.u32 [s], 1; ld.shared.u32 %r1, [s];", 1, 96);
    race("red.global.add.u32 [%out], 1; ld.global.u32 %r1, [%out];", 9, 32);
    race("@%first st.shared.u32 [s], %one; red.shared.add.u32 [s], 1;", 1, 64);
}

#[test]
fn an_atomic_operation_for_the_block_is_none_for_others() {
    no_race("red.relaxed.cta.global.add.u32 [%out], 1;", 1, 96);
    race("@%first red.relaxed.cta.global.add.u32 [%out], 1;", 4, 96);
    no_race("@%first red.relaxed.gpu.global.add.u32 [%out], 1;", 4, 96);
}

#[test]
fn unique_bytes_are_counted_once() {
    for checks in [Checks::ALL, Checks::NONE] {
        for threads in [1, 3] {
            let body =
                "ld.global.u32 %r1, [%out]; ld.global.u32 %r1, [%out]; st.global.u32 [%mine + 8192], %r1;";
            let (report, _) = run_with((threads, checks), body, &shape(5, 64)).unwrap();
            assert_eq!(
                (report.global_unique_bytes_read, report.global_unique_bytes_written),
                (4, 5 * 64 * 4)
            );
        }
    }
}

#[test]
fn races_are_found_only_where_that_is_asked_for() {
    let checks = Checks { race: false, ..Checks::ALL };
    run_with((0, checks), "st.shared.u32 [s], %t;", &shape(1, 64)).unwrap();
}

#[test]
fn a_race_names_both_threads() {
    let body = "setp.eq.u32 %p1, %t, 70;\n@%p1 st.shared.u32 [s], %t;\nld.shared.u32 %r1, [s];";
    let fault = run(body, 2, 96).unwrap_err();
    let Problem::Race { access, earlier_is_write, earlier } = fault.problem else { panic!("{fault}") };
    let place = fault.place.unwrap();
    assert_eq!((place.warp, place.lane), (2, 0));
    assert_eq!((earlier.warp, earlier.lane, earlier_is_write), (2, 6, true));
    assert!(!access.write);
    assert_eq!(access.address, 0);
}

#[test]
fn the_last_block_may_read_what_all_have_written_before_a_fence() {
    for fence in ["fence.acq_rel.gpu;", "fence.sc.sys;", "membar.gl;"] {
        no_race(&last_block(fence), 9, 64);
    }
    // Without fences, with fences that are for the block alone, and with only one of the two.
    for fence in ["", "fence.acq_rel.cta;", "membar.cta;"] {
        race(&last_block(fence), 9, 64);
    }
    let one = last_block("fence.acq_rel.gpu;");
    race(&one.replacen("fence.acq_rel.gpu;", "", 1), 9, 64);
    let release_only = one.replace("%p1 bra END;\n        fence.acq_rel.gpu;", "%p1 bra END;");
    assert_ne!(one, release_only);
    race(&release_only, 9, 64);
}

#[test]
fn a_flag_hands_over_what_was_written_before_it_is_released() {
    // Block 0 waits for block 1.
    let body = |write: &str, read: &str| {
        format!(
            "
        @!%first bra END;
        setp.eq.u32 %p1, %b, 0;
        @%p1 bra WAIT;
        st.global.u32 [%out + 4], %one;
        {write}
        bra END;
        WAIT: {read}
        setp.eq.u32 %p2, %r1, 0;
        @%p2 bra WAIT;
        ld.global.u32 %r2, [%out + 4];
        END: "
        )
    };
    let (release, acquire) =
        ("st.release.gpu.global.u32 [%out], %one;", "ld.acquire.gpu.global.u32 %r1, [%out];");
    no_race(&body(release, acquire), 2, 32);
    race(&body("st.relaxed.gpu.global.u32 [%out], %one;", acquire), 2, 32);
    race(&body(release, "ld.relaxed.gpu.global.u32 %r1, [%out];"), 2, 32);
    race(&body("st.release.cta.global.u32 [%out], %one;", acquire), 2, 32);
    let (fenced, fencing) = (
        "fence.acq_rel.gpu; st.volatile.global.u32 [%out], %one;",
        "ld.volatile.global.u32 %r1, [%out]; fence.acq_rel.gpu;",
    );
    no_race(&body(fenced, fencing), 2, 32);
    no_race(&body(release, fencing), 2, 32);
    race(&body("st.volatile.global.u32 [%out], %one;", fencing), 2, 32);
}

#[test]
fn a_copy_is_known_to_others_only_if_it_was_waited_for_before_the_barrier() {
    let body = |before: &str, after: &str| {
        format!(
            "
        shl.b32 %r1, %t, 2;
        mov.u32 %r2, s;
        add.u32 %r3, %r2, %r1;
        cp.async.ca.shared.global [%r3], [%out], 4;
        cp.async.commit_group;
        {before}
        bar.sync 0;
        {after}
        xor.b32 %r1, %r1, 128;
        add.u32 %r3, %r2, %r1;
        ld.shared.u32 %r4, [%r3];"
        )
    };
    no_race(&body("cp.async.wait_group 0;", ""), 1, 64);
    // The first warp to go on finds the other's copies in flight; who waits late and reads later, a race.
    assert!(run(&body("", "cp.async.wait_group 0;"), 1, 64).is_err());
}

#[test]
fn an_mbarrier_orders_who_arrives_before_who_waits() {
    // One lane arrives for its warp: the others must be done.
    let body = |sync: &str, wait: &str| {
        format!(
            "
        .shared .align 8 .b64 full;
        @%first mbarrier.init.shared.b64 [full], 1;
        bar.sync 0;
        setp.lt.u32 %p1, %t, 32;
        mov.u32 %r3, s;
        mad.lo.u32 %r3, %lane, 4, %r3;
        @%p1 bra PRODUCER;
        WAIT: {wait}
        ld.shared.u32 %r4, [%r3];
        bra END;
        PRODUCER: st.shared.u32 [%r3], %t;
        {sync}
        @%first mbarrier.arrive.shared.b64 %rd5, [full];
        END: "
        )
    };
    let wait = "mbarrier.try_wait.parity.shared.b64 %p2, [full], 0; @!%p2 bra WAIT;";
    no_race(&body("bar.warp.sync 0xffffffff;", wait), 1, 64);
    race(&body("", wait), 1, 64);
    race(&body("bar.warp.sync 0xffffffff;", ""), 1, 64);
}

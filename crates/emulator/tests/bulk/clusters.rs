//! Copies and reductions between the blocks of a cluster.

use super::*;

const SYNC: &str = "barrier.cluster.arrive.release.aligned; barrier.cluster.wait.acquire.aligned;";

/// Every block initialises its first barrier and expects so many bytes; then all know.
fn expect_all(bytes: u32) -> String {
    format!(
        "@%q mbarrier.init.shared::cta.b64 [bar], 1; @%q fence.mbarrier_init.release.cluster;
        @%q mbarrier.arrive.expect_tx.shared::cta.b64 _, [bar], {bytes}; {SYNC}"
    )
}

/// Each block loads its part of 256 bytes, and sends it to the blocks of a mask.
fn multicast(blocks: u32, mask: &str, wait: &str) -> String {
    let part = 256 / blocks;
    format!(
        "{} mov.b16 %h1, {mask}; mul.lo.u32 %r4, %rank, {part}; add.u32 %r5, %buffer, %r4;
        cvt.u64.u32 %rd1, %r4; add.s64 %rd1, %in, %rd1;
        @%q cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster [%r5], [%rd1], {part}, [bar], %h1;
        {wait} {SHOW} {SYNC}",
        expect_all(256)
    )
}

#[test]
fn each_block_of_the_mask_gets_what_is_multicast() {
    for (blocks, mask) in [(2, "3"), (4, "15")] {
        let setup = Setup { cluster: blocks, ..ONE };
        let (out, report) = launch(&multicast(blocks, mask, WAIT), setup).unwrap_or_else(|it| panic!("{it}"));
        for block in 0..blocks as usize {
            assert!((0..256).all(|i| out[1024 * block + i] == input(i)), "{blocks}, {block}");
        }
        let read = report.global_unique_bytes_read;
        assert_eq!((read, report.total.bulk_bytes), (256, 256 * u64::from(blocks)));
    }
}

#[test]
fn a_block_of_the_mask_that_the_cluster_has_not_is_found() {
    let problem = problem(&multicast(2, "7", WAIT), Setup { cluster: 2, ..ONE });
    assert!(matches!(problem, Problem::OutOfBounds { .. }), "{problem}");
}

#[test]
fn a_block_that_is_not_in_the_mask_waits_in_vain() {
    let problem = problem(&multicast(2, "1", WAIT), Setup { cluster: 2, ..ONE });
    assert!(matches!(problem, Problem::Deadlock(_) | Problem::Asynchronous(_)), "{problem}");
}

/// Each block fills its buffer and sends 256 bytes of it to the next block, 4096 bytes further.
fn send(form: &str, before: &str, after: &str) -> String {
    format!(
        "{FILL} {before} fence.proxy.async; {}
        add.u32 %r4, %rank, 1; and.b32 %r4, %r4, 1; add.u32 %r5, %buffer, 4096;
        mapa.shared::cluster.u32 %r5, %r5, %r4; mapa.shared::cluster.u32 %r6, %bar, %r4;
        @%q {form} [%r5], [buffer+16], 256, [%r6];
        {after} {WAIT} ld.shared.u32 %r1, [%to+4096]; st.global.u32 [%mine], %r1; {SYNC}",
        expect_all(256)
    )
}

const SEND: &str = "cp.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes";
const ADD: &str = "cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.add.u32";
const PAIR: Setup = Setup { cluster: 2, checks: Checks::ALL };

#[test]
fn a_block_sends_to_another() {
    let (out, report) = launch(&send(SEND, "", ""), PAIR).unwrap_or_else(|fault| panic!("{fault}"));
    assert!([0, 1024].iter().all(|block| (0..256).all(|i| out[block + i] == input(16 + i))));
    assert_eq!(report.total.bulk_bytes, 512);
}

#[test]
fn overwriting_what_is_being_sent_is_found() {
    let again = |sync: &str| format!("{sync} @%q st.shared.u32 [buffer+16], %t;");
    let landed = format!("{} {SYNC}", WAIT.replace("WAIT", "EARLY"));
    for (form, before) in [(SEND, ""), (ADD, "st.shared.u32 [%to+4096], %t;")] {
        let Problem::Asynchronous(what) = problem(&send(form, before, &again("")), PAIR) else { panic!() };
        assert!(what.contains("may still read"), "{what}");
        launch(&send(form, before, &again(&landed)), PAIR).unwrap_or_else(|fault| panic!("{fault}"));
    }
}

#[test]
fn a_block_that_ends_before_what_it_sent_was_read_is_found() {
    // The first block does not wait for the second, which waits for what comes only after a while.
    let slow = "mov.u32 %r9, 0; setp.eq.u32 %p3, %rank, 0; @%p3 bra GO;
        SPIN: add.u32 %r9, %r9, 1; setp.lt.u32 %p4, %r9, 20000; @%p4 bra SPIN; GO:";
    let body = |last: &str| {
        format!(
            "{FILL} fence.proxy.async; {} mov.u32 %r4, 1; add.u32 %r5, %buffer, 4096;
            mapa.shared::cluster.u32 %r5, %r5, %r4; mapa.shared::cluster.u32 %r6, %bar, %r4;
            setp.eq.u32 %p5, %rank, 0; and.pred %p6, %p5, %q; @%p6 {SEND} [%r5], [buffer], 256, [%r6];
            {slow} @%p5 bra END; {WAIT} END: {last}",
            expect_all(256)
        )
    };
    let Problem::Asynchronous(what) = problem(&body(""), PAIR) else { panic!() };
    assert!(what.contains("256 bytes of its shared memory are on their way to block rank 1"), "{what}");
    launch(&body(SYNC), PAIR).unwrap_or_else(|fault| panic!("{fault}"));
}

#[test]
fn a_copy_to_the_block_itself_is_found() {
    let body = format!("{FILL} {FENCE} {} @%q {SEND} [buffer+4096], [buffer], 64, [bar];", expect(64));
    assert!(fault(&body).contains("must go to another block"));
}

#[test]
fn a_copy_that_signals_the_barrier_of_another_block_than_it_goes_to_is_found() {
    let wrong = send(SEND, "", "").replace("%r5, %r5, %r4", "%r5, %r5, %rank");
    let Problem::Asynchronous(what) = problem(&wrong, PAIR) else { panic!() };
    assert!(what.contains("signals an mbarrier of block rank"), "{what}");
}

#[test]
fn a_copy_to_shared_cta_of_another_block_is_found() {
    let body = format!(
        "{} xor.b32 %r4, %rank, 1; mapa.shared::cluster.u32 %r5, %buffer, %r4; mapa.shared::cluster.u32 %r6, %bar, %r4;
        @%q cp.async.bulk.shared::cta.global.mbarrier::complete_tx::bytes [%r5], [%in], 64, [%r6]; {SYNC}",
        expect_all(64)
    );
    let Problem::Asynchronous(what) = problem(&body, PAIR) else { panic!() };
    assert!(what.contains("not the block itself"), "{what}");
}

#[test]
fn reductions_into_another_block_are_those_of_their_names() {
    let word = |i: usize| u32::from_le_bytes(std::array::from_fn(|k| input(i + k)));
    type F = fn(u32, u32) -> u32;
    let cases: [(&str, F); 12] = [
        ("add.u32", u32::wrapping_add),
        ("add.s32", u32::wrapping_add),
        ("min.u32", u32::min),
        ("max.u32", u32::max),
        ("min.s32", |a, b| (a as i32).min(b as i32) as u32),
        ("max.s32", |a, b| (a as i32).max(b as i32) as u32),
        ("and.b32", |a, b| a & b),
        ("or.b32", |a, b| a | b),
        ("xor.b32", |a, b| a ^ b),
        ("inc.u32", |a, b| if a >= b { 0 } else { a + 1 }),
        ("dec.u32", |a, b| if a == 0 || a > b { b } else { a - 1 }),
        // Of the halves of 64 bits, as long as the lower ones have no carry: see below.
        ("add.u64", u32::wrapping_add),
    ];
    let before = "not.b32 %r1, %t; mul.lo.u32 %r1, %r1, 77777777; st.shared.u32 [%to+4096], %r1;";
    let old = |i: usize| (!(i as u32 / 4)).wrapping_mul(77_777_777);
    for (name, f) in cases {
        let form =
            format!("cp.reduce.async.bulk.shared::cluster.shared::cta.mbarrier::complete_tx::bytes.{name}");
        let (out, _) =
            launch(&send(&form, before, ""), PAIR).unwrap_or_else(|fault| panic!("{name}: {fault}"));
        for i in (0..256).step_by(4) {
            let mut expected = f(old(i), word(16 + i));
            if name == "add.u64" && i % 8 == 4 {
                let carry = (u64::from(old(i - 4)) + u64::from(word(12 + i))) >> 32;
                expected = expected.wrapping_add(carry as u32);
            }
            assert_eq!(out[i..i + 4], expected.to_le_bytes(), "{name} at {i}");
        }
    }
}

#[test]
fn a_reduction_of_what_nobody_wrote_or_fenced_is_found() {
    let problem = problem(&send(ADD, "", ""), PAIR);
    assert!(matches!(problem, Problem::Uninitialised { .. }), "{problem}");
    let write = "st.shared.u32 [%to+4096], %t;";
    let late = send(ADD, "", "").replace("fence.proxy.async;", &format!("fence.proxy.async; {write}"));
    let Problem::Asynchronous(what) = super::problem(&late, PAIR) else { panic!() };
    assert!(what.contains("without fence.proxy.async since"), "{what}");
    launch(&send(ADD, write, ""), PAIR).unwrap();
}

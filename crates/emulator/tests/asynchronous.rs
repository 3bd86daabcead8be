//! Asynchronous copies: each fault planted, and mended.

use longhand_emulator::{Arch, Checks, Fault, Gpu, Module, Options, Problem, Report, Shape};

/// An entry `k` whose threads have: `%t`, the thread's number in the block; `%rank`, the block's in the cluster;
/// `%mine`, the address of the thread's own word of the output; `%from`, that of its own 16 bytes of the input; `%to`,
/// that of its own 16 bytes of the shared array `buffer`; `bar`, shared memory for 8 barriers.
fn kernel(body: &str) -> String {
    format!(
        "
.version 9.0
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 in, .param .u64 out)
{{
.reg .pred %p<16>, %q;
.reg .b32 %r<32>;
.reg .b64 %rd<32>, %s<8>;
.reg .b32 %t, %rank, %to, %word;
.reg .b64 %in, %out, %mine, %from, %wide;
.shared .align 1024 .b8 buffer[16384];
.shared .align 8 .b64 bar[8];
ld.param.u64 %in, [in];
ld.param.u64 %out, [out];
mov.u32 %t, %tid.x;
mov.u32 %rank, %cluster_ctarank;
mov.u32 %word, %ctaid.x;
mad.lo.u32 %word, %word, 256, %t;
mul.wide.u32 %wide, %word, 4;
add.s64 %mine, %out, %wide;
mul.wide.u32 %wide, %t, 16;
add.s64 %from, %in, %wide;
mov.u32 %to, buffer;
mad.lo.u32 %to, %t, 16, %to;
{body}
}}
"
    )
}

/// How a kernel is launched.
#[derive(Clone, Copy)]
struct Setup {
    cluster: u32,
    threads: u32,
    checks: Checks,
}

const WARP: Setup = Setup { cluster: 1, threads: 32, checks: Checks::ALL };

/// Words of the input, of which word `i` is `1000 + i`, and of the output.
const WORDS: u32 = 4096;

fn launch(body: &str, setup: Setup) -> Result<(Vec<u32>, Report), Fault> {
    let options = Options { checks: setup.checks, ..Options::default() };
    let gpu = Gpu::with_options("sm_90a".parse::<Arch>().unwrap(), options);
    let module = Module::from_ptx(&gpu, &kernel(body)).unwrap_or_else(|error| panic!("{error}"));
    let [input, output] = [(); 2].map(|()| gpu.alloc(u64::from(4 * WORDS)).unwrap());
    let data: Vec<u8> = (0..WORDS).flat_map(|i| (1000 + i).to_le_bytes()).collect();
    gpu.upload(input, &data).unwrap();
    gpu.fill(output, 0, data.len() as u64).unwrap();
    let shape = Shape {
        grid: [setup.cluster, 1, 1],
        block: [setup.threads, 1, 1],
        cluster: [setup.cluster, 1, 1],
        dynamic_shared: 0,
    };
    let params: Vec<u8> = [input, output].iter().flat_map(|it| it.to_le_bytes()).collect();
    let report = module.launch("k", &shape, &params)?;
    let mut bytes = vec![0; data.len()];
    gpu.download(output, &mut bytes).unwrap();
    Ok((bytes.chunks(4).map(|it| u32::from_le_bytes(it.try_into().unwrap())).collect(), report))
}

fn run(body: &str) -> Vec<u32> {
    launch(body, WARP).unwrap_or_else(|fault| panic!("{fault}")).0
}

/// The text of the asynchronous fault that a launch meets.
#[track_caller]
fn fault(body: &str, setup: Setup) -> String {
    match launch(body, setup) {
        Err(Fault { problem: Problem::Asynchronous(what), .. }) => what,
        Err(other) => panic!("another fault: {other}"),
        Ok(_) => panic!("no fault: {body}"),
    }
}

/// Why a kernel cannot be loaded.
#[track_caller]
fn refusal(body: &str) -> String {
    match Module::from_ptx(&Gpu::new("sm_90a".parse().unwrap()), &kernel(body)) {
        Err(error) => error.to_string(),
        Ok(_) => panic!("the module was loaded"),
    }
}

mod lanes {
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
        let read =
            |group: u32| format!("ld.shared.u32 %r1, [%to+{}]; st.global.u32 [%mine], %r1;", 1024 * group);
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
                "{copy} {wait} st.global.u32 [%out], %r1; st.global.u32 [%out+4], %r2;
                setp.eq.u32 %p1, %t, 0; @!%p1 exit; st.global.u32 [%out], %r1; st.global.u32 [%out+4], %r2;"
            ));
            assert_eq!(out[..2], expected, "{bytes}");
        }
    }
}

mod barriers {
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
            (
                format!("{init32} mbarrier.expect_tx.relaxed.cta.shared::cta.b64 [bar], 40000;"),
                "at most 1048575",
            ),
            (
                format!(
                    "{init32} mbarrier.arrive.shared.b64 _, [bar]; @%q mbarrier.inval.shared.b64 [bar]; @%q mbarrier.arrive.shared.b64 _, [bar];"
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
            assert!(what.contains(&*expected), "{what}, and not: {expected}\n{body}");
        }
        let mended = "mbarrier.arrive.shared.b64 _, [bar]; @%q mbarrier.inval.shared.b64 [bar];
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
}

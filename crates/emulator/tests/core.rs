//! The machine itself: lanes that part and meet, calls, barriers, memory.

use longhand_emulator::{Arch, Checks, Fault, Gpu, Module, Options, Problem, Report, Shape};

fn gpu() -> Gpu {
    Gpu::new("sm_90a".parse::<Arch>().unwrap())
}

/// A module of one entry `k` that gets an address `%out` and its thread number `%t`.
fn kernel(declarations: &str, body: &str) -> String {
    format!(
        "
.version 9.0
.target sm_90a
.address_size 64
{declarations}
.visible .entry k(.param .u64 out)
{{
.reg .pred %p<8>;
.reg .b32 %r<32>;
.reg .b64 %rd<32>;
.reg .b32 %t;
.reg .b64 %out;
.reg .b64 %mine;
ld.param.u64 %out, [out];
mov.u32 %t, %tid.x;
mov.u64 %mine, %out;
{{
.reg .b32 %lo, %hi;
.reg .b64 %wide;
shl.b32 %lo, %t, 2;
mov.u32 %hi, 0;
mov.b64 %wide, {{%lo, %hi}};
add.s64 %mine, %out, %wide;
}}
{body}
}}
"
    )
}

fn run(text: &str, block: u32) -> Result<(Vec<u32>, Report), Fault> {
    run_on(&gpu(), text, 1, block)
}

fn run_on(gpu: &Gpu, text: &str, grid: u32, block: u32) -> Result<(Vec<u32>, Report), Fault> {
    let module = Module::from_ptx(gpu, text).unwrap_or_else(|error| panic!("{error}"));
    let out = gpu.alloc(4 * 4096).unwrap();
    gpu.fill(out, 0, 4 * 4096).unwrap();
    let shape = Shape { grid: [grid, 1, 1], block: [block, 1, 1], cluster: [1; 3], dynamic_shared: 0 };
    let report = module.launch("k", &shape, &out.to_le_bytes())?;
    let mut bytes = vec![0; 4 * 4096];
    gpu.download(out, &mut bytes).unwrap();
    Ok((bytes.chunks(4).map(|it| u32::from_le_bytes(it.try_into().unwrap())).collect(), report))
}

#[test]
fn every_thread_stores_its_number() {
    let (out, _) = run(&kernel("", "st.global.u32 [%mine], %t;"), 70).unwrap();
    assert_eq!(out[..70], (0..70).collect::<Vec<u32>>());
    assert_eq!(out[70], 0);
}

#[test]
fn lanes_that_part_meet_again() {
    let body = "
        setp.lt.u32 %p1, %t, 5;
        @%p1 bra LOW;
        mov.u32 %r1, 100;
        bra JOIN;
        LOW: mov.u32 %r1, 200;
        JOIN: bar.sync 0;
        st.global.u32 [%mine], %r1;";
    let (out, report) = run(&kernel("", body), 32).unwrap();
    assert_eq!((out[4], out[5]), (200, 100));
    assert_eq!(report.total.divergent_branches, 1);
}

#[test]
fn a_barrier_in_divergent_code_is_found() {
    let body = "
        setp.lt.u32 %p1, %t, 5;
        @!%p1 bra SKIP;
        bar.sync 0;
        SKIP: st.global.u32 [%mine], %t;";
    let fault = run(&kernel("", body), 32).unwrap_err();
    assert!(matches!(fault.problem, Problem::Synchronisation(_)), "{fault}");
}

#[test]
fn a_lane_that_spins_lets_the_lane_it_waits_for_go_on() {
    let body = "
        .shared .u32 flag;
        mov.u32 %r3, 0;
        st.volatile.shared.u32 [flag], %r3;
        bar.warp.sync 0xffffffff;
        setp.eq.u32 %p1, %t, 0;
        @!%p1 bra WRITE;
        SPIN: ld.volatile.shared.u32 %r1, [flag];
        setp.eq.u32 %p2, %r1, 0;
        @%p2 bra SPIN;
        bra DONE;
        WRITE: mov.u32 %r2, 1;
        st.volatile.shared.u32 [flag], %r2;
        DONE: st.global.u32 [%mine], %t;";
    let (out, _) = run(&kernel("", body), 32).unwrap();
    assert_eq!(out[31], 31);
}

#[test]
fn a_recursive_function_has_its_own_registers_in_each_activation() {
    let function = "
.func (.reg .b32 %result) factorial(.reg .b32 %n)
{
.reg .pred %p;
.reg .b32 %a, %b;
setp.eq.u32 %p, %n, 0;
@%p bra ONE;
sub.s32 %a, %n, 1;
call.uni (%b), factorial, (%a);
mul.lo.s32 %result, %b, %n;
ret;
ONE: mov.u32 %result, 1;
ret;
}";
    let body = "call (%r1), factorial, (%t); st.global.u32 [%mine], %r1;";
    let (out, _) = run(&kernel(function, body), 10).unwrap();
    assert_eq!(out[..6], [1, 1, 2, 6, 24, 120]);
}

#[test]
fn a_store_out_of_bounds_names_the_thread_and_the_line() {
    let body = "add.s64 %mine, %mine, 16380;\nst.global.u32 [%mine], %t;";
    let fault = run(&kernel("", body), 4).unwrap_err();
    assert!(matches!(fault.problem, Problem::OutOfBounds { .. }), "{fault}");
    let place = fault.place.unwrap();
    assert_eq!((place.lane, place.text.as_str()), (1, "st.global.u32 [%mine], %t;"));
}

#[test]
fn threads_that_wait_for_each_other_are_a_deadlock_that_says_where() {
    let body = "
        setp.lt.u32 %p1, %t, 32;
        @%p1 bra FIRST;
        bar.sync 1, 64;
        bra END;
        FIRST: bar.sync 2, 64;
        END: st.global.u32 [%mine], %t;";
    let fault = run(&kernel("", body), 64).unwrap_err();
    let Problem::Deadlock(waits) = &fault.problem else { panic!("{fault}") };
    assert_eq!(waits.len(), 2);
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let body = "
        mov.u32 %r1, %ctaid.x;
        mad.lo.s32 %r2, %r1, 64, %t;
        mul.wide.u32 %rd1, %r2, 4;
        add.s64 %rd2, %out, %rd1;
        st.global.u32 [%rd2], %r2;";
    let text = kernel("", body);
    let results = [1, 2, 5].map(|threads| {
        let options = Options { threads, ..Options::default() };
        run_on(&Gpu::with_options("sm_80".parse().unwrap(), options), &text, 33, 64).unwrap()
    });
    assert!(results.iter().all(|it| *it == results[0]));
}

#[test]
fn uninitialised_memory_is_found_only_where_that_is_asked_for() {
    let body = ".shared .u32 x[32]; ld.shared.u32 %r1, [x]; st.global.u32 [%mine], %r1;";
    let text = kernel("", body);
    let fault = run(&text, 1).unwrap_err();
    assert!(matches!(fault.problem, Problem::Uninitialised { .. }), "{fault}");
    let options = Options { checks: Checks::NONE, ..Options::default() };
    let (out, _) = run_on(&Gpu::with_options("sm_80".parse().unwrap(), options), &text, 1, 1).unwrap();
    assert_eq!(out[0], u32::MAX);
}

//! Races: each kind of order with the fault planted and mended.

#[path = "../common/mod.rs"]
mod common;

mod clusters;
mod engines;
mod oracle;
mod threads;

use common::Run;
use longhand_emulator::{Checks, Fault, Options, Problem, Report, Shape};

/// Words of global memory that a test kernel may use, all 0 at first.
const WORDS: usize = 4096;

/// An entry `k(out)`: `%t` is the thread, `%b` the block, `%rank` the block in its cluster, `%out` the address of the
/// words, `%mine` that of the thread's own word of the block's own 256; `s` are 1024 words of shared memory, of which
/// each thread has initialised every 256th, with a barrier behind, and `%st` is the address of its own first one.
fn kernel(body: &str) -> String {
    format!(
        "
.version 9.0
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 out)
{{
.reg .pred %p<8>, %first;
.reg .b16 %h<8>;
.reg .b32 %r<32>, %t, %b, %rank, %zero, %one, %st, %lane, %warp;
.reg .b64 %rd<32>, %out, %mine;
.shared .align 1024 .b32 s[1024];
.shared .align 8 .b64 bar[8];
ld.param.u64 %out, [out];
mov.u32 %t, %tid.x;
mov.u32 %b, %ctaid.x;
mov.u32 %rank, %cluster_ctarank;
mov.u32 %zero, 0;
mov.u32 %one, 1;
and.b32 %lane, %t, 31;
shr.u32 %warp, %t, 5;
setp.eq.u32 %first, %t, 0;
mad.lo.u32 %r0, %b, 256, %t;
mul.wide.u32 %rd0, %r0, 4;
add.s64 %mine, %out, %rd0;
mov.u32 %st, s;
mad.lo.u32 %st, %t, 4, %st;
st.shared.u32 [%st], %zero;
st.shared.u32 [%st + 1024], %zero;
st.shared.u32 [%st + 2048], %zero;
st.shared.u32 [%st + 3072], %zero;
bar.sync 0;
{body}
}}
"
    )
}

fn run_with(options: (usize, Checks), body: &str, shape: &Shape) -> Result<(Report, Vec<u32>), Fault> {
    let (threads, checks) = options;
    let run =
        Run { options: Options { threads, checks, ..Options::default() }, shape: *shape, ..Run::default() };
    let mut words = [vec![0; WORDS]];
    let report = run.launch(&kernel(body), &mut words)?;
    let [words] = words;
    Ok((report, words))
}

fn shape(grid: u32, block: u32) -> Shape {
    Shape { grid: [grid, 1, 1], block: [block, 1, 1], cluster: [1; 3], dynamic_shared: 0 }
}

fn run(body: &str, grid: u32, block: u32) -> Result<Report, Fault> {
    run_with((0, Checks::ALL), body, &shape(grid, block)).map(|(report, _)| report)
}

/// What a launch meets, whatever the number of CPU threads.
#[track_caller]
fn fault(body: &str, shape: &Shape) -> Fault {
    let faults = [1, 2, 5].map(|threads| match run_with((threads, Checks::ALL), body, shape) {
        Ok(_) => panic!("nothing was found"),
        Err(fault) => fault,
    });
    assert!(faults.iter().all(|it| *it == faults[0]), "{faults:?}");
    let [fault, ..] = faults;
    fault
}

/// The lines of the two accesses of a race: the later one's, and the earlier one's.
#[track_caller]
fn race_in(body: &str, shape: &Shape) -> (String, String) {
    let fault = fault(body, shape);
    match fault.problem {
        Problem::Race { ref earlier, .. } => (fault.place.unwrap().text, earlier.text.clone()),
        _ => panic!("{fault}"),
    }
}

/// Nothing is found, and the counts are the same, whatever the number of CPU threads.
#[track_caller]
fn no_race_in(body: &str, shape: &Shape) {
    let reports = [1, 2, 5].map(|threads| match run_with((threads, Checks::ALL), body, shape) {
        Ok((report, _)) => report,
        Err(fault) => panic!("{fault}"),
    });
    assert!(reports.iter().all(|it| *it == reports[0]), "{reports:?}");
}

#[track_caller]
fn race(body: &str, grid: u32, block: u32) -> (String, String) {
    race_in(body, &shape(grid, block))
}

#[track_caller]
fn no_race(body: &str, grid: u32, block: u32) {
    no_race_in(body, &shape(grid, block));
}

/// The mended text has no race, and with one line of it left out it has one.
#[track_caller]
fn needs_in(line: &str, mended: &str, shape: &Shape) -> (String, String) {
    assert_eq!(mended.matches(line).count(), 1, "{line}");
    no_race_in(mended, shape);
    race_in(&mended.replace(line, ""), shape)
}

#[track_caller]
fn needs(line: &str, mended: &str, grid: u32, block: u32) -> (String, String) {
    needs_in(line, mended, &shape(grid, block))
}

//! Asynchronous copies: each fault planted, and mended.

#[path = "../common/mod.rs"]
mod common;

mod barriers;
mod clusters;
mod copies;
mod hints;
mod registers;

use common::Run;
use longhand_emulator::{Checks, Fault, Gpu, Module, Options, Problem, Report, Shape};

/// An entry `k` whose threads have: `%t`, the thread's number in the block; `%rank`, the block's in the cluster;
/// `%mine`, the address of the thread's own word of the output; `%from`, that of its own 16 bytes of the input; `%to`,
/// that of its own 16 bytes of the shared array `buffer`; `bar`, shared memory for 8 barriers.
fn kernel(body: &str) -> String {
    kernel_with("", body)
}

/// The same, with directives that bound the launch.
fn kernel_with(directives: &str, body: &str) -> String {
    format!(
        "
.version 9.0
.target sm_90a
.address_size 64
.visible .entry k(.param .u64 in, .param .u64 out) {directives}
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
    launch_text(&kernel(body), setup)
}

fn launch_text(text: &str, setup: Setup) -> Result<(Vec<u32>, Report), Fault> {
    let Setup { cluster, threads, checks } = setup;
    let options = Options { checks, ..Options::default() };
    let shape =
        Shape { grid: [cluster, 1, 1], block: [threads, 1, 1], cluster: [cluster, 1, 1], dynamic_shared: 0 };
    let mut buffers = [(0..WORDS).map(|i| 1000 + i).collect(), vec![0; WORDS as usize]];
    let report = Run { options, shape, ..Run::default() }.launch(text, &mut buffers)?;
    let [_, output] = buffers;
    Ok((output, report))
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

//! What is not known is an error when a module is loaded, with the instruction and its line; nothing is passed over.

use std::collections::BTreeSet;

use longhand_emulator::{Arch, Gpu, LoadError, Module};

/// One instruction of each form that is supported, by the form's name.
const EXAMPLES: &[(&str, &str)] = &[
    ("abs (float)", "abs.f32 f0, f1"),
    ("abs (half)", "abs.f16x2 r0, r1"),
    ("abs (integer)", "abs.s32 r0, r1"),
    ("activemask", "activemask.b32 r0"),
    ("add (float)", "add.rn.f32 f0, f1, f2"),
    ("add (half)", "add.rn.f16 h0, h1, h2"),
    ("add (integer)", "add.u32 r0, r1, r2"),
    ("add.cc", "add.cc.u32 r0, r1, r2"),
    ("addc", "addc.cc.u32 r0, r1, r2"),
    ("and", "and.b32 r0, r1, r2"),
    ("applypriority", "applypriority.global.L2::evict_normal [d0], 128"),
    ("atom", "atom.global.add.u32 r0, [d0], r1"),
    ("bar", "bar.sync 0"),
    ("bar.warp.sync", "bar.warp.sync -1"),
    ("barrier", "barrier.sync 0"),
    ("barrier.cluster.arrive", "barrier.cluster.arrive.aligned"),
    ("barrier.cluster.wait", "barrier.cluster.wait.aligned"),
    ("bfe", "bfe.u32 r0, r1, r2, r3"),
    ("bfi", "bfi.b32 r0, r1, r2, r3, r4"),
    ("bfind", "bfind.u32 r0, r1"),
    ("bmsk", "bmsk.clamp.b32 r0, r1, r2"),
    ("bra", "bra.uni end"),
    ("brev", "brev.b32 r0, r1"),
    ("brkpt", "brkpt"),
    ("brx.idx", "brx.idx r0, targets"),
    ("call", "call.uni f"),
    ("clz", "clz.b32 r0, r1"),
    ("cnot", "cnot.b32 r0, r1"),
    ("copysign", "copysign.f32 f0, f1, f2"),
    ("cos", "cos.approx.f32 f0, f1"),
    ("cp.async", "cp.async.ca.shared.global [tile], [d0], 16"),
    (
        "cp.async.bulk",
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [tile], [d0], 16, [tile]",
    ),
    ("cp.async.bulk.commit_group", "cp.async.bulk.commit_group"),
    ("cp.async.bulk.prefetch", "cp.async.bulk.prefetch.L2.global [d0], 16"),
    ("cp.async.bulk.prefetch.tensor", "cp.async.bulk.prefetch.tensor.1d.L2.global.tile [d0, {r0}]"),
    ("cp.async.bulk.tensor", "cp.async.bulk.tensor.1d.global.shared::cta.tile.bulk_group [d0, {r0}], [tile]"),
    ("cp.async.bulk.wait_group", "cp.async.bulk.wait_group.read 0"),
    ("cp.async.commit_group", "cp.async.commit_group"),
    ("cp.async.mbarrier.arrive", "cp.async.mbarrier.arrive.noinc.shared.b64 [tile]"),
    ("cp.async.wait_all", "cp.async.wait_all"),
    ("cp.async.wait_group", "cp.async.wait_group 0"),
    ("cp.reduce.async.bulk", "cp.reduce.async.bulk.global.shared::cta.bulk_group.add.u32 [d0], [tile], 16"),
    (
        "cp.reduce.async.bulk.tensor",
        "cp.reduce.async.bulk.tensor.1d.global.shared::cta.add.tile.bulk_group [d0, {r0}], [tile]",
    ),
    ("createpolicy", "createpolicy.fractional.L2::evict_last.b64 d0"),
    ("cvt", "cvt.rn.f32.u32 f0, r1"),
    ("cvt.pack", "cvt.pack.sat.u8.s32.b32 r0, r1, r2, r3"),
    ("cvta", "cvta.shared.u64 d0, d1"),
    ("discard", "discard.global.L2 [d0], 128"),
    ("div (float)", "div.rn.f32 f0, f1, f2"),
    ("div (integer)", "div.u32 r0, r1, r2"),
    ("dp2a", "dp2a.lo.u32.s32 r0, r1, r2, r3"),
    ("dp4a", "dp4a.u32.s32 r0, r1, r2, r3"),
    ("elect", "elect.sync r0|p0, -1"),
    ("ex2 (float)", "ex2.approx.f32 f0, f1"),
    ("ex2 (half)", "ex2.approx.f16 h0, h1"),
    ("exit", "exit"),
    ("fence", "fence.acq_rel.gpu"),
    ("fence.mbarrier_init", "fence.mbarrier_init.release.cluster"),
    ("fence.proxy", "fence.proxy.async"),
    ("fence.proxy.tensormap::generic", "fence.proxy.tensormap::generic.release.gpu"),
    ("fma (float)", "fma.rn.f32 f0, f1, f2, f3"),
    ("fma (half)", "fma.rn.bf16x2 r0, r1, r2, r3"),
    ("fns", "fns.b32 r0, r1, r2, r3"),
    ("getctarank", "getctarank.shared::cluster.u32 r0, r1"),
    ("griddepcontrol", "griddepcontrol.wait"),
    ("isspacep", "isspacep.shared p0, d0"),
    ("ld", "ld.global.nc.v2.f32 {f0, f1}, [d0]"),
    ("ldmatrix", "ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {r0}, [tile]"),
    ("ldu", "ldu.global.u32 r0, [d0]"),
    ("lg2", "lg2.approx.f32 f0, f1"),
    ("lop3", "lop3.b32 r0, r1, r2, r3, 0x80"),
    ("mad (float)", "mad.rn.f32 f0, f1, f2, f3"),
    ("mad (integer)", "mad.lo.u32 r0, r1, r2, r3"),
    ("mad24", "mad24.lo.u32 r0, r1, r2, r3"),
    ("madc", "madc.lo.cc.u32 r0, r1, r2, r3"),
    ("mapa", "mapa.shared::cluster.u32 r0, r1, r2"),
    ("match", "match.any.sync.b32 r0, r1, -1"),
    ("max (float)", "max.NaN.f32 f0, f1, f2"),
    ("max (half)", "max.NaN.bf16 h0, h1, h2"),
    ("max (integer)", "max.s32 r0, r1, r2"),
    ("mbarrier.arrive", "mbarrier.arrive.shared.b64 d0, [tile]"),
    ("mbarrier.arrive_drop", "mbarrier.arrive_drop.shared.b64 d0, [tile]"),
    ("mbarrier.complete_tx", "mbarrier.complete_tx.relaxed.cluster.shared::cluster.b64 [tile], r0"),
    ("mbarrier.expect_tx", "mbarrier.expect_tx.relaxed.cta.shared.b64 [tile], r0"),
    ("mbarrier.init", "mbarrier.init.shared.b64 [tile], 1"),
    ("mbarrier.inval", "mbarrier.inval.shared.b64 [tile]"),
    ("mbarrier.pending_count", "mbarrier.pending_count.b64 r0, d0"),
    ("mbarrier.test_wait", "mbarrier.test_wait.parity.shared.b64 p0, [tile], r0"),
    ("mbarrier.try_wait", "mbarrier.try_wait.parity.shared.b64 p0, [tile], r0"),
    ("membar", "membar.gl"),
    ("min (float)", "min.f64 e0, e1, e2"),
    ("min (half)", "min.f16 h0, h1, h2"),
    ("min (integer)", "min.u64 d0, d1, d2"),
    (
        "mma",
        "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {f0, f1, f2, f3}, {r0, r1, r2, r3}, {r4, r5}, {f0, f1, f2, f3}",
    ),
    (
        "mma.sp",
        "mma.sp.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {f0, f1, f2, f3}, {r0, r1}, {r2, r3}, {f0, f1, f2, f3}, r4, 0",
    ),
    (
        "mma.sp::ordered_metadata",
        "mma.sp::ordered_metadata.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {f0, f1, f2, f3}, {r0, r1}, {r2, r3}, {f0, f1, f2, f3}, r4, 0",
    ),
    ("mov", "mov.u32 r0, r1"),
    ("movmatrix", "movmatrix.sync.aligned.m8n8.trans.b16 r0, r1"),
    ("mul (float)", "mul.rz.f64 e0, e1, e2"),
    ("mul (half)", "mul.rn.f16 h0, h1, h2"),
    ("mul (integer)", "mul.wide.u32 d0, r1, r2"),
    ("mul24", "mul24.hi.s32 r0, r1, r2"),
    ("nanosleep", "nanosleep.u32 10"),
    ("neg (float)", "neg.f32 f0, f1"),
    ("neg (half)", "neg.f16 h0, h1"),
    ("neg (integer)", "neg.s64 d0, d1"),
    ("not", "not.pred p0, p1"),
    ("or", "or.b64 d0, d1, d2"),
    ("popc", "popc.b64 r0, d1"),
    ("prefetch", "prefetch.global.L2 [d0]"),
    ("prefetchu", "prefetchu.L1 [d0]"),
    ("prmt", "prmt.b32 r0, r1, r2, r3"),
    ("rcp", "rcp.rn.f32 f0, f1"),
    ("red", "red.global.add.f32 [d0], f0"),
    (
        "red.async",
        "red.async.relaxed.cluster.shared::cluster.mbarrier::complete_tx::bytes.add.u32 [tile], r0, [tile]",
    ),
    ("redux", "redux.sync.add.s32 r0, r1, -1"),
    ("rem", "rem.u32 r0, r1, r2"),
    ("ret", "ret.uni"),
    ("rsqrt", "rsqrt.approx.f32 f0, f1"),
    ("sad", "sad.u32 r0, r1, r2, r3"),
    ("selp", "selp.b32 r0, r1, r2, p0"),
    ("set", "set.lt.u32.f32 r0, f1, f2"),
    ("setmaxnreg", "setmaxnreg.dec.sync.aligned.u32 24"),
    ("setp", "setp.lt.and.f32 p0|p1, f1, f2, p2"),
    ("shf", "shf.l.wrap.b32 r0, r1, r2, r3"),
    ("shfl", "shfl.sync.bfly.b32 r0|p0, r1, 1, 31, -1"),
    ("shl", "shl.b32 r0, r1, r2"),
    ("shr", "shr.s32 r0, r1, r2"),
    ("sin", "sin.approx.f32 f0, f1"),
    ("slct", "slct.u32.s32 r0, r1, r2, r3"),
    ("sqrt", "sqrt.rn.f64 e0, e1"),
    ("st", "st.global.v2.u32 [d0], {r0, r1}"),
    ("st.async", "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.u32 [tile], r0, [tile]"),
    ("stmatrix", "stmatrix.sync.aligned.m8n8.x1.shared.b16 [tile], {r0}"),
    ("sub (float)", "sub.f32 f0, f1, f2"),
    ("sub (half)", "sub.bf16 h0, h1, h2"),
    ("sub (integer)", "sub.s16 h0, h1, h2"),
    ("sub.cc", "sub.cc.u32 r0, r1, r2"),
    ("subc", "subc.u32 r0, r1, r2"),
    ("szext", "szext.clamp.s32 r0, r1, r2"),
    ("tanh (float)", "tanh.approx.f32 f0, f1"),
    ("tanh (half)", "tanh.approx.bf16 h0, h1"),
    (
        "tensormap.cp_fenceproxy",
        "tensormap.cp_fenceproxy.global.shared::cta.tensormap::generic.release.gpu.sync.aligned [d0], [tile], 128",
    ),
    ("tensormap.replace", "tensormap.replace.tile.rank.shared::cta.b1024.b32 [tile], 2"),
    ("testp", "testp.finite.f32 p0, f1"),
    ("trap", "trap"),
    ("vote", "vote.sync.ballot.b32 r0, p0, -1"),
    ("wgmma.commit_group", "wgmma.commit_group.sync.aligned"),
    ("wgmma.fence", "wgmma.fence.sync.aligned"),
    (
        "wgmma.mma_async",
        "wgmma.mma_async.sync.aligned.m64n8k8.f32.tf32.tf32 {f0, f1, f2, f3}, d0, d1, p0, 1, 1",
    ),
    ("wgmma.wait_group", "wgmma.wait_group.sync.aligned 0"),
    ("wmma.load", "wmma.load.a.sync.aligned.row.m16n16k16.global.s8 {r0, r1}, [d0], r2"),
    ("wmma.mma", "wmma.mma.sync.aligned.row.col.m8n8k4.rn.f64.f64.f64.f64 {e0, e1}, {e2}, {e3}, {e0, e1}"),
    ("wmma.store", "wmma.store.d.sync.aligned.row.m8n8k4.global.f64 [d0], {e0, e1}, r2"),
    ("xor", "xor.pred p0, p1, p2"),
];

/// The line of the instruction in the text.
const LINE: u32 = 11;

fn load(instruction: &str) -> Result<Module, LoadError> {
    let text = format!(
        ".version 9.0
.target sm_90a
.address_size 64
.func f() {{ ret; }}
.entry k()
{{
.shared .align 128 .b8 tile[1024];
.reg .b16 h<4>; .reg .b32 r<8>; .reg .b64 d<4>; .reg .f32 f<4>; .reg .f64 e<4>; .reg .pred p<4>;
targets: .branchtargets end;

{instruction};
end:
ret;
}}
"
    );
    Module::from_ptx(&Gpu::new("sm_90a".parse::<Arch>().unwrap()), &text)
}

#[test]
fn there_is_an_example_of_each_instruction_that_is_supported() {
    let table = longhand_emulator::supported();
    let names = |line: &'_ str| Some(line.strip_prefix("| `")?.split_once('`')?.0.to_owned());
    let supported: BTreeSet<String> = table.lines().filter_map(names).collect();
    let examples: BTreeSet<String> = EXAMPLES.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(supported, examples);
    for (name, text) in EXAMPLES {
        assert!(text.starts_with(name.split(' ').next().unwrap()), "{name}");
        load(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}

/// Panics with those of which loading does not fail, or not with the opcode and its line.
fn refused(instructions: &[String]) {
    let is_refused = |instruction: &String| match load(instruction) {
        Err(LoadError::Unsupported(errors)) => {
            let opcode = instruction.split(' ').next().unwrap();
            let first = &errors[0];
            errors.len() == 1 && first.line == LINE && first.instruction == opcode && !first.what.is_empty()
        }
        _ => false,
    };
    let taken: Vec<&String> = instructions.iter().filter(|it| !is_refused(it)).collect();
    assert!(taken.is_empty(), "{taken:#?}");
}

/// The opcode and what follows it.
fn split(text: &str) -> (&str, &str) {
    text.split_at(text.find(' ').unwrap_or(text.len()))
}

#[test]
fn an_unknown_modifier_is_refused_wherever_it_stands() {
    let mut wrong = Vec::new();
    for (_, text) in EXAMPLES {
        let (opcode, operands) = split(text);
        let parts: Vec<&str> = opcode.split('.').collect();
        for at in 1..=parts.len() {
            let mut parts = parts.clone();
            parts.insert(at, "bogus");
            wrong.push(format!("{}{operands}", parts.join(".")));
        }
    }
    refused(&wrong);
}

#[test]
fn a_modifier_again_and_again_is_refused() {
    let mut wrong = Vec::new();
    for (_, text) in EXAMPLES {
        let (opcode, operands) = split(text);
        if let Some((_, last)) = opcode.rsplit_once('.') {
            wrong.push(format!("{opcode}.{last}.{last}.{last}.{last}{operands}"));
        }
    }
    refused(&wrong);
}

#[test]
fn a_missing_or_other_type_is_refused() {
    let is_type = |it: &str| {
        let digits = it.trim_start_matches(|c: char| c.is_ascii_lowercase()).trim_end_matches("x2");
        it == "pred" || matches!(digits, "8" | "16" | "32" | "64") && !it.starts_with('x')
    };
    let mut wrong = Vec::new();
    for (_, text) in EXAMPLES {
        let (opcode, operands) = split(text);
        if let Some((rest, last)) = opcode.rsplit_once('.')
            && is_type(last)
        {
            wrong.extend([format!("{rest}{operands}"), format!("{rest}.b128{operands}")]);
        }
    }
    assert!(wrong.len() > 160, "{} wrong types", wrong.len());
    refused(&wrong);
}

#[test]
fn operands_too_many_or_too_few_are_refused() {
    let mut wrong = Vec::new();
    for (_, text) in EXAMPLES {
        let (opcode, operands) = split(text);
        if operands.is_empty() {
            wrong.push(format!("{opcode} r7"));
        } else {
            wrong.extend([format!("{opcode}{operands}, r7, r7, r7, r7"), opcode.to_owned()]);
        }
    }
    refused(&wrong);
}

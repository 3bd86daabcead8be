//! What blocks of a block mask cost, counted on the emulator; and what there are none of.

use crate::catalogue::is_pinned_nvrtc;
use longhand_gpu::emulator::Report;
use longhand_gpu::{Buffer, Device, DevicePtr, Stream};
use longhand_kernels::Dtype;
use longhand_kernels::attention::{
    Attention, AttentionForwardArgs, AttentionShape, BlockKind, BlockMaskArgs, Blocks, Heads, Operands,
    Strides,
};
use std::collections::BTreeMap;
use std::fmt::Write;

const BLOCK: usize = 128;
const DIM: usize = 64;

/// Forward of one block of queries and so many of keys, all of one kind; without a mask where there is none. Sinks cost
/// nothing for each block, and give the kernel without a mask the same tile.
fn forward(device: &Device, key_blocks: usize, kind: Option<BlockKind>) -> Report {
    let stream = device.new_stream().unwrap();
    let zeros = |bytes: usize| upload(&stream, &vec![0; bytes]);
    let shape = AttentionShape { batch: 1, queries: BLOCK, keys: key_blocks * BLOCK, heads: 1, kv_heads: 1 };
    let [q, out] = [shape.queries, shape.queries].map(|tokens| zeros(tokens * DIM * 2));
    let [k, v] = [shape.keys, shape.keys].map(|tokens| zeros(tokens * DIM * 2));
    let (lse, sinks) = (zeros(shape.queries * 4), zeros(4));
    let mut described = Attention::new(Dtype::Bf16, DIM).sinks(true);
    let mut operands = Operands { sinks: sinks.ptr(), ..Operands::default() };
    let kinds = upload(&stream, &vec![kind.map_or(0, |kind| kind as u8); key_blocks]);
    let mut lists = zeros(0);
    if kind.is_some() {
        described = described.mask("(q + k) % 2 == 0").blocks(Blocks::default());
        let plan = described.block_mask(device).unwrap();
        lists = stream.alloc(plan.lists_bytes(&shape, &operands.documents)).unwrap();
        let args = BlockMaskArgs { shape, operands, kinds: kinds.ptr(), lists: lists.ptr() };
        // SAFETY: all of it lies within the buffers above.
        unsafe { plan.launch_lists(&stream, &args) }.unwrap();
        operands.blocks = lists.ptr();
    }
    let plan = described.forward(device).unwrap();
    let heads =
        |buffer: &Buffer, tokens| Heads { data: buffer.ptr(), strides: Strides::token_major(tokens, 1, DIM) };
    let args = AttentionForwardArgs {
        shape,
        scale: 0.125,
        q: heads(&q, shape.queries),
        k: heads(&k, shape.keys),
        v: heads(&v, shape.keys),
        out: heads(&out, shape.queries),
        lse: lse.ptr(),
        operands,
    };
    device.record_reports(true);
    // SAFETY: as above.
    unsafe { plan.launch(&stream, &args) }.unwrap();
    stream.synchronize().unwrap();
    drop(lists);
    device.take_reports().pop().unwrap()
}

fn upload(stream: &Stream, bytes: &[u8]) -> Buffer {
    let buffer = stream.alloc(bytes.len()).unwrap();
    buffer.upload(0, bytes).unwrap();
    buffer
}

/// What one more block of keys costs.
fn per_block(device: &Device, kind: Option<BlockKind>) -> BTreeMap<String, u64> {
    let counts = |blocks| {
        let Report { warp_instructions, total, .. } = forward(device, blocks, kind);
        let classes = warp_instructions.into_iter().map(|(class, count)| (format!("{class:?}"), count));
        let others = [
            ("tensor operations", total.tensor_operations),
            ("global bytes", total.global_bytes),
            ("shared wavefronts", total.shared_wavefronts),
            ("shared wavefronts, ideal", total.ideal_shared_wavefronts),
        ];
        classes.chain(others.map(|(name, count)| (name.to_owned(), count))).collect::<BTreeMap<_, _>>()
    };
    let (few, many) = (counts(3), counts(5));
    many.into_iter().map(|(name, count)| (name.clone(), (count - few.get(&name).unwrap_or(&0)) / 2)).collect()
}

#[test]
fn full_blocks_pay_nothing_for_the_mask_and_empty_ones_nothing_at_all() {
    if !is_pinned_nvrtc() {
        return;
    }
    let device = Device::emulated("sm_80".parse().unwrap()).unwrap();
    let unmasked = per_block(&device, None);
    let [empty, partial, full] =
        [BlockKind::Empty, BlockKind::Partial, BlockKind::Full].map(|kind| per_block(&device, Some(kind)));
    assert!(empty.values().all(|&count| count == 0), "{empty:?}");
    for name in ["Matrix", "Special", "Float", "Copy", "Synchronisation", "tensor operations"] {
        assert_eq!(full[name], unmasked[name], "{name}");
    }
    let mut table = format!(
        "{:26} {:>10} {:>10} {:>10} {:>10}\n",
        "a block of 128 by 128", "unmasked", "full", "partial", "empty"
    );
    for (name, of_partial) in &partial {
        let get = |counts: &BTreeMap<String, u64>| counts.get(name).copied().unwrap_or(0);
        let _ = writeln!(
            table,
            "{name:26} {:>10} {:>10} {of_partial:>10} {:>10}",
            get(&unmasked),
            get(&full),
            get(&empty)
        );
    }
    insta::assert_snapshot!("block_kinds", table);
}

#[test]
fn what_no_block_mask_can_be_of_is_named() {
    let device = Device::emulated("sm_80".parse().unwrap()).unwrap();
    if let Err(reason) = device.compiler() {
        return println!("skipped: {reason}");
    }
    let new = || Attention::new(Dtype::Bf16, DIM);
    let error = new().block_mask(&device).unwrap_err().to_string();
    assert_eq!(error, "attention block mask: blocks is none, it has to be described: `Attention::blocks`");
    let plan = new().blocks(Blocks::default()).block_mask(&device).unwrap();
    let stream = device.new_stream().unwrap();
    let tokens = |queries, keys| AttentionShape { batch: 1, queries, keys, heads: 1, kv_heads: 1 };
    let launch = |shape, kinds| {
        let args = BlockMaskArgs { shape, operands: Operands::default(), kinds, lists: DevicePtr(64) };
        // SAFETY: nothing is launched.
        unsafe { plan.launch(&stream, &args) }.unwrap_err().to_string()
    };
    let long = tokens((1 << 31) - 1, (1 << 31) - 1);
    assert_eq!(
        launch(long, DevicePtr(64)),
        "attention block mask: number of blocks is 16777216 by 16777216, it has to be at most 2^31: larger blocks \
         make fewer"
    );
    assert!(
        launch(tokens(1, 1), DevicePtr::NULL).contains("kinds is DevicePtr(0x0), it has to be an address")
    );
}

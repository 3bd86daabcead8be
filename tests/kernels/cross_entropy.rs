use crate::draw::{check_all, precisions};
use longhand_gpu::emulator::Options;
use longhand_gpu::{Buffer, Device, DevicePtr, Stream};
use longhand_kernels::Dtype;
use longhand_kernels::cross_entropy::{
    CrossEntropy as Kernel, CrossEntropyArgs, Gradient, IGNORE, Logits, LossOptions,
};
use longhand_verify::cases::{CrossEntropy, Place};
use proptest::prelude::*;

#[test]
fn loss_and_gradient_are_as_close_to_the_reference_as_their_precision_allows() {
    check_all(18, cases());
}

prop_compose! {
    fn options()(
        label_smoothing in prop::sample::select(vec![0.0, 0.0, 0.1, 1.0]),
        z_loss in prop::sample::select(vec![0.0, 1e-3]), softcap in prop::option::of(1.0..4.0f32),
    ) -> LossOptions {
        LossOptions { label_smoothing, z_loss, softcap }
    }
}

prop_compose! {
    /// A fifth of the rows is ignored; some hundred thousand logits at most.
    fn cases()(
        precision in precisions(),
        vocabulary in prop::sample::select(vec![1, 2, 7, 255, 256, 257, 1000, 8200, 50_257]),
        draws in prop::collection::vec((0.0..1.0, prop::bool::weighted(0.8)), 0..200),
        gap in prop::sample::select(vec![0, 3, 8]),
        place in prop::sample::select(vec![Place::Logits, Place::Alike, Place::Apart]),
        options in options(), dmean in -2.0..2.0f32, seed: u64,
    ) -> CrossEntropy {
        let target = |(draw, counts): (f64, bool)| if counts { (draw * vocabulary as f64) as u32 } else { IGNORE };
        let targets = draws.into_iter().take(1 + (1 << 15) / vocabulary).map(target).collect();
        CrossEntropy { precision, vocabulary, targets, gap, place, options, dmean, seed }
    }
}

/// An emulated device of this architecture, where there is NVRTC to compile for it.
fn emulated(arch: &str) -> Option<Stream> {
    let device = Device::emulated_with(arch.parse().unwrap(), Options::default()).unwrap();
    match device.compiler() {
        Ok(_) => Some(device.new_stream().unwrap()),
        Err(reason) => {
            println!("skipped: {reason}");
            None
        }
    }
}

/// Two rows of f32 `logits`, `stride` elements apart, and what became of them in place, beside the losses.
fn two_rows(stream: &Stream, logits: &[f32], stride: usize, targets: [u32; 2]) -> ([Vec<f32>; 2], [f32; 2]) {
    let row = |i: usize| 4 * i * stride;
    let upload = |bytes: &[u8]| {
        let buffer = stream.alloc(bytes.len()).unwrap();
        buffer.upload(0, bytes).unwrap();
        buffer
    };
    let data = stream.alloc(row(1) + size_of_val(logits)).unwrap();
    for i in 0..2 {
        data.upload(row(i), bytemuck::cast_slice(logits)).unwrap();
    }
    let (targets, loss) = (upload(bytemuck::cast_slice(&targets)), stream.alloc(8).unwrap());
    let gradient = Gradient {
        scale: 1.0,
        dmean: DevicePtr::NULL,
        share: DevicePtr::NULL,
        dlogits: data.ptr(),
        stride: stride as i64,
    };
    let args = CrossEntropyArgs {
        logits: Logits { rows: 2, data: data.ptr(), stride: stride as i64, targets: targets.ptr() },
        options: LossOptions { label_smoothing: 0.1, ..LossOptions::default() },
        loss: loss.ptr(),
        lse: DevicePtr::NULL,
        gradient: Some(gradient),
    };
    let plan = Kernel::new(Dtype::F32, logits.len()).gradient(true).plan(stream.device()).unwrap();
    // SAFETY: each tensor is an allocation above, of its size; all outlive the downloads.
    unsafe { plan.launch(stream, &args) }.unwrap();
    let download = |buffer: &Buffer, at: usize, count: usize| {
        let mut values = vec![0.0f32; count];
        buffer.download(at, bytemuck::cast_slice_mut(&mut values)).unwrap();
        values
    };
    let losses = download(&loss, 0, 2);
    ([0, 1].map(|i| download(&data, row(i), logits.len())), [losses[0], losses[1]])
}

fn some_logits(count: usize) -> Vec<f32> {
    (0..count).map(|i| (i * 7919 % 101) as f32 / 25.0 - 2.0).collect()
}

/// On the emulator alone: its memory is as large as its addresses are long, and takes no more than what was touched.
#[test]
fn rows_further_apart_than_32_bits_count_are_like_any_other() {
    let Some(stream) = emulated("sm_90a") else { return };
    let logits = some_logits(301);
    let (near, near_losses) = two_rows(&stream, &logits, 304, [7, 300]);
    let (far, far_losses) = two_rows(&stream, &logits, (1 << 32) + 304, [7, 300]);
    assert_eq!((far, far_losses), (near, near_losses));
}

#[test]
fn a_row_too_long_for_shared_memory_is_like_one_that_fits() {
    let logits = some_logits(30_001); // 117 KiB
    let [Some(fits), Some(does_not)] = ["sm_90a", "sm_86"].map(emulated) else { return };
    let on = |stream: &Stream| two_rows(stream, &logits, 30_001, [7, 30_000]);
    assert_eq!(on(&fits), on(&does_not));
}

#[test]
fn a_target_outside_the_vocabulary_reads_nothing_and_gives_nan() {
    let Some(stream) = emulated("sm_80") else { return };
    let logits = some_logits(37);
    let (gradients, losses) = two_rows(&stream, &logits, 37, [36, 37]);
    assert!(losses[0].is_finite() && gradients[0].iter().all(|x| x.is_finite()));
    assert!(losses[1].is_nan() && gradients[1].iter().all(|x| x.is_nan()));
}

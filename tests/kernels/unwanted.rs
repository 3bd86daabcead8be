//! Gradients that nobody wants take no bytes and no launch, and leave those that are wanted as they are, bit for bit.

use crate::devices::Devices;
use longhand_kernels::activation::Function;
use longhand_verify::cases::{Activation, AttentionMerge, HeadLayout, Norm, Pass};
use longhand_verify::{Case, Precision};

const ROWS: usize = 64;

/// Of a case that wants all, and one that is the same but for `gone`, which is no output of it: so many launches remain,
/// and so many bytes, at least, are not moved.
fn check(all: &dyn Case, some: &dyn Case, gone: &[&str], launches: usize, fewer: usize) {
    let Some(devices) = Devices::open() else { return };
    for ((arch, all), (_, some_outcome)) in
        devices.emulated_outcomes(all).into_iter().zip(devices.emulated_outcomes(some))
    {
        let bytes = |reports: &[longhand_gpu::emulator::Report]| {
            reports.iter().map(|it| it.total.global_bytes).sum::<u64>()
        };
        let (before, after) = (bytes(&all.reports), bytes(&some_outcome.reports));
        assert_eq!(some_outcome.reports.len(), launches, "{some} on {arch}");
        assert!(
            after + fewer as u64 <= before,
            "{some} on {arch}: {after} bytes, {fewer} fewer than {before}"
        );
        let digests = |outcome: &longhand_verify::Outcome| -> Vec<(&str, u64)> {
            outcome.outputs.iter().map(|output| (output.name, output.digest)).collect()
        };
        let mut expected = digests(&all);
        expected.retain(|(name, _)| !gone.contains(name));
        assert_eq!(digests(&some_outcome), expected, "{some} on {arch}");
    }
}

/// Of rows that a warp has, and of rows that several blocks share: those of sm_80 read them twice, in a launch more.
#[test]
fn of_a_norm_nothing_is_written_or_added_that_is_not_wanted() {
    let norm = Norm::layer(Pass::Backward, Precision::Bf16, ROWS, 768);
    let matrix = 2 * ROWS * 768;
    let sums = 2 * (4 * (ROWS / 8) * 2 * 768) + 2 * 2 * 768; // of each part, written and read; and the results
    check(&norm, &Norm { wanted: [true, false], ..norm.clone() }, &["dweight", "dbias"], 1, sums);
    // Nor is the gradient of the sum read.
    check(&norm, &Norm { wanted: [false, true], ..norm.clone() }, &["dx"], 2, 2 * matrix);
    let dropped = Norm { dropout: Some(0.25), ..norm };
    check(&dropped, &Norm { wanted: [false, true], ..dropped.clone() }, &["dx", "dresidual"], 2, 3 * matrix);
    let wide = Norm::rms(Pass::Backward, Precision::F32, 3, 16_384);
    check(&wide, &Norm { wanted: [false, true], ..wide.clone() }, &["dx"], 2, 2 * 4 * 3 * 16_384);
}

#[test]
fn of_an_activation_nothing_is_written_or_added_that_is_not_wanted() {
    let width = 264;
    let swiglu = Activation {
        pass: Pass::Backward,
        function: Function::Silu,
        precision: Precision::Bf16,
        gated: true,
        bias: true,
        rows: ROWS,
        width,
        gap: 0,
        in_place: false,
        wanted: [true; 3],
        seed: 1,
    };
    let matrix = 2 * ROWS * width;
    for (wanted, gone, launches, fewer) in [
        ([false, true, true], &["dx"][..], 2, matrix),
        ([true, false, true], &["dup"], 2, matrix),
        ([true, true, false], &["dbias", "dup_bias"], 1, 2 * 2 * width),
        ([true, false, false], &["dup", "dbias", "dup_bias"], 1, matrix + 2 * 2 * width),
    ] {
        check(&swiglu, &Activation { wanted, ..swiglu }, gone, launches, fewer);
    }
}

/// Without the gradients of the LSE, the parts are not read.
#[test]
fn of_a_merge_nothing_is_read_or_written_that_is_not_wanted() {
    let sizes = [1, ROWS, 2, 64];
    let merge = AttentionMerge {
        pass: Pass::Backward,
        precision: Precision::Bf16,
        sizes,
        parts: 2,
        empty: 0,
        layouts: [HeadLayout::default(); 2],
        dlse: true,
        wanted: [true; 2],
        seed: 1,
    };
    let outs = 2 * 2 * sizes.iter().product::<usize>();
    check(&merge, &AttentionMerge { wanted: [false, true], ..merge.clone() }, &["dout_i"], 1, outs);
    check(
        &merge,
        &AttentionMerge { wanted: [true, false], ..merge.clone() },
        &["dlse_i"],
        1,
        outs + 4 * 2 * ROWS * 2,
    );
}

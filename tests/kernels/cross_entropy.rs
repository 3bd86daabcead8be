use crate::device::{View, stream, upload_u32};
use crate::draw::{dtype, for_all, precisions};
use longhand_gpu::Stream;
use longhand_kernels::cross_entropy::{
    CrossEntropyBackward, CrossEntropyBackwardArgs, CrossEntropyForward, CrossEntropyForwardArgs, IGNORE,
    Logits,
};
use longhand_reference as reference;
use longhand_tests::tolerance::Output;
use longhand_tests::{Draw, Precision, plain};
use proptest::prelude::*;

#[test]
fn loss_and_gradient_are_as_close_to_the_reference_as_their_precision_allows() {
    let Some(stream) = stream() else { return };
    for_all(64, cases(), |case| case.check(&stream));
}

/// One drawn loss.
#[derive(Debug)]
struct Case {
    precision: Precision,
    vocabulary: usize,
    targets: Vec<u32>,
    /// Elements between the rows
    gap: usize,
    dmean: f32,
    seed: u64,
}

prop_compose! {
    /// A fifth of the rows is ignored; about a quarter million logits at most.
    fn cases()(
        precision in precisions(),
        vocabulary in prop::sample::select(vec![1, 2, 7, 255, 256, 257, 1000, 8200, 50_257]),
        draws in prop::collection::vec((0.0..1.0, prop::bool::weighted(0.8)), 0..300),
        gap in prop::sample::select(vec![0, 3, 8]), dmean in -2.0..2.0f32, seed: u64,
    ) -> Case {
        let target = |(draw, counts): (f64, bool)| if counts { (draw * vocabulary as f64) as u32 } else { IGNORE };
        let rows = 1 + (1 << 18) / vocabulary;
        Case { precision, vocabulary, targets: draws.into_iter().take(rows).map(target).collect(), gap, dmean, seed }
    }
}

impl Case {
    fn check(&self, stream: &Stream) {
        let Case { precision, vocabulary, ref targets, dmean, .. } = *self;
        let (shape, stride) = ([targets.len(), vocabulary], (vocabulary + self.gap) as i64);
        let logits = Draw::new(precision, self.seed).vec(targets.len() * vocabulary);
        let device_logits = View::upload(stream, precision, &shape, &[stride, 1], &logits);
        let device_targets = upload_u32(stream, targets);
        let arguments = Logits {
            rows: targets.len(),
            vocabulary,
            data: device_logits.ptr(),
            stride,
            targets: device_targets.ptr(),
        };

        let per_row = || View::poisoned_contiguous(stream, Precision::F32, &[targets.len()]);
        let number = || View::poisoned_contiguous(stream, Precision::F32, &[]);
        let (loss, lse, mean, share) = (per_row(), per_row(), number(), number());
        let plan = CrossEntropyForward::new(dtype(precision)).plan(stream.device()).unwrap();
        let [loss_ptr, lse_ptr, mean_ptr, share_ptr] = [&loss, &lse, &mean, &share].map(View::ptr);
        let args = CrossEntropyForwardArgs {
            logits: arguments,
            loss: loss_ptr,
            lse: lse_ptr,
            mean: mean_ptr,
            share: share_ptr,
        };
        // SAFETY: each tensor has the shape and strides that it is passed with, and lives on beyond the downloads.
        unsafe { plan.launch(stream, &args) }.unwrap();
        let rows = || logits.chunks_exact(vocabulary).zip(targets);
        let expected: Vec<f64> = rows()
            .map(|(row, &target)| reference::cross_entropy(row, vocabulary, &[target], IGNORE))
            .collect();
        let plain: Vec<f64> = rows()
            .map(
                |(row, &target)| {
                    if target == IGNORE { 0.0 } else { plain::cross_entropy(row, target as usize) }
                },
            )
            .collect();
        // The loss is a difference, and may be far less than what it is the difference of.
        Output::new("loss", Precision::F32, &loss.download(), &plain, &expected)
            .cancellation(1e-5)
            .assert_forward();
        let counted = targets.iter().filter(|&&target| target != IGNORE).count().max(1) as f64;
        let expected = reference::cross_entropy(&logits, vocabulary, targets, IGNORE);
        let plain = plain.iter().sum::<f64>() / counted;
        Output::new("mean", Precision::F32, &mean.download(), &[plain], &[expected])
            .cancellation(1e-5)
            .assert_forward();

        let dlogits = View::poisoned(stream, precision, &shape, &[stride, 1]);
        let dmean = View::upload_contiguous(stream, Precision::F32, &[], &[dmean.into()]);
        let plan = CrossEntropyBackward::new(dtype(precision)).plan(stream.device()).unwrap();
        let args = CrossEntropyBackwardArgs {
            logits: arguments,
            lse: lse_ptr,
            dmean: dmean.ptr(),
            share: share_ptr,
            dlogits: dlogits.ptr(),
            dlogits_stride: stride,
        };
        // SAFETY: as above; `lse` and `share` are what forward wrote.
        unsafe { plan.launch(stream, &args) }.unwrap();
        let dloss = f64::from(self.dmean);
        let expected = reference::cross_entropy_backward(&logits, vocabulary, targets, IGNORE, dloss);
        let plain: Vec<f64> = rows()
            .flat_map(|(row, &target)| match target {
                IGNORE => vec![0.0; vocabulary],
                _ => plain::cross_entropy_backward(
                    precision,
                    row,
                    target as usize,
                    self.dmean / counted as f32,
                ),
            })
            .collect();
        // Softmax, less one where the target is: what is left is the rest of its row.
        Output::new("dlogits", precision, &dlogits.download(), &plain, &expected)
            .cancellation(1e-6 / counted)
            .assert_gradient();
    }
}

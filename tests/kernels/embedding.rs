use crate::device::{View, stream, upload_u32};
use crate::draw::{dtype, for_all, precisions};
use longhand_gpu::Stream;
use longhand_kernels::embedding::{
    EmbeddingBackward, EmbeddingBackwardArgs, EmbeddingForward, EmbeddingForwardArgs, EmbeddingShape,
};
use longhand_reference as reference;
use longhand_tests::tolerance::Output;
use longhand_tests::{Draw, Precision};
use proptest::prelude::*;

#[test]
fn rows_are_looked_up_and_their_gradients_added_up() {
    let Some(stream) = stream() else { return };
    for_all(64, cases(), |case| case.check(&stream));
}

/// One drawn lookup.
#[derive(Debug)]
struct Case {
    precision: Precision,
    vocabulary: usize,
    width: usize,
    ids: Vec<u32>,
    seed: u64,
}

prop_compose! {
    fn cases()(
        precision in precisions(), vocabulary in prop::sample::select(vec![1, 2, 31, 64, 65, 1000]),
        width in prop::sample::select(vec![1, 7, 8, 33, 256, 257, 768]),
        draws in prop::collection::vec(0.0..1.0, 0..200), seed: u64,
    ) -> Case {
        let ids = draws.into_iter().map(|draw: f64| (draw * draw * vocabulary as f64) as u32).collect();
        Case { precision, vocabulary, width, ids, seed }
    }
}

impl Case {
    fn check(&self, stream: &Stream) {
        let Case { precision, vocabulary, width, ref ids, seed } = *self;
        let mut draw = Draw::new(precision, seed);
        let (weight, dout) = (draw.vec(vocabulary * width), draw.vec(ids.len() * width));
        let shape = EmbeddingShape { vocabulary, width, count: ids.len() };
        let device_ids = upload_u32(stream, ids);
        let contiguous = |values: &[f64]| View::upload_contiguous(stream, precision, &[values.len()], values);
        let poisoned = |len: usize| View::poisoned_contiguous(stream, precision, &[len]);

        let (device_weight, out) = (contiguous(&weight), poisoned(dout.len()));
        let plan = EmbeddingForward::new(dtype(precision)).plan(stream.device()).unwrap();
        let args = EmbeddingForwardArgs {
            shape,
            weight: device_weight.ptr(),
            ids: device_ids.ptr(),
            out: out.ptr(),
        };
        // SAFETY: each tensor has the size that it is passed with, and lives on beyond the download.
        unsafe { plan.launch(stream, &args) }.unwrap();
        assert_eq!(out.download(), reference::embedding(&weight, width, ids));

        let (device_dout, dweight) = (contiguous(&dout), poisoned(weight.len()));
        let plan = EmbeddingBackward::new(dtype(precision)).plan(stream.device()).unwrap();
        let args = EmbeddingBackwardArgs {
            shape,
            dout: device_dout.ptr(),
            ids: device_ids.ptr(),
            dweight: dweight.ptr(),
        };
        // SAFETY: as above.
        unsafe { plan.launch(stream, &args) }.unwrap();
        let expected = reference::embedding_backward(vocabulary, width, ids, &dout);
        let mut plain = vec![0.0f32; weight.len()];
        for (id, dout) in ids.iter().zip(dout.chunks_exact(width)) {
            let row = &mut plain[*id as usize * width..][..width];
            row.iter_mut().zip(dout).for_each(|(sum, dout)| *sum += *dout as f32);
        }
        let plain: Vec<f64> = plain.into_iter().map(|x| precision.round(x).into()).collect();
        Output::new("dweight", precision, &dweight.download(), &plain, &expected).assert_gradient();
    }
}

//! What attention and training allocate, counted.

mod counting;

use counting::peak;
use longhand_tensor::ops::{Activation, AttentionOptions, Gelu, LossOptions, NormOptions};
use longhand_tensor::{Device, Dtype, Gradients, Tensor, memory, no_grad, ops};

fn zeros(shape: &[usize]) -> Tensor {
    Tensor::zeros(shape, Dtype::F32, &Device::Cpu).unwrap()
}

/// One test, since all share the counters. Each part takes far more than those before it could have left in buffers to
/// be used again, if it did not do what it says.
#[test]
fn memory_is_linear_in_length_frozen_layers_save_nothing_and_backward_frees() {
    the_memory_of_attention_grows_with_its_length_and_not_with_the_square();
    inference_keeps_nothing_and_a_frozen_weight_saves_no_input();
    backward_frees_what_it_has_passed();
    what_an_activation_gave_is_not_kept();
    what_is_made_again_for_several_is_there_while_they_read_it();
    the_loss_of_a_head_never_holds_all_logits();
    a_table_that_is_read_twice_has_one_gradient_and_so_have_parts_of_a_batch();
}

fn a_table_that_is_read_twice_has_one_gradient_and_so_have_parts_of_a_batch() {
    let (rows, width) = (8 * ACTIVATION / 4 / 64, 64);
    let table = zeros(&[rows, width]).requires_grad();
    let ids = Tensor::zeros(&[16], Dtype::U32, &Device::Cpu).unwrap();
    let run = |parts: usize| {
        let most = peak(|| {
            let mut gradients = Gradients::default();
            for _ in 0..parts {
                let tokens = ops::embedding(&table, &ids).unwrap();
                let loss = tokens.sum_all().unwrap().add(&table.sum_all().unwrap()).unwrap();
                gradients.accumulate(&loss).unwrap();
            }
        });
        most as f64 / (8 * ACTIVATION) as f64
    };
    run(1);
    // The sum over the whole table is one more for a moment, of the second part.
    let (one, two) = (run(1), run(2));
    assert!(one < 1.2, "{one} gradients of the table for one part");
    assert!(two < 2.2, "{two} gradients of the table for two parts");
}

fn the_loss_of_a_head_never_holds_all_logits() {
    let (classes, width) = (8192, 16);
    let run = |rows: usize| {
        let (hidden, weight) =
            (zeros(&[rows, width]).requires_grad(), zeros(&[classes, width]).requires_grad());
        let targets = Tensor::zeros(&[rows], Dtype::U32, &Device::Cpu).unwrap();
        peak(|| {
            let loss =
                ops::linear_cross_entropy(&hidden, &weight, &targets, &LossOptions::default()).unwrap();
            loss.backward().unwrap();
        })
    };
    // 256 rows of logits are 8 MiB, and all of them 128.
    let (one_chunk, many) = (run(256), run(4096));
    assert!(many < one_chunk + (2 << 20), "{one_chunk} bytes for 256 rows, {many} for 4096");
    assert!(many < 16 << 20, "{many} bytes");
}

fn the_memory_of_attention_grows_with_its_length_and_not_with_the_square() {
    let run = |tokens: usize| {
        let q = zeros(&[1, tokens, 2, 16]).requires_grad();
        let options = AttentionOptions { causal: true, ..Default::default() };
        peak(|| {
            let out = ops::attention(&q, &q, &q, &options).unwrap();
            out.sum_all().unwrap().backward().unwrap();
        })
    };
    run(256); // starts the threads
    let (short, long) = (run(1024), run(4096));
    assert!(long < 5 * short, "{short} bytes for 1024 tokens, {long} for 4096");
    // The scores of one head alone would be 64 MiB.
    assert!(long < 16 << 20, "{long} bytes");
}

const ACTIVATION: usize = 4 << 20; // bytes

fn inference_keeps_nothing_and_a_frozen_weight_saves_no_input() {
    let (x, matrix, row) = (zeros(&[ACTIVATION / 4 / 64, 64]), zeros(&[64, 64]), zeros(&[64]));
    let layer = |x: &Tensor| {
        let x = ops::linear(x, &matrix, Some(&row))?.matmul(&matrix)?;
        x.mul(&row)?.add(&row)?.add_scaled(&row, 2.0)
    };
    let run = |layers: usize, trained: bool, recording: bool| {
        let x = if trained { x.requires_grad() } else { x.clone() };
        let most = peak(|| {
            let forward = || (0..layers).fold(x.clone(), |x, _| layer(&x).unwrap());
            if recording {
                forward()
            } else {
                no_grad(forward)
            };
        });
        most as f64 / ACTIVATION as f64
    };
    run(2, true, true);
    // Only the newest two are alive, whether a gradient will pass or not.
    for (trained, recording) in [(true, false), (false, true), (true, true)] {
        let found = run(12, trained, recording);
        assert!(found < 4.0, "{found} activations with trained = {trained}, recording = {recording}");
    }
}

fn backward_frees_what_it_has_passed() {
    let layers = 48;
    let leaf = || zeros(&[ACTIVATION / 4]).requires_grad();
    let (x, weights): (Tensor, Vec<Tensor>) = (leaf(), (0..layers).map(|_| leaf()).collect());
    let found = peak(|| {
        let y = weights.iter().fold(x.clone(), |x, weight| x.mul(weight).unwrap());
        y.sum_all().unwrap().backward().unwrap();
    });
    // Forward keeps one activation per layer. Backward makes as many gradients, in the place of those it frees.
    let found = found as f64 / ACTIVATION as f64;
    let layers = f64::from(layers);
    assert!(found < layers + 6.0, "{found} activations for {layers} layers");
}

/// Of a linear layer and its activation there is what the activation was given, and not its result that the next layer reads,
/// gated or not.
fn what_an_activation_gave_is_not_kept() {
    let width = 64;
    let x = zeros(&[ACTIVATION / 4 / width, width]).requires_grad();
    let [weight, up] = [(); 2].map(|()| zeros(&[width, width]).requires_grad());
    let run = |layers: usize, gated: bool| {
        let layer = |x: Tensor, _| {
            let hidden = ops::linear(&x, &weight, None).unwrap();
            match gated {
                true => {
                    ops::gated(&hidden, &ops::linear(&x, &up, None).unwrap(), None, Activation::Silu).unwrap()
                }
                false => hidden.gelu(Gelu::Tanh).unwrap(),
            }
        };
        memory::empty_cache(); // of the same sizes
        let most = peak(|| {
            (0..layers).fold(x.clone(), layer).sum_all().unwrap().backward().unwrap();
        });
        most as f64 / ACTIVATION as f64
    };
    run(1, true);
    for (gated, kept) in [(false, 1.0), (true, 2.0)] {
        let [few, many] = [2, 6].map(|layers| run(layers, gated));
        let each = (many - few) / 4.0;
        assert!((each - kept).abs() < 0.1, "{each} activations for each layer, gated: {gated}");
    }
}

/// Each layer's norm is read by three products, which have it made once; before the next layer's is made, it is gone.
fn what_is_made_again_for_several_is_there_while_they_read_it() {
    let width = 64;
    let x = zeros(&[ACTIVATION / 4 / width, width]).requires_grad();
    let weights = [(); 3].map(|()| zeros(&[width, width]).requires_grad());
    let run = |layers: usize| {
        let layer = |x: Tensor, _| {
            let (y, _) = ops::rms_norm(&x, None, None, &NormOptions::new(1e-5)).unwrap();
            let read = |sum: Tensor, weight| sum.add(&ops::linear(&y, weight, None).unwrap()).unwrap();
            weights.iter().fold(x.clone(), read)
        };
        memory::empty_cache(); // of the same sizes
        let most = peak(|| {
            (0..layers).fold(x.clone(), layer).sum_all().unwrap().backward().unwrap();
        });
        most as f64 / ACTIVATION as f64
    };
    run(1);
    let [few, many] = [2, 6].map(run);
    let each = (many - few) / 4.0;
    assert!((each - 1.0).abs() < 0.1, "{each} activations for each layer");
}

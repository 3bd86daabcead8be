//! What a training step allocates, counted. Alone in its process, since all share the counters.

#[path = "../../tensor/tests/counting/mod.rs"]
mod counting;

use counting::peak;
use longhand_models::gpt2::{Gpt2, Gpt2Config};
use longhand_tensor::{AdamW, Device, Dtype, Tensor, memory};
use rand::SeedableRng;
use rand::rngs::StdRng;

const WIDTH: usize = 64;

/// The peak of the second step, beyond what there is between steps: weights and the optimiser's state.
fn step(layers: usize, tokens: usize, gradient_checkpointing: bool) -> f64 {
    let config = Gpt2Config {
        vocab_size: 64,
        n_positions: tokens,
        n_embd: WIDTH,
        n_layer: layers,
        n_head: 2,
        ..Gpt2Config::default()
    };
    let mut model = Gpt2::new(config, &Device::Cpu, Dtype::F32, &mut StdRng::seed_from_u64(1)).unwrap();
    model.set_gradient_checkpointing(gradient_checkpointing);
    let parameters = model.parameters().iter().map(|p| (p.name.clone(), p.tensor.clone())).collect();
    let mut optimiser = AdamW::new(parameters, Default::default()).unwrap();
    let ids = Tensor::zeros(&[1, tokens], Dtype::U32, &Device::Cpu).unwrap();
    let mut step = || {
        let gradients = model.loss(&ids, &ids).unwrap().backward().unwrap();
        optimiser.step(&gradients, 1e-3).unwrap();
    };
    step();
    memory::empty_cache();
    peak(step) as f64
}

#[test]
fn a_step_takes_memory_that_grows_with_its_length_and_checkpointed_layers_keep_their_input_alone() {
    step(1, 64, false); // starts the threads
    for gradient_checkpointing in [false, true] {
        let [short, middle, long] = [1024, 2048, 4096].map(|tokens| step(4, tokens, gradient_checkpointing));
        let growth = (long - middle) / (middle - short);
        // Twice the tokens, twice the bytes. Were there a part that grows with the square, it would be 4 times.
        assert!(
            (1.8..2.2).contains(&growth),
            "{short} bytes for 1024 tokens, {middle} for 2048, {long} for 4096"
        );
    }
    let tokens = 2048;
    let input = (4 * tokens * WIDTH) as f64;
    let per_layer = |gradient_checkpointing| {
        let [few, many] = [4, 12].map(|layers| step(layers, tokens, gradient_checkpointing));
        (many - few) / 8.0 / input
    };
    let (kept, again) = (per_layer(false), per_layer(true));
    // Beside its input a layer has its weights' gradients, 12 WIDTH² of them.
    let gradients = 12.0 * (WIDTH * WIDTH) as f64 * 4.0 / input;
    assert!(again < 1.05 + gradients, "{again} inputs for each layer that is computed again");
    assert!(kept > 10.0, "{kept} inputs for each layer that is kept");
}

//! What a training step allocates, counted. Alone in its process, since all share the counters.

mod step;

use longhand_models::gpt2::Gpt2Config;
use step::peak_of_step;

const WIDTH: usize = 64;

fn step(layers: usize, tokens: usize, gradient_checkpointing: bool) -> f64 {
    let config = Gpt2Config {
        vocab_size: 64,
        n_positions: tokens,
        n_embd: WIDTH,
        n_layer: layers,
        n_head: 2,
        ..Gpt2Config::default()
    };
    peak_of_step(config, gradient_checkpointing) as f64
}

#[test]
fn a_step_takes_memory_that_grows_with_its_length_and_checkpointed_layers_keep_their_input_alone() {
    step(1, 64, false); // starts the threads
    for gradient_checkpointing in [false, true] {
        let [short, middle, long] = [256, 512, 1024].map(|tokens| step(2, tokens, gradient_checkpointing));
        let growth = (long - middle) / (middle - short);
        // Twice the tokens, twice the bytes, but for what is in whole blocks; a part that grew with the square would be 4 times.
        assert!(
            (1.5..2.6).contains(&growth),
            "{short} bytes for 256 tokens, {middle} for 512, {long} for 1024"
        );
    }
    let tokens = 512;
    let input = (4 * tokens * WIDTH) as f64;
    let per_layer = |gradient_checkpointing| {
        let [few, many] = [2, 8].map(|layers| step(layers, tokens, gradient_checkpointing));
        (many - few) / 6.0 / input
    };
    let (kept, again) = (per_layer(false), per_layer(true));
    // Beside its input a layer has its weights' gradients, 12 WIDTH² of them.
    let gradients = 12.0 * (WIDTH * WIDTH) as f64 * 4.0 / input;
    assert!(again < 1.05 + gradients, "{again} inputs for each layer that is computed again");
    assert!(kept > 10.0, "{kept} inputs for each layer that is kept");
}

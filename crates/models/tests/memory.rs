//! What a training step allocates, counted. Alone in its process, since all share the counters.

mod step;

use longhand_models::gpt2::Gpt2Config;
use step::{Again, peak_of_step};

const WIDTH: usize = 64;
const CHUNK: usize = 64;

fn step(layers: usize, tokens: usize, again: Again) -> f64 {
    let config = Gpt2Config {
        vocab_size: 64,
        n_positions: tokens,
        n_embd: WIDTH,
        n_layer: layers,
        n_head: 2,
        ..Gpt2Config::default()
    };
    peak_of_step(config, again) as f64
}

/// One test, since all parts share the counters.
#[test]
fn a_step_takes_memory_that_grows_with_its_length_and_what_is_computed_again_is_not_kept() {
    step(1, 64, Again::Nothing); // starts the threads
    for again in [Again::Nothing, Again::Hidden(CHUNK), Again::All] {
        let [short, middle, long] = [128, 256, 512].map(|tokens| step(2, tokens, again));
        let growth = (long - middle) / (middle - short);
        // Twice the tokens, twice the bytes, but for what is in whole blocks; a part that grew with the square would be 4 times.
        assert!(
            (1.5..2.6).contains(&growth),
            "{short} bytes for 128 tokens, {middle} for 256, {long} for 512"
        );
    }
    let tokens = 256;
    let input = (4 * tokens * WIDTH) as f64;
    let per_layer = |again| {
        let [few, many] = [2, 8].map(|layers| step(layers, tokens, again));
        (many - few) / 6.0 / input
    };
    let [kept, chunked, again] = [Again::Nothing, Again::Hidden(CHUNK), Again::All].map(per_layer);
    // Beside its input a layer has its weights' gradients, 12 WIDTH² of them.
    let gradients = 12.0 * (WIDTH * WIDTH) as f64 * 4.0 / input;
    assert!(again < 1.05 + gradients, "{again} inputs for each layer that is computed again");
    assert!(kept > 9.5, "{kept} inputs for each layer that is kept");
    // Two residual streams, queries, keys, values, what attention makes of them, and of the hidden layer, four inputs wide,
    // what GELU is given.
    assert!(kept < 10.5, "{kept} inputs for each layer that is kept");
    // In chunks, the hidden layer is not kept, but the norm before it.
    assert!(chunked < kept - 2.5, "{chunked} inputs for each layer without its hidden layer, {kept} with it");

    // Nor is it there whole while a layer is computed.
    let [whole, chunked] = [Again::Nothing, Again::Hidden(CHUNK)].map(|again| step(1, 1024, again));
    let input = (4 * 1024 * WIDTH) as f64;
    assert!(chunked < whole - 6.0 * input, "{} inputs, and {} in chunks", whole / input, chunked / input);
}

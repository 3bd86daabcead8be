//! What a training step on the CPU allocates, counted: by an allocator that this brings into the process.

#[path = "../../../tensor/tests/counting/mod.rs"]
mod counting;

use counting::peak;
use longhand_models::gpt2::{Gpt2, Gpt2Config};
use longhand_tensor::{AdamW, Device, Dtype, Tensor, memory};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// What of a block is computed again in backward instead of kept.
#[derive(Clone, Copy)]
pub enum Again {
    Nothing,
    /// The hidden layer of the feed-forward network, of so many tokens at a time.
    Hidden(usize),
    All,
}

/// The peak of a step on one window of as many tokens as the model takes, beyond what there is between steps: weights and
/// the optimiser's state.
pub fn peak_of_step(config: Gpt2Config, again: Again) -> usize {
    let tokens = config.n_positions;
    let mut model = Gpt2::new(config, &Device::Cpu, Dtype::F32, &mut StdRng::seed_from_u64(1)).unwrap();
    model.set_gradient_checkpointing(matches!(again, Again::All));
    model.set_mlp_chunk(if let Again::Hidden(tokens) = again { Some(tokens) } else { None });
    let parameters = model.parameters().iter().map(|p| (p.name.clone(), p.tensor.clone())).collect();
    let mut optimiser = AdamW::new(parameters, Default::default()).unwrap();
    let ids = Tensor::zeros(&[1, tokens], Dtype::U32, &Device::Cpu).unwrap();
    let step = || {
        let gradients = model.loss(&ids, &ids).unwrap().backward().unwrap();
        optimiser.step(&gradients, 1e-3).unwrap();
    };
    memory::empty_cache();
    peak(step)
}

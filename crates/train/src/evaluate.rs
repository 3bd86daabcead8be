//! How well a model predicts a text.

use longhand_models::gpt2::Gpt2;
use longhand_tensor::{Tensor, no_grad};

use crate::{Error, Result, Tokenizer};

/// Tokens evaluated at once, where one window is not longer.
const TOKENS_AT_ONCE: usize = 2048;

/// How well a model predicts a text.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Evaluation {
    /// Mean cross-entropy, in nats per token.
    pub loss: f64,
    /// `exp(loss)`: as unsure as between this many tokens.
    pub perplexity: f64,
    /// The cross-entropy in bits per byte of the text that the predicted tokens stand for, which compares models
    /// with different tokenizers.
    pub bits_per_byte: f64,
    /// Tokens predicted.
    pub tokens: u64,
    /// Bytes of text they stand for.
    pub bytes: u64,
}

/// Evaluates every token of `text` but the first, each from those before it in its window. Windows of `context`
/// tokens follow one another without overlap; the last may be shorter.
///
/// # Errors
/// A context beyond the model's positions, or not shorter than the text; a tokenizer with more tokens than the
/// model.
pub fn evaluate(model: &Gpt2, tokenizer: &Tokenizer, text: &[u32], context: usize) -> Result<Evaluation> {
    if text.len() <= context {
        return Err(Error::ContextTooLong { context, tokens: text.len(), part: "given" });
    }
    check(model, tokenizer, context)?;
    evaluate_windows(model, tokenizer, &windows(text, context))
}

/// Whether a tokenizer and a context fit a model.
pub(crate) fn check(model: &Gpt2, tokenizer: &Tokenizer, context: usize) -> Result<()> {
    let positions = model.config().n_positions;
    if context == 0 || context > positions {
        return Err(Error::ContextBeyondModel { context, positions });
    }
    let (tokens, vocabulary) = (tokenizer.vocabulary(), model.config().vocab_size);
    if tokens > vocabulary {
        return Err(Error::Vocabulary { tokenizer: tokens, model: vocabulary });
    }
    Ok(())
}

/// Windows of `context` tokens and the token after each, the last possibly shorter.
fn windows(text: &[u32], context: usize) -> Vec<&[u32]> {
    let starts = (0..text.len().saturating_sub(1)).step_by(context);
    starts.map(|start| &text[start..(start + context + 1).min(text.len())]).collect()
}

/// At most `most` windows, spread evenly over the text.
pub(crate) fn some_windows(text: &[u32], context: usize, most: usize) -> Vec<&[u32]> {
    let all = windows(text, context);
    let count = all.len().min(most);
    (0..count).map(|i| all[i * all.len() / count]).collect()
}

pub(crate) fn evaluate_windows(
    model: &Gpt2,
    tokenizer: &Tokenizer,
    windows: &[&[u32]],
) -> Result<Evaluation> {
    let (mut nats, mut tokens, mut bytes) = (0.0, 0, 0);
    for group in windows.chunk_by(|a, b| a.len() == b.len()) {
        let length = group[0].len() - 1;
        for windows in group.chunks((TOKENS_AT_ONCE / length).max(1)) {
            nats += loss(model, windows, length)? * (windows.len() * length) as f64;
            tokens += (windows.len() * length) as u64;
            bytes += windows.iter().map(|window| tokenizer.bytes(&window[1..])).sum::<u64>();
        }
    }
    let loss = nats / tokens as f64;
    Ok(Evaluation { loss, perplexity: loss.exp(), bits_per_byte: bits_per_byte(nats, bytes), tokens, bytes })
}

/// Mean nats per token over windows of `length` tokens and the token after each.
fn loss(model: &Gpt2, windows: &[&[u32]], length: usize) -> Result<f64> {
    let gather = |from: usize| -> Vec<u32> {
        windows.iter().flat_map(|window| &window[from..from + length]).copied().collect()
    };
    let device = model.parameters()[0].tensor.device();
    let tensor = |ids: Vec<u32>| Tensor::from_vec(ids, &[windows.len(), length], device);
    let (inputs, targets) = (tensor(gather(0))?, tensor(gather(1))?);
    Ok(no_grad(|| model.loss(&inputs, &targets))?.item()?)
}

/// Nats over all of a text in bits per byte of it; infinite where there is no byte.
pub(crate) fn bits_per_byte(nats: f64, bytes: u64) -> f64 {
    nats / std::f64::consts::LN_2 / bytes as f64
}

#[cfg(test)]
mod tests {
    use longhand_models::gpt2::Gpt2Config;
    use longhand_tensor::{Device, Dtype};
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn model(n_positions: usize) -> Gpt2 {
        let config = Gpt2Config {
            vocab_size: 300,
            n_positions,
            n_embd: 16,
            n_layer: 1,
            n_head: 2,
            ..Default::default()
        };
        Gpt2::new(config, &Device::Cpu, Dtype::F32, &mut StdRng::seed_from_u64(1)).unwrap()
    }

    fn tokenizer() -> Tokenizer {
        Tokenizer::train(["some text to learn a few merges from, some text"].into_iter(), 270).unwrap()
    }

    #[test]
    fn windows_predict_every_token_but_the_first_once() {
        for length in [2, 3, 8, 9, 10, 17, 100] {
            let text: Vec<u32> = (0..length).collect();
            let targets: Vec<u32> =
                windows(&text, 8).iter().flat_map(|window| &window[1..]).copied().collect();
            assert_eq!(targets, text[1..]);
        }
    }

    #[test]
    fn the_mean_over_windows_is_the_mean_over_tokens_however_they_are_grouped() {
        let (model, tokenizer) = (model(8), tokenizer());
        let text: Vec<u32> = (0..29).map(|i| i * 7 % 256).collect();
        let whole = evaluate(&model, &tokenizer, &text, 8).unwrap();
        let one_by_one: f64 = windows(&text, 8)
            .iter()
            .map(|window| loss(&model, &[window], window.len() - 1).unwrap() * (window.len() - 1) as f64)
            .sum();
        assert_eq!(whole.tokens, 28);
        assert!((whole.loss - one_by_one / 28.0).abs() < 1e-6);
        assert!((whole.perplexity - whole.loss.exp()).abs() < 1e-9);
        let bits = one_by_one / std::f64::consts::LN_2;
        assert!((whole.bits_per_byte - bits / whole.bytes as f64).abs() < 1e-5);
    }

    #[test]
    fn a_part_of_the_windows_is_spread_over_the_text() {
        let text: Vec<u32> = (0..101).collect();
        let starts: Vec<u32> = some_windows(&text, 10, 4).iter().map(|window| window[0]).collect();
        assert_eq!(starts, [0, 20, 50, 70]);
        assert_eq!(some_windows(&text, 10, 99).len(), 10);
    }

    #[test]
    fn a_context_that_does_not_fit_is_an_error_that_names_both_numbers() {
        let (model, tokenizer) = (model(8), tokenizer());
        let error = evaluate(&model, &tokenizer, &[0; 5], 8).unwrap_err().to_string();
        assert!(error.contains("context 8") && error.contains("5 tokens"), "{error}");
        let error = evaluate(&model, &tokenizer, &[0; 50], 9).unwrap_err().to_string();
        assert!(error.contains("context 9") && error.contains("8 positions"), "{error}");
    }
}

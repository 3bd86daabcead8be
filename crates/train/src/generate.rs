//! Text that continues a prompt.

use std::io;

use longhand_models::{gpt2::Gpt2, sampling::Sampling};
use rand::{SeedableRng, rngs::StdRng};

use crate::{Error, Result, Tokenizer, evaluate};

/// Why a generation ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// The model said that the text ends here.
    EndOfText,
    /// The prompt and what was generated fill the model's context.
    ContextFull,
    /// As many tokens as asked for.
    MaxTokens,
}

/// Continues `prompt` by at most `max_tokens` tokens and gives the text to `emit` as it comes, cut between
/// characters. An empty prompt starts a new text. The same arguments give the same text.
///
/// # Errors
/// A prompt longer than the model's context, or empty where the tokenizer has no end of text; a sampling that
/// is not valid; what `emit` returns.
pub fn generate(
    model: &Gpt2,
    tokenizer: &Tokenizer,
    prompt: &str,
    max_tokens: usize,
    sampling: Sampling,
    seed: u64,
    mut emit: impl FnMut(&str) -> io::Result<()>,
) -> Result<Ended> {
    let mut tokens = tokenizer.encode(prompt)?;
    if tokens.is_empty() {
        tokens.extend(tokenizer.end_of_text());
    }
    evaluate::check(model, tokenizer, 1)?;
    let mut pending = Vec::new();
    let mut generated = 0;
    for token in model.generate(&tokens, sampling, StdRng::seed_from_u64(seed))?.take(max_tokens) {
        generated += 1;
        pending.push(token?);
        let text = tokenizer.decode(&pending)?;
        // A character is at most four bytes, so that five tokens do not all wait for its end.
        if !text.ends_with(char::REPLACEMENT_CHARACTER) || pending.len() > 4 {
            emit(&text).map_err(Error::Output)?;
            pending.clear();
        }
    }
    emit(&tokenizer.decode(&pending)?).map_err(Error::Output)?;
    Ok(if generated == max_tokens {
        Ended::MaxTokens
    } else if tokens.len() + generated >= model.config().n_positions {
        Ended::ContextFull
    } else {
        Ended::EndOfText
    })
}

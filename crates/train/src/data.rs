//! Batches of token windows, drawn by a counter and no state.

use crate::{Error, Result};

/// Whether a window of `context` tokens and the token after it fit into a text to train on.
pub(crate) fn check(text: &[u32], context: usize) -> Result<()> {
    if text.len() <= context {
        return Err(Error::ContextTooLong { context, tokens: text.len(), part: "training" });
    }
    Ok(())
}

/// `rows` windows drawn uniformly from `text`, as inputs and targets, each `(rows, context)`, row-major, the
/// targets one token ahead. Which windows follows from the seed and the number of the batch alone, so that a run
/// resumed at any step sees what it would have seen.
///
/// `text` must be longer than `context`.
pub(crate) fn draw(text: &[u32], context: usize, rows: usize, seed: u64, batch: u64) -> (Vec<u32>, Vec<u32>) {
    let starts = (text.len() - context) as u64;
    let start = |row: usize| (random([seed, batch, row as u64]) % starts) as usize;
    let gather =
        |ahead: usize| (0..rows).flat_map(|row| &text[start(row) + ahead..][..context]).copied().collect();
    (gather(0), gather(1))
}

/// A random number that depends on these words alone: each is absorbed by one round of `SplitMix64` (Steele, Lea
/// and Flood 2014, "Fast splittable pseudorandom number generators", fig. 15).
fn random(words: [u64; 3]) -> u64 {
    words.into_iter().fold(0, |state: u64, word| {
        let mut z = (state ^ word).wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(length: u32) -> Vec<u32> {
        (0..length).collect()
    }

    #[test]
    fn targets_are_the_tokens_after_the_inputs() {
        let (inputs, targets) = draw(&text(100), 7, 5, 1, 3);
        assert_eq!(inputs.len(), 35);
        assert!(inputs.iter().zip(&targets).all(|(input, target)| input + 1 == *target));
    }

    #[test]
    fn batches_differ_by_seed_and_by_number_and_repeat_when_asked_again() {
        let inputs = |seed, batch| draw(&text(10_000), 4, 4, seed, batch).0;
        assert_eq!(inputs(1, 8), inputs(1, 8));
        assert_ne!(inputs(1, 8), inputs(1, 9));
        assert_ne!(inputs(1, 8), inputs(2, 8));
    }

    #[test]
    fn every_window_is_drawn_the_last_one_too() {
        let (inputs, _) = draw(&text(12), 8, 200, 5, 0);
        let mut starts: Vec<u32> = inputs.chunks(8).map(|row| row[0]).collect();
        starts.sort_unstable();
        starts.dedup();
        assert_eq!(starts, [0, 1, 2, 3]);
    }

    #[test]
    fn a_context_longer_than_the_text_is_an_error_that_names_both() {
        check(&text(9), 8).unwrap();
        let error = check(&text(8), 8).unwrap_err().to_string();
        assert!(error.contains("context 8") && error.contains("8 tokens"), "{error}");
    }
}

//! What can go wrong, each naming the thing, its value and what was expected.

use std::{io, path::PathBuf};

/// The result of everything here that can fail.
pub type Result<T> = std::result::Result<T, Error>;

/// Why a text could not be read, a run not started or continued, or a model not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something about a file.
    #[error("cannot {action} {path}")]
    File {
        /// What was attempted: "read", "write", ...
        action: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// A file named by the user is not text.
    #[error("text {path} is not UTF-8: invalid byte at offset {offset}; expected a UTF-8 text file")]
    NotUtf8 {
        /// The file.
        path: PathBuf,
        /// Bytes before the first invalid one.
        offset: usize,
    },

    /// There is no text in what was named.
    #[error("text {paths} is empty: expected at least one UTF-8 file with something in it")]
    EmptyText {
        /// What was searched, for people.
        paths: String,
    },

    /// No `--text` was given, and the repository this was built from cannot be found.
    #[error(
        "no text given, and the default text (Longhand's own sources) is neither at or above the current \
         folder nor at {built_in}: name files or folders to train on"
    )]
    NoDefaultText {
        /// Where the sources were when this was compiled.
        built_in: PathBuf,
    },

    /// One window of text does not fit in the text.
    #[error(
        "context {context} is longer than the {part} text, which has {tokens} tokens: expected at most \
         {} (one window and the token after it)", tokens.saturating_sub(1)
    )]
    ContextTooLong {
        /// Tokens in a window.
        context: usize,
        /// Tokens in the text.
        tokens: usize,
        /// Which text.
        part: &'static str,
    },

    /// The context asked for exceeds what the model has positions for.
    #[error("context {context} is longer than the model's {positions} positions")]
    ContextBeyondModel {
        /// Tokens in a window.
        context: usize,
        /// `n_positions` of the model.
        positions: usize,
    },

    /// A text has too few tokens to predict one from another.
    #[error("the {part} text has {tokens} tokens: expected at least 2, so that one predicts the next")]
    TooFewTokens {
        /// How many tokens.
        tokens: usize,
        /// Which text.
        part: &'static str,
    },

    /// The tokenizer cannot be trained, read or used.
    #[error("tokenizer {path}: {reason}")]
    Tokenizer {
        /// Its file, or "(in training)".
        path: PathBuf,
        /// Why, and what was expected.
        reason: String,
    },

    /// The tokenizer's identifiers go beyond the model's embedding.
    #[error(
        "the tokenizer has {tokenizer} tokens and the model's vocabulary {model}: expected no more tokens than the model has"
    )]
    Vocabulary {
        /// Tokens in the tokenizer.
        tokenizer: usize,
        /// `vocab_size` of the model.
        model: usize,
    },

    /// A setting that no run can have.
    #[error("{name} is {value}: expected {expected}")]
    Setting {
        /// Its name.
        name: &'static str,
        /// What was given.
        value: String,
        /// What it has to be.
        expected: &'static str,
    },

    /// A new run was asked for in a folder that holds something.
    #[error("run folder {path} exists and is not empty: resume it, or choose another folder")]
    FolderInUse {
        /// The folder.
        path: PathBuf,
    },

    /// There is nothing to resume from.
    #[error("run folder {path} holds no complete checkpoint to resume from")]
    NoCheckpoint {
        /// The folder.
        path: PathBuf,
    },

    /// A file of a run does not hold what it should.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },

    /// The text is not the one the run was started with.
    #[error(
        "the text of run {path} has changed since it was started ({was} bytes then, {now} now): resuming \
         needs the same text"
    )]
    TextChanged {
        /// The run folder.
        path: PathBuf,
        /// Bytes when started.
        was: u64,
        /// Bytes now.
        now: u64,
    },

    /// Training left the numbers.
    #[error("the loss became {loss} at step {step}: expected a finite number; try a lower learning rate")]
    Diverged {
        /// The step that gave it.
        step: u64,
        /// What it was.
        loss: f64,
    },

    /// The picture of the loss could not be drawn.
    #[error("cannot draw {path}: {reason}")]
    Plot {
        /// The picture.
        path: PathBuf,
        /// Why.
        reason: String,
    },

    /// Whoever takes the generated text could not.
    #[error("cannot write the generated text")]
    Output(#[source] io::Error),

    /// From the tensors.
    #[error(transparent)]
    Tensor(#[from] longhand_tensor::Error),

    /// From the model.
    #[error(transparent)]
    Model(#[from] longhand_models::Error),
}

impl Error {
    /// A closure for `map_err` on an operation with a file.
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

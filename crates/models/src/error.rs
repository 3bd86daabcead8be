use std::fmt;
use std::io;
use std::path::PathBuf;

/// What this crate returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a model could not be read, written, run or sampled from.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A file or folder could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// What was to be read.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// A file could not be written; what stood at `path` before stands there still.
    #[error("cannot write {}: {source}", path.display())]
    Write {
        /// What was to be written.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },

    /// A `.json` file does not hold JSON of the expected form.
    #[error("{} is not valid: {source}", path.display())]
    Json {
        /// The file.
        path: PathBuf,
        /// What is wrong, with line and column.
        source: serde_json::Error,
    },

    /// A field of a `config.json` holds what cannot be used.
    #[error("{}: {problem}", path.display())]
    ConfigFile {
        /// The file.
        path: PathBuf,
        /// The field, its value, and what it had to be.
        problem: ConfigError,
    },

    /// A field of a configuration made in memory holds what cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),

    /// The folder holds no weights that can be read.
    #[error("{} holds neither model.safetensors nor model.safetensors.index.json{}", path.display(),
            if *pickled { "; convert its pytorch_model.bin with transformers: \
                          AutoModel.from_pretrained(dir).save_pretrained(dir)" } else { "" })]
    NoWeights {
        /// The folder.
        path: PathBuf,
        /// Whether it holds pickled weights, which Longhand does not read.
        pickled: bool,
    },

    /// A file that is not in the safetensors format.
    #[error("{} is not a safetensors file: {reason}", path.display())]
    NotSafetensors {
        /// The file.
        path: PathBuf,
        /// What in it gives that away.
        reason: String,
    },

    /// A safetensors file whose length is not what its header describes.
    #[error("{} is truncated or damaged: it is {was} bytes long, its header describes {expected}", path.display())]
    WrongLength {
        /// The file.
        path: PathBuf,
        /// Its length in bytes.
        was: u64,
        /// The length its header describes, in bytes.
        expected: u64,
    },

    /// A `model.safetensors.index.json` that contradicts itself or its shards.
    #[error("{}: tensor `{tensor}` is said to be in `{shard}`, {problem}", path.display())]
    Index {
        /// The index.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The shard the index names for it.
        shard: String,
        /// What is wrong with that.
        problem: &'static str,
    },

    /// A tensor is stored in a type that is not read.
    #[error("{}: tensor `{tensor}` is stored as {was}, expected F32, BF16 or F16", path.display())]
    StoredDtype {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// Its type, as safetensors names it.
        was: String,
    },

    /// The weights are not those the configuration describes.
    #[error("the weights in {} are not those its config.json describes: {misfit}", path.display())]
    Misfit {
        /// The file, or the index of its shards.
        path: PathBuf,
        /// Each tensor that does not fit.
        misfit: Misfit,
    },

    /// Tensors handed over in memory are not those the configuration describes.
    #[error("the tensors are not those the configuration describes: {0}")]
    Tensors(Misfit),

    /// The configuration ties the output head to the token embedding, and the file holds two different ones.
    #[error("{}: `lm_head.weight` differs from `wte.weight`, but tie_word_embeddings in config.json is true", path.display())]
    HeadNotTied {
        /// The file, or the index of its shards.
        path: PathBuf,
    },

    /// More tokens than the model has positions for.
    #[error("a context of {tokens} tokens is longer than the model's n_positions of {n_positions}")]
    ContextTooLong {
        /// Tokens asked for, those in a cache included.
        tokens: usize,
        /// Tokens the model has position embeddings for.
        n_positions: usize,
    },

    /// An argument that cannot be used.
    #[error("{operation}: {argument} is {was}, expected {expected}")]
    Argument {
        /// The function.
        operation: &'static str,
        /// The argument.
        argument: &'static str,
        /// Its value.
        was: String,
        /// What it had to be.
        expected: String,
    },

    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] longhand_tensor::Error),
}

/// A field of a configuration holds what cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {was}, expected {expected}")]
pub struct ConfigError {
    /// The field, as `config.json` names it.
    pub field: String,
    /// Its value.
    pub was: String,
    /// What it had to be.
    pub expected: String,
}

/// How a set of tensors differs from the one a configuration describes. Names are without `transformer.`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Misfit {
    /// Described and not there.
    pub missing: Vec<String>,
    /// There and not described.
    pub unexpected: Vec<String>,
    /// There with another shape.
    pub shapes: Vec<WrongShape>,
}

/// A tensor with another shape than the configuration gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrongShape {
    /// The tensor.
    pub name: String,
    /// Its shape.
    pub was: Vec<usize>,
    /// The shape that follows from the configuration.
    pub expected: Vec<usize>,
}

impl Misfit {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.missing.is_empty() && self.unexpected.is_empty() && self.shapes.is_empty()
    }
}

impl fmt::Display for Misfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shapes = self.shapes.iter().map(ToString::to_string).collect::<Vec<_>>();
        let parts = [("missing", &self.missing), ("unexpected", &self.unexpected), ("wrong shape", &shapes)];
        let mut separator = "";
        for (what, items) in parts {
            if !items.is_empty() {
                write!(f, "{separator}{what} ({}): {}", items.len(), items.join(", "))?;
                separator = "; ";
            }
        }
        Ok(())
    }
}

impl fmt::Display for WrongShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is {:?} where the configuration gives {:?}", self.name, self.was, self.expected)
    }
}

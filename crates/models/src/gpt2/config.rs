use std::fmt::Display;
use std::fs;
use std::path::Path;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use crate::{ConfigError, Error, Result};

/// The nonlinearity between the two linear maps of the feed-forward network.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// `"gelu_new"`: GELU by its tanh approximation.
    GeluNew,
    /// `"gelu"`: GELU by the error function.
    Gelu,
}

impl Activation {
    const ALL: [Self; 2] = [Self::GeluNew, Self::Gelu];

    /// As `config.json` names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::GeluNew => "gelu_new",
            Self::Gelu => "gelu",
        }
    }
}

/// A Hugging Face GPT-2 `config.json`: same names, same defaults (GPT-2 small).
///
/// What this crate does not use is kept in [`other`](Self::other) and written back as it was read. Among it are
/// the dropout probabilities `attn_pdrop`, `embd_pdrop` and `resid_pdrop`: Longhand trains without dropout.
/// `reorder_and_upcast_attn` changes nothing either, because scores and softmax are always in f32.
///
/// ```
/// use longhand_models::gpt2::Gpt2Config;
///
/// let config = Gpt2Config { n_layer: 4, n_embd: 256, n_head: 4, ..Gpt2Config::default() };
/// assert!(config.validate().is_ok());
/// assert_eq!(config.head_dim(), 64);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Gpt2Config {
    /// V, tokens in the vocabulary.
    pub vocab_size: usize,
    /// The longest context, in tokens.
    pub n_positions: usize,
    /// C, the model's width.
    pub n_embd: usize,
    /// Blocks.
    pub n_layer: usize,
    /// H, attention heads; divides `n_embd`.
    pub n_head: usize,
    /// Width of the feed-forward network; `None` is 4 · `n_embd`.
    pub n_inner: Option<usize>,
    /// Nonlinearity of the feed-forward network.
    pub activation_function: Activation,
    /// ε of the layer norms.
    pub layer_norm_epsilon: f64,
    /// Standard deviation of a new model's weights.
    pub initializer_range: f64,
    /// Whether attention scores are divided by the square root of the head dim.
    pub scale_attn_weights: bool,
    /// Whether attention scores of layer i (from 0) are divided by i + 1.
    pub scale_attn_by_inverse_layer_idx: bool,
    /// Whether the output head is the token embedding.
    pub tie_word_embeddings: bool,
    /// The token a text begins with.
    pub bos_token_id: Option<u32>,
    /// The tokens that end a text: none (`null`), one, or a list.
    pub eos_token_id: Vec<u32>,
    /// Every other field, by name.
    pub other: Map<String, Value>,
}

impl Default for Gpt2Config {
    fn default() -> Self {
        Self {
            vocab_size: 50257,
            n_positions: 1024,
            n_embd: 768,
            n_layer: 12,
            n_head: 12,
            n_inner: None,
            activation_function: Activation::GeluNew,
            layer_norm_epsilon: 1e-5,
            initializer_range: 0.02,
            scale_attn_weights: true,
            scale_attn_by_inverse_layer_idx: false,
            tie_word_embeddings: true,
            bos_token_id: Some(50256),
            eos_token_id: vec![50256],
            other: Map::new(),
        }
    }
}

impl Gpt2Config {
    /// Reads a `config.json`.
    ///
    /// # Errors
    ///
    /// The file cannot be read, is not a JSON object, is of another architecture, or has a field that cannot be
    /// used; each error names the file.
    pub fn from_file(path: &Path) -> Result<Self> {
        let text = fs::read_to_string(path).map_err(|source| Error::Read { path: path.into(), source })?;
        let map = serde_json::from_str(&text).map_err(|source| Error::Json { path: path.into(), source })?;
        Self::from_json(map).map_err(|problem| Error::ConfigFile { path: path.into(), problem })
    }

    /// Takes the fields of a `config.json`, and checks them as [`validate`](Self::validate) does.
    ///
    /// # Errors
    ///
    /// A field of another type, or one that says that this is no GPT-2 language model.
    pub fn from_json(map: Map<String, Value>) -> Result<Self, ConfigError> {
        let mut fields = Fields(map);
        fields.check_architecture()?;
        let default = Self::default();
        let config = Self {
            vocab_size: fields.take("vocab_size", "a whole number", default.vocab_size)?,
            n_positions: fields.take("n_positions", "a whole number", default.n_positions)?,
            n_embd: fields.take("n_embd", "a whole number", default.n_embd)?,
            n_layer: fields.take("n_layer", "a whole number", default.n_layer)?,
            n_head: fields.take("n_head", "a whole number", default.n_head)?,
            n_inner: fields.take("n_inner", "a whole number or null", None)?,
            activation_function: fields.take_activation()?,
            layer_norm_epsilon: fields.take("layer_norm_epsilon", "a number", default.layer_norm_epsilon)?,
            initializer_range: fields.take("initializer_range", "a number", default.initializer_range)?,
            scale_attn_weights: fields.take("scale_attn_weights", "true or false", true)?,
            scale_attn_by_inverse_layer_idx: fields.take(
                "scale_attn_by_inverse_layer_idx",
                "true or false",
                false,
            )?,
            tie_word_embeddings: fields.take("tie_word_embeddings", "true or false", true)?,
            bos_token_id: fields.take("bos_token_id", "a token id or null", default.bos_token_id)?,
            eos_token_id: fields.take_eos(default.eos_token_id)?,
            other: fields.0,
        };
        config.validate()?;
        Ok(config)
    }

    /// The fields of a `config.json` for a `GPT2LMHeadModel`, those of [`other`](Self::other) included.
    pub fn to_json(&self) -> Map<String, Value> {
        let eos = match self.eos_token_id.as_slice() {
            [] => Value::Null,
            [one] => json!(one),
            several => json!(several),
        };
        let fields = [
            ("architectures", json!(["GPT2LMHeadModel"])),
            ("model_type", json!("gpt2")),
            ("vocab_size", json!(self.vocab_size)),
            ("n_positions", json!(self.n_positions)),
            ("n_embd", json!(self.n_embd)),
            ("n_layer", json!(self.n_layer)),
            ("n_head", json!(self.n_head)),
            ("n_inner", json!(self.n_inner)),
            ("activation_function", json!(self.activation_function.name())),
            ("layer_norm_epsilon", json!(self.layer_norm_epsilon)),
            ("initializer_range", json!(self.initializer_range)),
            ("scale_attn_weights", json!(self.scale_attn_weights)),
            ("scale_attn_by_inverse_layer_idx", json!(self.scale_attn_by_inverse_layer_idx)),
            ("tie_word_embeddings", json!(self.tie_word_embeddings)),
            ("bos_token_id", json!(self.bos_token_id)),
            ("eos_token_id", eos),
        ];
        let mut map = self.other.clone();
        map.extend(fields.map(|(name, value)| (name.to_owned(), value)));
        map
    }

    /// Checks that the fields describe a model.
    ///
    /// # Errors
    ///
    /// A size of 0 or beyond what any model has, `n_head` that does not divide `n_embd`, an ε that is not positive,
    /// an initializer range below 0.
    pub fn validate(&self) -> Result<(), ConfigError> {
        // The bounds keep every product of sizes far from overflow, whatever a file claims.
        let sizes = [
            ("vocab_size", self.vocab_size, 1 << 31),
            ("n_positions", self.n_positions, 1 << 31),
            ("n_embd", self.n_embd, 1 << 24),
            ("n_layer", self.n_layer, 1 << 14),
            ("n_head", self.n_head, 1 << 24),
            ("n_inner", self.inner(), 1 << 26),
        ];
        for (field, size, most) in sizes {
            if size == 0 || size > most {
                return Err(problem(field, &size, format!("1 to {most}")));
            }
        }
        if !self.n_embd.is_multiple_of(self.n_head) {
            return Err(problem(
                "n_head",
                &self.n_head,
                format!("a divisor of n_embd, which is {}", self.n_embd),
            ));
        }
        if !(self.layer_norm_epsilon.is_finite() && self.layer_norm_epsilon > 0.0) {
            return Err(problem("layer_norm_epsilon", &self.layer_norm_epsilon, "a number above 0"));
        }
        if !(self.initializer_range.is_finite() && self.initializer_range >= 0.0) {
            return Err(problem("initializer_range", &self.initializer_range, "a number, 0 or above"));
        }
        Ok(())
    }

    /// D, width of one head.
    pub fn head_dim(&self) -> usize {
        self.n_embd / self.n_head
    }

    /// Width of the feed-forward network.
    pub fn inner(&self) -> usize {
        self.n_inner.unwrap_or(self.n_embd.saturating_mul(4))
    }

    /// What multiplies the attention scores of a layer (counted from 0).
    pub fn attention_scale(&self, layer: usize) -> f64 {
        let by_width = if self.scale_attn_weights { (self.head_dim() as f64).powf(-0.5) } else { 1.0 };
        if self.scale_attn_by_inverse_layer_idx { by_width / (layer + 1) as f64 } else { by_width }
    }
}

fn problem(field: &str, was: &impl Display, expected: impl Into<String>) -> ConfigError {
    ConfigError { field: field.into(), was: was.to_string(), expected: expected.into() }
}

/// The fields of a `config.json` that have not been taken yet.
struct Fields(Map<String, Value>);

impl Fields {
    fn take<T: DeserializeOwned>(
        &mut self,
        field: &str,
        expected: &str,
        default: T,
    ) -> Result<T, ConfigError> {
        let Some(value) = self.0.remove(field) else { return Ok(default) };
        T::deserialize(&value).map_err(|_| problem(field, &value, expected))
    }

    fn take_activation(&mut self) -> Result<Activation, ConfigError> {
        let field = "activation_function";
        let name: String = self.take(field, "a name", Activation::GeluNew.name().into())?;
        Activation::ALL.into_iter().find(|activation| activation.name() == name).ok_or_else(|| {
            let supported = Activation::ALL.map(Activation::name).join(" or ");
            problem(field, &json!(name), supported)
        })
    }

    fn take_eos(&mut self, default: Vec<u32>) -> Result<Vec<u32>, ConfigError> {
        let field = "eos_token_id";
        let Some(value) = self.0.remove(field) else { return Ok(default) };
        let list = match &value {
            Value::Null => json!([]),
            Value::Array(_) => value.clone(),
            one => json!([one]),
        };
        Vec::deserialize(list).map_err(|_| problem(field, &value, "a token id, a list of them, or null"))
    }

    /// Fails on what is not a GPT-2 language model.
    fn check_architecture(&mut self) -> Result<(), ConfigError> {
        let model_type: Value = self.0.remove("model_type").unwrap_or_default();
        if model_type != "gpt2" {
            return Err(problem("model_type", &model_type, "\"gpt2\""));
        }
        // GPT2Model holds no head of its own: the head is the token embedding.
        let supported = ["GPT2LMHeadModel", "GPT2Model"];
        let architectures: Option<Vec<String>> = self.take("architectures", "a list of names", None)?;
        if let Some(names) = architectures
            && !names.is_empty()
            && !names.iter().any(|name| supported.contains(&name.as_str()))
        {
            return Err(problem("architectures", &json!(names), supported.join(" or ")));
        }
        if let Some(value) = self.0.get("add_cross_attention").filter(|value| **value != json!(false)) {
            return Err(problem("add_cross_attention", value, "false, as cross-attention is not supported"));
        }
        Ok(())
    }
}

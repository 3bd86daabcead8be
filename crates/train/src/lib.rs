//! Training, evaluation and generation for Longhand's models.
//!
//! A [`Trainer`] makes a run in a folder: it reads a text ([`Corpus`]), trains a [`Tokenizer`] on it, and then a
//! GPT-2 model, with checkpoints from which the run continues bitwise as if it had never stopped. The folder ends
//! as an ordinary Hugging Face model folder, with the losses beside it ([`Metric`]). [`evaluate`] and [`generate`]
//! take any such folder's model.
//!
//! Nothing is printed here: a run tells of itself through [`Event`]s.

#![forbid(unsafe_code)]

mod checkpoint;
mod data;
mod error;
mod evaluate;
mod files;
mod generate;
mod metrics;
mod optimizer;
mod plot;
mod schedule;
mod settings;
mod text;
mod tokenizer;
mod trainer;

pub use error::{Error, Result};
pub use evaluate::{Evaluation, evaluate};
pub use generate::{Ended, generate};
pub use metrics::{Metric, Metrics, Split};
pub use plot::plot_loss;
pub use schedule::Schedule;
pub use settings::Settings;
pub use text::{Corpus, Document, Text, repository};
pub use tokenizer::{END_OF_TEXT, SMALLEST_VOCABULARY, Tokenizer};
pub use trainer::{Best, Event, Outcome, Trainer};

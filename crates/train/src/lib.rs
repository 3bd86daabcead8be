//! Training, evaluation and generation for Longhand's models.
//!
//! A [`Trainer`] makes a run in a folder: it reads a text ([`Corpus`]), trains a [`Tokenizer`] on it, and then a
//! GPT-2 model, with checkpoints from which the run continues bitwise as if it had never stopped. The folder ends
//! as an ordinary Hugging Face model folder, with the losses beside it ([`Metric`]). [`evaluate`] and [`generate`]
//! take any such folder's model.
//!
//! Nothing is printed here: a run tells of itself through [`Event`]s.
//!
//! ```
//! use std::sync::atomic::AtomicBool;
//!
//! use longhand_models::sampling::Sampling;
//! use longhand_tensor::Device;
//! use longhand_train::{Event, Outcome, Settings, Trainer, generate};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let place = tempfile::tempdir()?;
//! # let (text, folder) = (place.path().join("text.txt"), place.path().join("run"));
//! # std::fs::write(&text, "a text of some words, and of some more words\n".repeat(20))?;
//! let tiny = Settings {
//!     text: vec![text],
//!     steps: 8,
//!     context: 16,
//!     layers: 1,
//!     width: 16,
//!     vocab: 270,
//!     ..Settings::default()
//! };
//! let mut run = Trainer::create(&folder, tiny, &Device::Cpu)?;
//! let outcome = run.run(&AtomicBool::new(false), |event| {
//!     if let Event::Evaluated(metric) = event {
//!         println!("step {}: {:.2} bits per byte", metric.step, metric.bits_per_byte);
//!     }
//! })?;
//! assert_eq!(outcome, Outcome::Finished);
//! generate(run.model(), run.tokenizer(), "a text", 8, Sampling::GREEDY, 1, |text| {
//!     print!("{text}");
//!     Ok(())
//! })?;
//! # Ok(())
//! # }
//! ```

#![forbid(unsafe_code)]

mod checkpoint;
mod curves;
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
pub use settings::{Precision, Settings};
pub use text::{Corpus, Document, Text, repository};
pub use tokenizer::{END_OF_TEXT, SMALLEST_VOCABULARY, Tokenizer};
pub use trainer::{Best, Event, Outcome, Trainer};

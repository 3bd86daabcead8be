//! A run: from a text to a trained model, in one go or resumed.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicBool, Ordering},
    time::Instant,
};

use longhand_models::gpt2::Gpt2;
use longhand_tensor::{
    AdamW, Device, Gradients, Tensor,
    profile::{Profile, profile},
};
use rand::{SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use crate::{
    Error, Metric, Metrics, Result, Settings, Split, Text, Tokenizer, checkpoint, data,
    evaluate::{self, bits_per_byte},
    files, optimizer, plot_loss,
};

/// Held-out tokens that an evaluation looks at, at most: windows spread evenly, the same ones every time.
const HELD_OUT_TOKENS: usize = 16_384;

/// A run that can be trained further.
pub struct Trainer {
    folder: PathBuf,
    tokenizer: Tokenizer,
    text: Text,
    model: Gpt2,
    optimizer: AdamW,
    metrics: Metrics,
    state: State,
    profiling: Profiling,
}

/// Which steps are profiled: so many after one that is not, since it compiles kernels and fills caches.
#[derive(Default)]
struct Profiling {
    warm: bool,
    left: u64,
    profile: Option<Profile>,
}

/// What a checkpoint holds beside the model and the optimizer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct State {
    step: u64,
    /// Training time so far.
    seconds: f64,
    best: Option<Best>,
    text_bytes: u64,
    text_digest: u64,
    settings: Settings,
}

/// The best evaluation so far.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Best {
    /// Optimizer steps made before it.
    pub step: u64,
    /// Held-out loss, in nats per token.
    pub loss: f64,
}

/// What a run tells of while it goes on.
#[derive(Debug, Clone, Copy)]
pub enum Event<'a> {
    /// An optimizer step was made.
    Trained(&'a Metric),
    /// The model was evaluated on the held-out text.
    Evaluated(&'a Metric),
    /// A checkpoint was written after this many steps.
    Saved(u64),
}

/// How a run came to an end.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Outcome {
    /// All steps were made.
    Finished,
    /// The held-out loss did not improve for as long as [`Settings::patience`] allows.
    StoppedEarly(Best),
    /// It was asked to stop, and can be resumed.
    Interrupted,
}

impl Trainer {
    /// Starts a run in `folder`, which must be new or empty: reads the text, trains the tokenizer, makes a model.
    ///
    /// # Errors
    /// Settings, text or folder that will not do. Then nothing is left behind.
    pub fn create(folder: &Path, settings: Settings, device: &Device) -> Result<Self> {
        settings.validate()?;
        claim(folder)?;
        Self::start(folder, settings, device).inspect_err(|_| {
            // Succeeds only when nothing was written into it.
            let _ = fs::remove_dir(folder);
        })
    }

    fn start(folder: &Path, settings: Settings, device: &Device) -> Result<Self> {
        let corpus = settings.read_text(folder)?;
        let tokenizer =
            Tokenizer::train(corpus.documents.iter().map(|document| document.split().0), settings.vocab)?;
        let text = Text::new(&corpus, &tokenizer)?;
        data::check(&text.train, settings.context)?;
        let config = settings.model(tokenizer.vocabulary(), tokenizer.end_of_text());
        let mut model =
            Gpt2::new(config, device, settings.dtype(device), &mut StdRng::seed_from_u64(settings.seed))?;
        save_memory(&mut model, &settings);
        let optimizer = optimizer::new(&model, &settings)?;
        tokenizer.save(folder, settings.context)?;
        let metrics = Metrics::create(folder)?;
        let (text_bytes, text_digest) = (text.bytes, text.digest());
        let state = State { step: 0, seconds: 0.0, best: None, text_bytes, text_digest, settings };
        let profiling = Profiling::default();
        Ok(Self { folder: folder.into(), tokenizer, text, model, optimizer, metrics, state, profiling })
    }

    /// Continues the run in `folder` from its last checkpoint, as if it had never stopped.
    ///
    /// # Errors
    /// No checkpoint, a damaged one, or a text that has changed.
    pub fn resume(folder: &Path, device: &Device) -> Result<Self> {
        let (_, checkpoint) = checkpoint::latest(folder)?;
        let state = State::load(&checkpoint)?;
        state.settings.validate()?;
        let tokenizer = Tokenizer::load(folder)?;
        let text = Text::new(&state.settings.read_text(folder)?, &tokenizer)?;
        if text.digest() != state.text_digest {
            return Err(Error::TextChanged { path: folder.into(), was: state.text_bytes, now: text.bytes });
        }
        data::check(&text.train, state.settings.context)?;
        let mut model = Gpt2::from_pretrained(&checkpoint, device, state.settings.dtype(device))?;
        save_memory(&mut model, &state.settings);
        let mut optimizer = optimizer::new(&model, &state.settings)?;
        optimizer::load(&mut optimizer, &checkpoint)?;
        let metrics = Metrics::resume(folder, state.step)?;
        let profiling = Profiling::default();
        Ok(Self { folder: folder.into(), tokenizer, text, model, optimizer, metrics, state, profiling })
    }

    /// The settings of the run in `folder`, as its last checkpoint has them.
    ///
    /// # Errors
    /// No checkpoint, or a damaged one.
    pub fn settings_of(folder: &Path) -> Result<Settings> {
        Ok(State::load(&checkpoint::latest(folder)?.1)?.settings)
    }

    /// What the run is made with.
    pub fn settings(&self) -> &Settings {
        &self.state.settings
    }

    /// Optimizer steps made.
    pub fn step(&self) -> u64 {
        self.state.step
    }

    /// The text, as tokens.
    pub fn text(&self) -> &Text {
        &self.text
    }

    /// The model as it is now.
    pub fn model(&self) -> &Gpt2 {
        &self.model
    }

    /// The tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.tokenizer
    }

    /// The losses so far.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Profiles so many of the next steps, from the second that [`run`](Self::run) makes on.
    pub fn profile_steps(&mut self, steps: u64) {
        self.profiling = Profiling { left: steps, ..Profiling::default() };
    }

    /// Where the time of the profiled steps went; `None` where none was profiled.
    pub fn profile(&self) -> Option<&Profile> {
        self.profiling.profile.as_ref()
    }

    /// Trains until the last step, until the held-out loss no longer improves, or until `stop` is set. Each of
    /// these leaves `model.safetensors` and `loss.svg` in the run folder, and a checkpoint.
    ///
    /// # Errors
    /// A loss that is no number; files that cannot be written. The last checkpoint stays.
    pub fn run(&mut self, stop: &AtomicBool, mut observe: impl FnMut(Event)) -> Result<Outcome> {
        let clock = Clock { start: Instant::now(), before: self.state.seconds };
        if self.metrics.lines().is_empty() {
            self.evaluate(&clock, &mut observe)?;
            self.save(&mut observe)?;
        }
        let outcome = loop {
            if let Some(best) = self.out_of_patience() {
                break Outcome::StoppedEarly(best);
            }
            if self.state.step >= self.state.settings.steps {
                break Outcome::Finished;
            }
            if stop.load(Ordering::Relaxed) {
                break Outcome::Interrupted;
            }
            self.train_profiled(&clock, &mut observe)?;
            let Settings { steps, eval_every, .. } = self.state.settings;
            if self.state.step.is_multiple_of(eval_every) || self.state.step == steps {
                self.evaluate(&clock, &mut observe)?;
                self.save(&mut observe)?;
            }
        };
        self.save(&mut observe)?;
        if self.state.settings.patience.is_none() {
            self.model.save(&self.folder)?;
        }
        Ok(outcome)
    }

    /// [`train`](Self::train), profiled where that was asked for.
    fn train_profiled(&mut self, clock: &Clock, observe: &mut impl FnMut(Event)) -> Result<()> {
        let profiled = self.profiling.warm && self.profiling.left > 0;
        self.profiling.warm = true;
        if !profiled {
            return self.train(clock, observe);
        }
        self.profiling.left -= 1;
        let (result, found) = profile(|| self.train(clock, observe));
        self.profiling.profile.get_or_insert_default().append(found);
        result
    }

    /// Makes one optimizer step.
    fn train(&mut self, clock: &Clock, observe: &mut impl FnMut(Event)) -> Result<()> {
        let began = clock.seconds();
        let settings = &self.state.settings;
        let step = self.state.step;
        let mut gradients = Gradients::default();
        let (mut loss, mut bytes) = (0.0, 0);
        for part in 0..settings.accumulate as u64 {
            let number = step.wrapping_mul(settings.accumulate as u64).wrapping_add(part);
            let Settings { context, batch, seed, .. } = *settings;
            let (inputs, targets) = data::draw(&self.text.train, context, batch, seed, number);
            bytes += self.tokenizer.bytes(&targets);
            let shape = [batch, context];
            let device = self.model.parameters()[0].tensor.device();
            let inputs = Tensor::from_vec(inputs, &shape, device)?;
            let targets = Tensor::from_vec(targets, &shape, device)?;
            let share = self.model.loss(&inputs, &targets)?.scale(1.0 / settings.accumulate as f64)?;
            gradients.accumulate(&share)?;
            loss += share.item()?;
        }
        if !loss.is_finite() {
            return Err(Error::Diverged { step: step + 1, loss });
        }
        self.optimizer.step(&gradients, settings.schedule().at(step))?;

        let tokens = (settings.batch * settings.context) as f64 * settings.accumulate as f64;
        let seconds = clock.seconds();
        self.state.step += 1;
        self.state.seconds = seconds;
        let metric = Metric {
            step: self.state.step,
            split: Split::Train,
            loss,
            bits_per_byte: bits_per_byte(loss * tokens, bytes),
            tokens_per_second: tokens / (seconds - began).max(f64::MIN_POSITIVE),
            seconds,
        };
        observe(Event::Trained(&metric));
        self.metrics.push(metric)
    }

    /// Evaluates on the held-out text, and keeps the model if it is the best and [`Settings::patience`] is set.
    fn evaluate(&mut self, clock: &Clock, observe: &mut impl FnMut(Event)) -> Result<()> {
        let began = clock.seconds();
        let settings = &self.state.settings;
        let most = (HELD_OUT_TOKENS / settings.context).max(1);
        let windows = evaluate::some_windows(&self.text.held_out, settings.context, most);
        let found = evaluate::evaluate_windows(&self.model, &self.tokenizer, &windows)?;
        let (step, seconds) = (self.state.step, clock.seconds());
        if !found.loss.is_finite() {
            return Err(Error::Diverged { step, loss: found.loss });
        }
        self.state.seconds = seconds;
        if self.state.best.is_none_or(|best| found.loss < best.loss) {
            self.state.best = Some(Best { step, loss: found.loss });
            if settings.patience.is_some() {
                self.model.save(&self.folder)?;
            }
        }
        let metric = Metric {
            step,
            split: Split::Valid,
            loss: found.loss,
            bits_per_byte: found.bits_per_byte,
            tokens_per_second: found.tokens as f64 / (seconds - began).max(f64::MIN_POSITIVE),
            seconds,
        };
        observe(Event::Evaluated(&metric));
        self.metrics.push(metric)
    }

    /// The best evaluation, when it is too long ago.
    fn out_of_patience(&self) -> Option<Best> {
        let Settings { patience, eval_every, .. } = self.state.settings;
        self.state.best.filter(|best| {
            self.state.step.saturating_sub(best.step) / eval_every >= patience.unwrap_or(u64::MAX)
        })
    }

    /// Writes a checkpoint, unless this step has one.
    fn save(&self, observe: &mut impl FnMut(Event)) -> Result<()> {
        let step = self.state.step;
        if checkpoint::latest(&self.folder).is_ok_and(|(latest, _)| latest == step) {
            return Ok(());
        }
        self.metrics.sync()?;
        checkpoint::save(&self.folder, step, |folder| {
            self.model.save(folder)?;
            optimizer::save(&self.optimizer, folder)?;
            self.state.save(folder)
        })?;
        plot_loss(&self.folder.join("loss.svg"), self.metrics.lines())?;
        observe(Event::Saved(step));
        Ok(())
    }
}

impl State {
    const FILE: &str = "state.json";

    fn save(&self, folder: &Path) -> Result<()> {
        let path = folder.join(Self::FILE);
        let content = serde_json::to_string_pretty(self)
            .map_err(|error| Error::Damaged { path: path.clone(), reason: error.to_string() })?;
        files::write(&path, content.as_bytes())
    }

    fn load(folder: &Path) -> Result<Self> {
        let path = folder.join(Self::FILE);
        let content = fs::read_to_string(&path).map_err(Error::file("read", &path))?;
        serde_json::from_str(&content).map_err(|error| Error::Damaged { path, reason: error.to_string() })
    }
}

fn save_memory(model: &mut Gpt2, settings: &Settings) {
    model.set_gradient_checkpointing(settings.gradient_checkpointing);
    model.set_mlp_chunk(settings.mlp_chunk);
}

/// Training time, over all parts of a run.
struct Clock {
    start: Instant,
    before: f64,
}

impl Clock {
    fn seconds(&self) -> f64 {
        self.before + self.start.elapsed().as_secs_f64()
    }
}

/// Makes the run folder. One that holds something is somebody's.
fn claim(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(Error::file("create run folder", folder))?;
    let mut entries = fs::read_dir(folder).map_err(Error::file("read run folder", folder))?;
    if entries.next().is_some() {
        return Err(Error::FolderInUse { path: folder.into() });
    }
    Ok(())
}

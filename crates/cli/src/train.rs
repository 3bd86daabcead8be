//! `longhand train`.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{self, ExitCode},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use longhand_models::sampling::Sampling;
use longhand_train::{Event, Metric, Outcome, Precision, Settings, Trainer, generate};

use crate::{
    device::DeviceChoice,
    progress::{Progress, say, warn},
};

/// What the shell reports of a program that Ctrl-C ended: 128 and the signal's number.
const INTERRUPTED: u8 = 130;
/// Tokens of the sample at the end.
const SAMPLE: usize = 160;

/// Train a GPT-2 model on text; with no argument, a small one on Longhand's own sources
#[derive(Args)]
pub struct Train {
    /// Run folder, new or empty [default: runs/1, or the next number that is free]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Continue the run in --out from its last checkpoint, with the settings and the text it was started with
    #[arg(long, requires = "out", conflicts_with = "Options")]
    resume: bool,
    /// Where to compute
    #[arg(long, value_enum, default_value_t)]
    device: DeviceChoice,
    /// Time the operations of so many steps after the first (10, if none is given), print a table of them, and write
    /// profile.json, which chrome://tracing shows, into the run folder
    #[arg(long, value_name = "STEPS", num_args = 0..=1, default_missing_value = "10")]
    profile: Option<u64>,
    #[command(flatten)]
    options: Options,
}

/// The settings of a new run.
#[derive(Args)]
struct Options {
    /// UTF-8 text files, and folders of them; the last tenth of each file is held out [default: Longhand's sources]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    text: Vec<PathBuf>,
    /// Optimizer steps
    #[arg(long, value_name = "N", default_value_t = default().steps)]
    steps: u64,
    /// Windows of text per forward pass
    #[arg(long, value_name = "N", default_value_t = default().batch)]
    batch: usize,
    /// Forward passes per step, whose gradients are averaged
    #[arg(long, value_name = "N", default_value_t = default().accumulate)]
    accumulate: usize,
    /// Tokens in a window
    #[arg(long, value_name = "N", default_value_t = default().context)]
    context: usize,
    /// Transformer blocks
    #[arg(long, value_name = "N", default_value_t = default().layers)]
    layers: usize,
    /// Attention heads
    #[arg(long, value_name = "N", default_value_t = default().heads)]
    heads: usize,
    /// Width of the model, a multiple of the heads
    #[arg(long, value_name = "N", default_value_t = default().width)]
    width: usize,
    /// Tokens in the vocabulary, at least 257
    #[arg(long, value_name = "N", default_value_t = default().vocab)]
    vocab: usize,
    /// Highest learning rate; a larger model wants a lower one
    #[arg(long, value_name = "X", default_value_t = default().lr)]
    lr: f64,
    /// Steps over which the learning rate rises, before it falls along a cosine
    #[arg(long, value_name = "N", default_value_t = default().warmup)]
    warmup: u64,
    /// Weight decay
    #[arg(long, value_name = "X", default_value_t = default().weight_decay)]
    weight_decay: f64,
    /// Largest gradient norm
    #[arg(long, value_name = "X", default_value_t = default().clip)]
    clip: f64,
    /// Steps between evaluations on the held-out text, each followed by a checkpoint
    #[arg(long, value_name = "N", default_value_t = default().eval_every)]
    eval_every: u64,
    /// Stop after this many evaluations without a better one, and keep the best model
    #[arg(long, value_name = "N")]
    patience: Option<u64>,
    /// Compute blocks again in backward instead of keeping them: less memory, more time, the same losses
    #[arg(long)]
    gradient_checkpointing: bool,
    /// Tokens that the feed-forward network of a block takes at a time, computed again in backward: less memory, more time
    /// [default: all]
    #[arg(long, value_name = "N")]
    mlp_chunk: Option<usize>,
    /// What the model computes in [default: f32 on the CPU, bf16 on GPUs]
    #[arg(long, value_enum, value_name = "TYPE")]
    dtype: Option<DtypeChoice>,
    /// Decides the initial weights and the order of the text
    #[arg(long, value_name = "N", default_value_t = default().seed)]
    seed: u64,
}

#[derive(Clone, Copy, ValueEnum)]
enum DtypeChoice {
    F32,
    Bf16,
}

impl From<DtypeChoice> for Precision {
    fn from(choice: DtypeChoice) -> Precision {
        match choice {
            DtypeChoice::F32 => Precision::F32,
            DtypeChoice::Bf16 => Precision::Bf16,
        }
    }
}

fn default() -> Settings {
    Settings::default()
}

impl Train {
    pub fn run(self) -> anyhow::Result<ExitCode> {
        let stop = stop_on_ctrl_c()?;
        let device = self.device.open()?;
        let folder = self.out.unwrap_or_else(next_free_folder);
        let mut trainer = if self.resume {
            Trainer::resume(&folder, &device)?
        } else {
            Trainer::create(&folder, self.options.settings()?, &device)?
        };
        trainer.profile_steps(self.profile.unwrap_or(0));
        introduce(&trainer, &folder, &device.to_string());
        let outcome = train(&mut trainer, &stop).with_context(|| {
            format!("training stopped at step {}; {}", trainer.step(), how_to_resume(&folder))
        })?;
        if let Some(steps) = self.profile {
            show_profile(&trainer, &folder, steps)?;
        }
        match outcome {
            Outcome::Interrupted => {
                warn(format_args!("stopped at step {}; {}", trainer.step(), how_to_resume(&folder)));
                return Ok(ExitCode::from(INTERRUPTED));
            }
            Outcome::StoppedEarly(best) => say(format_args!(
                "stopped early: the best held-out loss, {:.4} nats per token, was at step {}; that model is kept",
                best.loss, best.step
            )),
            Outcome::Finished => {}
        }
        show_sample(&trainer)?;
        let folder = folder.display();
        say(format_args!("model, losses and their picture (loss.svg) are in {folder}"));
        say(format_args!("continue a text with it: longhand generate --model {folder} --prompt \"...\""));
        Ok(ExitCode::SUCCESS)
    }
}

impl Options {
    fn settings(self) -> anyhow::Result<Settings> {
        // The run may be resumed from another folder.
        let absolute = |path: PathBuf| std::path::absolute(&path).with_context(|| path.display().to_string());
        Ok(Settings {
            text: self.text.into_iter().map(absolute).collect::<anyhow::Result<_>>()?,
            steps: self.steps,
            batch: self.batch,
            accumulate: self.accumulate,
            context: self.context,
            layers: self.layers,
            heads: self.heads,
            width: self.width,
            vocab: self.vocab,
            lr: self.lr,
            warmup: self.warmup,
            weight_decay: self.weight_decay,
            clip: self.clip,
            eval_every: self.eval_every,
            patience: self.patience,
            gradient_checkpointing: self.gradient_checkpointing,
            mlp_chunk: self.mlp_chunk,
            precision: self.dtype.map(Into::into),
            seed: self.seed,
        })
    }
}

/// The first Ctrl-C sets what is returned, so that the run ends after its step; the second ends it at once.
fn stop_on_ctrl_c() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let asked = Arc::clone(&stop);
    ctrlc::set_handler(move || {
        if asked.swap(true, Ordering::Relaxed) {
            process::exit(INTERRUPTED.into());
        }
        warn("\nstopping after this step; once more to stop at once");
    })
    .context("cannot listen for Ctrl-C")?;
    Ok(stop)
}

fn next_free_folder() -> PathBuf {
    let folder = |number: u64| Path::new("runs").join(number.to_string());
    (1..).map(folder).find(|folder| !folder.exists()).unwrap_or_default()
}

fn how_to_resume(folder: &Path) -> String {
    format!("resume with: longhand train --resume --out {}", folder.display())
}

fn introduce(trainer: &Trainer, folder: &Path, device: &str) {
    let (settings, text) = (trainer.settings(), trainer.text());
    let Settings { layers, heads, width, context, .. } = settings;
    let skipped = match text.skipped {
        0 => String::new(),
        count => format!(" ({count} more are not UTF-8 text)"),
    };
    let parameters: usize =
        trainer.model().parameters().iter().map(|parameter| parameter.tensor.numel()).sum();
    say(format_args!(
        "text   {} files{skipped}, {} bytes: {} tokens to train on, {} held out",
        text.documents,
        text.bytes,
        text.train.len(),
        text.held_out.len()
    ));
    say(format_args!(
        "model  GPT-2, {layers} layers, {heads} heads, width {width}, context {context}, vocabulary {}: \
         {parameters} parameters on {device}",
        trainer.tokenizer().vocabulary()
    ));
    say(format_args!("run    {}", folder.display()));
}

fn train(trainer: &mut Trainer, stop: &AtomicBool) -> longhand_train::Result<Outcome> {
    let mut progress = Progress::new(trainer.settings().steps, trainer.step());
    let outcome = trainer.run(stop, |event| match event {
        Event::Trained(metric) => progress.step(metric),
        Event::Evaluated(Metric { step, loss, bits_per_byte, .. }) => progress.say(format_args!(
            "step {step:>5}  held-out loss {loss:.4} nats per token, {bits_per_byte:.4} bits per byte"
        )),
        Event::Saved(_) => {}
    });
    progress.finish();
    outcome
}

fn show_profile(trainer: &Trainer, folder: &Path, steps: u64) -> anyhow::Result<()> {
    let Some(profile) = trainer.profile() else {
        warn(format_args!("nothing to profile: of {steps} steps after the first, none was made"));
        return Ok(());
    };
    let path = folder.join("profile.json");
    fs::write(&path, profile.chrome_trace()).with_context(|| format!("cannot write {}", path.display()))?;
    say(format_args!("profile of up to {steps} steps after the first:\n{profile}"));
    say(format_args!("the same over time is in {}: open it in chrome://tracing", path.display()));
    Ok(())
}

fn show_sample(trainer: &Trainer) -> anyhow::Result<()> {
    let sampling = Sampling { temperature: 0.8, top_k: None, top_p: 0.95 };
    let mut sample = String::new();
    generate(trainer.model(), trainer.tokenizer(), "", SAMPLE, sampling, trainer.settings().seed, |text| {
        sample.push_str(text);
        Ok(())
    })?;
    say(format_args!("sample:\n{sample}"));
    Ok(())
}

//! How far a run is: a bar on a terminal, a line now and then elsewhere.

use std::{
    fmt::Display,
    io::{self, Write},
    time::{Duration, Instant},
};

use indicatif::{HumanDuration, ProgressBar, ProgressStyle};
use longhand_train::Metric;

/// Between lines where there is no terminal.
const QUIET: Duration = Duration::from_secs(10);

/// Shows the losses of a run and the time it still takes.
pub struct Progress {
    bar: ProgressBar,
    steps: u64,
    first: u64,
    started: Instant,
    told: Instant,
}

impl Progress {
    /// Of `steps` steps, `done` are made.
    pub fn new(steps: u64, done: u64) -> Self {
        let style = "{wide_bar} {pos}/{len} steps, {msg}, {eta} left";
        let style = ProgressStyle::with_template(style).unwrap_or_else(|_| ProgressStyle::default_bar());
        // Hidden by itself where standard error is no terminal.
        let bar = ProgressBar::new(steps).with_style(style).with_position(done);
        bar.reset_eta();
        let now = Instant::now();
        Self { bar, steps, first: done, started: now, told: now }
    }

    /// After a step.
    pub fn step(&mut self, metric: &Metric) {
        let Metric { step, loss, tokens_per_second, .. } = metric;
        let message = format!("loss {loss:.3}, {tokens_per_second:.0} tokens/s");
        if self.bar.is_hidden() && self.told.elapsed() >= QUIET {
            self.told = Instant::now();
            let each = self.started.elapsed().div_f64((step - self.first).max(1) as f64);
            let left = HumanDuration(each.mul_f64((self.steps - step) as f64));
            warn(format_args!("step {step}/{}, {message}, {left} left", self.steps));
        }
        self.bar.set_message(message);
        self.bar.set_position(*step);
    }

    /// Prints a line that stays.
    pub fn say(&self, line: impl Display) {
        self.bar.suspend(|| say(line));
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

/// Prints a line. That nobody listens is no reason to stop a run.
pub fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// The same on standard error.
pub fn warn(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

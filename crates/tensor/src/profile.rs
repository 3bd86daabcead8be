//! Where time and memory go, by operation.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::{Device, memory};

/// Runs `body` and notes every operation that it runs on this thread, forward, backward, and an optimiser's step.
///
/// On a GPU, the device is waited for before and after each operation, so that its time is its own: profiled, a step takes
/// longer than it would.
///
/// ```
/// # fn main() -> longhand_tensor::Result<()> {
/// use longhand_tensor::profile::{Phase, profile};
/// use longhand_tensor::{Device, Dtype, Tensor};
///
/// let x = Tensor::zeros(&[64, 64], Dtype::F32, &Device::Cpu)?.requires_grad();
/// let (gradients, profile) = profile(|| x.matmul(&x)?.sum_all()?.backward());
/// gradients?;
/// let lines = profile.by_operation();
/// let forward = lines.iter().find(|line| line.operation == "matmul" && line.phase == Phase::Forward).unwrap();
/// assert_eq!((forward.calls, forward.bytes), (1, 4 * 64 * 64));
/// assert!(profile.total() >= forward.time);
/// println!("{profile}"); // a table
/// # Ok(())
/// # }
/// ```
pub fn profile<R>(body: impl FnOnce() -> R) -> (R, Profile) {
    struct Restore(Option<Recorder>);
    impl Drop for Restore {
        fn drop(&mut self) {
            RECORDER.set(self.0.take());
        }
    }
    let start = Instant::now();
    let recorder = Recorder { start, phase: Phase::Forward, open: Vec::new(), events: Vec::new() };
    let restore = Restore(RECORDER.replace(Some(recorder)));
    let result = body();
    let events = RECORDER.take().map(|recorder| recorder.events).unwrap_or_default();
    drop(restore);
    (result, Profile { events, total: start.elapsed() })
}

/// What a piece of work belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Computing results.
    Forward,
    /// Computing gradients.
    Backward,
    /// Computing results again in backward: within a [`checkpoint`](crate::checkpoint), or since an operation that
    /// [is cheap](crate::Operation::recomputes) made what another saved.
    Recompute,
    /// An optimiser's step.
    Update,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Phase::Forward => "forward",
            Phase::Backward => "backward",
            Phase::Recompute => "recompute",
            Phase::Update => "update",
        })
    }
}

/// One run of one operation.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its name.
    pub operation: String,
    /// What it was run for.
    pub phase: Phase,
    /// How many operations it was run within.
    pub depth: usize,
    /// When it began, from the beginning of the profile on.
    pub start: Duration,
    /// How long it took.
    pub time: Duration,
    /// The same without the operations that it ran itself.
    pub own_time: Duration,
    /// Bytes of the tensors that it made, without those of operations that it ran itself.
    pub bytes: usize,
    /// [`memory::allocated`] at its end.
    pub allocated: usize,
}

/// What [`profile`] noted. Displayed, it is a table by operation.
#[derive(Clone, Debug, Default)]
pub struct Profile {
    events: Vec<Event>,
    total: Duration,
}

/// All runs of one operation in one phase.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Its name.
    pub operation: String,
    /// What it was run for.
    pub phase: Phase,
    /// How often it was run.
    pub calls: usize,
    /// How long it took, without the operations that it ran itself.
    pub time: Duration,
    /// Bytes of the tensors that it made, likewise.
    pub bytes: usize,
}

impl Profile {
    /// Every run of an operation, in the order in which they ended.
    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// How long everything took, what was done between operations included.
    pub fn total(&self) -> Duration {
        self.total
    }

    /// Puts what another profile noted behind this one.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Tensor, profile::{Profile, profile}};
    /// let x = Tensor::from([1.0f32]);
    /// let mut all = Profile::default();
    /// for _ in 0..3 {
    ///     let (y, step) = profile(|| x.scale(2.0));
    ///     y?;
    ///     all.append(step);
    /// }
    /// assert_eq!(all.by_operation()[0].calls, 3);
    /// assert_eq!(all.events().len(), 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn append(&mut self, other: Profile) {
        let before = self.total;
        let moved = |event: Event| Event { start: event.start + before, ..event };
        self.events.extend(other.events.into_iter().map(moved));
        self.total += other.total;
    }

    /// By operation and phase, from the longest time down.
    pub fn by_operation(&self) -> Vec<Line> {
        let mut lines = BTreeMap::new();
        for event in &self.events {
            let line = lines.entry((&event.operation, event.phase)).or_insert_with(|| Line {
                operation: event.operation.clone(),
                phase: event.phase,
                calls: 0,
                time: Duration::ZERO,
                bytes: 0,
            });
            line.calls += 1;
            line.time += event.own_time;
            line.bytes += event.bytes;
        }
        let mut lines: Vec<Line> = lines.into_values().collect();
        lines.sort_by_key(|line| std::cmp::Reverse(line.time));
        lines
    }

    /// As JSON in Chrome's trace event format, which `chrome://tracing` and ui.perfetto.dev show: a bar for each run of an
    /// operation, and the curve of what tensors take.
    ///
    /// ```
    /// # fn main() -> longhand_tensor::Result<()> {
    /// # use longhand_tensor::{Tensor, profile::profile};
    /// let (y, profile) = profile(|| Tensor::from([1.0f32]).scale(2.0));
    /// y?;
    /// assert!(profile.chrome_trace().contains("\"name\":\"scale\"")); // to be written to a file
    /// # Ok(())
    /// # }
    /// ```
    pub fn chrome_trace(&self) -> String {
        let microseconds = |time: Duration| time.as_secs_f64() * 1e6;
        let bars = self.events.iter().map(|event| {
            json!({
                "name": event.operation,
                "cat": event.phase.to_string(),
                "ph": "X",
                "ts": microseconds(event.start),
                "dur": microseconds(event.time),
                "pid": 1,
                "tid": 1,
                "args": { "phase": event.phase.to_string(), "bytes": event.bytes },
            })
        });
        let curve = self.events.iter().map(|event| {
            json!({
                "name": "memory",
                "ph": "C",
                "ts": microseconds(event.start + event.time),
                "pid": 1,
                "args": { "bytes": event.allocated },
            })
        });
        let events: Vec<_> = bars.chain(curve).collect();
        json!({ "traceEvents": events, "displayTimeUnit": "ms" }).to_string()
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.by_operation();
        let share =
            |time: Duration| 100.0 * time.as_secs_f64() / self.total.as_secs_f64().max(f64::MIN_POSITIVE);
        let milliseconds = |time: Duration| time.as_secs_f64() * 1e3;
        let widest = lines.iter().map(|line| line.operation.len()).max().unwrap_or(0).max("(between)".len());
        writeln!(
            f,
            "{:widest$}  {:9}  {:>7}  {:>11}  {:>7}  {:>11}",
            "operation", "phase", "calls", "ms", "share", "MB"
        )?;
        for line in &lines {
            let Line { operation, phase, calls, time, bytes } = line;
            let (ms, share, mb) = (milliseconds(*time), share(*time), *bytes as f64 / 1e6);
            writeln!(f, "{operation:widest$}  {phase:9}  {calls:>7}  {ms:>11.3}  {share:>6.1}%  {mb:>11.3}")?;
        }
        let between = self.total.saturating_sub(lines.iter().map(|line| line.time).sum());
        for (name, time) in [("(between)", between), ("total", self.total)] {
            let (ms, share) = (milliseconds(time), share(time));
            writeln!(f, "{name:widest$}  {:9}  {:>7}  {ms:>11.3}  {share:>6.1}%", "", "")?;
        }
        Ok(())
    }
}

struct Recorder {
    start: Instant,
    phase: Phase,
    /// The operations that are running, each within the one before.
    open: Vec<Open>,
    events: Vec<Event>,
}

/// An operation that is running.
struct Open {
    start: Instant,
    made: usize,
    nested_time: Duration,
    nested_bytes: usize,
}

thread_local! {
    static RECORDER: RefCell<Option<Recorder>> = const { RefCell::new(None) };
    /// Bytes of all the tensors that this thread ever made.
    static MADE: Cell<usize> = const { Cell::new(0) };
}

/// Counts the elements of a new tensor.
pub(crate) fn made(bytes: usize) {
    MADE.set(MADE.get().wrapping_add(bytes));
}

/// Runs `body` as an operation, on tensors of `device`.
pub(crate) fn operation<R>(name: &str, device: Option<&Device>, body: impl FnOnce() -> R) -> R {
    if RECORDER.with_borrow(Option::is_none) {
        return body();
    }
    wait(device);
    let open = |start| Open { start, made: MADE.get(), nested_time: Duration::ZERO, nested_bytes: 0 };
    with(|recorder| recorder.open.push(open(Instant::now())));
    let result = body();
    wait(device);
    with(|recorder| recorder.close(name));
    result
}

/// Runs `body`, whose operations belong to `phase`.
pub(crate) fn phase<R>(phase: Phase, body: impl FnOnce() -> R) -> R {
    let mut before = None;
    with(|recorder| before = Some(std::mem::replace(&mut recorder.phase, phase)));
    let result = body();
    with(|recorder| recorder.phase = before.unwrap_or(recorder.phase));
    result
}

fn with(body: impl FnOnce(&mut Recorder)) {
    RECORDER.with_borrow_mut(|recorder| recorder.as_mut().map(body));
}

fn wait(device: Option<&Device>) {
    if let Some(Device::Gpu(gpu)) = device {
        // What went wrong there, the next thing that is asked of the device says.
        let _ = gpu.stream().synchronize();
    }
}

impl Recorder {
    fn close(&mut self, name: &str) {
        let Some(Open { start, made, nested_time, nested_bytes }) = self.open.pop() else { return };
        let (time, bytes) = (start.elapsed(), MADE.get().wrapping_sub(made));
        if let Some(outer) = self.open.last_mut() {
            outer.nested_time += time;
            outer.nested_bytes += bytes;
        }
        self.events.push(Event {
            operation: name.into(),
            phase: self.phase,
            depth: self.open.len(),
            start: start.duration_since(self.start),
            time,
            own_time: time.saturating_sub(nested_time),
            bytes: bytes.saturating_sub(nested_bytes),
            allocated: memory::allocated(),
        });
    }
}

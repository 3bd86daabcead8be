//! What a pack's `run.sh` does: one part after the other within the time given, the most important first, each part's
//! result written as it ends.

mod child;
mod collect;
mod machine;
mod part;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use longhand_results::{Machine, Missing, Row, Run as Results};

use child::{Ended, run_child};
pub use collect::criterion_rows;
use part::{Part, parts};

/// Prove and measure everything on this machine, from a pack
#[derive(Args)]
pub struct Run {
    /// The folder that `cargo xtask pack` made
    #[arg(long)]
    pack: PathBuf,
    /// Where the results go
    #[arg(long, default_value = "results")]
    out: PathBuf,
    /// How long it may take: 9 unless told, 1 with --only
    #[arg(long)]
    minutes: Option<f64>,
    /// Only this operation: verify it, time it
    #[arg(long, value_name = "BENCH", value_delimiter = ',')]
    only: Vec<String>,
    /// Where the kernels run
    #[arg(long, value_enum, default_value_t)]
    device: Where,
}

/// Where the kernels run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Where {
    /// The first GPU.
    #[default]
    Cuda,
    /// The processor, through the tensor operations.
    Cpu,
    /// A virtual GPU: small shapes, as a trial of everything but time.
    Emulated,
}

impl Where {
    pub fn name(self) -> &'static str {
        match self {
            Where::Cuda => "cuda",
            Where::Cpu => "cpu",
            Where::Emulated => "emulated",
        }
    }
}

/// What times PyTorch, and checks ours by it.
const PEERS: &str = "torch_peers.py";

/// A run under way.
struct Session<'a> {
    options: &'a Run,
    deadline: Instant,
    machine: Machine,
    versions: BTreeMap<String, String>,
    /// What the machine does at most, once it was measured.
    ceilings: Vec<Row>,
}

impl Run {
    pub fn run(&self) -> Result<()> {
        fs::create_dir_all(&self.out).with_context(|| self.out.display().to_string())?;
        let minutes = self.minutes.unwrap_or(if self.only.is_empty() { 9.0 } else { 1.0 });
        let deadline = Instant::now() + Duration::try_from_secs_f64(minutes * 60.0)?;
        let mut session = Session {
            options: self,
            deadline,
            machine: machine::machine(),
            versions: machine::versions(&self.pack),
            ceilings: Vec::new(),
        };
        let mut failed = Vec::new();
        for part in parts(self.device, &self.only)? {
            let results = session.part(&part)?;
            println!("{}", line(&results));
            if results.part == "ceilings" {
                session.ceilings.clone_from(&results.rows);
            }
            if let Some(failure) = &results.failure {
                failed.push(results.part.clone());
                println!("    {}", failure.replace('\n', "\n    "));
            }
            for check in results.checks.iter().filter(|check| !check.passed()) {
                failed.push(check.what.clone());
                println!("    {}: error {:?}, limit {:.1e}", check.what, check.error, check.limit);
            }
            if part == Part::Doctor && self.device == Where::Cuda && session.machine.gpu.is_none() {
                bail!(
                    "there is no GPU to measure; --device cpu measures the processor, --device emulated tries it all"
                );
            }
        }
        println!("results: {}", self.out.display());
        if failed.is_empty() { Ok(()) } else { bail!("{} failed: {}", failed.len(), failed.join(", ")) }
    }
}

/// The last that a program said, which is what it ended with.
fn last_line(log: &Path) -> Option<String> {
    fs::read_to_string(log)
        .ok()?
        .lines()
        .rfind(|line| !line.trim().is_empty())
        .map(|line| line.trim().to_owned())
}

/// A part in one line.
fn line(results: &Results) -> String {
    let passed = results.checks.iter().filter(|check| check.passed()).count();
    let mut words = vec![format!("{:4.0} s", results.seconds)];
    if !results.rows.is_empty() {
        words.push(format!("{} timings", results.rows.len()));
    }
    if !results.checks.is_empty() {
        words.push(format!("{passed} of {} checks passed", results.checks.len()));
    }
    if !results.missing.is_empty() {
        words.push(format!("{} missing", results.missing.len()));
    }
    format!("{:20} {}", results.part, words.join(", "))
}

impl Session<'_> {
    fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Runs a part and writes its result.
    fn part(&self, part: &Part) -> Result<Results> {
        let start = Instant::now();
        let mut results = Results { part: part.name(), date: machine::now(), ..Results::default() };
        results.versions.clone_from(&self.versions);
        results.ceilings.clone_from(&self.ceilings);
        if self.left() < Duration::from_secs(1) {
            results.failure = Some("not begun: out of time".to_owned());
        } else {
            // What goes wrong in one part is told of it, and the next one runs.
            if let Err(error) = self.fill(part, &mut results) {
                let last = last_line(&self.log(&results.part));
                // A verification's last line is a row, of a case that ended well.
                let last = last.filter(|line| !line.starts_with('{')).map(|line| format!(": {line}"));
                results.failure = Some(format!("{error:#}{}", last.unwrap_or_default()));
            }
        }
        results.seconds = start.elapsed().as_secs_f64();
        results.machine = Machine { gpu: machine::gpu(), ..self.machine.clone() };
        self.write(&results)?;
        Ok(results)
    }

    fn write(&self, results: &Results) -> Result<()> {
        let path = self.options.out.join(format!("{}.json", results.part));
        fs::write(&path, serde_json::to_string_pretty(results)?).with_context(|| path.display().to_string())
    }

    fn fill(&self, part: &Part, results: &mut Results) -> Result<()> {
        let limit = self.left().mul_f64(part.share());
        match part {
            Part::Doctor => {
                for check in longhand_gpu::doctor() {
                    println!("{:16} {}", check.name, check.found.as_deref().unwrap_or("not found"));
                    if let Some(advice) = check.advice {
                        println!("    {}", advice.replace('\n', "\n    "));
                        if self.options.device == Where::Cuda {
                            results.missing.push(Missing { what: check.name, why: advice });
                        }
                    }
                }
                Ok(())
            }
            Part::Verify { arguments, compare } => {
                let mut command = self.command("longhand");
                command.args(["verify", "--json"]);
                match (compare, self.options.device) {
                    (true, _) => command.arg("--compare"),
                    (false, Where::Cuda) => command.args(["--device", "cuda"]),
                    (false, _) => command.args(["--device", "emulated", "--arch", "sm_90a"]),
                };
                command.args(arguments);
                let ended = self.child(&mut command, &results.part, limit)?;
                results.checks = collect::verified(&fs::read_to_string(self.log(&results.part))?);
                // Its exit status is that of the checks, which tell more.
                if results.checks.is_empty() { ended.ok() } else { ended.ok_if_in_time() }
            }
            Part::Bench { name, filter, arguments } => {
                let criterion = self.options.out.join("criterion").join(&results.part);
                let _ = fs::remove_dir_all(&criterion);
                let mut command = self.command("longhand-benches");
                command.env("LONGHAND_BENCH", name).env("CRITERION_HOME", &criterion);
                command.args(["--bench", "--noplot"]).args(*arguments).args(filter);
                let ended = self.child(&mut command, &results.part, limit);
                (results.rows, results.missing) = criterion_rows(&criterion)?;
                self.write(results)?;
                let peers = self.peers(results);
                ended?.ok().and(peers)
            }
            Part::Exchange => self.exchange(results),
            Part::Turns => self.turns(results),
            Part::Tests => {
                for binary in ["test-gpu", "test-kernels"] {
                    let mut command = self.command(binary);
                    // What is counted on the emulator is compared with files that are not in the pack.
                    command.args(["--skip", "counts::"]);
                    self.child(&mut command, &format!("{}-{binary}", results.part), self.left())?.ok()?;
                }
                Ok(())
            }
        }
    }

    /// Has the peers compute what was measured of ours, within a share of the time that is left.
    fn peers(&self, results: &mut Results) -> Result<()> {
        if results.rows.is_empty() {
            return Ok(());
        }
        let ours = self.options.out.join(format!("{}.json", results.part));
        let mut peers = vec![("PyTorch", self.python(PEERS))];
        if self.options.device == Where::Cpu && results.part == "attention" {
            peers.push(("candle", self.command("candle-peers")));
        }
        for (name, mut command) in peers {
            let theirs = self.options.out.join(format!("{}.peers.json", results.part));
            let seconds = (self.left().as_secs_f64() * 0.4).min(150.0);
            command.arg("--rows").arg(&ours).arg("--out").arg(&theirs);
            command.args(["--seconds", &seconds.to_string()]);
            self.take_from(name, command, &theirs, seconds, results)?;
        }
        Ok(())
    }

    /// Writes our inputs and outputs, and has PyTorch compute them again.
    fn exchange(&self, results: &mut Results) -> Result<()> {
        let file = self.options.out.join("exchange.safetensors");
        let mut command = self.command("longhand-benches");
        command.env("LONGHAND_BENCH", "exchange").env("LONGHAND_EXCHANGE", &file);
        self.child(&mut command, &results.part, self.left())?.ok()?;
        let theirs = self.options.out.join("exchange.peers.json");
        let mut command = self.python(PEERS);
        command.arg("--check").arg(&file).arg("--out").arg(&theirs);
        self.take_from("PyTorch", command, &theirs, self.left().as_secs_f64(), results)
    }

    /// Has PyTorch take turns with ours.
    fn turns(&self, results: &mut Results) -> Result<()> {
        let theirs = self.options.out.join("turns.peers.json");
        let seconds = self.left().as_secs_f64();
        let mut command = self.python("turns.py");
        command.arg("--longhand").arg(self.options.pack.join("bin").join("longhand-turns"));
        // What has begun by then ends within the time.
        command.arg("--out").arg(&theirs).args(["--seconds", &(seconds * 0.8).to_string()]);
        self.take_from("PyTorch", command, &theirs, seconds, results)
    }

    /// Runs a peer and adds what it wrote, to its end or not. A machine without it lacks it, which is no failure.
    fn take_from(
        &self,
        name: &str,
        mut command: Command,
        file: &Path,
        seconds: f64,
        results: &mut Results,
    ) -> Result<()> {
        let _ = fs::remove_file(file);
        let limit = Duration::from_secs_f64(seconds + 30.0).min(self.left());
        let log = format!("{}.{name}", results.part);
        let ended = self.child(&mut command, &log, limit).and_then(Ended::ok);
        let text = fs::read_to_string(file);
        let last = last_line(&self.log(&log)).unwrap_or_default();
        let why = match (ended, &text) {
            (Err(error), _) => Some(format!("{error:#}: {last}")),
            (Ok(()), Err(_)) => Some(format!("it wrote nothing: {last}")),
            (Ok(()), Ok(_)) => None,
        };
        results.missing.extend(why.map(|why| Missing { what: name.to_owned(), why }));
        let Ok(text) = text else { return Ok(()) };
        let theirs: Results = serde_json::from_str(&text).with_context(|| file.display().to_string())?;
        results.rows.extend(theirs.rows);
        results.checks.extend(theirs.checks);
        results.missing.extend(theirs.missing);
        results.versions.extend(theirs.versions);
        fs::remove_file(file)?;
        Ok(())
    }

    fn python(&self, script: &str) -> Command {
        let mut command = Command::new("python3");
        command.arg(self.options.pack.join("peers").join(script));
        command
    }

    fn command(&self, binary: &str) -> Command {
        let mut command = Command::new(self.options.pack.join("bin").join(binary));
        command.env("LONGHAND_DEVICE", self.options.device.name());
        if std::env::var_os("LONGHAND_CACHE").is_none() {
            command.env("LONGHAND_CACHE", self.options.pack.join("cache"));
        }
        command
    }

    fn log(&self, name: &str) -> PathBuf {
        self.options.out.join(format!("{name}.log"))
    }

    fn child(&self, command: &mut Command, name: &str, limit: Duration) -> Result<Ended> {
        run_child(command, &self.log(name), limit)
    }
}

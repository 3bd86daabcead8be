//! A grid: its clusters, spread over CPU threads.

use std::cell::RefCell;
use std::collections::HashSet;
use std::num::NonZero;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::check::{Across, Touched};
use crate::count::Profile;
use crate::fault::{Fault, Problem};
use crate::machine::Launch;
use crate::machine::cluster::{Progress, Running, kernel};
use crate::memory::{GlobalView, Journal, Keeper};

/// Rounds in which every cluster polls and none changes anything before that is called a deadlock.
const IDLE_ROUNDS: u32 = 4;

/// What a launch did.
pub(crate) struct Launched {
    pub profile: Profile,
    /// The bytes of global memory that it accessed.
    pub touched: Touched,
}

/// One run of all clusters of a launch.
struct Run<'a> {
    launch: &'a Launch<'a>,
    /// CPU threads.
    threads: usize,
    /// Whether blocks speak to each other.
    communicates: bool,
    /// Pages of global memory in which clusters are known to access the same bytes: there, races are looked for.
    contested: HashSet<u64>,
    /// What global memory held before; None if the launch is not to be run again.
    journal: Option<Journal>,
}

/// What the CPU threads of a run share.
struct Shared {
    /// The next cluster to run.
    next: AtomicU64,
    /// Of the faults, that of the first cluster is told.
    first: Mutex<Option<Failed>>,
    launched: Mutex<Launched>,
    /// Pages of global memory in which clusters accessed the same bytes, one of them writing.
    contested: Mutex<HashSet<u64>>,
}

/// How a run ended.
struct Outcome {
    result: Result<Launched, Fault>,
    contested: HashSet<u64>,
}

/// What one CPU thread runs clusters with.
struct Worker<'a> {
    run: &'a Run<'a>,
    shared: &'a Shared,
    global: GlobalView,
    profile: Profile,
    across: Option<Rc<RefCell<Across>>>,
}

/// The number of a cluster, and its fault.
type Failed = (u64, Fault);

/// Runs all clusters. Where blocks speak to each other, one thread runs them all, in order, so that what they hear
/// never depends on time; else several threads share them, and no one can tell, unless the kernel has races. Therefore
/// where something is wrong, or may be, a launch that is to be checked for races is run again from the memory it began
/// with, on one thread and in order: what is told is always what that run finds.
pub(crate) fn launch(launch: &Launch) -> Result<Launched, Fault> {
    check(launch)?;
    let clusters = clusters(launch);
    let communicates = launch.program.functions[launch.entry].communicates;
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = if launch.options.threads == 0 { cores } else { launch.options.threads };
    let threads = if communicates { 1 } else { threads.min(usize::try_from(clusters).unwrap_or(usize::MAX)) };
    let journal = (launch.options.checks.race && clusters > 1).then(Journal::default);
    let view = launch.memory.view();
    let mut run = Run { launch, threads, communicates, contested: HashSet::new(), journal };
    let mut outcome = run.all();
    let Some(journal) = run.journal.clone() else { return outcome.result };
    let is_good = |outcome: &Outcome| outcome.result.is_ok() && outcome.contested.is_empty();
    if run.threads > 1 && !is_good(&outcome) {
        journal.restore(&view);
        run.threads = 1;
        outcome = run.all();
    }
    if outcome.result.is_ok() && !outcome.contested.is_empty() {
        journal.restore(&view);
        run.contested = outcome.contested;
        outcome = run.all();
    }
    outcome.result
}

impl Run<'_> {
    fn all(&self) -> Outcome {
        let profile = Profile::new(self.launch.program.code.len());
        let shared = Shared {
            next: AtomicU64::new(0),
            first: Mutex::default(),
            launched: Mutex::new(Launched { profile, touched: Touched::default() }),
            contested: Mutex::default(),
        };
        if self.threads == 1 {
            Worker::new(self, &shared).work();
        } else {
            std::thread::scope(|scope| {
                for _ in 0..self.threads {
                    scope.spawn(|| Worker::new(self, &shared).work());
                }
            });
        }
        let result = match into_inner(shared.first) {
            Some((_, fault)) => Err(fault),
            None => Ok(into_inner(shared.launched)),
        };
        Outcome { result, contested: into_inner(shared.contested) }
    }
}

impl<'a> Worker<'a> {
    fn new(run: &'a Run<'a>, shared: &'a Shared) -> Self {
        let mut global = run.launch.memory.view();
        if let Some(journal) = &run.journal {
            global.keeper = Keeper::new(journal);
        }
        let across = Across::new(run.contested.clone());
        Worker {
            run,
            shared,
            global,
            profile: Profile::new(run.launch.program.code.len()),
            across: run.launch.options.checks.race.then(|| Rc::new(RefCell::new(across))),
        }
    }

    fn work(mut self) {
        let end = if self.run.communicates { self.together() } else { self.one_by_one() };
        lock(&self.shared.launched).profile.add(&self.profile);
        if let Err((index, fault)) = end {
            let mut first = lock(&self.shared.first);
            if first.as_ref().is_none_or(|(earlier, _)| index < *earlier) {
                *first = Some((index, fault));
            }
        }
    }

    fn begin(&self, index: u64) -> Running {
        Running::new(self.run.launch, origin(self.run.launch, index), self.across.as_ref())
    }

    /// Runs a cluster for as long as it does something. It is not done if it polls.
    fn go_on(&mut self, index: u64, running: &mut Running) -> Result<Progress, Failed> {
        let progress = running.run(self.run.launch, &mut self.global, &mut self.profile);
        let progress = progress.map_err(|fault| (index, fault))?;
        if let Progress::Done = progress {
            let contested = lock(&self.shared.launched).touched.merge(&running.cluster.touched);
            if self.run.contested.is_empty() {
                lock(&self.shared.contested).extend(contested);
            }
        }
        Ok(progress)
    }

    /// Whether nothing that clusters of higher numbers than this do matters any more.
    fn is_over(&self, index: u64) -> bool {
        let failed = lock(&self.shared.first).as_ref().is_some_and(|(failed, _)| *failed < index);
        failed || self.across.is_some() && !lock(&self.shared.contested).is_empty()
    }

    /// Runs one cluster after another, those that no other worker runs.
    fn one_by_one(&mut self) -> Result<(), Failed> {
        loop {
            let index = self.shared.next.fetch_add(1, SeqCst);
            if index >= clusters(self.run.launch) || self.is_over(index) {
                return Ok(());
            }
            let mut running = self.begin(index);
            match self.go_on(index, &mut running)? {
                Progress::Done => {}
                Progress::Polling => return Err((index, running.deadlock(self.run.launch))),
            }
        }
    }

    /// Runs clusters in turns. One that polls lets the others go on; a new one begins when all that run poll.
    fn together(&mut self) -> Result<(), Failed> {
        let mut polling: Vec<(u64, Running)> = Vec::new();
        for index in 0..clusters(self.run.launch) {
            let mut running = self.begin(index);
            if let Progress::Polling = self.go_on(index, &mut running)? {
                polling.push((index, running));
            }
        }
        let mut idle = 0;
        while !polling.is_empty() {
            let before = changes(&polling);
            let mut rest = Vec::new();
            for (index, mut running) in polling {
                match self.go_on(index, &mut running)? {
                    Progress::Done => idle = 0,
                    Progress::Polling => rest.push((index, running)),
                }
            }
            polling = rest;
            idle = if changes(&polling) == before { idle + 1 } else { 0 };
            if idle >= IDLE_ROUNDS
                && let Some((index, running)) = polling.first()
            {
                return Err((*index, running.deadlock(self.run.launch)));
            }
        }
        Ok(())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn into_inner<T>(mutex: Mutex<T>) -> T {
    mutex.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn clusters(launch: &Launch) -> u64 {
    (0..3).map(|axis| u64::from(launch.grid[axis] / launch.cluster[axis])).product()
}

fn origin(launch: &Launch, index: u64) -> [u32; 3] {
    let [x, y, _] = [0, 1, 2].map(|axis| u64::from(launch.grid[axis] / launch.cluster[axis]));
    let place = [index % x, index / x % y, index / x / y];
    std::array::from_fn(|axis| place[axis] as u32 * launch.cluster[axis])
}

fn changes(running: &[(u64, Running)]) -> u64 {
    running.iter().map(|(_, running)| running.cluster.changes).sum()
}

fn check(launch: &Launch) -> Result<(), Fault> {
    let entry = &launch.program.functions[launch.entry];
    let refuse = |argument: &str, was: String, must: String| {
        let problem = Problem::Launch { argument: argument.into(), was, must };
        Err(Fault { problem, kernel: kernel(launch), place: None })
    };
    let (grid, block, cluster) = (launch.grid, launch.block, launch.cluster);
    let threads =
        |shape: [u32; 3]| shape.iter().fold(1u64, |product, it| product.saturating_mul((*it).into()));
    if grid.contains(&0) || grid[0] > i32::MAX as u32 || grid[1] > 65_535 || grid[2] > 65_535 {
        return refuse("grid", format!("{grid:?}"), "from 1 to [2147483647, 65535, 65535]".into());
    }
    if block.contains(&0) || threads(block) > 1024 || block[2] > 64 {
        return refuse("block", format!("{block:?}"), "from 1 thread to 1024, of which 64 in z".into());
    }
    let divides = (0..3).all(|axis| cluster[axis] != 0 && grid[axis] % cluster[axis] == 0);
    if !divides || threads(cluster) > 16 {
        return refuse(
            "cluster",
            format!("{cluster:?}"),
            format!("at most 16 blocks, and divide the grid {grid:?}"),
        );
    }
    if let Some(required) = entry.required_block
        && required != block
    {
        return refuse("block", format!("{block:?}"), format!("{required:?} (.reqntid)"));
    }
    if let Some(most) = entry.max_block
        && threads(block) > threads(most)
    {
        return refuse(
            "block",
            format!("{block:?}"),
            format!("at most {} threads (.maxntid)", threads(most)),
        );
    }
    if let Some(required) = entry.required_cluster
        && required != [0; 3]
        && required != cluster
    {
        return refuse("cluster", format!("{cluster:?}"), format!("{required:?} (.reqnctapercluster)"));
    }
    let params = entry.params_bytes as usize;
    if launch.params.len() != params {
        return refuse("parameters", format!("{} bytes", launch.params.len()), format!("{params} bytes"));
    }
    let shared = u64::from(launch.dynamic_base()) + u64::from(launch.dynamic_shared);
    if shared > u64::from(launch.shared_limit) {
        let must = format!(
            "at most {} together with what the module declares, which is {}",
            launch.shared_limit, entry.shared_bytes
        );
        return refuse("dynamic shared memory", format!("{} bytes", launch.dynamic_shared), must);
    }
    Ok(())
}

//! A grid: its clusters, spread over CPU threads.

use std::num::NonZero;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, PoisonError};

use crate::count::Profile;
use crate::fault::{Fault, Problem};
use crate::machine::Launch;
use crate::machine::cluster::{Progress, Running, kernel};

/// Rounds in which every cluster polls and none changes anything before that is called a deadlock.
const IDLE_ROUNDS: u32 = 4;

/// Runs all clusters. Where blocks speak to each other, one thread runs them all, in order, so that what they hear
/// never depends on time; else several threads share them, and no one can tell.
pub(crate) fn launch(launch: &Launch) -> Result<Profile, Fault> {
    check(launch)?;
    let clusters = clusters(launch);
    let communicates = launch.program.functions[launch.entry].communicates;
    let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
    let threads = if launch.options.threads == 0 { cores } else { launch.options.threads };
    let threads = if communicates { 1 } else { threads.min(usize::try_from(clusters).unwrap_or(usize::MAX)) };
    let next = AtomicU64::new(0);
    // Of the faults, that of the first cluster is told: which is the same however the clusters were spread.
    let first: Mutex<Option<(u64, Fault)>> = Mutex::new(None);
    let total = Mutex::new(Profile::new(launch.program.code.len()));
    let work = || {
        let mut profile = Profile::new(launch.program.code.len());
        let end = if communicates {
            together(launch, &mut profile)
        } else {
            one_by_one(launch, &next, &mut profile, clusters, &first)
        };
        total.lock().unwrap_or_else(PoisonError::into_inner).add(&profile);
        if let Err((index, fault)) = end {
            let mut first = first.lock().unwrap_or_else(PoisonError::into_inner);
            if first.as_ref().is_none_or(|(earlier, _)| index < *earlier) {
                *first = Some((index, fault));
            }
        }
    };
    if threads == 1 {
        work();
    } else {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(work);
            }
        });
    }
    match first.into_inner().unwrap_or_else(PoisonError::into_inner) {
        Some((_, fault)) => Err(fault),
        None => Ok(total.into_inner().unwrap_or_else(PoisonError::into_inner)),
    }
}

fn clusters(launch: &Launch) -> u64 {
    (0..3).map(|axis| u64::from(launch.grid[axis] / launch.cluster[axis])).product()
}

fn origin(launch: &Launch, index: u64) -> [u32; 3] {
    let [x, y, _] = [0, 1, 2].map(|axis| u64::from(launch.grid[axis] / launch.cluster[axis]));
    let place = [index % x, index / x % y, index / x / y];
    std::array::from_fn(|axis| place[axis] as u32 * launch.cluster[axis])
}

type Failed = (u64, Fault);

fn one_by_one(
    launch: &Launch,
    next: &AtomicU64,
    profile: &mut Profile,
    clusters: u64,
    first: &Mutex<Option<Failed>>,
) -> Result<(), Failed> {
    let mut global = launch.memory.view();
    loop {
        let index = next.fetch_add(1, SeqCst);
        let failed = first.lock().unwrap_or_else(PoisonError::into_inner).as_ref().map(|(index, _)| *index);
        if index >= clusters || failed.is_some_and(|failed| failed < index) {
            return Ok(());
        }
        let mut running = Running::new(launch, origin(launch, index));
        match running.run(launch, &mut global, profile).map_err(|fault| (index, fault))? {
            Progress::Done => {}
            Progress::Polling => return Err((index, running.deadlock(launch))),
        }
    }
}

/// Runs clusters in turns. One that polls lets the others go on; a new one begins when all that run poll.
fn together(launch: &Launch, profile: &mut Profile) -> Result<(), Failed> {
    let mut global = launch.memory.view();
    let mut polling: Vec<(u64, Running)> = Vec::new();
    for index in 0..clusters(launch) {
        let mut running = Running::new(launch, origin(launch, index));
        match running.run(launch, &mut global, profile).map_err(|fault| (index, fault))? {
            Progress::Done => {}
            Progress::Polling => polling.push((index, running)),
        }
    }
    let mut idle = 0;
    while !polling.is_empty() {
        let before = changes(&polling);
        let mut rest = Vec::new();
        for (index, mut running) in polling {
            match running.run(launch, &mut global, profile).map_err(|fault| (index, fault))? {
                Progress::Done => idle = 0,
                Progress::Polling => rest.push((index, running)),
            }
        }
        polling = rest;
        idle = if changes(&polling) == before { idle + 1 } else { 0 };
        if idle >= IDLE_ROUNDS
            && let Some((index, running)) = polling.first()
        {
            return Err((*index, running.deadlock(launch)));
        }
    }
    Ok(())
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
    let threads = |shape: [u32; 3]| shape.iter().fold(1u64, |product, it| product.saturating_mul((*it).into()));
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

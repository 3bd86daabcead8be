//! Running benches through criterion, and writing beside its files what they were of.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use criterion::{BatchSize, Bencher, BenchmarkId, Criterion, Throughput};
use longhand_tensor::Tensor;
use serde_json::json;

use crate::rate::Rate;
use crate::{Clock, Gpu, Place, Row, normal, seeded};

/// A bench in the making: a device, and criterion with its clock.
pub struct Bench {
    place: Place,
    criterion: Criterion<Clock>,
    rate: Rate,
    /// Where criterion writes.
    folder: PathBuf,
}

/// The whole of a bench executable: `cpu` on the CPU, `gpu` on a GPU or the emulated one, by `LONGHAND_DEVICE`.
///
/// # Errors
/// A device that cannot be opened, and what the benches return.
pub fn main(cpu: fn(&mut Bench) -> Result<()>, gpu: fn(&mut Bench, &Gpu) -> Result<()>) -> Result<()> {
    let mut bench = Bench::new(Place::from_environment()?);
    match bench.place {
        Place::Cpu => cpu(&mut bench)?,
        Place::Gpu(ref here) => {
            let here = here.clone();
            gpu(&mut bench, &here)?;
        }
    }
    bench.criterion.final_summary();
    Ok(())
}

/// The whole of a bench executable for what no GPU does.
///
/// # Errors
/// What the benches return.
pub fn main_on_cpu(benches: fn(&mut Bench) -> Result<()>) -> Result<()> {
    let mut bench = Bench::new(Place::Cpu);
    benches(&mut bench)?;
    bench.criterion.final_summary();
    Ok(())
}

impl Bench {
    fn new(place: Place) -> Bench {
        let folder = folder();
        let stream = match &place {
            Place::Gpu(gpu) => Some(gpu.stream.clone()),
            Place::Cpu => None,
        };
        let rate = Rate::default();
        // Ten samples in a second are enough for a median and its spread, and leave time for many lengths.
        let criterion = Criterion::default()
            .with_measurement(Clock::new(stream, rate.clone()))
            .output_directory(&folder)
            .sample_size(10)
            .nresamples(1001)
            .warm_up_time(Duration::from_millis(300))
            .measurement_time(Duration::from_secs(1))
            .without_plots()
            .configure_from_args();
        Bench { place, criterion, rate, folder }
    }

    /// Where it runs.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Times what `setup` returns. `setup` runs only if criterion's filter lets the row through, and there is the
    /// memory that the row needs.
    ///
    /// # Errors
    /// What `setup` or the timed function returned; a file that cannot be written.
    pub fn measure<R, F>(&mut self, row: Row, setup: impl FnOnce() -> Result<F>) -> Result<()>
    where
        F: FnMut() -> Result<R>,
    {
        self.time(row, setup, |b, routine| {
            let mut outcome = Ok(());
            b.iter(|| keep(routine(), &mut outcome));
            outcome
        })
    }

    /// As [`Bench::measure`], each iteration by itself after the GPU's second-level cache was filled with something else:
    /// as decoding finds it, which comes back to a cache of keys and values after every other layer.
    ///
    /// # Errors
    /// As [`Bench::measure`].
    pub fn measure_flushed<R, F>(&mut self, row: Row, setup: impl FnOnce() -> Result<F>) -> Result<()>
    where
        F: FnMut() -> Result<R>,
    {
        let gpu = match &self.place {
            Place::Cpu => None,
            Place::Gpu(gpu) => Some(gpu.clone()),
        };
        self.measure_prepared(row, || {
            let mut routine = setup()?;
            let other = gpu.map(|gpu| gpu.larger_than_l2()).transpose()?;
            let flush = move || {
                if let Some(other) = &other {
                    other.fill(1)?;
                }
                Ok(())
            };
            Ok((flush, move |()| routine()))
        })
    }

    /// As [`Bench::measure`], where each iteration consumes something that is prepared outside the time.
    ///
    /// # Errors
    /// As [`Bench::measure`].
    pub fn measure_prepared<T, R, P, F>(
        &mut self,
        row: Row,
        setup: impl FnOnce() -> Result<(P, F)>,
    ) -> Result<()>
    where
        P: FnMut() -> Result<T>,
        F: FnMut(T) -> Result<R>,
    {
        self.time(row, setup, |b, (prepare, routine)| {
            let mut outcome = Ok(());
            let routine = |input: Result<T>| keep(input.and_then(&mut *routine), &mut outcome);
            b.iter_batched(&mut *prepare, routine, BatchSize::PerIteration);
            outcome
        })
    }

    /// As [`Bench::measure`], of the backward pass alone of the outputs that the closure computes, from gradients that are
    /// at hand.
    ///
    /// # Errors
    /// As [`Bench::measure`].
    pub fn measure_backward<F>(&mut self, row: Row, setup: impl FnOnce() -> Result<F>) -> Result<()>
    where
        F: FnMut() -> Result<Vec<Tensor>>,
    {
        self.measure_prepared(row, || {
            let mut forward = setup()?;
            let mut gradients = Vec::new();
            let prepare = move || {
                let outputs = forward()?;
                if gradients.is_empty() {
                    let shapes = outputs.iter().map(Tensor::shape);
                    gradients = shapes.map(normal).collect::<longhand_tensor::Result<_>>()?;
                }
                Ok(seeded(&outputs.iter().collect::<Vec<_>>(), &gradients)?)
            };
            Ok((prepare, |scalar: Tensor| Ok(scalar.backward()?)))
        })
    }

    /// Has `iterate` time what `setup` returns, and notes the row.
    fn time<S>(
        &mut self,
        mut row: Row,
        setup: impl FnOnce() -> Result<S>,
        mut iterate: impl FnMut(&mut Bencher<'_, Clock>, &mut S) -> Result<()>,
    ) -> Result<()> {
        self.place.name().clone_into(&mut row.work.device);
        let name = format!("{}/{}/{}", row.work.operation, row.function(), row.length());
        let free = self.place.free_bytes().unwrap_or(usize::MAX);
        if row.bytes > free {
            let why = format!("{} MiB of memory needed, {} free", row.bytes >> 20, free >> 20);
            return self.leave_out(&name, &why);
        }

        self.place.reset_peak();
        let mut setup = Some(setup);
        let mut ready = None;
        let mut group = self.criterion.benchmark_group(&row.work.operation);
        self.rate.of(row.unit);
        group.throughput(match row.unit {
            "byte" => Throughput::BytesDecimal(row.amount),
            _ => Throughput::Elements(row.amount),
        });
        group.bench_function(BenchmarkId::new(row.function(), row.length()), |b| {
            if let Some(setup) = setup.take() {
                ready = Some(setup());
            }
            match &mut ready {
                Some(Ok(set_up)) => {
                    if let Err(error) = iterate(b, set_up) {
                        ready = Some(Err(error));
                    }
                }
                // Criterion insists on an iteration; the error ends the bench right after.
                _ => b.iter(|| ()),
            }
        });
        group.finish();
        if let Some(Err(error)) = ready {
            return Err(error.context(name));
        }
        if ready.is_none() {
            return Ok(()); // criterion's filter did not let it through
        }
        let note = json!({
            "id": name,
            "work": row.work,
            "implementation": row.implementation,
            "amount": row.amount as f64,
            "unit": row.unit,
            "peak_bytes": self.place.peak_bytes(),
        });
        self.note(&name, &note)
    }

    /// Tells that something is not measured, and why.
    ///
    /// # Errors
    /// A file that cannot be written.
    pub fn leave_out(&self, what: &str, why: &str) -> Result<()> {
        eprintln!("{what}: left out: {why}");
        self.note(what, &json!({ "what": what, "why": why }))
    }

    /// Writes what criterion's files do not say to a file of its own.
    fn note(&self, name: &str, note: &serde_json::Value) -> Result<()> {
        let folder = self.folder.join("rows");
        let file: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
        let path = folder.join(file + ".json");
        let write = || {
            fs::create_dir_all(&folder)?;
            fs::write(&path, note.to_string())
        };
        write().with_context(|| path.display().to_string())
    }
}

/// The result, if there is one. Of failures the first is kept: it may cause the others.
fn keep<R>(result: Result<R>, outcome: &mut Result<()>) -> Option<R> {
    match result {
        Ok(result) => Some(result),
        Err(error) => {
            if outcome.is_ok() {
                *outcome = Err(error);
            }
            None
        }
    }
}

/// Where criterion would write of itself.
fn folder() -> PathBuf {
    let target = || {
        let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
        target
            .unwrap_or_else(|| [env!("CARGO_MANIFEST_DIR"), "..", "target"].iter().collect())
            .join("criterion")
    };
    std::env::var_os("CRITERION_HOME").map_or_else(target, PathBuf::from)
}

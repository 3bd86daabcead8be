//! candle's attention on the CPU beside Longhand's: the work of a result file's rows, timed in the same way, written in
//! the same form.
//!
//! `candle-peers --rows attention.json --out peers.json --seconds 60`

use std::fs;
use std::hint::black_box;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::attention::{AttnMask, flash_attn};
use clap::Parser;
use longhand_results::{Missing, Row, Run, Work};

const NAME: &str = "candle flash";
const SAMPLES: usize = 10;
const SAMPLE: Duration = Duration::from_millis(30);
/// Of what takes so long that ten samples would take minutes, these must do.
const FEWEST_SAMPLES: usize = 3;
const MOST: Duration = Duration::from_secs(10);

/// Times candle's CPU attention on the work of a result file's rows
#[derive(Parser)]
struct Arguments {
    /// A result file; its rows are timed
    #[arg(long)]
    rows: PathBuf,
    /// Where the timings go
    #[arg(long)]
    out: PathBuf,
    /// How long it may take
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let deadline = Instant::now() + Duration::from_secs_f64(arguments.seconds);
    let mut result = Run::default();
    result.versions.insert("candle".to_owned(), version().to_owned());
    for row in rows(&arguments.rows)? {
        let Work { operation, dtype, variant, axis, sizes, .. } = &row.work;
        let what = format!("{operation}, {dtype} {variant} {axis}{}: {NAME}", sizes[axis]);
        let timed = if operation == "attention backward" {
            Err(anyhow::anyhow!("candle has no backward of its attention on the CPU"))
        } else if Instant::now() > deadline {
            Err(anyhow::anyhow!("out of time"))
        } else {
            time(&row.work, deadline)
        };
        match timed {
            Ok(samples) => {
                println!("{what}: {:.3} ms", longhand_results::median(&samples) / 1e6);
                let implementation = NAME.to_owned();
                result.rows.push(Row { implementation, samples, peak_bytes: None, ..row });
            }
            Err(why) => result.missing.push(Missing { what, why: why.to_string() }),
        }
        fs::write(&arguments.out, serde_json::to_string(&result)?)
            .with_context(|| arguments.out.display().to_string())?;
    }
    Ok(())
}

/// Ours in the file that are attention on the CPU.
fn rows(path: &Path) -> Result<Vec<Row>> {
    let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
    let run: Run = serde_json::from_str(&text).with_context(|| path.display().to_string())?;
    let wanted = |row: &Row| {
        let Work { operation, device, .. } = &row.work;
        row.implementation == "longhand" && device == "cpu" && operation.starts_with("attention ")
    };
    Ok(run.rows.into_iter().filter(wanted).collect())
}

/// Nanoseconds per call, each sample, after a warm-up.
fn time(work: &Work, deadline: Instant) -> Result<Vec<f64>> {
    let size = |letter: &str| {
        let size = work.sizes.get(letter).with_context(|| format!("the row has no size {letter}"))?;
        anyhow::Ok(usize::try_from(*size)?)
    };
    let (batch, tokens, dim) = (size("B")?, size("T")?, size("D")?);
    anyhow::ensure!(work.dtype == "f32", "only f32 is timed");
    anyhow::ensure!(!work.variant.contains("window"), "candle's attention on the CPU has no window");
    let normal = |heads: usize| {
        Tensor::randn(0f32, 1f32, (batch, tokens, heads, dim), &Device::Cpu)?.to_dtype(DType::F32)
    };
    let (q, k, v) = (normal(size("H")?)?, normal(size("Hkv")?)?, normal(size("Hkv")?)?);
    let mask = if work.variant.starts_with("causal") { AttnMask::causal() } else { AttnMask::None };
    let scale = 1.0 / (dim as f32).sqrt();
    let call = || flash_attn::<f32>(&q, &k, &v, scale, mask.clone(), None, None);

    let start = Instant::now();
    call()?;
    let needed = start.elapsed() * FEWEST_SAMPLES as u32;
    anyhow::ensure!(Instant::now() + needed < deadline, "out of time");
    let start = Instant::now();
    call()?;
    let count = (SAMPLE.as_secs_f64() / start.elapsed().as_secs_f64()).max(1.0) as u32;
    let mut samples = Vec::new();
    let start = Instant::now();
    while samples.len() < SAMPLES && (samples.len() < FEWEST_SAMPLES || start.elapsed() < MOST) {
        let start = Instant::now();
        for _ in 0..count {
            black_box(call()?);
        }
        samples.push(start.elapsed().as_nanos() as f64 / f64::from(count));
    }
    Ok(samples)
}

/// candle's, as it was locked.
fn version() -> &'static str {
    let after = |text: &'static str, what| text.split_once(what).map(|(_, rest)| rest);
    let package = after(include_str!("../Cargo.lock"), "name = \"candle-core\"");
    package.and_then(|text| text.split('"').nth(1)).unwrap_or("unknown")
}

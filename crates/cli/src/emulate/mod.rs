//! `longhand emulate`.

mod argument;
mod compile;
mod dtype;
mod npy;
mod parameters;

use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use longhand_emulator::{Fault, Gpu, LoadError, Module, Problem, Report, Shape, ptx};
use serde_json::json;

use argument::Passed;

const ARGUMENTS: &str = "\
Arguments, one --arg for each parameter of the entry, in order:
  in=FILE.npy             a buffer with the array of a file
  inout=FILE.npy:FILE.npy the same, written to the second file at the end
  out=TYPE:SHAPE:FILE.npy a buffer, uninitialised, written to the file at the end: out=f32:128x64:y.npy
  zeros=TYPE:SHAPE        a buffer of zeros: zeros=u8:1024
  null                    a null pointer
  TYPE=VALUE              a value: i32=-1, u64=0xFF, f32=0.125
  bytes=FILE              the bytes of a file, passed by value

TYPE is one of bool, i8, u8, i16, u16, i32, u32, i64, u64, f16, bf16, f32, f64. NumPy has no bf16: in .npy files it is
the bits, as u16. What a kernel leaves unwritten of an out buffer is 0xFF bytes in the file. Where an entry has a single
parameter that is a struct, the arguments are its fields, laid out as C does.

A fault (out of bounds, uninitialised, race, deadlock, ...) is printed with the place in the PTX and in the CUDA source;
then no file is written, and the exit code is 1.

Example:
  longhand emulate scale.ptx --entry scale --grid 4,1,1 --block 256,1,1 \\
      --arg in=x.npy --arg out=f32:1024:y.npy --arg f32=0.5 --arg i32=1024";

/// Run a kernel of a PTX or CUDA file on the emulated GPU; check it, and count what it does
#[derive(Args)]
#[command(after_help = ARGUMENTS)]
pub struct Emulate {
    /// PTX text, or CUDA C++ (.cu), which NVRTC compiles; it may include files of its folder
    file: PathBuf,
    /// Kernel to launch
    #[arg(long, value_name = "NAME")]
    entry: String,
    /// Blocks
    #[arg(long, value_name = "X,Y,Z")]
    grid: String,
    /// Threads of a block
    #[arg(long, value_name = "X,Y,Z")]
    block: String,
    /// Blocks of a cluster
    #[arg(long, value_name = "X,Y,Z", default_value = "1,1,1")]
    cluster: String,
    /// Dynamic shared memory of a block
    #[arg(long, value_name = "BYTES", default_value = "0")]
    shared: String,
    /// Architecture to emulate, and to compile a .cu file for [default: a PTX file's own .target, sm_90a for .cu]
    #[arg(long, value_name = "ARCH")]
    arch: Option<String>,
    /// Print the report, or the fault, as JSON
    #[arg(long)]
    json: bool,
    /// What the kernel gets for a parameter; see below
    #[arg(long = "arg", value_name = "ARGUMENT")]
    arguments: Vec<String>,
}

impl Emulate {
    pub fn run(&self) -> anyhow::Result<ExitCode> {
        let shape =
            Shape {
                grid: triple("--grid", &self.grid)?,
                block: triple("--block", &self.block)?,
                cluster: triple("--cluster", &self.cluster)?,
                dynamic_shared: self.shared.parse().ok().with_context(|| {
                    format!("--shared is {:?}, and must be a number of bytes", self.shared)
                })?,
            };
        let file = || self.file.display().to_string();
        let text = compile::ptx(&self.file, self.arch.as_deref().unwrap_or("sm_90a").parse()?)?;
        let arch = match &self.arch {
            Some(arch) => arch.clone(),
            None => ptx::parse(&text).map_err(LoadError::from).with_context(file)?.target,
        };
        let gpu = Gpu::new(arch.parse().with_context(file)?);
        let module = Module::from_ptx(&gpu, &text).with_context(file)?;
        let Some(params) = module.params(&self.entry) else {
            let entries = module.entries();
            let entries = if entries.is_empty() { "none".into() } else { entries.join(", ") };
            bail!("--entry {:?} is not in {}, whose entries are: {entries}", self.entry, self.file.display());
        };
        let passed = self.pass(&gpu)?;
        let block = parameters::block(&params, &passed)?;
        match module.launch(&self.entry, &shape, &block) {
            Ok(report) => {
                for output in passed.iter().filter_map(|it| it.output.as_ref()) {
                    output.write(&gpu)?;
                }
                self.print_report(&report)?;
                Ok(ExitCode::SUCCESS)
            }
            Err(Fault { problem: problem @ Problem::Launch { .. }, .. }) => bail!("{problem}"),
            Err(fault) => {
                self.print_fault(&fault)?;
                Ok(ExitCode::FAILURE)
            }
        }
    }

    fn pass(&self, gpu: &Gpu) -> anyhow::Result<Vec<Passed>> {
        let numbered = self.arguments.iter().zip(1..);
        numbered
            .map(|(text, number)| {
                argument::pass(gpu, text).with_context(|| format!("argument {number}, --arg {text}"))
            })
            .collect()
    }

    fn print_report(&self, report: &Report) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match self.json {
            true => writeln!(out, "{}", json!({ "report": report, "fault": null })),
            false => write!(out, "{}", report.explain()),
        }
    }

    fn print_fault(&self, fault: &Fault) -> io::Result<()> {
        let mut out = io::stdout().lock();
        match self.json {
            true => {
                writeln!(out, "{}", json!({ "report": null, "fault": fault, "message": fault.to_string() }))
            }
            false => writeln!(out, "fault: {fault}"),
        }
    }
}

/// `4,2,1`, of which what is left out at the end is 1.
fn triple(option: &str, text: &str) -> anyhow::Result<[u32; 3]> {
    let numbers: Option<Vec<u32>> = text.split(',').map(|it| it.trim().parse().ok()).collect();
    match numbers.as_deref() {
        Some(&[x]) => Ok([x, 1, 1]),
        Some(&[x, y]) => Ok([x, y, 1]),
        Some(&[x, y, z]) => Ok([x, y, z]),
        _ => bail!("{option} is {text:?}, and must be X,Y,Z"),
    }
}

//! The `longhand` command.

#![forbid(unsafe_code)]

mod device;
mod doctor;
mod emulate;
mod eval;
mod generate;
mod kernels;
mod progress;
mod train;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Train, evaluate and generate with long-context transformers on hand-written CUDA kernels, or on the CPU.
#[derive(Parser)]
#[command(name = "longhand", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Train a GPT-2 model on text; with no argument, a small one on Longhand's own sources
    Train(train::Train),
    /// Continue a text with a model
    Generate(generate::Generate),
    /// Measure how well a model predicts a text
    Eval(eval::Eval),
    Kernels(kernels::Kernels),
    Verify(verify::Verify),
    /// Run a kernel of a PTX or CUDA file on the emulated GPU; check it, and count what it does
    Emulate(emulate::Emulate),
    /// Say which GPU, driver and libraries are found, and what to install for each one missing
    Doctor,
}

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Train(train) => train.run(),
        Command::Generate(generate) => generate.run().map(|()| ExitCode::SUCCESS),
        Command::Eval(eval) => eval.run().map(|()| ExitCode::SUCCESS),
        Command::Kernels(kernels) => kernels.run().map(|()| ExitCode::SUCCESS),
        Command::Verify(verify) => verify.run(),
        Command::Emulate(emulate) => emulate.run(),
        Command::Doctor => doctor::run().map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        eprintln!("error: {}", one_line(&error));
        ExitCode::FAILURE
    })
}

/// An error and what led to it, in one line. A cause that the error before it already tells is not told again.
fn one_line(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |told, cause| {
        let cause = cause.to_string();
        let cause = cause.lines().map(str::trim).collect::<Vec<_>>().join(" ");
        if told.is_empty() {
            cause
        } else if told.ends_with(&cause) {
            told
        } else {
            format!("{told}: {cause}")
        }
    })
}

//! `longhand kernels`.

use anyhow::Result;
use clap::{Args, Subcommand};
use longhand_gpu::Compiler;
use longhand_kernels::variants;
use longhand_verify::cards;
use std::collections::BTreeMap;
use std::fmt::Write;

/// Kernels have the same forms for all architectures but for tile sizes.
const LISTED: &str = "sm_80";

/// What kernels there are
#[derive(Args)]
pub struct Kernels {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List the kernels: their file, their name, and in how many forms they are tuned
    List {
        /// Compile each for every architecture and run it on a virtual GPU: registers, shared memory and occupancy;
        /// memory traffic, bank conflicts and matrix operations over the least possible; error over its budget
        #[arg(long)]
        cards: bool,
    },
}

impl Kernels {
    pub fn run(&self) -> Result<()> {
        let Command::List { cards } = self.command;
        print!("{}", if cards { cards::cards(&cards::uses(&Compiler::new()?)?)? } else { list()? });
        Ok(())
    }
}

/// A line for each kernel.
fn list() -> Result<String> {
    let mut forms: BTreeMap<(String, &str), usize> = BTreeMap::new();
    for variant in variants(LISTED.parse()?) {
        *forms.entry((variant.program.name().to_owned(), variant.entry)).or_default() += 1;
    }
    let width = |of: fn(&(String, &str)) -> usize| forms.keys().map(of).max().unwrap_or(0);
    let (files, entries) = (width(|key| key.0.len()), width(|key| key.1.len()));
    let mut text = String::new();
    for ((file, entry), forms) in &forms {
        let _ = writeln!(
            text,
            "{file:files$}  {entry:entries$}  {forms:3} {}",
            if *forms == 1 { "form" } else { "forms" }
        );
    }
    Ok(text)
}

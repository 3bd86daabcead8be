//! `longhand kernels`.

use anyhow::{Context, Result};
use clap::{Args, Subcommand};
use longhand_gpu::Compiler;
use longhand_kernels::variants;
use longhand_verify::{Op, cards};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::PathBuf;

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
        /// Write the cards into this file, which has a place for each (kernels/README.md), instead of printing them
        #[arg(long, value_name = "FILE", requires = "cards")]
        update: Option<PathBuf>,
    },
}

impl Kernels {
    pub fn run(&self) -> Result<()> {
        let Command::List { cards, update } = &self.command;
        if !cards {
            print!("{}", list()?);
            return Ok(());
        }
        let uses = cards::uses(&Compiler::new()?)?;
        let Some(path) = update else {
            for op in Op::ALL {
                println!("### {}\n\n{}", op.name(), cards::card(op, &uses)?);
            }
            return Ok(());
        };
        let mut catalogue = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        for op in Op::ALL {
            let (card, name) = (cards::card(op, &uses)?, op.name());
            catalogue = cards::with_card(&catalogue, op, &card)
                .with_context(|| format!("{} has no place for the cards of {name}", path.display()))?;
        }
        fs::write(path, catalogue).with_context(|| path.display().to_string())
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

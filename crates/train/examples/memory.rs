//! Measures the peak memory of a training step by context length, with every activation kept, with the feed-forward networks
//! in chunks, and with gradient checkpointing, and draws it:
//! `cargo run --release -p longhand-train --example memory` writes `docs/memory.json` and `docs/memory.svg`.
//!
//! Counted by the allocator, in f32 on the CPU: what a step takes beyond the weights and the optimiser's state.

#[path = "../src/curves.rs"]
mod curves;
#[path = "../../models/tests/step/mod.rs"]
mod step;

use std::error::Error;
use std::fs;
use std::path::Path;

use curves::{Axis, Curve};
use longhand_models::gpt2::Gpt2Config;
use plotters::{chart::SeriesLabelPosition, style::RGBColor};
use serde_json::json;
use step::{Again, peak_of_step};

const LAYERS: usize = 12;
const WIDTH: usize = 128;
const HEADS: usize = 2;
const VOCABULARY: usize = 4096;
const TOKENS: [usize; 5] = [256, 512, 1024, 2048, 4096];
/// Tokens that a feed-forward network takes at a time.
const CHUNK: usize = 256;
/// What is measured, and its name in the file.
const WAYS: [(Again, &str); 3] =
    [(Again::Nothing, "kept"), (Again::Hidden(CHUNK), "mlp_in_chunks"), (Again::All, "checkpointed")];

fn main() -> Result<(), Box<dyn Error>> {
    let mut rows = Vec::new();
    for tokens in TOKENS {
        rows.push((tokens, WAYS.map(|(again, _)| step(tokens, again))));
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let row = |(tokens, bytes): &(usize, [usize; 3])| {
        let mut row = json!({ "tokens": tokens });
        WAYS.iter().zip(bytes).for_each(|((_, name), bytes)| row[*name] = json!(bytes));
        row
    };
    let table: Vec<_> = rows.iter().map(row).collect();
    let found = json!({
        "what": "peak bytes of a training step beyond weights and optimiser state",
        "model": { "layers": LAYERS, "width": WIDTH, "heads": HEADS, "vocabulary": VOCABULARY },
        "mlp_chunk": CHUNK,
        "rows": table,
    });
    fs::write(folder.join("memory.json"), serde_json::to_string_pretty(&found)? + "\n")?;
    fs::write(folder.join("memory.svg"), draw(&rows)?)?;

    println!(
        "| tokens | every activation kept | MLPs in chunks | gradient checkpointing |\n|--:|--:|--:|--:|"
    );
    for (tokens, bytes) in rows {
        let [kept, chunked, again] = bytes.map(|bytes| bytes as f64 / 1e6);
        println!("| {tokens} | {kept:.0} MB | {chunked:.0} MB | {again:.0} MB |");
    }
    Ok(())
}

/// The peak of a step of a model with one window of so many tokens.
fn step(tokens: usize, again: Again) -> usize {
    let config = Gpt2Config {
        vocab_size: VOCABULARY,
        n_positions: tokens,
        n_embd: WIDTH,
        n_layer: LAYERS,
        n_head: HEADS,
        ..Gpt2Config::default()
    };
    peak_of_step(config, again)
}

fn draw(rows: &[(usize, [usize; 3])]) -> Result<String, Box<dyn Error>> {
    let most = rows.iter().flat_map(|(_, bytes)| *bytes).max().unwrap_or(1) as f64 / 1e6;
    let longest = TOKENS[TOKENS.len() - 1] as f64;
    let curve = |name, colour, which: usize| {
        let points = rows.iter().map(|(tokens, bytes)| (*tokens as f64, bytes[which] as f64 / 1e6)).collect();
        Curve { name, colour, width: 2, points }
    };
    curves::draw(
        Axis { name: "context length (tokens)", range: 0.0..longest * 1.03 },
        Axis { name: "peak memory of a step (MB)", range: 0.0..most * 1.05 },
        SeriesLabelPosition::UpperLeft,
        vec![
            curve("every activation kept", RGBColor(0, 0, 0), 0),
            curve("MLPs in chunks of 256 tokens", RGBColor(213, 94, 0), 1),
            curve("gradient checkpointing", RGBColor(0, 114, 178), 2),
        ],
    )
}

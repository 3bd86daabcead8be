//! Measures the peak memory of a training step by context length, with and without gradient checkpointing, and draws it:
//! `cargo run --release -p longhand-train --example memory` writes `docs/memory.json` and `docs/memory.svg`.
//!
//! Counted by the allocator, in f32 on the CPU: what a step takes beyond the weights and the optimiser's state.

#[path = "../../tensor/tests/counting/mod.rs"]
mod counting;

use std::error::Error;
use std::fs;
use std::path::Path;

use counting::peak;
use longhand_models::gpt2::{Gpt2, Gpt2Config};
use longhand_tensor::{AdamW, Device, Dtype, Tensor, memory};
use plotters::prelude::*;
use rand::{SeedableRng, rngs::StdRng};
use serde_json::json;

const LAYERS: usize = 12;
const WIDTH: usize = 128;
const HEADS: usize = 2;
const VOCABULARY: usize = 4096;
const TOKENS: [usize; 4] = [256, 512, 1024, 2048];

fn main() -> Result<(), Box<dyn Error>> {
    let mut rows = Vec::new();
    for tokens in TOKENS {
        let [kept, again] = [false, true].map(|again| step(tokens, again));
        rows.push((tokens, [kept?, again?]));
    }
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    let table: Vec<_> = rows
        .iter()
        .map(|(tokens, [kept, again])| json!({ "tokens": tokens, "kept": kept, "checkpointed": again }))
        .collect();
    let found = json!({
        "what": "peak bytes of a training step beyond weights and optimiser state",
        "model": { "layers": LAYERS, "width": WIDTH, "heads": HEADS, "vocabulary": VOCABULARY },
        "rows": table,
    });
    fs::write(folder.join("memory.json"), serde_json::to_string_pretty(&found)? + "\n")?;
    let mut svg = String::new();
    draw(&mut svg, &rows)?;
    fs::write(folder.join("memory.svg"), svg)?;

    println!("| tokens | kept | checkpointed |\n|--:|--:|--:|");
    for (tokens, [kept, again]) in rows {
        println!("| {tokens} | {:.0} MB | {:.0} MB |", kept as f64 / 1e6, again as f64 / 1e6);
    }
    Ok(())
}

/// The peak of a step of a model with one window of so many tokens.
fn step(tokens: usize, again: bool) -> longhand_models::Result<usize> {
    let config = Gpt2Config {
        vocab_size: VOCABULARY,
        n_positions: tokens,
        n_embd: WIDTH,
        n_layer: LAYERS,
        n_head: HEADS,
        ..Gpt2Config::default()
    };
    let mut model = Gpt2::new(config, &Device::Cpu, Dtype::F32, &mut StdRng::seed_from_u64(1))?;
    model.set_gradient_checkpointing(again);
    let parameters = model.parameters().iter().map(|p| (p.name.clone(), p.tensor.clone())).collect();
    let mut optimiser = AdamW::new(parameters, Default::default())?;
    let ids = Tensor::zeros(&[1, tokens], Dtype::U32, &Device::Cpu)?;
    let mut step = || -> longhand_models::Result<()> {
        let gradients = model.loss(&ids, &ids)?.backward()?;
        optimiser.step(&gradients, 1e-4)?;
        Ok(())
    };
    memory::empty_cache();
    let mut result = Ok(());
    let most = peak(|| result = step());
    result.map(|()| most)
}

fn draw(svg: &mut String, rows: &[(usize, [usize; 2])]) -> Result<(), Box<dyn Error>> {
    let area = SVGBackend::with_string(svg, (760, 400)).into_drawing_area();
    area.fill(&WHITE)?;
    let longest = TOKENS[TOKENS.len() - 1] as f64;
    let most = rows.iter().flat_map(|(_, bytes)| *bytes).max().unwrap_or(1) as f64 / 1e6;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(0.0..longest * 1.03, 0.0..most * 1.05)?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .bold_line_style(RGBColor(225, 225, 225))
        .x_desc("context length (tokens)")
        .y_desc("peak memory of a step (MB)")
        .x_label_formatter(&|tokens| format!("{tokens:.0}"))
        .y_label_formatter(&|megabytes| format!("{megabytes:.0}"))
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 16))
        .draw()?;
    let curves = [("every activation kept", BLACK), ("gradient checkpointing", RGBColor(0, 114, 178))];
    for (which, (name, colour)) in curves.into_iter().enumerate() {
        let points: Vec<_> =
            rows.iter().map(|(tokens, bytes)| (*tokens as f64, bytes[which] as f64 / 1e6)).collect();
        let style = ShapeStyle::from(&colour).stroke_width(2);
        chart
            .draw_series(LineSeries::new(points, style).point_size(3))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.9))
        .label_font(("sans-serif", 16))
        .position(SeriesLabelPosition::UpperLeft)
        .draw()?;
    area.present()?;
    Ok(())
}

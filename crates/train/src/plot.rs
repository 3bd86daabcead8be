//! The picture of the loss.

use std::path::Path;

use plotters::{chart::SeriesLabelPosition, style::RGBColor};

use crate::curves::{self, Axis, Curve};
use crate::{Error, Metric, Result, Split, files};

/// Points of the training curve: enough for a picture, however long the run.
const POINTS: usize = 500;

/// Writes an SVG of the losses by step: training (mean of neighbouring steps in long runs) and held out. It
/// brings its own white ground, so that it reads on a dark page as on a light one.
///
/// # Errors
/// The file cannot be written.
pub fn plot_loss(path: &Path, metrics: &[Metric]) -> Result<()> {
    let svg = draw(metrics).map_err(|error| Error::Plot { path: path.into(), reason: error.to_string() })?;
    files::write(path, svg.as_bytes())
}

fn draw(metrics: &[Metric]) -> std::result::Result<String, Box<dyn std::error::Error>> {
    let train = thin(&points(metrics, Split::Train));
    let valid = points(metrics, Split::Valid);
    let losses = train.iter().chain(&valid).map(|&(_, loss)| loss);
    let (low, high) =
        losses.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), loss| (low.min(loss), high.max(loss)));
    let (low, high) = if low <= high { (low, high) } else { (0.0, 1.0) };
    let margin = ((high - low) * 0.05).max(0.05);
    let last = metrics.iter().map(|metric| metric.step).max().unwrap_or(0).max(1) as f64;
    curves::draw(
        Axis { name: "step", range: 0.0..last },
        Axis { name: "loss (nats per token)", range: low - margin..high + margin },
        SeriesLabelPosition::UpperRight,
        vec![
            Curve { name: "training", colour: RGBColor(110, 160, 215), width: 1, points: train },
            Curve { name: "held out", colour: RGBColor(190, 60, 20), width: 3, points: valid },
        ],
    )
}

fn points(metrics: &[Metric], split: Split) -> Vec<(f64, f64)> {
    metrics
        .iter()
        .filter(|metric| metric.split == split && metric.loss.is_finite())
        .map(|metric| (metric.step as f64, metric.loss))
        .collect()
}

/// At most [`POINTS`] points, each the mean of as many neighbours.
fn thin(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    points
        .chunks(points.len().div_ceil(POINTS).max(1))
        .map(|chunk| {
            let mean =
                |value: fn(&(f64, f64)) -> f64| chunk.iter().map(value).sum::<f64>() / chunk.len() as f64;
            (mean(|point| point.0), mean(|point| point.1))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metric(step: u64, split: Split) -> Metric {
        let loss = 7.0 / (1.0 + step as f64 / 50.0);
        Metric { step, split, loss, bits_per_byte: 1.0, tokens_per_second: 1.0, seconds: 1.0 }
    }

    #[test]
    fn the_picture_names_its_axes_and_curves_and_stays_small_however_long_the_run() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("loss.svg");
        let mut metrics: Vec<Metric> = (0..20_000).map(|step| metric(step, Split::Train)).collect();
        metrics.extend((0..20_000).step_by(1000).map(|step| metric(step, Split::Valid)));
        plot_loss(&path, &metrics).unwrap();
        let svg = std::fs::read_to_string(path).unwrap();
        for label in ["step", "loss (nats per token)", "training", "held out"] {
            assert!(svg.contains(label), "{label} is not in the picture");
        }
        assert!(svg.len() < 60_000, "{} bytes", svg.len());
    }

    #[test]
    fn a_run_with_no_step_yet_has_a_picture_too() {
        let folder = tempfile::tempdir().unwrap();
        for metrics in [vec![], vec![metric(0, Split::Valid)]] {
            plot_loss(&folder.path().join("loss.svg"), &metrics).unwrap();
        }
    }
}

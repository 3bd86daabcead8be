//! Rates over the context length, as a picture.

use std::collections::BTreeMap;

use plotters::coord::Shift;
use plotters::prelude::*;

use super::series::{Series, Timing, digits, scale};

/// Ours is the first and the darkest; the rest are told apart without colour vision (Okabe and Ito 2008).
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 0, 0),
    RGBColor(213, 94, 0),
    RGBColor(0, 114, 178),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
];

/// Width without the names of the curves, and height.
const PLOT: (u32, u32) = (590, 400);
/// Width of a letter of those names, about.
const LETTER: usize = 8;

/// An SVG that brings its own white ground, so that it reads on a dark page as on a light one.
pub fn draw(series: &Series<'_>) -> Result<String, String> {
    let mut svg = String::new();
    let longest = series.implementations().iter().map(|name| name.len()).max().unwrap_or(0);
    let names = (48 + LETTER * longest.max("ceiling".len())) as u32;
    draw_on(&SVGBackend::with_string(&mut svg, (PLOT.0 + names, PLOT.1)).into_drawing_area(), series, names)
        .map_err(|error| error.to_string())?;
    Ok(svg)
}

/// `names` is the room at the right for the names of the curves.
fn draw_on(
    area: &DrawingArea<SVGBackend<'_>, Shift>,
    series: &Series<'_>,
    names: u32,
) -> Result<(), Box<dyn std::error::Error>> {
    let timings = || series.points.values().flat_map(BTreeMap::values);
    let most = timings().map(|timing| timing.row.rate()).fold(0.0, f64::max);
    // A ceiling far above would flatten what is compared; the table has the share.
    let ceiling = timings().find_map(|timing| timing.ceiling).filter(|&ceiling| ceiling < 3.0 * most);
    let top = most.max(ceiling.unwrap_or(0.0)) * 1.08;
    let (factor, unit) = scale(most, series.unit);
    let sizes: Vec<f64> = series.points.keys().map(|&size| size as f64).collect();
    let (first, last) = (sizes[0] / 1.15, sizes[sizes.len() - 1] * 1.15);

    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(series.title(), ("sans-serif", 18))
        .margin(14)
        .margin_right(names)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((first..last).log_scale().base(2.0).with_key_points(sizes), 0.0..top / factor)?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .bold_line_style(RGBColor(225, 225, 225))
        .x_desc(axis_name(series.axis))
        .y_desc(unit)
        .x_label_formatter(&|size| short(*size))
        .y_label_formatter(&|rate| tick(*rate))
        .label_style(("sans-serif", 13))
        .axis_desc_style(("sans-serif", 15))
        .draw()?;
    let mut curves = Vec::new();
    if let Some(ceiling) = ceiling {
        let ends = [(first, ceiling / factor), (last, ceiling / factor)];
        let style = ShapeStyle::from(&RGBColor(130, 130, 130)).stroke_width(1);
        chart.draw_series(DashedLineSeries::new(ends, 6, 4, style))?;
        curves.push(("ceiling", style));
    }
    for (number, name) in series.implementations().into_iter().enumerate() {
        let of = |(&size, point): (&u64, &BTreeMap<&str, Timing<'_>>)| {
            Some((size as f64, point.get(name)?.row.rate() / factor))
        };
        let points: Vec<(f64, f64)> = series.points.iter().filter_map(of).collect();
        let style =
            ShapeStyle::from(&COLOURS[number % COLOURS.len()]).stroke_width(if number == 0 { 3 } else { 2 });
        chart.draw_series(LineSeries::new(points.clone(), style))?;
        chart.draw_series(points.into_iter().map(|point| Circle::new(point, 3, style.filled())))?;
        curves.push((name, style));
    }
    // Beside the plot, where no point is.
    let left = PLOT.0 as i32 + 12;
    for ((name, style), y) in curves.into_iter().zip((50..).step_by(20)) {
        area.draw(&PathElement::new([(left, y), (left + 20, y)], style))?;
        area.draw(&Text::new(name.to_owned(), (left + 28, y - 7), ("sans-serif", 14)))?;
    }
    area.present()?;
    Ok(())
}

/// What the letter of an axis stands for.
pub fn axis_name(axis: &str) -> &str {
    match axis {
        "T" => "context length (tokens)",
        "S" => "tokens in the cache",
        "N" => "rows",
        "M" => "rows of the result",
        "W" => "width of a row",
        "P" => "parameters",
        "V" => "vocabulary",
        other => other,
    }
}

/// Three digits without the zeros at the end.
fn tick(rate: f64) -> String {
    let text = digits(rate);
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text }
}

/// A size as people write it: 16k.
fn short(size: f64) -> String {
    let size = size.round() as u64;
    match size {
        0..1024 => size.to_string(),
        1024..1_048_576 => format!("{}k", size / 1024),
        1_048_576..1_073_741_824 => format!("{}M", size >> 20),
        _ => format!("{}G", size >> 30),
    }
}

//! Curves in a picture, which brings its own white ground, so that it reads on a dark page as on a light one.

use std::error::Error;
use std::ops::Range;

use plotters::prelude::*;

pub(crate) struct Curve<'a> {
    pub(crate) name: &'a str,
    pub(crate) colour: RGBColor,
    pub(crate) width: u32,
    pub(crate) points: Vec<(f64, f64)>,
}

pub(crate) struct Axis<'a> {
    pub(crate) name: &'a str,
    pub(crate) range: Range<f64>,
}

/// An SVG of the curves, with their names in a corner.
pub(crate) fn draw(
    x: Axis<'_>,
    y: Axis<'_>,
    names: SeriesLabelPosition,
    curves: Vec<Curve<'_>>,
) -> Result<String, Box<dyn Error>> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (800, 450)).into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(56)
        .build_cartesian_2d(x.range, y.range)?;
    chart
        .configure_mesh()
        .max_light_lines(0)
        .bold_line_style(RGBColor(225, 225, 225))
        .x_desc(x.name)
        .y_desc(y.name)
        .x_label_formatter(&|x| format!("{x:.0}"))
        .label_style(("sans-serif", 14))
        .axis_desc_style(("sans-serif", 16))
        .draw()?;
    for Curve { name, colour, width, points } in curves {
        let style = ShapeStyle::from(&colour).stroke_width(width);
        chart
            .draw_series(LineSeries::new(points, style))?
            .label(name)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 20, y)], style));
    }
    chart
        .configure_series_labels()
        .background_style(WHITE.mix(0.9))
        .label_font(("sans-serif", 16))
        .position(names)
        .draw()?;
    area.present()?;
    drop(chart);
    drop(area);
    Ok(svg)
}

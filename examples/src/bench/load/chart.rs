//! Growth with members, as SVG.

use std::path::Path;

use plotters::prelude::*;

use super::{
    phases::quantiles,
    report::{Load, Loads},
};
use crate::{Error, Result};

/// A line: its name, and its height at each load.
type Line<'a> = (&'a str, Box<dyn Fn(&Load) -> f64>);

/// Draws three panels beside each other.
pub fn draw(loads: &Loads, path: &Path) -> Result<()> {
    let fault = |error: &dyn std::fmt::Display| Error::fault("drawing the chart", error);
    let area = SVGBackend::new(path, (1200, 380)).into_drawing_area();
    area.fill(&WHITE).map_err(|error| fault(&error))?;
    let panels: [(&str, Vec<Line<'_>>); 3] = [
        (
            "seconds, half of the members",
            vec![
                (
                    "contribute",
                    Box::new(|load| quantiles(&load.timed, |it| it.contribute).p50),
                ),
                (
                    "open",
                    Box::new(|load| quantiles(&load.timed, |it| it.open).p50),
                ),
                ("all, last member", Box::new(|load| load.seconds)),
            ],
        ),
        (
            "server, MB",
            vec![
                (
                    "peak memory",
                    Box::new(|load| load.peak_memory.unwrap_or(0) as f64 / 1e6),
                ),
                ("one body", Box::new(|load| load.body_bytes() as f64 / 1e6)),
            ],
        ),
        (
            "contributions, MB/s",
            vec![
                ("ours", Box::new(|load| load.throughput() / 1e6)),
                ("plain copy", Box::new(|load| load.copy_throughput() / 1e6)),
            ],
        ),
    ];
    for (area, (title, lines)) in area.split_evenly((1, 3)).iter().zip(&panels) {
        panel(area, title, lines, loads).map_err(|error| fault(&error))?;
    }
    area.present().map_err(|error| fault(&error))
}

type Area<'a> = DrawingArea<SVGBackend<'a>, plotters::coord::Shift>;
type Failed<'a> = DrawingAreaErrorKind<<SVGBackend<'a> as DrawingBackend>::ErrorType>;

fn panel<'a>(
    area: &Area<'a>,
    title: &str,
    lines: &[Line<'_>],
    loads: &Loads,
) -> std::result::Result<(), Failed<'a>> {
    let points = |line: &Line<'_>| -> Vec<(f64, f64)> {
        let point = |load: &Load| (load.shape.members as f64, (line.1)(load));
        loads.loads.iter().map(point).collect()
    };
    let all = || lines.iter().flat_map(points);
    let widest = all().map(|(members, _)| members).fold(1.0, f64::max);
    let highest = all().map(|(_, height)| height).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 16))
        .margin(12)
        .x_label_area_size(36)
        .y_label_area_size(52)
        .build_cartesian_2d(0.0..widest * 1.05, 0.0..highest.max(1e-9) * 1.25)?;
    chart
        .configure_mesh()
        .disable_x_mesh()
        .light_line_style(WHITE)
        .x_desc("members")
        .x_labels(6)
        .x_label_formatter(&|members| format!("{members:.0}"))
        .y_labels(6)
        .label_style(("sans-serif", 12))
        .draw()?;
    for (line, colour) in lines.iter().zip([BLUE, RED, BLACK]) {
        chart
            .draw_series(LineSeries::new(points(line), colour.stroke_width(2)).point_size(3))?
            .label(line.0)
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 16, y)], colour));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .label_font(("sans-serif", 12))
        .border_style(BLACK.mix(0.3))
        .background_style(WHITE)
        .draw()
}

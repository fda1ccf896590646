//! Plots: how a figure goes with something that grows, drawn as SVG for a page.

use std::{ops::Range, path::Path};

use anyhow::{Context, Result, anyhow, ensure};
use plotters::{
    coord::ranged1d::{AsRangedCoord, ValueFormatter},
    prelude::*,
};
use serde::Serialize;

/// In pixels.
const SIZE: (u32, u32) = (720, 420);

/// One plot. An axis whose values are of more than two decades is logarithmic, any other begins at zero.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Plot {
    /// The name of the file, without its ending.
    pub(crate) name: &'static str,
    pub(crate) title: String,
    /// What grows, with its unit.
    pub(crate) x: &'static str,
    /// What is measured, with its unit.
    pub(crate) y: &'static str,
    pub(crate) lines: Vec<Line>,
}

/// One line of a plot.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Line {
    pub(crate) name: String,
    /// What grows, and what was measured then; neither below zero.
    pub(crate) points: Vec<(f64, f64)>,
}

/// How many times the least value the most is, from which on an axis is logarithmic.
const DECADES: f64 = 100.0;

/// From where to where, and how, the values of an axis are.
#[derive(Debug, PartialEq)]
enum Axis {
    Linear(Range<f64>),
    Logarithmic(Range<f64>),
}

const COLOURS: [RGBColor; 6] = [
    RGBColor(0x1b, 0x6e, 0xa8),
    RGBColor(0xd1, 0x5b, 0x1a),
    RGBColor(0x2f, 0x8f, 0x4e),
    RGBColor(0x8a, 0x4f, 0xa3),
    RGBColor(0xb0, 0x2a, 0x3a),
    RGBColor(0x55, 0x55, 0x55),
];

impl Plot {
    /// Writes `NAME.svg` into the folder.
    ///
    /// # Errors
    /// When there is nothing to draw, or the file cannot be written.
    pub(crate) fn draw(&self, folder: &Path) -> Result<()> {
        let file = folder.join(format!("{}.svg", self.name));
        std::fs::write(&file, self.svg()?).with_context(|| format!("cannot write {}", file.display()))
    }

    fn svg(&self) -> Result<String> {
        let mut svg = String::new();
        self.onto(&mut svg).with_context(|| format!("cannot draw the plot {}", self.name))?;
        Ok(svg)
    }

    fn onto(&self, svg: &mut String) -> Result<()> {
        let all = || self.lines.iter().flat_map(|line| line.points.iter().copied());
        ensure!(all().next().is_some(), "there are no points");
        ensure!(all().all(|(x, y)| x >= 0.0 && y >= 0.0), "a point is below zero");
        let (x, y) = (Axis::of(all().map(|(x, _)| x)), Axis::of(all().map(|(_, y)| y)));
        match (x, y) {
            (Axis::Linear(x), Axis::Linear(y)) => self.between(x, y, svg),
            (Axis::Linear(x), Axis::Logarithmic(y)) => self.between(x, y.log_scale(), svg),
            (Axis::Logarithmic(x), Axis::Linear(y)) => self.between(x.log_scale(), y, svg),
            (Axis::Logarithmic(x), Axis::Logarithmic(y)) => self.between(x.log_scale(), y.log_scale(), svg),
        }
    }

    /// Draws between these axes.
    fn between<X, Y>(&self, xs: X, ys: Y, svg: &mut String) -> Result<()>
    where
        X: AsRangedCoord<Value = f64, CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>>,
        Y: AsRangedCoord<Value = f64, CoordDescType: Ranged<ValueType = f64> + ValueFormatter<f64>>,
    {
        let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
        area.fill(&WHITE).map_err(drawn)?;
        let mut chart = ChartBuilder::on(&area)
            .caption(&self.title, ("sans-serif", 16))
            .margin(12)
            .x_label_area_size(42)
            .y_label_area_size(74)
            .build_cartesian_2d(xs, ys)
            .map_err(drawn)?;
        chart
            .configure_mesh()
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&|value| short(*value))
            .y_label_formatter(&|value| short(*value))
            .light_line_style(RGBColor(0xee, 0xee, 0xee))
            .draw()
            .map_err(drawn)?;
        for (line, colour) in self.lines.iter().zip(COLOURS.iter().cycle()) {
            chart
                .draw_series(
                    LineSeries::new(line.points.iter().copied(), colour.stroke_width(2)).point_size(3),
                )
                .map_err(drawn)?
                .label(&line.name)
                .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.85))
            .border_style(RGBColor(0xcc, 0xcc, 0xcc))
            .draw()
            .map_err(drawn)?;
        area.present().map_err(drawn)
    }
}

impl Axis {
    /// What all values lie in, with some room, also when they are all the same.
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values.fold((f64::MAX, f64::MIN), |(low, high), v| (low.min(v), high.max(v)));
        if low > 0.0 && high / low > DECADES {
            return Self::Logarithmic(low / 1.3..high * 1.3);
        }
        Self::Linear(0.0..if high > 0.0 { high * 1.15 } else { 1.0 })
    }
}

/// A number as it stands on an axis: `64`, `1 k`, `8 M`.
fn short(value: f64) -> String {
    let (value, unit) = match value {
        v if v >= 1e6 => (v / 1e6, " M"),
        v if v >= 1e3 => (v / 1e3, " k"),
        v => (v, ""),
    };
    let places = usize::from(value < 10.0 && value.fract() > 0.05);
    format!("{value:.places$}{unit}")
}

/// The library's errors are not `Send`.
fn drawn(error: impl std::fmt::Display) -> anyhow::Error {
    anyhow!("{error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>) -> Plot {
        let line = Line { name: "ours".into(), points };
        Plot { name: "sizes", title: "Calls & sizes".into(), x: "bytes", y: "ns", lines: vec![line] }
    }

    #[test]
    fn a_plot_has_its_title_its_axes_and_its_lines() {
        let folder = tempfile::tempdir().unwrap();
        plot(vec![(64.0, 1500.0), (8e6, 2e6)]).draw(folder.path()).unwrap();
        let svg = std::fs::read_to_string(folder.path().join("sizes.svg")).unwrap();
        for part in ["<svg", "Calls &amp; sizes", "bytes", "ns", "ours", "polyline", "</svg>"] {
            assert!(svg.contains(part), "no {part}");
        }
    }

    #[test]
    fn what_cannot_be_drawn_is_an_error() {
        assert!(plot(Vec::new()).svg().is_err());
        assert!(plot(vec![(-1.0, 1.0)]).svg().is_err());
        plot(vec![(0.0, 0.0)]).svg().unwrap();
    }

    #[test]
    fn each_axis_has_numbers_whatever_the_values() {
        for points in [
            vec![(1.0, 2_300.0), (1_000.0, 2_900.0)],
            vec![(0.0, 1_400.0), (50.0, 9_000.0)],
            vec![(64.0, 3_000.0), (8e6, 1.5e8)],
            vec![(1.0, 5.0)],
        ] {
            let svg = plot(points.clone()).svg().unwrap();
            // Those of the axis to the left end at it, those of the axis below are centred.
            for place in ["end", "middle"] {
                let numbers: Vec<_> = svg
                    .split("<text")
                    .skip(1)
                    .filter(|text| text.contains(&format!("text-anchor=\"{place}\"")))
                    .filter_map(|text| text.split_once(">")?.1.split('<').next())
                    .map(str::trim)
                    .filter(|text| text.starts_with(|first: char| first.is_ascii_digit()))
                    .collect();
                assert!(numbers.len() >= 2, "{points:?}, {place}: {numbers:?}");
            }
        }
    }

    #[test]
    fn numbers_on_an_axis_are_short() {
        assert_eq!([64.0, 1500.0, 8e6, 0.5].map(short), ["64", "1.5 k", "8 M", "0.5"]);
    }
}

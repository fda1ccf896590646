//! The case `growth`: how the cost of a call and of a delivery goes with what there is more of, as plots. What has a floor is
//! drawn beside it; a row says how far the worst step up is from what the floor (or, without one, a straight line) does there.

mod calls;
mod flows;

use std::time::Duration;

use anyhow::{Context, Result};

use crate::{
    case::Setup,
    plot::{Line, Plot},
    report::{Goal, Report, Row, Unit},
    stats::Spread,
};

/// How often each point is measured; the median counts.
const TIMES: usize = 3;

/// How much dearer than expected a step up may be. More is a cliff.
const CLIFF: f64 = 1.5;

/// Runs the case.
pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    calls::bodies(setup, report)?;
    calls::headers(setup, report)?;
    flows::steps(setup, report)?;
    flows::flows(setup, report)?;
    flows::plugins(setup, report)?;
    flows::instances(setup, report)
}

/// How long one point is measured each time.
fn moment(setup: &Setup) -> Duration {
    setup.effort.calls / 4
}

/// The median of some measurements of one thing.
fn median(mut measure: impl FnMut() -> Result<f64>) -> Result<f64> {
    let values = (0..TIMES).map(|_| measure()).collect::<Result<Vec<_>>>()?;
    Ok(Spread::of(&values)?.median)
}

/// A line of a plot.
fn line(name: &str, points: &[(f64, f64)]) -> Line {
    Line { name: name.into(), points: points.to_vec() }
}

/// The worst step up: by how much the cost grows more from one point to the next than `expected` does.
fn worst_step(cost: &[(f64, f64)], expected: &[(f64, f64)]) -> Result<f64> {
    let steps = |points: &[(f64, f64)]| -> Vec<f64> {
        points.iter().zip(points.iter().skip(1)).map(|((_, before), (_, after))| after / before).collect()
    };
    let worst =
        steps(cost).iter().zip(steps(expected)).map(|(ours, theirs)| ours / theirs).fold(0.0, f64::max);
    (worst > 0.0).then_some(worst).context("two points at least make a step")
}

/// What a straight line does that has the cost of the first point for what does not grow, and grows with x from there to the
/// last. A cost that grows in a straight line is never above it by much.
fn straight(cost: &[(f64, f64)]) -> Vec<(f64, f64)> {
    let (Some((x0, y0)), Some((x1, y1))) = (cost.first(), cost.last()) else { return Vec::new() };
    let slope = if x1 > x0 { (y1 - y0) / (x1 - x0) } else { 0.0 };
    cost.iter().map(|(x, _)| (*x, y0 + slope * (x - x0))).collect()
}

/// Adds a plot, and a row that says how far the worst step up is from what is expected.
fn add(report: &mut Report, plot: Plot, expected: &[(f64, f64)], cost: &[(f64, f64)]) -> Result<()> {
    let worst = worst_step(cost, expected)?;
    let spread = Spread { median: worst, min: worst, max: worst };
    let row = Row::alone(format!("growth/{}, worst step", plot.name), Unit::Count, spread);
    report.rows.push(row.goal(Goal::AtMost(CLIFF)));
    report.plots.push(plot);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cliff_is_a_step_that_the_floor_does_not_have() {
        let floor = [(1.0, 10.0), (2.0, 20.0), (4.0, 40.0)];
        assert!((worst_step(&[(1.0, 15.0), (2.0, 30.0), (4.0, 60.0)], &floor).unwrap() - 1.0).abs() < 1e-9);
        assert!((worst_step(&[(1.0, 10.0), (2.0, 40.0), (4.0, 80.0)], &floor).unwrap() - 2.0).abs() < 1e-9);
        assert!(worst_step(&[(1.0, 1.0)], &[(1.0, 1.0)]).is_err());
    }

    #[test]
    fn a_straight_line_goes_from_the_first_point_to_the_last() {
        let cost = [(1.0, 3.0), (2.0, 9.0), (5.0, 11.0)];
        assert_eq!(straight(&cost), [(1.0, 3.0), (2.0, 5.0), (5.0, 11.0)]);
        assert_eq!(straight(&[(1.0, 3.0)]), [(1.0, 3.0)]);
    }
}

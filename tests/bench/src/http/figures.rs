//! What rounds of load become in the report.

use anyhow::{Context as _, Result};

use super::server::{Manner, Server, Work};
use crate::{
    case::Setup,
    load::Sample,
    machine::{places, processors},
    report::{Cost, Goal, Report, Resources, Row, Unit},
    stats::Rounds,
};

/// Above this share of its processor the load is what limits a round, and not the server.
const LOAD_IS_THE_LIMIT: f64 = 0.95;

/// Above this share of what is said of the server's latency the load's own lateness is much of it.
const LOAD_IS_LATE: f64 = 0.5;

/// A figure of a sample: its name, its unit, its goal, and how it is read off.
pub(crate) type Figure = (&'static str, Unit, Option<Goal>, fn(&Sample) -> f64);

/// What the servers were asked, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    pub(crate) work: &'a Work,
    pub(crate) manner: Manner,
}

/// A row for each figure.
///
/// # Errors
/// When a round measured nothing.
pub(crate) fn rows(
    report: &mut Report,
    name: &str,
    floor: &'static str,
    measured: &Rounds<Sample>,
    figures: &[Figure],
) -> Result<()> {
    for &(what, unit, goal, figure) in figures {
        let compared = measured.compare(0, figure).with_context(|| format!("{name}/{what}"))?;
        report.rows.push(Row::compared(format!("{name}/{what}"), floor, unit, compared).goal(goal));
    }
    if places().subject.is_none() {
        report.remarks.push(format!(
            "{name}: server and load share {} processor, so each is slowed by the other",
            processors().len()
        ));
    }
    Ok(())
}

/// What a request costs, of the rounds that were measured; how often it asks for memory, of one more round each, for which the
/// servers are restarted.
///
/// # Errors
/// When a server has ended or does not start again, or a round measured nothing.
pub(crate) fn cost(
    setup: &Setup,
    report: &mut Report,
    name: &str,
    (floor, ours): (&mut Server, &mut Server),
    asked: Asked<'_>,
    measured: &Rounds<Sample>,
) -> Result<()> {
    let cpu = measured.compare(0, |sample| sample.cpu_us).context("processor time of the server")?;
    let resources = |cpu_us: f64, server: &mut Server| -> Result<Resources> {
        let peak_mib = Some(server.subject.memory()?.peak_mib);
        let allocations = match &setup.counting {
            Some(counting) => Some(server.allocations(asked.work, asked.manner, counting)?),
            None => None,
        };
        Ok(Resources { cpu_us: Some(cpu_us), allocations, peak_mib })
    };
    report.costs.push(Cost {
        case: name.into(),
        floor: Some(resources(cpu.floor.median, floor)?),
        ours: resources(cpu.ours.median, ours)?,
    });
    Ok(())
}

/// How busy the load was in a closed loop, and whether it was the limit.
///
/// # Errors
/// When a round measured nothing.
pub(crate) fn load_of_closed(report: &mut Report, name: &str, measured: &Rounds<Sample>) -> Result<()> {
    let busy = measured.compare(0, |sample| sample.load_busy)?;
    let mut remark = format!(
        "{name}: the load kept its processor busy for {:.0} % of the time against the floor, {:.0} % against gristmill",
        busy.floor.median * 100.0,
        busy.ours.median * 100.0
    );
    for (who, spread) in [("the floor", busy.floor), ("gristmill", busy.ours)] {
        if spread.max > LOAD_IS_THE_LIMIT {
            remark += &format!("; in some rounds the load was the limit: {who} may be faster than it looks");
        }
    }
    report.remarks.push(remark);
    Ok(())
}

/// How well the load kept its schedule in an open loop, whose latencies include how late it was itself.
///
/// # Errors
/// When a round measured nothing.
pub(crate) fn load_of_open(
    report: &mut Report,
    name: &str,
    per_second: f64,
    measured: &Rounds<Sample>,
) -> Result<()> {
    // A thousandth of a microsecond is nothing, and not zero, which would be no round at all.
    let late = measured.compare(0, |sample| sample.load_late_p999_us.max(1e-3))?;
    let share = measured.compare(0, |sample| sample.load_late_p999_us.max(1e-3) / sample.p999_us)?;
    let mut remark = format!(
        "{name}: {per_second:.0} requests a second; the load itself was late by {:.0} us at p99.9 in the median round, {:.0} us in the worst",
        late.floor.median.max(late.ours.median),
        late.floor.max.max(late.ours.max)
    );
    if share.floor.max.max(share.ours.max) > LOAD_IS_LATE {
        remark += &format!(
            "; in some rounds it could not keep its schedule, and most of p99.9 is its own (of the floor's in the median round {:.0} %, of ours {:.0} %)",
            share.floor.median * 100.0,
            share.ours.median * 100.0
        );
    }
    report.remarks.push(remark);
    Ok(())
}

//! The case `idle`: what the runtime has and uses while there is nothing to do, with some flows of which each has answered one
//! message before.

use std::thread;

use anyhow::Result;

use crate::{
    case::Setup,
    report::{Goal, Report, Row, Unit},
    start::Site,
    stats::Spread,
};

const FLOWS: usize = 10;

/// How many windows it is watched for. The kernel may count processor time in steps of 10 ms, so windows are long.
const WINDOWS: usize = 3;

/// Runs the case.
pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let (subject, _) = Site::new(setup, FLOWS, 1)?.start(setup)?;
    let (mut memory, mut busy) = (Vec::new(), Vec::new());
    for _ in 0..WINDOWS {
        let before = subject.cpu_time()?;
        thread::sleep(setup.effort.idle);
        let used = subject.cpu_time()?.saturating_sub(before);
        busy.push(used.as_secs_f64() / setup.effort.idle.as_secs_f64() * 100.0);
        memory.push(subject.memory()?.now_mib);
    }
    let row = Row::alone("idle/memory", Unit::Mebibytes, Spread::of(&memory)?);
    report.rows.push(row.goal(Goal::AtMost(60.0)));
    let row = Row::alone("idle/processor", Unit::Percent, Spread::of(&busy)?);
    report.rows.push(row.goal(Goal::AtMost(0.5)));
    Ok(())
}

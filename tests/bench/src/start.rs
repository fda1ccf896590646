//! The case `start`: from starting the process until messages are answered, with compiled code in the cache; against a process
//! that does nothing and ends. Once with one flow, and once with very many of them and of plugins.

mod site;

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};

use crate::{
    case::Setup,
    machine::{bound_to, places},
    report::{Goal, Report, Row, Unit},
    stats::{Rounds, alternate},
};

pub(crate) use site::{Site, Start};

/// How many starts of ours with many flows: each is long enough to be steady.
const ROUNDS_OF_MANY: usize = 3;

const FLOWS: usize = 1_000;

const PLUGINS: u16 = 50;

/// What the floor is called.
const EMPTY: &str = "empty process";

/// Runs the case.
pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let one = Site::new(setup, 1, 1)?;
    let measured = rounds(setup, &one, setup.effort.rounds)?;
    let first = measured.compare(0, |start| milliseconds(start.first))?;
    report
        .rows
        .push(Row::compared("start/1-flow", EMPTY, Unit::Milliseconds, first).goal(Goal::AtMost(150.0)));

    let many = Site::new(setup, FLOWS, PLUGINS)?;
    let measured = rounds(setup, &many, ROUNDS_OF_MANY)?;
    let first = measured.compare(0, |start| milliseconds(start.first))?;
    report.rows.push(Row::compared("start/1000-flows, first", EMPTY, Unit::Milliseconds, first));
    let all = measured.compare(0, |start| milliseconds(start.all))?;
    let row = Row::compared("start/1000-flows, all", EMPTY, Unit::Milliseconds, all);
    report.rows.push(row.goal(Goal::AtMost(3_000.0)));
    let row = Row::alone("start/1000-flows, peak", Unit::Mebibytes, measured.ours(|start| start.peak_mib)?);
    report.rows.push(row.goal(Goal::AtMost(400.0)));
    Ok(())
}

fn rounds(setup: &Setup, site: &Site, rounds: usize) -> Result<Rounds<Start>> {
    alternate(rounds, &mut [&mut empty_process], &mut || Ok(site.start(setup)?.1))
}

fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The floor: this program, told to do nothing, until it has ended.
fn empty_process() -> Result<Start> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("do-nothing").stdin(Stdio::null());
    let began = Instant::now();
    let status = bound_to(places().subject, || command.status())??;
    let took = began.elapsed();
    ensure!(status.success(), "a process that does nothing failed: {status}");
    // It has ended before its memory could be looked at; what is compared is time.
    Ok(Start { first: took, all: took, peak_mib: 0.0 })
}

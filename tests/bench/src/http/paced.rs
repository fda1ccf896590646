//! The case `http-paced`: the servers of `http` at a constant rate that both can keep, half of what the slower one does at its
//! peak. What a sender waits for there is not a queue that is always full, but what the server does besides: what it
//! allocates and frees, wakes and moves between threads.

use anyhow::Result;

use super::{
    figures::{self, Asked},
    server::{self, Manner, Server, Work},
};
use crate::{
    case::{Effort, Setup},
    load::Pace,
    report::{Goal, Report, Unit},
};

/// To find the peak.
const CONNECTIONS: usize = 32;

/// More than are needed as long as the server does not stand still for some milliseconds.
pub(crate) const OPEN_CONNECTIONS: usize = 64;

/// Runs the case.
pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let Effort { rounds, requests: round, .. } = setup.effort;
    let work = Work::rename()?;
    let (mut floor, mut ours) = (super::axum()?, super::gristmill(setup)?);
    let closed = Manner { connections: CONNECTIONS, pace: Pace::Answers, round };
    let peak_of = |server: &Server| -> Result<f64> {
        // What warms it up.
        server.round(&work, closed)?;
        Ok(server.round(&work, closed)?.per_second)
    };
    let rate = peak_of(&floor)?.min(peak_of(&ours)?) / 2.0;
    let open = Manner { connections: OPEN_CONNECTIONS, pace: Pace::PerSecond(rate), round };
    let measured = server::compare(&floor, &ours, &work, open, rounds)?;
    figures::rows(
        report,
        "http-paced",
        "axum",
        &measured,
        &[
            ("p50", Unit::Microseconds, None, |sample| sample.p50_us),
            ("p99", Unit::Microseconds, None, |sample| sample.p99_us),
            ("p99.9", Unit::Microseconds, Some(Goal::RatioAtMost(2.0)), |sample| sample.p999_us),
        ],
    )?;
    figures::load_of_open(report, "http-paced", rate, &measured)?;
    let asked = Asked { work: &work, manner: open };
    figures::cost(setup, report, "http-paced", (&mut floor, &mut ours), asked, &measured)
}

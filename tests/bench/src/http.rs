//! The case `http`: a request with a JSON body goes through a flow with one plugin and comes back, in the real binary;
//! against an axum server that does the same natively. Both are processes of their own, bound to one processor; the load is
//! made in this process, bound to another one, by as many connections as there are, each sending its next request when
//! it has the answer to the last. Every answer is compared with the right one.

mod floor;
mod load;
mod subject;

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bench_rename::rename;

use self::{
    load::{Plan, Sample, closed_loop},
    subject::Subject,
};
use crate::{
    case::{Effort, Setup},
    machine::{places, processors},
    report::{Goal, Report, Row, Unit},
    sample,
    stats::alternate,
};

pub(crate) use floor::serve as serve_floor;

const BODY_BYTES: usize = 1024;

const CONNECTIONS: usize = 32;

/// Where both servers take requests.
const PATH: &str = "/orders";

/// Above this share of its processor the load is what limits a round, and not the server.
const LOAD_IS_THE_LIMIT: f64 = 0.95;

/// A figure of a sample: its name, its unit, its goal, and how it is read off.
type Figure = (&'static str, Unit, Option<Goal>, fn(&Sample) -> f64);

/// Runs the case.
pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let Effort { rounds, requests: round, .. } = setup.effort;
    let body = sample::order(BODY_BYTES);
    let expected = rename(body.as_bytes())?;
    let plan = |address: SocketAddr| {
        Plan {
        address,
        request: format!(
            "POST {PATH} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        )
        .into_bytes(),
        expected: expected.clone(),
        connections: CONNECTIONS,
        round,
    }
    };
    let floor = Subject::axum()?;
    let ours = Subject::gristmill(&setup.gristmill, &setup.plugins)?;
    let measured = {
        let round_of = |subject: &Subject| {
            let plan = plan(subject.address());
            let process = subject.process();
            move || closed_loop(&plan, process)
        };
        for (name, subject) in [("the floor", &floor), ("gristmill", &ours)] {
            // Also what warms it up.
            round_of(subject)()
                .with_context(|| format!("{name}; its log ends with:\n{}", subject.log_tail()))?;
        }
        alternate(rounds, &mut [&mut round_of(&floor)], &mut round_of(&ours))
            .with_context(|| format!("gristmill's log ends with:\n{}", ours.log_tail()))?
    };
    let figures: [Figure; 4] = [
        ("rate", Unit::PerSecond, Some(Goal::AtLeast(0.8)), |sample| sample.per_second),
        ("p50", Unit::Microseconds, None, |sample| sample.p50_us),
        ("p99", Unit::Microseconds, Some(Goal::AtMost(1.3)), |sample| sample.p99_us),
        ("cpu", Unit::Microseconds, None, |sample| sample.cpu_us),
    ];
    for (what, unit, goal, figure) in figures {
        report.rows.push(Row {
            case: format!("http/{what}"),
            floor: "axum",
            unit,
            goal,
            compared: measured.compare(0, figure)?,
        });
    }
    let busy = measured.compare(0, |sample| sample.load_busy)?;
    report.remarks.push(format!(
        "http: the load kept its processor busy for {:.0} % of the time against axum, {:.0} % against gristmill",
        busy.floor.median * 100.0,
        busy.ours.median * 100.0
    ));
    if busy.floor.max > LOAD_IS_THE_LIMIT {
        report
            .remarks
            .push("http: in some rounds the load was the limit: axum may be faster than it looks".into());
    }
    if places().subject.is_none() {
        report.remarks.push(format!(
            "http: server and load share {} processor, so each is slowed by the other",
            processors().len()
        ));
    }
    Ok(())
}

//! The case `http`: a request with a JSON body goes through a flow with one plugin and comes back, in the real binary;
//! against an axum server that does the same natively. Both are processes of their own, bound to one processor; the load is
//! made in this process, bound to another one, by as many connections as there are, each sending its next request when
//! it has the answer to the last. Every answer is compared with the right one.

mod floor;
mod load;

use std::net::SocketAddr;

use anyhow::{Context, Result};
use bench_rename::rename;

use self::load::{Plan, Sample, closed_loop};
use crate::{
    case::{Effort, Setup},
    machine::{places, processors},
    report::{Cost, Goal, Report, Resources, Row, Unit},
    sample,
    stats::alternate,
    subject::{Subject, free_address},
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
    let (floor, floors_address) = axum()?;
    let (ours, our_address) = gristmill(setup)?;
    let measured = {
        let round_of = |subject: &Subject, address| {
            let plan = plan(address);
            let process = subject.process();
            move || closed_loop(&plan, process)
        };
        for (name, subject, address) in
            [("the floor", &floor, floors_address), ("gristmill", &ours, our_address)]
        {
            // Also what warms it up.
            round_of(subject, address)()
                .with_context(|| format!("{name}; its log ends with:\n{}", subject.log_tail()))?;
        }
        alternate(rounds, &mut [&mut round_of(&floor, floors_address)], &mut round_of(&ours, our_address))
            .with_context(|| format!("gristmill's log ends with:\n{}", ours.log_tail()))?
    };
    let figures: [Figure; 4] = [
        ("rate", Unit::PerSecond, Some(Goal::RatioAtLeast(0.8)), |sample| sample.per_second),
        ("p50", Unit::Microseconds, None, |sample| sample.p50_us),
        ("p99", Unit::Microseconds, Some(Goal::RatioAtMost(1.3)), |sample| sample.p99_us),
        ("cpu", Unit::Microseconds, None, |sample| sample.cpu_us),
    ];
    for (what, unit, goal, figure) in figures {
        let compared = measured.compare(0, figure)?;
        report.rows.push(Row::compared(format!("http/{what}"), "axum", unit, compared).goal(goal));
    }
    let cpu = measured.compare(0, |sample| sample.cpu_us)?;
    let resources = |cpu_us: f64, subject: &Subject| -> Result<Resources> {
        let peak_mib = Some(subject.memory()?.peak_mib);
        Ok(Resources { cpu_us: Some(cpu_us), peak_mib, ..Resources::default() })
    };
    report.costs.push(Cost {
        case: "http".into(),
        floor: Some(resources(cpu.floor.median, &floor)?),
        ours: resources(cpu.ours.median, &ours)?,
    });
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

/// The floor, and where it listens.
fn axum() -> Result<(Subject, SocketAddr)> {
    let address = free_address()?;
    let mut subject = Subject::floor(["serve-floor", &address.to_string()])?;
    subject.until_it_listens(address)?;
    Ok((subject, address))
}

/// The real binary with one flow, and where that listens: rename in a plugin, answer with what comes out.
fn gristmill(setup: &Setup) -> Result<(Subject, SocketAddr)> {
    let address = free_address()?;
    let flow = format!(
        r#"flow: orders
source:
  http: {{ listen: "{address}", path: {PATH}, methods: [POST] }}
steps:
  - transform: {{ plugin: bench-rename }}
  - reply:
      headers: {{ content-type: application/json }}
      body: {{ expression: message.text }}
"#
    );
    let mut subject = Subject::gristmill(setup, &[("orders.yaml", &flow)])?;
    subject.until_it_listens(address)?;
    Ok((subject, address))
}

//! The case `http`: a request with a JSON body goes through a flow with one plugin and comes back, in the real binary;
//! against an axum server that does the same natively. Both are processes of their own, bound to one processor; the load is
//! made in this process, bound to another one, by as many connections as there are, each sending its next request when
//! it has the answer to the last. Every answer is compared with the right one.

pub(crate) mod figures;
mod floor;
pub(crate) mod paced;
pub(crate) mod server;

use std::net::SocketAddr;

use anyhow::Result;

use self::{
    figures::Asked,
    server::{Manner, Server, Work},
};
use crate::{
    case::{Effort, Setup},
    load::Pace,
    report::{Goal, Report, Unit},
};

pub(crate) use floor::{serve as serve_floor, serve_routes};
pub(crate) use paced::OPEN_CONNECTIONS;
pub(crate) use server::PATH;

/// How many connections at once: one after the other.
const CONNECTIONS: [usize; 2] = [32, 64];

/// Runs the case.
pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let Effort { rounds, requests: round, .. } = setup.effort;
    let work = Work::rename()?;
    for connections in CONNECTIONS {
        let name = format!("http-{connections}");
        let (mut floor, mut ours) = (axum()?, gristmill(setup)?);
        let manner = Manner { connections, pace: Pace::Answers, round };
        let measured = server::compare(&floor, &ours, &work, manner, rounds)?;
        figures::rows(
            report,
            &name,
            "axum",
            &measured,
            &[
                ("rate", Unit::PerSecond, Some(Goal::RatioAtLeast(0.8)), |sample| sample.per_second),
                ("p50", Unit::Microseconds, None, |sample| sample.p50_us),
                ("p99", Unit::Microseconds, Some(Goal::RatioAtMost(1.3)), |sample| sample.p99_us),
                ("cpu", Unit::Microseconds, None, |sample| sample.cpu_us),
            ],
        )?;
        figures::load_of_closed(report, &name, &measured)?;
        let asked = Asked { work: &work, manner };
        figures::cost(setup, report, &name, (&mut floor, &mut ours), asked, &measured)?;
    }
    Ok(())
}

/// The floor.
fn axum() -> Result<Server> {
    Server::floor("serve-floor", &[])
}

/// The real binary.
pub(crate) fn gristmill(setup: &Setup) -> Result<Server> {
    Server::gristmill(setup, flow)
}

/// Rename in a plugin, answer with what comes out.
pub(crate) fn flow(address: SocketAddr) -> String {
    flow_of("orders", address, PATH, "bench-rename")
}

/// The same with another id, path or plugin.
pub(crate) fn flow_of(id: &str, address: SocketAddr, path: &str, plugin: &str) -> String {
    format!(
        r#"flow: {id}
source:
  http: {{ listen: "{address}", path: {path}, methods: [POST] }}
steps:
  - transform: {{ plugin: {plugin} }}
  - reply:
      headers: {{ content-type: application/json }}
      body: {{ expression: message.text }}
"#
    )
}

//! The case `gateway`: a request comes in over HTTP and is sent on over HTTP by `call`, and the answer goes back; against a
//! forwarder of axum and hyper's client. Both keep their connections to one and the same upstream, a process that answers with
//! what it was sent and works on the load's processor.

mod floor;

use anyhow::Result;

use crate::{
    case::{Effort, Setup},
    http::{
        PATH,
        figures::{self, Asked},
        server::{self, Manner, Server, Work},
    },
    load::Pace,
    report::{Goal, Report, Unit},
    subject::{Subject, free_address},
};

pub(crate) use floor::{serve_echo, serve_forwarder};

const CONNECTIONS: usize = 32;

/// Runs the case.
pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    let Effort { rounds, requests: round, .. } = setup.effort;
    let work = Work::echo();
    let upstream = free_address()?.to_string();
    let mut echo = Subject::helper(["serve-echo", &upstream])?;
    echo.until_it_listens(upstream.parse()?)?;
    let mut floor = Server::floor("serve-forwarder", &[&upstream])?;
    let mut ours = Server::gristmill(setup, |address| {
        format!(
            r#"flow: gateway
source:
  http: {{ listen: "{address}", path: {PATH}, methods: [POST] }}
steps:
  - call: {{ http: {{ url: "http://{upstream}{PATH}" }} }}
  - reply:
      headers: {{ content-type: application/json }}
      body: {{ expression: message.text }}
"#
        )
    })?;
    floor.helper = Some(echo.process());
    ours.helper = Some(echo.process());
    let manner = Manner { connections: CONNECTIONS, pace: Pace::Answers, round };
    let measured = server::compare(&floor, &ours, &work, manner, rounds)?;
    figures::rows(
        report,
        "gateway",
        "axum and hyper",
        &measured,
        &[
            ("rate", Unit::PerSecond, Some(Goal::RatioAtLeast(0.8)), |sample| sample.per_second),
            ("p50", Unit::Microseconds, None, |sample| sample.p50_us),
            ("p99", Unit::Microseconds, None, |sample| sample.p99_us),
            ("cpu", Unit::Microseconds, None, |sample| sample.cpu_us),
        ],
    )?;
    figures::load_of_closed(report, "gateway", &measured)?;
    let asked = Asked { work: &work, manner };
    figures::cost(setup, report, "gateway", (&mut floor, &mut ours), asked, &measured)
}

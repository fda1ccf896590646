//! The case `amqp`: persistent messages go from one durable queue through a plugin to another, in the real binary; against a
//! bare forwarder on the same client library, with the same prefetch and with publisher confirms, each awaited before the
//! message is acknowledged. Both are processes of their own, bound to one processor; the broker is bound to the other.

pub(crate) mod forwarder;
pub(crate) mod load;

use anyhow::Result;
use gristmill_brokers::rabbitmq::RabbitMq;

use self::load::Queues;
use crate::{
    case::Setup,
    forwarding::{self, IN_FLIGHT, Side},
    machine::{bound_to, note_grandchildren, places},
    report::Report,
};

/// Runs the case.
pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    bound_to(places().load, || measure(setup, report))?
}

fn measure(setup: &Setup, report: &mut Report) -> Result<()> {
    let broker = RabbitMq::start();
    let url = broker.url();
    let mut queues = Queues::connect(&url)?;
    for side in [Side::Floor, Side::Ours] {
        queues.declare(side.source())?;
        queues.declare(side.sink())?;
    }
    let mut floor = forwarding::floor("amqp", &url, &setup.plugins)?;
    let mut ours = forwarding::ours(setup, &flow(), &connections(&url))?;
    forwarding::measure(
        "amqp",
        "a forwarder on lapin, bare Wasm calls",
        (setup, report),
        (&mut floor, &mut ours),
        &mut queues,
    )?;
    note_grandchildren()
}

/// The connection, as users write it.
pub(crate) fn connections(url: &str) -> String {
    format!("connections:\n  rabbit:\n    amqp: {{ urls: [\"{url}\"] }}\n")
}

fn flow() -> String {
    format!(
        "flow: forward
source:
  amqp: {{ connection: rabbit, queue: {} }}
steps:
  - transform: {{ plugin: bench-rename }}
  - send:
      amqp: {{ connection: rabbit, routing_key: {} }}
on_reject: discard
limits: {{ in_flight: {IN_FLIGHT} }}
",
        Side::Ours.source(),
        Side::Ours.sink()
    )
}

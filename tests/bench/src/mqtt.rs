//! The case `mqtt`: messages with QoS 1 go from one topic through a plugin to another, in the real binary; against a bare
//! forwarder on the same client library, which acknowledges in order, each message once the broker has acknowledged its
//! successor. Both are processes of their own, bound to one processor; the broker is bound to the other.

pub(crate) mod forwarder;
pub(crate) mod load;

use anyhow::Result;
use gristmill_brokers::mosquitto::{Mosquitto, MosquittoOptions};

use self::load::Topics;
use crate::{
    case::Setup,
    forwarding::{self, IN_FLIGHT, Side},
    machine::{bound_to, places},
    report::Report,
};

/// Runs the case.
pub(crate) fn run(setup: &Setup, report: &mut Report) -> Result<()> {
    bound_to(places().load, || measure(setup, report))?
}

fn measure(setup: &Setup, report: &mut Report) -> Result<()> {
    let broker = Mosquitto::with(&MosquittoOptions {
        lines: vec![
            // Else it sends 20 and waits, whatever its clients take.
            format!("max_inflight_messages {IN_FLIGHT}"),
            // A line of its log for each packet is more work than the packet.
            "log_type none".to_owned(),
            "log_type error".to_owned(),
        ],
        ..MosquittoOptions::default()
    });
    let mut topics = Topics::connect(broker.address())?;
    let mut floor = forwarding::floor("mqtt", &broker.url(), &setup.plugins)?;
    let mut ours = forwarding::ours(setup, &flow(), &connections(&broker.url()))?;
    forwarding::measure(
        "mqtt",
        "a forwarder on rumqttc, bare Wasm calls",
        (setup, report),
        (&mut floor, &mut ours),
        &mut topics,
    )
}

fn connections(url: &str) -> String {
    format!("connections:\n  mosquitto:\n    mqtt: {{ url: \"{url}\", client_id: bench }}\n")
}

fn flow() -> String {
    format!(
        "flow: forward
source:
  mqtt: {{ connection: mosquitto, topics: [{}] }}
steps:
  - transform: {{ plugin: bench-rename }}
  - send:
      mqtt: {{ connection: mosquitto, topic: {} }}
on_reject: discard
limits: {{ in_flight: {IN_FLIGHT} }}
",
        Side::Ours.source(),
        Side::Ours.sink()
    )
}

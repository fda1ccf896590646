//! What one scenario is: its ends, its seed, and what follows from the seed; and the files of the runtime that follow from
//! that.

use std::{fmt::Write, net::SocketAddr, time::Duration};

use crate::{
    dice::Dice,
    endpoint::{
        Kind,
        file::{Taken, Written},
    },
};

/// The most unsettled deliveries of the flow under test.
pub const IN_FLIGHT: u64 = 64;

/// A scenario.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spec {
    /// Where messages come in.
    pub source: Kind,
    /// Where they go out: one sink, or two that both get each message.
    pub sinks: Vec<Kind>,
    /// All chance comes from it.
    pub seed: u64,
    /// How long faults are begun.
    pub lasts: Duration,
    /// Messages a second.
    pub rate: u64,
    /// Only what repeats nothing happens: reloads, SIGTERM, slow plugins, jumps of the clock.
    pub calm: bool,
}

/// What the seed decides about the flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// `order: strict`.
    pub strict: bool,
    /// Whether what fails for long becomes a dead letter, or is released.
    pub dead_letters: bool,
    /// How a file source takes what is written.
    pub taken: Taken,
    /// How a file sink writes.
    pub written: Written,
    /// Whether an AMQP sink publishes as mandatory.
    pub mandatory: bool,
    /// QoS of an MQTT sink.
    pub qos: u8,
    /// QoS of an MQTT source, and of what is published to it.
    pub source_qos: u8,
    /// Whether MQTT is spoken as 3.1.1.
    pub old_mqtt: bool,
}

/// The addresses that a flow needs.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// Of the admin listener.
    pub admin: SocketAddr,
    /// Where an HTTP source listens.
    pub listen: SocketAddr,
    /// Where the source's broker is, by way of its proxy.
    pub source: Option<SocketAddr>,
    /// Where the sinks' brokers and servers are, by way of their proxies.
    pub sinks: Vec<Option<SocketAddr>>,
}

impl Spec {
    /// `amqp:file`, `http:amqp+file`.
    pub fn pair(&self) -> String {
        let sinks: Vec<String> = self.sinks.iter().map(ToString::to_string).collect();
        format!("{}:{}", self.source, sinks.join("+"))
    }

    /// What the seed decides about the flow.
    pub fn variant(&self) -> Variant {
        let mut dice = Dice::new(self.seed).branch(&self.pair()).branch("variant");
        Variant {
            strict: self.source.is_ordered() && dice.chance(50),
            dead_letters: dice.chance(50),
            written: if dice.chance(70) { Written::Lines } else { Written::Files },
            mandatory: dice.chance(30),
            qos: if dice.chance(70) { 1 } else { 2 },
            old_mqtt: dice.chance(25),
            taken: match dice.below(6) {
                0 | 1 => Taken::Lines,
                2 => Taken::Whole,
                3 => Taken::FollowedWide,
                _ => Taken::Followed,
            },
            source_qos: if dice.chance(50) { 1 } else { 2 },
        }
    }

    /// What the seed decided, in words, as far as it concerns the ends of this scenario.
    pub fn words(&self) -> Vec<&'static str> {
        let variant = self.variant();
        let taken = match variant.taken {
            Taken::Lines => "lines-in",
            Taken::Whole => "whole-in",
            Taken::Followed => "follow",
            Taken::FollowedWide => "follow-wide",
        };
        let written = match variant.written {
            Written::Lines => "lines-out",
            Written::Files => "files-out",
        };
        let sinks = |kind| self.sinks.contains(&kind);
        let words = [
            (variant.strict, "strict"),
            (self.source == Kind::File, taken),
            (self.source == Kind::Mqtt && variant.source_qos == 2, "qos2-in"),
            (sinks(Kind::File), written),
            (sinks(Kind::Mqtt) && variant.qos == 2, "qos2-out"),
            (self.has(Kind::Mqtt) && variant.old_mqtt, "mqtt-3.1.1"),
        ];
        words.into_iter().filter(|(is_so, _)| *is_so).map(|(_, word)| word).collect()
    }

    /// Whether this kind is one of the ends.
    pub fn has(&self, kind: Kind) -> bool {
        self.source == kind || self.sinks.contains(&kind)
    }

    /// The name of a queue, a topic or a session that no other scenario has.
    pub fn name(&self, end: &str) -> String {
        format!("{end}-{}-{:016x}", self.pair().replace([':', '+'], "-"), self.seed)
    }

    /// `gristmill.yaml`. `edition` changes the settings of connections, but nothing that matters here.
    pub fn configuration(&self, addresses: &Addresses, edition: u64) -> String {
        let mut text = format!(
            "admin: {{ listen: {} }}\nlog: {{ level: info, format: json }}\nwatch: {{ debounce_ms: 20, poll_ms: 200 }}\n\
             connections:\n",
            addresses.admin
        );
        let ends = [("source".to_owned(), self.source, addresses.source)].into_iter().chain(
            self.sinks
                .iter()
                .zip(&addresses.sinks)
                .enumerate()
                .map(|(at, (kind, address))| (format!("sink{at}"), *kind, *address)),
        );
        let mut any = false;
        for (name, kind, address) in ends {
            let Some(address) = address else { continue };
            let wait = 200 + edition % 2;
            let settings = match kind {
                Kind::Amqp => format!(
                    "amqp: {{ urls: [\"amqp://{address}\"], heartbeat_ms: 2000, connect_timeout_ms: 3000, \
                     reconnect: {{ initial_delay_ms: 20, max_delay_ms: {wait} }} }}"
                ),
                Kind::Mqtt => format!(
                    "mqtt: {{ url: \"mqtt://{address}\", client_id: {}, version: {}, keep_alive_s: 2, \
                     connect_timeout_ms: 3000, reconnect: {{ initial_delay_ms: 20, max_delay_ms: {wait} }} }}",
                    self.name(&name),
                    if self.variant().old_mqtt { "\"3.1.1\"" } else { "5" },
                ),
                Kind::Http | Kind::File => continue,
            };
            any = true;
            // Writing to a text cannot fail.
            let _written = writeln!(text, "  {name}:\n    {settings}");
        }
        if any { text } else { text.replace("connections:\n", "") }
    }

    /// The flow. `edition` makes another version of it that does the same.
    pub fn flow(&self, addresses: &Addresses, edition: u64) -> String {
        let variant = self.variant();
        let source = match self.source {
            Kind::Http => {
                format!("http: {{ listen: \"{}\", path: /in, answer_timeout_ms: 20000 }}", addresses.listen)
            }
            Kind::File => format!("file: {{ {} }}", variant.taken.settings()),
            Kind::Amqp => format!("amqp: {{ connection: source, queue: {} }}", self.name("in")),
            Kind::Mqtt => format!(
                "mqtt: {{ connection: source, topics: [{}], qos: {} }}",
                self.name("in"),
                variant.source_qos
            ),
        };
        let sends: Vec<String> =
            (0..).zip(&self.sinks).map(|(at, kind)| self.send(at, *kind, addresses)).collect();
        let steps = match sends.as_slice() {
            [left, right] => format!(
                "  - route:\n      plugin: both\n      branches:\n        left:\n          - {left}\n        right:\n          - {right}\n"
            ),
            sends => sends.iter().map(|send| format!("  - {send}\n")).collect(),
        };
        let letter = "{ dead_letter: { file: { directory: dead } } }";
        let (attempts, then) = if variant.dead_letters { (4, letter) } else { (3, "{ release: {} }") };
        let retry =
            format!("{{ max_attempts: {attempts}, initial_delay_ms: 30, multiplier: 2, max_delay_ms: 400 }}");
        // Where nothing may come twice, nothing is interrupted.
        let drain_ms = if self.calm { 30_000 } else { 2_000 };
        let strict = if variant.strict { "order: strict\n" } else { "" };
        format!(
            "flow: bench\ndescription: \"edition {edition}\"\n{strict}\
             limits: {{ in_flight: {IN_FLIGHT}, release_delay_ms: 100, drain_ms: {drain_ms} }}\n\
             source:\n  {source}\n\
             steps:\n  - transform: {{ plugin: mark, limits: {{ deadline_ms: 300, quarantine_ms: 100 }} }}\n{steps}\
             on_error:\n\
             \x20 - match: [plugin_trap, plugin_timeout, plugin_memory, plugin_malformed]\n    retry: {retry}\n    then: {then}\n\
             \x20 - match: [sink_unavailable, timeout]\n    retry: {retry}\n    then: {then}\n\
             \x20 - match: [any]\n    then: {letter}\n"
        )
    }

    fn send(&self, at: usize, kind: Kind, addresses: &Addresses) -> String {
        let variant = self.variant();
        let address = addresses.sinks.get(at).copied().flatten();
        match kind {
            Kind::Http => {
                let address = address.map(|address| address.to_string()).unwrap_or_default();
                format!("send: {{ http: {{ url: \"http://{address}/out\", timeout_ms: 4000 }} }}")
            }
            Kind::File => {
                let mode = match variant.written {
                    Written::Lines => "name: all, mode: { append: {} }",
                    Written::Files => "mode: { one_file: { if_exists: number } }",
                };
                format!("send: {{ file: {{ directory: little/out{at}, {mode} }} }}")
            }
            Kind::Amqp => format!(
                "send: {{ amqp: {{ connection: sink{at}, routing_key: {}, mandatory: {}, timeout_ms: 6000 }} }}",
                self.name(&format!("out{at}")),
                variant.mandatory,
            ),
            Kind::Mqtt => format!(
                "send: {{ mqtt: {{ connection: sink{at}, topic: {}, qos: {}, timeout_ms: 6000 }} }}",
                self.name(&format!("out{at}")),
                variant.qos,
            ),
        }
    }
}

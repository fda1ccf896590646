//! What stands under `mqtt:` in a flow file and in the runtime's configuration, as it was written. The doc comments are what
//! editors show and what `docs/adapters/mqtt.md` explains at length; what a schema cannot say (a URL, a topic filter) is
//! checked one stage later, in `connection.rs`, `source/spec.rs` and `sink/spec.rs`.

use std::collections::BTreeMap;

use gristmill_core::config::Secret;
use gristmill_tls::ClientTlsConfig;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;

/// The longest time that any timeout of this adapter can be set to: an hour.
const MAX_TIMEOUT_MS: u64 = 3_600_000;

/// A broker, and how its clients make themselves known.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConnectionConfig {
    /// The broker: `mqtt://broker.example.com:1883`, or `mqtts://broker.example.com:8883` for TLS.
    pub(crate) url: String,
    /// The version of the protocol: `5`, or `3.1.1` for brokers that know no better.
    #[serde(default)]
    #[schemars(schema_with = "version_schema")]
    pub(crate) version: VersionConfig,
    /// The beginning of the ids of its clients, at the broker known by no one else. A source is `<client_id>-<flow>`, what the
    /// sinks share is `<client_id>-sinks-` and eight digits that differ with each start.
    #[schemars(length(min = 1, max = 200))]
    pub(crate) client_id: String,
    /// The user name.
    #[serde(default)]
    #[schemars(length(min = 1, max = 65_535))]
    pub(crate) username: Option<String>,
    /// The password: `${env:MQTT_PASSWORD}` or `${file:path}`.
    #[serde(default)]
    pub(crate) password: Option<Secret>,
    /// How the broker is known, and how this side makes itself known to it, when the system's certificates will not do.
    #[serde(default)]
    pub(crate) tls: Option<ClientTlsConfig>,
    /// After how many seconds of silence the other side is asked whether it is there. Without an answer within the same time
    /// the connection counts as lost.
    #[serde(default = "default_keep_alive_s")]
    #[schemars(range(min = 1, max = 65_535))]
    pub(crate) keep_alive_s: u16,
    /// What the broker publishes when a client is lost without a good-bye. Each client of the connection has it.
    #[serde(default)]
    pub(crate) will: Option<WillConfig>,
    /// Whether a source begins without what the broker kept for it. Then what was sent while it was away is lost.
    #[serde(default)]
    pub(crate) clean_start: bool,
    /// How many seconds the broker keeps the session of a source that is away, with version 5. With 3.1.1 the broker decides.
    #[serde(default = "default_session_expiry_s")]
    #[schemars(range(min = 0, max = 4_294_967_295_u64))]
    pub(crate) session_expiry_s: u32,
    /// How many messages with quality of service 1 or 2 the broker may send to a source before it has acknowledgements. Left
    /// out: `limits.in_flight` of the flow.
    #[serde(default)]
    #[schemars(range(min = 1, max = 65_535))]
    pub(crate) receive_maximum: Option<u16>,
    /// How long connecting may take in all, in milliseconds: name, TCP, TLS and the broker's answer.
    #[serde(default = "default_connect_timeout_ms")]
    #[schemars(range(min = 1, max = MAX_TIMEOUT_MS))]
    pub(crate) connect_timeout_ms: u64,
    /// How long to wait between attempts to connect. There is no last attempt.
    #[serde(default)]
    pub(crate) reconnect: ReconnectConfig,
}

/// The version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(untagged)]
pub(crate) enum VersionConfig {
    /// 5.0.
    Number(u8),
    /// 3.1.1.
    Text(VersionText),
}

/// The version that is no number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(crate) enum VersionText {
    /// 3.1.1.
    #[serde(rename = "3.1.1")]
    V311,
}

/// The version of the protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    /// 5.0.
    V5,
    /// 3.1.1.
    V311,
}

/// What the broker publishes when a client is lost.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct WillConfig {
    /// The topic.
    pub(crate) topic: String,
    /// The body.
    #[serde(default)]
    #[schemars(length(max = 65_535))]
    pub(crate) payload: String,
    /// The quality of service.
    #[serde(default)]
    #[schemars(range(min = 0, max = 2))]
    pub(crate) qos: u8,
    /// Whether the broker keeps it for those who subscribe later.
    #[serde(default)]
    pub(crate) retain: bool,
}

/// How long to wait between attempts: twice as long each time, with a little chance, up to a limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ReconnectConfig {
    /// Before the first one, in milliseconds.
    #[schemars(range(min = 1, max = MAX_TIMEOUT_MS))]
    pub(crate) initial_delay_ms: u64,
    /// The longest wait, in milliseconds.
    #[schemars(range(min = 1, max = MAX_TIMEOUT_MS))]
    pub(crate) max_delay_ms: u64,
}

/// Takes messages from topics, and acknowledges each when the flow has settled it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceConfig {
    /// The connection, as `connections:` in the runtime's configuration names it.
    pub(crate) connection: String,
    /// Topic filters: `plant/+/temperature`, `plant/#`; shared with other clients: `$share/group/plant/#`.
    #[schemars(length(min = 1, max = 1_000))]
    pub(crate) topics: Vec<String>,
    /// The quality of service that is asked for. 0: messages can be lost; 1 and 2: none is, and it is kept while the runtime
    /// is away.
    #[serde(default = "default_qos")]
    #[schemars(range(min = 0, max = 2))]
    pub(crate) qos: u8,
    /// When the broker sends what it has retained on these topics. Only version 5 knows others than `on_subscribe`.
    #[serde(default)]
    pub(crate) retained: Retained,
    /// The id by which the broker knows this source. Left out: `<client_id of the connection>-<flow>`.
    #[serde(default)]
    #[schemars(length(min = 1, max = 65_535))]
    pub(crate) client_id: Option<String>,
    /// How many messages with quality of service 0 may wait for the flow; what comes on top is dropped and counted.
    #[serde(default = "default_buffer_messages")]
    #[schemars(range(min = 1, max = 1_000_000))]
    pub(crate) buffer_messages: usize,
}

/// When the broker sends what it has retained (MQTT 5.0, section 3.8.3.1).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Retained {
    /// With each subscription: also after a connection whose session the broker has lost.
    #[default]
    OnSubscribe,
    /// Only if there was no such subscription before.
    OnNewSubscribe,
    /// Never.
    Never,
}

/// Publishes messages: with `send` the broker's acknowledgement is the confirmation, with `call` the answer on a response
/// topic becomes the message.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SinkConfig {
    /// The connection, as `connections:` in the runtime's configuration names it.
    pub(crate) connection: String,
    /// The topic: `plant/${headers.line}/commands`. A message for which it would hold a wildcard, or break another rule of
    /// topics, is refused.
    pub(crate) topic: String,
    /// The quality of service. With 0 nothing confirms that the broker has the message.
    #[serde(default = "default_qos")]
    #[schemars(range(min = 0, max = 2))]
    pub(crate) qos: u8,
    /// Whether the broker keeps the message for those who subscribe later.
    #[serde(default)]
    pub(crate) retain: bool,
    /// After how many seconds the broker drops the message for those it could not reach. Version 5.
    #[serde(default)]
    #[schemars(range(min = 1, max = 4_294_967_295_u64))]
    pub(crate) message_expiry_s: Option<u32>,
    /// The content type. Left out: that of the message. Version 5.
    #[serde(default)]
    pub(crate) content_type: Option<String>,
    /// The topic to which a receiver shall answer. Version 5; `call` has its own.
    #[serde(default)]
    pub(crate) response_topic: Option<String>,
    /// Whether the correlation data with which the message came is sent along, so that it can be the answer to a request.
    #[serde(default)]
    pub(crate) forward_correlation: bool,
    /// User properties to send, by name; the values may hold `${…}`. Version 5.
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub(crate) user_properties: BTreeMap<String, String>,
    /// Headers of the message that are sent along as user properties when it has them: names, `order-*` for all that begin so,
    /// or `*` for all. Version 5.
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub(crate) forward_headers: Vec<String>,
    /// How long one attempt may take in all, the answer to a `call` included, in milliseconds.
    #[serde(default = "default_timeout_ms")]
    #[schemars(range(min = 1, max = MAX_TIMEOUT_MS))]
    pub(crate) timeout_ms: u64,
}

/// A number and a word in one list, so that who writes another one is told of both.
fn version_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"enum": [5, "3.1.1"]})
}

fn default_keep_alive_s() -> u16 {
    30
}

fn default_session_expiry_s() -> u32 {
    7 * 24 * 3_600
}

fn default_connect_timeout_ms() -> u64 {
    10_000
}

fn default_qos() -> u8 {
    1
}

fn default_buffer_messages() -> usize {
    1_000
}

fn default_timeout_ms() -> u64 {
    30_000
}

// === impl VersionConfig ===

impl Default for VersionConfig {
    fn default() -> Self {
        Self::Number(5)
    }
}

impl VersionConfig {
    pub(crate) fn get(self) -> Version {
        match self {
            Self::Number(_) => Version::V5,
            Self::Text(VersionText::V311) => Version::V311,
        }
    }
}

// === impl ReconnectConfig ===

impl Default for ReconnectConfig {
    fn default() -> Self {
        Self { initial_delay_ms: 100, max_delay_ms: 30_000 }
    }
}

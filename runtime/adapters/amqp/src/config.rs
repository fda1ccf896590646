//! What stands under `amqp:` in a flow file and in the runtime's configuration, as it was written. The doc comments are what
//! editors show and what `docs/adapters/amqp.md` explains at length; what a schema cannot say (a URL, arguments that do not
//! fit each other) is checked one stage later, in `connection/spec.rs`, `source/spec.rs` and `sink/spec.rs`.

use std::collections::BTreeMap;

use gristmill_core::{config::Secret, message::CONTENT_TYPE};
use gristmill_tls::ClientTlsConfig;
use schemars::JsonSchema;
use serde::Deserialize;

/// The longest time that any timeout of this adapter can be set to: an hour.
const MAX_TIMEOUT_MS: u64 = 3_600_000;

/// Names in AMQP are short strings (AMQP 0-9-1, section 4.2.5.3).
const MAX_NAME_BYTES: u32 = 255;

/// A broker that speaks AMQP 0-9-1 (RabbitMQ). Flows that name it share one TCP connection for consuming and one for
/// publishing, since a broker that is short of memory stops reading where messages are published.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct ConnectionConfig {
    /// The broker, `amqp://host:5672` or `amqps://host:5671`; several are tried in turn. User, password and virtual host may
    /// stand in it as well: `amqp://user:password@host:5672/vhost`.
    #[schemars(length(min = 1, max = 32))]
    pub(crate) urls: Vec<Secret>,
    /// The user, when the URLs name none. Without one anywhere it is `guest`, whom brokers let in from their own machine only.
    #[serde(default)]
    #[schemars(length(min = 1))]
    pub(crate) user: Option<String>,
    /// The password: `${env:RABBITMQ_PASSWORD}` or `${file:path}`.
    #[serde(default)]
    pub(crate) password: Option<Secret>,
    /// The virtual host, when the URLs name none. Without one anywhere it is `/`.
    #[serde(default)]
    #[schemars(length(min = 1, max = MAX_NAME_BYTES))]
    pub(crate) vhost: Option<String>,
    /// How this side proves who it is.
    #[serde(default)]
    pub(crate) authentication: Authentication,
    /// A connection that is silent for twice this long is given up, in milliseconds; whole seconds. The broker may ask for
    /// less.
    #[serde(default = "default_heartbeat_ms")]
    #[schemars(range(min = 1_000, max = 600_000))]
    pub(crate) heartbeat_ms: u64,
    /// How long connecting to one host may take, TLS and log-in included, in milliseconds.
    #[serde(default = "default_connect_timeout_ms")]
    #[schemars(range(min = 100, max = MAX_TIMEOUT_MS))]
    pub(crate) connect_timeout_ms: u64,
    /// How long to wait between attempts to connect. They go on for ever.
    #[serde(default)]
    pub(crate) reconnect: ReconnectConfig,
    /// How the broker is known, and how this side makes itself known to it, when the system's certificates will not do.
    /// For `amqps` URLs.
    #[serde(default)]
    pub(crate) tls: Option<ClientTlsConfig>,
}

/// How this side proves who it is (SASL).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Authentication {
    /// By user and password.
    #[default]
    Plain,
    /// By the client certificate under `tls`.
    External,
}

/// The waits between attempts to connect. Each is shortened by a random part of up to a half, so that clients of one broker
/// do not all come back at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ReconnectConfig {
    /// Before the first attempt, in milliseconds. It doubles with each one that fails.
    #[schemars(range(min = 10, max = MAX_TIMEOUT_MS))]
    pub(crate) initial_delay_ms: u64,
    /// The longest wait, in milliseconds.
    #[schemars(range(min = 10, max = MAX_TIMEOUT_MS))]
    pub(crate) max_delay_ms: u64,
}

/// Takes messages from a queue and acknowledges each when the flow has settled it.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceConfig {
    /// The connection, by its name under `connections:` in the runtime's configuration.
    pub(crate) connection: String,
    /// The queue.
    #[schemars(length(min = 1, max = MAX_NAME_BYTES))]
    pub(crate) queue: String,
    /// Declares the queue with these properties: it is made when it is missing, and has to have them when it is there. Left
    /// out, the queue has to be there.
    #[serde(default)]
    pub(crate) declare: Option<DeclareConfig>,
    /// Binds the queue to exchanges, which have to be there. A binding that a reload leaves out is undone.
    #[serde(default)]
    #[schemars(length(max = 1_000))]
    pub(crate) bindings: Vec<BindingConfig>,
    /// Whether no one else may consume from the queue meanwhile.
    #[serde(default)]
    pub(crate) exclusive: bool,
    /// The priority of this consumer: as long as one with a higher priority can take messages, others get none.
    #[serde(default)]
    pub(crate) consumer_priority: Option<i32>,
}

/// The properties of a queue.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct DeclareConfig {
    /// Whether the queue outlives a restart of the broker.
    pub(crate) durable: bool,
    /// Whether the queue is for this connection alone, and gone with it.
    pub(crate) exclusive: bool,
    /// Whether the queue is deleted when its last consumer has gone.
    pub(crate) auto_delete: bool,
    /// The type.
    #[serde(rename = "type")]
    pub(crate) kind: Option<QueueKind>,
    /// The exchange that gets rejected and expired messages (`x-dead-letter-exchange`). With it, a flow needs no dead letter
    /// of its own.
    #[schemars(length(max = MAX_NAME_BYTES))]
    pub(crate) dead_letter_exchange: Option<String>,
    /// The routing key that such messages get (`x-dead-letter-routing-key`), instead of their own.
    #[schemars(length(max = MAX_NAME_BYTES))]
    pub(crate) dead_letter_routing_key: Option<String>,
    /// How long a message may wait in the queue, in milliseconds (`x-message-ttl`).
    #[schemars(range(min = 0, max = 4_294_967_295_u64))]
    pub(crate) message_ttl_ms: Option<u64>,
    /// How long the queue may be unused before it is deleted, in milliseconds (`x-expires`).
    #[schemars(range(min = 1, max = 4_294_967_295_u64))]
    pub(crate) expires_ms: Option<u64>,
    /// The most messages (`x-max-length`).
    #[schemars(range(min = 1, max = 9_007_199_254_740_991_u64))]
    pub(crate) max_length: Option<u64>,
    /// The most bytes of all bodies (`x-max-length-bytes`).
    #[schemars(range(min = 1, max = 9_007_199_254_740_991_u64))]
    pub(crate) max_length_bytes: Option<u64>,
    /// What happens at one of these limits (`x-overflow`).
    pub(crate) overflow: Option<Overflow>,
    /// Makes it a priority queue with so many priorities (`x-max-priority`). Classic queues only.
    #[schemars(range(min = 1, max = 255))]
    pub(crate) max_priority: Option<u8>,
    /// Whether one consumer at a time gets messages, and another takes its place when it goes (`x-single-active-consumer`).
    pub(crate) single_active_consumer: bool,
    /// How often a message is offered before it is dead-lettered (`x-delivery-limit`). Quorum queues only.
    #[schemars(range(min = 0, max = 1_000_000))]
    pub(crate) delivery_limit: Option<u32>,
    /// Further arguments of the broker's, by name: texts, numbers, `true` and `false`.
    #[schemars(length(max = 64))]
    pub(crate) arguments: BTreeMap<String, Argument>,
}

/// The type of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum QueueKind {
    /// On one node of the broker.
    Classic,
    /// Replicated; always durable.
    Quorum,
    /// Not possible here: a stream cannot take a message back, so a released one would be lost.
    Stream,
}

/// What happens when a queue is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Overflow {
    /// The oldest message goes.
    DropHead,
    /// The new message is refused.
    RejectPublish,
    /// The new message is refused, and dead-lettered. Classic queues only.
    RejectPublishDlx,
}

/// The value of an argument.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum Argument {
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Integer(i64),
    /// A text.
    Text(String),
}

/// A binding of the queue to an exchange.
#[derive(Debug, Clone, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct BindingConfig {
    /// The exchange.
    #[schemars(length(min = 1, max = MAX_NAME_BYTES))]
    pub(crate) exchange: String,
    /// The routing key, for topic exchanges a pattern: `orders.*.created`, `orders.#`.
    #[serde(default)]
    #[schemars(length(max = MAX_NAME_BYTES))]
    pub(crate) routing_key: String,
    /// Arguments, which a headers exchange matches: `x-match: all`, and header values.
    #[serde(default)]
    #[schemars(length(max = 64))]
    pub(crate) arguments: BTreeMap<String, Argument>,
}

/// Publishes messages: with `send` the broker's confirmation counts, with `call` the reply becomes the message.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SinkConfig {
    /// The connection, by its name under `connections:` in the runtime's configuration.
    pub(crate) connection: String,
    /// The exchange, which has to be there. Left out, the default exchange, which takes a message to the queue that its
    /// routing key names.
    #[serde(default)]
    #[schemars(length(max = MAX_NAME_BYTES))]
    pub(crate) exchange: String,
    /// The routing key; may hold `${…}`.
    pub(crate) routing_key: String,
    /// Whether a message that reaches no queue is a failure. Without it the broker confirms such a message and drops it.
    /// Left out: `false`, and `true` for a dead letter. `call` always does so.
    #[serde(default)]
    pub(crate) mandatory: Option<bool>,
    /// With `mandatory`: how many messages may be unconfirmed at once. With one they keep their order; more are published
    /// side by side, each on an AMQP channel of its own, and may change places.
    #[serde(default = "default_mandatory_channels")]
    #[schemars(range(min = 1, max = 64))]
    pub(crate) mandatory_channels: usize,
    /// Without `mandatory`: how many messages may be unconfirmed at once. Further ones wait.
    #[serde(default = "default_max_unconfirmed")]
    #[schemars(range(min = 1, max = 65_535))]
    pub(crate) max_unconfirmed: usize,
    /// Whether messages outlive a restart of the broker, in a durable queue (delivery mode 2).
    #[serde(default = "default_true")]
    pub(crate) persistent: bool,
    /// How long a message may wait in a queue, in milliseconds; then it is dropped or dead-lettered.
    #[serde(default)]
    pub(crate) expiration_ms: Option<u32>,
    /// The priority, for priority queues.
    #[serde(default)]
    pub(crate) priority: Option<u8>,
    /// The message id; may hold `${…}`. Left out, the id of the message.
    #[serde(default)]
    pub(crate) message_id: Option<String>,
    /// The correlation id; may hold `${…}`. `call` sets its own.
    #[serde(default)]
    pub(crate) correlation_id: Option<String>,
    /// The type, the application's name for this kind of message; may hold `${…}`.
    #[serde(default, rename = "type")]
    pub(crate) kind: Option<String>,
    /// The application that publishes; may hold `${…}`.
    #[serde(default)]
    pub(crate) app_id: Option<String>,
    /// Whether messages carry the time at which the source accepted them, in whole seconds.
    #[serde(default = "default_true")]
    pub(crate) timestamp: bool,
    /// The content type; may hold `${…}`. Left out, that of the message, when `forward_headers` has it.
    #[serde(default)]
    pub(crate) content_type: Option<String>,
    /// The content encoding; may hold `${…}`. Left out, that of the message, when `forward_headers` has it.
    #[serde(default)]
    pub(crate) content_encoding: Option<String>,
    /// Headers to send, by name, as texts; the values may hold `${…}`.
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub(crate) headers: BTreeMap<String, String>,
    /// Headers of the message that are sent along when it has them; `order-*` stands for all that begin so, `*` for all. Those
    /// that begin with `amqp-` become properties again. What is set above goes before.
    #[serde(default = "default_forward_headers")]
    #[schemars(length(max = 128))]
    pub(crate) forward_headers: Vec<String>,
    /// Headers of the reply that `call` sets on the message, written as in `forward_headers`.
    #[serde(default = "default_forward_headers")]
    #[schemars(length(max = 128))]
    pub(crate) answer_headers: Vec<String>,
    /// How long one attempt may take until the confirmation or the reply, in milliseconds.
    #[serde(default = "default_timeout_ms")]
    #[schemars(range(min = 1, max = MAX_TIMEOUT_MS))]
    pub(crate) timeout_ms: u64,
}

fn default_heartbeat_ms() -> u64 {
    30_000
}

fn default_connect_timeout_ms() -> u64 {
    10_000
}

fn default_timeout_ms() -> u64 {
    30_000
}

fn default_mandatory_channels() -> usize {
    1
}

fn default_max_unconfirmed() -> usize {
    1_024
}

fn default_true() -> bool {
    true
}

fn default_forward_headers() -> Vec<String> {
    vec![CONTENT_TYPE.to_owned(), crate::header_map::CONTENT_ENCODING.to_owned()]
}

// === impl ReconnectConfig ===

impl Default for ReconnectConfig {
    fn default() -> Self {
        Self { initial_delay_ms: 200, max_delay_ms: 30_000 }
    }
}

// === impl DeclareConfig ===

impl Default for DeclareConfig {
    fn default() -> Self {
        Self {
            durable: true,
            exclusive: false,
            auto_delete: false,
            kind: None,
            dead_letter_exchange: None,
            dead_letter_routing_key: None,
            message_ttl_ms: None,
            expires_ms: None,
            max_length: None,
            max_length_bytes: None,
            overflow: None,
            max_priority: None,
            single_active_consumer: false,
            delivery_limit: None,
            arguments: BTreeMap::new(),
        }
    }
}

//! What stands under `http:` in a flow file, as it was written. The doc comments are what editors show and what
//! `docs/adapters/http.md` explains at length; what a schema cannot say (an address, a path, a URL) is checked one stage
//! later, in `source/spec.rs` and `sink/spec.rs`.

use std::collections::BTreeMap;

use gristmill_core::config::{Node, Secret};
use gristmill_tls::{ClientTlsConfig, ServerTlsConfig};
use schemars::JsonSchema;
use serde::Deserialize;

/// The longest time that any timeout of this adapter can be set to: an hour.
const MAX_TIMEOUT_MS: u64 = 3_600_000;

/// Takes messages from HTTP requests and answers them when the flow has settled them.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SourceConfig {
    /// The address to listen on, an IP address and a port: `127.0.0.1:8080`, `0.0.0.0:80`, `[::1]:8080`. Flows with the
    /// same address share one listener. Port 0 takes a free port, which the log then tells. Two flows whose addresses
    /// include one another (`0.0.0.0:80` and `127.0.0.1:80`) are a mistake.
    pub(crate) listen: String,
    /// Only requests for this host name (the `Host` header without its port). Left out: any host that no other flow names.
    #[serde(default)]
    pub(crate) host: Option<String>,
    /// The path: `/orders`, with parameters that stand for one segment each, `/orders/{id}`, and at the end, if wanted,
    /// one that stands for all that is left, `/files/{*rest}`. A message has them as headers `http-param-id`.
    pub(crate) path: String,
    /// The methods. `GET` also serves `HEAD`; `OPTIONS` is answered by itself unless it is listed.
    #[serde(default = "default_methods")]
    #[schemars(length(min = 1, max = 7))]
    pub(crate) methods: Vec<Method>,
    /// How long a sender may take to send the body, in milliseconds; then 408.
    #[serde(default = "default_timeout_ms")]
    #[schemars(range(min = 1, max = MAX_TIMEOUT_MS))]
    pub(crate) read_timeout_ms: u64,
    /// How long a sender waits for the answer, in milliseconds; then 504, while the delivery goes on.
    #[serde(default = "default_timeout_ms")]
    #[schemars(range(min = 1, max = MAX_TIMEOUT_MS))]
    pub(crate) answer_timeout_ms: u64,
    /// Only takes requests whose body is signed with a shared secret; others get 401.
    #[serde(default)]
    pub(crate) signature: Option<SignatureConfig>,
    /// Whether `authorization` and `cookie` become headers of the message. Left out they are dropped, because headers reach
    /// dead letters and the sinks that forward them, where a sender's credentials have no place.
    #[serde(default)]
    pub(crate) keep_credentials: bool,
    /// Serves HTTPS, and nothing else, on this address. All flows on one address say the same here.
    #[serde(default)]
    pub(crate) tls: Option<ServerTlsConfig>,
    /// The limits of the listener. Of several flows that share it, the largest value that one of them writes counts.
    #[serde(default)]
    pub(crate) listener: ListenerConfig,
}

/// A method of a request or of a call (RFC 9110 section 9).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum Method {
    /// Fetch; also serves HEAD.
    Get,
    /// Fetch, headers only.
    Head,
    /// Hand over.
    Post,
    /// Put in place.
    Put,
    /// Change in part.
    Patch,
    /// Remove.
    Delete,
    /// Ask what is possible.
    Options,
}

/// A keyed hash over the raw body, sent in a header: the way webhooks prove where they come from.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SignatureConfig {
    /// The header that holds the signature: `x-hub-signature-256`.
    pub(crate) header: String,
    /// What stands before the signature in that header: `sha256=`.
    #[serde(default)]
    pub(crate) prefix: String,
    /// The algorithm.
    pub(crate) algorithm: Algorithm,
    /// How the signature is written.
    #[serde(default)]
    pub(crate) encoding: Encoding,
    /// The shared secret: `${env:WEBHOOK_SECRET}` or `${file:path}`.
    pub(crate) secret: Secret,
}

/// HMAC (RFC 2104) over one of the hashes in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Algorithm {
    /// With SHA-256.
    HmacSha256,
    /// With SHA-1: only for senders that know nothing better.
    HmacSha1,
    /// With SHA-512.
    HmacSha512,
}

/// How bytes are written as text.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Encoding {
    /// Hexadecimal, either case.
    #[default]
    Hex,
    /// Base64 with padding (RFC 4648 section 4).
    Base64,
}

/// Limits of a listener, which several flows may share: those that this flow writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct ListenerConfig {
    /// The most connections at once; further ones wait to be accepted.
    #[schemars(range(min = 1, max = 65_536), extend("default" = ListenerLimits::DEFAULT.max_connections))]
    pub(crate) max_connections: Option<usize>,
    /// How long a connection may take to send the head of a request, in milliseconds, and before that for its TLS handshake;
    /// then it is closed.
    #[schemars(
        range(min = 1, max = MAX_TIMEOUT_MS),
        extend("default" = ListenerLimits::DEFAULT.header_read_timeout_ms)
    )]
    pub(crate) header_read_timeout_ms: Option<u64>,
    /// How long a connection may rest between requests, in milliseconds; then it is closed.
    #[schemars(
        range(min = 1, max = MAX_TIMEOUT_MS),
        extend("default" = ListenerLimits::DEFAULT.keep_alive_ms)
    )]
    pub(crate) keep_alive_ms: Option<u64>,
    /// The most bytes of requests that are being read, on all connections together; above it 503. A connection has at most
    /// a quarter of it. One request that is as large as its flow allows is let in when nothing else is held.
    #[schemars(
        range(min = 65_536, max = 1_099_511_627_776_u64),
        extend("default" = ListenerLimits::DEFAULT.buffer_bytes)
    )]
    pub(crate) buffer_bytes: Option<usize>,
}

/// The limits that a listener has.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ListenerLimits {
    pub(crate) max_connections: usize,
    pub(crate) header_read_timeout_ms: u64,
    pub(crate) keep_alive_ms: u64,
    pub(crate) buffer_bytes: usize,
}

/// Sends messages by HTTP: with `send` a success status is the confirmation, with `call` the answer becomes the message.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct SinkConfig {
    /// Where to: `https://api.example.com/orders/${headers.id}?state=${body.state}`. What an expression gives is
    /// percent-encoded, so that it stays the one path segment or query value that it stands for. With `encode_url: false`
    /// it is not.
    pub(crate) url: String,
    /// The hosts that a URL may name whose host comes from the message: `api.example.com`, `api.example.com:8443`,
    /// `*.example.com`, or `*` for every host. Wanted for such a URL, and only for such a one.
    #[serde(default)]
    #[schemars(length(max = 1_000))]
    pub(crate) hosts: Vec<String>,
    /// Whether what expressions give is percent-encoded in the path and the query.
    #[serde(default = "default_true")]
    pub(crate) encode_url: bool,
    /// The method. `GET` and `HEAD` send no body.
    #[serde(default = "default_method")]
    pub(crate) method: Method,
    /// Headers to send, by name; the values may hold `${…}`.
    #[serde(default)]
    #[schemars(length(max = 128))]
    pub(crate) headers: BTreeMap<String, String>,
    /// Headers of the message that are sent along when it has them. One in `headers` goes before.
    #[serde(default = "default_passed_headers")]
    #[schemars(length(max = 128))]
    pub(crate) forward_headers: Vec<String>,
    /// Headers of the answer that `call` sets on the message.
    #[serde(default = "default_passed_headers")]
    #[schemars(length(max = 128))]
    pub(crate) answer_headers: Vec<String>,
    /// How long one attempt may take in all, connecting and reading the answer included, in milliseconds.
    #[serde(default = "default_timeout_ms")]
    #[schemars(range(min = 1, max = MAX_TIMEOUT_MS))]
    pub(crate) timeout_ms: u64,
    /// The statuses that confirm: single ones (`201`) and ranges (`200-299`).
    #[serde(default = "default_success")]
    #[schemars(length(min = 1, max = 100))]
    pub(crate) success: Vec<StatusRange>,
    /// The statuses after which trying again can help. What is in neither list is final.
    #[serde(default = "default_retryable")]
    #[schemars(length(max = 100))]
    pub(crate) retryable: Vec<StatusRange>,
    /// Whether to speak HTTP/2: with `https` when the server offers it, with `http` without asking (prior knowledge).
    #[serde(default)]
    pub(crate) http2: bool,
    /// How servers are known, and how this side makes itself known to them, when the system's certificates will not do.
    #[serde(default)]
    pub(crate) tls: Option<ClientTlsConfig>,
}

/// One status or a range of them.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(crate) enum StatusRange {
    /// One status: `201`.
    One(#[schemars(range(min = 100, max = 599))] u16),
    /// From the first to the last, both included: `200-299`.
    Range(#[schemars(regex(pattern = r"^[1-5][0-9]{2}-[1-5][0-9]{2}$"))] String),
}

fn default_methods() -> Vec<Method> {
    vec![Method::Post]
}

fn default_method() -> Method {
    Method::Post
}

fn default_timeout_ms() -> u64 {
    30_000
}

fn default_true() -> bool {
    true
}

fn default_passed_headers() -> Vec<String> {
    vec![gristmill_core::message::CONTENT_TYPE.to_owned()]
}

fn default_success() -> Vec<StatusRange> {
    vec![StatusRange::Range("200-299".to_owned())]
}

fn default_retryable() -> Vec<StatusRange> {
    vec![
        StatusRange::One(408),
        StatusRange::One(425),
        StatusRange::One(429),
        StatusRange::Range("500-599".to_owned()),
    ]
}

/// The text of a value as it stands in the flow file: what may be shown of it. `text` is the value itself.
pub(crate) fn written(node: &Node, text: &str) -> String {
    node.substitution.as_ref().map_or_else(|| text.to_owned(), |substitution| substitution.written())
}

// === impl ListenerConfig ===

impl ListenerConfig {
    /// Whichever value is larger, limit by limit; one that is not written counts for nothing.
    pub(crate) fn largest(self, other: Self) -> Self {
        Self {
            max_connections: self.max_connections.max(other.max_connections),
            header_read_timeout_ms: self.header_read_timeout_ms.max(other.header_read_timeout_ms),
            keep_alive_ms: self.keep_alive_ms.max(other.keep_alive_ms),
            buffer_bytes: self.buffer_bytes.max(other.buffer_bytes),
        }
    }
}

// === impl ListenerLimits ===

impl ListenerLimits {
    const DEFAULT: Self = Self {
        max_connections: 4_096,
        header_read_timeout_ms: 10_000,
        keep_alive_ms: 75_000,
        buffer_bytes: 512 * 1024 * 1024,
    };
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl From<ListenerConfig> for ListenerLimits {
    fn from(written: ListenerConfig) -> Self {
        let default = Self::DEFAULT;
        Self {
            max_connections: written.max_connections.unwrap_or(default.max_connections),
            header_read_timeout_ms: written.header_read_timeout_ms.unwrap_or(default.header_read_timeout_ms),
            keep_alive_ms: written.keep_alive_ms.unwrap_or(default.keep_alive_ms),
            buffer_bytes: written.buffer_bytes.unwrap_or(default.buffer_bytes),
        }
    }
}

// === impl Method ===

impl Method {
    /// The name on the wire.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Patch => "PATCH",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
        }
    }

    /// The method of a request, if a route can have it.
    pub(crate) fn of(method: &http::Method) -> Option<Self> {
        match *method {
            http::Method::GET => Some(Self::Get),
            http::Method::HEAD => Some(Self::Head),
            http::Method::POST => Some(Self::Post),
            http::Method::PUT => Some(Self::Put),
            http::Method::PATCH => Some(Self::Patch),
            http::Method::DELETE => Some(Self::Delete),
            http::Method::OPTIONS => Some(Self::Options),
            _ => None,
        }
    }

    /// As the `http` crate has it.
    pub(crate) const fn to_http(self) -> http::Method {
        match self {
            Self::Get => http::Method::GET,
            Self::Head => http::Method::HEAD,
            Self::Post => http::Method::POST,
            Self::Put => http::Method::PUT,
            Self::Patch => http::Method::PATCH,
            Self::Delete => http::Method::DELETE,
            Self::Options => http::Method::OPTIONS,
        }
    }

    /// Whether a request with this method carries the message's body. Content in a GET or a HEAD has no meaning
    /// (RFC 9110 section 9.3.1), and some servers refuse it.
    pub(crate) const fn sends_body(self) -> bool {
        !matches!(self, Self::Get | Self::Head)
    }
}

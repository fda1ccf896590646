//! What brokers and the client library say about what went wrong, in words that say what to do.

use std::io;

use lapin::{Error, ErrorKind, protocol::AMQPErrorKind};

/// Something that went wrong between here and a broker.
#[derive(Debug, Clone)]
pub(crate) struct Trouble {
    /// What happened and what to do, for the operator.
    pub(crate) text: String,
    /// The reply code of the broker, if it said one: 404, 406, ….
    pub(crate) code: Option<u16>,
}

// === impl Trouble ===

impl Trouble {
    /// What the broker has not said a word about.
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), code: None }
    }

    /// From what the library gives. `doing` is what was tried: `consuming from queue \`orders\``.
    pub(crate) fn from_error(doing: &str, error: &Error) -> Self {
        let said = said(error);
        let code = match error.kind() {
            ErrorKind::ProtocolError(error) => Some(error.get_id()),
            _ => None,
        };
        let mend =
            code.and_then(|code| mend(code, &said)).map(|mend| format!("; {mend}")).unwrap_or_default();
        Self { text: format!("{doing}: {said}{mend}"), code }
    }

    /// Whether the broker closed the channel because a message is not as it wants it: too large, an expiration that is none. It
    /// does not say which.
    pub(crate) fn closes_over_a_message(&self) -> bool {
        const PRECONDITION_FAILED: u16 = 406;
        self.code == Some(PRECONDITION_FAILED)
    }

    /// The same of a connection that is made. There are no AMQP channels yet, though some codes are those of channels.
    pub(crate) fn from_connecting(doing: &str, error: &Error, is_tls: bool) -> Self {
        let Self { mut text, code } = Self::from_error(doing, error);
        text = text.replace("the broker closed the AMQP channel", "the broker closed the connection");
        // One that talks of something else at once, or hangs up, is another kind of port.
        let is_other_port = match error.kind() {
            ErrorKind::ParsingError(_) => true,
            ErrorKind::IOError(error) => is_break(error),
            _ => false,
        };
        if is_other_port {
            text.push_str(if is_tls {
                "; is this the port for AMQP over TLS (5671)?"
            } else {
                "; is this the port for AMQP without TLS (5672)? One for TLS (5671) wants `amqps://`"
            });
        }
        Self { text, code }
    }

    /// Whether waiting cannot help: someone has to change something first.
    pub(crate) fn needs_a_person(&self) -> bool {
        self.code.is_some_and(|code| matches!(code, 402 | 403 | 404 | 405 | 406 | 530))
    }
}

/// What the broker said, or what happened to the connection.
fn said(error: &Error) -> String {
    match error.kind() {
        ErrorKind::ProtocolError(error) => {
            // A soft error ends its channel, a hard one all that is on the connection (AMQP 0-9-1, section 1.2).
            let what = match error.kind() {
                AMQPErrorKind::Soft(_) => "AMQP channel",
                AMQPErrorKind::Hard(_) => "connection",
            };
            format!("the broker closed the {what}: {}", error.get_message())
        }
        ErrorKind::IOError(error) if is_break(error) => format!("the connection broke off ({error})"),
        ErrorKind::IOError(error) => cause(error),
        ErrorKind::MissingHeartbeatError => {
            "the broker was silent for two heartbeats (`heartbeat_ms`)".to_owned()
        }
        ErrorKind::InvalidConnectionState(_)
        | ErrorKind::InvalidChannelState(..)
        | ErrorKind::InvalidChannel(_) => "the connection is gone".to_owned(),
        ErrorKind::ChannelsLimitReached => {
            "the broker allows no more AMQP channels on one connection (its `channel_max`)".to_owned()
        }
        ErrorKind::ParsingError(_) => "what answers there does not speak AMQP 0-9-1".to_owned(),
        _ => error.to_string(),
    }
}

/// Whether the other side has hung up.
fn is_break(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), ConnectionReset | ConnectionAborted | UnexpectedEof | BrokenPipe)
}

/// An I/O error with what is behind it, once each.
pub(crate) fn cause(error: &io::Error) -> String {
    let mut texts = vec![error.to_string()];
    let mut next = error.get_ref().and_then(|inner| inner.source());
    while let Some(error) = next {
        let text = error.to_string();
        if !texts.iter().any(|t| t.contains(&text)) {
            texts.push(text);
        }
        next = error.source();
    }
    let mut text = texts.join(": ");
    // What the other side of TLS refuses, it says with an alert and not why.
    if text.contains("CertificateRequired") {
        text.push_str("; the broker wants a client certificate: set `certificate_file` and `key_file` under `tls` of the connection");
    } else if text.contains("received fatal alert") {
        text.push_str("; does the broker take the certificate under `tls` of the connection?");
    }
    text
}

/// What to do about a reply code (AMQP 0-9-1, section 1.2).
fn mend(code: u16, said: &str) -> Option<&'static str> {
    let mend = match code {
        403 if said.contains("exclusive") => {
            "another consumer has the queue for itself: stop it, or leave out `exclusive` on both sides"
        }
        403 if said.contains("Login") || said.contains("login") => {
            "correct `user` and `password` of the connection"
        }
        403 => "give the user the permission (`rabbitmqctl set_permissions`)",
        404 if said.contains("no queue") => "declare it (`declare: {}`), or correct `queue`",
        404 if said.contains("no exchange") => "declare it at the broker, or correct the name",
        405 => "the queue is exclusive to another connection: use another queue, or close that connection",
        406 if said.contains("acknowledgement") && said.contains("timed out") => {
            "the flow held a message for longer than the broker's `consumer_timeout`: shorten its retries, or raise that"
        }
        406 if said.contains("inequivalent arg") => {
            "write the properties that it has under `declare`, leave `declare` out, or delete the queue"
        }
        530 if said.contains("vhost") => {
            "correct `vhost`, add it (`rabbitmqctl add_vhost`), or give the user permission there"
        }
        _ => return None,
    };
    Some(mend)
}

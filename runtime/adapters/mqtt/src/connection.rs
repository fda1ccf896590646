//! A connection of the runtime's configuration: from what was written to what a client is opened with.

use std::{path::PathBuf, sync::Arc, time::Duration};

use gristmill_core::{
    adapter::Checker,
    config::{Node, Secret, parse},
    connection::ConnectionSpec,
};
use gristmill_tls::ClientTls;
use serde::{Deserialize, Serialize};

use crate::{
    config::{ConnectionConfig, ReconnectConfig, Version, WillConfig},
    topic,
};

/// A checked connection. Nothing is open.
#[derive(Debug, Clone)]
pub(crate) struct MqttConnection {
    pub(crate) broker: Broker,
    pub(crate) version: Version,
    pub(crate) client_id: Arc<str>,
    /// It was not substituted.
    pub(crate) shows_client_id: bool,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) keep_alive: Duration,
    pub(crate) will: Option<WillConfig>,
    pub(crate) clean_start: bool,
    pub(crate) session_expiry_s: u32,
    pub(crate) receive_maximum: Option<u16>,
    pub(crate) connect_timeout: Duration,
    pub(crate) reconnect: ReconnectConfig,
}

/// Where the broker is.
#[derive(Debug, Clone)]
pub(crate) struct Broker {
    /// A name, an IPv4 address, or an IPv6 address without its brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
    /// With TLS, and the files of it.
    pub(crate) tls: Option<ClientTls>,
    /// What may be shown: nothing of it when it was substituted.
    pub(crate) shown: Arc<str>,
}

/// By what a session is known: who a client is, and where.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SessionKey {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) client_id: String,
}

impl SessionKey {
    /// Whether the two are at one address.
    pub(crate) fn is_at_the_broker_of(&self, other: &Self) -> bool {
        (&self.host, self.port) == (&other.host, other.port)
    }
}

/// What a URL says.
#[derive(Debug, PartialEq, Eq)]
struct Url {
    is_tls: bool,
    host: String,
    port: u16,
}

/// Checks the configuration of a connection. `None` when nothing can be made of it.
pub(crate) fn check(node: &Node, checker: &mut Checker<'_>) -> Option<MqttConnection> {
    let config: ConnectionConfig = parse(node, checker.mistakes)?;
    let at = |key: &str| node.get(key).unwrap_or(node);
    let url = Url::parse(&config.url)
        .map_err(|problem| {
            checker.mistake(
                "invalid_url",
                at("url"),
                format!("this is not the URL of a broker: {problem}"),
                "write `mqtt://host:1883`, or `mqtts://host:8883` for TLS",
            );
        })
        .ok();
    let tls = match &config.tls {
        Some(tls) => ClientTls::check(tls, at("tls"), checker.base_dir, checker.mistakes),
        None => Some(ClientTls::default()),
    };
    let version = config.version.get();
    if config.tls.is_some() && url.as_ref().is_some_and(|url| !url.is_tls) {
        checker.mistake(
            "unused_tls",
            at("tls"),
            "`tls` is for `mqtts://`, and this URL is `mqtt://`",
            "write `mqtts://`, or remove `tls`",
        );
    }
    if config.password.is_some() && config.username.is_none() {
        checker.mistake(
            "missing_key",
            at("password"),
            "a password is sent with a user name only",
            "add `username:`",
        );
    }
    if config.client_id.chars().any(char::is_control) {
        checker.mistake(
            "invalid_value",
            at("client_id"),
            "`client_id` holds a control character",
            "remove it",
        );
    }
    if let Some(will) = &config.will
        && let Err(problem) = topic::check_name(&will.topic)
    {
        let text = format!("the topic {problem}");
        checker.mistake("invalid_topic", node.at(["will", "topic"]), text, "name one topic");
    }
    if version == Version::V311 && node.get("session_expiry_s").is_some() {
        checker.mistake(
            "unused_key",
            at("session_expiry_s"),
            "with 3.1.1 the broker decides how long it keeps a session",
            "remove it, or write `version: 5`",
        );
    }
    if version == Version::V311 && node.get("receive_maximum").is_some() {
        checker.mistake(
            "unused_key",
            at("receive_maximum"),
            "with 3.1.1 a client cannot tell the broker how much it may send",
            "remove it, or write `version: 5`",
        );
    }
    let (url, tls) = (url?, tls?);
    let shown = if at("url").is_substituted() {
        "the broker".into()
    } else {
        format!("the broker {}:{}", url.host, url.port).into()
    };
    Some(MqttConnection {
        broker: Broker { host: url.host, port: url.port, tls: url.is_tls.then_some(tls), shown },
        version,
        client_id: config.client_id.into(),
        shows_client_id: !at("client_id").is_substituted(),
        username: config.username,
        password: config.password,
        keep_alive: Duration::from_secs(config.keep_alive_s.into()),
        will: config.will,
        clean_start: config.clean_start,
        session_expiry_s: config.session_expiry_s,
        receive_maximum: config.receive_maximum,
        connect_timeout: Duration::from_millis(config.connect_timeout_ms),
        reconnect: config.reconnect,
    })
}

impl ConnectionSpec for MqttConnection {
    fn configuration_files(&self) -> Vec<PathBuf> {
        self.broker.tls.as_ref().map(ClientTls::paths).unwrap_or_default()
    }
}

impl Url {
    /// # Errors
    /// What is wrong with it; nothing of the text itself, which may be secret.
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (is_tls, rest) = match text.split_once("://") {
            Some(("mqtt", rest)) => (false, rest),
            Some(("mqtts", rest)) => (true, rest),
            _ => return Err("it begins with neither `mqtt://` nor `mqtts://`"),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('@') {
            return Err("user and password stand in `username` and `password`, not in the URL");
        }
        if authority.contains(['/', '?', '#']) {
            return Err("nothing can follow host and port");
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, port) = rest.split_once(']').ok_or("a `[` has no `]`")?;
                host.parse::<std::net::Ipv6Addr>().map_err(|_| "this is no IPv6 address")?;
                (host, port.strip_prefix(':').or(port.is_empty().then_some("")).ok_or("the port is wrong")?)
            }
            None => authority.split_once(':').unwrap_or((authority, "")),
        };
        let is_host = !host.is_empty()
            && host.len() <= 253
            && host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':'));
        if !is_host {
            return Err("there is no host in it");
        }
        let port = match port {
            "" if is_tls => 8883,
            "" => 1883,
            port => port.parse().ok().filter(|port| *port != 0).ok_or("the port is no number up to 65535")?,
        };
        Ok(Self { is_tls, host: host.to_owned(), port })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_a_scheme_a_host_and_perhaps_a_port() {
        for (text, is_tls, host, port) in [
            ("mqtt://localhost", false, "localhost", 1883),
            ("mqtts://broker.example.com/", true, "broker.example.com", 8883),
            ("mqtt://127.0.0.1:18830", false, "127.0.0.1", 18830),
            ("mqtt://[::1]", false, "::1", 1883),
            ("mqtts://[2001:db8::1]:1", true, "2001:db8::1", 1),
        ] {
            assert_eq!(Url::parse(text), Ok(Url { is_tls, host: host.into(), port }), "{text}");
        }
        for text in [
            "localhost",
            "tcp://a",
            "mqtt://",
            "mqtt://a:b@c",
            "mqtt://a/b",
            "mqtt://a:0",
            "mqtt://a:70000",
            "mqtt://[::1",
            "mqtt://[::1]1",
            "mqtt://a b",
            "mqtt://a:1?x",
        ] {
            assert!(Url::parse(text).is_err(), "{text}");
        }
    }
}

//! From the configuration of a source to a checked one.

use std::sync::Arc;

use gristmill_core::{
    adapter::Checker,
    config::{Node, parse},
    connection::Connection,
};

use super::session::Subscription;
use crate::{
    NAME,
    config::{Retained, SourceConfig, Version},
    connection::MqttConnection,
    topic,
};

/// A source whose configuration is good.
#[derive(Debug, Clone)]
pub(crate) struct CheckedSource {
    pub(crate) named: Connection,
    pub(crate) connection: Arc<MqttConnection>,
    pub(crate) topics: Vec<String>,
    /// Nothing of them was substituted.
    pub(crate) shows_topics: bool,
    pub(crate) subscription: Subscription,
    /// As written; `None` for the one that is made of the connection's and the flow's.
    pub(crate) client_id: Option<OwnClientId>,
    /// By which the broker knows it, when the flow is known.
    pub(crate) known_as: Option<String>,
    pub(crate) buffer_messages: usize,
}

/// The id that a source has by its own configuration.
#[derive(Debug, Clone)]
pub(crate) struct OwnClientId {
    pub(crate) text: Arc<str>,
    /// It was not substituted.
    pub(crate) is_shown: bool,
}

/// Checks the configuration of a source. `None` when there are mistakes.
pub(crate) fn check(node: &Node, checker: &mut Checker<'_>) -> Option<CheckedSource> {
    let config: SourceConfig = parse(node, checker.mistakes)?;
    let at = |key: &str| node.get(key).unwrap_or(node);
    let before = checker.mistakes.len();
    let named = checker.connection(NAME, at("connection"), &config.connection);
    for (index, filter) in config.topics.iter().enumerate() {
        let at = node.at(["topics", &index.to_string()]);
        if let Err(problem) = topic::check_filter(filter) {
            checker.mistake(
                "invalid_topic",
                at,
                format!("the topic filter {problem}"),
                "write levels between `/`: `+` for any one level, `#` at the end for all that follow",
            );
        } else if config.topics.iter().take(index).any(|other| other == filter) {
            checker.mistake("duplicate_topic", at, "this topic filter is there twice", "remove one of them");
        }
    }
    let connection = named.as_ref().and_then(Connection::spec::<MqttConnection>);
    if let Some(connection) = &connection {
        if connection.version == Version::V311 && config.retained != Retained::OnSubscribe {
            checker.mistake(
                "unused_key",
                at("retained"),
                "the broker is only told so with version 5, and this connection has 3.1.1",
                "remove it, or let the connection have `version: 5`",
            );
        }
        if let Some(id) = &config.client_id
            && id.chars().any(char::is_control)
        {
            checker.mistake(
                "invalid_value",
                at("client_id"),
                "`client_id` holds a control character",
                "remove it",
            );
        }
    }
    if checker.mistakes.len() > before {
        return None;
    }
    let connection = connection?;
    let of_flow = checker.flow.map(|flow| client_id_of(&connection, flow));
    Some(CheckedSource {
        named: named?,
        known_as: config.client_id.clone().or(of_flow),
        connection,
        shows_topics: !(0..config.topics.len())
            .any(|index| node.at(["topics", &index.to_string()]).is_substituted()),
        topics: config.topics,
        subscription: Subscription { qos: config.qos, retained: config.retained },
        client_id: config
            .client_id
            .map(|text| OwnClientId { text: text.into(), is_shown: !at("client_id").is_substituted() }),
        buffer_messages: config.buffer_messages,
    })
}

/// The client id of a flow's source that has none of its own.
pub(crate) fn client_id_of(connection: &MqttConnection, flow: &str) -> String {
    format!("{}-{flow}", connection.client_id)
}

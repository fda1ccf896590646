//! From the configuration of a sink to a checked one, and from a message to a PUBLISH.

use std::{sync::Arc, time::Duration};

use gristmill_core::{
    ErrorClass, Failure,
    adapter::{Checker, SinkUse},
    config::{Node, Piece, parse, split_expressions},
    connection::Connection,
    message::CONTENT_TYPE,
    sink::{Outgoing, Slot},
};
use rumqttc_v5::mqttbytes::v5::{Publish, PublishProperties};

use super::forwarded::Forwarded;
use crate::{
    NAME,
    config::{SinkConfig, Version},
    connection::MqttConnection,
    link::{self, qos},
    properties, topic,
};

/// What only version 5 can send.
const ONLY_V5: [&str; 6] = [
    "message_expiry_s",
    "content_type",
    "response_topic",
    "forward_correlation",
    "user_properties",
    "forward_headers",
];

/// A sink whose configuration is good.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) named: Connection,
    pub(crate) connection: Arc<MqttConnection>,
    topic: Text,
    qos: u8,
    retain: bool,
    /// Someone has to have subscribed.
    pub(crate) needs_receiver: bool,
    message_expiry_s: Option<u32>,
    content_type: Option<Text>,
    response_topic: Option<Text>,
    forward_correlation: bool,
    user_properties: Vec<(String, Text)>,
    forwarded: Forwarded,
    pub(crate) timeout: Duration,
}

/// A text of the configuration.
#[derive(Debug)]
enum Text {
    /// Without expressions.
    Written(String),
    /// Rendered for each message.
    Rendered {
        slot: Slot,
        /// What it gives is not shown.
        is_secret: bool,
        /// It begins with `$` as written, as topics of brokers do.
        begins_with_dollar: bool,
    },
}

/// Checks the configuration of a sink. `None` when there are mistakes.
pub(crate) fn check(node: &Node, usage: SinkUse, checker: &mut Checker<'_>) -> Option<Checked> {
    let config: SinkConfig = parse(node, checker.mistakes)?;
    let at = |key: &str| node.get(key).unwrap_or(node);
    let before = checker.mistakes.len();
    let named = checker.connection(NAME, at("connection"), &config.connection);
    let connection = named.as_ref().and_then(Connection::spec::<MqttConnection>);
    let topic = check_topic(&config.topic, at("topic"), checker);
    let response_topic =
        config.response_topic.as_ref().map(|text| check_topic(text, at("response_topic"), checker));
    let content_type =
        config.content_type.as_ref().map(|text| Text::check(text, at("content_type"), checker));
    let mut user_properties = Vec::with_capacity(config.user_properties.len());
    for (name, text) in &config.user_properties {
        let here = node.at(["user_properties", name]);
        if name.is_empty() || name.chars().any(char::is_control) || name.len() > topic::MAX_TOPIC_BYTES {
            checker.mistake(
                "invalid_property",
                here,
                "this is not the name of a user property",
                "write a short text without control characters",
            );
        }
        user_properties.push((name.clone(), Text::check(text, here, checker)));
    }
    let forwarded = Forwarded::parse(&config.forward_headers).unwrap_or_else(|problems| {
        for (index, problem) in problems {
            let name = config.forward_headers.get(index).map_or("", String::as_str);
            let shown: String = name.escape_debug().take(80).collect();
            let here = node.at(["forward_headers", &index.to_string()]);
            let mend = "write a name, `order-*` for all that begin so, or `*` for all";
            checker.mistake("invalid_header", here, format!("`{shown}` {problem}"), mend);
        }
        Forwarded::default()
    });
    if usage == SinkUse::Call && config.response_topic.is_some() {
        checker.mistake(
            "unused_key",
            at("response_topic"),
            "`call` has a response topic of its own",
            "remove it",
        );
    }
    if usage == SinkUse::DeadLetter && config.qos == 0 {
        checker.mistake(
            "unconfirmed_dead_letter",
            at("qos"),
            "with QoS 0 nothing confirms a dead letter, and its message is given up for it",
            "write `qos: 1`",
        );
    }
    if connection.as_ref().is_some_and(|it| it.version == Version::V311) {
        for key in ONLY_V5 {
            if let Some(here) = node.get(key) {
                let text = format!("`{key}` needs version 5, and this connection has 3.1.1");
                checker.mistake(
                    "unused_key",
                    here,
                    text,
                    "remove it, or let the connection have `version: 5`",
                );
            }
        }
        if usage == SinkUse::Call {
            checker.mistake(
                "no_answers",
                node,
                "`call` needs the response topic of version 5, and this connection has 3.1.1",
                "let the connection have `version: 5`, or `send`",
            );
        }
    }
    if checker.mistakes.len() > before {
        return None;
    }
    Some(Checked {
        named: named?,
        connection: connection?,
        topic,
        qos: config.qos,
        retain: config.retain,
        // What is retained is kept.
        needs_receiver: usage == SinkUse::DeadLetter && !config.retain,
        message_expiry_s: config.message_expiry_s,
        content_type,
        response_topic,
        forward_correlation: config.forward_correlation,
        user_properties,
        forwarded,
        timeout: Duration::from_millis(config.timeout_ms),
    })
}

/// What is written of a topic has to be right by itself, for what is rendered can only make it worse.
fn check_topic(text: &str, node: &Node, checker: &mut Checker<'_>) -> Text {
    let checked = Text::check(text, node, checker);
    let problem = match &checked {
        Text::Written(text) => topic::check_name(text).err(),
        Text::Rendered { .. } => split_expressions(text).and_then(|pieces| {
            pieces.into_iter().find_map(|piece| match piece {
                Piece::Literal(text) => topic::check_name(text).err(),
                Piece::Expression(_) => None,
            })
        }),
    };
    if let Some(problem) = problem {
        let mend = "write the levels between `/`: `plant/${headers.line}/commands`";
        checker.mistake("invalid_topic", node, format!("the topic {problem}"), mend);
    }
    checked
}

// === impl Text ===

impl Text {
    fn check(text: &str, node: &Node, checker: &mut Checker<'_>) -> Self {
        if text.contains("${") {
            Self::Rendered {
                slot: checker.template(node, text),
                is_secret: node.is_substituted(),
                begins_with_dollar: text.starts_with('$') && !text.starts_with("${"),
            }
        } else {
            Self::Written(text.to_owned())
        }
    }

    fn get<'a>(&'a self, outgoing: &Outgoing<'a>) -> &'a str {
        match self {
            Self::Written(text) => text,
            Self::Rendered { slot, .. } => outgoing.text(*slot),
        }
    }

    /// As a topic.
    ///
    /// # Errors
    /// What is wrong with what was rendered.
    fn topic<'a>(&'a self, outgoing: &Outgoing<'a>) -> Result<&'a str, String> {
        let text = self.get(outgoing);
        let Self::Rendered { is_secret, begins_with_dollar, .. } = self else { return Ok(text) };
        let problem = match topic::check_name(text) {
            Err(problem) => problem,
            Ok(()) if text.starts_with('$') && !begins_with_dollar => {
                "begins with `$`, which is for brokers, and is not written so in the flow"
            }
            Ok(()) => return Ok(text),
        };
        let shown: String = if *is_secret { String::new() } else { text.escape_debug().take(80).collect() };
        Err(format!("the topic `{shown}` of this message {problem}"))
    }
}

// === impl Checked ===

impl Checked {
    /// What is published for a message, without a packet identifier.
    ///
    /// # Errors
    /// What of the message MQTT cannot carry.
    pub(crate) fn publish(&self, outgoing: &Outgoing<'_>) -> Result<Publish, Failure> {
        let rejected =
            |text: String| Failure::new(ErrorClass::SinkRejected, format!("{}: {text}", self.place()));
        let name = self.topic.topic(outgoing).map_err(rejected)?;
        let properties = match self.connection.version {
            Version::V5 => Some(self.properties(outgoing).map_err(rejected)?),
            Version::V311 => None,
        };
        let body = outgoing.message.body().clone();
        let mut publish = Publish::new(name, qos(self.qos), body, properties);
        publish.retain = self.retain;
        Ok(publish)
    }

    fn properties(&self, outgoing: &Outgoing<'_>) -> Result<PublishProperties, String> {
        let message = outgoing.message;
        let mut properties = properties::none();
        properties.message_expiry_interval = self.message_expiry_s;
        properties.content_type = match &self.content_type {
            Some(text) => Some(text.get(outgoing)),
            None => message.headers().get(CONTENT_TYPE),
        }
        .map(ToOwned::to_owned);
        properties.response_topic =
            self.response_topic.as_ref().map(|text| text.topic(outgoing)).transpose()?.map(ToOwned::to_owned);
        if self.forward_correlation {
            properties.correlation_data = properties::correlation_of(message.headers())?;
        }
        for (name, value) in self.forwarded.of(message.headers()) {
            if !self.user_properties.iter().any(|(written, _)| written == name) {
                properties.user_properties.push((name.to_owned(), value.to_owned()));
            }
        }
        for (name, text) in &self.user_properties {
            properties.user_properties.push((name.clone(), text.get(outgoing).to_owned()));
        }
        let texts = properties.user_properties.iter().map(|(_, value)| value).chain(&properties.content_type);
        for text in texts {
            if text.len() > topic::MAX_TOPIC_BYTES || text.contains('\0') {
                return Err("a property is longer than 65,535 bytes or holds NUL".to_owned());
            }
        }
        Ok(properties)
    }

    /// What texts begin with.
    pub(crate) fn place(&self) -> String {
        link::place(&self.named.name, &self.connection)
    }

    /// What is said of a message that did not go out.
    pub(crate) fn timeout_failure(&self, what: &str) -> Failure {
        let text = format!(
            "{}: {what} within {} ms (`timeout_ms`); whether the broker has the message is not known",
            self.place(),
            self.timeout.as_millis(),
        );
        Failure::new(ErrorClass::Timeout, text)
    }
}

//! From a sink as written to one that can be opened. Everything that is wrong is found here, and nothing is opened.

use std::{sync::Arc, time::Duration};

use gristmill_core::{
    HeaderPatterns,
    adapter::{Checker, SinkUse},
    config::{Node, parse},
    connection::Connection,
    message::check_header,
    sink::{Outgoing, Slot},
};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable, ShortString},
};

use crate::{
    NAME,
    config::SinkConfig,
    connection::AmqpConnectionSpec,
    header_map::{CONTENT_ENCODING, Unfit, properties_of, set_property, short_string},
};

/// Checked configuration of a sink.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) connection: Connection,
    pub(crate) connection_spec: Arc<AmqpConnectionSpec>,
    pub(crate) exchange: ShortString,
    routing_key: Slot,
    pub(crate) mandatory: bool,
    mandatory_channels: usize,
    max_unconfirmed: usize,
    persistent: bool,
    expiration: Option<ShortString>,
    priority: Option<u8>,
    timestamp: bool,
    /// Properties that are set, by the names of their headers.
    properties: Vec<(&'static str, Slot)>,
    headers: Vec<(ShortString, Slot)>,
    forwarded: HeaderPatterns,
    pub(crate) answer_headers: HeaderPatterns,
    pub(crate) timeout: Duration,
}

/// Checks the configuration of a sink. `None` when there are mistakes.
pub(crate) fn check(node: &Node, usage: SinkUse, checker: &mut Checker<'_>) -> Option<Checked> {
    let before = checker.mistakes.len();
    let config: SinkConfig = parse(node, checker.mistakes)?;
    let connection = checker.connection(NAME, node.at(["connection"]), &config.connection);
    let exchange = ShortString::try_new(config.exchange.as_str()).ok();
    if exchange.is_none() {
        let text = "this is longer than the 255 bytes that AMQP allows";
        checker.mistake("invalid_name", node.at(["exchange"]), text, "shorten it");
    }
    if config.exchange.contains("${") {
        let text = "an exchange is fixed: it is looked for before anything is published";
        checker.mistake(
            "no_expression",
            node.at(["exchange"]),
            text,
            "use `routing_key`, or one `send` for each",
        );
    }
    if config.exchange.is_empty() && config.routing_key.is_empty() {
        let text = "with the default exchange the routing key names the queue, and this is empty";
        checker.mistake("empty_name", node.at(["routing_key"]), text, "write the queue, or an `exchange`");
    }
    let mandatory = config.mandatory.unwrap_or(usage == SinkUse::DeadLetter);
    if usage == SinkUse::DeadLetter && !mandatory {
        let text = "the broker confirms a dead letter that reaches no queue and drops it, and its message is given up for it";
        checker.mistake("unconfirmed_dead_letter", node.at(["mandatory"]), text, "remove `mandatory`");
    }
    if !mandatory && config.mandatory_channels > 1 && usage != SinkUse::Call {
        let text = "this counts with `mandatory: true` only";
        checker.mistake(
            "contradiction",
            node.at(["mandatory_channels"]),
            text,
            "add `mandatory: true`, or remove it",
        );
    }
    if config.correlation_id.is_some() && usage == SinkUse::Call {
        let text = "a call has a correlation id of its own, by which its reply is known";
        checker.mistake("contradiction", node.at(["correlation_id"]), text, "remove `correlation_id`");
    }
    let routing_key = checker.template(node.at(["routing_key"]), &config.routing_key);
    let mut properties = Vec::new();
    for (key, header, text) in [
        ("message_id", "amqp-message-id", &config.message_id),
        ("correlation_id", "amqp-correlation-id", &config.correlation_id),
        ("type", "amqp-type", &config.kind),
        ("app_id", "amqp-app-id", &config.app_id),
        ("content_type", "content-type", &config.content_type),
        ("content_encoding", CONTENT_ENCODING, &config.content_encoding),
    ] {
        if let Some(text) = text {
            properties.push((header, checker.template(node.at([key]), text)));
        }
    }
    let headers = check_headers(&config, node, checker);
    let forwarded = check_forwarded(&config.forward_headers, "forward_headers", node, checker);
    let answer_headers = check_forwarded(&config.answer_headers, "answer_headers", node, checker);
    if checker.mistakes.len() > before {
        return None;
    }
    let connection = connection?;
    let connection_spec = connection.spec::<AmqpConnectionSpec>()?;
    Some(Checked {
        connection,
        connection_spec,
        exchange: exchange?,
        routing_key,
        mandatory,
        mandatory_channels: config.mandatory_channels,
        max_unconfirmed: config.max_unconfirmed,
        persistent: config.persistent,
        expiration: config.expiration_ms.map(|milliseconds| milliseconds.to_string().into()),
        priority: config.priority,
        timestamp: config.timestamp,
        properties,
        headers,
        forwarded,
        answer_headers,
        timeout: Duration::from_millis(config.timeout_ms),
    })
}

fn check_headers(config: &SinkConfig, node: &Node, checker: &mut Checker<'_>) -> Vec<(ShortString, Slot)> {
    let mut headers = Vec::with_capacity(config.headers.len());
    for (name, text) in &config.headers {
        let at = node.at(["headers", name]);
        // Names in AMQP may have capitals, which those of messages here have not.
        let is_good = check_header(&name.to_ascii_lowercase(), "").is_ok();
        match short_string(name, name) {
            Ok(short) if is_good => headers.push((short, checker.template(at, text))),
            _ => {
                let shown: String = name.escape_debug().take(80).collect();
                let mend = "write a name in ASCII without spaces and colons, of at most 255 bytes";
                checker.mistake("invalid_header", at, format!("`{shown}` is no name of a header"), mend);
            }
        }
    }
    headers
}

fn check_forwarded(names: &[String], key: &str, node: &Node, checker: &mut Checker<'_>) -> HeaderPatterns {
    match HeaderPatterns::parse(names, |_| Ok(())) {
        Ok(forwarded) => forwarded,
        Err(problems) => {
            for (index, problem) in problems {
                let shown: String =
                    names.get(index).map(|name| name.escape_debug().take(80).collect()).unwrap_or_default();
                let at = node.at([key, &index.to_string()]);
                let mend = "write a name, `order-*` for all that begin so, or `*` for all";
                checker.mistake("invalid_header", at, format!("`{shown}` {problem}"), mend);
            }
            HeaderPatterns::default()
        }
    }
}

// === impl Checked ===

impl Checked {
    /// How many messages may be unconfirmed at once; of calls it is those without a reply that are counted.
    pub(crate) fn most_unconfirmed(&self, is_call: bool) -> usize {
        match (is_call, self.mandatory) {
            (true, _) => usize::MAX,
            (false, true) => self.mandatory_channels,
            (false, false) => self.max_unconfirmed,
        }
    }

    /// The routing key of a message.
    ///
    /// # Errors
    /// It is too long.
    pub(crate) fn routing_key(&self, outgoing: &Outgoing<'_>) -> Result<ShortString, Unfit> {
        short_string("routing_key", outgoing.text(self.routing_key))
    }

    /// The properties of a message: what the configuration sets, above what is forwarded.
    ///
    /// # Errors
    /// What AMQP cannot carry.
    pub(crate) fn properties(&self, outgoing: &Outgoing<'_>) -> Result<BasicProperties, Unfit> {
        let message = outgoing.message;
        let mut properties = properties_of(message.headers(), &self.forwarded)?;
        // One that was forwarded is more than a default.
        if properties.delivery_mode().is_none() {
            properties = properties.with_delivery_mode(if self.persistent { 2 } else { 1 });
        }
        if self.timestamp && properties.timestamp().is_none() {
            properties = properties.with_timestamp(message.received_at().as_millis() / 1_000);
        }
        if properties.message_id().is_none()
            && let Ok(id) = ShortString::try_new(message.id().as_str())
        {
            properties = properties.with_message_id(id);
        }
        if let Some(expiration) = &self.expiration {
            properties = properties.with_expiration(expiration.clone());
        }
        if let Some(priority) = self.priority {
            properties = properties.with_priority(priority);
        }
        for (header, slot) in &self.properties {
            // What renders as nothing is not there.
            if !outgoing.text(*slot).is_empty() {
                properties = set_property(properties, header, outgoing.text(*slot))?;
            }
        }
        if !self.headers.is_empty() {
            let mut table = properties.headers().clone().unwrap_or_else(FieldTable::default);
            for (name, slot) in &self.headers {
                table.insert(name.clone(), AMQPValue::LongString(outgoing.text(*slot).into()));
            }
            properties = properties.with_headers(table);
        }
        Ok(properties)
    }
}

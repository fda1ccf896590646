//! From a source as written to one that can be prepared. Everything that is wrong is found here, and nothing is opened.

use std::{any::Any, collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use gristmill_core::{
    adapter::Checker,
    config::{Node, parse},
    connection::Connection,
    source::{Claim, EndpointContext, Order, PreparedSource, SourceError, SourceSpec},
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use tokio::time::Instant;

use super::{PreparedAmqpSource, settings::Settings};
use crate::{
    NAME,
    config::{Argument, BindingConfig, DeclareConfig, Overflow, QueueKind, SourceConfig},
    connection::{AmqpConnectionSpec, Brokers},
};

/// Arguments that have a key of their own, with that key.
const KNOWN_ARGUMENTS: [(&str, &str); 12] = [
    ("x-queue-type", "type"),
    ("x-dead-letter-exchange", "dead_letter_exchange"),
    ("x-dead-letter-routing-key", "dead_letter_routing_key"),
    ("x-message-ttl", "message_ttl_ms"),
    ("x-expires", "expires_ms"),
    ("x-max-length", "max_length"),
    ("x-max-length-bytes", "max_length_bytes"),
    ("x-overflow", "overflow"),
    ("x-max-priority", "max_priority"),
    ("x-single-active-consumer", "single_active_consumer"),
    ("x-delivery-limit", "delivery_limit"),
    ("x-stream-offset", "queue"),
];

/// Checked configuration of a source.
pub(crate) struct AmqpSourceSpec {
    connection: Connection,
    connection_spec: Arc<AmqpConnectionSpec>,
    brokers: Arc<Brokers>,
    queue: Queue,
}

/// What is wanted of a queue and its consumer.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Queue {
    pub(crate) name: ShortString,
    pub(crate) declare: Option<Declare>,
    pub(crate) bindings: Vec<Binding>,
    /// Of the consumer.
    pub(crate) exclusive: bool,
    pub(crate) consumer_arguments: FieldTable,
}

/// How a queue is declared.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Declare {
    pub(crate) durable: bool,
    pub(crate) exclusive: bool,
    pub(crate) auto_delete: bool,
    pub(crate) arguments: FieldTable,
    pub(crate) dead_letter_exchange: Option<ShortString>,
}

/// A binding of the queue.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Binding {
    pub(crate) exchange: ShortString,
    pub(crate) routing_key: ShortString,
    pub(crate) arguments: FieldTable,
}

/// Checks the configuration of a source. `None` when there are mistakes.
pub(crate) fn check(
    node: &Node,
    checker: &mut Checker<'_>,
    brokers: &Arc<Brokers>,
) -> Option<AmqpSourceSpec> {
    let before = checker.mistakes.len();
    let config: SourceConfig = parse(node, checker.mistakes)?;
    let connection = checker.connection(NAME, node.at(["connection"]), &config.connection);
    let queue = short(&config.queue, node.at(["queue"]), checker);
    if config.queue.starts_with("amq.") && config.declare.is_some() {
        let text = "names that begin with `amq.` are the broker's own";
        checker.mistake("invalid_name", node.at(["queue"]), text, "give the queue another name");
    }
    let declare =
        config.declare.as_ref().map(|declare| check_declare(declare, node.at(["declare"]), checker));
    let mut bindings = Vec::with_capacity(config.bindings.len());
    for (index, binding) in config.bindings.iter().enumerate() {
        bindings.extend(check_binding(binding, node.at(["bindings", &index.to_string()]), checker));
    }
    let mut consumer_arguments = FieldTable::default();
    if let Some(priority) = config.consumer_priority {
        consumer_arguments.insert("x-priority".into(), AMQPValue::LongInt(priority));
    }
    if checker.mistakes.len() > before {
        return None;
    }
    let connection = connection?;
    let connection_spec = connection.spec::<AmqpConnectionSpec>()?;
    let queue = Queue { name: queue?, declare, bindings, exclusive: config.exclusive, consumer_arguments };
    Some(AmqpSourceSpec { connection, connection_spec, brokers: Arc::clone(brokers), queue })
}

fn check_declare(config: &DeclareConfig, node: &Node, checker: &mut Checker<'_>) -> Declare {
    let mut arguments = FieldTable::default();
    let mut put = |name: &str, value: AMQPValue| {
        arguments.insert(name.into(), value);
    };
    let text = |text: &str| AMQPValue::LongString(text.into());
    // A count that fits, by the schema.
    let count = |count: u64| AMQPValue::LongLongInt(i64::try_from(count).unwrap_or(i64::MAX));
    let is_quorum = config.kind == Some(QueueKind::Quorum);
    match config.kind {
        None => {}
        Some(QueueKind::Classic) => put("x-queue-type", text("classic")),
        Some(QueueKind::Quorum) => put("x-queue-type", text("quorum")),
        Some(QueueKind::Stream) => checker.mistake(
            "unsupported",
            node.at(["type"]),
            "a stream cannot be a source: it does not take a released message back, so that it would be lost",
            "use `quorum` or `classic`; a queue may be bound to the same exchange as the stream",
        ),
    }
    let dead_letter_exchange = config
        .dead_letter_exchange
        .as_ref()
        .and_then(|exchange| short(exchange, node.at(["dead_letter_exchange"]), checker));
    let mut put = |name: &str, value: AMQPValue| {
        arguments.insert(name.into(), value);
    };
    if let Some(exchange) = &config.dead_letter_exchange {
        put("x-dead-letter-exchange", text(exchange));
    }
    if let Some(key) = &config.dead_letter_routing_key {
        put("x-dead-letter-routing-key", text(key));
        if config.dead_letter_exchange.is_none() {
            let text = "a routing key for dead letters is of no use without their exchange";
            let mend = "add `dead_letter_exchange` (`\"\"` is the default exchange)";
            checker.mistake("missing_key", node.at(["dead_letter_routing_key"]), text, mend);
        }
    }
    if is_quorum && config.delivery_limit.is_some() && config.dead_letter_exchange.is_none() {
        checker.mistake(
            "released_is_lost",
            node.at(["delivery_limit"]),
            "a message that is released more often than this is dropped by the broker, which counts every release",
            "add `dead_letter_exchange`, which then gets it, or leave this out",
        );
    }
    for (name, value) in [
        ("x-message-ttl", config.message_ttl_ms),
        ("x-expires", config.expires_ms),
        ("x-max-length", config.max_length),
        ("x-max-length-bytes", config.max_length_bytes),
        ("x-max-priority", config.max_priority.map(u64::from)),
        ("x-delivery-limit", config.delivery_limit.map(u64::from)),
    ] {
        if let Some(value) = value {
            put(name, count(value));
        }
    }
    match config.overflow {
        None => {}
        Some(Overflow::DropHead) => put("x-overflow", text("drop-head")),
        Some(Overflow::RejectPublish) => put("x-overflow", text("reject-publish")),
        Some(Overflow::RejectPublishDlx) => put("x-overflow", text("reject-publish-dlx")),
    }
    if config.single_active_consumer {
        put("x-single-active-consumer", AMQPValue::Boolean(true));
    }
    for (wrong, key, problem) in [
        (is_quorum && !config.durable, "durable", "a quorum queue is always durable"),
        (is_quorum && config.exclusive, "exclusive", "a quorum queue cannot be exclusive"),
        (is_quorum && config.auto_delete, "auto_delete", "a quorum queue cannot be deleted by itself"),
        (is_quorum && config.max_priority.is_some(), "max_priority", "a quorum queue has no priorities"),
        (
            is_quorum && config.overflow == Some(Overflow::RejectPublishDlx),
            "overflow",
            "a quorum queue does not dead-letter what it refuses",
        ),
        (
            !is_quorum && config.delivery_limit.is_some(),
            "delivery_limit",
            "only a quorum queue counts how often it offers a message",
        ),
        (
            config.overflow.is_some() && config.max_length.is_none() && config.max_length_bytes.is_none(),
            "overflow",
            "the queue has no limit at which this would happen",
        ),
    ] {
        if wrong {
            checker.mistake(
                "contradiction",
                node.at([key]),
                problem,
                format!("remove `{key}`, or change what it contradicts"),
            );
        }
    }
    for (name, argument) in &config.arguments {
        let at = node.at(["arguments", name]);
        if let Some((_, key)) = KNOWN_ARGUMENTS.iter().find(|(known, _)| known == name) {
            let text = format!("`{name}` has a key of its own");
            checker.mistake("wrong_place", at, text, format!("write `{key}` beside `arguments`"));
        } else if let Some(name) = short(name, at, checker) {
            arguments.insert(name, value_of(argument));
        }
    }
    Declare {
        durable: config.durable,
        exclusive: config.exclusive,
        auto_delete: config.auto_delete,
        arguments,
        dead_letter_exchange,
    }
}

fn check_binding(config: &BindingConfig, node: &Node, checker: &mut Checker<'_>) -> Option<Binding> {
    let exchange = short(&config.exchange, node.at(["exchange"]), checker);
    let routing_key = short(&config.routing_key, node.at(["routing_key"]), checker);
    let arguments = table_of(&config.arguments, node.at(["arguments"]), checker);
    Some(Binding { exchange: exchange?, routing_key: routing_key?, arguments })
}

fn table_of(arguments: &BTreeMap<String, Argument>, node: &Node, checker: &mut Checker<'_>) -> FieldTable {
    let mut table = FieldTable::default();
    for (name, argument) in arguments {
        if let Some(name) = short(name, node.at([name.as_str()]), checker) {
            table.insert(name, value_of(argument));
        }
    }
    table
}

fn value_of(argument: &Argument) -> AMQPValue {
    match argument {
        Argument::Bool(is) => AMQPValue::Boolean(*is),
        Argument::Integer(number) => AMQPValue::LongLongInt(*number),
        Argument::Text(text) => AMQPValue::LongString(text.as_str().into()),
    }
}

/// The schema counts characters, AMQP bytes.
fn short(text: &str, node: &Node, checker: &mut Checker<'_>) -> Option<ShortString> {
    let short = ShortString::try_new(text).ok();
    if short.is_none() {
        checker.mistake(
            "invalid_name",
            node,
            "this is longer than the 255 bytes that AMQP allows",
            "shorten it",
        );
    }
    short
}

// === impl AmqpSourceSpec ===

#[async_trait]
impl SourceSpec for AmqpSourceSpec {
    fn identity(&self) -> String {
        format!("{NAME} {} {}", self.connection.name, self.queue.name)
    }

    fn claims(&self) -> Vec<Claim> {
        // Several flows may share a queue, as several consumers do; what cannot be shared is a conflict.
        Vec::new()
    }

    fn conflict(&self, other: &dyn SourceSpec) -> Option<String> {
        let other: &Self = (other as &dyn Any).downcast_ref()?;
        if other.identity() != self.identity() {
            return None;
        }
        let (queue, theirs) = (&self.queue, &other.queue);
        if queue.exclusive || theirs.exclusive {
            return Some(format!("an `exclusive` consumer has the queue `{}` for itself", queue.name));
        }
        if queue.declare.is_some() && theirs.declare.is_some() && queue.declare != theirs.declare {
            return Some(format!("they declare the queue `{}` with different properties", queue.name));
        }
        None
    }

    fn order(&self) -> Order {
        Order::Total
    }

    fn keeps_rejected(&self) -> bool {
        self.queue.declare.as_ref().is_some_and(|declare| declare.dead_letter_exchange.is_some())
    }

    fn replies(&self) -> bool {
        false
    }

    async fn prepare(&self, context: EndpointContext) -> Result<Box<dyn PreparedSource>, SourceError> {
        let broker = self.brokers.get(&self.connection, &self.connection_spec);
        // Some of the time is left for taking over.
        let deadline = Instant::now() + context.limits.prepare() / 2;
        let settings =
            Arc::new(Settings::new(self.queue.clone(), broker, Arc::clone(&self.brokers), context));
        PreparedAmqpSource::new(settings, deadline).await.map(|prepared| Box::new(prepared) as _)
    }
}

impl std::fmt::Debug for AmqpSourceSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AmqpSourceSpec")
            .field("connection", &self.connection.name)
            .field("queue", &self.queue)
            .finish_non_exhaustive()
    }
}

//! The contract of every adapter.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use gristmill_brokers::rabbitmq::RabbitMq;
use gristmill_core::{
    adapter::{Adapter as _, SinkUse},
    sink::Sink,
    source::Source,
    testkit::contract::{SinkHarness, SourceHarness, sink_suite, source_suite, spec_is_sound},
};
use lapin::{
    BasicProperties, ExchangeKind,
    options::{ExchangeDeclareOptions, ExchangeDeleteOptions, QueueBindOptions},
    types::FieldTable,
};
use serde_json::{Value as Json, json};

use crate::support::{Bench, Outside, unique};

/// What changes when a source is taken over.
#[derive(Clone, Copy)]
enum Change {
    /// Nothing that the consumer is made of.
    Release,
    /// The consumer: it is made anew on the same connection.
    Consumer,
    /// The connection.
    Connection,
}

struct Queue {
    bench: Bench,
    outside: Option<Outside>,
    queue: String,
    config: Json,
    change: Change,
}

impl Queue {
    fn new(config: &Json, change: Change) -> Self {
        let queue = unique("contract");
        let mut config = config.clone();
        config["connection"] = "rabbit".into();
        config["queue"] = queue.as_str().into();
        config["declare"] = json!({});
        Self { bench: Bench::new(RabbitMq::shared().url()), outside: None, queue, config, change }
    }
}

#[async_trait]
impl SourceHarness for Queue {
    async fn start(&mut self) -> Box<dyn Source> {
        self.outside = Some(Outside::new(RabbitMq::shared().url()).await);
        self.bench.start(&self.config).await.unwrap()
    }

    async fn take_over(&mut self, old: Box<dyn Source>) -> Box<dyn Source> {
        match self.change {
            Change::Release => self.bench.limits.release_delay_ms = 1,
            Change::Consumer => self.bench.limits.in_flight = 7,
            Change::Connection => {
                self.bench.connect(&json!({"urls": [RabbitMq::shared().url()], "heartbeat_ms": 7_000}));
            }
        }
        self.bench.take_over(&self.config, old).await.ok().unwrap()
    }

    async fn inject(&mut self, body: Bytes) {
        let id = unique("id");
        let properties = BasicProperties::default().with_message_id(id.as_str().into());
        self.outside.as_ref().unwrap().publish(&self.queue, &body, properties).await;
    }

    fn redelivers(&self) -> bool {
        true
    }

    async fn is_empty(&mut self) -> bool {
        // That nothing is left unacknowledged either is seen by the tests that end the connection.
        self.bench.adapter.finish().await;
        self.outside.as_ref().unwrap().ready(&self.queue).await == 0
    }
}

#[tokio::test]
async fn the_source_keeps_the_contract() {
    source_suite(|| Queue::new(&json!({}), Change::Release)).await;
}

#[tokio::test]
async fn a_source_whose_consumer_changes_keeps_the_contract() {
    source_suite(|| Queue::new(&json!({"exclusive": true}), Change::Consumer)).await;
}

#[tokio::test]
async fn a_source_whose_connection_changes_keeps_the_contract() {
    source_suite(|| Queue::new(&json!({"exclusive": true}), Change::Connection)).await;
}

#[test]
fn the_spec_of_the_source_is_sound() {
    let bench = Bench::new("amqp://127.0.0.1");
    spec_is_sound(&*bench.check_source(&json!({"connection": "rabbit", "queue": "q"})).unwrap());
}

struct Exchange {
    outside: Option<Outside>,
    name: String,
    config: Json,
    arrived: Vec<Bytes>,
    bench: Bench,
}

impl Exchange {
    fn new(config: &Json) -> Self {
        let name = unique("contract");
        let mut config = config.clone();
        config["connection"] = "rabbit".into();
        config["exchange"] = name.as_str().into();
        config["routing_key"] = "key".into();
        let bench = Bench::new(RabbitMq::shared().url());
        Self { outside: None, name, config, arrived: Vec::new(), bench }
    }
}

#[async_trait]
impl SinkHarness for Exchange {
    async fn open(&mut self) -> (Arc<dyn Sink>, Vec<String>) {
        let outside = Outside::new(RabbitMq::shared().url()).await;
        let (name, none) = (self.name.as_str(), FieldTable::default());
        let options = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
        outside
            .channel
            .exchange_declare(name.into(), ExchangeKind::Topic, options, none.clone())
            .await
            .unwrap();
        outside.declare(name).await;
        let bind = outside.channel.queue_bind(
            name.into(),
            name.into(),
            "#".into(),
            QueueBindOptions::default(),
            none,
        );
        bind.await.unwrap();
        self.outside = Some(outside);
        let open = self.bench.open(&self.config, SinkUse::Send).await;
        (open.sink, open.texts)
    }

    async fn arrived(&mut self) -> Vec<Bytes> {
        while let Some(delivery) = self.outside.as_ref().unwrap().get(&self.name).await {
            self.arrived.push(delivery.data.into());
        }
        self.arrived.clone()
    }

    fn keeps_order(&self) -> bool {
        true
    }

    async fn break_it(&mut self) {
        let options = ExchangeDeleteOptions::default();
        self.outside
            .as_ref()
            .unwrap()
            .channel
            .exchange_delete(self.name.as_str().into(), options)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn the_sink_keeps_the_contract() {
    sink_suite(|| Exchange::new(&json!({}))).await;
}

#[tokio::test]
async fn the_mandatory_sink_keeps_the_contract() {
    sink_suite(|| Exchange::new(&json!({"mandatory": true}))).await;
}

//! The contract of adapters, kept by the source and the sink with both versions of the protocol.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use gristmill_brokers::mosquitto::Mosquitto;
use gristmill_core::{
    adapter::SinkUse,
    sink::Sink,
    source::Source,
    testkit::contract::{SinkHarness, SourceHarness, sink_suite, source_suite, spec_is_sound},
};
use rumqttc_v5::QoS;
use serde_json::{Value as Json, json};

use crate::support::{Client, Runtime, acknowledged, eventually};

/// A topic on a broker of its own.
struct Topic {
    version: Json,
    qos: u8,
    /// The settings of the connection that take over, besides those of the subscription.
    later: Option<Json>,
    world: Option<World>,
}

struct World {
    broker: Mosquitto,
    runtime: Runtime,
    sender: Client,
    injected: usize,
}

impl Topic {
    fn new(version: Json, qos: u8, later: Option<Json>) -> Self {
        Self { version, qos, later, world: None }
    }
}

#[async_trait]
impl SourceHarness for Topic {
    async fn start(&mut self) -> Box<dyn Source> {
        let broker = Mosquitto::start();
        let runtime = Runtime::new(&broker.url(), self.version.clone(), json!({}));
        let source = runtime.source(json!({"topics": ["in/+"], "qos": self.qos})).await;
        let sender = Client::new(&broker, &[]).await;
        self.world = Some(World { broker, runtime, sender, injected: 0 });
        source
    }

    async fn take_over(&mut self, old: Box<dyn Source>) -> Box<dyn Source> {
        let world = self.world.as_mut().unwrap();
        if let Some(later) = &self.later {
            let url = world.broker.url();
            world.runtime.connect(&url, self.version.clone(), later.clone());
        }
        let config = json!({"topics": ["in/+", "elsewhere/#"], "qos": self.qos});
        world.runtime.prepare(config).await.take_over(old).await.ok().unwrap()
    }

    async fn inject(&mut self, body: Bytes) {
        let world = self.world.as_mut().unwrap();
        world.injected += 1;
        world.sender.publish("in/a", QoS::ExactlyOnce, body).await;
    }

    fn redelivers(&self) -> bool {
        true
    }

    async fn is_empty(&mut self) -> bool {
        let world = self.world.as_ref().unwrap();
        if self.qos > 0 {
            let all = || {
                let of = |client: &str| acknowledged(&world.broker, client).len();
                of("mill-tests") + of("later-tests") == world.injected
            };
            eventually("not every message was acknowledged, or one was twice", all).await;
        }
        true
    }
}

/// A broker to which a sink publishes, and another client that listens.
struct Outlet {
    version: Json,
    qos: u8,
    open: Option<Open>,
}

struct Open {
    broker: Mosquitto,
    listener: Client,
    arrived: Vec<Bytes>,
    is_broken: bool,
}

impl Outlet {
    fn new(version: Json, qos: u8) -> Self {
        Self { version, qos, open: None }
    }
}

#[async_trait]
impl SinkHarness for Outlet {
    async fn open(&mut self) -> (Arc<dyn Sink>, Vec<String>) {
        let broker = Mosquitto::start();
        let runtime = Runtime::new(&broker.url(), self.version.clone(), json!({}));
        let sink = runtime.sink(json!({"topic": "out/a", "qos": self.qos}), SinkUse::Send).await;
        let listener = Client::new(&broker, &["out/+", "marker"]).await;
        self.open = Some(Open { broker, listener, arrived: Vec::new(), is_broken: false });
        (sink, Vec::new())
    }

    async fn arrived(&mut self) -> Vec<Bytes> {
        let open = self.open.as_mut().unwrap();
        if !open.is_broken {
            // The broker has what it has confirmed, so this comes after it.
            open.listener.publish("marker", QoS::ExactlyOnce, "").await;
            loop {
                let publish = open.listener.next().await;
                if publish.topic == "marker" {
                    break;
                }
                open.arrived.push(publish.payload);
            }
        }
        open.arrived.clone()
    }

    fn keeps_order(&self) -> bool {
        true
    }

    async fn break_it(&mut self) {
        let open = self.open.as_mut().unwrap();
        open.broker.stop();
        open.is_broken = true;
    }
}

#[tokio::test]
async fn the_sink_keeps_the_contract_with_version_5() {
    sink_suite(|| Outlet::new(json!(5), 1)).await;
}

#[tokio::test]
async fn the_sink_keeps_the_contract_with_version_5_and_qos_2() {
    sink_suite(|| Outlet::new(json!(5), 2)).await;
}

#[tokio::test]
async fn the_sink_keeps_the_contract_with_version_3_1_1() {
    sink_suite(|| Outlet::new(json!("3.1.1"), 1)).await;
}

#[tokio::test]
async fn the_source_keeps_the_contract_with_version_5() {
    source_suite(|| Topic::new(json!(5), 1, None)).await;
}

#[tokio::test]
async fn the_source_keeps_the_contract_with_version_5_and_qos_2() {
    source_suite(|| Topic::new(json!(5), 2, None)).await;
}

#[tokio::test]
async fn the_source_keeps_the_contract_when_its_connection_changes() {
    source_suite(|| Topic::new(json!(5), 1, Some(json!({"keep_alive_s": 20})))).await;
}

#[tokio::test]
async fn the_source_keeps_the_contract_with_version_3_1_1() {
    source_suite(|| Topic::new(json!("3.1.1"), 1, None)).await;
}

#[tokio::test]
async fn the_source_keeps_the_contract_with_version_3_1_1_and_another_connection() {
    source_suite(|| Topic::new(json!("3.1.1"), 2, Some(json!({"keep_alive_s": 20})))).await;
}

#[tokio::test]
async fn the_source_keeps_the_contract_when_its_client_id_changes() {
    source_suite(|| Topic::new(json!(5), 1, Some(json!({"client_id": "later"})))).await;
}

#[tokio::test]
async fn the_source_keeps_the_contract_with_version_3_1_1_and_another_client_id() {
    source_suite(|| Topic::new(json!("3.1.1"), 2, Some(json!({"client_id": "later"})))).await;
}

#[tokio::test]
async fn the_spec_of_the_source_is_sound() {
    let runtime = Runtime::new("mqtt://127.0.0.1:1", json!(5), json!({}));
    spec_is_sound(&*runtime.source_spec(json!({"topics": ["a"]})));
    spec_is_sound(&*runtime.source_spec(json!({"topics": ["a"], "client_id": "own"})));
}

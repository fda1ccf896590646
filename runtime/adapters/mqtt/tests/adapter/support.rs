//! A broker, a flow's source and sink on it, and another client, which is not of this adapter.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use gristmill_brokers::mosquitto::Mosquitto;
use gristmill_core::{
    Delivery, SystemClock,
    adapter::{Adapter, CheckedSink, Checker, SinkUse},
    config::Mistakes,
    connection::{Connection, Connections},
    limits::FlowLimits,
    observe::EndpointObserver,
    sink::{Sink, SinkContext},
    source::{EndpointContext, PreparedSource, Source, SourceSpec},
    testkit::contract::{PATIENCE, config_node, no_mistakes},
};
use gristmill_mqtt::MqttAdapter;
use rumqttc_v5::{AsyncClient, Event, MqttOptions, Packet, Publish, PublishOptions, QoS, SubscribeFilter};
use serde_json::{Value as Json, json};
use tokio::{sync::mpsc, task::JoinHandle};

/// The flow of every test.
pub(crate) const FLOW: &str = "tests";

/// A runtime: an adapter with one connection, `plant`.
pub(crate) struct Runtime {
    pub(crate) adapter: MqttAdapter,
    pub(crate) connections: Connections,
    pub(crate) limits: FlowLimits,
    /// Why sources have refused messages.
    pub(crate) refused: Refused,
    folder: tempfile::TempDir,
}

/// Notes what is refused.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refused(Arc<Mutex<Vec<&'static str>>>);

impl Refused {
    pub(crate) fn reasons(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }
}

impl EndpointObserver for Refused {
    fn refused(&self, reason: &'static str) {
        self.0.lock().unwrap().push(reason);
    }
}

impl Runtime {
    /// With a connection to this broker, and what else is configured of it.
    pub(crate) fn new(url: &str, version: Json, more: Json) -> Self {
        let mut runtime = Self {
            adapter: MqttAdapter::new(),
            connections: Connections::default(),
            limits: FlowLimits { release_delay_ms: 20, prepare_ms: 10_000, ..FlowLimits::default() },
            refused: Refused::default(),
            folder: tempfile::tempdir().unwrap(),
        };
        runtime.connect(url, version, more);
        runtime
    }

    /// The connection is another one from now on.
    pub(crate) fn connect(&mut self, url: &str, version: Json, more: Json) {
        let mut config = json!({
            "url": url, "version": version, "client_id": "mill",
            "reconnect": {"initial_delay_ms": 20, "max_delay_ms": 100}
        });
        let more = more.as_object().cloned().unwrap_or_default();
        config.as_object_mut().unwrap().extend(more);
        let mut mistakes = Mistakes::new();
        let mut checker = Checker::new(&mut mistakes, self.folder.path(), &self.limits);
        let spec = self.adapter.check_connection(&config_node(&config), &mut checker);
        no_mistakes(&mistakes);
        self.connections.insert(Connection {
            name: "plant".into(),
            adapter: "mqtt",
            fingerprint: config.to_string().into(),
            spec: spec.unwrap(),
        });
    }

    pub(crate) fn source_spec(&self, config: Json) -> Arc<dyn SourceSpec> {
        self.source_spec_of(FLOW, config)
    }

    fn source_spec_of(&self, flow: &str, config: Json) -> Arc<dyn SourceSpec> {
        let mut config = config;
        config["connection"] = "plant".into();
        let mut mistakes = Mistakes::new();
        let mut checker = Checker::new(&mut mistakes, self.folder.path(), &self.limits)
            .with_connections(&self.connections)
            .for_flow(Some(flow));
        let spec = self.adapter.check_source(&config_node(&config), &mut checker);
        no_mistakes(&mistakes);
        spec.unwrap()
    }

    pub(crate) async fn prepare(&self, config: Json) -> Box<dyn PreparedSource> {
        self.prepare_of(FLOW, config).await
    }

    /// The source of another flow.
    pub(crate) async fn prepare_of(&self, flow: &str, config: Json) -> Box<dyn PreparedSource> {
        let state_dir = self.folder.path().join(if flow == FLOW { "state" } else { flow });
        let context = EndpointContext {
            flow: flow.into(),
            limits: self.limits.clone(),
            state_dir,
            clock: Arc::new(SystemClock),
            observer: Arc::new(self.refused.clone()),
        };
        self.source_spec_of(flow, config).prepare(context).await.unwrap()
    }

    /// What is noted of sessions.
    pub(crate) fn noted(&self) -> String {
        let file = self.folder.path().join("state/mqtt-subscriptions.json");
        std::fs::read_to_string(file).unwrap_or_default()
    }

    pub(crate) async fn source(&self, config: Json) -> Box<dyn Source> {
        self.prepare(config).await.start().await.unwrap()
    }

    pub(crate) fn check_sink(&self, config: Json, usage: SinkUse) -> CheckedSink {
        let mut config = config;
        config["connection"] = "plant".into();
        let mut mistakes = Mistakes::new();
        let mut checker =
            Checker::new(&mut mistakes, self.folder.path(), &self.limits).with_connections(&self.connections);
        let sink = self.adapter.check_sink(&config_node(&config), usage, &mut checker);
        no_mistakes(&mistakes);
        sink.unwrap()
    }

    pub(crate) async fn sink(&self, config: Json, usage: SinkUse) -> Arc<dyn Sink> {
        let context = SinkContext { flow: FLOW.into(), body_bytes: 1 << 20 };
        self.check_sink(config, usage).spec.open(context).await.unwrap()
    }
}

/// What is logged in this thread from now on, as long as the guard is there.
#[derive(Clone, Default)]
pub(crate) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub(crate) fn begin() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    /// The lines with this.
    pub(crate) fn lines(&self, with: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(with)).map(ToOwned::to_owned).collect()
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// The next delivery, through whatever the broker goes through meanwhile.
pub(crate) async fn next(source: &mut dyn Source) -> Delivery {
    let next = async {
        loop {
            match source.next().await {
                Ok(delivery) => return delivery.expect("the source has ended"),
                Err(_down) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    tokio::time::timeout(PATIENCE, next).await.expect("the source gives nothing")
}

/// The text of its body.
pub(crate) fn body(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message.body().to_vec()).unwrap()
}

/// Looks again and again until it holds.
pub(crate) async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "{what}");
}

/// The acknowledgements that the broker has heard from a client, by packet identifier, in order: what is done with for good.
pub(crate) fn acknowledged(broker: &Mosquitto, client_id: &str) -> Vec<u16> {
    let (one, two) =
        (format!("Received PUBACK from {client_id} "), format!("Received PUBCOMP from {client_id} "));
    let log = broker.log();
    let lines = log.lines().filter(|line| line.contains(&one) || line.contains(&two));
    let number = |line: &str| {
        let rest = line.split("Mid: ").nth(1).unwrap();
        rest.split(|c: char| !c.is_ascii_digit()).next().unwrap().parse().unwrap()
    };
    lines.map(number).collect()
}

/// Another client. It connects again by itself.
pub(crate) struct Client {
    pub(crate) client: AsyncClient,
    pub(crate) received: mpsc::UnboundedReceiver<Publish>,
    task: JoinHandle<()>,
}

impl Client {
    /// Connected to this broker, with these topic filters.
    pub(crate) async fn new(broker: &Mosquitto, filters: &[&str]) -> Self {
        let id = format!("other-{:08x}", rand::random::<u32>());
        let mut options = MqttOptions::new(id, ("127.0.0.1", broker.address().port()));
        options.set_clean_start(true).set_keep_alive(60);
        let (client, mut events) = AsyncClient::builder(options).capacity(1_000).build();
        let (give, received) = mpsc::unbounded_channel();
        let task = tokio::spawn(async move {
            loop {
                match events.poll().await {
                    Ok(Event::Incoming(Packet::Publish(publish))) => {
                        let _gone = give.send(publish);
                    }
                    Ok(_) => {}
                    Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                }
            }
        });
        if !filters.is_empty() {
            let filters: Vec<_> =
                filters.iter().map(|filter| SubscribeFilter::new(*filter, QoS::ExactlyOnce)).collect();
            let notice = client.subscribe_many_tracked(filters).await.unwrap();
            notice.wait_completion_async().await.unwrap();
        }
        Self { client, received, task }
    }

    /// Publishes, and waits until the broker has it.
    pub(crate) async fn publish(&self, topic: &str, qos: QoS, body: impl Into<Bytes>) {
        let notice = self.client.publish_tracked(topic, body.into(), PublishOptions::new(qos)).await.unwrap();
        notice.wait_completion_async().await.unwrap();
    }

    /// The next message that it has subscribed to.
    pub(crate) async fn next(&mut self) -> Publish {
        let next = tokio::time::timeout(PATIENCE, self.received.recv()).await;
        next.expect("nothing has come").expect("the client has ended")
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Tries as the runtime does, until it is no longer refused. The refusal ends with something at the broker or in another task,
/// of which nobody is told, so there is no event to wait for.
pub(crate) async fn again_and_again<T>(mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    const BETWEEN: Duration = Duration::from_millis(5);
    const LIMIT: Duration = Duration::from_secs(20);
    let tried = async {
        loop {
            if let Some(done) = attempt().await {
                return done;
            }
            tokio::time::sleep(BETWEEN).await;
        }
    };
    tokio::time::timeout(LIMIT, tried).await.expect("it stays refused")
}

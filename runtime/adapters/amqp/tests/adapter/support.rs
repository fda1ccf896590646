//! Sources, sinks and queues in a few lines.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use gristmill_amqp::AmqpAdapter;
use gristmill_core::{
    Delivery, Failure, Message, SystemClock, Timestamp,
    adapter::{Adapter, CheckedSink, Checker, SinkUse},
    config::{Mistake, Mistakes},
    connection::{Connection, Connections},
    limits::FlowLimits,
    observe::Unobserved,
    sink::{Answer, Outgoing, Sink, SinkContext},
    source::{EndpointContext, Source, SourceError, SourceSpec},
    testkit::contract::{PATIENCE, config_node},
};
use lapin::{
    BasicProperties, Channel,
    options::{
        BasicAckOptions, BasicGetOptions, BasicPublishOptions, ConfirmSelectOptions, QueueDeclareOptions,
    },
    types::FieldTable,
};
use serde_json::{Value as Json, json};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::timeout,
};

/// An adapter with a connection `rabbit` to a broker.
pub(crate) struct Bench {
    pub(crate) adapter: AmqpAdapter,
    pub(crate) connections: Connections,
    pub(crate) limits: FlowLimits,
}

/// A plain client of the broker, to look at it from outside.
pub(crate) struct Outside {
    _connection: lapin::Connection,
    pub(crate) channel: Channel,
}

/// Passes bytes on to a broker, until it is dropped: then every connection through it breaks.
pub(crate) struct Relay {
    url: String,
    _connections: JoinSet<()>,
}

/// A sink with the texts that a message is sent with.
pub(crate) struct OpenSink {
    pub(crate) sink: Arc<dyn Sink>,
    pub(crate) texts: Vec<String>,
}

impl Bench {
    pub(crate) fn new(url: &str) -> Self {
        Self::with(json!({"urls": [url], "reconnect": {"initial_delay_ms": 50, "max_delay_ms": 200}}))
    }

    /// With a connection as it is written.
    pub(crate) fn with(connection: Json) -> Self {
        let limits = FlowLimits { release_delay_ms: 20, prepare_ms: 20_000, ..FlowLimits::default() };
        let mut bench = Self { adapter: AmqpAdapter::new(), connections: Connections::default(), limits };
        bench.connect(&connection);
        bench
    }

    /// Defines the connection `rabbit`, anew if there is one.
    pub(crate) fn connect(&mut self, config: &Json) {
        let connection = self.check_connection(config).unwrap();
        self.connections.insert(connection);
    }

    pub(crate) fn check_connection(&self, config: &Json) -> Result<Connection, Vec<Mistake>> {
        let mut mistakes = Mistakes::new();
        let mut checker = Checker::new(&mut mistakes, Path::new("."), &self.limits);
        let spec = self.adapter.check_connection(&config_node(config), &mut checker);
        let Some(spec) = spec.filter(|_| mistakes.is_empty()) else { return Err(mistakes.into_sorted()) };
        let fingerprint = config.to_string().into();
        Ok(Connection { name: "rabbit".into(), adapter: "amqp", fingerprint, spec })
    }

    pub(crate) fn check_source(&self, config: &Json) -> Result<Arc<dyn SourceSpec>, Vec<Mistake>> {
        let mut mistakes = Mistakes::new();
        let mut checker =
            Checker::new(&mut mistakes, Path::new("."), &self.limits).with_connections(&self.connections);
        let spec = self.adapter.check_source(&config_node(config), &mut checker);
        spec.filter(|_| mistakes.is_empty()).ok_or_else(|| mistakes.into_sorted())
    }

    pub(crate) fn check_sink(&self, config: &Json, usage: SinkUse) -> Result<CheckedSink, Vec<Mistake>> {
        let mut mistakes = Mistakes::new();
        let mut checker =
            Checker::new(&mut mistakes, Path::new("."), &self.limits).with_connections(&self.connections);
        let checked = self.adapter.check_sink(&config_node(config), usage, &mut checker);
        checked.filter(|_| mistakes.is_empty()).ok_or_else(|| mistakes.into_sorted())
    }

    pub(crate) fn context(&self) -> EndpointContext {
        EndpointContext {
            flow: "test".into(),
            limits: self.limits.clone(),
            state_dir: "unused".into(),
            clock: Arc::new(SystemClock),
            observer: Arc::new(Unobserved),
        }
    }

    pub(crate) async fn start(&self, config: &Json) -> Result<Box<dyn Source>, SourceError> {
        let spec = self.check_source(config).unwrap();
        spec.prepare(self.context()).await?.start().await
    }

    pub(crate) async fn take_over(
        &self,
        config: &Json,
        old: Box<dyn Source>,
    ) -> Result<Box<dyn Source>, Box<dyn Source>> {
        let spec = self.check_source(config).unwrap();
        let prepared = match spec.prepare(self.context()).await {
            Ok(prepared) => prepared,
            Err(_) => return Err(old),
        };
        prepared.take_over(old).await.map_err(|failed| failed.old)
    }

    /// A sink whose texts are sent as they are written.
    pub(crate) async fn open(&self, config: &Json, usage: SinkUse) -> OpenSink {
        self.try_open(config, usage).await.unwrap()
    }

    pub(crate) async fn try_open(&self, config: &Json, usage: SinkUse) -> Result<OpenSink, Failure> {
        let checked = self.check_sink(config, usage).unwrap();
        let context = SinkContext { flow: "test".into(), body_bytes: self.limits.body_bytes };
        let texts = checked.templates.into_iter().map(|template| template.text).collect();
        Ok(OpenSink { sink: checked.spec.open(context).await?, texts })
    }
}

impl Relay {
    pub(crate) async fn to(url: &str) -> Self {
        let broker = url.strip_prefix("amqp://").unwrap().to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("amqp://{}", listener.local_addr().unwrap());
        let mut connections = JoinSet::new();
        connections.spawn(async move {
            let mut passing = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let mut far = TcpStream::connect(&broker).await.unwrap();
                passing.spawn(async move { copy_bidirectional(&mut near, &mut far).await.map(drop) });
            }
        });
        Self { url, _connections: connections }
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

impl OpenSink {
    pub(crate) async fn send(&self, message: &Message) -> Result<(), Failure> {
        timeout(PATIENCE * 2, self.sink.send(Outgoing::new(message, &self.texts))).await.unwrap()
    }

    pub(crate) async fn call(&self, message: &Message) -> Result<Answer, Failure> {
        timeout(PATIENCE * 2, self.sink.call(Outgoing::new(message, &self.texts))).await.unwrap()
    }
}

impl Outside {
    pub(crate) async fn new(url: &str) -> Self {
        let connection = lapin::Connection::connect(url, Default::default()).await.unwrap();
        let channel = connection.create_channel().await.unwrap();
        channel.confirm_select(ConfirmSelectOptions::default()).await.unwrap();
        Self { _connection: connection, channel }
    }

    /// A durable queue of this name.
    pub(crate) async fn declare(&self, queue: &str) {
        let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
        self.channel.queue_declare(queue.into(), options, FieldTable::default()).await.unwrap();
    }

    pub(crate) async fn publish(&self, queue: &str, body: &[u8], properties: BasicProperties) {
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let published = self.channel.basic_publish("".into(), queue.into(), options, body, properties).await;
        let confirmation = published.unwrap().await.unwrap();
        assert!(confirmation.is_ack() && confirmation.take_message().is_none(), "no queue `{queue}`");
    }

    /// The next message of a queue, which is taken out of it.
    pub(crate) async fn get(&self, queue: &str) -> Option<lapin::message::Delivery> {
        let got = self.channel.basic_get(queue.into(), BasicGetOptions::default()).await.unwrap()?;
        got.delivery.ack(BasicAckOptions::default()).await.unwrap();
        Some(got.delivery)
    }

    /// How many messages are ready in a queue.
    pub(crate) async fn ready(&self, queue: &str) -> u32 {
        let options = QueueDeclareOptions { passive: true, ..QueueDeclareOptions::default() };
        let queue = self.channel.queue_declare(queue.into(), options, FieldTable::default()).await;
        queue.unwrap().message_count()
    }
}

/// A name that no other queue has.
pub(crate) fn unique(what: &str) -> String {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("test-{what}-{}-{number}", std::process::id())
}

pub(crate) fn message(body: &str) -> Message {
    Message::new(unique("message"), Timestamp::from_millis(1_700_000_000_500), body.to_owned())
}

/// The next delivery, waiting through what the source cannot do for now.
pub(crate) async fn next(source: &mut dyn Source) -> Delivery {
    let take = async {
        loop {
            match source.next().await {
                Ok(Some(delivery)) => return delivery,
                Ok(None) => panic!("the source has ended"),
                // As the engine does.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    timeout(PATIENCE * 3, take).await.expect("nothing comes")
}

/// Looks again and again until it holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let look = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("never: {what}"));
}

pub(crate) fn body(delivery: &Delivery) -> String {
    String::from_utf8_lossy(delivery.message.body()).into_owned()
}

//! An adapter whose source and sink are played by the test. In a flow it is `scripted: { name: … }`; sources and sinks of
//! one name are the same, over all versions.

use std::{
    collections::{BTreeMap, VecDeque},
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering as Atomic},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::{
    sync::{Notify, oneshot, watch},
    time::Instant,
};

use crate::{
    acknowledgement::Acknowledgement,
    adapter::{Adapter, CheckedSink, Checker, SinkUse},
    clock::Timestamp,
    config::{self, Node, Schema},
    connection::{ConnectionSpec, ConnectionState},
    delivery::Delivery,
    failure::Failure,
    message::Message,
    settlement::{Outcome, Settlement},
    sink::{Answer, Outgoing, Sink, SinkContext, SinkSpec, Slot},
    source::{Claim, EndpointContext, Order, PreparedSource, Source, SourceError, SourceSpec, TakeOverError},
};

/// The adapter. Its name in a flow is `scripted`.
#[derive(Default)]
pub struct ScriptedAdapter {
    sources: Mutex<BTreeMap<String, Arc<ScriptedSource>>>,
    sinks: Mutex<BTreeMap<String, Arc<ScriptedSink>>>,
    connection_states: Mutex<Vec<ConnectionState>>,
}

/// What the test does as the source.
#[derive(Default)]
pub struct ScriptedSource {
    queue: Mutex<VecDeque<Waiting>>,
    more: Notify,
    offered: AtomicUsize,
    /// The next `prepare` fails with this.
    refuse: Mutex<Option<String>>,
    /// The next `take_over` fails with this.
    refuse_take_over: Mutex<Option<String>>,
    events: Mutex<Vec<String>>,
    /// How often what runs it was dropped.
    ended: AtomicUsize,
    paused: watch::Sender<Option<String>>,
    keeps_order: AtomicBool,
    loses_rejected: AtomicBool,
    takes_no_replies: AtomicBool,
    /// The next calls of `next` fail with these.
    failures: Mutex<VecDeque<String>>,
    /// The next call of `next` panics.
    panics: AtomicBool,
    /// The next `prepare` never ends.
    hangs: AtomicBool,
    /// The next `take_over` never ends.
    hangs_taking_over: AtomicBool,
}

/// How long a sink takes to confirm a message.
type Takes = Arc<dyn Fn(&Message) -> Duration + Send + Sync>;

struct Waiting {
    message: Message,
    not_before: Instant,
    tell: oneshot::Sender<Outcome>,
    redelivered: bool,
    requeue: bool,
}

/// A message that the test has offered.
pub struct Offered(oneshot::Receiver<Outcome>);

/// What the test sees and says as the sink.
pub struct ScriptedSink {
    sent: Mutex<Vec<(Message, String)>>,
    answers: Mutex<VecDeque<Result<Answer, Failure>>>,
    takes: Mutex<Option<Takes>>,
    gate: watch::Sender<bool>,
    started: watch::Sender<usize>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SourceConfig {
    /// Which source.
    name: String,
    /// Something that can be changed without changing what source it is.
    #[serde(default)]
    setting: Option<String>,
    /// On which terms it shares a stage with the other sources that have such.
    #[serde(default)]
    terms: Option<String>,
    /// A file of configuration.
    #[serde(default)]
    file: Option<PathBuf>,
    /// A connection.
    #[serde(default)]
    connection: Option<String>,
}

/// A connection that connects nothing.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct ConnectionConfig {
    /// Something that can be changed.
    #[allow(dead_code, reason = "that it changes is what counts")]
    host: String,
}

impl ConnectionSpec for ConnectionConfig {}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct SinkConfig {
    /// Which sink.
    name: String,
    /// A text that is rendered for each message.
    #[serde(default)]
    text: Option<String>,
    /// A file of configuration.
    #[serde(default)]
    file: Option<PathBuf>,
    /// A connection.
    #[serde(default)]
    connection: Option<String>,
}

struct Spec {
    name: String,
    setting: Option<String>,
    terms: Option<String>,
    file: Option<PathBuf>,
    source: Arc<ScriptedSource>,
}

struct Prepared(Running);

struct Running {
    source: Arc<ScriptedSource>,
    release_delay: Duration,
    setting: Option<String>,
    closed: bool,
}

struct CheckedScript {
    sink: Arc<ScriptedSink>,
    slot: Slot,
    file: Option<PathBuf>,
}

struct OpenScript {
    sink: Arc<ScriptedSink>,
    slot: Slot,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

// === impl ScriptedAdapter ===

impl ScriptedAdapter {
    /// Without sources and sinks; they are made when they are first named.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// What is said from now on about how network connections are.
    pub fn set_connection_states(&self, states: Vec<ConnectionState>) {
        *lock(&self.connection_states) = states;
    }

    /// The source of that name.
    pub fn source(&self, name: &str) -> Arc<ScriptedSource> {
        Arc::clone(lock(&self.sources).entry(name.into()).or_default())
    }

    /// The sink of that name.
    pub fn sink(&self, name: &str) -> Arc<ScriptedSink> {
        Arc::clone(lock(&self.sinks).entry(name.into()).or_default())
    }
}

impl Adapter for ScriptedAdapter {
    fn name(&self) -> &'static str {
        "scripted"
    }

    fn source_schema(&self) -> Option<Schema> {
        Some(config::schema_of::<SourceConfig>())
    }

    fn sink_schema(&self) -> Option<Schema> {
        Some(config::schema_of::<SinkConfig>())
    }

    fn connection_schema(&self) -> Option<Schema> {
        Some(config::schema_of::<ConnectionConfig>())
    }

    fn connection_states(&self) -> Vec<ConnectionState> {
        lock(&self.connection_states).clone()
    }

    fn check_connection(&self, node: &Node, checker: &mut Checker<'_>) -> Option<Arc<dyn ConnectionSpec>> {
        let config: ConnectionConfig = config::parse(node, checker.mistakes)?;
        Some(Arc::new(config))
    }

    fn check_source(&self, node: &Node, checker: &mut Checker<'_>) -> Option<Arc<dyn SourceSpec>> {
        let config: SourceConfig = config::parse(node, checker.mistakes)?;
        named(config.connection.as_deref(), node, checker)?;
        let source = self.source(&config.name);
        let SourceConfig { name, setting, terms, file, connection: _ } = config;
        Some(Arc::new(Spec { name, setting, terms, file, source }))
    }

    fn check_sink(&self, node: &Node, _: SinkUse, checker: &mut Checker<'_>) -> Option<CheckedSink> {
        let config: SinkConfig = config::parse(node, checker.mistakes)?;
        named(config.connection.as_deref(), node, checker)?;
        let slot = checker.template(node.at(["text"]), config.text.as_deref().unwrap_or_default());
        let spec = Arc::new(CheckedScript { sink: self.sink(&config.name), slot, file: config.file });
        Some(CheckedSink { spec, answers: true, templates: checker.take_templates() })
    }
}

/// `None` when the connection that is named is not there.
fn named(connection: Option<&str>, node: &Node, checker: &mut Checker<'_>) -> Option<()> {
    let Some(name) = connection else { return Some(()) };
    let connection = checker.connection("scripted", node.at(["connection"]), name)?;
    connection.spec::<ConnectionConfig>().map(|_| ())
}

// === impl ScriptedSource ===

impl ScriptedSource {
    /// Offers a message; it is offered again when it is released.
    pub fn offer(&self, body: impl Into<Bytes>) -> Offered {
        self.put(body, true)
    }

    /// Offers a message once: its outcome is told even when it is a release, as a request's is.
    pub fn offer_once(&self, body: impl Into<Bytes>) -> Offered {
        self.put(body, false)
    }

    fn put(&self, body: impl Into<Bytes>, requeue: bool) -> Offered {
        let (tell, told) = oneshot::channel();
        let number = self.offered.fetch_add(1, Atomic::SeqCst);
        let message = Message::new(format!("m{number}"), Timestamp::from_millis(0), body);
        lock(&self.queue).push_back(Waiting {
            message,
            not_before: Instant::now(),
            tell,
            redelivered: false,
            requeue,
        });
        self.more.notify_one();
        Offered(told)
    }

    /// Says that its messages have an order. To be said before the flow is loaded.
    pub fn keep_order(&self) {
        self.keeps_order.store(true, Atomic::SeqCst);
    }

    /// Says that it cannot keep a rejected message. To be said before the flow is loaded.
    pub fn lose_rejected(&self) {
        self.loses_rejected.store(true, Atomic::SeqCst);
    }

    /// Says that it takes no answers. To be said before the flow is loaded.
    pub fn take_no_replies(&self) {
        self.takes_no_replies.store(true, Atomic::SeqCst);
    }

    /// Makes the next call of `next`, or the one under way, fail: it cannot go on for now.
    pub fn fail_once(&self, why: &str) {
        lock(&self.failures).push_back(why.into());
        self.more.notify_one();
    }

    /// Makes the next call of `next`, or the one under way, panic.
    pub fn panic_once(&self) {
        self.panics.store(true, Atomic::SeqCst);
        self.more.notify_one();
    }

    /// Makes the next `prepare` never end.
    pub fn hang_once(&self) {
        self.hangs.store(true, Atomic::SeqCst);
    }

    /// Makes the next `take_over` never end.
    pub fn hang_taking_over_once(&self) {
        self.hangs_taking_over.store(true, Atomic::SeqCst);
    }

    /// Makes the next `prepare` fail.
    pub fn refuse_once(&self, why: &str) {
        *lock(&self.refuse) = Some(why.into());
    }

    /// Makes the next `take_over` fail.
    pub fn refuse_take_over_once(&self, why: &str) {
        *lock(&self.refuse_take_over) = Some(why.into());
    }

    /// What happened to the source: `prepare`, `start`, `take_over`, `close`, each with the setting.
    pub fn events(&self) -> Vec<String> {
        lock(&self.events).clone()
    }

    /// How many of those that were prepared are gone: from then on a real one can acknowledge nothing.
    pub fn ended(&self) -> usize {
        self.ended.load(Atomic::SeqCst)
    }

    /// How many offered messages were not yet taken.
    pub fn waiting(&self) -> usize {
        lock(&self.queue).len()
    }

    /// Why it is paused, if it is; changes wake the receiver.
    pub fn paused(&self) -> watch::Receiver<Option<String>> {
        self.paused.subscribe()
    }

    fn note(&self, event: &str, setting: Option<&str>) {
        lock(&self.events).push(match setting {
            Some(setting) => format!("{event} {setting}"),
            None => event.into(),
        });
    }
}

impl Offered {
    /// How it ended.
    ///
    /// # Panics
    /// When the message was lost: never settled, and forgotten.
    #[allow(clippy::expect_used, reason = "a test double: this is how the test fails")]
    pub async fn outcome(self) -> Outcome {
        self.0.await.expect("the source has heard how the delivery ended")
    }

    /// Its settlement.
    pub async fn settlement(self) -> Settlement {
        self.outcome().await.settlement
    }

    /// Whether it has not ended yet.
    pub fn is_pending(&mut self) -> bool {
        matches!(self.0.try_recv(), Err(oneshot::error::TryRecvError::Empty))
    }
}

impl std::fmt::Debug for Spec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spec")
            .field("name", &self.name)
            .field("setting", &self.setting)
            .finish_non_exhaustive()
    }
}

#[async_trait]
impl SourceSpec for Spec {
    fn identity(&self) -> String {
        format!("scripted {}", self.name)
    }

    fn claims(&self) -> Vec<Claim> {
        vec![Claim::new(self.identity())]
    }

    /// `name*` includes every name that begins so; and all have to agree on the terms.
    fn conflict(&self, other: &dyn SourceSpec) -> Option<String> {
        let other = (other as &dyn std::any::Any).downcast_ref::<Self>()?;
        if let (Some(one), Some(another)) = (&self.terms, &other.terms)
            && one != another
        {
            return Some(format!("the stage is wanted `{one}` here and `{another}` there"));
        }
        let includes = |one: &str, all: &str| all.strip_suffix('*').is_some_and(|all| one.starts_with(all));
        let both = includes(&self.name, &other.name) || includes(&other.name, &self.name);
        both.then(|| format!("`{}` and `{}` overlap", self.name, other.name))
    }

    fn configuration_files(&self) -> Vec<PathBuf> {
        self.file.iter().cloned().collect()
    }

    fn order(&self) -> Order {
        if self.source.keeps_order.load(Atomic::SeqCst) { Order::Total } else { Order::None }
    }

    fn keeps_rejected(&self) -> bool {
        !self.source.loses_rejected.load(Atomic::SeqCst)
    }

    fn replies(&self) -> bool {
        !self.source.takes_no_replies.load(Atomic::SeqCst)
    }

    async fn prepare(&self, context: EndpointContext) -> Result<Box<dyn PreparedSource>, SourceError> {
        self.source.note("prepare", self.setting.as_deref());
        if let Some(why) = lock(&self.source.refuse).take() {
            return Err(SourceError::new(why));
        }
        if self.source.hangs.swap(false, Atomic::SeqCst) {
            std::future::pending::<()>().await;
        }
        Ok(Box::new(Prepared(Running {
            source: Arc::clone(&self.source),
            release_delay: context.limits.release_delay(),
            setting: self.setting.clone(),
            closed: false,
        })))
    }
}

#[async_trait]
impl PreparedSource for Prepared {
    async fn start(self: Box<Self>) -> Result<Box<dyn Source>, SourceError> {
        self.0.source.note("start", self.0.setting.as_deref());
        Ok(Box::new(self.0))
    }

    async fn take_over(self: Box<Self>, old: Box<dyn Source>) -> Result<Box<dyn Source>, TakeOverError> {
        self.0.source.note("take_over", self.0.setting.as_deref());
        if self.0.source.hangs_taking_over.swap(false, Atomic::SeqCst) {
            std::future::pending::<()>().await;
        }
        let refused = lock(&self.0.source.refuse_take_over).take();
        match refused {
            Some(why) => Err(TakeOverError { old, error: SourceError::new(why) }),
            None => Ok(Box::new(self.0)),
        }
    }
}

#[async_trait]
impl Source for Running {
    #[allow(clippy::panic, reason = "a test double: this is what the test asked for")]
    async fn next(&mut self) -> Result<Option<Delivery>, SourceError> {
        loop {
            if self.source.panics.swap(false, Atomic::SeqCst) {
                panic!("the test wants the source to panic");
            }
            if let Some(why) = lock(&self.source.failures).pop_front() {
                return Err(SourceError::new(why));
            }
            let wake = {
                let mut queue = lock(&self.source.queue);
                let now = Instant::now();
                // A closed source does not offer again what was released: that is left where it came from.
                match queue.iter().position(|w| w.not_before <= now && !(self.closed && w.redelivered)) {
                    Some(at) => {
                        if let Some(waiting) = queue.remove(at) {
                            drop(queue);
                            return Ok(Some(self.deliver(waiting)));
                        }
                        None
                    }
                    None => queue.iter().map(|w| w.not_before).min(),
                }
            };
            if self.closed {
                return Ok(None);
            }
            match wake {
                Some(at) => {
                    tokio::select! {
                        () = tokio::time::sleep_until(at) => {}
                        () = self.source.more.notified() => {}
                    }
                }
                None => self.source.more.notified().await,
            }
        }
    }

    fn pause(&mut self, reason: Option<&str>) {
        self.source.paused.send_replace(reason.map(str::to_owned));
    }

    async fn close(&mut self) {
        self.source.note("close", self.setting.as_deref());
        self.closed = true;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.source.ended.fetch_add(1, Atomic::SeqCst);
    }
}

impl Running {
    fn deliver(&self, waiting: Waiting) -> Delivery {
        let (source, message, delay) =
            (Arc::clone(&self.source), waiting.message.clone(), self.release_delay);
        let (tell, requeue) = (waiting.tell, waiting.requeue);
        let acknowledgement = Acknowledgement::new(move |outcome| {
            if requeue && outcome.settlement == Settlement::Released {
                let not_before = Instant::now() + delay;
                let again = Waiting { message, not_before, tell, redelivered: true, requeue };
                lock(&source.queue).push_front(again);
                source.more.notify_one();
            } else {
                // A test that does not care how it ended has dropped the receiver.
                let _unwatched = tell.send(outcome);
            }
        });
        let mut delivery = Delivery::new(waiting.message, acknowledgement);
        delivery.redelivered = waiting.redelivered;
        delivery
    }
}

// === impl ScriptedSink ===

impl Default for ScriptedSink {
    fn default() -> Self {
        Self {
            sent: Mutex::default(),
            answers: Mutex::default(),
            takes: Mutex::default(),
            gate: watch::Sender::new(true),
            started: watch::Sender::new(0),
        }
    }
}

impl ScriptedSink {
    /// What the next sends and calls answer, in order; without one it is a success with an empty answer.
    pub fn answer(&self, answers: impl IntoIterator<Item = Result<Answer, Failure>>) {
        lock(&self.answers).extend(answers);
    }

    /// From now on sends wait, having taken their place in the order, until [`ScriptedSink::open`].
    pub fn close(&self) {
        self.gate.send_replace(false);
    }

    /// From now on a send takes this long, after it has taken its place in the order.
    pub fn take_time(&self, time: impl Fn(&Message) -> Duration + Send + Sync + 'static) {
        *lock(&self.takes) = Some(Arc::new(time));
    }

    /// Lets what waits go on.
    pub fn open(&self) {
        self.gate.send_replace(true);
    }

    /// Every message that came, in the order in which they took their place, failed ones included.
    pub fn sent(&self) -> Vec<Message> {
        lock(&self.sent).iter().map(|(message, _)| message.clone()).collect()
    }

    /// The rendered texts, in the same order.
    pub fn texts(&self) -> Vec<String> {
        lock(&self.sent).iter().map(|(_, text)| text.clone()).collect()
    }

    /// The bodies, in the same order, as text.
    pub fn bodies(&self) -> Vec<String> {
        self.sent().iter().map(|m| String::from_utf8_lossy(m.body()).into_owned()).collect()
    }

    /// Waits until this many have come.
    pub async fn reached(&self, count: usize) {
        let mut started = self.started.subscribe();
        // The sender lives as long as this sink.
        let _closed = started.wait_for(|n| *n >= count).await;
    }

    async fn take(&self, outgoing: Outgoing<'_>, slot: Slot) -> Result<Answer, Failure> {
        lock(&self.sent).push((outgoing.message.clone(), outgoing.text(slot).to_owned()));
        let answer = lock(&self.answers).pop_front();
        self.started.send_modify(|n| *n += 1);
        let mut gate = self.gate.subscribe();
        drop(gate.wait_for(|open| *open).await);
        let takes = lock(&self.takes).clone();
        if let Some(takes) = takes {
            tokio::time::sleep(takes(outgoing.message)).await;
        }
        answer.unwrap_or_else(|| Ok(Answer::default()))
    }
}

impl std::fmt::Debug for CheckedScript {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("CheckedScript")
    }
}

#[async_trait]
impl SinkSpec for CheckedScript {
    async fn open(&self, _: SinkContext) -> Result<Arc<dyn Sink>, Failure> {
        Ok(Arc::new(OpenScript { sink: Arc::clone(&self.sink), slot: self.slot }))
    }

    fn configuration_files(&self) -> Vec<PathBuf> {
        self.file.iter().cloned().collect()
    }
}

#[async_trait]
impl Sink for OpenScript {
    async fn send(&self, outgoing: Outgoing<'_>) -> Result<(), Failure> {
        self.sink.take(outgoing, self.slot).await.map(drop)
    }

    async fn call(&self, outgoing: Outgoing<'_>) -> Result<Answer, Failure> {
        self.sink.take(outgoing, self.slot).await
    }
}

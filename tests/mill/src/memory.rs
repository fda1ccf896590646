//! An adapter without an outside world: its source gives the same few messages as fast as it is asked, its sink keeps the first. What is
//! left is the engine.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use async_trait::async_trait;
use gristmill_core::{
    Acknowledgement, Delivery, Failure, Message, Settlement,
    adapter::{Adapter, CheckedSink, Checker, SinkUse},
    config::{Node, Schema},
    sink::{Outgoing, Sink, SinkContext, SinkSpec},
    source::{Claim, EndpointContext, Order, PreparedSource, Source, SourceError, SourceSpec, TakeOverError},
};
use tokio::sync::Notify;

/// How many different messages there are: enough for each of some lanes to have about as many as the others.
const PROTOTYPES: u64 = 256;

/// The adapter `memory`, and what the bench does with it.
#[derive(Debug)]
pub struct Memory {
    /// The same but for their ids, which tell lanes apart. Given in turn.
    prototypes: Vec<Message>,
    /// How many messages the source may still give.
    left: AtomicU64,
    /// Whether several flows take from it. Each then wakes the next.
    has_several_flows: bool,
    filled: Notify,
    /// How many deliveries have not settled.
    unsettled: AtomicU64,
    settled: Notify,
    /// Deliveries that did not end as delivered.
    wrong: AtomicU64,
    /// The first message that the sink got.
    first: OnceLock<Message>,
}

/// The source and the sink, which are all there is.
#[derive(Debug)]
struct Spec(Arc<Memory>);

/// The adapter, to be registered.
#[derive(Debug)]
pub struct MemoryAdapter(pub Arc<Memory>);

impl Memory {
    /// One whose source gives copies of this message, to so many flows.
    pub fn new(prototype: &Message, flows: usize) -> Arc<Self> {
        let with_id = |n: u64| prototype.clone().with_id(format!("{}-{n}", prototype.id()).into());
        Arc::new(Self {
            prototypes: (0..PROTOTYPES).map(with_id).collect(),
            left: AtomicU64::new(0),
            has_several_flows: flows > 1,
            filled: Notify::new(),
            unsettled: AtomicU64::new(0),
            settled: Notify::new(),
            wrong: AtomicU64::new(0),
            first: OnceLock::new(),
        })
    }

    /// Sends this many messages through the flow, and waits until the last has settled.
    pub async fn pass(&self, messages: u64) {
        self.unsettled.store(messages, Relaxed);
        self.left.store(messages, Relaxed);
        self.filled.notify_one();
        self.settled.notified().await;
    }

    /// How many deliveries ended otherwise than as delivered.
    pub fn wrong(&self) -> u64 {
        self.wrong.load(Relaxed)
    }

    /// The first message that the sink got.
    pub fn first_sent(&self) -> Option<&Message> {
        self.first.get()
    }

    fn settle(&self, settlement: Settlement) {
        if settlement != Settlement::Delivered {
            self.wrong.fetch_add(1, Relaxed);
        }
        if self.unsettled.fetch_sub(1, Relaxed) == 1 {
            self.settled.notify_one();
        }
    }
}

impl Adapter for MemoryAdapter {
    fn name(&self) -> &'static str {
        "memory"
    }

    fn source_schema(&self) -> Option<Schema> {
        Some(any())
    }

    fn sink_schema(&self) -> Option<Schema> {
        Some(any())
    }

    fn check_source(&self, _: &Node, _: &mut Checker<'_>) -> Option<Arc<dyn SourceSpec>> {
        Some(Arc::new(Spec(Arc::clone(&self.0))))
    }

    fn check_sink(&self, _: &Node, _: SinkUse, _: &mut Checker<'_>) -> Option<CheckedSink> {
        let spec = Arc::new(Spec(Arc::clone(&self.0)));
        Some(CheckedSink { spec, answers: false, templates: Vec::new() })
    }
}

/// There is nothing to configure.
fn any() -> Schema {
    serde_json::json!({"type": "object", "additionalProperties": false})
}

#[async_trait]
impl SourceSpec for Spec {
    fn identity(&self) -> String {
        "memory".into()
    }

    fn claims(&self) -> Vec<Claim> {
        Vec::new()
    }

    fn order(&self) -> Order {
        Order::Total
    }

    fn keeps_rejected(&self) -> bool {
        true
    }

    fn replies(&self) -> bool {
        false
    }

    async fn prepare(&self, _: EndpointContext) -> Result<Box<dyn PreparedSource>, SourceError> {
        Ok(Box::new(Spec(Arc::clone(&self.0))))
    }
}

#[async_trait]
impl PreparedSource for Spec {
    async fn start(self: Box<Self>) -> Result<Box<dyn Source>, SourceError> {
        Ok(self)
    }

    async fn take_over(self: Box<Self>, old: Box<dyn Source>) -> Result<Box<dyn Source>, TakeOverError> {
        Ok(old)
    }
}

#[async_trait]
impl Source for Spec {
    async fn next(&mut self) -> Result<Option<Delivery>, SourceError> {
        loop {
            match self.ready() {
                Some(delivery) => return Ok(Some(delivery)),
                None => self.0.filled.notified().await,
            }
        }
    }

    fn ready(&mut self) -> Option<Delivery> {
        let memory = &self.0;
        // Several endpoints take from it on one thread only.
        let left = memory.left.load(Relaxed);
        memory.left.store(left.checked_sub(1)?, Relaxed);
        if left > 1 && memory.has_several_flows {
            memory.filled.notify_one();
        }
        let prototype = usize::try_from(left % PROTOTYPES).ok().and_then(|turn| memory.prototypes.get(turn));
        let told = Arc::clone(memory);
        let acknowledgement = Acknowledgement::new(move |outcome| told.settle(outcome.settlement));
        Some(Delivery::new(prototype?.clone(), acknowledgement))
    }

    async fn close(&mut self) {}
}

#[async_trait]
impl SinkSpec for Spec {
    async fn open(&self, _: SinkContext) -> Result<Arc<dyn Sink>, Failure> {
        Ok(Arc::new(Spec(Arc::clone(&self.0))))
    }
}

#[async_trait]
impl Sink for Spec {
    async fn send(&self, outgoing: Outgoing<'_>) -> Result<(), Failure> {
        std::hint::black_box(outgoing.message);
        if self.0.first.get().is_none() {
            let _first = self.0.first.set(outgoing.message.clone());
        }
        Ok(())
    }
}

//! The source: messages of a queue become deliveries.
//!
//! | module | holds |
//! |---|---|
//! | [`spec`] | checked configuration |
//! | [`settings`] | what a version wants |
//! | [`consumer`] | an AMQP channel that is consumed on |
//! | [`settling`] | what the broker is told about the messages of a channel |
//!
//! The source has one consumer at a time, made anew on whatever ends it. Every message is acknowledged on the AMQP channel that
//! brought it, or not at all: when that one is gone the broker has the message again.

mod consumer;
mod settings;
mod settling;
mod spec;

use std::{
    any::Any,
    collections::VecDeque,
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use gristmill_core::{
    Acknowledgement, Delivery, Message, MessageId, Outcome, Settlement,
    message::check_header,
    source::{PreparedSource, Source, SourceError, TakeOverError},
};
use tokio::{runtime::Handle, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    consumer::{Consumer, Lease, Next, Opened, Received},
    settings::Settings,
    settling::End,
};
use crate::{header_map::headers_of, trouble::Trouble};

pub(crate) use self::spec::check;

/// How long an attempt to consume again may take, connecting included.
const OPEN_WITHIN: Duration = Duration::from_secs(30);

/// A consumer that ends sooner than this has ended for a reason that will end the next one too.
const SHORT_LIFE: Duration = Duration::from_secs(1);

/// The longest message id that is taken for that of the message here, in bytes.
const MAX_ID_BYTES: usize = 200;

/// The number of the next message that has no id of its own.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0);

/// A source that is ready to start.
#[derive(Debug)]
pub(crate) struct PreparedAmqpSource {
    settings: Arc<Settings>,
    /// Or why not yet, when waiting can help.
    opened: Result<Opened, Trouble>,
}

/// A running source.
pub(crate) struct AmqpSource {
    settings: Arc<Settings>,
    state: State,
    /// What the broker has sent and `next` has not given yet.
    waiting: VecDeque<Box<Received>>,
    endings: Arc<Endings>,
    /// Makes ids of this process unlike those of another.
    salt: u64,
    /// What stands before the number in an id.
    id_prefix: String,
}

/// What it takes to end messages, for all of a source.
struct Endings {
    runtime: Handle,
    /// The process waits for these.
    tasks: TaskTracker,
    /// Cancelled once the source is closed: released messages do not wait any more.
    closed: CancellationToken,
}

enum State {
    Idle,
    /// Kept here, so that a `next` that is dropped loses nothing.
    Opening(Pin<Box<dyn Future<Output = Result<Consumer, Trouble>> + Send>>),
    Consuming(Box<Consumer>),
}

// === impl PreparedAmqpSource ===

impl PreparedAmqpSource {
    pub(crate) async fn new(settings: Arc<Settings>, deadline: Instant) -> Result<Self, SourceError> {
        match Opened::new(&settings, deadline).await {
            Err(trouble) if trouble.needs_a_person() => Err(SourceError::new(trouble.text)),
            opened => Ok(Self { settings, opened }),
        }
    }
}

#[async_trait]
impl PreparedSource for PreparedAmqpSource {
    async fn start(self: Box<Self>) -> Result<Box<dyn Source>, SourceError> {
        let deadline = Instant::now() + self.settings.context.limits.prepare() / 4;
        let state = match self.opened {
            // The broker is away: the source goes on trying, and says why it has nothing.
            Err(_) => State::Idle,
            Ok(opened) => match opened.consume(&self.settings, deadline).await {
                Ok(consumer) => State::Consuming(Box::new(consumer)),
                Err(trouble) if trouble.needs_a_person() => return Err(SourceError::new(trouble.text)),
                Err(_) => State::Idle,
            },
        };
        Ok(Box::new(AmqpSource::new(self.settings, state)))
    }

    async fn take_over(self: Box<Self>, mut old: Box<dyn Source>) -> Result<Box<dyn Source>, TakeOverError> {
        let Some(source) = (&mut *old as &mut dyn Any).downcast_mut::<AmqpSource>() else {
            let error = SourceError::new("an AMQP source can only take over from an AMQP source");
            return Err(TakeOverError { old, error });
        };
        if self.settings.has_same_consumer(&source.settings) {
            source.settings = self.settings;
            return Ok(old);
        }
        let taken = match self.opened {
            Ok(opened) => source.change_to(self.settings, opened).await,
            Err(trouble) => Err(trouble),
        };
        match taken {
            Ok(()) => Ok(old),
            Err(trouble) => Err(TakeOverError { old, error: SourceError::new(trouble.text) }),
        }
    }
}

// === impl AmqpSource ===

impl AmqpSource {
    fn new(settings: Arc<Settings>, state: State) -> Self {
        let endings = Endings {
            runtime: Handle::current(),
            tasks: settings.brokers.settling().clone(),
            closed: CancellationToken::new(),
        };
        let salt = rand::random();
        let id_prefix = id_prefix(&settings, salt);
        Self { settings, state, waiting: VecDeque::new(), endings: Arc::new(endings), salt, id_prefix }
    }

    /// Consumes by other settings from now on. What was sent ahead comes first, on its old channel; on failure the old
    /// settings stay, and their consumer is made again.
    async fn change_to(&mut self, settings: Arc<Settings>, opened: Opened) -> Result<(), Trouble> {
        let deadline = Instant::now() + settings.context.limits.prepare() / 4;
        let goes_with_its_consumer =
            settings.queue.declare.as_ref().is_some_and(|declare| declare.auto_delete);
        let consumer = if goes_with_its_consumer && !settings.queue.exclusive {
            // Without a consumer, for however short a time, the broker deletes the queue with all that is in it.
            let consumer = opened.consume(&settings, deadline).await?;
            self.stop_consuming().await;
            consumer
        } else {
            // The old one first: an exclusive consumer lets no other in, and two would share out the order.
            self.stop_consuming().await;
            opened.consume(&settings, deadline).await?
        };
        let old = std::mem::replace(&mut self.settings, settings);
        self.id_prefix = id_prefix(&self.settings, self.salt);
        consumer.unbind(&self.settings, &old.queue.bindings).await;
        self.state = State::Consuming(Box::new(consumer));
        Ok(())
    }

    async fn stop_consuming(&mut self) {
        if let State::Consuming(consumer) = std::mem::replace(&mut self.state, State::Idle) {
            self.waiting.extend(consumer.cancel().await.into_iter().map(Box::new));
        }
    }

    /// Consumes anew, once what the consumer `before` was sent ahead is back in the queue.
    fn open(&self, before: Option<Consumer>) -> State {
        let settings = Arc::clone(&self.settings);
        State::Opening(Box::pin(async move {
            if let Some(consumer) = before {
                consumer.give_back().await;
            }
            let deadline = Instant::now() + OPEN_WITHIN;
            Opened::new(&settings, deadline).await?.consume(&settings, deadline).await
        }))
    }

    /// A message that waited on this channel is back in the queue. A consumer that has taken the place of that channel has
    /// been sent what comes behind the message: it begins anew, so that the broker puts both in order.
    fn begin_anew_behind(&mut self, gone: &Arc<Lease>) {
        if matches!(&self.state, State::Consuming(consumer) if !consumer.is_on(gone))
            && let State::Consuming(consumer) = std::mem::replace(&mut self.state, State::Idle)
        {
            self.state = self.open(Some(*consumer));
        }
    }

    /// The first message that waits, as a delivery. One whose channel is gone is no message any more: the broker offers it
    /// again.
    ///
    /// # Errors
    /// It is over a limit, and would be lost if it were rejected: it stays where it is.
    fn take_waiting(&mut self) -> Result<Option<Delivery>, SourceError> {
        while let Some(received) = self.waiting.pop_front() {
            if !received.lease.is_good() {
                self.begin_anew_behind(&received.lease);
                continue;
            }
            if is_of_stream(&received) {
                self.waiting.push_front(received);
                return Err(SourceError::new(format!(
                    "queue `{}` is a stream, which does not take a released message back, so that it would be lost; \
                     consume from a quorum or classic queue that is bound to the same exchange",
                    self.settings.queue.name
                )));
            }
            let message = self.message(&received);
            match self.over_limit(&message, &received) {
                None => return Ok(Some(self.delivery(message, received))),
                Some(text) if self.settings.keeps_rejected() => {
                    tracing::warn!(
                        target: "gristmill::amqp", flow = &*self.settings.context.flow, message_id = message.id().as_str(),
                        "{text}; it is rejected"
                    );
                    self.settings.context.observer.refused("too_large");
                    let tag = received.delivery.delivery_tag;
                    self.endings.end(&received.lease, tag, End::Rejected);
                }
                Some(text) => {
                    self.waiting.push_front(received);
                    return Err(SourceError::new(format!(
                        "{text}; raise the limit, take the message out of the queue, or declare a \
                         `dead_letter_exchange`, which would get it"
                    )));
                }
            }
        }
        Ok(None)
    }

    fn message(&self, received: &Received) -> Message {
        let delivery = &received.delivery;
        let mut headers = headers_of(&delivery.properties);
        for (name, value) in [
            ("amqp-exchange", delivery.exchange.as_str()),
            ("amqp-routing-key", delivery.routing_key.as_str()),
            ("amqp-redelivered", if delivery.redelivered { "true" } else { "false" }),
        ] {
            // A routing key that no header can hold is told by none.
            let _unprintable = headers.set(name, value);
        }
        let own_id = delivery.properties.message_id().as_ref().map(|id| id.as_str());
        let id = match own_id
            .filter(|id| (1..=MAX_ID_BYTES).contains(&id.len()) && check_header("x", id).is_ok())
        {
            Some(id) => MessageId::from(id),
            None => {
                let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
                MessageId::numbered(&self.id_prefix, number)
            }
        };
        let now = self.settings.context.clock.now();
        Message::new(id, now, bytes::Bytes::new()).with_headers(headers)
    }

    /// Which limit of the flow the message is over.
    fn over_limit(&self, message: &Message, received: &Received) -> Option<String> {
        let (limits, queue) = (&self.settings.context.limits, &self.settings.queue.name);
        let size = received.delivery.data.len();
        if size > limits.body_bytes {
            let limit = limits.body_bytes;
            return Some(format!(
                "queue `{queue}`: a body of {size} bytes is over the limit of {limit} (limits.body_bytes)"
            ));
        }
        let count = message.headers().len();
        if count > limits.headers {
            let limit = limits.headers;
            return Some(format!(
                "queue `{queue}`: {count} headers are over the limit of {limit} (limits.headers)"
            ));
        }
        let bytes: usize = message.headers().iter().map(|(name, value)| name.len() + value.len()).sum();
        (bytes > limits.header_bytes).then(|| {
            let limit = limits.header_bytes;
            format!("queue `{queue}`: {bytes} bytes of headers are over the limit of {limit} (limits.header_bytes)")
        })
    }

    fn delivery(&self, mut message: Message, received: Box<Received>) -> Delivery {
        let Received { delivery, lease } = *received;
        message.set_body(delivery.data);
        let (tag, redelivered) = (delivery.delivery_tag, delivery.redelivered);
        let (endings, delay) = (Arc::clone(&self.endings), self.settings.context.limits.release_delay());
        let acknowledgement = Acknowledgement::new(move |outcome: Outcome| match outcome.settlement {
            Settlement::Delivered => endings.end(&lease, tag, End::Acknowledged),
            Settlement::Rejected => endings.end(&lease, tag, End::Rejected),
            Settlement::Released => endings.requeue_after(delay, lease, tag),
        });
        Delivery { message, acknowledgement, redelivered }
    }
}

// === impl Endings ===

impl Endings {
    /// The broker is told how a message ended. From whichever thread.
    fn end(&self, lease: &Lease, tag: u64, end: End) {
        lease.end(tag, end, self.tasks.token());
    }

    /// The broker has a message back after `delay`, or once the source is closed. From whichever thread.
    fn requeue_after(self: Arc<Self>, delay: Duration, lease: Arc<Lease>, tag: u64) {
        let endings = Arc::clone(&self);
        let requeue = async move {
            tokio::select! {
                () = tokio::time::sleep(delay) => {}
                () = endings.closed.cancelled() => {}
            }
            endings.end(&lease, tag, End::Requeued);
        };
        drop(self.tasks.spawn_on(requeue, &self.runtime));
    }
}

fn id_prefix(settings: &Settings, salt: u64) -> String {
    format!("{}:{salt:016x}", settings.queue.name)
}

/// Whether a message is from a stream: when the queue is not declared here, this is the first sign of it.
fn is_of_stream(received: &Received) -> bool {
    let headers = received.delivery.properties.headers();
    headers.as_ref().is_some_and(|headers| headers.contains_key("x-stream-offset"))
}

#[async_trait]
impl Source for AmqpSource {
    async fn next(&mut self) -> Result<Option<Delivery>, SourceError> {
        loop {
            if let Some(delivery) = self.take_waiting()? {
                return Ok(Some(delivery));
            }
            if self.endings.closed.is_cancelled() {
                return Ok(None);
            }
            match &mut self.state {
                State::Idle => self.state = self.open(None),
                State::Opening(opening) => match opening.await {
                    Ok(consumer) => self.state = State::Consuming(Box::new(consumer)),
                    Err(trouble) => {
                        self.state = State::Idle;
                        return Err(SourceError::new(trouble.text));
                    }
                },
                State::Consuming(consumer) => {
                    let text = match consumer.next().await {
                        Next::Message(received) => {
                            self.waiting.push_back(received);
                            continue;
                        }
                        Next::Cancelled => format!(
                            "queue `{}`: the broker has cancelled the consumer; was the queue deleted?",
                            self.settings.queue.name
                        ),
                        Next::Lost(trouble) => trouble.text,
                    };
                    let was_short = consumer.since.elapsed() < SHORT_LIFE;
                    self.state = State::Idle;
                    // Else it is tried again at once, which says what is wrong if it still is.
                    if was_short {
                        return Err(SourceError::new(text));
                    }
                    tracing::warn!(
                        target: "gristmill::amqp", flow = &*self.settings.context.flow,
                        "{text}; the queue is consumed anew, and what was unacknowledged comes again"
                    );
                }
            }
        }
    }

    fn ready(&mut self) -> Option<Delivery> {
        if self.waiting.is_empty() {
            let State::Consuming(consumer) = &mut self.state else { return None };
            self.waiting.push_back(consumer.ready()?);
        }
        // What is wrong with it stays there, and is for `next` to say.
        self.take_waiting().ok().flatten()
    }

    async fn close(&mut self) {
        self.stop_consuming().await;
        self.endings.closed.cancel();
        // Backwards, so that each goes back before those that were behind it.
        while let Some(received) = self.waiting.pop_back() {
            received.requeue().await;
        }
    }
}

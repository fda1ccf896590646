//! The publisher of a sink: one task that takes messages in the order of their sends, publishes them on AMQP channels of its
//! own, and tells each send how it ended.
//!
//! There are three ways:
//!
//! - *window*: many unconfirmed at once on one channel, in order. Here sends publish by themselves ([`Window`]), and what comes to
//!   the publisher is what they cannot: the first, those behind a full window, and all as long as the broker is away;
//! - *mandatory*: one unconfirmed a channel. The client library gives a returned message to whichever confirmation comes
//!   next, so with more than one under way a message that no queue took could pass for confirmed;
//! - *call*: many at once on the channel that consumes the replies. A returned question is known by its correlation id, and one
//!   that is not would end as a timeout: none can pass for answered.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use gristmill_core::{ErrorClass, Failure};
use lapin::{
    Consumer,
    message::BasicReturnMessage,
    options::{BasicConsumeOptions, ConfirmSelectOptions, ExchangeDeclareOptions},
    types::FieldTable,
};
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};

use super::{
    answer::{self, Answer},
    job::{Job, Reply},
    line::{Line, Publishing as _},
    spec::Checked,
    window::{Abandoned, Publish, Reserved, Window},
};
use crate::{
    connection::{Broker, Session},
    trouble::Trouble,
};

/// How long a message waits for a connection before its send fails and may be tried again. Long enough for a broker that
/// restarts quickly, short enough to say what is wrong.
const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// How long opening an AMQP channel may take.
const OPEN_WITHIN: Duration = Duration::from_secs(5);

/// How long the library may take to say what became of a publish, once its connection is gone.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Where replies to calls go (RabbitMQ's direct reply-to).
const REPLY_TO: &str = "amq.rabbitmq.reply-to";

/// From which length on the queue is first tidied.
const TIDY_AT: usize = 64;

/// The most calls under way. Further ones wait.
const MAX_CALLS: usize = 4_096;

/// The publisher of a sink.
pub(crate) struct Publisher {
    checked: Arc<Checked>,
    broker: Arc<Broker>,
    is_call: bool,
    jobs: mpsc::UnboundedReceiver<Box<Job>>,
    /// Those that wait for room, or for a broker that takes them.
    queue: VecDeque<Box<Job>>,
    /// From which length on those that have given up are taken out of the queue: it would keep their bodies.
    tidy_at: usize,
    lines: Vec<OpenLine>,
    window: Arc<Window>,
    /// What sends have published and given up.
    abandoned: mpsc::UnboundedReceiver<Abandoned>,
    unconfirmed: FuturesUnordered<Unconfirmed>,
    /// The connection that was published on last, and how many there were.
    session: Option<Arc<Session>>,
    sessions: u64,
    /// Each gives the number of its connection, when nothing more will be heard of what was published there.
    ends: FuturesUnordered<Pin<Box<dyn Future<Output = u64> + Send>>>,
    calls: HashMap<String, Box<Job>>,
    next_call: u64,
    salt: u64,
}

/// An AMQP channel to publish on.
struct OpenLine {
    line: Arc<Line>,
    replies: Option<Consumer>,
    /// How many of the publisher's messages are under way on it.
    unconfirmed: usize,
    number: u64,
}

/// A publish that is under way.
struct Unconfirmed {
    publish: Publish,
    what: Option<Published>,
}

/// A message that was published.
struct Published {
    /// `None` when its send published it.
    line: Option<u64>,
    /// The number of its connection.
    on: u64,
    /// `None` for a call that has been told already or waits for its reply, and for what was abandoned.
    job: Option<Box<Job>>,
    /// Of a call.
    correlation_id: Option<String>,
    /// Nothing else was under way on its channel.
    alone: bool,
}

/// What the publisher wakes up for.
enum Wake {
    Job(Option<Box<Job>>),
    Confirmed(Published, Result<Answer, Trouble>),
    Reply(Option<Result<Box<lapin::message::Delivery>, lapin::Error>>),
    /// Nothing more will be heard of what was published on the connection of this number.
    Ended(u64),
    Abandoned(Abandoned),
    /// There may be room.
    Changed,
}

// === impl Publisher ===

impl Publisher {
    pub(crate) fn new(
        checked: Arc<Checked>,
        broker: Arc<Broker>,
        is_call: bool,
        jobs: mpsc::UnboundedReceiver<Box<Job>>,
        (window, abandoned): (Arc<Window>, mpsc::UnboundedReceiver<Abandoned>),
    ) -> Self {
        Self {
            checked,
            broker,
            is_call,
            jobs,
            queue: VecDeque::new(),
            tidy_at: TIDY_AT,
            lines: Vec::new(),
            window,
            abandoned,
            unconfirmed: FuturesUnordered::new(),
            session: None,
            sessions: 0,
            ends: FuturesUnordered::new(),
            calls: HashMap::new(),
            next_call: 0,
            salt: rand::random(),
        }
    }

    /// Until the sink is gone and all that it sent has ended.
    pub(crate) async fn run(mut self) {
        loop {
            while let Some((job, room)) = self.next_job() {
                self.publish(job, room).await;
            }
            match self.wake().await {
                Wake::Job(Some(job)) => self.enqueue(job),
                Wake::Job(None) => break,
                Wake::Confirmed(published, result) => self.confirmed(published, result),
                Wake::Reply(Some(Ok(delivery))) => self.replied(*delivery),
                Wake::Reply(Some(Err(_)) | None) => self.replies_ended(),
                Wake::Ended(session) => self.session_ended(session),
                Wake::Abandoned(abandoned) => self.takes_over(abandoned),
                Wake::Changed => {}
            }
        }
        // Without the sink there are no sends, so this is all that they abandoned.
        while let Ok(abandoned) = self.abandoned.try_recv() {
            self.takes_over(abandoned);
        }
        while !self.unconfirmed.is_empty() {
            tokio::select! {
                biased;
                Some((published, result)) = self.unconfirmed.next() => self.confirmed(published, result),
                Some(session) = self.ends.next(), if !self.ends.is_empty() => self.session_ended(session),
            }
        }
    }

    async fn wake(&mut self) -> Wake {
        let is_blocked = self.broker.publishing.is_blocked();
        let replies = self.lines.first_mut().and_then(|line| line.replies.as_mut());
        let reply = async {
            match replies {
                Some(replies) => replies.next().await.map(|reply| reply.map(Box::new)),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            Some((published, result)) = self.unconfirmed.next(), if !self.unconfirmed.is_empty() => Wake::Confirmed(published, result),
            reply = reply => Wake::Reply(reply),
            Some(session) = self.ends.next(), if !self.ends.is_empty() => Wake::Ended(session),
            Some(abandoned) = self.abandoned.recv() => Wake::Abandoned(abandoned),
            job = self.jobs.recv() => Wake::Job(job),
            () = self.window.changed() => Wake::Changed,
            () = self.broker.publishing.unblocked(), if is_blocked => Wake::Changed,
        }
    }

    /// Puts a message behind those that wait. What is not handed to the library can still be given up without a trace.
    fn enqueue(&mut self, job: Box<Job>) {
        self.queue.push_back(job);
        if self.queue.len() >= self.tidy_at {
            self.queue.retain(|job| !job.done.is_closed());
            self.tidy_at = TIDY_AT.max(2 * self.queue.len());
        }
    }

    /// The next message that may be published now, and room for it.
    fn next_job(&mut self) -> Option<(Box<Job>, Reserved)> {
        while self.queue.pop_front_if(|job| job.done.is_closed()).is_some() {}
        if self.queue.is_empty() || self.broker.publishing.is_blocked() {
            return None;
        }
        if self.is_call {
            self.calls.retain(|_, job| !job.done.is_closed());
            if self.calls.len() >= MAX_CALLS {
                return None;
            }
        }
        let room = self.window.reserve()?;
        let Some(job) = self.queue.pop_front() else {
            self.window.give_back();
            return None;
        };
        Some((job, room))
    }

    async fn publish(&mut self, mut job: Box<Job>, room: Reserved) {
        let line = match self.line().await {
            Ok(line) => line,
            Err(trouble) => {
                self.window.give_back();
                let failure = answer::failure(&self.checked, &trouble);
                job.end(Err(failure.clone()));
                // Those behind it have waited as long, and would meet the same.
                while let Ok(job) = self.jobs.try_recv() {
                    self.queue.push_back(job);
                }
                for job in self.queue.drain(..) {
                    job.end(Err(failure.clone()));
                }
                return;
            }
        };
        let Some(open) = self.lines.get_mut(line) else { return self.window.give_back() };
        let line = Arc::clone(&open.line);
        let mut message = std::mem::take(&mut job.message);
        if message.properties_bytes > line.properties_max {
            self.window.give_back();
            return job.end(Err(answer::too_large(&self.checked)));
        }
        let mut correlation_id = None;
        if self.is_call {
            let id = format!("{:016x}-{}", self.salt, self.next_call);
            self.next_call += 1;
            message.properties =
                message.properties.with_correlation_id(id.as_str().into()).with_reply_to(REPLY_TO.into());
            correlation_id = Some(id);
        }
        let alone = room.alone || (self.checked.mandatory && !self.is_call);
        open.unconfirmed += 1;
        let (number, on) = (Some(open.number), line.on);
        // Polled once below, which hands it to the library: that is its place in the order.
        let mut publish = Publish::new(line.publish(message));
        let first = std::future::poll_fn(|cx| Poll::Ready(publish.poll(cx))).await;
        // The sends that come now come after it.
        job.waiting = None;
        let job = match &correlation_id {
            Some(id) => {
                self.calls.insert(id.clone(), job);
                None
            }
            None => Some(job),
        };
        let published = Published { line: number, on, job, correlation_id, alone };
        match first {
            Poll::Ready(result) => self.confirmed(published, answer::read(result)),
            Poll::Pending => self.unconfirmed.push(Unconfirmed { publish, what: Some(published) }),
        }
    }

    /// The line to publish on next, which is opened if there is none.
    async fn line(&mut self) -> Result<usize, Trouble> {
        self.lines.retain(|open| open.line.is_good());
        let is_free = |line: &OpenLine| !self.checked.mandatory || self.is_call || line.unconfirmed == 0;
        if let Some(free) = self.lines.iter().position(is_free) {
            return Ok(free);
        }
        let session = self.broker.publishing.session(Instant::now() + CONNECT_WITHIN).await?;
        let on = self.number_of(&session);
        let open = OpenLine::open(session, on, &self.checked, self.is_call, self.salt ^ self.next_call);
        let line = timeout_at(Instant::now() + OPEN_WITHIN, open)
            .await
            .map_err(|_elapsed| Trouble::new("opening an AMQP channel: the broker does not answer"))??;
        self.next_call += 1;
        self.window.open(Arc::clone(&line.line));
        self.lines.push(line);
        Ok(self.lines.len() - 1)
    }

    /// The number of a connection, whose end is waited for from now on.
    fn number_of(&mut self, session: &Arc<Session>) -> u64 {
        if !self.session.as_ref().is_some_and(|known| Arc::ptr_eq(known, session)) {
            self.session = Some(Arc::clone(session));
            self.sessions += 1;
            let (number, session) = (self.sessions, Arc::clone(session));
            self.ends.push(Box::pin(async move {
                session.ended().await;
                sleep(ANSWER_WITHIN).await;
                number
            }));
        }
        self.sessions
    }

    /// No room in the window is lost with a connection, whatever the library makes of its end.
    fn session_ended(&mut self, number: u64) {
        self.window.ended(number);
        if self.sessions == number {
            self.session = None;
        }
        for mut it in std::mem::take(&mut self.unconfirmed) {
            match it.what.take_if(|published| published.on == number) {
                Some(lost) => self.confirmed(lost, Err(answer::broke_off())),
                None => self.unconfirmed.push(it),
            }
        }
    }

    /// Waits for what a send has published and given up: it takes room until the library says what became of it.
    fn takes_over(&mut self, Abandoned { publish, on }: Abandoned) {
        let what = Published { line: None, on, job: None, correlation_id: None, alone: false };
        if self.window.is_heard_of(on) {
            self.unconfirmed.push(Unconfirmed { publish, what: Some(what) });
        } else {
            self.confirmed(what, Err(answer::broke_off()));
        }
    }

    fn confirmed(&mut self, published: Published, result: Result<Answer, Trouble>) {
        let Published { line, on: _, job, correlation_id, alone } = published;
        if let Some(open) = self.lines.iter_mut().find(|it| Some(it.number) == line) {
            open.unconfirmed -= 1;
        }
        let is_unclear = !alone && result.as_ref().is_err_and(Trouble::closes_over_a_message);
        self.window.confirmed(is_unclear);
        let result = match result {
            // Of a call it may be another's: known by its correlation id.
            Ok(Answer::Returned(returned)) if self.is_call => {
                self.returned_call(&returned);
                Ok(())
            }
            Ok(answer) => answer::judge(&self.checked, answer),
            Err(trouble) => Err(self.lost(&trouble, alone)),
        };
        match (job, correlation_id) {
            (Some(job), _) => job.end(result.map(|()| None)),
            (None, Some(id)) => {
                if let Err(failure) = result
                    && let Some(job) = self.calls.remove(&id)
                {
                    job.end(Err(failure));
                }
            }
            (None, None) => {}
        }
    }

    /// A publish that the end of its channel or connection left unconfirmed.
    fn lost(&self, trouble: &Trouble, alone: bool) -> Failure {
        if alone && trouble.closes_over_a_message() {
            let text = format!("{}: {}", answer::place(&self.checked), trouble.text);
            return Failure::new(ErrorClass::SinkRejected, text);
        }
        answer::failure(&self.checked, trouble)
    }

    /// The channel that replies come on is gone, and with it the way back for every call.
    fn replies_ended(&mut self) {
        self.lines.clear();
        let text =
            "the connection broke off while the reply was waited for; whether there was one is not known";
        let failure = answer::failure(&self.checked, &Trouble::new(text));
        for (_, job) in self.calls.drain() {
            job.end(Err(failure.clone()));
        }
    }

    fn returned_call(&mut self, returned: &BasicReturnMessage) {
        let id = returned.properties.correlation_id().as_ref().map(|id| id.as_str());
        if let Some(job) = id.and_then(|id| self.calls.remove(id)) {
            job.end(Err(answer::returned_failure(&self.checked, returned)));
        }
    }

    fn replied(&mut self, delivery: lapin::message::Delivery) {
        let id = delivery.properties.correlation_id().as_ref().map(|id| id.as_str());
        // A reply that comes too late, or to no one, is dropped.
        if let Some(job) = id.and_then(|id| self.calls.remove(id)) {
            job.end(Ok(Some(Reply { properties: delivery.properties, body: delivery.data })));
        }
    }
}

// === impl Unconfirmed ===

impl Future for Unconfirmed {
    type Output = (Published, Result<Answer, Trouble>);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(self.publish.poll(cx));
        match self.what.take() {
            Some(published) => Poll::Ready((published, answer::read(result))),
            // It is not polled again once it has ended.
            None => Poll::Pending,
        }
    }
}

// === impl OpenLine ===

impl OpenLine {
    async fn open(
        session: Arc<Session>,
        on: u64,
        checked: &Checked,
        is_call: bool,
        number: u64,
    ) -> Result<Self, Trouble> {
        let channel = session.channel().await?;
        if !checked.exchange.as_str().is_empty() {
            let options = ExchangeDeclareOptions { passive: true, ..ExchangeDeclareOptions::default() };
            let (exchange, kind) = (checked.exchange.clone(), lapin::ExchangeKind::Direct);
            // The type is not looked at when an exchange is only looked for.
            let found = channel.exchange_declare(exchange, kind, options, FieldTable::default()).await;
            found.map_err(|error| Trouble::from_error("looking for the exchange", &error))?;
        }
        let confirms = channel.confirm_select(ConfirmSelectOptions::default()).await;
        confirms.map_err(|error| Trouble::from_error("asking for confirmations", &error))?;
        let replies = if is_call {
            // Direct reply-to wants its consumer on the channel that asks, without acknowledgements.
            let options = BasicConsumeOptions { no_ack: true, ..BasicConsumeOptions::default() };
            let consumed =
                channel.basic_consume(REPLY_TO.into(), "".into(), options, FieldTable::default()).await;
            Some(consumed.map_err(|error| Trouble::from_error("consuming replies", &error))?)
        } else {
            None
        };
        let properties_max = session.frame_max().saturating_sub(64);
        let line = Arc::new(Line { session, channel, on, properties_max, turn: Mutex::default() });
        Ok(Self { line, replies, unconfirmed: 0, number })
    }
}

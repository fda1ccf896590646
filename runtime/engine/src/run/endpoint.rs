//! An endpoint: what belongs to the runtime and not to a version. It holds the source, the deliveries that have not settled,
//! the lanes that keep their order, and the in-flight limit; versions are attached to it.
//!
//! One task owns the source. It asks for the next delivery only when there is room, hands it to the attached version, and
//! between two deliveries obeys commands: attach another version, let another source take over, close.

use std::{
    hash::{DefaultHasher, Hash, Hasher},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering as Atomic},
    },
    time::Duration,
};

use futures_util::future::select_all;
use gristmill_core::{
    Acknowledgement, Delivery, Message, Settlement,
    plugin::Health,
    settlement::Outcome,
    source::{Order, PreparedSource, SOURCE_RETRY, Source, SourceError},
};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::Instant,
};

use super::{
    delivery::{self, Journey},
    lane::{Lane, Ticket},
    version::Version,
};
use crate::expression::Scope;

/// The handle of a running endpoint. Dropping it ends the endpoint at once; unsettled deliveries can still settle.
pub(crate) struct Endpoint {
    commands: mpsc::UnboundedSender<Command>,
    shared: Arc<Shared>,
    state: watch::Receiver<EndpointState>,
}

/// How an endpoint is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum EndpointState {
    /// It takes messages.
    Running,
    /// The source cannot go on for now.
    Degraded(String),
    /// A plugin is held back, so nothing is taken.
    Paused(String),
    /// The source has no more messages, or was closed.
    Finished,
}

enum Command {
    Attach {
        version: Arc<Version>,
        old: oneshot::Sender<Arc<Version>>,
    },
    TakeOver {
        prepared: Box<dyn PreparedSource>,
        version: Arc<Version>,
        old: oneshot::Sender<Result<Arc<Version>, SourceError>>,
    },
    /// What a stopped version could not finish.
    Offer(Held),
    Close {
        taken: oneshot::Sender<()>,
    },
}

#[derive(Default)]
struct Shared {
    in_flight: AtomicUsize,
    settled: Notify,
}

/// A delivery that has not settled.
struct Held {
    message: Message,
    acknowledgement: Acknowledgement,
    ticket: Option<Ticket>,
    /// What is wrong with it before its first step.
    failure: Option<gristmill_core::Failure>,
    accepted: std::time::Instant,
    _room: Room,
}

/// Room for one delivery; given back when dropped.
struct Room(Arc<Shared>);

/// The lanes of an endpoint, for one way of ordering.
struct Lanes {
    by_text: Option<Arc<str>>,
    strict: bool,
    lanes: Vec<Arc<Lane>>,
}

struct Task {
    source: Option<Box<dyn Source>>,
    version: Arc<Version>,
    /// The health of the version's plugins, as far as it was seen.
    plugins: Vec<watch::Receiver<Health>>,
    commands: mpsc::UnboundedReceiver<Command>,
    /// For the tasks of deliveries: they must not keep the endpoint alive.
    offers: mpsc::WeakUnboundedSender<Command>,
    shared: Arc<Shared>,
    state: watch::Sender<EndpointState>,
    lanes: Option<Lanes>,
    next_number: u64,
    /// Lanes were changed: nothing is taken until what is in the old ones has settled.
    waits_for_lanes: bool,
    retry_at: Option<Instant>,
    health: Health,
    finished: bool,
    closing: Option<oneshot::Sender<()>>,
    closed: bool,
}

// === impl Endpoint ===

impl Endpoint {
    /// Begins to take messages from the source.
    pub(crate) fn start(source: Box<dyn Source>, version: Arc<Version>) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared::default());
        let (state, watched) = watch::channel(EndpointState::Running);
        let task = Task {
            source: Some(source),
            lanes: Lanes::for_version(&version),
            plugins: version.plugins.clone(),
            version,
            offers: commands.downgrade(),
            commands: receiver,
            shared: Arc::clone(&shared),
            state,
            next_number: 0,
            waits_for_lanes: false,
            retry_at: None,
            health: Health::Fit,
            finished: false,
            closing: None,
            closed: false,
        };
        tokio::spawn(task.run());
        Self { commands, shared, state: watched }
    }

    /// Attaches another version; what comes from now on is its. Gives the one before.
    pub(crate) async fn attach(&self, version: Arc<Version>) -> Option<Arc<Version>> {
        let (old, attached) = oneshot::channel();
        self.commands.send(Command::Attach { version, old }).ok()?;
        attached.await.ok()
    }

    /// Lets another source take over, and attaches the version that belongs to it.
    ///
    /// # Errors
    /// The source that was goes on with the version that was.
    pub(crate) async fn take_over(
        &self,
        prepared: Box<dyn PreparedSource>,
        version: Arc<Version>,
    ) -> Result<Arc<Version>, SourceError> {
        let gone = || SourceError::new("the endpoint has ended");
        let (old, taken) = oneshot::channel();
        self.commands.send(Command::TakeOver { prepared, version, old }).map_err(|_| gone())?;
        taken.await.map_err(|_| gone())?
    }

    /// Accepts no more. Returns when everything that was accepted is with the version.
    pub(crate) async fn close(&self) {
        let (taken, all_taken) = oneshot::channel();
        if self.commands.send(Command::Close { taken }).is_ok() {
            // An endpoint that is gone has nothing left to give.
            let _gone = all_taken.await;
        }
    }

    /// How many deliveries have not settled.
    pub(crate) fn in_flight(&self) -> usize {
        self.shared.in_flight.load(Atomic::Acquire)
    }

    /// How it is.
    pub(crate) fn state(&self) -> EndpointState {
        self.state.borrow().clone()
    }

    /// To wait for a change of how it is.
    pub(crate) fn watch(&self) -> watch::Receiver<EndpointState> {
        self.state.clone()
    }
}

// === impl Room ===

impl Room {
    fn take(shared: &Arc<Shared>) -> Self {
        shared.in_flight.fetch_add(1, Atomic::AcqRel);
        Self(Arc::clone(shared))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Atomic::AcqRel);
        self.0.settled.notify_one();
    }
}

// === impl Lanes ===

impl Lanes {
    fn for_version(version: &Version) -> Option<Self> {
        let ordering = &version.ordering;
        let count = match &ordering.parallel {
            Some(parallel) => parallel.lanes,
            None if ordering.order == Order::Total || ordering.strict => 1,
            None => return None,
        };
        Some(Self {
            by_text: ordering.parallel.as_ref().map(|p| Arc::clone(&p.by_text)),
            strict: ordering.strict,
            lanes: (0..count).map(|_| Arc::default()).collect(),
        })
    }

    fn same(one: Option<&Self>, other: Option<&Self>) -> bool {
        let shape = |lanes: Option<&Self>| lanes.map(|l| (l.by_text.clone(), l.strict, l.lanes.len()));
        shape(one) == shape(other)
    }
}

// === impl Task ===

impl Task {
    async fn run(mut self) {
        loop {
            let may_take = self.may_take();
            let health_changes = a_change(&mut self.plugins);
            let retry_at = self.retry_at;
            let Some(source) = self.source.as_mut() else { return };
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                () = health_changes => self.note_health(),
                () = self.shared.settled.notified(), if !may_take && retry_at.is_none() => {}
                () = tokio::time::sleep_until(retry_at.unwrap_or_else(Instant::now)), if retry_at.is_some() => {
                    self.retry_at = None;
                }
                next = source.next(), if may_take => self.took(next),
            }
        }
    }

    fn may_take(&mut self) -> bool {
        let in_flight = self.shared.in_flight.load(Atomic::Acquire);
        if self.waits_for_lanes && in_flight == 0 {
            self.waits_for_lanes = false;
            self.lanes = Lanes::for_version(&self.version);
        }
        let limit = match self.health {
            Health::Fit => self.version.limits.in_flight,
            Health::Probing => 1,
            // What is still waiting at a source that is being closed is given to the version all the same: it fails,
            // and is released.
            Health::Quarantined(_) if self.closed => self.version.limits.in_flight,
            Health::Quarantined(_) => 0,
        };
        in_flight < limit && !self.finished && !self.waits_for_lanes && self.retry_at.is_none()
    }

    async fn obey(&mut self, command: Command) {
        match command {
            Command::Attach { version, old } => {
                // Whoever asked may have been cancelled; the version is attached all the same.
                let _cancelled = old.send(self.attach(version));
            }
            Command::TakeOver { prepared, version, old } => {
                let Some(source) = self.source.take() else { return };
                let answer = match prepared.take_over(source).await {
                    Ok(source) => {
                        self.source = Some(source);
                        self.retry_at = None;
                        self.finished = false;
                        Ok(self.attach(version))
                    }
                    Err(failed) => {
                        self.source = Some(failed.old);
                        Err(failed.error)
                    }
                };
                let _cancelled = old.send(answer);
            }
            Command::Offer(held) => {
                if self.version.is_stopped() {
                    held.acknowledgement.released(None);
                } else {
                    if let Some(ticket) = &held.ticket {
                        ticket.restart(self.version.generation);
                    }
                    self.dispatch(held);
                }
            }
            Command::Close { taken } => {
                if let Some(source) = self.source.as_mut() {
                    source.close().await;
                }
                self.closed = true;
                self.retry_at = None;
                if self.finished {
                    let _gone = taken.send(());
                } else {
                    self.closing = Some(taken);
                }
            }
        }
    }

    fn attach(&mut self, version: Arc<Version>) -> Arc<Version> {
        let old = std::mem::replace(&mut self.version, version);
        self.plugins = self.version.plugins.clone();
        if !Lanes::same(self.lanes.as_ref(), Lanes::for_version(&self.version).as_ref()) {
            self.waits_for_lanes = true;
        }
        self.note_health();
        old
    }

    fn note_health(&mut self) {
        let health = self.version.health();
        if health == self.health {
            return;
        }
        let why = match &health {
            Health::Quarantined(why) => Some(format!("a plugin is held back: {why}")),
            Health::Fit | Health::Probing => None,
        };
        if let Some(source) = self.source.as_mut() {
            source.pause(why.as_deref());
        }
        self.health = health;
        if !self.finished {
            self.state.send_replace(why.map_or(EndpointState::Running, EndpointState::Paused));
        }
    }

    fn took(&mut self, next: Result<Option<Delivery>, SourceError>) {
        match next {
            Ok(Some(delivery)) => {
                if matches!(&*self.state.borrow(), EndpointState::Degraded(_)) {
                    self.state.send_replace(EndpointState::Running);
                }
                self.accept(delivery);
            }
            Ok(None) => {
                self.finished = true;
                self.state.send_replace(EndpointState::Finished);
                if let Some(taken) = self.closing.take() {
                    let _gone = taken.send(());
                }
            }
            Err(error) => {
                let state = EndpointState::Degraded(error.text.clone());
                if *self.state.borrow() != state {
                    tracing::warn!(
                        target: "gristmill::flow", flow = &*self.version.facts.id,
                        "the source cannot go on for now, and is asked again every second: {error}"
                    );
                    self.state.send_replace(state);
                }
                if self.closed {
                    // What a closed source cannot give is left where it is.
                    return self.took(Ok(None));
                }
                self.retry_at = Some(Instant::now() + SOURCE_RETRY);
            }
        }
    }

    fn accept(&mut self, delivery: Delivery) {
        let Delivery { message, acknowledgement, redelivered: _ } = delivery;
        self.version.observer.accepted(&message);
        let (ticket, failure) = self.place(&message);
        self.dispatch(Held {
            message,
            acknowledgement,
            ticket,
            failure,
            accepted: std::time::Instant::now(),
            _room: Room::take(&self.shared),
        });
    }

    /// A place in the lane of the message's key.
    fn place(&mut self, message: &Message) -> (Option<Ticket>, Option<gristmill_core::Failure>) {
        let Some(lanes) = &self.lanes else { return (None, None) };
        let version = &self.version;
        let (lane, failure) = match &version.ordering.parallel {
            None => (0, None),
            Some(parallel) => match parallel.by.evaluate_string(&Scope::new(message, &version.facts)) {
                Ok(key) => {
                    let mut hasher = DefaultHasher::new();
                    key.hash(&mut hasher);
                    let lane = hasher.finish() % (lanes.lanes.len() as u64).max(1);
                    (usize::try_from(lane).unwrap_or(0), None)
                }
                Err(failure) => return (None, Some(failure)),
            },
        };
        self.next_number += 1;
        let ticket = lanes.lanes.get(lane).map(|lane| lane.enter(self.next_number, version.generation));
        (ticket, failure)
    }

    fn dispatch(&self, held: Held) {
        let version = Arc::clone(&self.version);
        let offers = self.offers.clone();
        // The tracker keeps count for the drain; a task that panics drops what it holds, which releases it.
        version.tasks.spawn(carry(Arc::clone(&version), held, offers));
    }
}

/// Takes one delivery through a version, and tells its source how it ended.
async fn carry(version: Arc<Version>, mut held: Held, offers: mpsc::WeakUnboundedSender<Command>) {
    loop {
        let outcome = once(&version, &mut held).await;
        let released = outcome.settlement == Settlement::Released;
        if released && version.is_stopped() {
            // By the time the version is stopped the endpoint has another one, or is closing; it decides.
            if let Some(endpoint) = offers.upgrade()
                && let Err(mpsc::error::SendError(Command::Offer(held))) = endpoint.send(Command::Offer(held))
            {
                held.acknowledgement.released(None);
            }
            return;
        }
        if released && version.ordering.strict {
            // Nothing may overtake it, so it is not given back to the source: it blocks its lane and is tried again here.
            tokio::select! {
                () = tokio::time::sleep(version.limits.release_delay()) => {}
                () = version.stop.cancelled() => {}
            }
            continue;
        }
        version.observer.settled(&held.message, &outcome, held.accepted.elapsed());
        // The room is given back, and the lane moves on, before the source hears: it may offer the next at once.
        let Held { acknowledgement, ticket, _room, .. } = held;
        drop(ticket);
        drop(_room);
        acknowledgement.forward(outcome);
        return;
    }
}

/// One pass through the flow.
async fn once(version: &Version, held: &mut Held) -> Outcome {
    let (tell, told) = oneshot::channel();
    let acknowledgement = Acknowledgement::new(move |outcome| {
        // The receiver is a local of the task that waits below.
        let _gone = tell.send(outcome);
    });
    let journey = Journey { version, original: &held.message, ticket: held.ticket.as_ref() };
    let failure = held.failure.take();
    let pass = async {
        if version.ordering.strict
            && let Some(ticket) = journey.ticket
        {
            ticket.is_first().await;
        }
        let message = held.message.clone();
        match failure {
            Some(failure) => delivery::fail(journey, message, acknowledgement, failure, "parallel.by").await,
            None => delivery::run(journey, message, acknowledgement).await,
        }
    };
    tokio::select! {
        biased;
        () = version.stop.cancelled() => {}
        () = pass => {}
    }
    // Every branch has been settled or dropped by now, so the answer is there.
    told.await.unwrap_or(Outcome {
        settlement: Settlement::Released,
        dead_lettered: false,
        reply: None,
        failure: None,
    })
}

/// Waits until the health of one of the plugins has changed.
async fn a_change(plugins: &mut [watch::Receiver<Health>]) {
    if plugins.is_empty() {
        return std::future::pending().await;
    }
    let changes = plugins.iter_mut().map(|plugin| {
        Box::pin(async {
            if plugin.changed().await.is_err() {
                // A plugin that says no more stays as it is.
                std::future::pending::<()>().await;
            }
        })
    });
    select_all(changes).await;
}

/// Closes an endpoint and waits until its version has finished what was accepted, both together at the longest for `limit`.
/// What is left then is released; gives how many.
pub(crate) async fn close_and_drain(endpoint: &Endpoint, version: &Version, limit: Duration) -> usize {
    let began = Instant::now();
    let taken = tokio::time::timeout(limit, endpoint.close()).await.is_ok();
    let rest = limit.saturating_sub(began.elapsed());
    version.drain(if taken { rest } else { Duration::ZERO }).await
}

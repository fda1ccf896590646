//! An endpoint: what belongs to the runtime and not to a version. It holds the source, the deliveries that have not settled,
//! the lanes that keep their order, and the in-flight limit; versions are attached to it.
//!
//! One task owns the source. It asks for the next delivery only when there is room, hands it to the attached version, and
//! between two deliveries obeys commands: attach another version, let another source take over, close.

use std::{
    future::poll_fn,
    hash::{DefaultHasher, Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering as Atomic},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::future::select_all;
use gristmill_core::{
    Acknowledgement, Delivery, ErrorClass, Failure, Lineage, Message, Settlement,
    plugin::Health,
    settlement::Outcome,
    source::{Order, PreparedSource, SOURCE_RETRY, Source, SourceError},
};
use tokio::{
    sync::{Notify, mpsc, oneshot, watch},
    time::Instant,
};

use tokio_util::{sync::ReusableBoxFuture, task::TaskTracker};

use super::{
    delivery::{Journey, Walk},
    ending::say_released,
    lane::{Lane, Ticket},
    version::Version,
};
use crate::expression::Scope;

/// A source that has failed and then has not failed again for this long, though it gives nothing, is fit again.
const RECOVERED_AFTER: Duration = Duration::from_secs(10);

/// How many deliveries that are there already the endpoint takes before other tasks of its thread have their turn.
const TAKEN_AT_ONCE: u32 = 16;

/// The handle of a running endpoint. Dropping it ends the endpoint at once; unsettled deliveries can still settle.
pub(crate) struct Endpoint {
    commands: mpsc::UnboundedSender<Command>,
    shared: Arc<Shared>,
    state: watch::Receiver<EndpointState>,
    /// The drains of the versions that were attached before.
    older: TaskTracker,
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
    /// Its task is gone, which only a fault of the runtime or an adapter can do.
    Ended,
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
    /// The source is told that it is not only for a while.
    Retire,
    Close {
        heir: Option<mpsc::WeakUnboundedSender<Command>>,
        taken: oneshot::Sender<()>,
    },
}

struct Shared {
    in_flight: AtomicUsize,
    settled: Notify,
    /// Where deliveries are offered that a stopped version could not finish. Weak: they must not keep the endpoint alive.
    offers: mpsc::WeakUnboundedSender<Command>,
}

/// A delivery that has not settled.
struct Held {
    message: Message,
    acknowledgement: Acknowledgement,
    ticket: Option<Ticket>,
    /// What is wrong with it before its first step.
    failure: Option<Failure>,
    accepted: std::time::Instant,
    room: Room,
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
    shared: Arc<Shared>,
    state: watch::Sender<EndpointState>,
    lanes: Option<Lanes>,
    next_number: u64,
    /// Lanes were changed: nothing is taken until what is in the old ones has settled.
    waits_for_lanes: bool,
    retry_at: Option<Instant>,
    /// When the source counts as fit again, if it does not fail before.
    recovered_at: Option<Instant>,
    /// Why the source cannot go on for now.
    trouble: Option<String>,
    health: Health,
    finished: bool,
    closing: Option<oneshot::Sender<()>>,
    closed: bool,
    /// The room of a delivery that needed no task.
    spare: Option<ReusableBoxFuture<'static, ()>>,
    /// How many deliveries were taken since other tasks had their turn.
    taken: u32,
    /// Who gets what could not be finished once this endpoint is closed.
    heir: Option<mpsc::WeakUnboundedSender<Command>>,
}

// === impl Endpoint ===

impl Endpoint {
    /// Begins to take messages from the source.
    pub(crate) fn start(source: Box<dyn Source>, version: Arc<Version>) -> Self {
        let (commands, receiver) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared {
            in_flight: AtomicUsize::new(0),
            settled: Notify::new(),
            offers: commands.downgrade(),
        });
        let (state, watched) = watch::channel(EndpointState::Running);
        let task = Task {
            source: Some(source),
            lanes: Lanes::for_version(&version),
            plugins: version.plugins.clone(),
            version,
            commands: receiver,
            shared: Arc::clone(&shared),
            state,
            next_number: 0,
            waits_for_lanes: false,
            retry_at: None,
            recovered_at: None,
            trouble: None,
            health: Health::Fit,
            finished: false,
            closing: None,
            closed: false,
            spare: None,
            taken: 0,
            heir: None,
        };
        tokio::spawn(task.run());
        Self { commands, shared, state: watched, older: TaskTracker::new() }
    }

    /// Attaches another version; what comes from now on is its. Gives the one before.
    ///
    /// # Errors
    /// The endpoint has ended.
    pub(crate) async fn attach(&self, version: Arc<Version>) -> Result<Arc<Version>, SourceError> {
        let (old, attached) = oneshot::channel();
        self.commands.send(Command::Attach { version, old }).map_err(|_| ended())?;
        attached.await.map_err(|_| ended())
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
        let (old, taken) = oneshot::channel();
        self.commands.send(Command::TakeOver { prepared, version, old }).map_err(|_| ended())?;
        taken.await.map_err(|_| ended())?
    }

    /// Tells the source that it ends for good, before it is closed.
    pub(crate) fn retire(&self) {
        // An endpoint that is gone has no source.
        let _gone = self.commands.send(Command::Retire);
    }

    /// Notes a task that waits for a version of before, which has still deliveries of this endpoint.
    pub(crate) fn drain_older(&self, drain: impl Future<Output = ()> + Send + 'static) {
        drop(self.older.spawn(drain));
    }

    /// Waits until the versions of before have finished, each within its own drain limit: their last acknowledgements are the
    /// source's to give.
    pub(crate) async fn older_drained(&self) {
        self.older.close();
        self.older.wait().await;
    }

    /// Accepts no more. Returns when everything that was accepted is with the version. What a version cannot finish
    /// from now on is offered to `heir`, or released when there is none.
    pub(crate) async fn close(&self, heir: Option<&Endpoint>) {
        let (taken, all_taken) = oneshot::channel();
        let heir = heir.map(|heir| heir.commands.downgrade());
        if self.commands.send(Command::Close { heir, taken }).is_ok() {
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
        if self.has_ended() { EndpointState::Ended } else { self.state.borrow().clone() }
    }

    /// Whether its task is gone, though no one has let it go.
    pub(crate) fn has_ended(&self) -> bool {
        self.commands.is_closed()
    }

    /// To wait for a change of how it is, from now on.
    pub(crate) fn watch(&self) -> watch::Receiver<EndpointState> {
        let mut watched = self.state.clone();
        watched.mark_unchanged();
        watched
    }
}

fn ended() -> SourceError {
    SourceError::new(
        "the endpoint was ended by a fault of the runtime or of its adapter; it is started again",
    )
}

fn never_took_over(limit: Duration) -> SourceError {
    SourceError::new(format!(
        "its source with the new settings did not take over from the one before within {} ms (limits.prepare_ms); it is \
         started again",
        limit.as_millis()
    ))
}

// === impl Held ===

impl Held {
    /// Tells the source how the delivery ended. The room is given back, and the lane moves on, before the source hears:
    /// it may offer the next at once. `now` is the time, if it is known.
    fn settle(self, version: &Version, outcome: Outcome, now: Option<std::time::Instant>) {
        let Self { message, acknowledgement, ticket, failure: _, accepted, room } = self;
        let now = now.unwrap_or_else(std::time::Instant::now);
        version.observer.settled(&message, &outcome, now.duration_since(accepted));
        drop(ticket);
        drop(room);
        acknowledgement.forward(outcome);
    }

    /// The version was stopped, and there is no other to offer it to. What is behind it in its lane does not go on, though its
    /// version may have time left: it would come out before what it follows.
    fn release(mut self, version: &Version) {
        if let Some(ticket) = self.ticket.take() {
            ticket.block();
        }
        let failure = Failure::new(ErrorClass::Drained, "the drain limit was reached (limits.drain_ms)");
        say_released(version, &self.message, &failure);
        self.settle(version, released(Some(Arc::new(failure))), None);
    }
}

fn released(failure: Option<Arc<Failure>>) -> Outcome {
    Outcome { settlement: Settlement::Released, dead_lettered: false, reply: None, failure }
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
        // A plugin may have been held back before anyone watched.
        self.note_health();
        loop {
            if self.has_news_of_plugins() {
                self.note_health();
            }
            if self.taken >= TAKEN_AT_ONCE {
                self.taken = 0;
                tokio::task::yield_now().await;
            }
            match self.commands.try_recv() {
                Ok(command) => {
                    self.obey(command).await;
                    continue;
                }
                Err(mpsc::error::TryRecvError::Empty) => {}
                Err(mpsc::error::TryRecvError::Disconnected) => return,
            }
            let may_take = self.may_take();
            let (retry_at, recovered_at) = (self.retry_at, self.recovered_at);
            let Some(source) = self.source.as_mut() else { return };
            if may_take && let Some(delivery) = source.ready() {
                self.took(Ok(Some(delivery)));
                continue;
            }
            // The source comes before all that is seldom, and what is seldom is made only when it is polled: while messages are
            // there, a turn costs no more than a look for commands.
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                next = source.next(), if may_take => self.took(next),
                () = a_change(&mut self.plugins) => self.note_health(),
                () = async { self.shared.settled.notified().await }, if !may_take && retry_at.is_none() => {}
                () = until(retry_at), if retry_at.is_some() => {
                    self.retry_at = None;
                    self.recovered_at = Some(Instant::now() + RECOVERED_AFTER);
                }
                () = until(recovered_at), if may_take && recovered_at.is_some() => self.recovered(),
            }
        }
    }

    /// Whether the health of a plugin has changed since it was last looked at.
    fn has_news_of_plugins(&mut self) -> bool {
        let mut news = false;
        for plugin in &mut self.plugins {
            // One that says no more stays as it is.
            if plugin.has_changed().unwrap_or(false) {
                plugin.mark_unchanged();
                news = true;
            }
        }
        news
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
                let limit = version.limits.prepare();
                let answer = match tokio::time::timeout(limit, prepared.take_over(source)).await {
                    Ok(Ok(source)) => {
                        self.source = Some(source);
                        self.retry_at = None;
                        self.finished = false;
                        let old = self.attach(version);
                        self.recovered();
                        // A new source begins unpaused; it has to be told what the one before was told.
                        self.tell_source();
                        Ok(old)
                    }
                    Ok(Err(failed)) => {
                        self.source = Some(failed.old);
                        Err(failed.error)
                    }
                    // The source before went down with the attempt, so the endpoint ends here, and is started afresh.
                    Err(_elapsed) => Err(never_took_over(limit)),
                };
                let _cancelled = old.send(answer);
            }
            Command::Offer(held) => self.offered(held),
            Command::Retire => {
                if let Some(source) = self.source.as_mut() {
                    source.retire();
                }
            }
            Command::Close { heir, taken } => {
                self.heir = heir;
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
        let lanes = Lanes::for_version(&self.version);
        if lanes.is_none() {
            // Without order there is nothing to wait for; what is in a lane keeps its place in it.
            self.lanes = None;
        }
        // Nothing was taken while the lanes were waited for, so they are those of what is in flight, and may be wanted again.
        self.waits_for_lanes = !Lanes::same(self.lanes.as_ref(), lanes.as_ref());
        self.note_health();
        old
    }

    /// What a stopped version could not finish goes on in the one that is attached.
    fn offered(&mut self, mut held: Held) {
        if self.closed || self.version.is_stopped() {
            match self.heir.as_ref().and_then(mpsc::WeakUnboundedSender::upgrade) {
                Some(heir) => offer(&heir, held, &self.version),
                None => held.release(&self.version),
            }
            return;
        }
        match &held.ticket {
            Some(ticket) => ticket.restart(self.version.generation),
            // Its key could not be told, or the version before had no lanes.
            None => (held.ticket, held.failure) = self.place(&held.message),
        }
        self.dispatch(held, None);
    }

    fn note_health(&mut self) {
        let health = self.version.health();
        if health != self.health {
            self.health = health;
            self.tell_source();
            self.show();
        }
    }

    /// Why nothing can be taken, if a plugin is held back.
    fn paused(&self) -> Option<String> {
        match &self.health {
            Health::Quarantined(why) => Some(format!("a plugin is held back: {why}")),
            Health::Fit | Health::Probing => None,
        }
    }

    fn tell_source(&mut self) {
        let why = self.paused();
        if let Some(source) = self.source.as_mut() {
            source.pause(why.as_deref());
        }
    }

    fn recovered(&mut self) {
        self.recovered_at = None;
        if self.trouble.take().is_some() {
            let facts = &self.version.facts;
            tracing::info!(
                target: "gristmill::flow", flow = &*facts.id, version = &*facts.version, "the source goes on"
            );
        }
        self.show();
    }

    /// Shows how the endpoint is, if that has changed.
    fn show(&self) {
        let state = match (self.finished, self.paused(), &self.trouble) {
            (true, _, _) => EndpointState::Finished,
            (false, Some(why), _) => EndpointState::Paused(why),
            (false, None, Some(why)) => EndpointState::Degraded(why.clone()),
            (false, None, None) => EndpointState::Running,
        };
        self.state.send_if_modified(|shown| {
            let changed = *shown != state;
            *shown = state;
            changed
        });
    }

    fn took(&mut self, next: Result<Option<Delivery>, SourceError>) {
        match next {
            Ok(Some(delivery)) => {
                if self.trouble.is_some() {
                    self.recovered();
                }
                self.accept(delivery);
            }
            Ok(None) => {
                self.finished = true;
                self.show();
                if let Some(taken) = self.closing.take() {
                    let _gone = taken.send(());
                }
            }
            Err(error) => {
                if self.trouble.as_ref() != Some(&error.text) {
                    tracing::warn!(
                        target: "gristmill::flow", flow = &*self.version.facts.id,
                        "the source cannot go on for now, and is asked again every second: {error}"
                    );
                }
                self.trouble = Some(error.text);
                self.recovered_at = None;
                self.show();
                if self.closed {
                    // What a closed source cannot give is left where it is.
                    return self.took(Ok(None));
                }
                self.retry_at = Some(Instant::now() + SOURCE_RETRY);
            }
        }
    }

    fn accept(&mut self, delivery: Delivery) {
        let Delivery { mut message, acknowledgement, redelivered: _ } = delivery;
        self.taken += 1;
        self.version.observer.accepted(&mut message);
        let (ticket, failure) = self.place(&message);
        let accepted = std::time::Instant::now();
        let room = Room::take(&self.shared);
        let held = Held { message, acknowledgement, ticket, failure, accepted, room };
        self.dispatch(held, Some(accepted));
    }

    /// A place in the lane of the message's key.
    fn place(&mut self, message: &Message) -> (Option<Ticket>, Option<Failure>) {
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
        let (number, generation) = (self.next_number, version.generation);
        let ticket = match lanes.lanes.as_slice() {
            [only] => Some(only.pass(number, generation)),
            several => several.get(lane).map(|lane| lane.enter(number, generation)),
        };
        (ticket, failure)
    }

    /// Begins to take a delivery through the version that is attached. `now` is the time, if it is known.
    fn dispatch(&mut self, held: Held, now: Option<std::time::Instant>) {
        // A task that panics drops what it holds, which releases it.
        let version = Arc::clone(&self.version);
        if self.lanes.as_ref().is_none_or(|lanes| lanes.lanes.len() > 1) {
            // By the time it has its turn, the clock has moved.
            version.tasks.spawn(carry(Arc::clone(&version), held, None));
            return;
        }
        // In one lane nothing starts before what came first has: another thread would only wait for this one. So it goes as far
        // as it comes here, and becomes a task when it has to wait.
        let carried = carry(version, held, now);
        let mut carried = match self.spare.take() {
            Some(mut spare) => {
                spare.set(carried);
                spare
            }
            None => ReusableBoxFuture::new(carried),
        };
        let mut context = Context::from_waker(Waker::noop());
        let polled = catch_unwind(AssertUnwindSafe(|| carried.poll(&mut context)));
        if let Some([lane]) = self.lanes.as_ref().map(|lanes| lanes.lanes.as_slice()) {
            lane.stay();
        }
        match polled {
            Ok(Poll::Ready(())) => self.spare = Some(carried),
            // It is polled again as soon as it is a task, whatever has woken it meanwhile.
            Ok(Poll::Pending) => drop(self.version.tasks.spawn(carried)),
            // Said by the panic's hook; what it held is dropped with it.
            Err(_panic) => {}
        }
    }
}

/// Waits until then; for ever if there is no then.
async fn until(then: Option<Instant>) {
    match then {
        Some(then) => tokio::time::sleep_until(then).await,
        None => std::future::pending().await,
    }
}

/// Takes one delivery through a version and tells its source how it ended. `now` is the time, if it is known.
///
/// As a task it is one of the version's, which waits for it when it drains. Before it is one, it is a part of the endpoint's task,
/// and no version drains that an endpoint is still in the middle of a delivery with: an endpoint lets go of a version between two.
async fn carry(version: Arc<Version>, held: Held, mut now: Option<std::time::Instant>) {
    loop {
        let outcome = once(&version, &held, &mut now).await;
        let released = outcome.settlement == Settlement::Released;
        if released && version.is_stopped() {
            // By the time the version is stopped the endpoint has another one, or is closing; it decides.
            match held.room.0.offers.upgrade() {
                Some(endpoint) => offer(&endpoint, held, &version),
                None => held.release(&version),
            }
            return;
        }
        if released && version.ordering.strict && held.ticket.is_some() {
            // Nothing may overtake it, so it is not given back to the source: it blocks its lane and is tried again here.
            // Boxed: no other delivery needs the room.
            Box::pin(async {
                tokio::select! {
                    () = tokio::time::sleep(version.limits.release_delay()) => {}
                    () = version.stop.cancelled() => {}
                }
            })
            .await;
            now = None;
            continue;
        }
        held.settle(&version, outcome, now);
        return;
    }
}

/// Offers to an endpoint what `version` could not finish; releases it when the endpoint is gone.
fn offer(endpoint: &mpsc::UnboundedSender<Command>, held: Held, version: &Version) {
    if let Some(ticket) = &held.ticket {
        ticket.stay();
    }
    if let Err(mpsc::error::SendError(Command::Offer(held))) = endpoint.send(Command::Offer(held)) {
        held.release(version);
    }
}

/// One pass through the flow. `now` is the time as far as it is known, before and after.
async fn once(version: &Version, held: &Held, now: &mut Option<std::time::Instant>) -> Outcome {
    if version.is_stopped() {
        // Nothing is begun.
        return released(None);
    }
    let (lineage, children) = (Lineage::new(), AtomicUsize::new(0));
    let (ticket, original) = (held.ticket.as_ref(), &held.message);
    let ended = {
        let journey =
            Journey { version, original, ticket, children: &children, lineage: &lineage, splits: 0 };
        let mut walk = Walk::trunk(journey, held.failure.clone(), now.take());
        let walked = poll_fn(|context| {
            let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut walk).poll(context)));
            // A panic has been reported by its hook. It releases the delivery, as does the end of the version.
            polled.unwrap_or(Poll::Ready(Settlement::Released))
        });
        let ended = tokio::select! {
            biased;
            // First, so that what need not wait does not begin to listen.
            ended = walked => ended,
            () = version.stop.cancelled() => Settlement::Released,
        };
        *now = walk.now();
        ended
    };
    // Every branch has been settled or dropped by now, so the answer is there.
    lineage.outcome(ended).await
}

/// Waits until the health of one of the plugins has changed.
async fn a_change(plugins: &mut [watch::Receiver<Health>]) {
    if plugins.is_empty() {
        return std::future::pending().await;
    }
    async fn of(plugin: &mut watch::Receiver<Health>) {
        if plugin.changed().await.is_err() {
            // A plugin that says no more stays as it is.
            std::future::pending::<()>().await;
        }
    }
    match plugins {
        [only] => of(only).await,
        several => {
            select_all(several.iter_mut().map(|plugin| Box::pin(of(plugin)))).await;
        }
    }
}

/// Gives up an endpoint and waits until its source is gone, with all that it brings to disk at its end.
pub(crate) async fn end(endpoint: Arc<Endpoint>) {
    let mut state = endpoint.watch();
    drop(endpoint);
    // The sender goes with the task, after the source.
    while state.changed().await.is_ok() {}
}

/// Closes an endpoint and waits until its version has finished what was accepted, both together at the longest for `limit`.
/// What is left then is offered to `heir`, or released; gives how many.
pub(crate) async fn close_and_drain(
    endpoint: &Endpoint,
    version: &Version,
    heir: Option<&Endpoint>,
    limit: Duration,
) -> usize {
    let began = Instant::now();
    let taken = tokio::time::timeout(limit, endpoint.close(heir)).await.is_ok();
    let rest = limit.saturating_sub(began.elapsed());
    version.drain(if taken { rest } else { Duration::ZERO }).await
}

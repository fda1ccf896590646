//! The task of an endpoint: it owns the source, asks it, obeys between two deliveries, and shows how all that is.

use std::{
    future::poll_fn,
    hash::{DefaultHasher, Hash, Hasher},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::future::select_all;
use gristmill_core::{
    Delivery, Failure, Message, Moment, Stopwatch,
    plugin::Health,
    source::{SOURCE_RETRY, Source, SourceError},
};
use tokio::{
    sync::{mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::ReusableBoxFuture;

use super::{
    Command, EndpointState, Shared,
    held::{Carrier, Held, Kept, Room, Way, carry, offer},
    lanes::Lanes,
    turn::Turn,
};
use crate::{
    expression::Scope,
    run::{lane::Ticket, version::Version},
};

/// A source that has failed and then has not failed again for this long, though it gives nothing, is fit again.
const RECOVERED_AFTER: Duration = Duration::from_secs(10);

/// What the task of an endpoint knows.
pub(super) struct Task {
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
    spare: Option<ReusableBoxFuture<'static, Option<Kept>>>,
    /// What else is left of it. Not kept while anything is waited for: whoever waits for a version to drain must not wait for an
    /// endpoint that has nothing to do.
    kept: Option<Kept>,
    turn: Turn,
    /// Who gets what could not be finished once this endpoint is closed.
    heir: Option<mpsc::WeakUnboundedSender<Command>>,
}

// === impl Task ===

impl Task {
    pub(super) fn new(
        source: Box<dyn Source>,
        version: Arc<Version>,
        commands: mpsc::UnboundedReceiver<Command>,
        shared: Arc<Shared>,
        state: watch::Sender<EndpointState>,
    ) -> Self {
        Self {
            source: Some(source),
            lanes: Lanes::for_version(&version),
            plugins: version.plugins.clone(),
            version,
            commands,
            shared,
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
            kept: None,
            turn: Turn::default(),
            heir: None,
        }
    }

    pub(super) async fn run(mut self) {
        // A plugin may have been held back before anyone watched.
        self.note_health();
        loop {
            if self.has_news_of_plugins() {
                self.note_health();
            }
            if self.turn.is_over() {
                self.turn = Turn::default();
                self.kept = None;
                tokio::task::yield_now().await;
            }
            match self.commands.try_recv() {
                Ok(command) => {
                    self.kept = None;
                    self.obey(command).await;
                    continue;
                }
                Err(mpsc::error::TryRecvError::Empty) => {}
                Err(mpsc::error::TryRecvError::Disconnected) => return,
            }
            let may_take = self.may_take() || self.may_take_after_all();
            let (retry_at, recovered_at) = (self.retry_at, self.recovered_at);
            let Some(source) = self.source.as_mut() else { return };
            if may_take && let Some(delivery) = source.ready() {
                self.took_one(delivery);
                continue;
            }
            self.kept = None;
            let mut waits = false;
            // The source comes before all that is seldom, and what is seldom is made only when it is polled: while messages are
            // there, a turn costs no more than a look for commands.
            tokio::select! {
                biased;
                command = self.commands.recv() => match command {
                    Some(command) => self.obey(command).await,
                    None => return,
                },
                next = noting(source.next(), &mut waits), if may_take => {
                    if waits {
                        // Others could have theirs meanwhile.
                        self.turn = Turn::default();
                    }
                    self.took(next);
                }
                () = a_change(&mut self.plugins) => self.note_health(),
                () = async { self.shared.settled.notified().await }, if !may_take && retry_at.is_none() => {}
                () = until(retry_at), if retry_at.is_some() => {
                    self.retry_at = None;
                    self.recovered_at = Some(Instant::now() + RECOVERED_AFTER);
                }
                () = until(recovered_at), if may_take && recovered_at.is_some() => self.recovered(),
            }
            if !may_take {
                self.shared.wanting_room(false);
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
        let in_flight = self.shared.in_flight();
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

    /// Says that this waits until something settles, and looks again: what settled before wakes no one.
    fn may_take_after_all(&mut self) -> bool {
        self.shared.wanting_room(true);
        let may_take = self.may_take();
        if may_take {
            self.shared.wanting_room(false);
        }
        may_take
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
        let way = &mut held.way;
        match &way.ticket {
            Some(ticket) => ticket.restart(self.version.generation),
            // Its key could not be told, or the version before had no lanes.
            None => (way.ticket, way.failure) = self.place(&way.message, None),
        }
        self.dispatch(Carrier::new(&self.version), held, None);
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
            Ok(Some(delivery)) => self.took_one(delivery),
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

    fn took_one(&mut self, delivery: Delivery) {
        if self.trouble.is_some() {
            self.recovered();
        }
        self.accept(delivery);
    }

    fn accept(&mut self, delivery: Delivery) {
        let Delivery { mut message, acknowledgement, redelivered: _ } = delivery;
        self.version.observer.accepted(&mut message);
        let Kept { carrier, shared, ticket } = self.kept.take().unwrap_or_else(|| Kept {
            carrier: Carrier::new(&self.version),
            shared: Arc::clone(&self.shared),
            ticket: None,
        });
        let (ticket, failure) = self.place(&message, ticket);
        let accepted = Moment::now();
        let room = Room::take(shared);
        let held = Held { way: Way { message, ticket, failure }, acknowledgement, accepted, room };
        self.dispatch(carrier, held, Some(accepted));
    }

    /// A place in the lane of the message's key. `left` is a ticket that another delivery has left.
    fn place(&mut self, message: &Message, left: Option<Ticket>) -> (Option<Ticket>, Option<Box<Failure>>) {
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
                Err(failure) => return (None, Some(Box::new(failure))),
            },
        };
        self.next_number += 1;
        let (number, generation) = (self.next_number, version.generation);
        let ticket = match lanes.lanes.as_slice() {
            [only] => Some(match left {
                Some(left) => left.pass_again(only, number, generation),
                None => only.pass(number, generation),
            }),
            several => several.get(lane).map(|lane| lane.enter(number, generation)),
        };
        (ticket, failure)
    }

    /// Begins to take a delivery through the version that is attached. `now` is the time, if it is known.
    fn dispatch(&mut self, carrier: Carrier, held: Held, now: Option<Moment>) {
        self.turn.begins(now.unwrap_or_else(Moment::now));
        // A task that panics drops what it holds, which releases it.
        if self.lanes.as_ref().is_none_or(|lanes| lanes.lanes.len() > 1) {
            // By the time it has its turn, the clock has moved.
            tokio::spawn(carry(carrier, held, Stopwatch::unread()));
            return;
        }
        // In one lane nothing starts before what came first has: another thread would only wait for this one. So it goes as far
        // as it comes here, and becomes a task when it has to wait.
        let watch = now.map_or_else(Stopwatch::unread, Stopwatch::at);
        let carried = carry(carrier, held, watch);
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
            Ok(Poll::Ready(kept)) => {
                self.spare = Some(carried);
                self.kept = kept;
            }
            // It is polled again as soon as it is a task, whatever has woken it meanwhile.
            Ok(Poll::Pending) => drop(tokio::spawn(carried)),
            // Said by the panic's hook; what it held is dropped with it.
            Err(_panic) => {}
        }
    }
}

/// The same future, which notes that it had to wait.
fn noting<'a, F: Future + Unpin + 'a>(
    mut future: F,
    waits: &'a mut bool,
) -> impl Future<Output = F::Output> + 'a {
    poll_fn(move |context| {
        let polled = Pin::new(&mut future).poll(context);
        *waits |= polled.is_pending();
        polled
    })
}

/// Waits until then; for ever if there is no then.
async fn until(then: Option<Instant>) {
    match then {
        Some(then) => tokio::time::sleep_until(then).await,
        None => std::future::pending().await,
    }
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

fn never_took_over(limit: Duration) -> SourceError {
    SourceError::new(format!(
        "its source with the new settings did not take over from the one before within {} ms (limits.prepare_ms); it is \
         started again",
        limit.as_millis()
    ))
}

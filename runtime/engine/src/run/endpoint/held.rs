//! A delivery that an endpoint has accepted, until it has settled, and what takes it through a version.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::{Arc, atomic::AtomicUsize},
    task::Poll,
};

use gristmill_core::{
    Acknowledgement, ErrorClass, Failure, Lineage, Message, Moment, Settlement, Stopwatch,
    settlement::Outcome,
};
use tokio::sync::mpsc;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{Command, Shared};
use crate::run::{
    delivery::{Journey, Walk},
    ending::say_released,
    lane::Ticket,
    version::Version,
};

/// A delivery that has not settled.
pub(super) struct Held {
    pub(super) way: Way,
    pub(super) acknowledgement: Acknowledgement,
    pub(super) accepted: Moment,
    pub(super) room: Room,
}

/// What of a delivery goes through the flow.
pub(super) struct Way {
    /// As the source gave it.
    pub(super) message: Message,
    pub(super) ticket: Option<Ticket>,
    /// What is wrong with it before its first step.
    pub(super) failure: Option<Box<Failure>>,
}

/// Room for one delivery; given back when dropped.
pub(super) struct Room(Option<Arc<Shared>>);

/// What a delivery is carried with.
pub(super) struct Carrier {
    pub(super) version: Arc<Version>,
    /// Counts in the version as a delivery that its drain waits for.
    _counted: TaskTrackerToken,
}

/// What the next delivery can have of one that has settled: to count anew who uses what costs as much as a small step.
pub(super) struct Kept {
    pub(super) carrier: Carrier,
    pub(super) shared: Arc<Shared>,
    pub(super) ticket: Option<Ticket>,
}

/// Takes one delivery through a version, and tells its source how it ended. Gives back what the next delivery can have.
///
/// Not an `async fn`: it would have room for its arguments twice, and there is one of these for each delivery that waits. It is moved
/// before it begins, too, so nothing is kept in it that is seldom of use.
pub(super) fn carry(
    carrier: Carrier,
    held: Held,
    watch: Stopwatch,
) -> impl Future<Output = Option<Kept>> + Send + 'static {
    async move {
        let version = &carrier.version;
        loop {
            {
                // In a block of its own: the wait behind it has no room for this outcome.
                let outcome = once(version, &held.way, &watch).await;
                let released = outcome.settlement == Settlement::Released;
                if released && version.is_stopped() {
                    // By the time the version is stopped the endpoint has another one, or is closing; it decides.
                    match held.room.offers() {
                        Some(endpoint) => offer(&endpoint, held, version),
                        None => held.release(version),
                    }
                    return None;
                }
                let blocks = released && version.ordering.strict && held.way.ticket.is_some();
                if !blocks {
                    let left = held.settle(version, outcome, &watch);
                    return left.map(|(shared, ticket)| Kept { carrier, shared, ticket });
                }
            }
            // Nothing may overtake it, so it is not given back to the source: it blocks its lane and is tried again here.
            // Boxed: no other delivery needs the room.
            Box::pin(async {
                tokio::select! {
                    () = tokio::time::sleep(version.limits.release_delay()) => {}
                    () = version.stop.cancelled() => {}
                }
            })
            .await;
            watch.forget();
        }
    }
}

/// Offers to an endpoint what `version` could not finish; releases it when the endpoint is gone.
pub(super) fn offer(endpoint: &mpsc::UnboundedSender<Command>, held: Held, version: &Version) {
    if let Some(ticket) = &held.way.ticket {
        ticket.stay();
    }
    if let Err(mpsc::error::SendError(Command::Offer(held))) = endpoint.send(Command::Offer(held)) {
        held.release(version);
    }
}

/// One pass through the flow. Not an `async fn`, as [`carry`].
fn once<'a>(
    version: &'a Version,
    way: &'a Way,
    watch: &'a Stopwatch,
) -> impl Future<Output = Outcome> + Send + 'a {
    async move {
        if version.is_stopped() {
            // Nothing is begun.
            return released(None);
        }
        let (mut lineage, children) = (Lineage::new(), AtomicUsize::new(0));
        let ended = {
            let Way { message: original, ticket, failure } = way;
            let journey = Journey {
                version,
                original,
                ticket: ticket.as_ref(),
                children: &children,
                lineage: &lineage,
                watch,
                splits: 0,
            };
            let mut walk = Walk::trunk(&journey, failure.clone());
            // What need not wait does not begin to listen.
            let mut stopped = None;
            poll_fn(|context| {
                let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut walk).poll(context)));
                // A panic has been reported by its hook. It releases the delivery, as does the end of the version.
                if let Poll::Ready(ended) = polled.unwrap_or(Poll::Ready(Settlement::Released)) {
                    return Poll::Ready(ended);
                }
                let stopped = stopped.get_or_insert_with(|| Box::pin(version.stop.cancelled()));
                stopped.as_mut().poll(context).map(|()| Settlement::Released)
            })
            .await
        };
        // Every branch has been settled or dropped by now, so the answer is there.
        lineage.outcome(ended).await
    }
}

// === impl Held ===

impl Held {
    /// Tells the source how the delivery ended. The room is given back, and the lane moves on, before the source hears:
    /// it may offer the next at once. Gives back what the room was of, and the ticket that was left.
    fn settle(
        self,
        version: &Version,
        outcome: Outcome,
        watch: &Stopwatch,
    ) -> Option<(Arc<Shared>, Option<Ticket>)> {
        let Self { way: Way { message, mut ticket, failure: _ }, acknowledgement, accepted, room } = self;
        version.observer.settled(&message, &outcome, watch.recent().since(accepted));
        if let Some(ticket) = &mut ticket {
            ticket.leave();
        }
        let shared = room.leave();
        acknowledgement.complete(outcome);
        shared.map(|shared| (shared, ticket))
    }

    /// The version was stopped, and there is no other to offer it to. What is behind it in its lane does not go on, though its
    /// version may have time left: it would come out before what it follows.
    pub(super) fn release(mut self, version: &Version) {
        if let Some(ticket) = self.way.ticket.take() {
            ticket.block();
        }
        let failure = Failure::new(ErrorClass::Drained, "the drain limit was reached (limits.drain_ms)");
        say_released(version, &self.way.message, &failure);
        let watch = Stopwatch::unread();
        drop(self.settle(version, released(Some(Arc::new(failure))), &watch));
    }
}

fn released(failure: Option<Arc<Failure>>) -> Outcome {
    Outcome { failure, ..Outcome::of(Settlement::Released) }
}

// === impl Room ===

impl Room {
    pub(super) fn take(shared: Arc<Shared>) -> Self {
        shared.takes_room();
        Self(Some(shared))
    }

    /// Gives it back, and what it is of.
    fn leave(mut self) -> Option<Arc<Shared>> {
        self.given_back()
    }

    fn given_back(&mut self) -> Option<Arc<Shared>> {
        let shared = self.0.take()?;
        shared.gives_room();
        Some(shared)
    }

    /// Where the endpoint is offered what could not be finished, if it is still there.
    fn offers(&self) -> Option<mpsc::UnboundedSender<Command>> {
        self.0.as_ref()?.offers.upgrade()
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        drop(self.given_back());
    }
}

// === impl Carrier ===

impl Carrier {
    pub(super) fn new(version: &Arc<Version>) -> Self {
        Self { version: Arc::clone(version), _counted: version.tasks.token() }
    }
}

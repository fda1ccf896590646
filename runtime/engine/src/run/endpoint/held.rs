//! A delivery that an endpoint has accepted, until it has settled, and what takes it through a version.

use std::{
    future::poll_fn,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering as Atomic},
    },
    task::Poll,
    time::Instant,
};

use gristmill_core::{
    Acknowledgement, ErrorClass, Failure, Lineage, Message, Settlement, settlement::Outcome,
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
    pub(super) message: Message,
    pub(super) acknowledgement: Acknowledgement,
    pub(super) ticket: Option<Ticket>,
    /// What is wrong with it before its first step.
    pub(super) failure: Option<Box<Failure>>,
    pub(super) accepted: Instant,
    pub(super) room: Room,
}

/// Room for one delivery; given back when dropped.
pub(super) struct Room(Arc<Shared>);

/// Takes one delivery through a version, which counts it for its drain, and tells its source how it ended. `now` is the time, if
/// it is known.
///
/// Not an `async fn`: it would have room for its arguments twice, and there is one of these for each delivery that waits.
pub(super) fn carry(
    version: Arc<Version>,
    held: Held,
    mut now: Option<Instant>,
    counted: TaskTrackerToken,
) -> impl Future<Output = ()> + Send + 'static {
    async move {
        let _counted = &counted;
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
}

/// Offers to an endpoint what `version` could not finish; releases it when the endpoint is gone.
pub(super) fn offer(endpoint: &mpsc::UnboundedSender<Command>, held: Held, version: &Version) {
    if let Some(ticket) = &held.ticket {
        ticket.stay();
    }
    if let Err(mpsc::error::SendError(Command::Offer(held))) = endpoint.send(Command::Offer(held)) {
        held.release(version);
    }
}

/// One pass through the flow. `now` is the time as far as it is known, before and after.
async fn once(version: &Version, held: &Held, now: &mut Option<Instant>) -> Outcome {
    if version.is_stopped() {
        // Nothing is begun.
        return released(None);
    }
    let (lineage, children) = (Lineage::new(), AtomicUsize::new(0));
    let (ticket, original) = (held.ticket.as_ref(), &held.message);
    let ended = {
        let journey =
            Journey { version, original, ticket, children: &children, lineage: &lineage, splits: 0 };
        let mut walk = Walk::trunk(journey, held.failure.as_deref().cloned(), now.take());
        // What need not wait does not begin to listen.
        let mut stopped = pin!(None);
        let ended = poll_fn(|context| {
            let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(&mut walk).poll(context)));
            // A panic has been reported by its hook. It releases the delivery, as does the end of the version.
            if let Poll::Ready(ended) = polled.unwrap_or(Poll::Ready(Settlement::Released)) {
                return Poll::Ready(ended);
            }
            if stopped.is_none() {
                stopped.set(Some(version.stop.cancelled()));
            }
            let listens = stopped.as_mut().as_pin_mut();
            listens.map_or(Poll::Pending, |stopped| stopped.poll(context).map(|()| Settlement::Released))
        })
        .await;
        *now = walk.now();
        ended
    };
    // Every branch has been settled or dropped by now, so the answer is there.
    lineage.outcome(ended).await
}

// === impl Held ===

impl Held {
    /// Tells the source how the delivery ended. The room is given back, and the lane moves on, before the source hears:
    /// it may offer the next at once. `now` is the time, if it is known.
    fn settle(self, version: &Version, outcome: Outcome, now: Option<Instant>) {
        let Self { message, acknowledgement, ticket, failure: _, accepted, room } = self;
        let now = now.unwrap_or_else(Instant::now);
        version.observer.settled(&message, &outcome, now.duration_since(accepted));
        drop(ticket);
        drop(room);
        acknowledgement.forward(outcome);
    }

    /// The version was stopped, and there is no other to offer it to. What is behind it in its lane does not go on, though its
    /// version may have time left: it would come out before what it follows.
    pub(super) fn release(mut self, version: &Version) {
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
    pub(super) fn take(shared: &Arc<Shared>) -> Self {
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

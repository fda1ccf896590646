//! The lineage of a delivery: how many branches it has does not matter, the source hears exactly once, and hears the
//! worst.
//!
//! Every branch holds an [`Acknowledgement`]. All of them share one record; when the last one is gone, what waits for the outcome is
//! told. So a branch that is forgotten, cancelled, or lost to a panic counts as released and can never be taken for
//! delivered: promise 1 rests on `Drop`, not on the care of each step.

use std::{
    future::poll_fn,
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
    task::{Poll, Waker},
};

use crate::{
    delivery::Reply,
    failure::Failure,
    settlement::{Outcome, Settlement},
};

/// What one branch of a delivery owes. Settle it; if it is dropped instead, the branch counts as released.
pub struct Acknowledgement {
    record: Arc<Shared<dyn Complete>>,
    settled: bool,
}

/// The lineage of one delivery's way through a flow, for what takes it through: the *trunk*, which is told how it ended by what it
/// does and needs no acknowledgement. Only a branch beside it asks for memory.
#[derive(Default)]
pub struct Lineage {
    reply: Mutex<Option<Reply>>,
    /// What the branches have in common, and the trunk as one of them.
    branches: OnceLock<Arc<Shared<Awaited>>>,
}

/// What all branches have in common. One piece of memory, whatever is to be done in the end.
struct Shared<C: ?Sized>(Mutex<Record<C>>);

struct Record<C: ?Sized> {
    /// How many are not done.
    branches: usize,
    worst: Settlement,
    dead_lettered: bool,
    reply: Option<Reply>,
    failure: Option<Arc<Failure>>,
    complete: C,
}

/// What is done when the last branch has settled.
trait Complete: Send {
    fn complete(&mut self, outcome: Outcome);
}

/// The outcome is awaited.
#[derive(Default)]
struct Awaited {
    outcome: Option<Outcome>,
    waker: Option<Waker>,
}

// === impl Acknowledgement ===

impl Acknowledgement {
    /// The acknowledgement of a new delivery. `complete` is called once, when the last branch has settled, on whichever
    /// thread that happens: it must neither block nor panic.
    pub fn new(complete: impl FnOnce(Outcome) + Send + 'static) -> Self {
        Self { record: Arc::new(Shared(Mutex::new(Record::of(Some(complete))))), settled: false }
    }

    /// One more branch of the same delivery.
    #[must_use]
    pub fn branch(&self) -> Self {
        self.record.lock().branches += 1;
        Self { record: Arc::clone(&self.record), settled: false }
    }

    /// What the source shall answer. The last call wins; it is sent when the delivery has settled.
    pub fn set_reply(&self, reply: Reply) {
        self.record.lock().reply = Some(reply);
    }

    /// This branch is done.
    pub fn delivered(self) {
        self.settle(Settlement::Delivered, None);
    }

    /// This branch is done: a dead letter holds it.
    pub fn dead_lettered(self) {
        self.forward(Outcome {
            settlement: Settlement::Delivered,
            dead_lettered: true,
            reply: None,
            failure: None,
        });
    }

    /// This branch is not to be tried again.
    pub fn rejected(self, failure: Option<Arc<Failure>>) {
        self.settle(Settlement::Rejected, failure);
    }

    /// This branch is to be tried again.
    pub fn released(self, failure: Option<Arc<Failure>>) {
        self.settle(Settlement::Released, failure);
    }

    /// Passes on what another delivery's lineage came to: for an endpoint that stands between source and flow.
    pub fn forward(mut self, outcome: Outcome) {
        self.settled = true;
        let mut record = self.record.lock();
        record.dead_lettered |= outcome.dead_lettered;
        if outcome.reply.is_some() {
            record.reply = outcome.reply;
        }
        record.end(outcome.settlement, outcome.failure);
    }

    /// Settles this branch.
    pub fn settle(mut self, settlement: Settlement, failure: Option<Arc<Failure>>) {
        self.settled = true;
        self.record.lock().end(settlement, failure);
    }
}

impl Drop for Acknowledgement {
    fn drop(&mut self) {
        if !self.settled {
            self.record.lock().end(Settlement::Released, None);
        }
    }
}

impl std::fmt::Debug for Acknowledgement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acknowledgement").field("settled", &self.settled).finish_non_exhaustive()
    }
}

// === impl Lineage ===

impl Lineage {
    /// Of a delivery without branches.
    pub fn new() -> Self {
        Self::default()
    }

    /// A branch beside the trunk.
    pub fn branch(&self) -> Acknowledgement {
        let record =
            self.branches.get_or_init(|| Arc::new(Shared(Mutex::new(Record::of(Awaited::default())))));
        record.lock().branches += 1;
        Acknowledgement { record: Arc::clone(record) as Arc<Shared<dyn Complete>>, settled: false }
    }

    /// What the source shall answer. The last call wins, whichever branch it is of; it is sent when the delivery has settled.
    pub fn set_reply(&self, reply: Reply) {
        *self.reply.lock().unwrap_or_else(PoisonError::into_inner) = Some(reply);
    }

    /// What it came to, as soon as the last branch has settled, when the trunk has ended so.
    pub async fn outcome(self, trunk: Settlement) -> Outcome {
        let reply = self.reply.into_inner().unwrap_or_else(PoisonError::into_inner);
        let Some(record) = self.branches.into_inner() else {
            return Outcome { settlement: trunk, dead_lettered: false, reply, failure: None };
        };
        record.lock().end(trunk, None);
        let outcome = poll_fn(|context| {
            let mut record = record.lock();
            let awaited = &mut record.complete;
            match awaited.outcome.take() {
                Some(outcome) => Poll::Ready(outcome),
                None => {
                    awaited.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await;
        Outcome { reply: reply.or(outcome.reply), ..outcome }
    }
}

impl std::fmt::Debug for Lineage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lineage").finish_non_exhaustive()
    }
}

// === impl Shared ===

impl<C: ?Sized> Shared<C> {
    /// A poisoned lock is taken all the same: the record has no invariant that a panic could have broken halfway.
    fn lock(&self) -> MutexGuard<'_, Record<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Record ===

impl<C> Record<C> {
    /// Of a delivery with one branch.
    fn of(complete: C) -> Self {
        Self {
            branches: 1,
            worst: Settlement::Delivered,
            dead_lettered: false,
            reply: None,
            failure: None,
            complete,
        }
    }
}

impl<C: Complete + ?Sized> Record<C> {
    /// A branch has ended so. The last one tells.
    fn end(&mut self, settlement: Settlement, failure: Option<Arc<Failure>>) {
        if settlement > self.worst {
            self.worst = settlement;
            self.failure = failure;
        } else if settlement == self.worst && self.failure.is_none() {
            self.failure = failure;
        }
        self.branches = self.branches.saturating_sub(1);
        if self.branches == 0 {
            self.complete.complete(Outcome {
                settlement: self.worst,
                dead_lettered: self.dead_lettered,
                reply: self.reply.take(),
                failure: self.failure.take(),
            });
        }
    }
}

// === impl Complete ===

/// Called at most once.
impl<F: FnOnce(Outcome) + Send> Complete for Option<F> {
    fn complete(&mut self, outcome: Outcome) {
        if let Some(call) = self.take() {
            call(outcome);
        }
    }
}

impl Complete for Awaited {
    fn complete(&mut self, outcome: Outcome) {
        self.outcome = Some(outcome);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn acknowledgement() -> (Acknowledgement, mpsc::Receiver<Outcome>) {
        let (tell, told) = mpsc::channel();
        (Acknowledgement::new(move |outcome| tell.send(outcome).unwrap()), told)
    }

    #[test]
    fn the_source_hears_once_and_only_after_the_last_branch() {
        let (ack, told) = acknowledgement();
        let branches: Vec<_> = (0..3).map(|_| ack.branch()).collect();
        ack.delivered();
        for branch in branches {
            assert!(told.try_recv().is_err());
            branch.delivered();
        }
        assert_eq!(told.try_recv().unwrap().settlement, Settlement::Delivered);
        assert!(told.recv().is_err(), "told twice");
    }

    #[test]
    fn the_worst_branch_wins_in_any_order() {
        use Settlement::{Delivered, Rejected, Released};
        for (settlements, worst) in [
            ([Delivered, Rejected, Delivered], Rejected),
            ([Rejected, Released, Delivered], Released),
            ([Released, Delivered, Rejected], Released),
            ([Delivered, Delivered, Delivered], Delivered),
        ] {
            let (ack, told) = acknowledgement();
            for settlement in settlements {
                ack.branch().settle(settlement, None);
            }
            ack.delivered();
            assert_eq!(told.recv().unwrap().settlement, worst, "{settlements:?}");
        }
    }

    #[test]
    fn dropped_without_settlement_is_released() {
        let (ack, told) = acknowledgement();
        let forgotten = ack.branch();
        ack.delivered();
        drop(forgotten);
        assert_eq!(told.recv().unwrap().settlement, Settlement::Released);
    }

    #[test]
    fn lost_to_a_panic_is_released() {
        let (ack, told) = acknowledgement();
        let branch = ack.branch();
        ack.delivered();
        std::thread::spawn(move || {
            let _held = branch;
            panic!("on purpose");
        })
        .join()
        .unwrap_err();
        assert_eq!(told.recv().unwrap().settlement, Settlement::Released);
    }

    #[test]
    fn a_dead_letter_is_delivered_and_says_so() {
        let (ack, told) = acknowledgement();
        ack.branch().dead_lettered();
        ack.delivered();
        let outcome = told.recv().unwrap();
        assert_eq!((outcome.settlement, outcome.name()), (Settlement::Delivered, "dead_lettered"));
    }

    #[tokio::test]
    async fn without_branches_the_trunk_is_the_outcome() {
        let lineage = Lineage::new();
        lineage.set_reply(Reply { status: Some(202), headers: crate::Headers::new(), body: "".into() });
        let outcome = lineage.outcome(Settlement::Released).await;
        assert_eq!((outcome.settlement, outcome.reply.unwrap().status), (Settlement::Released, Some(202)));
    }

    #[tokio::test]
    async fn the_outcome_waits_for_the_last_branch_and_is_the_worst() {
        let lineage = Lineage::new();
        let (one, other) = (lineage.branch(), lineage.branch());
        one.delivered();
        let waiting = tokio::spawn(lineage.outcome(Settlement::Delivered));
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "told before the last branch");
        other.rejected(None);
        assert_eq!(waiting.await.unwrap().settlement, Settlement::Rejected);
    }

    #[tokio::test]
    async fn a_trunk_that_did_not_end_counts_as_much_as_a_branch() {
        let lineage = Lineage::new();
        lineage.branch().rejected(None);
        assert_eq!(lineage.outcome(Settlement::Released).await.settlement, Settlement::Released);
    }
}

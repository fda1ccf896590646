//! What is owed for a delivery, and the lineage that makes its worst branch the answer: how many branches it has does not matter, the
//! source hears exactly once, and hears the worst.
//!
//! A source gives an [`Acknowledgement`] with each delivery. While the delivery is on its way through a flow it has a [`Lineage`], and
//! every branch beside its trunk holds a [`Branch`] of it; when the last one is gone, what waits for the outcome is told, and with it
//! the acknowledgement is settled. Either, when it is forgotten, cancelled, or lost to a panic, counts as released and can never be
//! taken for delivered: promise 1 rests on `Drop`, not on the care of each step.

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

/// What is owed to a source for one delivery. Settle it; if it is dropped instead, the delivery counts as released.
pub struct Acknowledgement(Option<Box<dyn FnOnce(Outcome) + Send>>);

/// The lineage of one delivery's way through a flow, for what takes it through: the *trunk*, which is told how it ended by what it
/// does and needs no branch. Only what is beside it asks for memory.
#[derive(Default)]
pub struct Lineage {
    reply: Mutex<Option<Reply>>,
    /// What the branches have in common, and the trunk as one of them.
    branches: OnceLock<Arc<Shared>>,
}

/// What one branch of a delivery owes to its lineage. Settle it; if it is dropped instead, the branch counts as released.
pub struct Branch {
    record: Arc<Shared>,
    settled: bool,
}

/// What all branches have in common.
struct Shared(Mutex<Record>);

struct Record {
    /// How many are not done.
    branches: usize,
    worst: Settlement,
    dead_lettered: bool,
    failure: Option<Arc<Failure>>,
    /// Made when the last branch is done.
    outcome: Option<Outcome>,
    /// Who waits for it.
    waker: Option<Waker>,
}

// === impl Acknowledgement ===

impl Acknowledgement {
    /// The acknowledgement of a new delivery. `complete` is called once, when the delivery has settled, on whichever thread that
    /// happens: it must neither block nor panic.
    pub fn new(complete: impl FnOnce(Outcome) + Send + 'static) -> Self {
        Self(Some(Box::new(complete)))
    }

    /// Tells the source how the delivery ended.
    pub fn complete(mut self, outcome: Outcome) {
        self.tell(outcome);
    }

    /// It is done.
    pub fn delivered(self) {
        self.complete(Outcome::of(Settlement::Delivered));
    }

    /// It is done, and this is the answer.
    pub fn replied(self, reply: Reply) {
        self.complete(Outcome { reply: Some(reply), ..Outcome::of(Settlement::Delivered) });
    }

    /// It is done: a dead letter holds it.
    pub fn dead_lettered(self) {
        self.complete(Outcome { dead_lettered: true, ..Outcome::of(Settlement::Delivered) });
    }

    /// It is not to be tried again.
    pub fn rejected(self, failure: Option<Arc<Failure>>) {
        self.complete(Outcome { failure, ..Outcome::of(Settlement::Rejected) });
    }

    /// It is to be tried again.
    pub fn released(self, failure: Option<Arc<Failure>>) {
        self.complete(Outcome { failure, ..Outcome::of(Settlement::Released) });
    }

    fn tell(&mut self, outcome: Outcome) {
        if let Some(complete) = self.0.take() {
            complete(outcome);
        }
    }
}

impl Drop for Acknowledgement {
    fn drop(&mut self) {
        if self.0.is_some() {
            self.tell(Outcome::of(Settlement::Released));
        }
    }
}

impl std::fmt::Debug for Acknowledgement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acknowledgement").field("settled", &self.0.is_none()).finish_non_exhaustive()
    }
}

// === impl Branch ===

impl Branch {
    /// One more branch of the same delivery.
    #[must_use]
    pub fn branch(&self) -> Self {
        Self::of(&self.record)
    }

    fn of(record: &Arc<Shared>) -> Self {
        record.lock().branches += 1;
        Self { record: Arc::clone(record), settled: false }
    }

    /// This branch is done.
    pub fn delivered(self) {
        self.settle(Settlement::Delivered, None);
    }

    /// This branch is done: a dead letter holds it.
    pub fn dead_lettered(self) {
        self.record.lock().dead_lettered = true;
        self.delivered();
    }

    /// This branch is not to be tried again.
    pub fn rejected(self, failure: Option<Arc<Failure>>) {
        self.settle(Settlement::Rejected, failure);
    }

    /// This branch is to be tried again.
    pub fn released(self, failure: Option<Arc<Failure>>) {
        self.settle(Settlement::Released, failure);
    }

    fn settle(mut self, settlement: Settlement, failure: Option<Arc<Failure>>) {
        self.settled = true;
        self.record.lock().end(settlement, failure);
    }
}

impl Drop for Branch {
    fn drop(&mut self) {
        if !self.settled {
            self.record.lock().end(Settlement::Released, None);
        }
    }
}

impl std::fmt::Debug for Branch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Branch").field("settled", &self.settled).finish_non_exhaustive()
    }
}

// === impl Lineage ===

impl Lineage {
    /// Of a delivery without branches.
    pub fn new() -> Self {
        Self::default()
    }

    /// A branch beside the trunk.
    pub fn branch(&self) -> Branch {
        Branch::of(self.branches.get_or_init(|| Arc::new(Shared(Mutex::new(Record::of_trunk())))))
    }

    /// What the source shall answer. The last call wins, whichever branch it is of; it is sent when the delivery has settled.
    pub fn set_reply(&self, reply: Reply) {
        *self.reply.lock().unwrap_or_else(PoisonError::into_inner) = Some(reply);
    }

    /// What it came to, as soon as the last branch has settled, when the trunk has ended so. To be asked once.
    pub fn outcome(&mut self, trunk: Settlement) -> impl Future<Output = Outcome> + Send + '_ {
        if let Some(record) = self.branches.get() {
            record.lock().end(trunk, None);
        }
        poll_fn(move |context| {
            let outcome = match self.branches.get() {
                None => Outcome::of(trunk),
                Some(record) => {
                    let mut record = record.lock();
                    let Some(outcome) = record.outcome.take() else {
                        record.waker = Some(context.waker().clone());
                        return Poll::Pending;
                    };
                    outcome
                }
            };
            let reply = self.reply.get_mut().unwrap_or_else(PoisonError::into_inner).take();
            Poll::Ready(Outcome { reply, ..outcome })
        })
    }
}

impl std::fmt::Debug for Lineage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lineage").finish_non_exhaustive()
    }
}

// === impl Shared ===

impl Shared {
    /// A poisoned lock is taken all the same: the record has no invariant that a panic could have broken halfway.
    fn lock(&self) -> MutexGuard<'_, Record> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Record ===

impl Record {
    /// Of a delivery that has nothing but its trunk.
    fn of_trunk() -> Self {
        Self {
            branches: 1,
            worst: Settlement::Delivered,
            dead_lettered: false,
            failure: None,
            outcome: None,
            waker: None,
        }
    }

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
            self.outcome = Some(Outcome {
                settlement: self.worst,
                dead_lettered: self.dead_lettered,
                reply: None,
                failure: self.failure.take(),
            });
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt as _;

    use super::*;

    fn acknowledgement() -> (Acknowledgement, mpsc::Receiver<Outcome>) {
        let (tell, told) = mpsc::channel();
        (Acknowledgement::new(move |outcome| tell.send(outcome).unwrap()), told)
    }

    /// What it came to, which must be known by now.
    fn known(mut lineage: Lineage, trunk: Settlement) -> Outcome {
        lineage.outcome(trunk).now_or_never().unwrap()
    }

    #[test]
    fn the_source_hears_once() {
        let (ack, told) = acknowledgement();
        ack.rejected(None);
        assert_eq!(told.try_recv().unwrap().settlement, Settlement::Rejected);
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
            let lineage = Lineage::new();
            let stem = lineage.branch();
            for settlement in settlements {
                stem.branch().settle(settlement, None);
            }
            stem.delivered();
            assert_eq!(known(lineage, Delivered).settlement, worst, "{settlements:?}");
        }
    }

    #[test]
    fn dropped_without_settlement_is_released() {
        let (ack, told) = acknowledgement();
        drop(ack);
        assert_eq!(told.recv().unwrap().settlement, Settlement::Released);
        let lineage = Lineage::new();
        drop(lineage.branch());
        assert_eq!(known(lineage, Settlement::Delivered).settlement, Settlement::Released);
    }

    #[test]
    fn lost_to_a_panic_is_released() {
        let (ack, told) = acknowledgement();
        let lineage = Lineage::new();
        let branch = lineage.branch();
        std::thread::spawn(move || {
            let _held = (ack, branch);
            panic!("on purpose");
        })
        .join()
        .unwrap_err();
        assert_eq!(told.recv().unwrap().settlement, Settlement::Released);
        assert_eq!(known(lineage, Settlement::Delivered).settlement, Settlement::Released);
    }

    #[test]
    fn a_dead_letter_is_delivered_and_says_so() {
        let lineage = Lineage::new();
        lineage.branch().dead_lettered();
        let (ack, told) = acknowledgement();
        ack.complete(known(lineage, Settlement::Delivered));
        let outcome = told.recv().unwrap();
        assert_eq!((outcome.settlement, outcome.name()), (Settlement::Delivered, "dead_lettered"));
    }

    #[test]
    fn the_failure_is_that_of_the_worst_branch() {
        let failure = |text: &str| Some(Arc::new(Failure::new(crate::ErrorClass::Internal, text)));
        let lineage = Lineage::new();
        lineage.branch().rejected(failure("rejected"));
        lineage.branch().released(failure("released"));
        lineage.branch().released(failure("released, too"));
        let outcome = known(lineage, Settlement::Delivered);
        assert_eq!(outcome.failure.unwrap().text(), "released");
    }

    #[tokio::test]
    async fn without_branches_the_trunk_is_the_outcome() {
        let mut lineage = Lineage::new();
        lineage.set_reply(Reply { status: Some(202), headers: crate::Headers::new(), body: "".into() });
        let outcome = lineage.outcome(Settlement::Released).await;
        assert_eq!((outcome.settlement, outcome.reply.unwrap().status), (Settlement::Released, Some(202)));
    }

    #[tokio::test]
    async fn the_outcome_waits_for_the_last_branch_and_is_the_worst() {
        let mut lineage = Lineage::new();
        let (one, other) = (lineage.branch(), lineage.branch());
        one.delivered();
        let waiting = tokio::spawn(async move { lineage.outcome(Settlement::Delivered).await });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished(), "told before the last branch");
        other.rejected(None);
        assert_eq!(waiting.await.unwrap().settlement, Settlement::Rejected);
    }

    #[tokio::test]
    async fn a_trunk_that_did_not_end_counts_as_much_as_a_branch() {
        let mut lineage = Lineage::new();
        lineage.branch().rejected(None);
        assert_eq!(lineage.outcome(Settlement::Released).await.settlement, Settlement::Released);
    }
}

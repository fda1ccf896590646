//! The lineage of a delivery: how many branches it has does not matter, the source hears exactly once, and hears the
//! worst.
//!
//! Every branch holds an [`Acknowledgement`]. All of them share one record; when the last one is gone, the record's own
//! drop tells the source. So a branch that is forgotten, cancelled, or lost to a panic counts as released and can never
//! be taken for delivered: promise 1 rests on `Drop`, not on the care of each step.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::{
    delivery::Reply,
    failure::Failure,
    settlement::{Outcome, Settlement},
};

/// What one branch of a delivery owes. Settle it; if it is dropped instead, the branch counts as released.
#[derive(Debug)]
pub struct Acknowledgement {
    lineage: Arc<Lineage>,
    settled: bool,
}

struct Lineage {
    record: Mutex<Record>,
}

struct Record {
    worst: Settlement,
    dead_lettered: bool,
    reply: Option<Reply>,
    failure: Option<Arc<Failure>>,
    complete: Option<Complete>,
}

/// What is done when the last branch has settled.
enum Complete {
    Call(Box<dyn FnOnce(Outcome) + Send>),
    Tell(oneshot::Sender<Outcome>),
}

// === impl Acknowledgement ===

impl Acknowledgement {
    /// The acknowledgement of a new delivery. `complete` is called once, when the last branch has settled, on whichever
    /// thread that happens: it must neither block nor panic.
    pub fn new(complete: impl FnOnce(Outcome) + Send + 'static) -> Self {
        Self::completed_by(Complete::Call(Box::new(complete)))
    }

    /// The acknowledgement of a new delivery, and where its outcome comes when the last branch has settled.
    pub fn awaited() -> (Self, oneshot::Receiver<Outcome>) {
        let (tell, told) = oneshot::channel();
        (Self::completed_by(Complete::Tell(tell)), told)
    }

    fn completed_by(complete: Complete) -> Self {
        let record = Record {
            worst: Settlement::Delivered,
            dead_lettered: false,
            reply: None,
            failure: None,
            complete: Some(complete),
        };
        Self { lineage: Arc::new(Lineage { record: Mutex::new(record) }), settled: false }
    }

    /// One more branch of the same delivery.
    #[must_use]
    pub fn branch(&self) -> Self {
        Self { lineage: Arc::clone(&self.lineage), settled: false }
    }

    /// What the source shall answer. The last call wins; it is sent when the delivery has settled.
    pub fn set_reply(&self, reply: Reply) {
        self.lineage.with(|record| record.reply = Some(reply));
    }

    /// This branch is done.
    pub fn delivered(self) {
        self.settle(Settlement::Delivered, None);
    }

    /// This branch is done: a dead letter holds it.
    pub fn dead_lettered(self) {
        self.lineage.with(|record| record.dead_lettered = true);
        self.settle(Settlement::Delivered, None);
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
    pub fn forward(self, outcome: Outcome) {
        let Outcome { settlement, dead_lettered, reply, failure } = outcome;
        self.lineage.with(|record| {
            record.dead_lettered |= dead_lettered;
            if reply.is_some() {
                record.reply = reply;
            }
        });
        self.settle(settlement, failure);
    }

    /// Settles this branch.
    pub fn settle(mut self, settlement: Settlement, failure: Option<Arc<Failure>>) {
        self.settled = true;
        self.lineage.note(settlement, failure);
    }
}

impl Drop for Acknowledgement {
    fn drop(&mut self) {
        if !self.settled {
            self.lineage.note(Settlement::Released, None);
        }
    }
}

// === impl Lineage ===

impl Lineage {
    /// A poisoned lock is taken all the same: the record has no invariant that a panic could have broken halfway.
    fn with(&self, change: impl FnOnce(&mut Record)) {
        change(&mut self.record.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn note(&self, settlement: Settlement, failure: Option<Arc<Failure>>) {
        self.with(|record| {
            if settlement > record.worst {
                record.worst = settlement;
                record.failure = failure;
            } else if settlement == record.worst && record.failure.is_none() {
                record.failure = failure;
            }
        });
    }
}

impl Drop for Lineage {
    fn drop(&mut self) {
        let record = self.record.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(complete) = record.complete.take() {
            let outcome = Outcome {
                settlement: record.worst,
                dead_lettered: record.dead_lettered,
                reply: record.reply.take(),
                failure: record.failure.take(),
            };
            match complete {
                Complete::Call(call) => call(outcome),
                // Whoever waited may be gone.
                Complete::Tell(tell) => drop(tell.send(outcome)),
            }
        }
    }
}

impl std::fmt::Debug for Lineage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lineage").finish_non_exhaustive()
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
}

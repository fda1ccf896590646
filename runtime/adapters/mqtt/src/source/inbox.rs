//! What lies between a session, which never waits, and the flow, which takes when it can.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use gristmill_core::Message;
use tokio::sync::Notify;

use super::ledger::Sequence;

/// Messages that wait for the flow. The session bounds how many: by what it has acknowledged, and by `buffer_messages`.
#[derive(Debug, Default)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    offers: VecDeque<Offer>,
    /// Why nothing comes at the moment.
    down: Option<String>,
    is_closed: bool,
}

/// A message that waits.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) sequence: Sequence,
    pub(crate) message: Message,
    pub(crate) redelivered: bool,
}

/// What the flow is given.
#[derive(Debug)]
pub(crate) enum Taken {
    Offer(Offer),
    /// The broker cannot be reached, for this reason.
    Down(String),
    /// It is closed, and empty.
    End,
}

impl Inbox {
    /// Nothing runs under the lock that can panic.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_one();
    }

    /// One more, behind the others.
    pub(crate) fn push(&self, offer: Offer) {
        self.change(|state| state.offers.push_back(offer));
    }

    /// One that is offered again, before the others, which came later.
    pub(crate) fn push_again(&self, offer: Offer) {
        self.change(|state| state.offers.push_front(offer));
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.state().offers.len()
    }

    /// The connection is there (`None`) or is not.
    pub(crate) fn set_down(&self, why: Option<String>) {
        self.change(|state| state.down = why);
    }

    /// No more will be pushed.
    pub(crate) fn close(&self) {
        self.change(|state| state.is_closed = true);
    }

    /// The next one, if it is here.
    pub(crate) fn take_ready(&self) -> Option<Offer> {
        self.state().offers.pop_front()
    }

    /// The next one. Can be dropped without loss; one caller at a time.
    pub(crate) async fn take(&self) -> Taken {
        loop {
            {
                let mut state = self.state();
                if let Some(offer) = state.offers.pop_front() {
                    return Taken::Offer(offer);
                }
                if state.is_closed {
                    return Taken::End;
                }
                if let Some(why) = &state.down {
                    return Taken::Down(why.clone());
                }
            }
            self.changed.notified().await;
        }
    }
}

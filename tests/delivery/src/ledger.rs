//! What feeders and collectors write down while a scenario runs, with the time of each entry.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    message::Messages,
    oracle::{Arrival, Dead, Disturbance, History, Moment, Sent},
};

/// Takes a lock, also after another thread has panicked: what it holds is still what has happened.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The book of a scenario.
#[derive(Debug)]
pub struct Ledger {
    begun: Instant,
    messages: Messages,
    history: Mutex<History>,
    disturbances: Mutex<Vec<Disturbance>>,
}

impl Ledger {
    /// An empty one, for this many sinks.
    pub fn new(messages: Messages, sinks: usize) -> Self {
        Self {
            begun: Instant::now(),
            messages,
            history: Mutex::new(History::new(sinks)),
            disturbances: Mutex::default(),
        }
    }

    /// How long the scenario has been running.
    pub fn now(&self) -> Moment {
        self.begun.elapsed()
    }

    /// The messages that are counted.
    pub fn messages(&self) -> Messages {
        self.messages
    }

    /// Begins a new message.
    pub fn begin(&self) -> u64 {
        let mut history = lock(&self.history);
        history.messages.push(Sent { first: self.now(), accepted: None, attempts: 0 });
        history.messages.len() as u64 - 1
    }

    /// One more attempt to send it.
    pub fn attempt(&self, number: u64) {
        self.message(number, |message| message.attempts += 1);
    }

    /// The source's side has confirmed it.
    pub fn accepted(&self, number: u64) {
        let now = self.now();
        self.message(number, |message| message.accepted = message.accepted.or(Some(now)));
    }

    fn message(&self, number: u64, change: impl FnOnce(&mut Sent)) {
        let mut history = lock(&self.history);
        let at = usize::try_from(number).ok();
        if let Some(message) = at.and_then(|at| history.messages.get_mut(at)) {
            change(message);
        }
    }

    /// A body has come out at a sink.
    pub fn arrived(&self, sink: usize, body: &[u8]) {
        let read = self.messages.marked(body);
        let at = self.now();
        let mut history = lock(&self.history);
        let Some(received) = history.sinks.get_mut(sink) else { return };
        match read {
            Ok(number) => received.arrive(Arrival { at, number }),
            Err(problem) => received.corrupted.push((at, problem)),
        }
    }

    /// Takes the last arrivals of a sink back, to this many.
    pub fn keep(&self, sink: usize, arrivals: usize) {
        if let Some(received) = lock(&self.history).sinks.get_mut(sink) {
            received.keep(arrivals);
        }
    }

    /// Sets the dead letters.
    pub fn dead(&self, dead: Vec<Dead>) {
        lock(&self.history).dead = dead;
    }

    /// A fault begins; it lasts until [`Self::mended`].
    pub fn broken(&self, kind: &str, repeats: bool) -> usize {
        let mut all = lock(&self.disturbances);
        all.push(Disturbance { kind: kind.to_owned(), from: self.now(), until: Duration::MAX / 4, repeats });
        all.len() - 1
    }

    /// The fault that [`Self::broken`] gave is over.
    pub fn mended(&self, fault: usize) {
        if let Some(fault) = lock(&self.disturbances).get_mut(fault) {
            fault.until = self.now();
        }
    }

    /// The faults so far.
    pub fn disturbances(&self) -> Vec<Disturbance> {
        lock(&self.disturbances).clone()
    }

    /// How many messages were sent and are not at every sink.
    pub fn under_way(&self) -> usize {
        lock(&self.history).under_way()
    }

    /// How many were sent, and how many of them accepted.
    pub fn progress(&self) -> (usize, usize) {
        let history = lock(&self.history);
        let accepted = history.messages.iter().filter(|message| message.accepted.is_some()).count();
        (history.messages.len(), accepted)
    }

    /// How many accepted messages are missing, and how many came in all.
    pub fn missing(&self) -> (usize, usize) {
        let history = lock(&self.history);
        (history.missing().len(), history.sinks.iter().map(|sink| sink.arrivals.len()).sum())
    }

    /// Whether a message has come out anywhere, be it as a dead letter.
    pub fn is_out(&self, number: u64) -> bool {
        let history = lock(&self.history);
        history.sinks.iter().any(|sink| sink.count(number) > 0)
            || history.dead.iter().any(|dead| dead.number == number)
    }

    /// A copy of the book.
    pub fn history(&self) -> History {
        lock(&self.history).clone()
    }
}

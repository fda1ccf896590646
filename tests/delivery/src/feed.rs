//! Who says when the next message is sent: at a pace, not more than what can be under way, until the end.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::ledger::Ledger;

/// More messages than this are not sent before others have come out, unless it is to be fewer.
const MOST_UNDER_WAY: usize = 1_500;

/// How often a thread that waits looks again.
pub const LOOK_AGAIN: Duration = Duration::from_millis(5);

/// The messages that a feeder sends.
#[derive(Debug)]
pub struct Feed {
    ledger: Arc<Ledger>,
    begun: Instant,
    /// Messages a second.
    rate: u64,
    most_under_way: usize,
    ending: AtomicBool,
    given_up: AtomicBool,
}

/// What a feeder does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Turn {
    /// Send this new message.
    Send(u64),
    /// Nothing now.
    Wait,
    /// There will be no new message.
    End,
}

impl Feed {
    /// A feed of this many messages a second, of which at most so many are under way.
    pub fn new(ledger: Arc<Ledger>, rate: u64, most_under_way: Option<usize>) -> Self {
        let no = || AtomicBool::new(false);
        let most_under_way = most_under_way.unwrap_or(MOST_UNDER_WAY);
        Self { ledger, begun: Instant::now(), rate, most_under_way, ending: no(), given_up: no() }
    }

    /// What is next.
    pub fn turn(&self) -> Turn {
        if self.ending.load(Ordering::Relaxed) {
            return Turn::End;
        }
        let due = self.begun.elapsed().as_millis() as u64 * self.rate / 1000;
        let (sent, _) = self.ledger.progress();
        if sent as u64 >= due || self.ledger.under_way() >= self.most_under_way {
            return Turn::Wait;
        }
        Turn::Send(self.ledger.begin())
    }

    /// The next message, waiting for it.
    pub fn next(&self) -> Option<u64> {
        loop {
            match self.turn() {
                Turn::Send(number) => return Some(number),
                Turn::Wait => thread::sleep(LOOK_AGAIN),
                Turn::End => return None,
            }
        }
    }

    /// No new messages from now on; what was sent and not confirmed is still sent again.
    pub fn end(&self) {
        self.ending.store(true, Ordering::Relaxed);
    }

    /// Not even that.
    pub fn give_up(&self) {
        self.end();
        self.given_up.store(true, Ordering::Relaxed);
    }

    /// Whether there will be no new message.
    pub fn is_over(&self) -> bool {
        self.ending.load(Ordering::Relaxed)
    }

    /// Whether feeders and collectors shall end at once.
    pub fn is_given_up(&self) -> bool {
        self.given_up.load(Ordering::Relaxed)
    }

    /// The book.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// The text of a message, which is about to be sent.
    pub fn attempt(&self, number: u64) -> String {
        self.ledger.attempt(number);
        self.ledger.messages().body(number)
    }
}

//! How many bytes the senders of a listener may make it hold: heads and bodies that are being read.
//!
//! It is counted before anyone knows who the sender is, so one connection has no more than a share of it, and each
//! connection has a little of its own that no other can take away: small requests come in however much the others hold.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// What each connection may hold whatever the others do, in bytes.
pub(crate) const OWN_BYTES: usize = 64 * 1024;

/// One connection has one part in this many of what the listener may hold.
const SHARES: usize = 4;

/// What one connection holds, and with it its listener.
pub(crate) struct Account {
    listener: Arc<AtomicUsize>,
    own: AtomicUsize,
}

/// How much may be held.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    /// On all connections of the listener together, in bytes.
    pub(crate) listener_bytes: usize,
    /// By the largest request of the route, in bytes. One that holds everything alone is let in however small the rest is.
    pub(crate) largest_request_bytes: usize,
}

/// Bytes that are held. Dropping it gives them back.
pub(crate) struct Hold {
    account: Arc<Account>,
    bytes: usize,
}

// === impl Account ===

impl Account {
    /// Of a new connection. `listener` counts what all of them hold.
    pub(crate) fn new(listener: Arc<AtomicUsize>) -> Arc<Self> {
        Arc::new(Self { listener, own: AtomicUsize::new(0) })
    }

    /// Nothing yet, to [`Hold::grow`].
    pub(crate) fn hold(self: &Arc<Self>) -> Hold {
        Hold { account: Arc::clone(self), bytes: 0 }
    }
}

// === impl Hold ===

impl Hold {
    /// Holds more, if that many bytes may be held; otherwise it stays as it is.
    pub(crate) fn grow(&mut self, bytes: usize, allowance: Allowance) -> bool {
        let Allowance { listener_bytes, largest_request_bytes } = allowance;
        let own = self.account.own.fetch_add(bytes, Ordering::AcqRel).saturating_add(bytes);
        let all = self.account.listener.fetch_add(bytes, Ordering::AcqRel).saturating_add(bytes);
        self.bytes += bytes;
        let fits = own <= OWN_BYTES
            || (own <= (listener_bytes / SHARES).max(largest_request_bytes)
                && all <= listener_bytes.max(largest_request_bytes));
        if !fits {
            self.give_back(bytes);
        }
        fits
    }

    fn give_back(&mut self, bytes: usize) {
        self.account.own.fetch_sub(bytes, Ordering::AcqRel);
        self.account.listener.fetch_sub(bytes, Ordering::AcqRel);
        self.bytes -= bytes;
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: usize = 1024;

    fn allowance(listener_kib: usize, request_kib: usize) -> Allowance {
        Allowance { listener_bytes: listener_kib * KIB, largest_request_bytes: request_kib * KIB }
    }

    #[test]
    fn a_connection_has_a_share_and_the_listener_an_end() {
        let (listener, allowance) = (Arc::new(AtomicUsize::new(0)), allowance(1_024, 1));
        let mut holds: Vec<Hold> = (0..5).map(|_| Account::new(Arc::clone(&listener)).hold()).collect();
        for hold in &mut holds[..4] {
            assert!(hold.grow(256 * KIB, allowance));
            assert!(!hold.grow(1, allowance), "above the share");
        }
        assert_eq!(listener.load(Ordering::Acquire), 1_024 * KIB);
        assert!(!holds[4].grow(OWN_BYTES + 1, allowance), "the listener holds all it may");
        assert!(holds[4].grow(OWN_BYTES, allowance), "but a little is each connection's own");
        holds.clear();
        assert_eq!(listener.load(Ordering::Acquire), 0);
    }

    #[test]
    fn the_requests_of_one_connection_count_together() {
        let account = Account::new(Arc::default());
        let (mut one, mut two) = (account.hold(), account.hold());
        assert!(one.grow(200 * KIB, allowance(1_024, 1)));
        assert!(!two.grow(100 * KIB, allowance(1_024, 1)));
        drop(one);
        assert!(two.grow(100 * KIB, allowance(1_024, 1)));
    }

    #[test]
    fn the_largest_request_fits_when_it_is_alone() {
        let account = Account::new(Arc::default());
        let mut hold = account.hold();
        assert!(hold.grow(4_096 * KIB, allowance(64, 4_096)));
        assert!(!hold.grow(1, allowance(64, 4_096)));
    }
}

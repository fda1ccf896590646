//! Tells the broker how the messages of an AMQP channel ended: one task a channel, which takes all that has settled at once.
//!
//! One acknowledgement can stand for a run of messages, which is less work for both sides than one for each: it says that the
//! broker may forget every message up to its delivery tag. So it may only be said when all of them are done with, and the broker
//! has heard of those that ended otherwise: see [`Tags`].
//!
//! Messages that are under way together end in any order, nearly at once. So one that is done with while an older one is not is held
//! back for a moment, until that one is, too. It is told by itself when the moment is over, which is shorter when many are held back.
//! Once one was held back in vain the older one is stuck, and nothing more waits for it: each that waits has room in what the broker
//! sends ahead.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures_util::FutureExt as _;
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicNackOptions, BasicRejectOptions},
};
use tokio::{
    sync::mpsc,
    task::yield_now,
    time::{Instant, timeout_at},
};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::connection::{Broker, Session};

/// How many ends are taken at once.
const BATCH: usize = 1_024;

/// How long an acknowledgement waits for those of older messages.
const HOLD: Duration = Duration::from_millis(5);

/// The same while many wait: as long as it may take until all have settled that were confirmed together.
const SHORT_HOLD: Duration = Duration::from_millis(1);

/// How a message ended, in the words of AMQP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// Done: the broker may forget the message.
    Acknowledged,
    /// Never again: the broker dead-letters or drops the message.
    Rejected,
    /// Not done: the broker puts the message back where it was, if it can.
    Requeued,
}

/// A message that has ended.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) tag: u64,
    pub(super) end: End,
    /// Kept until the broker was told.
    pub(super) telling: TaskTrackerToken,
}

/// What is said to the broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Method {
    /// Of this message, or of all up to it.
    Ack {
        tag: u64,
        multiple: bool,
    },
    Reject(u64),
    Requeue(u64),
}

/// Which messages of a channel are done with. The broker numbers them from 1 without a gap, so that a tag that was never seen
/// here is one that is open.
///
/// It has no more runs than there are open messages below the last one, which the prefetch bounds.
#[derive(Debug)]
struct Tags {
    /// The lowest that is open.
    open: u64,
    /// Those above that are done with: the first of each run, and the first after it.
    runs: BTreeMap<u64, u64>,
    /// Those of them that are acknowledged, and the broker has not heard of. In order.
    held: Vec<Held>,
    /// Something was held back in vain since the lowest that is open became that.
    in_vain: bool,
}

/// An acknowledgement that is held back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Held {
    tag: u64,
    since: Instant,
}

/// Tells until no one is left who could hand over an end, or the connection is gone: then the broker has what it was not told of
/// again.
pub(super) async fn tell(
    channel: Channel,
    session: Arc<Session>,
    // Without it the connection would be closed before all is told.
    _broker: Arc<Broker>,
    prefetch: u16,
    mut ended: mpsc::UnboundedReceiver<Ended>,
) {
    let most_held = usize::from(prefetch / 2);
    let (mut tags, mut batch) = (Tags::default(), Vec::new());
    // Kept as long as anything is held back.
    let mut telling = None;
    loop {
        let more = match tags.held_until(tags.hold(most_held)) {
            None => Some(ended.recv_many(&mut batch, BATCH).await),
            Some(then) => timeout_at(then, ended.recv_many(&mut batch, BATCH)).await.ok(),
        };
        if more.is_some_and(|more| more > 0) {
            // Those that are about to end do so first, and are told with these.
            yield_now().await;
            while batch.len() < BATCH
                && let Ok(more) = ended.try_recv()
            {
                batch.push(more);
            }
        }
        let now = Instant::now();
        let mut methods = tags.end(batch.iter().map(|it| (it.tag, it.end)), now);
        let is_over = more == Some(0);
        let hold = tags.hold(most_held);
        methods.extend(tags.let_go(|since| is_over || since + hold <= now));
        tokio::select! {
            biased;
            () = say_all(&channel, &methods) => {}
            () = session.ended() => return,
        }
        if is_over {
            return;
        }
        let last = batch.drain(..).next_back().map(|it| it.telling);
        telling = if tags.held.is_empty() { None } else { last.or(telling) };
    }
}

/// Hands all to the library, in this order, and waits until the last is with the system. If it fails the channel is gone.
async fn say_all(channel: &Channel, methods: &[Method]) {
    let Some((last, others)) = methods.split_last() else { return };
    for method in others {
        // The library has it once it was polled.
        let _waits_for_the_last = say(channel, *method).now_or_never();
    }
    say(channel, *last).await;
}

async fn say(channel: &Channel, method: Method) {
    let _gone = match method {
        Method::Ack { tag, multiple } => channel.basic_ack(tag, BasicAckOptions { multiple }).await,
        Method::Reject(tag) => channel.basic_reject(tag, BasicRejectOptions { requeue: false }).await,
        Method::Requeue(tag) => {
            let options = BasicNackOptions { requeue: true, ..BasicNackOptions::default() };
            channel.basic_nack(tag, options).await
        }
    };
}

// === impl Tags ===

impl Tags {
    /// These have ended. Gives what to say, in this order: of those that ended otherwise first, for an acknowledgement of several
    /// stands for all that the broker has not heard of by then. What is acknowledged while an older one is open is held back.
    fn end(&mut self, ended: impl IntoIterator<Item = (u64, End)>, now: Instant) -> Vec<Method> {
        let mut methods = Vec::new();
        for (tag, end) in ended {
            self.close(tag);
            match end {
                End::Acknowledged => self.held.push(Held { tag, since: now }),
                End::Rejected => methods.push(Method::Reject(tag)),
                End::Requeued => methods.push(Method::Requeue(tag)),
            }
        }
        self.held.sort_unstable_by_key(|held| held.tag);
        let run = self.held.partition_point(|held| held.tag < self.open);
        if let Some(Held { tag, .. }) = self.held.drain(..run).next_back() {
            methods.push(Method::Ack { tag, multiple: run > 1 });
        }
        methods
    }

    /// Of those that are held back, the ones of which `goes` says so are told by themselves, by since when they are.
    fn let_go(&mut self, goes: impl Fn(Instant) -> bool) -> Vec<Method> {
        let gone = self.held.extract_if(.., |held| goes(held.since));
        let told: Vec<_> = gone.map(|held| Method::Ack { tag: held.tag, multiple: false }).collect();
        self.in_vain |= !told.is_empty();
        told
    }

    /// How long what is behind an open one is held back for now, when so many are many.
    fn hold(&self, many: usize) -> Duration {
        if self.in_vain {
            Duration::ZERO
        } else if self.held.len() > many {
            SHORT_HOLD
        } else {
            HOLD
        }
    }

    /// When the first of those that are held back is to be let go.
    fn held_until(&self, hold: Duration) -> Option<Instant> {
        self.held.iter().map(|held| held.since + hold).min()
    }

    /// This one is done with.
    fn close(&mut self, tag: u64) {
        let after = self.runs.remove(&(tag + 1)).unwrap_or(tag + 1);
        if tag == self.open {
            self.in_vain = false;
            self.open = after;
            return;
        }
        match self.runs.range_mut(..tag).next_back() {
            Some((_, end)) if *end == tag => *end = after,
            _ => drop(self.runs.insert(tag, after)),
        }
    }
}

impl Default for Tags {
    fn default() -> Self {
        Self { open: 1, runs: BTreeMap::new(), held: Vec::new(), in_vain: false }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn acknowledged(tags: impl IntoIterator<Item = u64>) -> impl Iterator<Item = (u64, End)> {
        tags.into_iter().map(|tag| (tag, End::Acknowledged))
    }

    fn end(tags: &mut Tags, ended: impl IntoIterator<Item = (u64, End)>) -> Vec<Method> {
        tags.end(ended, Instant::now())
    }

    fn let_go(tags: &mut Tags) -> Vec<Method> {
        tags.let_go(|_| true)
    }

    fn held(tags: &Tags) -> Vec<u64> {
        tags.held.iter().map(|held| held.tag).collect()
    }

    fn one(tag: u64) -> Method {
        Method::Ack { tag, multiple: false }
    }

    fn up_to(tag: u64) -> Method {
        Method::Ack { tag, multiple: true }
    }

    #[test]
    fn a_run_from_the_lowest_open_one_is_one_acknowledgement() {
        let mut tags = Tags::default();
        assert_eq!(end(&mut tags, acknowledged([3, 1, 2])), [up_to(3)]);
        assert_eq!(end(&mut tags, acknowledged([4])), [one(4)]);
        assert_eq!(end(&mut tags, acknowledged(5..=500)), [up_to(500)]);
        assert!(tags.runs.is_empty());
    }

    #[test]
    fn what_is_behind_one_that_is_open_is_held_back_and_told_with_it() {
        let mut tags = Tags::default();
        assert_eq!(end(&mut tags, acknowledged([2, 3, 5])), []);
        assert_eq!(end(&mut tags, acknowledged([1])), [up_to(3)]);
        assert_eq!(held(&tags), [5]);
        assert_eq!(end(&mut tags, acknowledged([7, 4, 6])), [up_to(7)]);
        assert_eq!((tags.open, tags.held.len(), tags.runs.len()), (8, 0, 0));
    }

    #[test]
    fn what_was_let_go_is_told_by_itself_and_not_again() {
        let mut tags = Tags::default();
        assert_eq!(end(&mut tags, acknowledged([3, 2, 5])), []);
        assert_eq!(let_go(&mut tags), [one(2), one(3), one(5)]);
        assert_eq!(end(&mut tags, acknowledged([6])), []);
        assert_eq!(end(&mut tags, acknowledged([1])), [one(1)], "2 and 3 are told");
        assert_eq!(end(&mut tags, acknowledged([4, 8, 10])), [up_to(6)], "5 is told, and 7 open");
        assert_eq!(let_go(&mut tags), [one(8), one(10)]);
        assert_eq!((tags.open, tags.runs.len()), (7, 2));
    }

    #[test]
    fn what_ended_otherwise_is_told_before_an_acknowledgement_that_goes_beyond_it() {
        let mut tags = Tags::default();
        let ended = [(1, End::Acknowledged), (4, End::Acknowledged), (2, End::Rejected), (3, End::Requeued)];
        assert_eq!(end(&mut tags, ended), [Method::Reject(2), Method::Requeue(3), up_to(4)]);
        assert_eq!(end(&mut tags, [(5, End::Rejected), (6, End::Acknowledged)]), [Method::Reject(5), one(6)]);
    }

    #[test]
    fn what_stands_for_long_does_not_make_what_is_kept_grow() {
        let mut tags = Tags::default();
        for tag in 2..10_000 {
            assert_eq!(end(&mut tags, acknowledged([tag])), []);
            assert_eq!(let_go(&mut tags), [one(tag)]);
        }
        assert_eq!(tags.runs.len(), 1);
    }

    #[test]
    fn each_is_held_back_for_its_own_moment() {
        let (mut tags, began) = (Tags::default(), Instant::now());
        assert_eq!(tags.held_until(HOLD), None);
        assert_eq!(tags.end(acknowledged([3]), began), []);
        assert_eq!(tags.end(acknowledged([2]), began + HOLD / 2), []);
        assert_eq!(tags.held_until(HOLD), Some(began + HOLD));
        let due = |now: Instant| move |since| since + HOLD <= now;
        assert_eq!(tags.let_go(due(began + HOLD)), [one(3)]);
        assert_eq!(tags.held_until(HOLD), Some(began + HOLD + HOLD / 2));
        assert_eq!(tags.let_go(due(began + HOLD)), []);
    }

    #[test]
    fn nothing_more_waits_for_one_that_was_waited_for_in_vain() {
        let mut tags = Tags::default();
        assert_eq!(end(&mut tags, acknowledged([2, 3])), []);
        assert_eq!((tags.hold(2), tags.hold(1)), (HOLD, SHORT_HOLD));
        assert_eq!(let_go(&mut tags).len(), 2);
        assert_eq!(end(&mut tags, acknowledged([5])), []);
        assert_eq!(tags.hold(2), Duration::ZERO);
        assert_eq!(end(&mut tags, acknowledged([1])), [one(1)]);
        assert_eq!(tags.hold(2), HOLD, "4 has not been waited for");
    }

    proptest! {
        /// Against a broker that takes what it is told by the letter.
        #[test]
        fn the_broker_hears_of_each_end_once_and_of_no_other(
            order in Just((1..=60_u64).collect::<Vec<_>>()).prop_shuffle(),
            ends in proptest::collection::vec(0..4_u8, 60),
            batches in proptest::collection::vec((1..12_usize, any::<bool>()), 60),
        ) {
            let mut tags = Tags::default();
            let mut open: BTreeSet<u64> = (1..=60).collect();
            let mut order = order.into_iter().zip(ends).peekable();
            let (mut heard, mut expected) = (Vec::new(), Vec::new());
            for (size, lets_go) in batches {
                let batch: Vec<(u64, End)> = order
                    .by_ref()
                    .take(size)
                    .map(|(tag, end)| (tag, match end {
                        0 => End::Rejected,
                        1 => End::Requeued,
                        _ => End::Acknowledged,
                    }))
                    .collect();
                expected.extend(batch.iter().copied());
                let mut methods = end(&mut tags, batch);
                if lets_go {
                    methods.extend(let_go(&mut tags));
                }
                for method in methods {
                    let before = heard.len();
                    match method {
                        Method::Ack { tag, multiple } => {
                            prop_assert!(open.contains(&tag), "the broker closes the channel over {tag}");
                            let from = if multiple { 0 } else { tag };
                            heard.extend(open.range(from..=tag).map(|tag| (*tag, End::Acknowledged)));
                        }
                        Method::Reject(tag) => heard.push((tag, End::Rejected)),
                        Method::Requeue(tag) => heard.push((tag, End::Requeued)),
                    }
                    for (tag, _) in heard.iter().skip(before) {
                        open.remove(tag);
                    }
                }
                prop_assert!(heard.iter().all(|it| expected.contains(it)), "told of one that is open");
                prop_assert_eq!(heard.len() + tags.held.len(), expected.len());
                prop_assert!(tags.runs.len() <= open.len());
            }
            heard.extend(let_go(&mut tags).into_iter().map(|method| match method {
                Method::Ack { tag, .. } => (tag, End::Acknowledged),
                Method::Reject(tag) => (tag, End::Rejected),
                Method::Requeue(tag) => (tag, End::Requeued),
            }));
            heard.sort_by_key(|it| it.0);
            expected.sort_by_key(|it| it.0);
            prop_assert_eq!(heard, expected);
        }
    }
}

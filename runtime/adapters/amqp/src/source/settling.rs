//! Tells the broker how the messages of an AMQP channel ended: one task a channel, which takes all that has settled at once.
//!
//! One acknowledgement can stand for a run of messages, which is less work for both sides than one for each: it says that the
//! broker may forget every message up to its delivery tag. So it may only be said when all of them are done with, and the broker
//! has heard of those that ended otherwise: see [`Tags`].

use std::{collections::BTreeMap, sync::Arc};

use futures_util::FutureExt as _;
use lapin::{
    Channel,
    options::{BasicAckOptions, BasicNackOptions, BasicRejectOptions},
};
use tokio::{sync::mpsc, task::yield_now};
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::connection::{Broker, Session};

/// How many ends are taken at once.
const BATCH: usize = 1_024;

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
    pub(super) _telling: TaskTrackerToken,
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
}

/// Tells until no one is left who could hand over an end, or the connection is gone: then the broker has what it was not told of
/// again.
pub(super) async fn tell(
    channel: Channel,
    session: Arc<Session>,
    // Without it the connection would be closed before all is told.
    _broker: Arc<Broker>,
    mut ended: mpsc::UnboundedReceiver<Ended>,
) {
    let (mut tags, mut batch) = (Tags::default(), Vec::new());
    while ended.recv_many(&mut batch, BATCH).await > 0 {
        // Those that are about to end do so first, and are told with these.
        yield_now().await;
        while batch.len() < BATCH
            && let Ok(more) = ended.try_recv()
        {
            batch.push(more);
        }
        let methods = tags.end(batch.iter().map(|it| (it.tag, it.end)));
        let told = say_all(&channel, &methods);
        tokio::select! {
            biased;
            () = told => {}
            () = session.ended() => return,
        }
        batch.clear();
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
    /// stands for all that the broker has not heard of by then.
    fn end(&mut self, ended: impl IntoIterator<Item = (u64, End)>) -> Vec<Method> {
        let (mut methods, mut acknowledged) = (Vec::new(), Vec::new());
        for (tag, end) in ended {
            self.close(tag);
            match end {
                End::Acknowledged => acknowledged.push(tag),
                End::Rejected => methods.push(Method::Reject(tag)),
                End::Requeued => methods.push(Method::Requeue(tag)),
            }
        }
        acknowledged.sort_unstable();
        let (run, others) = acknowledged.split_at(acknowledged.partition_point(|tag| *tag < self.open));
        if let Some(tag) = run.last() {
            methods.push(Method::Ack { tag: *tag, multiple: run.len() > 1 });
        }
        methods.extend(others.iter().map(|tag| Method::Ack { tag: *tag, multiple: false }));
        methods
    }

    /// This one is done with.
    fn close(&mut self, tag: u64) {
        let after = self.runs.remove(&(tag + 1)).unwrap_or(tag + 1);
        if tag == self.open {
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
        Self { open: 1, runs: BTreeMap::new() }
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

    fn one(tag: u64) -> Method {
        Method::Ack { tag, multiple: false }
    }

    fn up_to(tag: u64) -> Method {
        Method::Ack { tag, multiple: true }
    }

    #[test]
    fn a_run_from_the_lowest_open_one_is_one_acknowledgement() {
        let mut tags = Tags::default();
        assert_eq!(tags.end(acknowledged([3, 1, 2])), [up_to(3)]);
        assert_eq!(tags.end(acknowledged([4])), [one(4)]);
        assert_eq!(tags.end(acknowledged(5..=500)), [up_to(500)]);
        assert!(tags.runs.is_empty());
    }

    #[test]
    fn nothing_behind_one_that_is_open_is_acknowledged_with_others() {
        let mut tags = Tags::default();
        assert_eq!(tags.end(acknowledged([2, 3, 5])), [one(2), one(3), one(5)]);
        assert_eq!(tags.end(acknowledged([7, 6])), [one(6), one(7)]);
        assert_eq!(tags.end(acknowledged([1])), [one(1)], "2 and 3 are told");
        assert_eq!(tags.end(acknowledged([4, 8, 10])), [up_to(8), one(10)]);
        assert_eq!((tags.open, tags.runs.len()), (9, 1));
    }

    #[test]
    fn what_ended_otherwise_is_told_before_an_acknowledgement_that_goes_beyond_it() {
        let mut tags = Tags::default();
        let ended = [(1, End::Acknowledged), (4, End::Acknowledged), (2, End::Rejected), (3, End::Requeued)];
        assert_eq!(tags.end(ended), [Method::Reject(2), Method::Requeue(3), up_to(4)]);
        assert_eq!(tags.end([(5, End::Rejected), (6, End::Acknowledged)]), [Method::Reject(5), one(6)]);
    }

    #[test]
    fn what_stands_for_long_does_not_make_what_is_kept_grow() {
        let mut tags = Tags::default();
        for tag in 2..10_000 {
            assert_eq!(tags.end(acknowledged([tag])), [one(tag)]);
        }
        assert_eq!(tags.runs.len(), 1);
    }

    proptest! {
        /// Against a broker that takes what it is told by the letter.
        #[test]
        fn the_broker_hears_of_each_end_once_and_of_no_other(
            order in Just((1..=60_u64).collect::<Vec<_>>()).prop_shuffle(),
            ends in proptest::collection::vec(0..4_u8, 60),
            batches in proptest::collection::vec(1..12_usize, 60),
        ) {
            let mut tags = Tags::default();
            let mut open: BTreeSet<u64> = (1..=60).collect();
            let mut order = order.into_iter().zip(ends).peekable();
            for size in batches {
                let batch: Vec<(u64, End)> = order
                    .by_ref()
                    .take(size)
                    .map(|(tag, end)| (tag, match end {
                        0 => End::Rejected,
                        1 => End::Requeued,
                        _ => End::Acknowledged,
                    }))
                    .collect();
                let (mut heard, mut expected) = (Vec::new(), batch.clone());
                for method in tags.end(batch) {
                    match method {
                        Method::Ack { tag, multiple } => {
                            prop_assert!(open.contains(&tag), "the broker closes the channel over {tag}");
                            let from = if multiple { 0 } else { tag };
                            let gone: Vec<u64> = open.range(from..=tag).copied().collect();
                            heard.extend(gone.iter().map(|tag| (*tag, End::Acknowledged)));
                        }
                        Method::Reject(tag) => heard.push((tag, End::Rejected)),
                        Method::Requeue(tag) => heard.push((tag, End::Requeued)),
                    }
                    for (tag, _) in &heard {
                        open.remove(tag);
                    }
                }
                heard.sort_by_key(|it| it.0);
                expected.sort_by_key(|it| it.0);
                prop_assert_eq!(heard, expected);
            }
            prop_assert!(tags.runs.len() <= open.len());
        }
    }
}

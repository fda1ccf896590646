//! The contract that every adapter keeps, as tests. An adapter's own tests implement [`SourceHarness`] or [`SinkHarness`]
//! over a real endpoint (a socket, a folder, a broker) and call the suite; what a protocol cannot do, its harness says.

use std::{collections::HashSet, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    config::{Mistakes, Node, Span},
    delivery::Delivery,
    message::Message,
    sink::{Outgoing, Sink},
    source::{Source, SourceSpec},
};

/// How long the suite waits for something that has to come. Not a delay: nothing waits this long unless it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How a test plays the outside world of a source.
#[async_trait]
pub trait SourceHarness: Send {
    /// A source, started, on an outside world of its own. Called once for each test.
    async fn start(&mut self) -> Box<dyn Source>;

    /// Another source with other settings of the same identity takes over from `old`.
    async fn take_over(&mut self, old: Box<dyn Source>) -> Box<dyn Source>;

    /// Makes the outside world offer a message with this body. Does not wait for it to be taken.
    async fn inject(&mut self, body: Bytes);

    /// Whether a released message is offered again by the source (a queue, a file), rather than by its sender (HTTP).
    fn redelivers(&self) -> bool;

    /// Whether the outside world holds no message any more: all are known to be dealt with. Awaits what has to happen for
    /// that.
    async fn is_empty(&mut self) -> bool;
}

/// How a test plays the outside world of a sink.
#[async_trait]
pub trait SinkHarness: Send {
    /// An open sink, with the texts that each send is rendered with.
    async fn open(&mut self) -> (std::sync::Arc<dyn Sink>, Vec<String>);

    /// All bodies that have arrived so far, in order if there is one.
    async fn arrived(&mut self) -> Vec<Bytes>;

    /// Whether what is sent in order arrives in order.
    fn keeps_order(&self) -> bool;

    /// From now on the outside world does not take messages.
    async fn break_it(&mut self);
}

/// Runs every test for sources. `make` gives a harness with a fresh outside world.
///
/// # Panics
/// When the contract is not kept.
#[allow(clippy::panic, clippy::expect_used, reason = "a test suite: this is how it fails")]
pub async fn source_suite<H: SourceHarness>(mut make: impl FnMut() -> H) {
    gives_what_is_offered_once(make()).await;
    next_can_be_cancelled(make()).await;
    settles_in_any_order(make()).await;
    a_release_is_offered_again(make()).await;
    a_dropped_acknowledgement_is_a_release(make()).await;
    settings_change_without_loss(make()).await;
    a_closed_source_ends(make()).await;
}

/// Runs every test for sinks.
///
/// # Panics
/// When the contract is not kept.
#[allow(clippy::panic, reason = "a test suite: this is how it fails")]
pub async fn sink_suite<H: SinkHarness>(mut make: impl FnMut() -> H) {
    what_is_confirmed_has_arrived(make()).await;
    first_polls_set_the_order(make()).await;
    what_cannot_be_sent_is_no_success(make()).await;
}

/// What a source says about itself must fit together.
///
/// # Panics
/// When it does not.
pub fn spec_is_sound(spec: &dyn SourceSpec) {
    assert!(!spec.identity().is_empty(), "a source has an identity");
    assert_eq!(spec.identity(), spec.identity(), "an identity does not change");
    let claims = spec.claims();
    let unique: HashSet<_> = claims.iter().collect();
    assert_eq!(unique.len(), claims.len(), "claims are named once: {claims:?}");
}

/// A node for a configuration in JSON, for the checks of adapters.
pub fn config_node(json: &serde_json::Value) -> Node {
    Node::from_json(json, &Span::nowhere("test"))
}

/// Fails the test with what is wrong in a configuration.
///
/// # Panics
/// When there are mistakes.
pub fn no_mistakes(mistakes: &Mistakes) {
    let all: Vec<String> = mistakes.iter().map(ToString::to_string).collect();
    assert!(all.is_empty(), "{all:#?}");
}

#[allow(clippy::panic, clippy::expect_used, reason = "a test suite: this is how it fails")]
async fn next(source: &mut dyn Source) -> Delivery {
    // As the engine asks.
    if let Some(delivery) = source.ready() {
        return delivery;
    }
    match tokio::time::timeout(PATIENCE, source.next()).await {
        Ok(Ok(Some(delivery))) => delivery,
        Ok(Ok(None)) => panic!("the source ended although there is more"),
        Ok(Err(error)) => panic!("the source failed: {error}"),
        Err(_) => panic!("the source gives nothing although there is more"),
    }
}

fn body(n: usize) -> Bytes {
    Bytes::from(format!("{{\"n\":{n}}}"))
}

async fn gives_what_is_offered_once<H: SourceHarness>(mut harness: H) {
    let mut source = harness.start().await;
    let mut ids = HashSet::new();
    for n in 0..5 {
        harness.inject(body(n)).await;
        let delivery = next(&mut *source).await;
        assert_eq!(delivery.message.body(), &body(n));
        assert!(ids.insert(delivery.message.id().clone()), "two messages have one id");
        delivery.acknowledgement.delivered();
    }
    assert!(harness.is_empty().await, "what was delivered is still there");
}

async fn next_can_be_cancelled<H: SourceHarness>(mut harness: H) {
    let mut source = harness.start().await;
    for n in 0..20 {
        harness.inject(body(n)).await;
    }
    let mut seen = HashSet::new();
    while seen.len() < 20 {
        // Dropped after one poll, whatever it was about to do.
        let polled = {
            let mut call = source.next();
            std::future::poll_fn(|cx| std::task::Poll::Ready(std::future::Future::poll(call.as_mut(), cx)))
                .await
        };
        let delivery = match polled {
            std::task::Poll::Ready(Ok(Some(delivery))) => delivery,
            _ => next(&mut *source).await,
        };
        assert!(seen.insert(delivery.message.body().clone()), "offered twice");
        delivery.acknowledgement.delivered();
    }
    assert!(harness.is_empty().await);
}

async fn settles_in_any_order<H: SourceHarness>(mut harness: H) {
    let mut source = harness.start().await;
    let mut deliveries = Vec::new();
    for n in 0..10 {
        harness.inject(body(n)).await;
        deliveries.push(next(&mut *source).await);
    }
    while let Some(delivery) = deliveries.pop() {
        delivery.acknowledgement.delivered();
    }
    assert!(harness.is_empty().await, "what was delivered is still there");
}

async fn a_release_is_offered_again<H: SourceHarness>(mut harness: H) {
    if !harness.redelivers() {
        return;
    }
    let mut source = harness.start().await;
    harness.inject(body(1)).await;
    let first = next(&mut *source).await;
    let id = first.message.id().clone();
    first.acknowledgement.released(None);
    let second = next(&mut *source).await;
    assert_eq!((second.message.id(), second.message.body()), (&id, &body(1)));
    second.acknowledgement.delivered();
    assert!(harness.is_empty().await);
}

async fn a_dropped_acknowledgement_is_a_release<H: SourceHarness>(mut harness: H) {
    if !harness.redelivers() {
        return;
    }
    let mut source = harness.start().await;
    harness.inject(body(1)).await;
    drop(next(&mut *source).await);
    let again = next(&mut *source).await;
    assert_eq!(again.message.body(), &body(1));
    again.acknowledgement.delivered();
    assert!(harness.is_empty().await);
}

async fn settings_change_without_loss<H: SourceHarness>(mut harness: H) {
    let mut source = harness.start().await;
    harness.inject(body(0)).await;
    let held = next(&mut *source).await;
    harness.inject(body(1)).await;
    let mut source = harness.take_over(source).await;
    harness.inject(body(2)).await;
    // An acknowledgement of before still counts.
    held.acknowledgement.delivered();
    let mut seen = HashSet::new();
    for _ in 0..2 {
        let delivery = next(&mut *source).await;
        assert!(seen.insert(delivery.message.body().clone()), "offered twice");
        delivery.acknowledgement.delivered();
    }
    assert_eq!(seen, HashSet::from([body(1), body(2)]));
    assert!(harness.is_empty().await);
}

#[allow(clippy::panic, reason = "a test suite: this is how it fails")]
async fn a_closed_source_ends<H: SourceHarness>(mut harness: H) {
    let mut source = harness.start().await;
    harness.inject(body(0)).await;
    let held = next(&mut *source).await;
    source.close().await;
    let end = async {
        loop {
            match source.next().await {
                Ok(Some(delivery)) => delivery.acknowledgement.delivered(),
                Ok(None) => break,
                Err(error) => panic!("a closed source failed: {error}"),
            }
        }
    };
    assert!(tokio::time::timeout(PATIENCE, end).await.is_ok(), "a closed source does not end");
    held.acknowledgement.delivered();
    assert!(harness.is_empty().await, "what was settled after closing is still there");
}

fn message(n: usize) -> Message {
    Message::new(format!("m{n}"), crate::clock::Timestamp::from_millis(0), body(n))
}

#[allow(clippy::panic, reason = "a test suite: this is how it fails")]
async fn what_is_confirmed_has_arrived<H: SinkHarness>(mut harness: H) {
    let (sink, texts) = harness.open().await;
    for n in 0..5 {
        let message = message(n);
        if let Err(failure) = sink.send(Outgoing::new(&message, &texts)).await {
            panic!("a send failed: {failure}");
        }
        let arrived = harness.arrived().await;
        assert!(arrived.contains(&body(n)), "confirmed, but it is not there");
    }
}

#[allow(clippy::panic, reason = "a test suite: this is how it fails")]
async fn first_polls_set_the_order<H: SinkHarness>(mut harness: H) {
    if !harness.keeps_order() {
        return;
    }
    let (sink, texts) = harness.open().await;
    let messages: Vec<Message> = (0..50).map(message).collect();
    let mut sends: Vec<_> = messages.iter().map(|m| sink.send(Outgoing::new(m, &texts))).collect();
    let mut done = vec![false; sends.len()];
    for (send, done) in sends.iter_mut().zip(&mut done) {
        let poll =
            std::future::poll_fn(|cx| std::task::Poll::Ready(std::future::Future::poll(send.as_mut(), cx)))
                .await;
        *done = poll.is_ready();
    }
    // Awaited backwards: the order is that of the first polls all the same.
    for (send, done) in sends.into_iter().zip(done).rev() {
        if !done && let Err(failure) = send.await {
            panic!("a send failed: {failure}");
        }
    }
    let arrived = harness.arrived().await;
    assert_eq!(arrived, messages.iter().map(|m| m.body().clone()).collect::<Vec<_>>());
}

async fn what_cannot_be_sent_is_no_success<H: SinkHarness>(mut harness: H) {
    let (sink, texts) = harness.open().await;
    harness.break_it().await;
    let message = message(0);
    let result = tokio::time::timeout(PATIENCE, sink.send(Outgoing::new(&message, &texts))).await;
    assert!(matches!(result, Ok(Err(_))), "a send into nothing was confirmed, or never ended");
    assert!(!harness.arrived().await.contains(&body(0)));
}

//! Where messages go out.

use std::{path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    failure::{ErrorClass, Failure},
    message::{Headers, Message},
};

/// How long opening a sink may wait for its connection.
pub const OPEN_WITHIN: Duration = Duration::from_secs(5);

/// A text of a sink's configuration that may hold expressions (`${…}`). The sink keeps the slot; the engine compiles the
/// text when the flow is loaded and renders it for each message, so that adapters know nothing of expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Slot(pub(crate) usize);

/// A message on its way out, with the sink's texts rendered for it.
#[derive(Debug, Clone, Copy)]
pub struct Outgoing<'a> {
    /// The message.
    pub message: &'a Message,
    texts: &'a [String],
}

/// What came back from a `call`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer {
    /// Headers of the answer, content type included: they are set on the message.
    pub headers: Headers,
    /// The new body.
    pub body: Bytes,
}

/// What a sink is given when it is opened.
#[derive(Debug, Clone)]
pub struct SinkContext {
    /// The id of the flow.
    pub flow: Arc<str>,
    /// The largest answer to a `call`, in bytes.
    pub body_bytes: usize,
}

/// Checked configuration of a sink.
#[async_trait]
pub trait SinkSpec: Send + Sync + std::fmt::Debug {
    /// Opens the sink, or a handle to one that is shared. Must not disturb the sink of the version that still runs. A peer that is
    /// away is no error here but a failure of each message. A sink with a connection tries it once, for
    /// [`OPEN_WITHIN`] at the longest: a peer that refuses it for good is better heard of now than with the first message.
    ///
    /// # Errors
    /// What is in the way, and that only a person can mend: a wrong password, no permission.
    async fn open(&self, context: SinkContext) -> Result<Arc<dyn Sink>, Failure>;

    /// The files outside of the flow file that [`open`](Self::open) reads as configuration: certificates, keys. Their content
    /// is part of the flow's version, so that a reload takes a new one.
    fn configuration_files(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}

/// An open sink, shared by all deliveries of a version.
///
/// Order: a sink that has one (a file, a queue) takes its place in it during the first poll of the future that `send`
/// gives. So a flow that polls sends in order has written in order, though many are under way.
#[async_trait]
pub trait Sink: Send + Sync {
    /// Hands the message over and waits for the confirmation: when this returns `Ok`, the message is as safe as the sink
    /// can make it (written and synced, confirmed by the broker, answered with a success).
    ///
    /// # Errors
    /// `sink_unavailable`, `sink_rejected` or `timeout`, with the decision whether to try again.
    async fn send(&self, outgoing: Outgoing<'_>) -> Result<(), Failure>;

    /// Hands the message over and waits for the answer.
    ///
    /// # Errors
    /// As [`Sink::send`]. A sink without answers is never called: [`crate::adapter::CheckedSink::answers`] says so.
    async fn call(&self, outgoing: Outgoing<'_>) -> Result<Answer, Failure> {
        let _ = outgoing;
        Err(Failure::new(ErrorClass::Internal, "this sink gives no answers"))
    }
}

// === impl Outgoing ===

impl<'a> Outgoing<'a> {
    /// `texts` in the order in which the slots were given out.
    pub fn new(message: &'a Message, texts: &'a [String]) -> Self {
        Self { message, texts }
    }

    /// The rendered text of a slot.
    pub fn text(&self, slot: Slot) -> &'a str {
        self.texts.get(slot.0).map_or("", String::as_str)
    }
}

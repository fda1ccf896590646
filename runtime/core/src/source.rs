//! Where messages come in.
//!
//! A source goes through three types. A [`SourceSpec`] is checked configuration: pure data, nothing is open. Its
//! [`prepare`](SourceSpec::prepare) does everything that can fail (bind, connect, open) and disturbs nothing that runs. The
//! [`PreparedSource`] then either [starts](PreparedSource::start) or [takes over](PreparedSource::take_over) from the source
//! of the version before. So a reload can still turn back at every point at which something can go wrong.

use std::{any::Any, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};

use async_trait::async_trait;

use crate::{clock::Clock, delivery::Delivery, limits::FlowLimits, observe::EndpointObserver};

/// In which order a source offers its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// Messages have no order among each other (HTTP requests).
    None,
    /// One after the other (a queue, a topic, lines of files): an ordered flow keeps it.
    Total,
}

/// What only one flow can have at a time: a route of a listener, a file pattern in a directory. Two flows with equal
/// claims are a mistake.
#[derive(Clone)]
pub struct Claim {
    key: String,
    shown: String,
}

/// A source that cannot go on for now, or cannot be opened.
#[derive(Debug, Clone)]
pub struct SourceError {
    /// What happened and what to do, for the operator.
    pub text: String,
}

/// Checked configuration of a source.
#[async_trait]
pub trait SourceSpec: Any + Send + Sync + std::fmt::Debug {
    /// Names the endpoint: two specs of one flow with the same identity are the same endpoint with, perhaps, other
    /// settings, and the later takes over from the earlier. E.g. `http 127.0.0.1:8080 /orders`.
    fn identity(&self) -> String;

    /// Names the source for who reads a dead letter.
    fn origin(&self) -> String {
        self.identity()
    }

    /// What no other flow may have as well.
    fn claims(&self) -> Vec<Claim>;

    /// Why this source and `other`, that of another flow, cannot both run, where their claims do not say it: an address
    /// that includes the other's, one listener with two certificates. One sentence for the engineer, the other's flow left
    /// out. It does not matter which of the two is asked.
    fn conflict(&self, other: &dyn SourceSpec) -> Option<String> {
        let _ = other;
        None
    }

    /// Whether this source listens on an address of the machine that leaves no room for a listener on this one.
    fn excludes(&self, listener: SocketAddr) -> bool {
        let _ = listener;
        false
    }

    /// The files outside of the flow file that [`prepare`](Self::prepare) reads as configuration: certificates, keys. Their
    /// content is part of the flow's version, so that a reload takes a new one.
    fn configuration_files(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// The order of its messages.
    fn order(&self) -> Order;

    /// Whether a rejected message is still kept somewhere by the source (a `failed` folder, a dead-letter exchange) or is
    /// told to whoever sent it (HTTP). A flow whose source does neither needs a dead letter.
    fn keeps_rejected(&self) -> bool;

    /// Whether it can answer: whether `reply` makes sense.
    fn replies(&self) -> bool;

    /// Does all that can fail and disturbs nothing that runs. Bounded by `limits.prepare_ms`: may be cancelled at any
    /// await. What it opened is closed when the result is dropped.
    ///
    /// # Errors
    /// What is in the way: a port in use, a directory that does not exist.
    async fn prepare(&self, context: EndpointContext) -> Result<Box<dyn PreparedSource>, SourceError>;
}

/// What an endpoint is given.
#[derive(Debug, Clone)]
pub struct EndpointContext {
    /// The id of the flow.
    pub flow: Arc<str>,
    /// The limits of the flow. `in_flight` is kept by the engine; a source that must refuse rather than wait (HTTP) keeps
    /// it too.
    pub limits: FlowLimits,
    /// Where the source may keep what has to survive a restart: a folder of its own flow. Made on demand.
    pub state_dir: PathBuf,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Hooks for what happens at the endpoint itself.
    pub observer: Arc<dyn EndpointObserver>,
}

/// A source that is ready, and may still be dropped without a trace.
#[async_trait]
pub trait PreparedSource: Send {
    /// Begins to accept messages.
    ///
    /// # Errors
    /// When what `prepare` found good is not so any more.
    async fn start(self: Box<Self>) -> Result<Box<dyn Source>, SourceError>;

    /// Goes on in the place of `old`, which has the same identity, with new settings: nothing is refused, nothing is
    /// offered twice, and acknowledgements of deliveries that `old` made still count. Bounded by `limits.prepare_ms`: when
    /// it is not done by then, it is dropped together with `old`, and the flow's source is started afresh. So what can wait
    /// for a peer must give up in time to give `old` back.
    ///
    /// # Errors
    /// Gives the old source back, as it was, with the reason.
    async fn take_over(self: Box<Self>, old: Box<dyn Source>) -> Result<Box<dyn Source>, TakeOverError>;
}

/// The way back.
pub struct TakeOverError {
    /// The source that goes on as it was.
    pub old: Box<dyn Source>,
    /// Why.
    pub error: SourceError,
}

/// A running source.
///
/// The engine asks for the next delivery only while fewer than `limits.in_flight` are unsettled, and at most one call of
/// `next` is under way.
#[async_trait]
pub trait Source: Any + Send {
    /// The next delivery. Must be cancel-safe: a call that is dropped before it has finished has lost nothing. `Ok(None)`
    /// says that no more will come (a finite source).
    ///
    /// A delivery whose acknowledgement says *released* is offered again by the source itself, after
    /// `limits.release_delay_ms`, unless whoever sent it is told to send again (HTTP 503).
    ///
    /// # Errors
    /// When the source cannot go on for now. The engine shows the flow as degraded with this text and asks again later.
    async fn next(&mut self) -> Result<Option<Delivery>, SourceError>;

    /// The delivery that [`Self::next`] would give at once, if there is one here already. The engine asks for it first, because
    /// it costs neither a future nor a waker. `None` says nothing of whether one will come, nor whether the source is well.
    fn ready(&mut self) -> Option<Delivery> {
        None
    }

    /// The flow cannot take messages for now (`Some`: why, for the operator) or can again (`None`). `next` is not asked
    /// meanwhile; a source whose sender waits (HTTP) may refuse at once.
    fn pause(&mut self, reason: Option<&str>) {
        let _ = reason;
    }

    /// The flow is gone, or has another source now; not only the process ends. Said before [`Self::close`]: what the other
    /// side keeps for this source alone, such as a session with a broker, is ended when everything has settled.
    fn retire(&mut self) {}

    /// Stops accepting. What was accepted and not yet taken by `next` is still given by `next`, then `None` (bounded by
    /// the drain limit); unsettled deliveries can still be settled, and a released one is not offered again but left where
    /// it came from.
    async fn close(&mut self);
}

/// How long the engine waits before it asks a source that failed again.
pub const SOURCE_RETRY: Duration = Duration::from_secs(1);

// === impl Claim ===

impl Claim {
    /// A claim that is shown as what it is.
    pub fn new(key: impl Into<String>) -> Self {
        let key = key.into();
        Self { shown: key.clone(), key }
    }

    /// The same, shown as another text: without what was substituted, or as a person writes it.
    #[must_use]
    pub fn shown_as(self, text: impl Into<String>) -> Self {
        Self { shown: text.into(), ..self }
    }
}

/// As a person may see it.
impl std::fmt::Display for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown)
    }
}

/// As a person may see it.
impl std::fmt::Debug for Claim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Claim").field(&self.shown).finish()
    }
}

/// How it is shown makes no difference.
impl PartialEq for Claim {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Claim {}

impl std::hash::Hash for Claim {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.key.hash(state);
    }
}

// === impl SourceError ===

impl SourceError {
    /// With the text for the operator.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into() }
    }
}

impl std::fmt::Display for SourceError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

impl std::error::Error for SourceError {}

//! Plugins as the engine sees them: what they say of themselves, what they may, and one call at a time. How they run is
//! for the host to know (`gristmill-wasm`, or a double in a test).

use std::{collections::BTreeSet, fmt, pin::Pin, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::{
    config::Schema,
    failure::{ErrorClass, Failure},
    limits::{FlowLimits, PluginLimits},
    message::Message,
    observe::PluginObserver,
    step::Next,
    stopwatch::Stopwatch,
};

/// The two worlds of the contract `gristmill:plugin`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum World {
    /// Messages in, messages out.
    Transformer,
    /// Messages in, route names out.
    Router,
}

/// A capability that a flow gives to a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Grant {
    /// To write log lines.
    Log,
    /// To know the time.
    Clock,
    /// To draw random bytes.
    Random,
    /// To count.
    Metrics,
    /// To keep small values from one message to the next.
    State,
}

/// What `grants:` of a step holds. Nothing is granted unless written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Grants {
    /// May write log lines.
    pub log: bool,
    /// May know the time; without it, WASI's clock stands still.
    pub clock: bool,
    /// May draw random bytes; without it, WASI's random is seeded with a constant.
    pub random: bool,
    /// May count in the runtime's metrics.
    pub metrics: bool,
    /// May keep small values in memory from one message to the next.
    pub state: bool,
}

/// What a plugin says of itself.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Description {
    /// Its name.
    pub name: String,
    /// Its own version.
    pub version: String,
    /// One sentence.
    pub summary: String,
    /// JSON Schema of its configuration.
    pub config_schema: Schema,
    /// Which headers it reads.
    pub wants_headers: WantsHeaders,
    /// Whether it reads the body.
    pub wants_body: bool,
}

/// Which headers a plugin reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum WantsHeaders {
    /// None.
    None,
    /// These, in lower case.
    Listed(Vec<String>),
    /// All.
    All,
}

/// What is different about a message, as the plugin said; not yet checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Change {
    /// Headers to set, each replacing every header of its name.
    pub set_headers: Vec<(String, String)>,
    /// Headers to remove, before the sets.
    pub remove_headers: Vec<String>,
    /// The new body.
    pub body: Option<Bytes>,
}

/// What a transformer made of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Transformed {
    /// The message, changed.
    Change(Change),
    /// Several, each the message with a change.
    Emit(Vec<Change>),
    /// None, on purpose.
    Drop(String),
}

/// Whether a plugin is fit to be called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// Yes.
    Fit,
    /// Held back; the text says why.
    Quarantined(Arc<str>),
    /// The next message is a probe: one at a time until it has succeeded.
    Probing,
}

/// Why a plugin cannot be loaded or bound: what it is, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PluginError {
    /// A stable name: `plugin_not_found`, `plugin_not_wasm`, `plugin_wrong_contract`, `plugin_needs_grant`, …
    pub code: &'static str,
    /// What is wrong.
    pub text: String,
    /// What to do.
    pub mend: Option<String>,
}

/// Where a plugin runs, for its log lines, metrics and state.
#[derive(Debug, Clone)]
pub struct PluginScope {
    /// The flow.
    pub flow: Arc<str>,
    /// The version of the flow.
    pub version: Arc<str>,
    /// The step's place in the flow. State is kept by flow, step and plugin, across versions.
    pub step: Arc<str>,
    /// Hooks.
    pub observer: Arc<dyn PluginObserver>,
}

/// What a plugin is bound with.
#[derive(Clone)]
pub struct PluginSettings {
    /// The configuration, checked against the schema.
    pub config: serde_json::Value,
    /// The texts in it that were substituted from outside of the flow, such as tokens. Whatever the plugin says is
    /// without those of at least four bytes.
    pub secrets: Vec<String>,
    /// What it may.
    pub grants: Grants,
    /// Its limits.
    pub limits: PluginLimits,
    /// The limits of the flow, from which the limits on results come.
    pub flow_limits: FlowLimits,
    /// Where.
    pub scope: PluginScope,
}

/// Without the configuration, which may hold secrets.
impl fmt::Debug for PluginSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { config: _, secrets: _, grants, limits, flow_limits, scope } = self;
        f.debug_struct("PluginSettings")
            .field("grants", grants)
            .field("limits", limits)
            .field("flow_limits", flow_limits)
            .field("scope", scope)
            .finish_non_exhaustive()
    }
}

/// Loads plugins.
#[async_trait]
pub trait PluginHost: Send + Sync {
    /// Loads the plugin of that name from the plugins folder: reads, compiles (or takes from the cache), asks it to
    /// describe itself. The same content is loaded once.
    ///
    /// # Errors
    /// Not found, not Wasm, another contract, a description that is none.
    async fn load(&self, name: &str) -> Result<Arc<dyn LoadedPlugin>, PluginError>;

    /// The names of all plugins in the folder, for suggestions.
    fn names(&self) -> Vec<String>;
}

/// A plugin's code, compiled; nothing runs.
#[async_trait]
pub trait LoadedPlugin: Send + Sync {
    /// What it says of itself.
    fn description(&self) -> &Description;

    /// Its world.
    fn world(&self) -> World;

    /// The capabilities that it imports and cannot do without.
    fn needs(&self) -> &BTreeSet<Grant>;

    /// Lower-case hexadecimal SHA-256 of the file as found: part of the version of every flow that uses it.
    fn digest(&self) -> &str;

    /// Links it with what it was granted and configures a first instance, so that a configuration that the plugin itself
    /// refuses is found before any message.
    ///
    /// # Errors
    /// A capability not granted, a configuration refused, a trap while configuring.
    async fn bind(&self, settings: PluginSettings) -> Result<Arc<dyn Plugin>, PluginError>;
}

/// A plugin bound to a step, ready for messages. Calls may be made at the same time; each has an instance of its own.
#[async_trait]
pub trait Plugin: Send + Sync {
    /// Asks what is to become of one message. Only for [`World::Transformer`].
    ///
    /// # Errors
    /// A failure of class `plugin_*`.
    async fn transform(&self, message: &Message, watch: &Stopwatch) -> Result<Transformed, Failure>;

    /// Asks, and does to the message what the plugin said. To be overridden by what can do both with less memory.
    ///
    /// # Errors
    /// Those of [`Plugin::transform`] and of [`Transformed::apply`].
    fn transform_and_apply<'a>(
        &'a self,
        message: Message,
        limits: &'a FlowLimits,
        watch: &'a Stopwatch,
    ) -> Pin<Box<dyn Future<Output = Result<Next, Failure>> + Send + 'a>> {
        Box::pin(async move { self.transform(&message, watch).await?.apply(message, limits) })
    }

    /// Asks for routes. Only for [`World::Router`].
    ///
    /// # Errors
    /// A failure of class `plugin_*`.
    async fn route(&self, message: &Message, watch: &Stopwatch) -> Result<Vec<String>, Failure>;

    /// Whether it is fit; changes wake the receiver.
    fn health(&self) -> watch::Receiver<Health>;
}

// === impl Grant ===

impl Grant {
    /// Every grant.
    pub const ALL: [Self; 5] = [Self::Log, Self::Clock, Self::Random, Self::Metrics, Self::State];

    /// The key under `grants:` and the name of the WIT interface.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Clock => "clock",
            Self::Random => "random",
            Self::Metrics => "metrics",
            Self::State => "state",
        }
    }
}

impl Grants {
    /// Whether this one is given.
    pub const fn has(&self, grant: Grant) -> bool {
        match grant {
            Grant::Log => self.log,
            Grant::Clock => self.clock,
            Grant::Random => self.random,
            Grant::Metrics => self.metrics,
            Grant::State => self.state,
        }
    }
}

// === impl Transformed ===

impl Transformed {
    /// What becomes of the message.
    ///
    /// # Errors
    /// `plugin_malformed` when nothing is emitted or a change cannot be made ([`Change::apply`]); `limit` when more is emitted than
    /// `limits.fan_out`.
    pub fn apply(self, message: Message, limits: &FlowLimits) -> Result<Next, Failure> {
        match self {
            Self::Change(change) => change.apply(message, limits).map(Next::Continue),
            Self::Drop(reason) => Ok(Next::Drop(reason)),
            Self::Emit(changes) if changes.is_empty() => Err(Failure::new(
                ErrorClass::PluginMalformed,
                "the plugin emitted no message: an empty `emit` is not allowed, `drop` says so on purpose",
            )),
            Self::Emit(changes) if changes.len() > limits.fan_out => Err(Failure::new(
                ErrorClass::Limit,
                format!(
                    "{} messages are more than the limit of {} (limits.fan_out)",
                    changes.len(),
                    limits.fan_out
                ),
            )),
            Self::Emit(changes) => {
                let children = changes.into_iter().enumerate().map(|(index, change)| {
                    change.apply(message.clone().with_id(message.id().child(index)), limits)
                });
                children.collect::<Result<_, _>>().map(Next::Emit)
            }
        }
    }
}

// === impl Change ===

impl Change {
    /// The message with this change.
    ///
    /// # Errors
    /// `plugin_malformed` when a header is not one that a message may carry, or a limit is passed.
    pub fn apply(self, mut message: Message, limits: &FlowLimits) -> Result<Message, Failure> {
        let malformed = |text: String| Failure::new(ErrorClass::PluginMalformed, text);
        let headers = message.headers_mut();
        for name in &self.remove_headers {
            headers.remove(name);
        }
        // All names first, then the values, so that two entries of one name keep both values, as the contract says.
        for (name, _) in &self.set_headers {
            headers.remove(name);
        }
        let count = headers.len() + self.set_headers.len();
        if count > limits.headers {
            return Err(malformed(format!(
                "{count} headers are more than the limit of {} (limits.headers)",
                limits.headers
            )));
        }
        for (name, value) in &self.set_headers {
            headers
                .append(name, value)
                .map_err(|e| malformed(format!("the plugin set an invalid header: {e}")))?;
        }
        check_limits(&message, self.body.as_ref(), limits).map_err(malformed)?;
        if let Some(body) = self.body {
            message.set_body(body);
        }
        Ok(message)
    }
}

/// Whether the headers, and the body that is about to be set, keep the limits of the flow in bytes.
fn check_limits(message: &Message, body: Option<&Bytes>, limits: &FlowLimits) -> Result<(), String> {
    let bytes = message.headers().bytes();
    if bytes > limits.header_bytes {
        return Err(format!(
            "{bytes} bytes of headers are more than the limit of {} (limits.header_bytes)",
            limits.header_bytes
        ));
    }
    let body = body.unwrap_or(message.body()).len();
    if body > limits.body_bytes {
        return Err(format!(
            "a body of {body} bytes is more than the limit of {} (limits.body_bytes)",
            limits.body_bytes
        ));
    }
    Ok(())
}

// === impl PluginError ===

impl PluginError {
    /// Without a mend.
    pub fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), mend: None }
    }

    /// The same with the mend.
    #[must_use]
    pub fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }
}

impl fmt::Display for PluginError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        match &self.mend {
            Some(mend) => write!(f, " ({mend})"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for PluginError {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Timestamp;

    fn message() -> Message {
        let mut message = Message::new("m", Timestamp::from_millis(0), "body");
        for (name, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
            message.headers_mut().append(name, value).unwrap();
        }
        message
    }

    fn set(name: &str, value: &str) -> (String, String) {
        (name.into(), value.into())
    }

    #[test]
    fn removals_come_first_and_a_set_replaces_every_header_of_its_name() {
        let change = Change {
            set_headers: vec![set("A", "4"), set("c", "5"), set("a", "6")],
            remove_headers: vec!["C".into(), "b".into()],
            body: None,
        };
        let changed = change.apply(message(), &FlowLimits::default()).unwrap();
        assert_eq!(changed.headers().iter().collect::<Vec<_>>(), [("a", "4"), ("c", "5"), ("a", "6")]);
        assert_eq!(&**changed.body(), b"body");
    }

    #[test]
    fn what_passes_a_limit_is_malformed() {
        let limits = FlowLimits { headers: 4, header_bytes: 100, body_bytes: 10, ..FlowLimits::default() };
        for change in [
            Change { set_headers: vec![set("x", "1"), set("y", "2")], ..Change::default() },
            Change { set_headers: vec![set("x", &"v".repeat(100))], ..Change::default() },
            Change { set_headers: vec![set("x", "a\r\nb")], ..Change::default() },
            Change { body: Some(Bytes::from_static(&[0; 11])), ..Change::default() },
        ] {
            let failure = change.clone().apply(message(), &limits).unwrap_err();
            assert_eq!(failure.class(), ErrorClass::PluginMalformed, "{change:?}");
        }
    }
}

//! What goes wrong with a message. A failure carries its class, by which `on_error` matches it, and its own retry
//! decision, so that no one above has to guess from a text.

use std::{fmt, sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What kind of thing went wrong. The names are what `on_error: - match:` takes; they are stable.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ErrorClass {
    /// An expression could not be evaluated on this message: a missing field, a wrong type.
    Expression,
    /// The body is not what an expression or a step needs: not JSON where JSON is wanted.
    BodyFormat,
    /// No branch of a `choice` or `route` fits, and there is no `otherwise`.
    NoBranch,
    /// The plugin said that this message can never be handled.
    PluginRejected,
    /// The plugin said that it may work later.
    PluginRetry,
    /// The plugin trapped: a panic, an unreachable instruction, a memory fault, a stack overflow.
    PluginTrap,
    /// The plugin ran over its deadline.
    PluginTimeout,
    /// The plugin asked for more memory than its limit.
    PluginMemory,
    /// The plugin's answer breaks the contract or a limit: too large, too many headers, invalid names, an unknown route.
    PluginMalformed,
    /// The plugin keeps failing and is held back for a while.
    PluginQuarantined,
    /// The sink cannot be reached, or says that it may work later.
    SinkUnavailable,
    /// The sink says that this message can never be taken.
    SinkRejected,
    /// The broker gave the message back, because there is nowhere to put it: a mandatory message that no queue takes
    /// (AMQP 0-9-1, `basic.return`).
    SinkReturned,
    /// The sink did not confirm in time: whether it has the message is not known.
    Timeout,
    /// A limit of the flow was reached: fan-out, body size, header count.
    Limit,
    /// The version of the flow was stopped at its drain limit while the delivery was on its way.
    Drained,
    /// A fault of the runtime itself.
    Internal,
}

/// What went wrong with one message, in words for the operator. Never shown to a sender.
#[derive(Debug, Clone)]
pub struct Failure {
    class: ErrorClass,
    text: Arc<str>,
    retryable: bool,
    retry_after: Option<Duration>,
    details: Vec<Arc<str>>,
}

// === impl ErrorClass ===

impl ErrorClass {
    /// Every class, in the order of the documentation.
    pub const ALL: [Self; 17] = [
        Self::Expression,
        Self::BodyFormat,
        Self::NoBranch,
        Self::PluginRejected,
        Self::PluginRetry,
        Self::PluginTrap,
        Self::PluginTimeout,
        Self::PluginMemory,
        Self::PluginMalformed,
        Self::PluginQuarantined,
        Self::SinkUnavailable,
        Self::SinkRejected,
        Self::SinkReturned,
        Self::Timeout,
        Self::Limit,
        Self::Drained,
        Self::Internal,
    ];

    /// The stable name, as in `match: [sink_unavailable]`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Expression => "expression",
            Self::BodyFormat => "body_format",
            Self::NoBranch => "no_branch",
            Self::PluginRejected => "plugin_rejected",
            Self::PluginRetry => "plugin_retry",
            Self::PluginTrap => "plugin_trap",
            Self::PluginTimeout => "plugin_timeout",
            Self::PluginMemory => "plugin_memory",
            Self::PluginMalformed => "plugin_malformed",
            Self::PluginQuarantined => "plugin_quarantined",
            Self::SinkUnavailable => "sink_unavailable",
            Self::SinkRejected => "sink_rejected",
            Self::SinkReturned => "sink_returned",
            Self::Timeout => "timeout",
            Self::Limit => "limit",
            Self::Drained => "drained",
            Self::Internal => "internal",
        }
    }

    /// Whether trying the same message again can help, unless the failure itself knows better. A failure that no
    /// `on_error` rule matches releases the delivery when this is true and rejects it when it is false. A trap is nearly
    /// always the message's doing and would come again, so it is not retried unless a rule names it; a plugin that traps
    /// on everything is quarantined, which spares the messages.
    pub const fn retryable(self) -> bool {
        match self {
            Self::PluginRetry
            | Self::PluginTimeout
            | Self::PluginQuarantined
            | Self::SinkUnavailable
            | Self::Timeout
            | Self::Drained
            | Self::Internal => true,
            Self::Expression
            | Self::BodyFormat
            | Self::NoBranch
            | Self::PluginRejected
            | Self::PluginTrap
            | Self::PluginMemory
            | Self::PluginMalformed
            | Self::SinkRejected
            | Self::SinkReturned
            | Self::Limit => false,
        }
    }

    /// Whether the message is not to blame: such a failure releases the delivery and no `on_error` rule sees it, so
    /// that a held-back plugin does not turn good messages into dead letters.
    pub const fn spares_message(self) -> bool {
        matches!(self, Self::PluginQuarantined | Self::Drained)
    }
}

impl fmt::Display for ErrorClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

// === impl Failure ===

impl Failure {
    /// A failure with the retry decision of its class.
    pub fn new(class: ErrorClass, text: impl Into<Arc<str>>) -> Self {
        Self {
            class,
            text: text.into(),
            retryable: class.retryable(),
            retry_after: None,
            details: Vec::new(),
        }
    }

    /// The same, never to be tried again.
    #[must_use]
    pub fn permanent(mut self) -> Self {
        self.retryable = false;
        self
    }

    /// The same, not to be tried again before this long: a sink's `Retry-After`.
    #[must_use]
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retryable = true;
        self.retry_after = Some(wait);
        self
    }

    /// The same with one more piece of evidence: a guest's backtrace, the tail of its stderr.
    #[must_use]
    pub fn with_detail(mut self, detail: impl Into<Arc<str>>) -> Self {
        self.details.push(detail.into());
        self
    }

    /// The class.
    pub fn class(&self) -> ErrorClass {
        self.class
    }

    /// What happened, for the operator.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether trying again can help.
    pub fn is_retryable(&self) -> bool {
        self.retryable
    }

    /// The least time to wait before the next attempt, when whoever failed said so.
    pub fn wait_at_least(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Evidence, longest last.
    pub fn details(&self) -> impl Iterator<Item = &str> {
        self.details.iter().map(|d| &**d)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.class, self.text)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_the_one_that_yaml_takes() {
        for class in ErrorClass::ALL {
            assert_eq!(serde_json::to_value(class).unwrap(), class.name());
        }
    }
}

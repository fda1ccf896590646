//! What a plugin implements.

use schemars::JsonSchema;
use serde::de::DeserializeOwned;

use crate::{Failure, Message, Outcome, WantsHeaders};

/// Messages in, messages out. Export it with [`export_transformer!`](crate::export_transformer).
///
/// The host keeps several instances, each with one call at a time, and retires them at will: what a plugin keeps in
/// itself is a cache, never a truth. What must outlive an instance belongs into [`state`](crate::state).
pub trait Transformer: Sized {
    /// The configuration, as the flow file gives it. `#[serde(deny_unknown_fields)]` lets the runtime find misspelt
    /// keys before anything runs. [`NoConfig`](crate::NoConfig) for none.
    type Config: DeserializeOwned + JsonSchema;

    /// What of a message is copied to the plugin. Must not depend on anything: it is asked before `configure`.
    fn wants() -> Wants;

    /// Makes an instance. The error text is shown to the operator beside the flow's line.
    ///
    /// # Errors
    /// When the configuration fits its schema but makes no sense.
    fn configure(config: Self::Config) -> Result<Self, String>;

    /// Handles one message.
    ///
    /// # Errors
    /// [`Failure::reject`] when the message can never be handled, [`Failure::retry`] when it may work later.
    fn transform(&self, message: Message) -> Result<Outcome, Failure>;
}

/// Messages in, route names out. Export it with [`export_router!`](crate::export_router). See [`Transformer`] for what
/// both have in common.
pub trait Router: Sized {
    /// The configuration, as the flow file gives it.
    type Config: DeserializeOwned + JsonSchema;

    /// What of a message is copied to the plugin.
    fn wants() -> Wants;

    /// Makes an instance. The error text is shown to the operator beside the flow's line.
    ///
    /// # Errors
    /// When the configuration fits its schema but makes no sense.
    fn configure(config: Self::Config) -> Result<Self, String>;

    /// The names of the branches that get the message, without repeats. None is an error unless the step has `otherwise`.
    ///
    /// # Errors
    /// As for [`Transformer::transform`].
    fn route(&self, message: Message) -> Result<Vec<String>, Failure>;
}

/// Which parts of a message a plugin reads. Each header costs a copy, so ask for what is needed: headers that were not
/// asked for are never lost, since a [`Change`](crate::Change) applies to the whole message that the host holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Wants {
    pub(crate) headers: WantsHeaders,
    pub(crate) body: bool,
}

impl Wants {
    /// The body, and no headers.
    #[must_use]
    pub fn body() -> Self {
        Wants { headers: WantsHeaders::None, body: true }
    }

    /// Neither body nor headers: the id alone. Add headers with [`Wants::header`].
    #[must_use]
    pub fn no_body() -> Self {
        Wants { headers: WantsHeaders::None, body: false }
    }

    /// This header too. The name is matched without regard to case. No effect after [`Wants::all_headers`].
    #[must_use]
    pub fn header(mut self, name: &str) -> Self {
        let name = name.to_ascii_lowercase();
        match &mut self.headers {
            WantsHeaders::All => {}
            WantsHeaders::Listed(names) => names.push(name),
            none @ WantsHeaders::None => *none = WantsHeaders::Listed(vec![name]),
        }
        self
    }

    /// Every header: for plugins whose configuration names the headers that they read.
    #[must_use]
    pub fn all_headers(mut self) -> Self {
        self.headers = WantsHeaders::All;
        self
    }
}

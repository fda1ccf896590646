//! The steps, one EIP a file. A step is a [`Verb`]: its name, a sentence about it, the schema of its configuration, and the
//! function that checks one; what a check gives can be built, and what is built is a `Step`.
//!
//! To add a step: a file here with a `VERB`, its `mod` line, and its line in [`VERBS`].

mod branching;
mod call;
mod choice;
mod content;
mod filter;
mod log;
mod reply;
mod route;
mod send;
mod set;
mod transform;

use std::sync::Arc;

use async_trait::async_trait;
use gristmill_core::{
    Failure, Message,
    config::{Node, Schema},
    limits::FlowLimits,
    observe::Observer,
    plugin::Health,
    step::{Step, StepContext},
};
use tokio::sync::watch;

use crate::{
    expression::Scope,
    flow::{StepChecker, StepNode},
};

/// Every step that a flow can name.
pub(crate) const VERBS: &[Verb] = &[
    call::VERB,
    choice::VERB,
    filter::VERB,
    log::VERB,
    reply::VERB,
    route::VERB,
    send::VERB,
    set::VERB,
    transform::VERB,
];

/// A kind of step.
pub(crate) struct Verb {
    /// The key in a flow file.
    pub(crate) name: &'static str,
    /// One sentence, for the schema.
    pub(crate) summary: &'static str,
    /// The schema of its configuration.
    pub(crate) schema: fn() -> Schema,
    /// Checks one; all mistakes go to the checker, `None` when there was one.
    pub(crate) check: fn(&Node, &mut StepChecker<'_>) -> Option<Checked>,
}

/// A step whose configuration is good.
pub(crate) struct Checked {
    /// What it will be.
    pub(crate) step: Arc<dyn CheckedStep>,
    /// The steps of its branches, by index.
    pub(crate) branches: Vec<Vec<StepNode<Checked>>>,
    /// The plugin it calls.
    pub(crate) plugin: Option<Arc<str>>,
}

/// Checked configuration of a step.
#[async_trait]
pub(crate) trait CheckedStep: Send + Sync {
    /// Opens what it needs.
    ///
    /// # Errors
    /// What is in the way, for the operator.
    async fn build(&self, context: &BuildContext<'_>) -> Result<Built, String>;
}

/// What a step is built with.
#[derive(Clone, Copy)]
pub(crate) struct BuildContext<'a> {
    /// The flow.
    pub(crate) flow: &'a Arc<str>,
    /// Its version.
    pub(crate) version: &'a Arc<str>,
    /// The step's place.
    pub(crate) path: &'a Arc<str>,
    /// The flow's limits.
    pub(crate) limits: &'a FlowLimits,
    /// Hooks.
    pub(crate) observer: &'a Arc<dyn Observer>,
}

/// A step that is ready.
pub(crate) struct Built {
    /// It.
    pub(crate) step: Arc<dyn Step>,
    /// The health of its plugin.
    pub(crate) health: Option<watch::Receiver<Health>>,
}

impl Checked {
    /// A step that needs nothing opened.
    pub(crate) fn ready(step: impl Step + 'static, branches: Vec<Vec<StepNode<Checked>>>) -> Self {
        Self { step: Arc::new(Ready(Arc::new(step))), branches, plugin: None }
    }

    /// A step without branches and plugin.
    pub(crate) fn leaf(step: impl CheckedStep + 'static) -> Self {
        Self { step: Arc::new(step), branches: Vec::new(), plugin: None }
    }
}

/// A step that needs nothing opened: what was checked is what runs.
struct Ready(Arc<dyn Step>);

#[async_trait]
impl CheckedStep for Ready {
    async fn build(&self, _: &BuildContext<'_>) -> Result<Built, String> {
        Ok(Built { step: Arc::clone(&self.0), health: None })
    }
}

impl Built {
    /// A step that needs nothing opened.
    pub(crate) fn ready(step: impl Step + 'static) -> Self {
        Self { step: Arc::new(step), health: None }
    }
}

/// What expressions of a step see.
fn scope<'m>(message: &'m Message, context: &StepContext<'m>) -> Scope<'m> {
    Scope::new(message, context.flow)
}

/// Checks the limits of the flow on a message that a step has changed.
fn within_limits(message: Message, limits: &FlowLimits) -> Result<Message, Failure> {
    use gristmill_core::ErrorClass::Limit;
    let over = |what: String| Err(Failure::new(Limit, what));
    if message.body().len() > limits.body_bytes {
        return over(format!(
            "a body of {} bytes is more than the limit of {} (limits.body_bytes)",
            message.body().len(),
            limits.body_bytes
        ));
    }
    if message.headers().len() > limits.headers {
        return over(format!(
            "{} headers are more than the limit of {} (limits.headers)",
            message.headers().len(),
            limits.headers
        ));
    }
    let bytes = message.headers().bytes();
    if bytes > limits.header_bytes {
        return over(format!(
            "{bytes} bytes of headers are more than the limit of {} (limits.header_bytes)",
            limits.header_bytes
        ));
    }
    Ok(message)
}

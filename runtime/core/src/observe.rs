//! The hooks through which metrics, traces and the admin API see what happens. The engine calls them; what they do must be
//! cheap, must not block and must not panic.

use std::{fmt, sync::Arc, time::Duration};

use crate::{failure::Failure, message::Message, settlement::Outcome};

/// Sees everything that a runtime does.
pub trait Observer: Send + Sync + fmt::Debug {
    /// A version of a flow is about to run; gives the hooks for it. `steps` are the places of its steps, by step index.
    fn version(&self, flow: &Arc<str>, version: &Arc<str>, steps: &[StepInfo]) -> Arc<dyn FlowObserver>;

    /// Gives the hooks for the endpoint of a flow.
    fn endpoint(&self, flow: &Arc<str>) -> Arc<dyn EndpointObserver>;

    /// Gives the hooks for a plugin in a step.
    fn plugin(&self, flow: &Arc<str>, step: &str, plugin: &str) -> Arc<dyn PluginObserver>;

    /// A flow was loaded, reloaded or removed, or that was refused.
    fn reload(&self, flow: &str, result: ReloadResult);
}

/// What a step is, for labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepInfo {
    /// Its place in the flow.
    pub path: Arc<str>,
    /// Its verb: `transform`, `send`, ….
    pub verb: &'static str,
    /// Its plugin, if it has one.
    pub plugin: Option<Arc<str>>,
}

/// How a reload ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReloadResult {
    /// A new version runs.
    Applied,
    /// Nothing was different.
    Unchanged,
    /// The new version was refused; the old one, if any, goes on.
    Refused,
    /// The flow was removed.
    Removed,
}

/// Sees one version of one flow.
pub trait FlowObserver: Send + Sync + fmt::Debug {
    /// A delivery was accepted. May set a header, such as the context of a trace that begins here, so that sinks can pass
    /// it on.
    fn accepted(&self, message: &mut Message);
    /// An attempt of the step with this index begins. An attempt that is cancelled (at the drain limit) has no end.
    fn step_begins(&self, step: usize, message: &Message);
    /// An attempt of the step with this index ended. `failure` is `None` when it succeeded.
    fn step_ended(&self, step: usize, message: &Message, elapsed: Duration, failure: Option<&Failure>);
    /// A message was dropped on purpose by the step with this index.
    fn dropped(&self, step: usize, message: &Message, reason: &str);
    /// The delivery has settled, this long after it was accepted.
    fn settled(&self, message: &Message, outcome: &Outcome, elapsed: Duration);
}

/// Sees an endpoint.
pub trait EndpointObserver: Send + Sync + fmt::Debug {
    /// A sender was refused before there was a delivery: over a limit, a bad signature. `reason` is one of a few words.
    fn refused(&self, reason: &'static str);
}

/// Sees a plugin in a step.
pub trait PluginObserver: Send + Sync + fmt::Debug {
    /// A call for this message ended: time in all, and the failure if it failed.
    fn call(&self, message: &Message, elapsed: Duration, failure: Option<&Failure>);
    /// The plugin was held back (true) or is fit again (false).
    fn quarantined(&self, is: bool);
    /// The plugin counted, by its grant `metrics`.
    fn guest_counter(&self, name: &str, amount: u64);
    /// The plugin set a gauge, by its grant `metrics`.
    fn guest_gauge(&self, name: &str, value: f64);
}

/// Sees nothing: for tests and commands that run no flow.
#[derive(Debug, Clone, Copy, Default)]
pub struct Unobserved;

impl Observer for Unobserved {
    fn version(&self, _: &Arc<str>, _: &Arc<str>, _: &[StepInfo]) -> Arc<dyn FlowObserver> {
        Arc::new(Self)
    }
    fn endpoint(&self, _: &Arc<str>) -> Arc<dyn EndpointObserver> {
        Arc::new(Self)
    }
    fn plugin(&self, _: &Arc<str>, _: &str, _: &str) -> Arc<dyn PluginObserver> {
        Arc::new(Self)
    }
    fn reload(&self, _: &str, _: ReloadResult) {}
}

impl FlowObserver for Unobserved {
    fn accepted(&self, _: &mut Message) {}
    fn step_begins(&self, _: usize, _: &Message) {}
    fn step_ended(&self, _: usize, _: &Message, _: Duration, _: Option<&Failure>) {}
    fn dropped(&self, _: usize, _: &Message, _: &str) {}
    fn settled(&self, _: &Message, _: &Outcome, _: Duration) {}
}

impl EndpointObserver for Unobserved {
    fn refused(&self, _: &'static str) {}
}

impl PluginObserver for Unobserved {
    fn call(&self, _: &Message, _: Duration, _: Option<&Failure>) {}
    fn quarantined(&self, _: bool) {}
    fn guest_counter(&self, _: &str, _: u64) {}
    fn guest_gauge(&self, _: &str, _: f64) {}
}

//! Hooks that count what those of the runtime count, into metrics of the same shape, so that what watching costs is in the
//! figures.

use std::{sync::Arc, time::Duration};

use gristmill_core::{
    Failure, Message,
    observe::{EndpointObserver, FlowObserver, Observer, PluginObserver, ReloadResult, StepInfo, Unobserved},
    settlement::Outcome,
};
use prometheus_client::metrics::{counter::Counter, histogram::Histogram};

/// Counts.
#[derive(Debug)]
pub struct Counted;

#[derive(Debug)]
struct Flow {
    accepted: Counter,
    delivered: Counter,
    duration: Histogram,
    steps: Vec<Histogram>,
}

/// One call of a plugin.
#[derive(Debug)]
pub struct Calls(Histogram);

fn histogram() -> Histogram {
    Histogram::new((0..12).map(|n| 1e-5 * 4_f64.powi(n)))
}

impl Default for Calls {
    fn default() -> Self {
        Self(histogram())
    }
}

impl Observer for Counted {
    fn version(&self, _: &Arc<str>, _: &Arc<str>, steps: &[StepInfo]) -> Arc<dyn FlowObserver> {
        Arc::new(Flow {
            accepted: Counter::default(),
            delivered: Counter::default(),
            duration: histogram(),
            steps: steps.iter().map(|_| histogram()).collect(),
        })
    }
    fn endpoint(&self, _: &Arc<str>) -> Arc<dyn EndpointObserver> {
        Arc::new(Unobserved)
    }
    fn plugin(&self, _: &Arc<str>, _: &str, _: &str) -> Arc<dyn PluginObserver> {
        Arc::new(Calls::default())
    }
    fn reload(&self, _: &str, _: ReloadResult) {}
}

impl FlowObserver for Flow {
    fn accepted(&self, _: &mut Message) {
        self.accepted.inc();
    }
    fn step_begins(&self, _: usize, _: &Message) {}
    fn step_ended(&self, step: usize, _: &Message, elapsed: Duration, _: Option<&Failure>) {
        if let Some(step) = self.steps.get(step) {
            step.observe(elapsed.as_secs_f64());
        }
    }
    fn dropped(&self, _: usize, _: &Message, _: &str) {}
    fn settled(&self, _: &Message, _: &Outcome, elapsed: Duration) {
        self.delivered.inc();
        self.duration.observe(elapsed.as_secs_f64());
    }
}

impl PluginObserver for Calls {
    fn call(&self, _: &Message, elapsed: Duration, _: Option<&Failure>) {
        self.0.observe(elapsed.as_secs_f64());
    }
    fn quarantined(&self, _: bool) {}
    fn guest_counter(&self, _: &str, _: u64) {}
    fn guest_gauge(&self, _: &str, _: f64) {}
}

//! Makes a running version of a checked flow: binds plugins, opens sinks. Disturbs nothing that runs.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering as Atomic},
};

use futures_util::future::BoxFuture;
use gristmill_core::{Clock, observe::Observer, plugin::Health, step::FlowFacts};
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::ending::endings;
use super::version::{RunningRule, RunningStep, RunningThen, Version};
use crate::{
    flow::{CheckedFlow, StepNode, Then},
    steps::{BuildContext, Checked},
};

static GENERATIONS: AtomicU64 = AtomicU64::new(0);

/// Opens everything that the flow needs.
///
/// # Errors
/// The first thing that is in the way, with its place in the flow.
pub(crate) async fn build(
    mut flow: CheckedFlow,
    observer: &Arc<dyn Observer>,
    clock: &Arc<dyn Clock>,
) -> Result<Version, String> {
    let mut plugins = Vec::new();
    let steps = build_steps(std::mem::take(&mut flow.steps), &flow, observer, &mut plugins).await?;
    let mut rules = Vec::with_capacity(flow.rules.len());
    for (position, rule) in std::mem::take(&mut flow.rules).into_iter().enumerate() {
        let path: Arc<str> = format!("on_error[{position}].then.dead_letter").into();
        let context = BuildContext {
            flow: &flow.id,
            version: &flow.version,
            path: &path,
            limits: &flow.limits,
            observer,
        };
        let then = match (&rule.then, RunningThen::without_sink(&rule.then)) {
            (_, Some(then)) => then,
            (Then::DeadLetter(checked), _) => {
                RunningThen::DeadLetter { sink: checked.open(&context).await?, checked: checked.clone() }
            }
            (_, None) => RunningThen::Release,
        };
        rules.push(RunningRule { rule, then });
    }
    Ok(Version {
        observer: observer.version(&flow.id, &flow.version, &flow.infos),
        origin: flow.source.origin().into(),
        facts: FlowFacts { id: flow.id, version: flow.version },
        generation: GENERATIONS.fetch_add(1, Atomic::Relaxed),
        limits: flow.limits,
        connections: flow.connections,
        ordering: flow.ordering,
        steps,
        rules,
        discard_rejected: flow.discard_rejected,
        plugins,
        clock: Arc::clone(clock),
        endings: endings(),
        tasks: TaskTracker::new(),
        stop: CancellationToken::new(),
        stopped: AtomicBool::new(false),
    })
}

fn build_steps<'a>(
    steps: Vec<StepNode<Checked>>,
    flow: &'a CheckedFlow,
    observer: &'a Arc<dyn Observer>,
    plugins: &'a mut Vec<watch::Receiver<Health>>,
) -> BoxFuture<'a, Result<Vec<StepNode<RunningStep>>, String>> {
    Box::pin(async move {
        let mut running = Vec::with_capacity(steps.len());
        for node in steps {
            let StepNode { index, path, step: checked } = node;
            let context = BuildContext {
                flow: &flow.id,
                version: &flow.version,
                path: &path,
                limits: &flow.limits,
                observer,
            };
            let built = checked.step.build(&context).await?;
            plugins.extend(built.health);
            let mut branches = Vec::with_capacity(checked.branches.len());
            for branch in checked.branches {
                branches.push(build_steps(branch, flow, observer, plugins).await?);
            }
            running.push(StepNode {
                index,
                path,
                step: RunningStep { step: built.step, plugin: checked.plugin, branches },
            });
        }
        Ok(running)
    })
}

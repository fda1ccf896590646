//! Takes one message through a version of a flow, from the first step to its settlement.
//!
//! The walk keeps its own stack of lists that are still to be done, so that a message that was split can go on from any depth
//! as a child of its own. It recurses only where one message becomes several.

use std::{
    any::Any,
    future::Future,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering as Atomic},
    time::Instant,
};

use futures_util::{FutureExt, future::BoxFuture};
use gristmill_core::{
    Acknowledgement, ErrorClass, Failure, Message, Settlement,
    step::{Next, StepContext},
};

use super::{
    ending::{GivenUp, give_up},
    lane::Ticket,
    version::{RunningStep, Version},
};
use crate::flow::StepNode;

/// What does not change while a delivery is on its way.
#[derive(Clone, Copy)]
pub(crate) struct Journey<'a> {
    pub(crate) version: &'a Version,
    /// The message as the source gave it.
    pub(crate) original: &'a Message,
    /// The delivery's place in its lane, when order is kept.
    pub(crate) ticket: Option<&'a Ticket>,
    /// How many messages were made of the delivery so far, over all its steps.
    pub(crate) children: &'a AtomicUsize,
    /// How many splits the message stands in.
    pub(crate) splits: usize,
}

/// How many splits a message may stand in. Not a setting: each is a level of recursion.
const MAX_SPLITS: usize = 32;

/// A list of steps, and the next one to do.
#[derive(Clone, Copy)]
struct Frame<'a> {
    steps: &'a [StepNode<RunningStep>],
    next: usize,
}

/// How far a child's progress counts for the order: only the last one's does, because those behind wait for all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Counts,
    Held,
}

/// Takes the delivery's message through the flow and settles `acknowledgement`.
pub(crate) async fn run(journey: Journey<'_>, message: Message, acknowledgement: Acknowledgement) {
    let frames = vec![Frame { steps: &journey.version.steps, next: 0 }];
    walk(journey, frames, message, acknowledgement, Progress::Counts).await;
}

/// Ends a delivery that failed before its first step.
pub(crate) async fn fail(
    journey: Journey<'_>,
    message: Message,
    acknowledgement: Acknowledgement,
    failure: Failure,
    at: &str,
) {
    let given_up = GivenUp { failure, attempts: 1, message, step: at, plugin: None };
    give_up(journey, given_up, acknowledgement).await;
}

/// Gives how the branch ended, which its acknowledgement has been told.
async fn walk<'a>(
    journey: Journey<'a>,
    mut frames: Vec<Frame<'a>>,
    mut message: Message,
    acknowledgement: Acknowledgement,
    progress: Progress,
) -> Settlement {
    loop {
        let Some(frame) = frames.last_mut() else {
            acknowledgement.delivered();
            return Settlement::Delivered;
        };
        let Some(node) = frame.steps.get(frame.next) else {
            frames.pop();
            continue;
        };
        frame.next += 1;
        let next = match attempt(journey, node, message, &acknowledgement, progress).await {
            Ok(next) => next,
            Err(given_up) => return give_up(journey, given_up, acknowledgement).await,
        };
        match next {
            Next::Continue(changed) => message = changed,
            Next::Drop(_) => {
                acknowledgement.delivered();
                return Settlement::Delivered;
            }
            Next::Enter(changed, branch) => {
                message = changed;
                if let Some(steps) = node.step.branches.get(branch) {
                    frames.push(Frame { steps, next: 0 });
                }
            }
            Next::Emit(mut children) => match (children.pop(), children.is_empty()) {
                // One child needs no branch of its own.
                (Some(only), true) => message = only,
                (Some(last), false) => {
                    children.push(last);
                    let journey = Journey { splits: journey.splits + 1, ..journey };
                    return emit(journey, &frames, children, acknowledgement, progress).await;
                }
                (None, _) => {
                    acknowledgement.delivered();
                    return Settlement::Delivered;
                }
            },
            Next::EnterAll(original, branches) => {
                message = original;
                for steps in branches.iter().filter_map(|branch| node.step.branches.get(*branch)) {
                    let frames = vec![Frame { steps, next: 0 }];
                    let copy = message.clone();
                    let ended = boxed_walk(journey, frames, copy, acknowledgement.branch(), progress).await;
                    if ended != Settlement::Delivered {
                        // The branch has told the lineage, and the worst wins; what would follow would be done again.
                        acknowledgement.delivered();
                        return ended;
                    }
                }
            }
        }
    }
}

/// Each child goes on from where its parent stood, one after the other, so that their order is kept.
async fn emit<'a>(
    journey: Journey<'a>,
    frames: &[Frame<'a>],
    children: Vec<Message>,
    acknowledgement: Acknowledgement,
    progress: Progress,
) -> Settlement {
    let mut worst = Settlement::Delivered;
    let last = children.len().saturating_sub(1);
    for (index, child) in children.into_iter().enumerate() {
        let progress = if index == last { progress } else { Progress::Held };
        let ended = boxed_walk(journey, frames.to_vec(), child, acknowledgement.branch(), progress).await;
        worst = worst.max(ended);
    }
    acknowledgement.delivered();
    worst
}

fn boxed_walk<'a>(
    journey: Journey<'a>,
    frames: Vec<Frame<'a>>,
    message: Message,
    acknowledgement: Acknowledgement,
    progress: Progress,
) -> BoxFuture<'a, Settlement> {
    Box::pin(walk(journey, frames, message, acknowledgement, progress))
}

/// Whether what a step made of one message keeps the limits of the delivery.
fn within_fan_out(journey: Journey<'_>, next: &Next) -> Result<(), Failure> {
    let Next::Emit(children) = next else { return Ok(()) };
    let limit = journey.version.limits.fan_out;
    let made = journey.children.fetch_add(children.len(), Atomic::Relaxed) + children.len();
    if made > limit {
        let text = format!("{made} messages of one are more than the limit of {limit} (limits.fan_out)");
        return Err(Failure::new(ErrorClass::Limit, text));
    }
    if children.len() > 1 && journey.splits >= MAX_SPLITS {
        let text = format!("a message stands in more than {MAX_SPLITS} splits");
        return Err(Failure::new(ErrorClass::Limit, text));
    }
    Ok(())
}

/// Runs one step until it succeeds or its policy has no attempt left.
async fn attempt<'a>(
    journey: Journey<'a>,
    node: &'a StepNode<RunningStep>,
    message: Message,
    acknowledgement: &Acknowledgement,
    progress: Progress,
) -> Result<Next, GivenUp<'a>> {
    let version = journey.version;
    let mut attempt = 1;
    if let Some(ticket) = journey.ticket {
        ticket.may_start(node.index).await;
    }
    loop {
        let context = StepContext {
            flow: &version.facts,
            step: &node.path,
            attempt,
            acknowledgement,
            clock: &version.clock,
        };
        version.observer.step_begins(node.index, &message);
        let began = Instant::now();
        // A panic is a fault of the step, not of the deliveries beside it: it fails this attempt and nothing else.
        let running = AssertUnwindSafe(node.step.step.run(message.clone(), context)).catch_unwind();
        let result = match journey.ticket.filter(|_| attempt == 1 && progress == Progress::Counts) {
            Some(ticket) => after_first_poll(running, || ticket.started(node.index)).await,
            None => running.await,
        };
        let result = result.unwrap_or_else(|panic| Err(panicked(&*panic)));
        let result = result.and_then(|next| within_fan_out(journey, &next).map(|()| next));
        version.observer.step_ended(node.index, &message, began.elapsed(), result.as_ref().err());
        let failure = match result {
            Ok(next) => {
                if let Next::Drop(reason) = &next {
                    version.observer.dropped(node.index, &message, reason);
                }
                return Ok(next);
            }
            Err(failure) => failure,
        };
        let rule = version.rules.iter().find(|rule| rule.rule.matches(&failure));
        let Some(wait) = rule.and_then(|rule| rule.rule.retry_after(attempt, &failure)) else {
            let plugin = node.step.plugin.as_deref();
            return Err(GivenUp { failure, attempts: attempt, message, step: &node.path, plugin });
        };
        tracing::debug!(
            target: "gristmill::flow", flow = &*version.facts.id, version = &*version.facts.version, step = &*node.path,
            message_id = message.id().as_str(), attempt, wait_ms = wait.as_millis(), "trying again after {failure}"
        );
        tokio::time::sleep(wait).await;
        attempt += 1;
    }
}

/// What a step that panicked failed with.
fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let said =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = format!("the step panicked: {}", said.unwrap_or("it did not say why"));
    Failure::new(ErrorClass::Internal, text)
}

/// Calls `started` once the future has been polled for the first time: what takes its place in an order at its first poll
/// has then taken it.
async fn after_first_poll<F: Future>(future: F, started: impl FnOnce()) -> F::Output {
    let mut future = pin!(future);
    let mut started = Some(started);
    std::future::poll_fn(|context| {
        let poll = future.as_mut().poll(context);
        if let Some(started) = started.take() {
            started();
        }
        poll
    })
    .await
}

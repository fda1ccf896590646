//! Takes one message through a version of a flow, from the first step to its settlement.
//!
//! The walk keeps its own stack of lists that are still to be done, so that a message that was split can go on from any depth
//! as a child of its own. It recurses only where one message becomes several.

use std::{
    any::Any,
    future::poll_fn,
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

use smallvec::{SmallVec, smallvec};

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

/// The lists that are still to be done, the innermost last. Most flows nest no deeper.
type Frames<'a> = SmallVec<[Frame<'a>; 2]>;

/// How far a child's progress counts for the order: only the last one's does, because those behind wait for all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Counts,
    Held,
}

/// Takes the delivery's message through the flow and settles `acknowledgement`. Gives how that ended.
pub(crate) fn run(
    journey: Journey<'_>,
    message: Message,
    acknowledgement: Acknowledgement,
) -> impl Future<Output = Settlement> {
    let frames = smallvec![Frame { steps: &journey.version.steps, next: 0 }];
    walk(journey, frames, message, acknowledgement, Progress::Counts)
}

/// Ends a delivery that failed before its first step. Gives how that ended.
pub(crate) fn fail<'a>(
    journey: Journey<'a>,
    message: Message,
    acknowledgement: Acknowledgement,
    failure: Failure,
    at: &'a str,
) -> BoxFuture<'a, Settlement> {
    let given_up = GivenUp { failure, attempts: 1, message, step: at, plugin: None };
    Box::pin(give_up(journey, given_up, acknowledgement))
}

/// Gives how the branch ended, which its acknowledgement has been told.
async fn walk<'a>(
    journey: Journey<'a>,
    mut frames: Frames<'a>,
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
            // Boxed, as all is that a delivery seldom does: it would be room that every delivery takes.
            Err(given_up) => return Box::pin(give_up(journey, *given_up, acknowledgement)).await,
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
                    return Box::pin(emit(journey, &frames, children, acknowledgement, progress)).await;
                }
                (None, _) => {
                    acknowledgement.delivered();
                    return Settlement::Delivered;
                }
            },
            Next::EnterAll(original, branches) => {
                let ended = enter_all(journey, node, &original, branches, &acknowledgement, progress).await;
                if ended != Settlement::Delivered {
                    // The branch has told the lineage, and the worst wins; what would follow would be done again.
                    acknowledgement.delivered();
                    return ended;
                }
                message = original;
            }
        }
    }
}

/// A copy goes through each of these branches, one after the other, until one does not end as delivered.
fn enter_all<'a>(
    journey: Journey<'a>,
    node: &'a StepNode<RunningStep>,
    message: &'a Message,
    branches: Vec<usize>,
    acknowledgement: &'a Acknowledgement,
    progress: Progress,
) -> BoxFuture<'a, Settlement> {
    Box::pin(async move {
        for steps in branches.iter().filter_map(|branch| node.step.branches.get(*branch)) {
            let frames = smallvec![Frame { steps, next: 0 }];
            let ended =
                boxed_walk(journey, frames, message.clone(), acknowledgement.branch(), progress).await;
            if ended != Settlement::Delivered {
                return ended;
            }
        }
        Settlement::Delivered
    })
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
        let ended = boxed_walk(journey, frames.into(), child, acknowledgement.branch(), progress).await;
        worst = worst.max(ended);
    }
    acknowledgement.delivered();
    worst
}

fn boxed_walk<'a>(
    journey: Journey<'a>,
    frames: Frames<'a>,
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
    mut message: Message,
    acknowledgement: &Acknowledgement,
    progress: Progress,
) -> Result<Next, Box<GivenUp<'a>>> {
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
        let mut running = pin!(AssertUnwindSafe(node.step.step.run(message.clone(), context)).catch_unwind());
        // What is kept here is for another attempt, which is rare enough to read the body again.
        message.forget_reading();
        let mut ticket = journey.ticket.filter(|_| attempt == 1 && progress == Progress::Counts);
        let result = poll_fn(|context| {
            let poll = running.as_mut().poll(context);
            // What takes its place in an order at its first poll has then taken it.
            if let Some(ticket) = ticket.take() {
                ticket.started(node.index);
            }
            poll
        })
        .await;
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
            return Err(Box::new(GivenUp { failure, attempts: attempt, message, step: &node.path, plugin }));
        };
        tracing::debug!(
            target: "gristmill::flow", flow = &*version.facts.id, version = &*version.facts.version, step = &*node.path,
            message_id = message.id().as_str(), attempt, wait_ms = wait.as_millis(), "trying again after {failure}"
        );
        Box::pin(tokio::time::sleep(wait)).await;
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

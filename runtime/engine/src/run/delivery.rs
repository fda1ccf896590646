//! Takes one message through a version of a flow, from the first step to its settlement.
//!
//! The walk keeps its own stack of lists that are still to be done, so that a message that was split can go on from any depth
//! as a child of its own. It recurses only where one message becomes several.
//!
//! A [`Walk`] is a future written by hand: as nested `async fn`s it was two kilobytes, which were moved several times before the
//! first step. What a delivery seldom does (a failure, branches, children, a wait before another attempt) is in boxed futures
//! beside it.

use std::{
    any::Any,
    mem,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    slice,
    sync::atomic::{AtomicUsize, Ordering as Atomic},
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use gristmill_core::{
    Branch, ErrorClass, Failure, Lineage, Message, Moment, Settlement, Stopwatch,
    step::{Next, Running, StepContext},
};
use smallvec::{SmallVec, smallvec};
use tokio::time::Sleep;

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
    /// Where its outcome is awaited.
    pub(crate) lineage: &'a Lineage,
    /// Knows when its last step ended, unless something was waited for since.
    pub(crate) watch: &'a Stopwatch,
    /// How many splits the message stands in.
    pub(crate) splits: usize,
}

/// How many splits a message may stand in. Not a setting: each is a level of recursion.
const MAX_SPLITS: usize = 32;

/// What is left of the lists of steps that the message stands in, the innermost last. Most flows nest no deeper.
type Frames<'a> = SmallVec<[slice::Iter<'a, StepNode<RunningStep>>; 2]>;

/// How far a child's progress counts for the order: only the last one's does, because those behind wait for all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Progress {
    Counts,
    Held,
}

/// A message on its way through the steps. Gives how its branch ended, which its lineage has been told.
pub(crate) struct Walk<'a> {
    journey: &'a Journey<'a>,
    frames: Frames<'a>,
    /// What a branch owes until it is settled. The trunk owes nothing: what it is worth is how it ends.
    owes: Option<Branch>,
    progress: Progress,
    /// As it is before the step that is tried: for another attempt, and for the dead letter. `None` as long as it is the one that the
    /// source gave.
    message: Option<Message>,
    at: At<'a>,
}

/// Where a walk is when it waits, and between two polls. Small: it is moved often.
enum At<'a> {
    /// Not begun. A strict order lets it begin when nothing is before it; the failure is what is wrong with the message.
    Start(Option<Box<Failure>>),
    /// Before the next step.
    Next,
    /// Before a step that what comes before it in its lane has not started.
    Turn(Attempt<'a>),
    /// In a step, since then.
    Step(Attempt<'a>, Moment, StepFuture<'a>),
    /// Before another attempt.
    Pause(Attempt<'a>, Pin<Box<Sleep>>),
    /// Copies are in the branches of a step; the message goes on after them.
    Branches(BoxFuture<'a, Settlement>),
    /// What is left is no walk: children, or what the flow says of a failure.
    Rest(BoxFuture<'a, Settlement>),
    Ended,
}

/// What came of going on.
enum Moved<'a> {
    On(At<'a>),
    Waits(At<'a>),
    Ended(Settlement),
}

type StepFuture<'a> = Pin<Box<dyn Future<Output = Result<Next, Failure>> + Send + 'a>>;

/// A step that is tried.
#[derive(Clone, Copy)]
struct Attempt<'a> {
    node: &'a StepNode<RunningStep>,
    /// From 1.
    number: u32,
}

// === impl Walk ===

impl<'a> Walk<'a> {
    /// Through all steps of the version. `failure` is what is wrong with the message before its first step.
    pub(crate) fn trunk(journey: &'a Journey<'a>, failure: Option<Box<Failure>>) -> Self {
        Self {
            journey,
            frames: smallvec![journey.version.steps.iter()],
            owes: None,
            progress: Progress::Counts,
            message: None,
            at: At::Start(failure),
        }
    }

    /// A branch of another walk, whose message stands before the next of these steps. Boxed, because walks do not nest without
    /// limit in place.
    fn branch(
        journey: &'a Journey<'a>,
        frames: Frames<'a>,
        message: Message,
        owes: Branch,
        progress: Progress,
    ) -> Pin<Box<Self>> {
        Box::pin(Self { journey, frames, owes: Some(owes), progress, message: Some(message), at: At::Next })
    }

    fn start(&mut self, failure: Option<Box<Failure>>, context: &Context<'_>) -> Moved<'a> {
        if self.journey.version.ordering.strict
            && let Some(ticket) = self.journey.ticket
            && ticket.poll_is_first(context).is_pending()
        {
            return Moved::Waits(At::Start(failure));
        }
        Moved::On(match failure {
            // A key that could not be told.
            Some(failure) => self.give_up(*failure, None),
            None => At::Next,
        })
    }

    fn next(&mut self, context: &mut Context<'_>) -> Moved<'a> {
        while let Some(frame) = self.frames.last_mut() {
            if let Some(node) = frame.next() {
                return self.turn(Attempt { node, number: 1 }, context);
            }
            self.frames.pop();
        }
        self.end(Settlement::Delivered)
    }

    fn turn(&mut self, attempt: Attempt<'a>, context: &mut Context<'_>) -> Moved<'a> {
        if let Some(ticket) = self.journey.ticket
            && ticket.poll_may_start(attempt.node.index, context).is_pending()
        {
            return Moved::Waits(At::Turn(attempt));
        }
        self.begin(attempt, context)
    }

    fn begin(&mut self, attempt: Attempt<'a>, context: &mut Context<'_>) -> Moved<'a> {
        let Journey { version, lineage, original, watch, .. } = *self.journey;
        let node = attempt.node;
        let given = self.message.as_ref().unwrap_or(original).clone();
        version.observer.step_begins(node.index, &given);
        if let Some(kept) = &mut self.message {
            // It is for another attempt, which is rare enough to read the body again.
            kept.forget_reading();
        }
        let step = StepContext {
            flow: &version.facts,
            step: &node.path,
            attempt: attempt.number,
            lineage,
            clock: &version.clock,
            watch,
        };
        let began = watch.recent();
        // A panic is a fault of the step, not of the deliveries beside it: it fails this attempt and nothing else.
        match catch_unwind(AssertUnwindSafe(|| node.step.step.run(given, step))) {
            Ok(Running::Done(result)) => {
                self.started(attempt);
                self.ended(attempt, began, result)
            }
            Ok(Running::Waiting(running)) => self.step(attempt, began, running, true, context),
            Err(panic) => {
                self.started(attempt);
                self.ended(attempt, began, Err(panicked(&*panic)))
            }
        }
    }

    fn step(
        &mut self,
        attempt: Attempt<'a>,
        began: Moment,
        mut running: StepFuture<'a>,
        is_first: bool,
        context: &mut Context<'_>,
    ) -> Moved<'a> {
        let polled = catch_unwind(AssertUnwindSafe(|| running.as_mut().poll(context)));
        if is_first {
            // What takes its place in an order at its first poll has then taken it.
            self.started(attempt);
        }
        match polled {
            Ok(Poll::Pending) => Moved::Waits(At::Step(attempt, began, running)),
            Ok(Poll::Ready(result)) => self.ended(attempt, began, result),
            Err(panic) => self.ended(attempt, began, Err(panicked(&*panic))),
        }
    }

    /// Those behind it in its lane may follow.
    fn started(&self, attempt: Attempt<'a>) {
        if let Some(ticket) = self.journey.ticket
            && attempt.number == 1
            && self.progress == Progress::Counts
        {
            ticket.started(attempt.node.index);
        }
    }

    fn ended(&mut self, attempt: Attempt<'a>, began: Moment, result: Result<Next, Failure>) -> Moved<'a> {
        let Journey { version, original, watch, .. } = *self.journey;
        let (index, message) = (attempt.node.index, self.message.as_ref().unwrap_or(original));
        let over = result.as_ref().ok().and_then(|next| within_fan_out(self.journey, next).err());
        let result = over.map_or(result, Err);
        let took = watch.after(began).since(began);
        version.observer.step_ended(index, message, took, result.as_ref().err());
        match result {
            Ok(Next::Continue(changed)) => self.goes_on_as(changed),
            Ok(Next::Drop(reason)) => {
                version.observer.dropped(index, message, &reason);
                self.end(Settlement::Delivered)
            }
            Ok(Next::Enter(changed, branch)) => {
                if let Some(steps) = attempt.node.step.branches.get(branch) {
                    self.frames.push(steps.iter());
                }
                self.goes_on_as(changed)
            }
            Ok(Next::EnterAll(message, branches)) => self.enter_all(attempt.node, message, branches),
            Ok(Next::Emit(children)) => self.emit(children),
            Err(failure) => Moved::On(self.failed(attempt, failure)),
        }
    }

    fn goes_on_as(&mut self, message: Message) -> Moved<'a> {
        self.message = Some(message);
        Moved::On(At::Next)
    }

    /// A copy goes through each of these branches, one after the other, until one does not end as delivered.
    fn enter_all(
        &mut self,
        node: &'a StepNode<RunningStep>,
        message: Message,
        branches: Vec<usize>,
    ) -> Moved<'a> {
        let (journey, progress, copied) = (self.journey, self.progress, message.clone());
        let stem = self.beside();
        let branches = Box::pin(async move {
            let mut ended = Settlement::Delivered;
            for steps in branches.iter().filter_map(|branch| node.step.branches.get(*branch)) {
                let frames = smallvec![steps.iter()];
                ended = Self::branch(journey, frames, copied.clone(), stem.branch(), progress).await;
                if ended != Settlement::Delivered {
                    break;
                }
            }
            // How a branch ended was told by it, and the worst wins.
            stem.delivered();
            ended
        });
        self.message = Some(message);
        Moved::On(At::Branches(branches))
    }

    /// Each child goes on from where its parent stood, one after the other, so that their order is kept.
    fn emit(&mut self, mut children: Vec<Message>) -> Moved<'a> {
        let Some(last) = children.pop() else { return self.end(Settlement::Delivered) };
        if children.is_empty() {
            // One child needs no branch of its own.
            return self.goes_on_as(last);
        }
        self.message = None;
        let owes = self.takes_over();
        let journey = Journey { splits: self.journey.splits + 1, ..*self.journey };
        let (frames, progress) = (mem::take(&mut self.frames), self.progress);
        Moved::On(At::Rest(Box::pin(async move {
            let mut worst = Settlement::Delivered;
            // Collected anew, because a small vector cannot take a shorter lifetime.
            let frames = || frames.iter().cloned().collect();
            for child in children {
                let branch = owes.branch();
                let ended = Walk::branch(&journey, frames(), child, branch, Progress::Held).await;
                worst = worst.max(ended);
            }
            let ended = Walk::branch(&journey, frames(), last, owes, progress).await;
            worst.max(ended)
        })))
    }

    /// Another attempt, or none.
    fn failed(&mut self, mut attempt: Attempt<'a>, failure: Failure) -> At<'a> {
        let Journey { version, original, .. } = *self.journey;
        let rule = version.rules.iter().find(|rule| rule.rule.matches(&failure));
        let Some(wait) = rule.and_then(|rule| rule.rule.retry_after(attempt.number, &failure)) else {
            return self.give_up(failure, Some(attempt));
        };
        let message = self.message.as_ref().unwrap_or(original);
        tracing::debug!(
            target: "gristmill::flow", flow = &*version.facts.id, version = &*version.facts.version,
            step = &*attempt.node.path, message_id = message.id().as_str(), attempt = attempt.number,
            wait_ms = wait.as_millis(), "trying again after {failure}"
        );
        attempt.number += 1;
        At::Pause(attempt, Box::pin(tokio::time::sleep(wait)))
    }

    /// What becomes of the message is for its flow to say. Without an attempt it failed before its first step: its key could not be
    /// told.
    fn give_up(&mut self, failure: Failure, attempt: Option<Attempt<'a>>) -> At<'a> {
        let journey = self.journey;
        let owes = self.takes_over();
        let (step, attempts, plugin) = match attempt {
            Some(Attempt { node, number }) => (&*node.path, number, node.step.plugin.as_deref()),
            None => ("parallel.by", 1, None),
        };
        let message = self.message.take().unwrap_or_else(|| journey.original.clone());
        let given_up = GivenUp { failure, attempts, message, step, plugin };
        At::Rest(Box::pin(give_up(journey, given_up, owes)))
    }

    /// One more branch beside this one.
    fn beside(&self) -> Branch {
        self.owes.as_ref().map_or_else(|| self.journey.lineage.branch(), Branch::branch)
    }

    /// What this branch owes, for what goes on in its place.
    fn takes_over(&mut self) -> Branch {
        self.owes.take().unwrap_or_else(|| self.journey.lineage.branch())
    }

    /// The branch itself is done; `ended` is how what came of it ended, and of that the lineage was told.
    fn end(&mut self, ended: Settlement) -> Moved<'a> {
        if let Some(branch) = self.owes.take() {
            branch.delivered();
        }
        Moved::Ended(ended)
    }
}

impl Future for Walk<'_> {
    type Output = Settlement;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Settlement> {
        let walk = self.get_mut();
        let mut at = mem::replace(&mut walk.at, At::Ended);
        loop {
            let moved = match at {
                At::Start(failure) => walk.start(failure, context),
                At::Next => walk.next(context),
                At::Turn(attempt) => walk.turn(attempt, context),
                At::Step(attempt, began, running) => walk.step(attempt, began, running, false, context),
                At::Pause(attempt, mut sleep) => match sleep.as_mut().poll(context) {
                    Poll::Ready(()) => walk.begin(attempt, context),
                    Poll::Pending => Moved::Waits(At::Pause(attempt, sleep)),
                },
                At::Branches(mut branches) => match branches.as_mut().poll(context) {
                    Poll::Ready(Settlement::Delivered) => Moved::On(At::Next),
                    // What would follow would be done again.
                    Poll::Ready(ended) => walk.end(ended),
                    Poll::Pending => Moved::Waits(At::Branches(branches)),
                },
                At::Rest(mut rest) => match rest.as_mut().poll(context) {
                    Poll::Ready(ended) => Moved::Ended(ended),
                    Poll::Pending => Moved::Waits(At::Rest(rest)),
                },
                // Only a walk that was polled after its end is here.
                At::Ended => Moved::Ended(Settlement::Released),
            };
            match moved {
                Moved::On(next) => {
                    if matches!(next, At::Branches(..) | At::Rest(_) | At::Pause(..)) {
                        // That takes time of its own.
                        walk.journey.watch.forget();
                    }
                    at = next;
                }
                Moved::Waits(here) => {
                    walk.at = here;
                    walk.journey.watch.forget();
                    return Poll::Pending;
                }
                Moved::Ended(settlement) => return Poll::Ready(settlement),
            }
        }
    }
}

/// Whether what a step made of one message keeps the limits of the delivery.
fn within_fan_out(journey: &Journey<'_>, next: &Next) -> Result<(), Failure> {
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

/// What a step that panicked failed with.
fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let said =
        panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(String::as_str));
    let text = format!("the step panicked: {}", said.unwrap_or("it did not say why"));
    Failure::new(ErrorClass::Internal, text)
}

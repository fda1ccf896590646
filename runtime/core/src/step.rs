//! One thing that a flow does with a message.

use std::{pin::Pin, sync::Arc};

use crate::{
    acknowledgement::Lineage, clock::Clock, failure::Failure, message::Message, stopwatch::Stopwatch,
};

/// Which flow it is, and which version of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowFacts {
    /// The flow's id.
    pub id: Arc<str>,
    /// The version that handles the message.
    pub version: Arc<str>,
}

/// What a step is told besides the message.
#[derive(Debug, Clone, Copy)]
pub struct StepContext<'a> {
    /// The flow.
    pub flow: &'a FlowFacts,
    /// The step's place in the flow, e.g. `steps[1].choice.when[0].steps[2]`.
    pub step: &'a str,
    /// From 1, counting attempts of this step on this message.
    pub attempt: u32,
    /// Where a step leaves the reply. What the delivery owes is the engine's to settle.
    pub lineage: &'a Lineage,
    /// The time.
    pub clock: &'a Arc<dyn Clock>,
    /// How long things take. Was read when the step began; a step that reads it at its end spares the engine to do so.
    pub watch: &'a Stopwatch,
}

/// What became of the message.
#[derive(Debug)]
pub enum Next {
    /// It goes on, perhaps changed.
    Continue(Message),
    /// Several go on, each as a child with a fate of its own. Never empty.
    Emit(Vec<Message>),
    /// It ends here, on purpose; the text says why. Counts as delivered.
    Drop(String),
    /// It enters one of the step's branches, by index; what comes out of the branch goes on after the step.
    Enter(Message, usize),
    /// A copy enters each of these branches; when all are done, the message goes on after the step as it was.
    EnterAll(Message, Vec<usize>),
}

/// A step at work on a message. Most steps wait for nothing, and need no future.
pub enum Running<'a> {
    /// It is done already.
    Done(Result<Next, Failure>),
    /// It may have to wait. Can be dropped at any await.
    Waiting(Pin<Box<dyn Future<Output = Result<Next, Failure>> + Send + 'a>>),
}

/// One thing that a flow does with a message. Steps have no state that a message could leave behind in them.
pub trait Step: Send + Sync {
    /// Handles one message. May be called again with the same message after a failure. Fails with what went wrong, and with the
    /// decision whether to try again.
    fn run<'a>(&'a self, message: Message, context: StepContext<'a>) -> Running<'a>;
}

impl<'a> Running<'a> {
    /// What may have to wait.
    pub fn waiting(future: impl Future<Output = Result<Next, Failure>> + Send + 'a) -> Self {
        Self::Waiting(Box::pin(future))
    }
}

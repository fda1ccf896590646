//! What becomes of a message whose step has no attempt left: what its flow says about the failure, and what the log says.

use std::sync::Arc;

use gristmill_core::{Branch, ErrorClass, Failure, Message, Settlement, rate::LineRate, sink::Outgoing};
use tracing::Level;

use super::{
    delivery::Journey,
    version::{RunningThen, Version},
};
use crate::{
    dead_letter::{Envelope, Origin},
    expression::Scope,
};

/// How many of these endings a version writes to the log in a second: a sink that is down ends every message alike. The
/// metrics count them all.
pub(super) const LINES_PER_SECOND: u32 = 10;

/// By which a filter of the log finds these lines.
const TARGET: &str = "gristmill::flow";

/// A failure that no retry could mend.
pub(super) struct GivenUp<'a> {
    pub(super) failure: Failure,
    pub(super) attempts: u32,
    pub(super) message: Message,
    pub(super) step: &'a str,
    pub(super) plugin: Option<&'a str>,
}

/// Does with a message what its flow says about the failure.
pub(super) async fn give_up(journey: &Journey<'_>, given_up: GivenUp<'_>, branch: Branch) -> Settlement {
    let version = journey.version;
    let rule = version.rules.iter().find(|rule| rule.rule.matches(&given_up.failure));
    match rule.map(|rule| &rule.then) {
        Some(RunningThen::DeadLetter { checked, sink }) => {
            let now = version.clock.now();
            let origin = Origin {
                flow: &version.facts.id,
                version: &version.facts.version,
                endpoint: &version.origin,
                step: given_up.step,
                attempts: given_up.attempts,
                message: journey.original,
                child: (given_up.message.id() != journey.original.id()).then_some(&given_up.message),
            };
            let letter = Envelope::new(&origin, &given_up.failure, now).into_message(journey.original, now);
            let written = match letter {
                Ok(letter) => match checked.render(&Scope::new(&letter, &version.facts)) {
                    Ok(texts) => sink.send(Outgoing::new(&letter, &texts)).await,
                    Err(failure) => Err(failure),
                },
                Err(text) => Err(Failure::new(ErrorClass::Internal, text)),
            };
            match written {
                Ok(()) => {
                    given_up.say(version, Level::WARN, "dead-lettered");
                    branch.dead_lettered();
                    Settlement::Delivered
                }
                Err(unwritten) => {
                    let what = format!(
                        "released, because its dead letter cannot be written ({unwritten}); the failure was"
                    );
                    given_up.say(version, Level::ERROR, &what);
                    given_up.released(branch)
                }
            }
        }
        Some(RunningThen::Discard) => given_up.discard(version, branch),
        Some(RunningThen::Reject) => given_up.reject(version, branch),
        Some(RunningThen::Release) => given_up.release(version, branch),
        None if given_up.failure.is_retryable() => given_up.release(version, branch),
        None => given_up.reject(version, branch),
    }
}

impl GivenUp<'_> {
    fn discard(self, version: &Version, branch: Branch) -> Settlement {
        self.say(version, Level::WARN, "discarded");
        branch.delivered();
        Settlement::Delivered
    }

    fn reject(self, version: &Version, branch: Branch) -> Settlement {
        if version.discard_rejected {
            return self.discard(version, branch);
        }
        self.say(version, Level::WARN, "rejected");
        branch.rejected(Some(Arc::new(self.failure)));
        Settlement::Rejected
    }

    fn release(self, version: &Version, branch: Branch) -> Settlement {
        self.say(version, Level::WARN, "released");
        self.released(branch)
    }

    fn released(self, branch: Branch) -> Settlement {
        branch.released(Some(Arc::new(self.failure)));
        Settlement::Released
    }

    /// One line, unless there are too many.
    fn say(&self, version: &Version, level: Level, what: &str) {
        let (flow, facts) = (&*version.facts.id, &version.facts);
        let Some(dropped) = version.endings.admit() else { return };
        if dropped > 0 {
            tracing::warn!(
                target: TARGET, flow, version = &*facts.version,
                "{dropped} more messages ended without success and without a line here: no more than \
                 {LINES_PER_SECOND} a second are written"
            );
        }
        let Self { failure, attempts, message, step, plugin } = self;
        let (class, message_id) = (failure.class().name(), message.id().as_str());
        macro_rules! line {
            ($level:ident) => {
                tracing::event!(
                    target: TARGET, Level::$level, flow, version = &*facts.version, step, plugin, message_id, class,
                    attempts, "{what}: {}", failure.text()
                )
            };
        }
        // The level of an event must be known when it is compiled.
        match level {
            Level::ERROR => line!(ERROR),
            _ => line!(WARN),
        }
    }
}

/// A delivery that no step has given up, and that is given back to its source.
pub(super) fn say_released(version: &Version, message: &Message, failure: &Failure) {
    if version.endings.admit().is_none() {
        return;
    }
    tracing::warn!(
        target: TARGET, flow = &*version.facts.id, version = &*version.facts.version,
        message_id = message.id().as_str(), class = failure.class().name(), "released: {}", failure.text()
    );
}

/// For a version that begins.
pub(super) fn endings() -> LineRate {
    LineRate::new(LINES_PER_SECOND)
}

//! `on_error`: which failures are retried, how, and what becomes of the message in the end.

use std::{collections::BTreeSet, time::Duration};

use gristmill_core::{
    ErrorClass, Failure,
    adapter::SinkUse,
    config::{self, Mistake, Node},
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value as Json;

use super::{CheckedSinkUse, StepChecker};

/// One rule of `on_error`. The first rule that matches decides.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ErrorRuleConfig {
    /// The error classes it is for; `any` is all of them.
    #[schemars(length(min = 1))]
    r#match: Vec<MatchConfig>,
    /// How to try again, from the failed step, with the message as it was on entry to that step.
    #[serde(default)]
    retry: Option<RetryConfig>,
    /// What becomes of the message when it is not tried again.
    then: ThenConfig,
}

/// An error class, or all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(untagged)]
enum MatchConfig {
    /// Every class.
    Any(Any),
    /// One class.
    Class(ErrorClass),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Any {
    Any,
}

/// Exponential backoff with jitter.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct RetryConfig {
    /// How many attempts in all, the first one included.
    #[schemars(range(min = 1, max = 1_000_000))]
    max_attempts: u32,
    /// The wait before the second attempt, in milliseconds.
    #[schemars(range(min = 0, max = 3_600_000))]
    initial_delay_ms: u64,
    /// By how much each wait is longer than the one before.
    #[schemars(range(min = 1.0, max = 100.0))]
    multiplier: f64,
    /// The longest wait, in milliseconds.
    #[schemars(range(min = 0, max = 86_400_000))]
    max_delay_ms: u64,
    /// How much of each wait is left to chance: 0.2 makes it up to 20 % shorter or longer.
    #[schemars(range(min = 0.0, max = 1.0))]
    jitter: f64,
}

/// What becomes of the message.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum ThenConfig {
    /// It is written, in an envelope that says what happened, to this sink. Counts as delivered; when it cannot be written,
    /// the delivery is released.
    DeadLetter(
        #[allow(dead_code, reason = "read from the node, which knows the place of each value")]
        DeadLetterConfig,
    ),
    /// It is rejected: the source keeps it or tells its sender.
    Reject(Nothing),
    /// It is released: the source offers it again after `limits.release_delay_ms`.
    Release(Nothing),
    /// It is dropped, and counted. Counts as delivered.
    Discard(Nothing),
}

/// A sink: one key, the adapter's name; what stands under it is the adapter's.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(transparent)]
#[schemars(extend("x-sink" = true))]
struct DeadLetterConfig(
    #[allow(dead_code, reason = "read from the node, which knows the place of each value")] Json,
);

/// No settings.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Nothing {}

/// A rule that can be followed.
pub(crate) struct ErrorRule {
    any: bool,
    /// The classes that were written out.
    named: BTreeSet<ErrorClass>,
    /// How to try again, if at all.
    pub(crate) backoff: Option<Backoff>,
    /// What becomes of the message in the end.
    pub(crate) then: Then,
}

/// What becomes of a message in the end.
#[derive(Clone)]
pub(crate) enum Then {
    DeadLetter(CheckedSinkUse),
    Reject,
    Release,
    Discard,
}

/// Exponential backoff with jitter.
#[derive(Debug, Clone)]
pub(crate) struct Backoff {
    max_attempts: u32,
    initial: Duration,
    multiplier: f64,
    max: Duration,
    jitter: f64,
}

impl Default for RetryConfig {
    fn default() -> Self {
        Self { max_attempts: 5, initial_delay_ms: 100, multiplier: 2.0, max_delay_ms: 30_000, jitter: 0.2 }
    }
}

/// Checks the rules at `node`.
pub(super) fn check(node: &Node, checker: &mut StepChecker<'_>) -> Option<Vec<ErrorRule>> {
    let Some(list) = node.as_list() else {
        checker.mistake(
            "wrong_type",
            node,
            format!("`on_error` is a list of rules, and this is {}", node.kind()),
            "write `- match: [any]` with `then:`",
        );
        return None;
    };
    let mut rules: Option<Vec<ErrorRule>> = Some(Vec::new());
    let mut covered: BTreeSet<ErrorClass> = BTreeSet::new();
    for item in list {
        let Some(config) = config::parse::<ErrorRuleConfig>(item, checker.mistakes) else {
            if let Some(sink) = item.at(["then"]).get("dead_letter") {
                checker.sink(sink, SinkUse::DeadLetter);
            }
            rules = None;
            continue;
        };
        let any = config.r#match.iter().any(|m| matches!(m, MatchConfig::Any(_)));
        let named: BTreeSet<ErrorClass> = config
            .r#match
            .iter()
            .filter_map(|m| if let MatchConfig::Class(c) = m { Some(*c) } else { None })
            .collect();
        let classes: BTreeSet<ErrorClass> =
            if any { ErrorClass::ALL.into_iter().collect() } else { named.clone() };
        if classes.is_subset(&covered) {
            let text = "no failure comes here: the rules above match all that this one does";
            let mistake = Mistake::new("unreachable_rule", &item.at(["match"]).span, text);
            checker.mistakes.push(mistake.mend("move this rule up, or remove it"));
            rules = None;
        }
        covered.extend(&classes);
        let then_node = item.at(["then"]);
        let then = match config.then {
            ThenConfig::DeadLetter(_) => {
                checker.sink(then_node.at(["dead_letter"]), SinkUse::DeadLetter).map(Then::DeadLetter)
            }
            ThenConfig::Reject(_) => Some(Then::Reject),
            ThenConfig::Release(_) => Some(Then::Release),
            ThenConfig::Discard(_) => Some(Then::Discard),
        };
        match (then, &mut rules) {
            (Some(then), Some(rules)) => {
                rules.push(ErrorRule { any, named, backoff: config.retry.map(Backoff::from), then });
            }
            _ => rules = None,
        }
    }
    rules
}

impl ErrorRule {
    /// Whether this rule is for that failure.
    pub(crate) fn matches(&self, failure: &Failure) -> bool {
        (self.any || self.named.contains(&failure.class())) && !failure.class().spares_message()
    }

    /// Whether it never leads to a rejection.
    pub(super) fn keeps(&self) -> bool {
        !matches!(self.then, Then::Reject)
    }

    /// Whether it is for every class.
    pub(super) fn is_for_any(&self) -> bool {
        self.any
    }

    /// How long to wait before attempt `attempt + 1`, or `None` when there is to be none. A failure that says of itself
    /// that trying again cannot help is tried again only if its class was named.
    pub(crate) fn retry_after(&self, attempt: u32, failure: &Failure) -> Option<Duration> {
        let may_help = failure.is_retryable() || self.named.contains(&failure.class());
        let backoff = self.backoff.as_ref().filter(|_| may_help)?;
        backoff.wait(attempt, failure.wait_at_least())
    }
}

impl Backoff {
    fn wait(&self, attempt: u32, at_least: Option<Duration>) -> Option<Duration> {
        if attempt >= self.max_attempts {
            return None;
        }
        let exponent = i32::try_from(attempt.saturating_sub(1)).unwrap_or(i32::MAX);
        // Nothing grown without bound is no number.
        let grown = match self.initial.as_secs_f64() {
            0.0 => 0.0,
            initial => initial * self.multiplier.powi(exponent),
        };
        let capped = grown.min(self.max.as_secs_f64());
        let chance = 1.0 + self.jitter * (rand::random::<f64>() * 2.0 - 1.0);
        let wait = Duration::try_from_secs_f64((capped * chance).max(0.0)).unwrap_or(self.max).min(self.max);
        Some(wait.max(at_least.unwrap_or_default()))
    }
}

impl From<RetryConfig> for Backoff {
    fn from(config: RetryConfig) -> Self {
        Self {
            max_attempts: config.max_attempts,
            initial: Duration::from_millis(config.initial_delay_ms),
            multiplier: config.multiplier,
            max: Duration::from_millis(config.max_delay_ms),
            jitter: config.jitter,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn backoff(jitter: f64) -> Backoff {
        Backoff::from(RetryConfig { max_attempts: 6, jitter, max_delay_ms: 1_000, ..RetryConfig::default() })
    }

    #[test]
    fn waits_grow_to_the_longest_and_end_after_the_last_attempt() {
        let waits: Vec<_> = (1..=6).map(|n| backoff(0.0).wait(n, None).map(|d| d.as_millis())).collect();
        assert_eq!(waits, [Some(100), Some(200), Some(400), Some(800), Some(1_000), None]);
    }

    #[test]
    fn jitter_stays_within_its_share_and_a_sinks_own_wait_is_kept() {
        for _ in 0..1_000 {
            let wait = backoff(0.2).wait(1, None).unwrap().as_secs_f64();
            assert!((0.08..=0.12).contains(&wait), "{wait}");
        }
        let asked = Duration::from_secs(7);
        assert_eq!(backoff(0.2).wait(1, Some(asked)), Some(asked));
    }
}

//! The configuration as the flow file gives it, and its check.

use gristmill_json::{Number, Path, Value};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer};

use crate::{
    ContentRouter, Rule,
    condition::{Condition, Relation, Subject, Test},
};

/// Rules, and what becomes of a message that none applies to.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The rules, in order.
    #[schemars(length(min = 1))]
    rules: Vec<RawRule>,
    /// Which of the rules that apply count.
    #[serde(default)]
    mode: Mode,
    /// The route when no rule applies. Without it the message has no route, and the step needs an `otherwise`.
    default: Option<String>,
}

/// Which of the rules that apply count.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Mode {
    /// The first.
    #[default]
    FirstMatch,
    /// All, each route once, in the order of the rules.
    AllMatches,
}

/// A route and when to take it.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct RawRule {
    /// The name of the route.
    #[schemars(length(min = 1))]
    route: String,
    /// Conditions, all of which must hold.
    #[schemars(length(min = 1))]
    when: Vec<RawCondition>,
}

/// Looks at values of the body (`path`) or at a header, and asks one thing of them. It holds when any of the values passes. Null counts as no value.
/// Without a test: there is a value.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(extend("oneOf" = [{ "required": ["path"] }, { "required": ["header"] }]))]
struct RawCondition {
    /// JSONPath (RFC 9535) into the body, which then has to be JSON.
    path: Option<Path>,
    /// The name of a header.
    header: Option<String>,
    /// There is a value (`true`), or there is none (`false`).
    exists: Option<bool>,
    /// It is equal to this. Numbers are equal by value; headers are compared as text.
    #[serde(deserialize_with = "present")]
    #[schemars(with = "serde_json::Value")]
    equals: Option<serde_json::Value>,
    /// It is one of these.
    one_of: Option<Vec<serde_json::Value>>,
    /// It is none of these; a missing value is none of them.
    none_of: Option<Vec<serde_json::Value>>,
    /// Its text begins with this.
    starts_with: Option<String>,
    /// It is a number above this.
    above: Option<serde_json::Number>,
    /// It is a number not below this.
    at_least: Option<serde_json::Number>,
    /// It is a number below this.
    below: Option<serde_json::Number>,
    /// It is a number not above this.
    at_most: Option<serde_json::Number>,
}

/// Tells a written `null` from a key that is not there.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<serde_json::Value>, D::Error> {
    serde_json::Value::deserialize(deserializer).map(Some)
}

impl Config {
    pub(crate) fn check(self) -> Result<ContentRouter, String> {
        if self.rules.is_empty() {
            return Err("rules: there is none; a message needs a way to go".to_owned());
        }
        let rules = self.rules.into_iter().enumerate().map(|(i, rule)| rule.check(&format!("rules[{i}]")));
        Ok(ContentRouter {
            rules: rules.collect::<Result<_, _>>()?,
            first_only: self.mode == Mode::FirstMatch,
            default: self.default,
        })
    }
}

impl RawRule {
    fn check(self, place: &str) -> Result<Rule, String> {
        if self.when.is_empty() {
            return Err(format!(
                "{place}.when: no condition; for a route that is always taken use `default`"
            ));
        }
        let when =
            self.when.into_iter().enumerate().map(|(i, when)| when.check(&format!("{place}.when[{i}]")));
        Ok(Rule { route: self.route, when: when.collect::<Result<_, _>>()? })
    }
}

impl RawCondition {
    fn check(self, place: &str) -> Result<Condition, String> {
        let subject = match (self.path, self.header) {
            (Some(path), None) => Subject::Path(path),
            (None, Some(name)) => Subject::Header(name.to_ascii_lowercase()),
            _ => return Err(format!("{place}: give either path or header")),
        };
        let values = |values: Vec<serde_json::Value>| values.into_iter().map(Value::from).collect();
        let relation = |relation: Relation| {
            move |number: serde_json::Number| {
                let number = Number::from_text(number.to_string());
                number.map(|number| Test::Number(relation, number))
            }
        };
        let tests = [
            self.exists.map(Test::Exists),
            self.equals.map(|value| Test::OneOf(vec![Value::from(value)])),
            self.one_of.map(values).map(Test::OneOf),
            self.none_of.map(values).map(Test::NoneOf),
            self.starts_with.map(Test::StartsWith),
            self.above.and_then(relation(Relation::Above)),
            self.at_least.and_then(relation(Relation::AtLeast)),
            self.below.and_then(relation(Relation::Below)),
            self.at_most.and_then(relation(Relation::AtMost)),
        ];
        let mut tests = tests.into_iter().flatten();
        let test = tests.next().unwrap_or(Test::Exists(true));
        if tests.next().is_some() {
            return Err(format!(
                "{place}: one test each; for two, write two conditions on the same {}",
                subject.kind()
            ));
        }
        Ok(Condition { subject, test })
    }
}

impl Subject {
    fn kind(&self) -> &'static str {
        match self {
            Subject::Path(_) => "path",
            Subject::Header(_) => "header",
        }
    }
}

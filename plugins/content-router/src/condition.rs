//! One condition of a rule.

use std::{borrow::Cow, cmp::Ordering};

use gristmill_json::{Number, Path, Value};
use gristmill_plugin::Failure;

use crate::Candidate;

/// A condition, checked. It holds when any of the selected values passes the test.
#[derive(Debug)]
pub(crate) struct Condition {
    pub(crate) subject: Subject,
    pub(crate) test: Test,
}

/// Which values are tested.
#[derive(Debug)]
pub(crate) enum Subject {
    Path(Path),
    Header(String),
}

/// What is asked of a value.
#[derive(Debug)]
pub(crate) enum Test {
    /// There is one, and it is not null; or there is none.
    Exists(bool),
    /// It is one of these.
    OneOf(Vec<Value<'static>>),
    /// It is none of these; a missing value is none of them.
    NoneOf(Vec<Value<'static>>),
    /// Its text begins with this.
    StartsWith(String),
    /// It is a number and relates so to this one.
    Number(Relation, Number<'static>),
}

#[derive(Debug, Clone, Copy)]
pub(crate) enum Relation {
    Above,
    AtLeast,
    Below,
    AtMost,
}

impl Condition {
    pub(crate) fn holds(&self, candidate: &Candidate<'_>) -> Result<bool, Failure> {
        Ok(match &self.subject {
            Subject::Path(path) => {
                let body = candidate.body()?;
                self.test.holds(path.all(body).into_iter().map(Cow::Borrowed), false)
            }
            Subject::Header(name) => {
                let values = candidate.message.header_values(name);
                self.test.holds(values.map(|text| Cow::Owned(Value::string(text))), true)
            }
        })
    }
}

impl Test {
    /// `text` says that the values are text by nature, so that numbers among them are written as text.
    fn holds<'v, 'a: 'v>(&self, values: impl Iterator<Item = Cow<'v, Value<'a>>>, text: bool) -> bool {
        let mut values = values.filter(|value| !value.is_null());
        match self {
            Test::Exists(expected) => values.next().is_some() == *expected,
            Test::OneOf(expected) => {
                values.any(|value| expected.iter().any(|expected| same(expected, &value, text)))
            }
            Test::NoneOf(refused) => {
                !values.any(|value| refused.iter().any(|refused| same(refused, &value, text)))
            }
            Test::StartsWith(prefix) => {
                values.any(|value| value.as_text().is_some_and(|text| text.starts_with(prefix)))
            }
            Test::Number(relation, bound) => values.any(|value| {
                number(&value, text)
                    .and_then(|number| number.partial_cmp(bound))
                    .is_some_and(|order| relation.holds(order))
            }),
        }
    }
}

impl Relation {
    fn holds(self, order: Ordering) -> bool {
        match self {
            Relation::Above => order.is_gt(),
            Relation::AtLeast => order.is_ge(),
            Relation::Below => order.is_lt(),
            Relation::AtMost => order.is_le(),
        }
    }
}

fn same(expected: &Value<'_>, value: &Value<'_>, text: bool) -> bool {
    if text { expected.as_text() == value.as_text() } else { expected == value }
}

fn number(value: &Value<'_>, text: bool) -> Option<Number<'static>> {
    match value {
        Value::Number(number) => Some(number.clone().into_owned()),
        Value::String(digits) if text => Number::from_text(digits.trim().to_owned()),
        _ => None,
    }
}

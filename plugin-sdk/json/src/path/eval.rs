//! Runs a query over a tree. Order is that of RFC 9535: arrays by index, parents before what is in them.

use std::borrow::Cow;

use super::{
    ast::{Comparison, Logical, Operand, Pattern, Query, Segment, Selector, regex},
    position,
};
use crate::{Number, Value};

/// The nodes that a query selects.
pub(super) fn select<'v, 'a>(query: &Query, root: &'v Value<'a>) -> Vec<&'v Value<'a>> {
    run(query, root, root)
}

fn run<'v, 'a>(query: &Query, root: &'v Value<'a>, current: &'v Value<'a>) -> Vec<&'v Value<'a>> {
    let mut nodes = vec![if query.from_root { root } else { current }];
    for segment in &query.segments {
        let mut selected = Vec::new();
        for node in nodes {
            apply(segment, root, node, &mut selected);
        }
        nodes = selected;
    }
    nodes
}

fn apply<'v, 'a>(
    segment: &Segment,
    root: &'v Value<'a>,
    node: &'v Value<'a>,
    selected: &mut Vec<&'v Value<'a>>,
) {
    for selector in &segment.selectors {
        pick(selector, root, node, selected);
    }
    if segment.descendant {
        for child in children(node) {
            apply(segment, root, child, selected);
        }
    }
}

/// The items of an array or the members of an object.
fn children<'v, 'a>(node: &'v Value<'a>) -> impl Iterator<Item = &'v Value<'a>> {
    let (items, members) = match node {
        Value::Array(items) => (Some(items.iter()), None),
        Value::Object(object) => (None, Some(object.iter().map(|(_, value)| value))),
        _ => (None, None),
    };
    items.into_iter().flatten().chain(members.into_iter().flatten())
}

fn pick<'v, 'a>(
    selector: &Selector,
    root: &'v Value<'a>,
    node: &'v Value<'a>,
    selected: &mut Vec<&'v Value<'a>>,
) {
    match (selector, node) {
        (Selector::Name(name), Value::Object(object)) => selected.extend(object.get(name)),
        (Selector::Index(index), Value::Array(items)) => {
            selected.extend(position(*index, items.len()).and_then(|i| items.get(i)));
        }
        (Selector::Wildcard, node) => selected.extend(children(node)),
        (Selector::Slice { start, end, step }, Value::Array(items)) => {
            slice(items, *start, *end, *step, selected)
        }
        (Selector::Filter(filter), node) => {
            selected.extend(children(node).filter(|child| holds(filter, root, child)));
        }
        _ => {}
    }
}

/// Section 2.3.4.2 of RFC 9535.
fn slice<'v, 'a>(
    items: &'v [Value<'a>],
    start: Option<i64>,
    end: Option<i64>,
    step: i64,
    selected: &mut Vec<&'v Value<'a>>,
) {
    let Ok(length) = i64::try_from(items.len()) else { return };
    let normal = |i: i64| if i >= 0 { i } else { length + i };
    let mut take = |i: i64| selected.extend(usize::try_from(i).ok().and_then(|i| items.get(i)));
    if step > 0 {
        let mut i = normal(start.unwrap_or(0)).clamp(0, length);
        let upper = normal(end.unwrap_or(length)).clamp(0, length);
        while i < upper {
            take(i);
            i = i.saturating_add(step);
        }
    } else if step < 0 {
        let mut i = normal(start.unwrap_or(length - 1)).clamp(-1, length - 1);
        let lower = end.map_or(-1, |end| normal(end).clamp(-1, length - 1));
        while i > lower {
            take(i);
            i = i.saturating_add(step);
        }
    }
}

fn holds<'v, 'a>(logical: &Logical, root: &'v Value<'a>, current: &'v Value<'a>) -> bool {
    match logical {
        Logical::Or(terms) => terms.iter().any(|term| holds(term, root, current)),
        Logical::And(terms) => terms.iter().all(|term| holds(term, root, current)),
        Logical::Not(term) => !holds(term, root, current),
        Logical::Exists(query) => !run(query, root, current).is_empty(),
        Logical::Compare(left, comparison, right) => compare(
            value(left, root, current).as_deref(),
            *comparison,
            value(right, root, current).as_deref(),
        ),
        Logical::Matches { subject, pattern } => match value(subject, root, current).as_deref() {
            Some(Value::String(text)) => matches(text, pattern, root, current),
            _ => false,
        },
    }
}

fn matches(text: &str, pattern: &Pattern, root: &Value<'_>, current: &Value<'_>) -> bool {
    match pattern {
        Pattern::Compiled(regex) => regex.is_match(text),
        Pattern::Computed { pattern, whole } => match value(pattern, root, current).as_deref() {
            Some(Value::String(pattern)) => regex(pattern, *whole).is_some_and(|regex| regex.is_match(text)),
            _ => false,
        },
        Pattern::Never => false,
    }
}

/// Section 2.3.5.2.2 of RFC 9535; `None` is its "Nothing".
fn compare(left: Option<&Value<'_>>, comparison: Comparison, right: Option<&Value<'_>>) -> bool {
    match comparison {
        Comparison::Equal => left == right,
        Comparison::NotEqual => left != right,
        Comparison::Less => less(left, right),
        Comparison::Greater => less(right, left),
        Comparison::LessOrEqual => less(left, right) || left == right,
        Comparison::GreaterOrEqual => less(right, left) || left == right,
    }
}

fn less(left: Option<&Value<'_>>, right: Option<&Value<'_>>) -> bool {
    match (left, right) {
        (Some(Value::Number(left)), Some(Value::Number(right))) => left < right,
        (Some(Value::String(left)), Some(Value::String(right))) => left < right,
        _ => false,
    }
}

fn value<'v, 'a>(
    operand: &'v Operand,
    root: &'v Value<'a>,
    current: &'v Value<'a>,
) -> Option<Cow<'v, Value<'a>>> {
    let count = |length: usize| Some(Cow::Owned(Value::Number(Number::from(i64::try_from(length).ok()?))));
    match operand {
        Operand::Literal(literal) => Some(Cow::Borrowed(literal)),
        Operand::Query(query) | Operand::Value(query) => match run(query, root, current).as_slice() {
            [only] => Some(Cow::Borrowed(*only)),
            _ => None,
        },
        Operand::Count(query) => count(run(query, root, current).len()),
        Operand::Length(operand) => match value(operand, root, current)?.as_ref() {
            Value::String(text) => count(text.chars().count()),
            Value::Array(items) => count(items.len()),
            Value::Object(object) => count(object.len()),
            _ => None,
        },
    }
}

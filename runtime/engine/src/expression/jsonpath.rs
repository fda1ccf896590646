//! JSONPath (RFC 9535) over values. The crate `jsonpath-rust` reads the path; the walk is here, because it must be paid
//! for step by step: `$..*..*` over a hostile body visits more nodes than a machine can. Paths are literals, read when
//! the expression is compiled.

use std::cmp::Ordering;

use jsonpath_rust::parser::{
    errors::JsonPathError,
    model::{
        Comparable, Comparison as Compare, Filter, FilterAtom, FnArg, JpQuery, Literal, Segment, Selector,
        SingularQuery, SingularQuerySegment, Test, TestFunction,
    },
    parse_json_path,
};

use super::{
    budget::{Budget, MAX_PATTERN_BYTES},
    error::EvalError,
    operators::{Comparison, equal},
    value::Value,
};

/// How deep brackets may nest in a path. The parser tries its alternatives anew at each depth, so its time grows
/// exponentially with it.
const MAX_PATH_NESTING: usize = 8;

/// A path, read and checked.
#[derive(Debug)]
pub(crate) struct JsonPath {
    query: JpQuery,
}

/// The operand of a comparison in a filter: a value, or that there is none.
enum Operand<'a> {
    Borrowed(&'a Value),
    Owned(Value),
    Nothing,
}

/// What a walk carries along.
struct Walk<'a, 'b> {
    root: &'a Value,
    budget: &'b Budget,
}

// === impl JsonPath ===

impl JsonPath {
    /// Reads a path.
    ///
    /// # Errors
    /// Says what is wrong with it.
    pub(crate) fn compile(path: &str) -> Result<Self, String> {
        if path.len() > MAX_PATTERN_BYTES {
            return Err(format!("the path is longer than {MAX_PATTERN_BYTES} bytes"));
        }
        if nesting(path) > MAX_PATH_NESTING {
            return Err(format!("the path nests its brackets deeper than {MAX_PATH_NESTING}"));
        }
        let query = parse_json_path(path).map_err(|error| match error {
            JsonPathError::PestError(error) => {
                format!("the path is not JSONPath (RFC 9535): {}", error.variant.message())
            }
            other => format!("the path is not JSONPath (RFC 9535): {other}"),
        })?;
        check_segments(&query.segments)?;
        Ok(Self { query })
    }

    /// All that the path finds in `root`, in the order of RFC 9535.
    pub(crate) fn find(&self, root: &Value, budget: &Budget) -> Result<Vec<Value>, EvalError> {
        let walk = Walk { root, budget };
        let found = walk.segments(&self.query.segments, vec![root])?;
        budget.make(found.len() * size_of::<Value>())?;
        Ok(found.into_iter().cloned().collect())
    }
}

/// How deep the brackets of a path nest, quoted text left out.
fn nesting(path: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut quote = None;
    let mut chars = path.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') => {
                chars.next();
            }
            (Some(open), c) if c == open => quote = None,
            (Some(_), _) => {}
            (None, '\'' | '"') => quote = Some(c),
            (None, '(' | '[') => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            (None, ')' | ']') => depth = depth.saturating_sub(1),
            (None, _) => {}
        }
    }
    deepest
}

// What the parser reads but the walk does not do is refused when the path is compiled.

fn check_segments(segments: &[Segment]) -> Result<(), String> {
    segments.iter().try_for_each(|segment| match segment {
        Segment::Descendant(inner) => check_segments(std::slice::from_ref(inner)),
        Segment::Selector(selector) => check_selector(selector),
        Segment::Selectors(selectors) => selectors.iter().try_for_each(check_selector),
    })
}

fn check_selector(selector: &Selector) -> Result<(), String> {
    match selector {
        Selector::Filter(filter) => check_filter(filter),
        Selector::Name(_) | Selector::Wildcard | Selector::Index(_) | Selector::Slice(..) => Ok(()),
    }
}

fn check_filter(filter: &Filter) -> Result<(), String> {
    match filter {
        Filter::Or(filters) | Filter::And(filters) => filters.iter().try_for_each(check_filter),
        Filter::Atom(FilterAtom::Filter { expr, .. }) => check_filter(expr),
        Filter::Atom(FilterAtom::Test { expr, .. }) => match &**expr {
            Test::RelQuery(segments) => check_segments(segments),
            Test::AbsQuery(query) => check_segments(&query.segments),
            Test::Function(function) => Err(match &**function {
                TestFunction::Match(..) | TestFunction::Search(..) | TestFunction::Custom(..) => {
                    refusal(function)
                }
                _ => "a function in a JSONPath filter needs something to compare it with".to_owned(),
            }),
        },
        Filter::Atom(FilterAtom::Comparison(comparison)) => {
            let (left, right) = comparison.vals();
            check_comparable(left).and_then(|()| check_comparable(right))
        }
    }
}

fn check_comparable(comparable: &Comparable) -> Result<(), String> {
    match comparable {
        Comparable::Literal(_) | Comparable::SingularQuery(_) => Ok(()),
        Comparable::Function(function) => match function {
            TestFunction::Length(argument) => check_argument(argument),
            TestFunction::Count(argument) | TestFunction::Value(argument) => check_argument(argument),
            TestFunction::Match(..) | TestFunction::Search(..) | TestFunction::Custom(..) => {
                Err(refusal(function))
            }
        },
    }
}

fn check_argument(argument: &FnArg) -> Result<(), String> {
    match argument {
        FnArg::Literal(_) => Ok(()),
        FnArg::Test(test) => match &**test {
            Test::RelQuery(segments) => check_segments(segments),
            Test::AbsQuery(query) => check_segments(&query.segments),
            Test::Function(function) => Err(refusal(function)),
        },
        FnArg::Filter(_) => Err("a JSONPath function takes a path, not a condition".to_owned()),
    }
}

fn refusal(function: &TestFunction) -> String {
    let name = match function {
        TestFunction::Custom(name, _) => name,
        TestFunction::Length(_) => "length",
        TestFunction::Value(_) => "value",
        TestFunction::Count(_) => "count",
        TestFunction::Search(..) => "search",
        TestFunction::Match(..) => "match",
    };
    format!("`{name}` is not supported here in JSONPath: filter the result with `.filter(x, …)` instead")
}

// === impl Walk ===

impl<'a> Walk<'a, '_> {
    fn segments(&self, segments: &[Segment], from: Vec<&'a Value>) -> Result<Vec<&'a Value>, EvalError> {
        let mut nodes = from;
        for segment in segments {
            let mut found = Vec::new();
            match segment {
                Segment::Descendant(inner) => {
                    let mut all = Vec::new();
                    for node in nodes {
                        self.descend(node, &mut all)?;
                    }
                    found = self.segments(std::slice::from_ref(inner), all)?;
                }
                Segment::Selector(selector) => {
                    for node in nodes {
                        self.select(selector, node, &mut found)?;
                    }
                }
                Segment::Selectors(selectors) => {
                    for node in nodes {
                        for selector in selectors {
                            self.select(selector, node, &mut found)?;
                        }
                    }
                }
            }
            nodes = found;
        }
        Ok(nodes)
    }

    /// The node and all below it. Values nest no deeper than JSON may, so this recursion is bounded.
    fn descend(&self, node: &'a Value, all: &mut Vec<&'a Value>) -> Result<(), EvalError> {
        self.budget.steps(1)?;
        self.budget.make(size_of::<&Value>())?;
        all.push(node);
        match node {
            Value::List(items) => items.iter().try_for_each(|item| self.descend(item, all)),
            Value::Map(map) => map.values().try_for_each(|value| self.descend(value, all)),
            _ => Ok(()),
        }
    }

    fn select(
        &self,
        selector: &Selector,
        node: &'a Value,
        found: &mut Vec<&'a Value>,
    ) -> Result<(), EvalError> {
        self.budget.steps(1)?;
        match selector {
            Selector::Name(name) => {
                if let Value::Map(map) = node {
                    found.extend(map.get(name.as_str()));
                }
            }
            Selector::Index(index) => {
                if let Value::List(items) = node {
                    found.extend(element(items, *index));
                }
            }
            Selector::Wildcard => {
                found.extend(self.children(node)?);
            }
            Selector::Slice(start, end, step) => {
                if let Value::List(items) = node {
                    self.slice(items, *start, *end, step.unwrap_or(1), found)?;
                }
            }
            Selector::Filter(filter) => {
                for child in self.children(node)? {
                    if self.filter(filter, child)? {
                        found.push(child);
                    }
                }
            }
        }
        Ok(())
    }

    /// The elements of a list or the values of a map.
    fn children(&self, node: &'a Value) -> Result<Vec<&'a Value>, EvalError> {
        let count = match node {
            Value::List(items) => items.len(),
            Value::Map(map) => map.len(),
            _ => 0,
        };
        self.budget.steps(count as u64)?;
        self.budget.make(count * size_of::<&Value>())?;
        Ok(match node {
            Value::List(items) => items.iter().collect(),
            Value::Map(map) => map.values().collect(),
            _ => Vec::new(),
        })
    }

    /// RFC 9535, section 2.3.4.2.2.
    fn slice(
        &self,
        items: &'a [Value],
        start: Option<i64>,
        end: Option<i64>,
        step: i64,
        found: &mut Vec<&'a Value>,
    ) -> Result<(), EvalError> {
        let len = i64::try_from(items.len()).unwrap_or(i64::MAX);
        let from_end = |i: i64| if i < 0 { len.saturating_add(i) } else { i };
        let (mut at, stop) = match step.cmp(&0) {
            Ordering::Equal => return Ok(()),
            Ordering::Greater => {
                (from_end(start.unwrap_or(0)).clamp(0, len), from_end(end.unwrap_or(len)).clamp(0, len))
            }
            Ordering::Less => (
                from_end(start.unwrap_or(len - 1)).clamp(-1, len - 1),
                end.map_or(-1, |end| from_end(end).clamp(-1, len - 1)),
            ),
        };
        while (step > 0 && at < stop) || (step < 0 && at > stop) {
            self.budget.steps(1)?;
            self.budget.make(size_of::<&Value>())?;
            found.extend(usize::try_from(at).ok().and_then(|at| items.get(at)));
            at = at.saturating_add(step);
        }
        Ok(())
    }

    fn filter(&self, filter: &Filter, current: &'a Value) -> Result<bool, EvalError> {
        self.budget.steps(1)?;
        match filter {
            Filter::Or(filters) => {
                for filter in filters {
                    if self.filter(filter, current)? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Filter::And(filters) => {
                for filter in filters {
                    if !self.filter(filter, current)? {
                        return Ok(false);
                    }
                }
                Ok(true)
            }
            Filter::Atom(FilterAtom::Filter { expr, not }) => Ok(self.filter(expr, current)? != *not),
            Filter::Atom(FilterAtom::Test { expr, not }) => Ok(self.nodes(expr, current)?.is_empty() == *not),
            Filter::Atom(FilterAtom::Comparison(comparison)) => self.compare(comparison, current),
        }
    }

    /// The nodes that a test in a filter, or the argument of a function, is about.
    fn nodes(&self, test: &Test, current: &'a Value) -> Result<Vec<&'a Value>, EvalError> {
        match test {
            Test::RelQuery(segments) => self.segments(segments, vec![current]),
            Test::AbsQuery(query) => self.segments(&query.segments, vec![self.root]),
            Test::Function(_) => Ok(Vec::new()),
        }
    }

    /// RFC 9535, section 2.3.5.2.2: nothing equals nothing; only numbers and strings have an order.
    fn compare(&self, comparison: &Compare, current: &'a Value) -> Result<bool, EvalError> {
        let (left, right) = comparison.vals();
        let (left, right) = (self.operand(left, current)?, self.operand(right, current)?);
        let (left, right) = match (left.value(), right.value()) {
            (Some(left), Some(right)) => (left, right),
            (left, right) => {
                let both_nothing = left.is_none() && right.is_none();
                return Ok(match comparison {
                    Compare::Eq(..) | Compare::Gte(..) | Compare::Lte(..) => both_nothing,
                    Compare::Ne(..) => !both_nothing,
                    Compare::Gt(..) | Compare::Lt(..) => false,
                });
            }
        };
        let ordered = |comparison: Comparison| match comparison.apply(left, right, self.budget) {
            Err(EvalError::Unfit(_)) => Ok(false),
            other => other,
        };
        match comparison {
            Compare::Eq(..) => equal(left, right, self.budget),
            Compare::Ne(..) => Ok(!equal(left, right, self.budget)?),
            Compare::Gt(..) => ordered(Comparison::Greater),
            Compare::Lt(..) => ordered(Comparison::Less),
            Compare::Gte(..) => Ok(ordered(Comparison::Greater)? || equal(left, right, self.budget)?),
            Compare::Lte(..) => Ok(ordered(Comparison::Less)? || equal(left, right, self.budget)?),
        }
    }

    fn operand(&self, comparable: &Comparable, current: &'a Value) -> Result<Operand<'a>, EvalError> {
        self.budget.steps(1)?;
        Ok(match comparable {
            Comparable::Literal(literal) => Operand::Owned(literal_value(literal)),
            Comparable::SingularQuery(query) => {
                let (start, segments) = match query {
                    SingularQuery::Current(segments) => (current, segments),
                    SingularQuery::Root(segments) => (self.root, segments),
                };
                let found = segments.iter().try_fold(start, |node, segment| match (segment, node) {
                    (SingularQuerySegment::Name(name), Value::Map(map)) => map.get(name.as_str()),
                    (SingularQuerySegment::Index(index), Value::List(items)) => element(items, *index),
                    _ => None,
                });
                found.map_or(Operand::Nothing, Operand::Borrowed)
            }
            Comparable::Function(function) => self.function(function, current)?,
        })
    }

    /// RFC 9535, section 2.4.
    fn function(&self, function: &TestFunction, current: &'a Value) -> Result<Operand<'a>, EvalError> {
        let argument = |argument: &FnArg| -> Result<Vec<Operand<'a>>, EvalError> {
            match argument {
                FnArg::Literal(literal) => Ok(vec![Operand::Owned(literal_value(literal))]),
                FnArg::Test(test) => {
                    Ok(self.nodes(test, current)?.into_iter().map(Operand::Borrowed).collect())
                }
                FnArg::Filter(_) => Ok(Vec::new()),
            }
        };
        let int = |n: usize| Operand::Owned(Value::Int(i64::try_from(n).unwrap_or(i64::MAX)));
        let single = |nodes: Vec<Operand<'a>>| {
            let mut nodes = nodes.into_iter();
            match (nodes.next(), nodes.next()) {
                (Some(node), None) => node,
                _ => Operand::Nothing,
            }
        };
        Ok(match function {
            TestFunction::Count(of) => int(argument(of)?.len()),
            TestFunction::Value(of) => single(argument(of)?),
            TestFunction::Length(of) => {
                let of = single(argument(of)?);
                match of.value() {
                    Some(Value::String(text)) => {
                        self.budget.read(text.len())?;
                        int(text.chars().count())
                    }
                    Some(Value::List(items)) => int(items.len()),
                    Some(Value::Map(map)) => int(map.len()),
                    _ => Operand::Nothing,
                }
            }
            TestFunction::Match(..) | TestFunction::Search(..) | TestFunction::Custom(..) => Operand::Nothing,
        })
    }
}

impl Operand<'_> {
    fn value(&self) -> Option<&Value> {
        match self {
            Self::Borrowed(value) => Some(value),
            Self::Owned(value) => Some(value),
            Self::Nothing => None,
        }
    }
}

/// The element at `index`, counted from the end when it is negative.
fn element(items: &[Value], index: i64) -> Option<&Value> {
    let at = match usize::try_from(index) {
        Ok(at) => at,
        Err(_) => items.len().checked_sub(usize::try_from(index.unsigned_abs()).ok()?)?,
    };
    items.get(at)
}

fn literal_value(literal: &Literal) -> Value {
    match literal {
        Literal::Int(i) => Value::Int(*i),
        Literal::Float(d) => Value::Double(*d),
        Literal::String(text) => text.as_str().into(),
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Null => Value::Null,
    }
}

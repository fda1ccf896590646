//! JSONPath (RFC 9535) over [`Value`], by the library that the runtime's expressions use, with a short cut: a path such as
//! `$.a.b[0]` names a single place and is walked directly.

use std::{borrow::Cow, collections::HashSet, fmt};

use jsonpath_rust::{
    parser::{
        errors::JsonPathError,
        model::{JpQuery, Segment, Selector},
        parse_json_path,
    },
    query::{js_path_process, queryable::Queryable},
};
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{Number, Object, Value};

/// How long a path may be, in bytes.
const MAX_PATH_BYTES: usize = 1_024;

/// A compiled JSONPath. Deserializes from a string.
#[derive(Debug, Clone)]
pub struct Path {
    text: String,
    kind: Kind,
}

#[derive(Debug, Clone)]
enum Kind {
    /// Names at most one place.
    Singular(Vec<Step>),
    Query(JpQuery),
}

#[derive(Debug, Clone)]
enum Step {
    Name(String),
    /// From the end when negative.
    Index(i64),
}

/// Why a text is not JSONPath.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PathError(String);

impl fmt::Display for PathError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for PathError {}

/// A place in a tree: which child to take, from the root down. Valid as long as the tree is not changed above it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Location(Vec<usize>);

// === impl Path ===

impl Path {
    /// Compiles a path.
    ///
    /// # Errors
    /// When it is not JSONPath by RFC 9535; the text names the column.
    pub fn parse(text: &str) -> Result<Self, PathError> {
        if text.len() > MAX_PATH_BYTES {
            return Err(PathError(format!(
                "a JSONPath of {} bytes, {MAX_PATH_BYTES} are allowed",
                text.len()
            )));
        }
        let query = parse_json_path(text).map_err(|error| PathError(explain(text, &error)))?;
        let kind = singular(&query).map_or(Kind::Query(query), Kind::Singular);
        Ok(Path { text: text.to_owned(), kind })
    }

    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it can name one place at most: only names and indices.
    #[must_use]
    pub fn is_singular(&self) -> bool {
        matches!(self.kind, Kind::Singular(_))
    }

    /// The first value that it selects.
    #[must_use]
    pub fn first<'v, 'a>(&self, root: &'v Value<'a>) -> Option<&'v Value<'a>> {
        match &self.kind {
            Kind::Singular(steps) => walk(steps, root),
            Kind::Query(query) => run(query, root).into_iter().next(),
        }
    }

    /// Every value that it selects, in order.
    #[must_use]
    pub fn all<'v, 'a>(&self, root: &'v Value<'a>) -> Vec<&'v Value<'a>> {
        match &self.kind {
            Kind::Singular(steps) => walk(steps, root).into_iter().collect(),
            Kind::Query(query) => run(query, root),
        }
    }

    /// The places of the values that it selects, in the tree's order, each once.
    #[must_use]
    pub fn locations(&self, root: &Value<'_>) -> Vec<Location> {
        match &self.kind {
            Kind::Singular(steps) => locate(steps, root).into_iter().collect(),
            Kind::Query(query) => {
                // The library answers with references; which places they are is found by walking the tree once.
                let selected: HashSet<*const Value<'_>> =
                    run(query, root).into_iter().map(std::ptr::from_ref).collect();
                let mut found = Vec::with_capacity(selected.len());
                if !selected.is_empty() {
                    collect(root, &selected, &mut Vec::new(), &mut found);
                }
                found
            }
        }
    }
}

impl<'de> Deserialize<'de> for Path {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Path::parse(&String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

impl JsonSchema for Path {
    fn schema_name() -> Cow<'static, str> {
        "JSONPath".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^\\$", "maxLength": MAX_PATH_BYTES })
    }
}

/// The steps of a query that only has names and indices.
fn singular(query: &JpQuery) -> Option<Vec<Step>> {
    let step = |segment: &Segment| match segment {
        Segment::Selector(Selector::Name(name)) => Some(Step::Name(name.clone())),
        Segment::Selector(Selector::Index(index)) => Some(Step::Index(*index)),
        Segment::Selector(_) | Segment::Selectors(_) | Segment::Descendant(_) => None,
    };
    query.segments.iter().map(step).collect()
}

/// Where in an array an index of JSONPath points.
fn position(index: i64, length: usize) -> Option<usize> {
    match usize::try_from(index) {
        Ok(index) => Some(index).filter(|index| *index < length),
        Err(_) => usize::try_from(index.unsigned_abs()).ok().and_then(|back| length.checked_sub(back)),
    }
}

fn walk<'v, 'a>(steps: &[Step], root: &'v Value<'a>) -> Option<&'v Value<'a>> {
    steps.iter().try_fold(root, |value, step| match (step, value) {
        (Step::Name(name), Value::Object(object)) => object.get(name),
        (Step::Index(index), Value::Array(items)) => items.get(position(*index, items.len())?),
        _ => None,
    })
}

fn locate(steps: &[Step], root: &Value<'_>) -> Option<Location> {
    let mut at = root;
    let mut location = Vec::with_capacity(steps.len());
    for step in steps {
        let (child, next) = match (step, at) {
            (Step::Name(name), Value::Object(object)) => {
                object.iter().enumerate().find(|(_, (n, _))| n == name).map(|(i, (_, value))| (i, value))?
            }
            (Step::Index(index), Value::Array(items)) => {
                let i = position(*index, items.len())?;
                (i, items.get(i)?)
            }
            _ => return None,
        };
        location.push(child);
        at = next;
    }
    Some(Location(location))
}

fn run<'v, 'a>(query: &JpQuery, root: &'v Value<'a>) -> Vec<&'v Value<'a>> {
    // It can only fail when a query ends in a literal, which its grammar does not allow.
    js_path_process(query, root)
        .map(|found| found.into_iter().map(jsonpath_rust::query::QueryRef::val).collect())
        .unwrap_or_default()
}

fn collect(
    value: &Value<'_>,
    selected: &HashSet<*const Value<'_>>,
    here: &mut Vec<usize>,
    found: &mut Vec<Location>,
) {
    if selected.contains(&std::ptr::from_ref(value)) {
        found.push(Location(here.clone()));
    }
    let mut child = |i: usize, value: &Value<'_>| {
        here.push(i);
        collect(value, selected, here, found);
        here.pop();
    };
    match value {
        Value::Array(items) => items.iter().enumerate().for_each(|(i, item)| child(i, item)),
        Value::Object(object) => object.iter().enumerate().for_each(|(i, (_, value))| child(i, value)),
        _ => {}
    }
}

/// The library's errors draw the path over several lines; an operator's log needs one.
fn explain(text: &str, error: &JsonPathError) -> String {
    let drawing = error.to_string();
    let column = drawing
        .split_once("--> 1:")
        .and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next())
        .map(|column| format!(" at column {column}"))
        .unwrap_or_default();
    let mut text = format!("`{text}` is not JSONPath (RFC 9535){column}");
    if !drawing.contains('\n') {
        text.push_str(": ");
        text.push_str(&drawing);
    }
    text
}

// === impl Location ===

impl Location {
    /// The value at this place, to change it.
    pub fn get_mut<'v, 'a>(&self, root: &'v mut Value<'a>) -> Option<&'v mut Value<'a>> {
        self.0.iter().try_fold(root, |value, i| child_mut(value, *i))
    }

    /// Takes the value at this place out of its parent. Remove in descending order of locations, since what follows in
    /// the same parent moves up. The root itself cannot be removed.
    pub fn remove<'a>(&self, root: &mut Value<'a>) -> Option<Value<'a>> {
        let (last, parents) = self.0.split_last()?;
        let parent = parents.iter().try_fold(root, |value, i| child_mut(value, *i))?;
        match parent {
            Value::Array(items) if *last < items.len() => Some(items.remove(*last)),
            Value::Object(Object(members)) if *last < members.len() => Some(members.remove(*last).1),
            _ => None,
        }
    }

    /// Whether this is the whole document.
    #[must_use]
    pub fn is_root(&self) -> bool {
        self.0.is_empty()
    }
}

fn child_mut<'v, 'a>(value: &'v mut Value<'a>, i: usize) -> Option<&'v mut Value<'a>> {
    match value {
        Value::Array(items) => items.get_mut(i),
        Value::Object(Object(members)) => members.get_mut(i).map(|(_, value)| value),
        _ => None,
    }
}

// === impl Queryable ===

impl From<&str> for Value<'_> {
    fn from(text: &str) -> Self {
        Value::String(Cow::Owned(text.to_owned()))
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Value::String(Cow::Owned(text))
    }
}

impl From<bool> for Value<'_> {
    fn from(bool: bool) -> Self {
        Value::Bool(bool)
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Value::Number(Number::from(number))
    }
}

impl From<f64> for Value<'_> {
    /// Null when the number is not finite, as JSON has no such numbers.
    fn from(number: f64) -> Self {
        serde_json::Number::from_f64(number)
            .map_or(Value::Null, |number| Value::Number(Number(Cow::Owned(number.to_string()))))
    }
}

impl<'a> From<Vec<Value<'a>>> for Value<'a> {
    fn from(items: Vec<Value<'a>>) -> Self {
        Value::Array(items)
    }
}

impl Queryable for Value<'_> {
    fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Value::Object(object) => object.get(key),
            _ => None,
        }
    }

    fn as_array(&self) -> Option<&Vec<Self>> {
        match self {
            Value::Array(items) => Some(items),
            _ => None,
        }
    }

    fn as_object(&self) -> Option<Vec<(&str, &Self)>> {
        match self {
            Value::Object(object) => Some(object.iter().collect()),
            _ => None,
        }
    }

    fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    fn as_i64(&self) -> Option<i64> {
        match self {
            Value::Number(number) => number.as_i64(),
            _ => None,
        }
    }

    fn as_f64(&self) -> Option<f64> {
        match self {
            Value::Number(number) => number.as_f64(),
            _ => None,
        }
    }

    fn as_bool(&self) -> Option<bool> {
        match self {
            Value::Bool(bool) => Some(*bool),
            _ => None,
        }
    }

    fn null() -> Self {
        Value::Null
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse;

    const STORE: &str = r#"{"store":{"books":[{"title":"A","price":8.95},{"title":"B","price":12.99},{"title":"C","price":8.99}]}}"#;

    #[track_caller]
    fn check(json: &str, path: &str, expected: &[&str]) {
        let root = parse(json.as_bytes()).unwrap();
        let path = Path::parse(path).unwrap();
        let written = |value: &Value<'_>| String::from_utf8(value.to_vec()).unwrap();
        let found: Vec<String> = path.all(&root).into_iter().map(written).collect();
        assert_eq!(found, expected);
        assert_eq!(path.first(&root).map(written).as_deref(), expected.first().copied());
        let mut copy = root.clone();
        let places: Vec<String> = path
            .locations(&root)
            .into_iter()
            .map(|place| written(place.get_mut(&mut copy).unwrap()))
            .collect();
        let mut sorted = (places, found);
        sorted.0.sort();
        sorted.1.sort();
        assert_eq!(sorted.0, sorted.1, "locations and values differ");
    }

    #[test]
    fn singular_paths_are_walked() {
        check(STORE, "$.store.books[0].title", &["\"A\""]);
        check(STORE, "$['store']['books'][-1].title", &["\"C\""]);
        check(STORE, "$.store.books[3].title", &[]);
        check(STORE, "$.store.books[-4].title", &[]);
        check(STORE, "$.store.title", &[]);
        check("[1]", "$", &["[1]"]);
        check(r#"{"it's":1}"#, r"$['it\'s']", &["1"]);
        assert!(Path::parse("$.a[0]").unwrap().is_singular());
    }

    #[test]
    fn queries_are_run() {
        check(STORE, "$.store.books[*].title", &["\"A\"", "\"B\"", "\"C\""]);
        check(STORE, "$..title", &["\"A\"", "\"B\"", "\"C\""]);
        check(STORE, "$.store.books[?@.price < 9].title", &["\"A\"", "\"C\""]);
        check(STORE, "$.store.books[1:].price", &["12.99", "8.99"]);
        check(STORE, "$.store.books[?match(@.title, '[AB]')].title", &["\"A\"", "\"B\""]);
        assert!(!Path::parse("$.a[*]").unwrap().is_singular());
    }

    #[test]
    fn a_mistake_is_named_in_one_line() {
        let error = Path::parse("$.a[").unwrap_err().to_string();
        assert_eq!(error, "`$.a[` is not JSONPath (RFC 9535) at column 5");
        assert!(Path::parse("a").is_err());
        assert!(Path::parse("").is_err());
        assert!(Path::parse(&"$".repeat(2_000)).unwrap_err().to_string().contains("2000 bytes"));
    }

    #[test]
    fn places_are_removed_from_the_end() {
        let mut root = parse(br#"{"a":[1,2,3,4],"b":5}"#).unwrap();
        let mut places = Path::parse("$.a[?@ > 1 && @ < 4]").unwrap().locations(&root);
        places.sort();
        for place in places.into_iter().rev() {
            place.remove(&mut root);
        }
        assert_eq!(root.to_vec(), br#"{"a":[1,4],"b":5}"#);
        assert!(Path::parse("$").unwrap().locations(&root).iter().all(Location::is_root));
    }
}

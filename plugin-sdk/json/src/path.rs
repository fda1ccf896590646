//! JSONPath (RFC 9535) over [`Value`], with a short cut: a path such as `$.a.b[0]` names a single place and is walked directly.
//!
//! Own code and not the library of the runtime's expressions, for two reasons: that library brings a parser generator and a Unicode
//! regex engine, 1.3 MB in every guest, which the host compiles at each load; and it compares numbers as doubles, so that
//! a filter takes the order 9007199254740993 for its neighbour. The tests check that both give the same answers.

mod ast;
mod eval;
mod parse;

use std::{borrow::Cow, collections::HashSet, fmt};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de::Error as _};

use crate::{Object, Value};
use ast::{Query, Selector};

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
    Query(Query),
}

#[derive(Debug, Clone, PartialEq, Eq)]
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
        let query = parse::parse(text).map_err(|mistake| {
            let column = text.get(..mistake.at).unwrap_or(text).chars().count() + 1;
            PathError(format!("`{text}` is not JSONPath (RFC 9535): {} at column {column}", mistake.reason))
        })?;
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

    /// Whether both name the same single place, however they are written. False for queries.
    #[must_use]
    pub fn same_place(&self, other: &Path) -> bool {
        matches!((&self.kind, &other.kind), (Kind::Singular(this), Kind::Singular(that)) if this == that)
    }

    /// The first value that it selects.
    #[must_use]
    pub fn first<'v, 'a>(&self, root: &'v Value<'a>) -> Option<&'v Value<'a>> {
        match &self.kind {
            Kind::Singular(steps) => walk(steps, root),
            Kind::Query(query) => eval::select(query, root).into_iter().next(),
        }
    }

    /// Every value that it selects, in order.
    #[must_use]
    pub fn all<'v, 'a>(&self, root: &'v Value<'a>) -> Vec<&'v Value<'a>> {
        match &self.kind {
            Kind::Singular(steps) => walk(steps, root).into_iter().collect(),
            Kind::Query(query) => eval::select(query, root),
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
                    eval::select(query, root).into_iter().map(std::ptr::from_ref).collect();
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
fn singular(query: &Query) -> Option<Vec<Step>> {
    query.segments.iter().map(|segment| segment.singular().and_then(step)).collect()
}

fn step(selector: &Selector) -> Option<Step> {
    match selector {
        Selector::Name(name) => Some(Step::Name(name.clone())),
        Selector::Index(index) => Some(Step::Index(*index)),
        Selector::Wildcard | Selector::Slice { .. } | Selector::Filter(_) => None,
    }
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
    fn a_mistake_is_named_with_its_column() {
        let error = Path::parse("$.a[").unwrap_err().to_string();
        assert_eq!(
            error,
            "`$.a[` is not JSONPath (RFC 9535): expected a name in quotes, a number, `*`, `:` or `?` at column 5"
        );
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

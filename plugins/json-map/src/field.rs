//! One field of what comes out: where its value comes from and what is done with it.

use std::{borrow::Cow, collections::BTreeMap, fmt};

use gristmill_json::{Object, Path, Value};
use gristmill_plugin::Message;

use crate::{
    convert::{self, Type},
    template::Template,
};

/// A field, checked.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) when: Option<Condition>,
    pub(crate) source: Source,
    pub(crate) lookup: Option<BTreeMap<String, Value<'static>>>,
    pub(crate) to: Option<Type>,
    pub(crate) default: Option<Value<'static>>,
    pub(crate) required: bool,
}

/// Where a value comes from.
#[derive(Debug)]
pub(crate) enum Source {
    Path(Place),
    All(Place),
    Header(String),
    Constant(Value<'static>),
    Template(Template),
    Object(Vec<(String, Field)>),
    Each(Box<Each>),
    FirstOf(Vec<Field>),
}

/// A JSONPath and what its `$` is.
#[derive(Debug)]
pub(crate) struct Place {
    /// From the body, even inside `each`.
    pub(crate) from_root: bool,
    pub(crate) path: Path,
}

#[derive(Debug)]
pub(crate) struct Each {
    pub(crate) place: Place,
    pub(crate) item: Field,
}

#[derive(Debug)]
pub(crate) struct Condition {
    pub(crate) test: Test,
    pub(crate) equals: Option<Value<'static>>,
}

#[derive(Debug)]
pub(crate) enum Test {
    Path(Place),
    Header(String),
}

/// What a field is made from. `'v` is the parsed body, `'a` the message.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'v, 'a> {
    pub(crate) root: &'v Value<'a>,
    pub(crate) item: &'v Value<'a>,
    pub(crate) message: &'a Message,
}

/// Why a field cannot be made, with its place in what comes out.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Problem {
    /// Innermost first.
    place: Vec<String>,
    reason: String,
}

// === impl Field ===

impl Field {
    /// The field's value, or none when it is to be left out.
    pub(crate) fn value<'a>(&'a self, scope: Scope<'_, 'a>) -> Result<Option<Value<'a>>, Problem> {
        let holds = self.when.as_ref().is_none_or(|when| when.holds(scope));
        let found = if holds { self.source.value(scope)? } else { None };
        let found = found.filter(|value| !value.is_null()).and_then(|value| self.look_up(value));
        match (found, self.to) {
            (Some(value), Some(to)) => {
                let kind = value.kind();
                let converted = convert::convert(value, to);
                converted
                    .map(Some)
                    .ok_or_else(|| Problem::new(format!("{} holds {kind} that is not {to}", self.source)))
            }
            (Some(value), None) => Ok(Some(value)),
            (None, _) if self.required => {
                Err(Problem::new(format!("{} holds no value, which is required", self.source)))
            }
            (None, _) => Ok(self.default.clone()),
        }
    }

    fn look_up<'a>(&self, value: Value<'a>) -> Option<Value<'a>> {
        match &self.lookup {
            None => Some(value),
            Some(entries) => entries.get(&*convert::text(&value)).cloned(),
        }
    }
}

// === impl Source ===

impl Source {
    fn value<'a>(&'a self, scope: Scope<'_, 'a>) -> Result<Option<Value<'a>>, Problem> {
        match self {
            Source::Path(place) => Ok(place.first(scope).cloned()),
            Source::All(place) => Ok(Some(Value::Array(place.all(scope).into_iter().cloned().collect()))),
            Source::Header(name) => Ok(scope.message.header(name).map(Value::string)),
            Source::Constant(value) => Ok(Some(value.clone())),
            Source::Template(template) => Ok(template.fill(scope).map(Value::string)),
            Source::Object(fields) => {
                let object = object(fields, scope)?;
                Ok((!object.is_empty()).then_some(Value::Object(object)))
            }
            Source::Each(each) => {
                let mut items = Vec::new();
                for (i, item) in each.place.all(scope).into_iter().enumerate() {
                    let value = each
                        .item
                        .value(Scope { item, ..scope })
                        .map_err(|problem| problem.inside(format!("[{i}]")))?;
                    items.extend(value);
                }
                Ok(Some(Value::Array(items)))
            }
            Source::FirstOf(fields) => {
                for field in fields {
                    if let Some(value) = field.value(scope)? {
                        return Ok(Some(value));
                    }
                }
                Ok(None)
            }
        }
    }
}

/// The fields that have a value.
pub(crate) fn object<'a>(fields: &'a [(String, Field)], scope: Scope<'_, 'a>) -> Result<Object<'a>, Problem> {
    let mut object = Object::new();
    for (name, field) in fields {
        let value = field.value(scope).map_err(|problem| problem.inside(name.clone()))?;
        if let Some(value) = value {
            object.set(Cow::Borrowed(name.as_str()), value);
        }
    }
    Ok(object)
}

/// How many alternatives an error text names.
const MAX_NAMED: usize = 4;

impl Field {
    /// Whether its source has a name of its own.
    fn is_named(&self) -> bool {
        matches!(self.source, Source::Path(_) | Source::All(_) | Source::Header(_) | Source::Each(_))
    }
}

/// Names a source in an error text.
impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Path(place) | Source::All(place) => write!(f, "{place}"),
            Source::Header(name) => write!(f, "the header `{name}`"),
            Source::Constant(_) => f.write_str("the constant"),
            Source::Template(_) => f.write_str("the template"),
            Source::Object(_) => f.write_str("the object"),
            Source::Each(each) => write!(f, "{}", each.place),
            // Names that tell nothing, or too many of them, are only counted.
            Source::FirstOf(fields) if fields.len() > MAX_NAMED || !fields.iter().all(Field::is_named) => {
                write!(f, "`first_of`, with its {} alternatives,", fields.len())
            }
            Source::FirstOf(fields) => {
                f.write_str("the first of (")?;
                for (i, field) in fields.iter().enumerate() {
                    write!(f, "{}{}", if i > 0 { ", " } else { "" }, field.source)?;
                }
                f.write_str(")")
            }
        }
    }
}

// === impl Place ===

impl Place {
    fn start<'v, 'a>(&self, scope: Scope<'v, 'a>) -> &'v Value<'a> {
        if self.from_root { scope.root } else { scope.item }
    }

    pub(crate) fn first<'v, 'a>(&self, scope: Scope<'v, 'a>) -> Option<&'v Value<'a>> {
        self.path.first(self.start(scope))
    }

    fn all<'v, 'a>(&self, scope: Scope<'v, 'a>) -> Vec<&'v Value<'a>> {
        self.path.all(self.start(scope))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.path.as_str().strip_prefix('$') {
            Some(rest) if self.from_root => write!(f, "`$root{rest}`"),
            _ => write!(f, "`{}`", self.path.as_str()),
        }
    }
}

// === impl Condition ===

impl Condition {
    fn holds(&self, scope: Scope<'_, '_>) -> bool {
        match &self.test {
            Test::Path(place) => {
                let found = place.first(scope).filter(|value| !value.is_null());
                found.is_some_and(|value| self.equals.as_ref().is_none_or(|expected| expected == value))
            }
            Test::Header(name) => {
                let expected = self.equals.as_ref().map(convert::text);
                scope
                    .message
                    .header_values(name)
                    .any(|value| expected.as_ref().is_none_or(|expected| expected == value))
            }
        }
    }
}

// === impl Problem ===

impl Problem {
    pub(crate) fn new(reason: String) -> Self {
        Problem { place: Vec::new(), reason }
    }

    fn inside(mut self, name: String) -> Self {
        self.place.push(name);
        self
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.place.is_empty() {
            f.write_str("field `")?;
            for (i, part) in self.place.iter().rev().enumerate() {
                let dot = if i > 0 && !part.starts_with('[') { "." } else { "" };
                write!(f, "{dot}{part}")?;
            }
            f.write_str("`: ")?;
        }
        f.write_str(&self.reason)
    }
}

//! Values with their place in the file they were written in.

use std::sync::Arc;

/// A place in a file. Lines and columns start at 1 and count characters; offsets count bytes of the file's text.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Span {
    /// The file, as it was named to the runtime.
    pub file: Arc<str>,
    /// Line of the first character.
    pub line: usize,
    /// Column of the first character.
    pub column: usize,
    /// Byte offset of the first character.
    pub start: usize,
    /// Byte offset after the last character.
    pub end: usize,
}

/// A value with its place.
#[derive(Clone, PartialEq)]
pub struct Node {
    /// What was written.
    pub value: Value,
    /// Where.
    pub span: Span,
    /// How the value came to be, if it came, wholly or in part, from the environment or a file: it must never be shown.
    pub substitution: Option<Arc<Substitution>>,
}

/// A text into which values were put from the environment or a file, by its parts.
#[derive(Clone, PartialEq, Eq)]
pub struct Substitution {
    /// In the order of the text.
    pub parts: Vec<SubstitutedPart>,
}

/// A part of a text into which values were put.
#[derive(Clone, PartialEq, Eq)]
pub enum SubstitutedPart {
    /// As it was written.
    Written(String),
    /// What was put in.
    Value {
        /// What stood in its place: `${env:NAME}`.
        written: String,
        /// The value.
        value: String,
    },
}

/// What was written.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// Any other number.
    Float(f64),
    /// Text.
    String(String),
    /// A list.
    List(Vec<Node>),
    /// A map, in the order of the file. Keys are unique.
    Map(Vec<Entry>),
}

/// A key and its value.
#[derive(Clone, PartialEq)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// Where the key stands.
    pub key_span: Span,
    /// The value.
    pub value: Node,
}

// === impl Span ===

impl Span {
    /// For values that no file holds: the command line, a test.
    pub fn nowhere(what: &str) -> Self {
        Self { file: what.into(), line: 1, column: 1, start: 0, end: 0 }
    }
}

impl std::fmt::Display for Span {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}:{}", self.file, self.line, self.column)
    }
}

// === impl Node ===

impl Node {
    /// A node that no file holds.
    pub fn new(value: Value, span: Span) -> Self {
        Self { value, span, substitution: None }
    }

    /// From JSON, all at one place: for defaults and tests.
    pub fn from_json(json: &serde_json::Value, span: &Span) -> Self {
        use serde_json::Value as Json;
        let value = match json {
            Json::Null => Value::Null,
            Json::Bool(b) => Value::Bool(*b),
            Json::Number(n) => match (n.as_i64(), n.as_f64()) {
                (Some(i), _) => Value::Int(i),
                (None, Some(f)) => Value::Float(f),
                (None, None) => Value::String(n.to_string()),
            },
            Json::String(s) => Value::String(s.clone()),
            Json::Array(items) => Value::List(items.iter().map(|i| Self::from_json(i, span)).collect()),
            Json::Object(map) => Value::Map(
                map.iter()
                    .map(|(k, v)| Entry {
                        key: k.clone(),
                        key_span: span.clone(),
                        value: Self::from_json(v, span),
                    })
                    .collect(),
            ),
        };
        Self::new(value, span.clone())
    }

    /// Whether the value came, wholly or in part, from the environment or a file, and so must never be shown.
    pub fn is_substituted(&self) -> bool {
        self.substitution.is_some()
    }

    /// As JSON, with substituted values in clear: for checking and building, never for showing.
    pub fn to_json(&self) -> serde_json::Value {
        use serde_json::Value as Json;
        match &self.value {
            Value::Null => Json::Null,
            Value::Bool(b) => Json::Bool(*b),
            Value::Int(i) => Json::from(*i),
            Value::Float(f) => Json::from(*f),
            Value::String(s) => Json::String(s.clone()),
            Value::List(items) => Json::Array(items.iter().map(Self::to_json).collect()),
            Value::Map(entries) => {
                Json::Object(entries.iter().map(|e| (e.key.clone(), e.value.to_json())).collect())
            }
        }
    }

    /// The value of a key, if this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Node> {
        self.entries().iter().find(|e| e.key == key).map(|e| &e.value)
    }

    /// The entries, if this is a map; none otherwise.
    pub fn entries(&self) -> &[Entry] {
        match &self.value {
            Value::Map(entries) => entries,
            _ => &[],
        }
    }

    /// The text, if this is text.
    pub fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    /// The items, if this is a list.
    pub fn as_list(&self) -> Option<&[Node]> {
        match &self.value {
            Value::List(items) => Some(items),
            _ => None,
        }
    }

    /// The node at a path of keys and indices, or as much of the path as exists.
    pub fn at<'a>(&self, path: impl IntoIterator<Item = &'a str>) -> &Node {
        let mut here = self;
        for part in path {
            let next = match &here.value {
                Value::List(items) => part.parse::<usize>().ok().and_then(|i| items.get(i)),
                _ => here.get(part),
            };
            match next {
                Some(next) => here = next,
                None => break,
            }
        }
        here
    }

    /// What kind of value this is, in the words of an error message.
    pub fn kind(&self) -> &'static str {
        match self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "true or false",
            Value::Int(_) => "a whole number",
            Value::Float(_) => "a number",
            Value::String(_) => "text",
            Value::List(ref items) if items.is_empty() => "an empty list",
            Value::List(_) => "a list",
            Value::Map(ref entries) if entries.is_empty() => "an empty map",
            Value::Map(_) => "a map",
        }
    }
}

// === impl Substitution ===

impl Substitution {
    /// The text as it was written: what may be shown.
    pub fn written(&self) -> String {
        self.parts.iter().map(SubstitutedPart::written).collect()
    }

    /// The text with its values.
    pub fn resolved(&self) -> String {
        self.parts.iter().map(SubstitutedPart::resolved).collect()
    }

    /// The text with what was put in struck out: for a text that is made to be shown.
    pub fn redacted(&self) -> String {
        let parts = self.parts.iter().map(|part| match part {
            SubstitutedPart::Written(text) => text.as_str(),
            SubstitutedPart::Value { .. } => "[redacted]",
        });
        parts.collect()
    }

    /// What was put in.
    pub fn values(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(|part| match part {
            SubstitutedPart::Written(_) => None,
            SubstitutedPart::Value { value, .. } => Some(value.as_str()),
        })
    }
}

/// Shows what was written.
impl std::fmt::Debug for Substitution {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Substitution").field(&self.written()).finish()
    }
}

impl SubstitutedPart {
    /// What stands in the file.
    pub fn written(&self) -> &str {
        match self {
            Self::Written(text) => text,
            Self::Value { written, .. } => written,
        }
    }

    /// What it stands for.
    pub fn resolved(&self) -> &str {
        match self {
            Self::Written(text) => text,
            Self::Value { value, .. } => value,
        }
    }
}

/// Shows what was written.
impl std::fmt::Debug for SubstitutedPart {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", self.written())
    }
}

/// Shows no substituted value.
impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_substituted() {
            return f.write_str("\"[redacted]\"");
        }
        match &self.value {
            Value::Null => f.write_str("null"),
            Value::Bool(b) => write!(f, "{b}"),
            Value::Int(i) => write!(f, "{i}"),
            Value::Float(x) => write!(f, "{x}"),
            Value::String(s) => write!(f, "{s:?}"),
            Value::List(items) => f.debug_list().entries(items).finish(),
            Value::Map(entries) => f.debug_map().entries(entries.iter().map(|e| (&e.key, &e.value))).finish(),
        }
    }
}

//! An expression as it is evaluated: names are resolved, functions are found, literals are compiled. Made by
//! [`super::compile`], walked by [`super::evaluate`].

use std::{fmt::Write as _, sync::Arc};

use super::{
    error::shorten,
    functions::Function,
    jsonpath::JsonPath,
    operators::{Arithmetic, Comparison},
    pattern::Pattern,
    value::{Kind, Value},
};

/// A part of an expression.
#[derive(Debug)]
pub(crate) enum Node {
    Constant(Value),
    /// The body, parsed.
    Body,
    /// The first header of that name, which is in lower case.
    Header(Arc<str>),
    /// The first header of the name that the node gives.
    HeaderNamedBy(Box<Node>),
    /// Whether there is a header of that name.
    HasHeader(Arc<str>),
    /// Whether there is a header of the name that the node gives.
    HasHeaderNamedBy(Box<Node>),
    /// All headers, as a map.
    Headers,
    Message(MessageField),
    Flow(FlowField),
    /// A variable of a comprehension.
    Local {
        slot: usize,
        name: Arc<str>,
    },
    /// Keys and indices, one into the other: walked by reference, so that nothing on the way is copied.
    Path {
        root: Box<Node>,
        steps: Vec<Step>,
    },
    /// Whether the path leads to a value.
    Has {
        root: Box<Node>,
        steps: Vec<Step>,
    },
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Not(Box<Node>),
    Negate(Box<Node>),
    Conditional {
        condition: Box<Node>,
        then: Box<Node>,
        otherwise: Box<Node>,
    },
    Arithmetic(Arithmetic, Box<Node>, Box<Node>),
    Compare(Comparison, Box<Node>, Box<Node>),
    Equal {
        left: Box<Node>,
        right: Box<Node>,
        negated: bool,
    },
    In(Box<Node>, Box<Node>),
    Call(&'static Function, Vec<Node>),
    Matches(Box<Node>, Arc<Pattern>),
    JsonPath(Box<Node>, Arc<JsonPath>),
    Strftime(Box<Node>, Arc<str>),
    Comprehension {
        range: Box<Node>,
        slot: usize,
        what: Comprehension,
    },
}

/// One step of a path.
#[derive(Debug)]
pub(crate) enum Step {
    Field(Arc<str>),
    Index(Node),
}

/// What a comprehension does with each element.
#[derive(Debug)]
pub(crate) enum Comprehension {
    All(Box<Node>),
    Exists(Box<Node>),
    ExistsOne(Box<Node>),
    Filter(Box<Node>),
    Map { guard: Option<Box<Node>>, to: Box<Node> },
}

/// A field of `message`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessageField {
    Id,
    Timestamp,
    TimestampMs,
    ContentType,
    Size,
    Text,
}

/// A field of `flow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FlowField {
    Id,
    Version,
}

// === impl Node ===

impl Node {
    /// Whether the value is no bool, whatever the message.
    pub(crate) fn is_never_bool(&self) -> bool {
        match self {
            Self::Negate(_) | Self::Arithmetic(..) => true,
            Self::Conditional { then, otherwise, .. } => then.is_never_bool() && otherwise.is_never_bool(),
            _ => self.kind().is_some_and(|kind| kind != Kind::Bool),
        }
    }

    /// The type of the value, where it is the same for every message.
    pub(crate) fn kind(&self) -> Option<Kind> {
        match self {
            Self::Constant(value) => Some(value.kind()),
            Self::Header(_) | Self::HeaderNamedBy(_) | Self::Flow(_) | Self::Strftime(..) => {
                Some(Kind::String)
            }
            Self::HasHeader(_)
            | Self::HasHeaderNamedBy(_)
            | Self::Has { .. }
            | Self::And(..)
            | Self::Or(..)
            | Self::Not(_)
            | Self::Compare(..)
            | Self::Equal { .. }
            | Self::In(..)
            | Self::Matches(..) => Some(Kind::Bool),
            Self::Headers | Self::Map(_) => Some(Kind::Map),
            Self::Message(field) => Some(field.kind()),
            Self::List(_) | Self::JsonPath(..) => Some(Kind::List),
            Self::Call(function, _) => function.result,
            Self::Comprehension { what, .. } => Some(match what {
                Comprehension::All(_) | Comprehension::Exists(_) | Comprehension::ExistsOne(_) => Kind::Bool,
                Comprehension::Filter(_) | Comprehension::Map { .. } => Kind::List,
            }),
            Self::Conditional { then, otherwise, .. } => {
                then.kind().filter(|kind| otherwise.kind() == Some(*kind))
            }
            Self::Body | Self::Local { .. } | Self::Path { .. } | Self::Negate(_) | Self::Arithmetic(..) => {
                None
            }
        }
    }
}

/// A path as it is written, for error texts: `body.items[0].total`.
pub(crate) fn describe(root: &Node, steps: &[Step]) -> String {
    let mut text = match root {
        Node::Body => "body".to_owned(),
        Node::Local { name, .. } => name.to_string(),
        Node::Headers => "headers".to_owned(),
        _ => "the value".to_owned(),
    };
    for step in steps {
        // Writing to a string does not fail.
        let _ = match step {
            Step::Field(name) => write!(text, ".{name}"),
            Step::Index(Node::Constant(Value::String(key))) => write!(text, "[\"{key}\"]"),
            Step::Index(Node::Constant(Value::Int(index))) => write!(text, "[{index}]"),
            Step::Index(_) => write!(text, "[…]"),
        };
    }
    shorten(&text)
}

// === impl MessageField ===

impl MessageField {
    /// Every field with its name.
    pub(crate) const ALL: [(&str, Self); 6] = [
        ("id", Self::Id),
        ("timestamp", Self::Timestamp),
        ("timestamp_ms", Self::TimestampMs),
        ("content_type", Self::ContentType),
        ("size", Self::Size),
        ("text", Self::Text),
    ];

    const fn kind(self) -> Kind {
        match self {
            Self::Id | Self::ContentType | Self::Text => Kind::String,
            Self::Timestamp => Kind::Timestamp,
            Self::TimestampMs | Self::Size => Kind::Int,
        }
    }
}

// === impl FlowField ===

impl FlowField {
    /// Every field with its name.
    pub(crate) const ALL: [(&str, Self); 2] = [("id", Self::Id), ("version", Self::Version)];
}

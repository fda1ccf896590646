//! What a JSONPath query is made of, by the grammar of RFC 9535, already checked for its types (section 2.4.3).

use regex_lite::Regex;

use crate::Value;

/// Segments applied one after the other, from the root (`$`) or, inside a filter, from the current node (`@`).
#[derive(Debug, Clone)]
pub(super) struct Query {
    pub(super) from_root: bool,
    pub(super) segments: Vec<Segment>,
}

#[derive(Debug, Clone)]
pub(super) struct Segment {
    /// `..`: applied to the node and everything below it.
    pub(super) descendant: bool,
    pub(super) selectors: Vec<Selector>,
}

#[derive(Debug, Clone)]
pub(super) enum Selector {
    Name(String),
    /// From the end when negative.
    Index(i64),
    Wildcard,
    Slice {
        start: Option<i64>,
        end: Option<i64>,
        step: i64,
    },
    Filter(Logical),
}

/// What is true or false of a node.
#[derive(Debug, Clone)]
pub(super) enum Logical {
    Or(Vec<Logical>),
    And(Vec<Logical>),
    Not(Box<Logical>),
    Compare(Operand, Comparison, Operand),
    /// The query selects something.
    Exists(Query),
    /// The functions `match` (the whole string) and `search` (somewhere in it).
    Matches {
        subject: Operand,
        pattern: Pattern,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

/// What gives one value, or nothing.
#[derive(Debug, Clone)]
pub(super) enum Operand {
    Literal(Value<'static>),
    /// A singular query.
    Query(Query),
    /// `length()`: of a string in characters, of an array or object in members.
    Length(Box<Operand>),
    /// `count()`: how many nodes.
    Count(Query),
    /// `value()`: the value of a single node.
    Value(Query),
}

/// A regular expression (RFC 9485). A literal one is compiled once; one that comes from the data, each time.
#[derive(Debug, Clone)]
pub(super) enum Pattern {
    Compiled(Regex),
    Computed {
        pattern: Operand,
        whole: bool,
    },
    /// A literal that is no regular expression: never matches, as RFC 9535 says.
    Never,
}

impl Segment {
    /// Its selector, if it names at most one child.
    pub(super) fn singular(&self) -> Option<&Selector> {
        match self.selectors.as_slice() {
            [selector @ (Selector::Name(_) | Selector::Index(_))] if !self.descendant => Some(selector),
            _ => None,
        }
    }
}

impl Query {
    pub(super) fn is_singular(&self) -> bool {
        self.segments.iter().all(|segment| segment.singular().is_some())
    }
}

impl Pattern {
    /// Compiles an I-Regexp, or says that it never matches.
    pub(super) fn compile(pattern: &str, whole: bool) -> Pattern {
        regex(pattern, whole).map_or(Pattern::Never, Pattern::Compiled)
    }
}

/// Translates an I-Regexp (RFC 9485): its dot matches neither line feed nor carriage return.
pub(super) fn regex(pattern: &str, whole: bool) -> Option<Regex> {
    let mut translated = String::with_capacity(pattern.len() + 8);
    translated.push_str(if whole { "^(?:" } else { "(?:" });
    let mut in_class = false;
    let mut characters = pattern.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                translated.push('\\');
                translated.extend(characters.next());
                continue;
            }
            '[' => in_class = true,
            ']' => in_class = false,
            '.' if !in_class => {
                translated.push_str("[^\\n\\r]");
                continue;
            }
            _ => {}
        }
        translated.push(character);
    }
    translated.push_str(if whole { ")$" } else { ")" });
    Regex::new(&translated).ok()
}

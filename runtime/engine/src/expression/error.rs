//! The two moments at which an expression can be wrong: when it is compiled, which the engineer sees with its place in
//! the flow file, and when it is evaluated, which becomes the failure of one message.

use std::{fmt, ops::Range};

use gristmill_core::{
    ErrorClass, Failure,
    config::{Mistake, Span},
};

/// How much of an expression's text a failure shows, in characters.
const SHOWN_CHARS: usize = 80;

/// Why a text is not an expression or a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CompileError {
    /// What is wrong, in one sentence without the place.
    pub text: String,
    /// The bytes of the text that are wrong, when that is known.
    pub range: Option<Range<usize>>,
    /// What to do about it.
    pub mend: Option<String>,
    /// The same place counted in characters, for the column in the flow file.
    range_chars: Option<Range<usize>>,
    /// How long the whole text is, in bytes.
    text_bytes: usize,
    /// Whether the text goes over several lines, so that a column cannot be told from an offset.
    multiline: bool,
}

/// Why an evaluation ended without a value.
#[derive(Debug)]
pub(crate) enum EvalError {
    /// The expression does not fit the message: a missing key, a wrong type. `&&`, `||`, `all` and `exists` go on when
    /// another operand settles the result.
    Unfit(String),
    /// The message's body could not be read. Settled by other operands like [`EvalError::Unfit`].
    Body(Failure),
    /// The budget is used up. Nothing settles this: the evaluation ends.
    Limit(String),
}

// === impl CompileError ===

impl CompileError {
    /// A mistake somewhere in `source`.
    pub(crate) fn new(source: &str, text: impl Into<String>) -> Self {
        Self {
            text: text.into(),
            range: None,
            mend: None,
            range_chars: None,
            text_bytes: source.len(),
            multiline: source.contains('\n'),
        }
    }

    /// The same, at these bytes of `source`. A range that does not lie on characters is widened to them.
    pub(crate) fn at(mut self, source: &str, range: Range<usize>) -> Self {
        let start = floor_char(source, range.start);
        let end = ceil_char(source, range.end.max(start));
        let chars = |to: usize| source.get(..to).unwrap_or_default().chars().count();
        self.range_chars = Some(chars(start)..chars(end));
        self.range = Some(start..end);
        self
    }

    /// The same with the mend.
    pub(crate) fn mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }

    /// The same mistake seen from `source`, in which the text that was compiled starts at the byte `offset`.
    pub(crate) fn within(mut self, source: &str, offset: usize) -> Self {
        self.text_bytes = source.len();
        self.multiline = source.contains('\n');
        match self.range.take() {
            Some(range) => self.at(source, range.start + offset..range.end + offset),
            None => self,
        }
    }

    /// The same mistake without its place: the text that was compiled is not the one in the file.
    pub(crate) fn nowhere(mut self) -> Self {
        self.range = None;
        self.range_chars = None;
        self
    }

    /// As a mistake in a flow file, where `span` is the place of the whole text. Narrowed to the wrong part when the
    /// text stands in the file as it is, in quotes or not; else the place of the whole text.
    pub fn to_mistake(&self, code: &'static str, span: &Span) -> Mistake {
        let written = span.end.saturating_sub(span.start);
        let quotes = match written.checked_sub(self.text_bytes) {
            Some(0) => Some(0),
            Some(2) => Some(1),
            _ => None,
        };
        let narrowed = match (quotes, &self.range, &self.range_chars) {
            (Some(quotes), Some(bytes), Some(chars)) if !self.multiline => Span {
                file: span.file.clone(),
                line: span.line,
                column: span.column + quotes + chars.start,
                start: span.start + quotes + bytes.start,
                end: (span.start + quotes + bytes.end).min(span.end),
            },
            _ => span.clone(),
        };
        let mistake = Mistake::new(code, &narrowed, self.text.clone());
        match &self.mend {
            Some(mend) => mistake.mend(mend.clone()),
            None => mistake,
        }
    }
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)?;
        if let Some(range) = &self.range_chars {
            write!(f, " (at character {})", range.start + 1)?;
        }
        match &self.mend {
            Some(mend) => write!(f, ": {mend}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for CompileError {}

/// The nearest character boundary at or below.
fn floor_char(source: &str, at: usize) -> usize {
    let mut at = at.min(source.len());
    while !source.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// The nearest character boundary at or above.
fn ceil_char(source: &str, at: usize) -> usize {
    let mut at = at.min(source.len());
    while !source.is_char_boundary(at) {
        at += 1;
    }
    at
}

// === impl EvalError ===

impl EvalError {
    /// An expression that does not fit the message.
    pub(crate) fn unfit(text: impl Into<String>) -> Self {
        Self::Unfit(text.into())
    }

    /// Whether another operand of `&&`, `||`, `all` or `exists` may settle the result in spite of this.
    pub(crate) fn can_be_settled(&self) -> bool {
        !matches!(self, Self::Limit(_))
    }

    /// As the failure of a message, naming the expression.
    pub(crate) fn into_failure(self, expression: &str) -> Failure {
        let named = |text: &str| format!("expression `{}`: {text}", shorten(expression));
        match self {
            Self::Unfit(text) => Failure::new(ErrorClass::Expression, named(&text)),
            Self::Body(failure) => Failure::new(failure.class(), named(failure.text())),
            Self::Limit(text) => Failure::new(ErrorClass::Limit, named(&text)),
        }
    }
}

/// On one line, without control characters, and not longer than what a person reads in a log.
pub(crate) fn shorten(text: &str) -> String {
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut short: String = chars.by_ref().take(SHOWN_CHARS).collect();
    if chars.next().is_some() {
        short.pop();
        short.push('…');
    }
    short
}

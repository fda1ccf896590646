//! Texts with `${…}`: file names, URLs, routing keys, header values. What stands between the braces is an expression;
//! `$${` stands for the characters `${`.

use std::{fmt, sync::Arc};

use gristmill_core::{
    ErrorClass, Failure,
    config::{Piece, split_expressions},
};

use super::{
    CompileError, Expression, Scope,
    budget::{MAX_RENDERED_BYTES, MAX_TEXT_BYTES},
    error::shorten,
    evaluate::Evaluation,
};

/// A compiled text with `${…}`. Cheap to clone.
#[derive(Clone)]
pub struct Template {
    /// What may be shown.
    text: Arc<str>,
    parts: Arc<[Part]>,
}

enum Part {
    Literal(Box<str>),
    Expression(Expression),
}

// === impl Template ===

impl Template {
    /// Compiles a text.
    ///
    /// # Errors
    /// A `${` that is not closed, a text above [`MAX_TEXT_BYTES`], and those of [`Expression::compile`] for each expression,
    /// with their place in the whole text.
    pub fn compile(text: &str) -> Result<Self, Vec<CompileError>> {
        if text.len() > MAX_TEXT_BYTES {
            let error = CompileError::new(text, format!("the text is longer than {MAX_TEXT_BYTES} bytes"));
            return Err(vec![error.mend("shorten it, or make it in a plugin")]);
        }
        let mut errors = Vec::new();
        let pieces = split_expressions(text).unwrap_or_else(|| {
            let open = unclosed(text);
            let error = CompileError::new(text, "this `${` is not closed").at(text, open..open + 2);
            errors.push(error.mend("close it with `}`, or write `$${` for the characters `${`"));
            split_expressions(text.get(..open).unwrap_or_default()).unwrap_or_default()
        });
        let mut parts = Vec::with_capacity(pieces.len());
        let mut at = 0;
        for piece in pieces {
            match piece {
                Piece::Literal(written) => {
                    parts.push(Part::Literal(written.replace("$${", "${").into()));
                    at += written.len();
                }
                Piece::Expression(written) => {
                    let inside = written.strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
                    match placeholder(inside.unwrap_or_default()) {
                        Ok(expression) => parts.push(Part::Expression(expression)),
                        Err(error) => errors.push(error.within(text, at + 2)),
                    }
                    at += written.len();
                }
            }
        }
        if errors.is_empty() { Ok(Self { text: text.into(), parts: parts.into() }) } else { Err(errors) }
    }

    /// The same, of which only this text may be seen: values from outside were put into it.
    #[must_use]
    pub fn shown_as(self, text: impl Into<Arc<str>>) -> Self {
        Self { text: text.into(), ..self }
    }

    /// The text as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the text is the same for every message.
    pub fn is_literal(&self) -> bool {
        self.as_literal().is_some()
    }

    /// The text, when it is the same for every message.
    pub fn as_literal(&self) -> Option<&str> {
        match &*self.parts {
            [] => Some(""),
            [Part::Literal(literal)] => Some(literal),
            _ => None,
        }
    }

    /// The text for a message. All its expressions share one budget.
    ///
    /// # Errors
    /// Those of [`Expression::evaluate_string`], and class `limit` when the text grows above [`MAX_RENDERED_BYTES`].
    pub fn render(&self, scope: &Scope<'_>) -> Result<String, Failure> {
        let mut evaluation = Evaluation::new(scope);
        let mut rendered = String::with_capacity(self.text.len());
        for part in self.parts.iter() {
            match part {
                Part::Literal(literal) => rendered.push_str(literal),
                Part::Expression(expression) => expression.render_into(&mut rendered, &mut evaluation)?,
            }
            if rendered.len() > MAX_RENDERED_BYTES {
                return Err(Failure::new(
                    ErrorClass::Limit,
                    format!("the text `{}` gets longer than {MAX_RENDERED_BYTES} bytes", shorten(&self.text)),
                ));
            }
        }
        Ok(rendered)
    }
}

/// Compiles what stands between `${` and `}`.
fn placeholder(inside: &str) -> Result<Expression, CompileError> {
    Expression::compile(inside).map_err(|error| match inside.split_once(':') {
        Some(("env" | "file", _)) => {
            error.mend("`${env:…}` and `${file:…}` are values of their own, not parts of an expression")
        }
        _ => error,
    })
}

/// Where the `${` stands that is not closed: everything before it is whole.
fn unclosed(text: &str) -> usize {
    text.match_indices("${")
        .map(|(at, _)| at)
        .filter(|at| {
            text.get(..*at)
                .is_some_and(|before| !before.ends_with('$') && split_expressions(before).is_some())
        })
        .last()
        .unwrap_or_default()
}

impl fmt::Debug for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Template").field(&self.text).finish()
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Template {
    /// Templates of one text are one template.
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

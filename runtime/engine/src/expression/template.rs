//! Texts with `${…}`: file names, URLs, routing keys, header values. What stands between the braces is an expression;
//! `$${` stands for the characters `${`.

use std::{fmt, sync::Arc};

use gristmill_core::{ErrorClass, Failure};

use super::{
    CompileError, Expression, Scope,
    budget::{MAX_RENDERED_BYTES, MAX_TEXT_BYTES},
    error::shorten,
    evaluate::Evaluation,
};

/// A compiled text with `${…}`. Cheap to clone.
#[derive(Clone)]
pub struct Template {
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
    /// A `${` that is not closed, a text above [`MAX_TEXT_BYTES`], and those of [`Expression::compile`], with their
    /// place in the whole text.
    pub fn compile(text: &str) -> Result<Self, CompileError> {
        if text.len() > MAX_TEXT_BYTES {
            return Err(CompileError::new(text, format!("the text is longer than {MAX_TEXT_BYTES} bytes")));
        }
        let mut parts = Vec::new();
        let mut literal = String::new();
        let mut at = 0;
        while let Some(found) = text.get(at..).and_then(|rest| rest.find("${")).map(|found| at + found) {
            let (before, start) = (text.get(at..found).unwrap_or_default(), found + 2);
            if let Some(before) = before.strip_suffix('$') {
                literal.push_str(before);
                literal.push_str("${");
                at = start;
                continue;
            }
            literal.push_str(before);
            let inside = text.get(start..).unwrap_or_default();
            let Some(length) = expression_length(inside) else {
                return Err(CompileError::new(text, "this `${` is not closed")
                    .at(text, found..start)
                    .mend("close it with `}`, or write `$${` for the characters `${`"));
            };
            let inside = inside.get(..length).unwrap_or_default();
            let expression = Expression::compile(inside).map_err(|error| {
                let error = error.within(text, start);
                match inside.split_once(':') {
                    Some(("env" | "file", _)) => error.mend(
                        "`${env:…}` and `${file:…}` are values of their own, not parts of an expression",
                    ),
                    _ => error,
                }
            })?;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal).into()));
            }
            parts.push(Part::Expression(expression));
            at = start + length + 1;
        }
        literal.push_str(text.get(at..).unwrap_or_default());
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        Ok(Self { text: text.into(), parts: parts.into() })
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

/// How many bytes there are before the `}` that ends an expression: not one in a string or a comment, and not one that
/// closes a `{` of the expression itself.
fn expression_length(inside: &str) -> Option<usize> {
    let bytes = inside.as_bytes();
    let byte = |at: usize| bytes.get(at).copied();
    let mut depth = 0_usize;
    let mut at = 0;
    loop {
        match byte(at)? {
            b'{' => depth += 1,
            b'}' if depth == 0 => return Some(at),
            b'}' => depth -= 1,
            quote @ (b'"' | b'\'') => {
                // r"…" has no escapes; the r may follow a b and be of either case, but must not end a longer name.
                let word_start =
                    inside.get(..at)?.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |i| {
                        i + inside.get(i..).and_then(|rest| rest.chars().next()).map_or(1, char::len_utf8)
                    });
                let raw = matches!(
                    inside.get(word_start..at)?,
                    "r" | "R" | "br" | "bR" | "Br" | "BR" | "rb" | "rB" | "Rb" | "RB"
                );
                let triple = byte(at + 1) == Some(quote) && byte(at + 2) == Some(quote);
                at += if triple { 3 } else { 1 };
                loop {
                    match byte(at)? {
                        b'\\' if !raw => at += 2,
                        b if b == quote && !triple => break,
                        b if b == quote && byte(at + 1) == Some(quote) && byte(at + 2) == Some(quote) => {
                            at += 2;
                            break;
                        }
                        _ => at += 1,
                    }
                }
            }
            b'/' if byte(at + 1) == Some(b'/') => {
                while byte(at)? != b'\n' {
                    at += 1;
                }
            }
            _ => {}
        }
        at += 1;
    }
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

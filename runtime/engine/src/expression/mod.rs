//! Expressions: the language of `when:`, of `set:`, and of `${…}` in texts. It is CEL over four variables: `headers`,
//! `body`, `message` and `flow`; `docs/expressions.md` is its reference.
//!
//! An expression is compiled once, when its flow is loaded, which finds every mistake that does not depend on a message:
//! [`Expression::compile`], [`Template::compile`]. It is evaluated on a [`Scope`], which reads the body when it is first
//! asked for it. An evaluation depends on the message and the flow alone, takes a bounded number of steps and makes a
//! bounded amount of text, whatever the message holds; see [`MAX_STEPS`] and its neighbours.
//!
//! | module | holds |
//! |---|---|
//! | [`compile`] | text to nodes: the only place that knows the crate `cel`, which parses |
//! | [`node`] | an expression as it is evaluated |
//! | [`evaluate`], [`operators`], [`functions`], [`time`] | the evaluation |
//! | [`jsonpath`], [`pattern`] | what is compiled from literals |
//! | [`budget`] | the limits, and what everything costs |
//! | [`value`], [`scope`] | what is computed with, and where it comes from |
//! | [`template`] | texts with `${…}` |
//! | [`outside`] | values from the environment and from files in an expression |

mod budget;
mod compile;
mod error;
mod evaluate;
mod functions;
mod jsonpath;
mod node;
mod operators;
mod outside;
mod pattern;
mod scope;
mod template;
mod time;
mod value;

#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use bytes::Bytes;
use gristmill_core::{Failure, config::Substitution};

pub use budget::{
    MAX_BODY_VALUES, MAX_COMPREHENSION_NESTING, MAX_MADE_BYTES, MAX_NESTING, MAX_PATTERN_BYTES,
    MAX_RENDERED_BYTES, MAX_STEPS, MAX_TEXT_BYTES,
};
pub use error::CompileError;
pub use gristmill_core::step::FlowFacts;
pub use scope::Scope;
pub use template::Template;

use error::EvalError;
use evaluate::Evaluation;
use node::{MessageField, Node};
use value::{Kind, Value};

/// A compiled expression. Cheap to clone.
#[derive(Clone)]
pub struct Expression {
    text: Arc<str>,
    node: Arc<Node>,
}

// === impl Expression ===

impl Expression {
    /// Compiles an expression.
    ///
    /// # Errors
    /// Syntax errors, unknown variables and functions with the nearest known one, wrong patterns and paths, and a text
    /// above [`MAX_TEXT_BYTES`], [`MAX_NESTING`] or [`MAX_COMPREHENSION_NESTING`].
    pub fn compile(text: &str) -> Result<Self, CompileError> {
        let node = compile::compile(text)?;
        Ok(Self { text: text.into(), node: Arc::new(node) })
    }

    /// Compiles a condition: an expression that is not known to give something else than a bool.
    ///
    /// # Errors
    /// As [`Expression::compile`], and when the result is never a bool.
    pub fn compile_condition(text: &str) -> Result<Self, CompileError> {
        let expression = Self::compile(text)?;
        if !expression.node.is_never_bool() {
            return Ok(expression);
        }
        let noun = expression.node.kind().map_or("never one", Kind::noun);
        Err(CompileError::new(text, format!("a condition is a bool, and this is {noun}"))
            .mend("compare it with something"))
    }

    /// Compiles an expression in which values from outside stand, by [`Expression::compile`] or
    /// [`Expression::compile_condition`]. Each value is a text. Neither the errors nor the failures of it show one.
    ///
    /// # Errors
    /// Those of `compile`, without a place, and a value that stands in quotes.
    pub fn compile_with_values(
        substitution: &Substitution,
        compile: fn(&str) -> Result<Self, CompileError>,
    ) -> Result<Self, CompileError> {
        // First without the values, so that what an error quotes holds none.
        compile(&outside::without_values(substitution)?).map_err(CompileError::nowhere)?;
        let written = substitution.written();
        let compiled = compile(&outside::with_values(substitution)?).map_err(|_| {
            CompileError::new(&written, "a value that was put in does not fit this expression")
                .mend("it stands for a text as it is: what does the expression want of it?")
        })?;
        Ok(Self { text: written.into(), node: compiled.node })
    }

    /// The text as it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether the condition holds.
    ///
    /// # Errors
    /// Class `expression` when it does not fit the message or is not a bool, `body_format` when the body that it asks
    /// for is not JSON, `limit` when it costs more than its budget.
    pub fn evaluate_bool(&self, scope: &Scope<'_>) -> Result<bool, Failure> {
        self.evaluate(scope, |value, _| match value {
            Value::Bool(b) => Ok(b),
            other => Err(EvalError::unfit(format!("is {}, and a bool is wanted", other.noun()))),
        })
    }

    /// The value as text: strings as they are, numbers and bools as written in JSON, times as in RFC 3339, lists and
    /// maps as compact JSON. Null is an error, because a key or a header that says `null` is nearly always a mistake.
    ///
    /// # Errors
    /// As [`Expression::evaluate_bool`].
    pub fn evaluate_string(&self, scope: &Scope<'_>) -> Result<String, Failure> {
        self.evaluate(scope, |value, evaluation| {
            let mut text = String::new();
            push_text(&mut text, &value, evaluation)?;
            Ok(text)
        })
    }

    /// The value as JSON. Times and durations become texts.
    ///
    /// # Errors
    /// As [`Expression::evaluate_bool`]; also when a number is one that JSON does not have.
    pub fn evaluate_json(&self, scope: &Scope<'_>) -> Result<serde_json::Value, Failure> {
        self.evaluate(scope, |value, evaluation| value.into_serde_json(evaluation.budget()))
    }

    /// The value as a body: a string is its own bytes, everything else is compact JSON.
    ///
    /// # Errors
    /// As [`Expression::evaluate_json`].
    pub fn evaluate_body(&self, scope: &Scope<'_>) -> Result<Bytes, Failure> {
        if matches!(*self.node, Node::Message(MessageField::Text)) {
            // The body as it is: nothing is computed, and nothing copied.
            scope.text()?;
            return Ok(scope.message().body().clone());
        }
        self.evaluate(scope, |value, evaluation| match value {
            Value::String(text) => {
                evaluation.budget().make(text.len())?;
                Ok(Bytes::copy_from_slice(text.as_bytes()))
            }
            other => other.to_json(evaluation.budget()).map(Bytes::from),
        })
    }

    fn evaluate<T>(
        &self,
        scope: &Scope<'_>,
        finish: impl FnOnce(Value, &Evaluation<'_, '_>) -> Result<T, EvalError>,
    ) -> Result<T, Failure> {
        let mut evaluation = Evaluation::new(scope);
        evaluation
            .value(&self.node)
            .and_then(|value| finish(value, &evaluation))
            .map_err(|error| error.into_failure(&self.text))
    }

    /// Appends the value as text, paid for by an evaluation that goes on.
    fn render_into(&self, text: &mut String, evaluation: &mut Evaluation<'_, '_>) -> Result<(), Failure> {
        evaluation
            .value(&self.node)
            .and_then(|value| push_text(text, &value, evaluation))
            .map_err(|error| error.into_failure(&self.text))
    }
}

/// Appends a value as text, see [`Expression::evaluate_string`].
fn push_text(text: &mut String, value: &Value, evaluation: &Evaluation<'_, '_>) -> Result<(), EvalError> {
    if let Some(scalar) = value.scalar_text(evaluation.budget())? {
        evaluation.budget().make(scalar.len())?;
        text.push_str(&scalar);
        return Ok(());
    }
    match value {
        Value::Null => Err(EvalError::unfit(
            "is null, and a text is wanted; say what to take instead: x != null ? x : \"\"",
        )),
        Value::Type(kind) => {
            text.push_str(kind.name());
            Ok(())
        }
        other => {
            let json = other.to_json(evaluation.budget())?;
            let json = String::from_utf8(json).map_err(|_| EvalError::unfit("gives what is not UTF-8"))?;
            text.push_str(&json);
            Ok(())
        }
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Expression").field(&self.text).finish()
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl PartialEq for Expression {
    /// Expressions of one text are one expression.
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

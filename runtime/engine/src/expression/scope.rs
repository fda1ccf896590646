//! What the expressions of one message see. The body is parsed when the first of them asks for it, and not again.

use std::sync::{Arc, OnceLock};

use gristmill_core::{ErrorClass, Failure, Message, step::FlowFacts};
use jiff::Timestamp;

use super::{
    budget::{MAX_BODY_VALUES, MAX_JSON_NESTING},
    error::{EvalError, shorten},
    node::{FlowField, MessageField},
    value::{JsonError, Map, Value},
};

/// What the expressions of one message see. Making one costs nothing; what expressions ask for is read once and kept as
/// long as the scope, so one scope serves all expressions between two changes of a message.
#[derive(Debug)]
pub struct Scope<'a> {
    message: &'a Message,
    flow: &'a FlowFacts,
    body: OnceLock<Result<Value, Failure>>,
    text_value: OnceLock<Result<Arc<str>, Failure>>,
    headers: OnceLock<Value>,
}

/// The longest body that is kept parsed with its message, in bytes. What is made of one takes about ten times as much, for each
/// delivery that is under way.
const MAX_KEPT_BYTES: usize = 64 * 1024;

/// The body as JSON, kept with its message.
struct Parsed(Value);

// === impl Scope ===

impl<'a> Scope<'a> {
    /// The scope of a message in a flow.
    pub fn new(message: &'a Message, flow: &'a FlowFacts) -> Self {
        Self { message, flow, body: OnceLock::new(), text_value: OnceLock::new(), headers: OnceLock::new() }
    }

    /// The message.
    pub fn message(&self) -> &'a Message {
        self.message
    }

    /// The body, parsed: once for a message, as long as its body stays, if it is small enough to be kept.
    pub(crate) fn body(&self) -> Result<&Value, EvalError> {
        if let Some(Parsed(value)) = self.message.reading() {
            return Ok(value);
        }
        let parsed = self.body.get_or_init(|| self.parse_body());
        if let Ok(value) = parsed
            && self.message.body().len() <= MAX_KEPT_BYTES
        {
            // A list or a map is one reference count more.
            self.message.keep_reading(Parsed(value.clone()));
        }
        parsed.as_ref().map_err(|failure| EvalError::Body(failure.clone()))
    }

    fn parse_body(&self) -> Result<Value, Failure> {
        let body = self.message.body();
        if body.is_empty() {
            return Err(Failure::new(ErrorClass::BodyFormat, "the body is empty, and `body` wants JSON"));
        }
        Value::from_json(body).map_err(|error| match error {
            JsonError::Syntax(problem) => {
                let content_type = match self.message.content_type() {
                    Some(content_type) => format!("content type `{}`", shorten(content_type)),
                    None => "no content type".to_owned(),
                };
                Failure::new(
                    ErrorClass::BodyFormat,
                    format!("the body is not JSON that can be read: {problem} ({content_type})"),
                )
            }
            JsonError::TooDeep => Failure::new(
                ErrorClass::Limit,
                format!("the body nests deeper than {MAX_JSON_NESTING} levels, too deep for an expression"),
            ),
            JsonError::TooManyValues => Failure::new(
                ErrorClass::Limit,
                format!("the body has more than {MAX_BODY_VALUES} JSON values, too many for an expression"),
            ),
        })
    }

    /// The body as text.
    ///
    /// # Errors
    /// Class `body_format` when it is none.
    pub(crate) fn text(&self) -> Result<&'a str, Failure> {
        std::str::from_utf8(self.message.body()).map_err(|error| {
            Failure::new(
                ErrorClass::BodyFormat,
                format!("the body is not UTF-8 text: byte {} is not", error.valid_up_to() + 1),
            )
        })
    }

    /// The same as a value, made once.
    fn text_value(&self) -> Result<Value, EvalError> {
        let text = self.text_value.get_or_init(|| self.text().map(Arc::from));
        text.clone().map(Value::String).map_err(EvalError::Body)
    }

    /// All headers as a map, of repeated ones the first.
    pub(crate) fn headers(&self) -> &Value {
        self.headers.get_or_init(|| {
            let mut map = Map::new();
            for (name, value) in self.message.headers().iter() {
                map.entry(name.into()).or_insert_with(|| value.into());
            }
            Value::Map(Arc::new(map))
        })
    }

    /// The first header of that name, which is in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&'a str> {
        self.message.headers().get(name)
    }

    /// A field of `message`.
    pub(crate) fn message_field(&self, field: MessageField) -> Result<Value, EvalError> {
        let int = |n: Option<i64>| Value::Int(n.unwrap_or(i64::MAX));
        Ok(match field {
            MessageField::Id => self.message.id().as_str().into(),
            MessageField::Timestamp => {
                let millis = i64::try_from(self.message.received_at().as_millis()).unwrap_or(i64::MAX);
                Value::Timestamp(Timestamp::from_millisecond(millis).unwrap_or(Timestamp::MAX))
            }
            MessageField::TimestampMs => int(i64::try_from(self.message.received_at().as_millis()).ok()),
            MessageField::ContentType => self.message.content_type().unwrap_or_default().into(),
            MessageField::Size => int(i64::try_from(self.message.body().len()).ok()),
            MessageField::Text => self.text_value()?,
        })
    }

    /// A field of `flow`.
    pub(crate) fn flow_field(&self, field: FlowField) -> Value {
        Value::String(match field {
            FlowField::Id => self.flow.id.clone(),
            FlowField::Version => self.flow.version.clone(),
        })
    }
}

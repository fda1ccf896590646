//! What makes the contract's plain records pleasant: look-ups on a message, builders for changes, outcomes and failures.

use std::fmt::Display;

use serde::{Serialize, de::DeserializeOwned};

use crate::{Change, Failure, Message, Outcome};

/// The header that carries a message's content type.
const CONTENT_TYPE: &str = "content-type";

// === impl Message ===

impl Message {
    /// A message with this body and no headers; in tests mostly.
    #[must_use]
    pub fn with_body(body: impl Into<Vec<u8>>) -> Self {
        Message { id: "message".to_owned(), headers: Vec::new(), body: body.into() }
    }

    /// The same message with one more header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// The first value of a header, by its lower-case name. Only headers that `wants` asked for are here.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// Every value of a header, in order.
    pub fn header_values<'m>(&'m self, name: &'m str) -> impl Iterator<Item = &'m str> {
        self.headers.iter().filter(move |(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The header `content-type`, when `wants` asked for it and the message has it.
    #[must_use]
    pub fn content_type(&self) -> Option<&str> {
        self.header(CONTENT_TYPE)
    }

    /// The body as text.
    ///
    /// # Errors
    /// A rejection that names the first byte which is not UTF-8.
    pub fn text(&self) -> Result<&str, Failure> {
        str::from_utf8(&self.body).map_err(|error| {
            Failure::reject(format_args!("the body is not UTF-8 at byte {}", error.valid_up_to()))
        })
    }

    /// The body as JSON of this type. `serde_json::Value` rounds numbers that fit neither 64 bits nor a double exactly.
    ///
    /// # Errors
    /// A rejection that names the field, the line and the column.
    pub fn json<T: DeserializeOwned>(&self) -> Result<T, Failure> {
        let mut deserializer = serde_json::Deserializer::from_slice(&self.body);
        let value = serde_path_to_error::deserialize(&mut deserializer).map_err(|error| {
            let path = error.path().to_string();
            let cause = error.into_inner();
            if path == "." {
                Failure::reject(format_args!("the body is not the JSON that is expected: {cause}"))
            } else {
                Failure::reject(format_args!("the body is not the JSON that is expected: {path}: {cause}"))
            }
        })?;
        deserializer.end().map_err(|error| {
            Failure::reject(format_args!("the body has more after its JSON value: {error}"))
        })?;
        Ok(value)
    }
}

// === impl Change ===

impl Change {
    /// No change at all: the message as it came.
    #[must_use]
    pub fn new() -> Self {
        Change { set_headers: Vec::new(), remove_headers: Vec::new(), body: None }
    }

    /// A new body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    /// A new body as JSON, and the content type `application/json`.
    ///
    /// # Errors
    /// A rejection when the value cannot be written as JSON, such as a map whose keys are not strings.
    pub fn json<T: Serialize + ?Sized>(self, value: &T) -> Result<Self, Failure> {
        let body = serde_json::to_vec(value).map_err(|error| {
            Failure::reject(format_args!("the answer cannot be written as JSON: {error}"))
        })?;
        Ok(self.body(body).content_type("application/json"))
    }

    /// Sets a header, in place of all of that name. Two calls with one name set both values.
    #[must_use]
    pub fn set_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set_headers.push((name.to_ascii_lowercase(), value.into()));
        self
    }

    /// Removes every header of this name. Removals come before sets.
    #[must_use]
    pub fn remove_header(mut self, name: &str) -> Self {
        self.remove_headers.push(name.to_ascii_lowercase());
        self
    }

    /// Sets the header `content-type`.
    #[must_use]
    pub fn content_type(self, value: impl Into<String>) -> Self {
        self.set_header(CONTENT_TYPE, value)
    }
}

impl Default for Change {
    fn default() -> Self {
        Change::new()
    }
}

// === impl Outcome ===

impl Outcome {
    /// The message goes on as it came.
    #[must_use]
    pub fn unchanged() -> Self {
        Outcome::Change(Change::new())
    }

    /// No message goes on, on purpose; counted under this reason.
    #[must_use]
    pub fn drop(reason: impl Display) -> Self {
        Outcome::Drop(reason.to_string())
    }

    /// Several messages, each the incoming one with a change. None of them is the same as a drop.
    #[must_use]
    pub fn emit(changes: impl IntoIterator<Item = Change>) -> Self {
        let changes: Vec<Change> = changes.into_iter().collect();
        if changes.is_empty() { Outcome::drop("nothing to emit") } else { Outcome::Emit(changes) }
    }

    /// The new body of a change; `None` for any other outcome or an unchanged body. For tests.
    #[must_use]
    pub fn body(&self) -> Option<&[u8]> {
        match self {
            Outcome::Change(change) => change.body.as_deref(),
            Outcome::Emit(_) | Outcome::Drop(_) => None,
        }
    }
}

impl From<Change> for Outcome {
    fn from(change: Change) -> Self {
        Outcome::Change(change)
    }
}

// === impl Failure ===

impl Failure {
    /// This message can never be handled. The text is for the operator: say what is wrong and where.
    #[must_use]
    pub fn reject(reason: impl Display) -> Self {
        Failure::Reject(reason.to_string())
    }

    /// It may work later: the flow's policy decides when to try again.
    #[must_use]
    pub fn retry(reason: impl Display) -> Self {
        Failure::Retry(reason.to_string())
    }

    /// The text, of either kind.
    #[must_use]
    pub fn reason(&self) -> &str {
        match self {
            Failure::Reject(reason) | Failure::Retry(reason) => reason,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize)]
    struct Order {
        #[allow(dead_code, reason = "only the type of the field is of interest")]
        lines: Vec<u32>,
    }

    #[test]
    fn a_json_error_names_field_line_and_column() {
        let message = Message::with_body("{\"lines\": [1,\n \"two\"]}");
        let failure = message.json::<Order>().unwrap_err();
        assert_eq!(
            failure,
            Failure::reject(
                "the body is not the JSON that is expected: lines[1]: invalid type: string \"two\", expected u32 at line 2 column 6"
            )
        );
    }

    #[test]
    fn trailing_bytes_are_not_json() {
        let failure = Message::with_body("{} {}").json::<serde_json::Value>().unwrap_err();
        assert!(failure.reason().contains("more after its JSON value"), "{failure:?}");
    }

    #[test]
    fn a_header_is_found_by_its_lower_case_name() {
        let message = Message::with_body("").with_header("X-Kind", "a").with_header("x-kind", "b");
        assert_eq!(message.header("x-kind"), Some("a"));
        assert_eq!(message.header_values("x-kind").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!(message.header("kind"), None);
    }

    #[test]
    fn a_body_that_is_not_utf8_is_named_by_its_byte() {
        let failure = Message::with_body(b"ab\xff".to_vec()).text().unwrap_err();
        assert_eq!(failure.reason(), "the body is not UTF-8 at byte 2");
    }

    #[test]
    fn emitting_nothing_is_a_drop() {
        assert!(matches!(Outcome::emit([]), Outcome::Drop(_)));
    }
}

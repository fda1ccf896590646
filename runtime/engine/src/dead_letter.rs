//! The envelope of a dead letter: all that is needed to see what happened and to send the message again, through any sink,
//! a file included.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use bytes::Bytes;
use gristmill_core::{
    Failure, Headers, Message, MessageId, Timestamp,
    message::{CONTENT_TYPE, InvalidHeader},
};
use serde::{Deserialize, Serialize};

/// The content type of an envelope.
pub const ENVELOPE_CONTENT_TYPE: &str = "application/vnd.gristmill.dead-letter+json";

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Envelope {
    /// The version of this format.
    pub envelope: u32,
    /// The flow.
    pub flow: String,
    /// The version of the flow.
    pub version: String,
    /// Where the message came from: the identity of the endpoint.
    pub origin: String,
    /// When the envelope was made, RFC 3339.
    pub time: String,
    /// What went wrong.
    pub error: ErrorReport,
    /// The message as the source gave it.
    pub message: StoredMessage,
    /// For a message that a step made of it: that message, as it was on entry to the step that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub child: Option<Child>,
}

/// What went wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ErrorReport {
    /// The class, as in `match:`.
    pub class: String,
    /// What happened.
    pub text: String,
    /// The place of the step that failed.
    pub step: String,
    /// How many attempts were made.
    pub attempts: u32,
    /// Evidence: a guest's backtrace, the tail of its stderr.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub details: Vec<String>,
}

/// A message that a step made of the source's message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Child {
    /// It.
    pub message: StoredMessage,
    /// The place of the step at which it resumes.
    pub resume_at: String,
}

/// A message at rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StoredMessage {
    /// Its id.
    pub id: String,
    /// When it was accepted, milliseconds since 1970.
    pub received_at_ms: u64,
    /// Its headers, in order.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: StoredBody,
}

/// A body at rest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoredBody {
    /// The body is UTF-8.
    Text(String),
    /// It is not.
    Base64(String),
}

/// An envelope that cannot be opened.
#[derive(Debug)]
pub enum EnvelopeError {
    /// The body is not base64.
    Body,
    /// A header is none.
    Header(InvalidHeader),
}

/// What an envelope is made of, besides the failure.
pub(crate) struct Origin<'a> {
    pub(crate) flow: &'a str,
    pub(crate) version: &'a str,
    pub(crate) endpoint: &'a str,
    pub(crate) step: &'a str,
    pub(crate) attempts: u32,
    /// The message as the source gave it.
    pub(crate) message: &'a Message,
    /// The message on entry to the step, if it is a child.
    pub(crate) child: Option<&'a Message>,
}

impl Envelope {
    pub(crate) fn new(origin: &Origin<'_>, failure: &Failure, now: Timestamp) -> Self {
        Self {
            envelope: 1,
            flow: origin.flow.into(),
            version: origin.version.into(),
            origin: origin.endpoint.into(),
            time: now.to_rfc3339(),
            error: ErrorReport {
                class: failure.class().name().into(),
                text: failure.text().into(),
                step: origin.step.into(),
                attempts: origin.attempts,
                details: failure.details().map(str::to_owned).collect(),
            },
            message: StoredMessage::from(origin.message),
            child: origin
                .child
                .map(|child| Child { message: StoredMessage::from(child), resume_at: origin.step.into() }),
        }
    }

    /// The envelope as a message: the id and the headers of the message it holds (so that a name such as
    /// `${message.id}.json` works), the body the envelope in JSON.
    pub(crate) fn into_message(self, original: &Message, now: Timestamp) -> Result<Message, String> {
        let mut body = serde_json::to_vec(&self)
            .map_err(|e| format!("the dead letter cannot be written as JSON: {e}"))?;
        body.push(b'\n');
        let subject =
            self.child.map_or_else(|| original.id().clone(), |child| MessageId::from(child.message.id));
        let mut message =
            Message::new(subject, now, Bytes::from(body)).with_headers(original.headers().clone());
        let set = message.headers_mut().set(CONTENT_TYPE, ENVELOPE_CONTENT_TYPE);
        set.map_err(|e| e.to_string())?;
        Ok(message)
    }
}

impl From<&Message> for StoredMessage {
    fn from(message: &Message) -> Self {
        Self {
            id: message.id().to_string(),
            received_at_ms: message.received_at().as_millis(),
            headers: message.headers().iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect(),
            body: match std::str::from_utf8(message.body()) {
                Ok(text) => StoredBody::Text(text.into()),
                Err(_) => StoredBody::Base64(BASE64.encode(message.body())),
            },
        }
    }
}

impl TryFrom<StoredMessage> for Message {
    type Error = EnvelopeError;

    fn try_from(stored: StoredMessage) -> Result<Self, EnvelopeError> {
        let body = match stored.body {
            StoredBody::Text(text) => Bytes::from(text),
            StoredBody::Base64(text) => Bytes::from(BASE64.decode(text).map_err(|_| EnvelopeError::Body)?),
        };
        let mut headers = Headers::new();
        for (name, value) in &stored.headers {
            headers.append(name, value).map_err(EnvelopeError::Header)?;
        }
        let received_at = Timestamp::from_millis(stored.received_at_ms);
        Ok(Message::new(stored.id, received_at, body).with_headers(headers))
    }
}

impl std::fmt::Display for EnvelopeError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Body => f.write_str("the body of the stored message is not base64"),
            Self::Header(invalid) => write!(f, "the stored message has an invalid {invalid}"),
        }
    }
}

impl std::error::Error for EnvelopeError {}

#[cfg(test)]
mod tests {
    use gristmill_core::ErrorClass;

    use super::*;

    #[test]
    fn what_is_stored_comes_back_unchanged() {
        for body in [&b"text"[..], &[0xff, 0x00, 0xfe]] {
            let mut message = Message::new("a/b:7", Timestamp::from_millis(12), Bytes::copy_from_slice(body));
            message.headers_mut().append("x", "1").unwrap();
            message.headers_mut().append("x", "2").unwrap();
            let origin = Origin {
                flow: "f",
                version: "v",
                endpoint: "file in",
                step: "steps[1]",
                attempts: 3,
                message: &message,
                child: None,
            };
            let failure = Failure::new(ErrorClass::Timeout, "no answer").with_detail("d");
            let envelope = Envelope::new(&origin, &failure, Timestamp::from_millis(0));
            let letter = envelope.clone().into_message(&message, Timestamp::from_millis(0)).unwrap();
            let read: Envelope = serde_json::from_slice(letter.body()).unwrap();
            assert_eq!(read, envelope);
            let back = Message::try_from(read.message).unwrap();
            assert_eq!(
                (back.id(), back.headers(), back.body()),
                (message.id(), message.headers(), message.body())
            );
        }
    }
}

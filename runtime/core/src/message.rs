//! A message: headers and a body, cheap to clone, because retries, branches and dead letters each keep one.

use std::{fmt, sync::Arc};

use bytes::Bytes;

use crate::clock::Timestamp;

/// The header that holds the content type (a media type, RFC 9110 section 8.3).
pub const CONTENT_TYPE: &str = "content-type";

/// The longest header name, in bytes.
pub const MAX_HEADER_NAME_BYTES: usize = 256;

/// The id of a message: unique within its source, the same again when the source offers the message again if the
/// source can know that. Children of a split have the id of their parent and `/n`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(Arc<str>);

/// Headers in order, string to string. Names are lower-case; a name may occur more than once. Cloning is one
/// reference count; the first change to a shared list copies the list but not its texts, so that many children of one message
/// do not multiply its headers.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Headers(Arc<Vec<(Arc<str>, Arc<str>)>>);

/// Headers and a body on their way through a flow.
#[derive(Clone)]
pub struct Message {
    id: MessageId,
    received_at: Timestamp,
    headers: Headers,
    body: Bytes,
}

/// A header name or value that no message may carry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidHeader {
    /// The name as given, with what cannot be printed escaped.
    pub name: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

// === impl MessageId ===

impl MessageId {
    /// The id as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id of the `index`th child (from 0) that a step made of this message.
    pub fn child(&self, index: usize) -> Self {
        Self(format!("{}/{index}", self.0).into())
    }
}

impl From<&str> for MessageId {
    fn from(text: &str) -> Self {
        Self(text.into())
    }
}

impl From<String> for MessageId {
    fn from(text: String) -> Self {
        Self(text.into())
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

// === impl Headers ===

impl Headers {
    /// No headers.
    pub fn new() -> Self {
        Self::default()
    }

    /// The first value of `name`, which must be in lower case.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| &**n == name).map(|(_, v)| &**v)
    }

    /// Every value of `name`, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| &**n == name).map(|(_, v)| &**v)
    }

    /// All headers, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        self.0.iter().map(|(n, v)| (&**n, &**v))
    }

    /// How many headers there are, counting repeats.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a header after the others.
    ///
    /// # Errors
    /// When the name or the value is not one that a message may carry, see [`check_header`].
    pub fn append(&mut self, name: &str, value: &str) -> Result<(), InvalidHeader> {
        let name = normalise(name);
        check_header(&name, value)?;
        Arc::make_mut(&mut self.0).push((name.into(), value.into()));
        Ok(())
    }

    /// Replaces every header of that name by one, in the place of the first, or adds it.
    ///
    /// # Errors
    /// As [`Headers::append`].
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), InvalidHeader> {
        let name = normalise(name);
        check_header(&name, value)?;
        let list = Arc::make_mut(&mut self.0);
        let mut value = Some(Arc::<str>::from(value));
        list.retain_mut(|(n, v)| {
            if **n != *name {
                return true;
            }
            match value.take() {
                Some(new) => {
                    *v = new;
                    true
                }
                None => false,
            }
        });
        if let Some(value) = value {
            list.push((name.into(), value));
        }
        Ok(())
    }

    /// Removes every header of that name.
    pub fn remove(&mut self, name: &str) {
        let name = normalise(name);
        if self.get(&name).is_some() {
            Arc::make_mut(&mut self.0).retain(|(n, _)| **n != *name);
        }
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

/// Lower case without an allocation more than is needed.
fn normalise(name: &str) -> Box<str> {
    let mut name = Box::<str>::from(name);
    name.make_ascii_lowercase();
    name
}

/// Whether a message may carry this header: the name is lower-case printable ASCII without spaces and colons, of at
/// most [`MAX_HEADER_NAME_BYTES`]; the value has no control characters but tab, so that it can neither break a line of a
/// protocol nor a log.
///
/// # Errors
/// Says what is wrong.
pub fn check_header(name: &str, value: &str) -> Result<(), InvalidHeader> {
    let problem = if name.is_empty() {
        "the name is empty"
    } else if name.len() > MAX_HEADER_NAME_BYTES {
        "the name is longer than 256 bytes"
    } else if !name.bytes().all(|b| b.is_ascii_graphic() && b != b':' && !b.is_ascii_uppercase()) {
        "a name is lower-case ASCII without spaces and colons"
    } else if value.chars().any(|c| c.is_control() && c != '\t') {
        "the value holds a control character"
    } else {
        return Ok(());
    };
    Err(InvalidHeader { name: name.escape_debug().take(80).collect(), problem })
}

impl fmt::Display for InvalidHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "header `{}`: {}", self.name, self.problem)
    }
}

impl std::error::Error for InvalidHeader {}

// === impl Message ===

impl Message {
    /// A message without headers.
    pub fn new(id: impl Into<MessageId>, received_at: Timestamp, body: impl Into<Bytes>) -> Self {
        Self { id: id.into(), received_at, headers: Headers::new(), body: body.into() }
    }

    /// The same with these headers.
    #[must_use]
    pub fn with_headers(mut self, headers: Headers) -> Self {
        self.headers = headers;
        self
    }

    /// The same message under another id: a child of a split.
    #[must_use]
    pub fn with_id(mut self, id: MessageId) -> Self {
        self.id = id;
        self
    }

    /// The id.
    pub fn id(&self) -> &MessageId {
        &self.id
    }

    /// When the source accepted the message.
    pub fn received_at(&self) -> Timestamp {
        self.received_at
    }

    /// The headers.
    pub fn headers(&self) -> &Headers {
        &self.headers
    }

    /// The headers, to change them.
    pub fn headers_mut(&mut self) -> &mut Headers {
        &mut self.headers
    }

    /// The body.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// Replaces the body.
    pub fn set_body(&mut self, body: impl Into<Bytes>) {
        self.body = body.into();
    }

    /// The content type, if the message has one.
    pub fn content_type(&self) -> Option<&str> {
        self.headers.get(CONTENT_TYPE)
    }
}

/// Never shows the body: it may hold what must not be in a log.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("id", &self.id)
            .field("headers", &self.headers.iter().map(|(n, _)| n).collect::<Vec<_>>())
            .field("body_bytes", &self.body.len())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_replaces_every_header_of_the_name_in_the_place_of_the_first() {
        let mut headers = Headers::new();
        for (n, v) in [("a", "1"), ("B", "2"), ("a", "3")] {
            headers.append(n, v).unwrap();
        }
        headers.set("A", "4").unwrap();
        assert_eq!(headers.iter().collect::<Vec<_>>(), [("a", "4"), ("b", "2")]);
        headers.set("c", "5").unwrap();
        assert_eq!(headers.len(), 3);
    }

    #[test]
    fn a_clone_does_not_see_later_changes() {
        let mut one = Headers::new();
        one.append("a", "1").unwrap();
        let two = one.clone();
        one.remove("a");
        assert_eq!((one.len(), two.len()), (0, 1));
    }

    #[test]
    fn headers_that_could_break_a_protocol_are_refused() {
        let mut headers = Headers::new();
        for (name, value) in
            [("", "x"), ("a b", "x"), ("a:b", "x"), ("ä", "x"), ("a", "x\r\nb: y"), ("a", "\0")]
        {
            assert!(headers.append(name, value).is_err(), "{name:?}: {value:?}");
        }
        headers.append("a", "tab\tand ünïcode").unwrap();
    }

    #[test]
    fn a_message_in_a_log_shows_no_body_and_no_header_value() {
        let mut message = Message::new("m", Timestamp::from_millis(0), "secret body");
        message.headers_mut().append("authorization", "secret header").unwrap();
        assert!(!format!("{message:?}").contains("secret"));
    }
}

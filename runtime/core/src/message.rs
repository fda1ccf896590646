//! A message: headers and a body, cheap to clone, because retries, branches and dead letters each keep one.

use std::{
    any::Any,
    borrow::Cow,
    fmt,
    io::Write as _,
    sync::{Arc, OnceLock},
};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::clock::Timestamp;

/// The header that holds the content type (a media type, RFC 9110 section 8.3).
pub const CONTENT_TYPE: &str = "content-type";

/// The longest header name, in bytes.
pub const MAX_HEADER_NAME_BYTES: usize = 256;

/// An id of so many bytes is put together without asking for memory twice.
const SHORT_ID_BYTES: usize = 128;

/// The id of a message: unique within its source, the same again when the source offers the message again if the
/// source can know that. Children of a split have the id of their parent and `/n`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MessageId(Arc<str>);

/// Headers in order, string to string. Names are lower-case; a name may occur more than once. Cloning is one
/// reference count; the first change to a shared list copies the list and its short texts, but not the long ones, so that many
/// children of one message do not multiply its headers.
#[derive(Clone, Default)]
pub struct Headers(Option<Arc<List>>);

/// Some headers. As many as most messages have are in one piece of memory with the count of who shares them, and their texts in
/// another: every source makes such a list, and every step that changes one copies it.
#[derive(Debug)]
struct List {
    headers: SmallVec<[Header; 8]>,
    /// The short texts, one after another, and those of headers that are not there any more.
    texts: String,
}

/// What is reserved for short texts at first, in bytes: enough for most messages.
const TEXTS_BYTES: usize = 256;

/// A header of so many bytes is short.
const SHORT_HEADER_BYTES: usize = 128;

/// A header: its name and, right behind it, its value.
#[derive(Debug, Clone)]
struct Header {
    name_bytes: usize,
    place: Place,
}

/// Where the text of a header is.
#[derive(Debug, Clone)]
enum Place {
    /// Among the texts of its list.
    Short { start: u32, bytes: u32 },
    /// By itself, shared by all lists that have it.
    Long(Arc<str>),
}

/// Headers and a body on their way through a flow.
#[derive(Clone)]
pub struct Message {
    id: MessageId,
    received_at: Timestamp,
    headers: Headers,
    body: Bytes,
    /// What was made of the body by reading it. Follows the body: a new one has none.
    reading: OnceLock<Arc<dyn Any + Send + Sync>>,
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

    /// The id `PREFIX:NUMBER`, for a source that counts its messages.
    pub fn numbered(prefix: &str, number: u64) -> Self {
        let mut short = [0; SHORT_ID_BYTES];
        let mut rest = short.as_mut_slice();
        let fits = write!(rest, "{prefix}:{number}").is_ok();
        let bytes = SHORT_ID_BYTES - rest.len();
        match short.get(..bytes).map(std::str::from_utf8) {
            Some(Ok(text)) if fits => text.into(),
            _ => format!("{prefix}:{number}").into(),
        }
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
        let (headers, texts) = self.parts();
        headers.iter().find(|header| header.is(name, texts)).map(|header| header.split(texts).1)
    }

    /// Every value of `name`, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let (headers, texts) = self.parts();
        let of_that_name = headers.iter().filter(move |header| header.is(name, texts));
        of_that_name.map(|header| header.split(texts).1)
    }

    /// All headers, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &str)> {
        let (headers, texts) = self.parts();
        headers.iter().map(|header| header.split(texts))
    }

    /// The headers that have one of these names, in their order.
    pub fn named<'a>(&'a self, names: &'a [String]) -> impl Iterator<Item = (&'a str, &'a str)> {
        let (headers, texts) = self.parts();
        let of_these = headers.iter().filter(move |header| names.iter().any(|name| header.is(name, texts)));
        of_these.map(|header| header.split(texts))
    }

    /// How many headers there are, counting repeats.
    pub fn len(&self) -> usize {
        self.parts().0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes the names and values have together.
    pub fn bytes(&self) -> usize {
        self.parts().0.iter().map(Header::bytes).sum()
    }

    /// Adds a header after the others.
    ///
    /// # Errors
    /// When the name or the value is not one that a message may carry, see [`check_header`].
    pub fn append(&mut self, name: &str, value: &str) -> Result<(), InvalidHeader> {
        let name = checked(name, value)?;
        self.list_mut().push(&name, value);
        Ok(())
    }

    /// Replaces every header of that name by one, in the place of the first, or adds it.
    ///
    /// # Errors
    /// As [`Headers::append`].
    pub fn set(&mut self, name: &str, value: &str) -> Result<(), InvalidHeader> {
        let name = checked(name, value)?;
        self.list_mut().set(&name, value);
        Ok(())
    }

    /// Replaces every header that has a name in the other list by those, which come last, in their order. Long texts are shared.
    pub fn replace_by(&mut self, others: &Self) {
        match &others.0 {
            Some(_) if self.is_empty() => *self = others.clone(),
            Some(others) => {
                let list = self.list_mut();
                list.retain(|header, texts| {
                    let (name, _) = header.split(texts);
                    others.headers.iter().all(|it| !it.is(name, &others.texts))
                });
                list.extend(others);
            }
            None => {}
        }
    }

    /// Removes every header of that name.
    pub fn remove(&mut self, name: &str) {
        let name = normalise(name);
        if self.get(&name).is_some() {
            self.list_mut().retain(|header, texts| !header.is(&name, texts));
        }
    }

    /// The headers, and the texts of the short ones.
    fn parts(&self) -> (&[Header], &str) {
        self.0.as_ref().map_or((&[], ""), |list| (&list.headers, &list.texts))
    }

    /// A list that no one else sees.
    fn list_mut(&mut self) -> &mut List {
        Arc::make_mut(self.0.get_or_insert_with(|| Arc::new(List::with_room_for(TEXTS_BYTES))))
    }
}

impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

// === impl List ===

impl List {
    /// Without headers.
    fn with_room_for(texts: usize) -> Self {
        Self { headers: SmallVec::new(), texts: String::with_capacity(texts) }
    }

    /// The header, put where it belongs but not into the list.
    fn place(&mut self, name: &str, value: &str) -> Header {
        let (start, bytes) = (self.texts.len(), name.len() + value.len());
        let place = match (u32::try_from(start), u32::try_from(bytes)) {
            (Ok(start), Ok(bytes_as_u32)) if bytes <= SHORT_HEADER_BYTES => {
                self.texts.push_str(name);
                self.texts.push_str(value);
                Place::Short { start, bytes: bytes_as_u32 }
            }
            _ => Place::Long([name, value].concat().into()),
        };
        Header { name_bytes: name.len(), place }
    }

    fn push(&mut self, name: &str, value: &str) {
        let header = self.place(name, value);
        self.headers.push(header);
    }

    /// Adds all of another list.
    fn extend(&mut self, others: &Self) {
        for header in &others.headers {
            match &header.place {
                Place::Short { .. } => {
                    let (name, value) = header.split(&others.texts);
                    self.push(name, value);
                }
                Place::Long(_) => self.headers.push(header.clone()),
            }
        }
    }

    /// Puts one in the place of the first of that name, and takes the others of that name away.
    fn set(&mut self, name: &str, value: &str) {
        let mut new = Some(self.place(name, value));
        let Self { headers, texts } = self;
        headers.retain_mut(|header| {
            if !header.is(name, texts) {
                return true;
            }
            match new.take() {
                Some(new) => {
                    *header = new;
                    true
                }
                None => false,
            }
        });
        headers.extend(new);
        self.tidy();
    }

    fn retain(&mut self, keeps: impl Fn(&Header, &str) -> bool) {
        let Self { headers, texts } = self;
        headers.retain(|header| keeps(header, texts));
        self.tidy();
    }

    /// Forgets the texts of headers that are not there any more, when they are most of all.
    fn tidy(&mut self) {
        let used: usize = self.headers.iter().map(Header::short_bytes).sum();
        if self.texts.len() > TEXTS_BYTES.max(2 * used) {
            let mut tidied = Self::with_room_for(used + SHORT_HEADER_BYTES);
            tidied.extend(self);
            *self = tidied;
        }
    }
}

/// With room for one more: a list is copied when it is about to have one.
impl Clone for List {
    fn clone(&self) -> Self {
        let mut clone = Self::with_room_for(self.texts.len() + SHORT_HEADER_BYTES);
        clone.texts.push_str(&self.texts);
        clone.headers.reserve(self.headers.len() + 1);
        clone.headers.extend(self.headers.iter().cloned());
        clone
    }
}

// === impl Header ===

impl Header {
    /// Name and value, of a list with these texts.
    fn split<'a>(&'a self, texts: &'a str) -> (&'a str, &'a str) {
        let text = match &self.place {
            // A place of a list is one in its texts, so this is never empty for another reason than that the text is.
            Place::Short { start, bytes } => {
                let start = *start as usize;
                texts.get(start..start + *bytes as usize).unwrap_or_default()
            }
            Place::Long(text) => text,
        };
        text.split_at_checked(self.name_bytes).unwrap_or_default()
    }

    /// Whether it has that name, in a list with these texts.
    fn is(&self, name: &str, texts: &str) -> bool {
        // Seldom do two names have as many bytes and are not the same.
        self.name_bytes == name.len() && self.split(texts).0 == name
    }

    fn bytes(&self) -> usize {
        match &self.place {
            Place::Short { bytes, .. } => *bytes as usize,
            Place::Long(text) => text.len(),
        }
    }

    /// How many of its bytes are among the texts of its list.
    fn short_bytes(&self) -> usize {
        match &self.place {
            Place::Short { bytes, .. } => *bytes as usize,
            Place::Long(_) => 0,
        }
    }
}

/// Lower case, which most names are already.
fn normalise(name: &str) -> Cow<'_, str> {
    if kinds(name) & CAPITAL == 0 { Cow::Borrowed(name) } else { Cow::Owned(name.to_ascii_lowercase()) }
}

/// A kind of byte: one that the name of a header cannot have. It has what can be seen of ASCII, without the colon and capitals.
const NOT_OF_NAME: u8 = 1;
/// A control character, other than tab.
const CONTROL: u8 = 1 << 1;
/// A part of a character beyond ASCII.
const BEYOND_ASCII: u8 = 1 << 2;
/// A capital.
const CAPITAL: u8 = 1 << 3;

/// Of which kinds each byte is.
static KINDS: [u8; 256] = {
    let mut kinds = [0; 256];
    let mut rest = kinds.as_mut_slice();
    let mut byte = 0_u8;
    while let Some((kind, others)) = rest.split_first_mut() {
        *kind = kinds_of(byte);
        byte = byte.wrapping_add(1);
        rest = others;
    }
    kinds
};

const fn kinds_of(byte: u8) -> u8 {
    let mut kinds = 0;
    if !matches!(byte, b'!'..=b'9' | b';'..=b'@' | b'['..=b'~') {
        kinds |= NOT_OF_NAME;
    }
    if byte.is_ascii_control() && byte != b'\t' {
        kinds |= CONTROL;
    }
    if !byte.is_ascii() {
        kinds |= BEYOND_ASCII;
    }
    if byte.is_ascii_uppercase() {
        kinds |= CAPITAL;
    }
    kinds
}

/// The kinds of all bytes of a text, each of which is looked at once and without a branch: every header of every message is.
fn kinds(text: &str) -> u8 {
    text.bytes().fold(0, |kinds, byte| kinds | KINDS.get(usize::from(byte)).copied().unwrap_or(u8::MAX))
}

/// Whether a message may carry this header: the name is lower-case printable ASCII without spaces and colons, of at
/// most [`MAX_HEADER_NAME_BYTES`]; the value has no control characters but tab, so that it can neither break a line of a
/// protocol nor a log.
///
/// # Errors
/// Says what is wrong.
pub fn check_header(name: &str, value: &str) -> Result<(), InvalidHeader> {
    check(name, kinds(name), value)
}

/// The name in lower case, of a header that a message may carry; see [`check_header`].
fn checked<'a>(name: &'a str, value: &str) -> Result<Cow<'a, str>, InvalidHeader> {
    let of_name = kinds(name);
    if of_name & CAPITAL == 0 {
        return check(name, of_name, value).map(|()| Cow::Borrowed(name));
    }
    let name = name.to_ascii_lowercase();
    check(&name, kinds(&name), value).map(|()| Cow::Owned(name))
}

/// [`check_header`], when the kinds of the bytes of the name are known.
fn check(name: &str, of_name: u8, value: &str) -> Result<(), InvalidHeader> {
    let problem = if name.is_empty() {
        "the name is empty"
    } else if name.len() > MAX_HEADER_NAME_BYTES {
        "the name is longer than 256 bytes"
    } else if of_name & NOT_OF_NAME != 0 {
        "a name is lower-case ASCII without spaces and colons"
    } else if has_control(value) {
        "the value holds a control character"
    } else {
        return Ok(());
    };
    Err(InvalidHeader { name: name.escape_debug().take(80).collect(), problem })
}

/// Whether there is a control character other than tab. Those above ASCII (U+0080 to U+009F) are looked for only where there is more
/// than ASCII.
fn has_control(value: &str) -> bool {
    let kinds = kinds(value);
    kinds & CONTROL != 0 || kinds & BEYOND_ASCII != 0 && value.chars().any(|c| c.is_control() && c != '\t')
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
        Self {
            id: id.into(),
            received_at,
            headers: Headers::new(),
            body: body.into(),
            reading: OnceLock::new(),
        }
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
        self.reading = OnceLock::new();
    }

    /// What was made of the body by reading it, if it was of this type and was kept: a message that passes several steps is parsed
    /// once.
    pub fn reading<T: Any>(&self) -> Option<&T> {
        self.reading.get()?.downcast_ref()
    }

    /// Keeps what was made of the body, with this message and the clones that are made of it from now on, until the body is
    /// replaced or [`Message::forget_reading`] is called. What another reader has kept stays.
    pub fn keep_reading<T: Any + Send + Sync>(&self, reading: T) {
        let _first_wins = self.reading.set(Arc::new(reading));
    }

    /// Frees what was kept of reading the body: before a wait, in which it would only take memory.
    pub fn forget_reading(&mut self) {
        self.reading = OnceLock::new();
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
    fn headers_are_found_by_several_names_in_their_order() {
        let mut headers = Headers::new();
        let long = "x".repeat(SHORT_HEADER_BYTES);
        for (name, value) in [("b", "1"), ("a", "2"), ("c", "3"), ("b", &long)] {
            headers.append(name, value).unwrap();
        }
        let names = ["a", "b", "d"].map(str::to_owned);
        assert!(headers.named(&names).eq([("b", "1"), ("a", "2"), ("b", &long)]));
        assert_eq!(headers.named(&[]).count(), 0);
    }

    #[test]
    fn an_id_is_numbered_whatever_is_before_the_number() {
        let id = |prefix: &str, number| MessageId::numbered(prefix, number).as_str().to_owned();
        assert_eq!(id("orders", 0), "orders:0");
        assert_eq!(id("ö", u64::MAX), "ö:18446744073709551615");
        for bytes in SHORT_ID_BYTES - 5..SHORT_ID_BYTES + 5 {
            let prefix = "p".repeat(bytes);
            assert_eq!(id(&prefix, 12), format!("{prefix}:12"));
        }
    }

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
    fn a_list_replaces_every_header_of_its_names() {
        let list = |headers: &[(&str, &str)]| {
            let mut list = Headers::new();
            headers.iter().for_each(|(name, value)| list.append(name, value).unwrap());
            list
        };
        let answer = list(&[("b", "4"), ("c", "5"), ("b", "6")]);
        let mut headers = list(&[("a", "1"), ("b", "2"), ("d", "3"), ("b", "3")]);
        headers.replace_by(&answer);
        assert_eq!(headers, list(&[("a", "1"), ("d", "3"), ("b", "4"), ("c", "5"), ("b", "6")]));
        headers.replace_by(&Headers::new());
        assert_eq!(headers.len(), 5);
        let mut none = Headers::new();
        none.replace_by(&answer);
        assert_eq!(none, answer);
    }

    /// Every sequence of changes gives what it gives on a list of pairs, whatever is short, long or shared.
    #[test]
    fn changes_are_those_of_a_list_of_pairs() {
        let mut dice = 1_u64;
        let mut below = |end: u64| {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (dice >> 33) % end
        };
        let mut seen = [0; 5];
        for _ in 0..200 {
            let mut headers = Headers::new();
            let mut pairs: Vec<(String, String)> = Vec::new();
            let mut kept = Vec::new();
            for _ in 0..50 {
                let name = format!("x-{}", below(6));
                let value = "v".repeat([0, 5, 120, 130, 600][below(5) as usize]) + &below(10).to_string();
                let change = below(5) as usize;
                seen[change] += 1;
                match change {
                    0 => {
                        headers.append(&name, &value).unwrap();
                        pairs.push((name, value));
                    }
                    1 => {
                        headers.set(&name, &value).unwrap();
                        match pairs.iter().position(|(it, _)| *it == name) {
                            Some(first) => {
                                pairs[first].1 = value;
                                let mut index = 0;
                                pairs.retain(|(it, _)| (index <= first || *it != name, index += 1).0);
                            }
                            None => pairs.push((name, value)),
                        }
                    }
                    2 => {
                        headers.remove(&name);
                        pairs.retain(|(it, _)| *it != name);
                    }
                    3 => kept.push((headers.clone(), pairs.clone())),
                    _ => {
                        if let Some((others, other_pairs)) = kept.last() {
                            headers.replace_by(others);
                            pairs.retain(|(it, _)| other_pairs.iter().all(|(other, _)| other != it));
                            pairs.extend(other_pairs.iter().cloned());
                        }
                    }
                }
                kept.push((headers.clone(), pairs.clone()));
                kept.truncate(3);
            }
            kept.push((headers, pairs));
            for (headers, pairs) in &kept {
                let expected: Vec<_> = pairs.iter().map(|(name, value)| (&**name, &**value)).collect();
                assert_eq!(headers.iter().collect::<Vec<_>>(), expected);
                assert_eq!(headers.len(), pairs.len());
                assert_eq!(
                    headers.bytes(),
                    pairs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>()
                );
                let first = pairs.iter().find(|(name, _)| name == "x-1").map(|(_, value)| &**value);
                assert_eq!(headers.get("x-1"), first);
            }
        }
        assert!(seen.iter().all(|times| *times > 100), "{seen:?}");
    }

    #[test]
    fn a_header_that_is_set_again_and_again_takes_no_more_room() {
        let mut headers = Headers::new();
        for n in 0..10_000 {
            headers.set("x-n", &n.to_string()).unwrap();
            headers.append("x-m", "1").unwrap();
            headers.remove("x-m");
        }
        let list = headers.0.unwrap();
        assert!(list.texts.len() <= 2 * TEXTS_BYTES && list.headers.len() == 1, "{} bytes", list.texts.len());
    }

    #[test]
    fn children_of_a_message_share_its_long_headers() {
        let mut parent = Headers::new();
        parent.append("x-long", &"v".repeat(10_000)).unwrap();
        let mut child = parent.clone();
        child.set("x-index", "1").unwrap();
        let place = |headers: &Headers| headers.get("x-long").map(str::as_ptr);
        assert_eq!(place(&child), place(&parent));
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
        assert!(headers.append("a", "\u{85}").is_err(), "a control character above ASCII");
        headers.append("a", "tab\tand ünïcode").unwrap();
    }

    #[test]
    fn a_name_is_of_what_can_be_seen_of_ascii_without_colon_and_capitals() {
        for byte in 0..=u8::MAX {
            let expected = byte.is_ascii_graphic() && byte != b':' && !byte.is_ascii_uppercase();
            assert_eq!(kinds_of(byte) & NOT_OF_NAME == 0, expected, "{byte:#04x}");
            assert_eq!(KINDS[usize::from(byte)], kinds_of(byte));
        }
    }

    #[test]
    fn long_and_many_headers_are_kept_whole() {
        let mut headers = Headers::new();
        let long = "v".repeat(SHORT_HEADER_BYTES);
        for n in 0..20 {
            headers.append(&format!("x-{n}"), &long).unwrap();
        }
        let before = headers.clone();
        headers.set("x-0", "short").unwrap();
        assert_eq!((before.get("x-0"), headers.get("x-0")), (Some(&*long), Some("short")));
        assert_eq!((headers.len(), headers.get("x-19")), (20, Some(&*long)));
        assert_eq!(before.bytes(), 10 * 3 + 10 * 4 + 20 * long.len());
    }

    #[test]
    fn what_was_read_out_of_a_body_goes_with_it_and_no_further() {
        let mut message = Message::new("m", Timestamp::from_millis(0), "7");
        let before = message.clone();
        message.keep_reading(7_u32);
        message.keep_reading(8_u32);
        assert_eq!((message.reading::<u32>(), message.reading::<i32>()), (Some(&7), None));
        assert_eq!((message.clone().reading::<u32>(), before.reading::<u32>()), (Some(&7), None));
        let mut other = message.clone();
        other.forget_reading();
        message.set_body("8");
        assert_eq!((message.reading::<u32>(), other.reading::<u32>()), (None, None));
    }

    #[test]
    fn a_message_in_a_log_shows_no_body_and_no_header_value() {
        let mut message = Message::new("m", Timestamp::from_millis(0), "secret body");
        message.headers_mut().append("authorization", "secret header").unwrap();
        assert!(!format!("{message:?}").contains("secret"));
    }
}

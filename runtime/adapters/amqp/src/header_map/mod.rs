//! The map between AMQP's properties and headers, and those of a message, in both directions.
//!
//! | AMQP | header |
//! |---|---|
//! | content-type, content-encoding | `content-type`, `content-encoding` |
//! | delivery-mode, priority, correlation-id, reply-to, expiration, message-id, timestamp, type, user-id, app-id, cluster-id | `amqp-` and the name |
//! | exchange, routing key, redelivered flag: what the delivery says, not the message | `amqp-exchange`, `amqp-routing-key`, `amqp-redelivered` |
//! | an entry of the headers table that is a text | its name in lower case, its text |
//! | any other entry | the same, as text, tables and arrays as JSON; what the text alone does not say stands in `amqp-header-types` |
//!
//! So expressions and plugins see plain texts, and what comes from one queue goes to another as what it was. Integers of every
//! width come out as 64 bits, and floats and decimals as doubles: no client can rely on more.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashSet},
};

use base64::{Engine as _, prelude::BASE64_STANDARD as BASE64};
use gristmill_core::{
    HeaderPatterns, Headers,
    message::{CONTENT_TYPE, MAX_HEADER_NAME_BYTES, check_header},
};
use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldArray, FieldTable, LongString, ShortString},
};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json};
use smallvec::SmallVec;

/// The header that holds the content encoding (RFC 9110 section 8.4).
pub(crate) const CONTENT_ENCODING: &str = "content-encoding";

/// What headers begin with that stand for properties.
const PREFIX: &str = "amqp-";

/// The header that says what the texts of other headers were in AMQP.
const TYPES: &str = "amqp-header-types";

/// What stands before the name of an entry that is taken otherwise.
const TAKEN: &str = "amqp-header-";

/// What a delivery says is not the message's own; a user id is checked by the broker against the connection's.
const NEVER_SENT: [&str; 4] = ["amqp-exchange", "amqp-routing-key", "amqp-redelivered", "amqp-user-id"];

/// How deep tables and arrays may nest; what is deeper is left out.
const MAX_NESTING: usize = 32;

/// What the text of a header was in AMQP, and its name there, when the text and the header's name do not say it.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<Kind>,
}

/// What a value of the headers table is, when it is no plain text.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// A text with control characters: a JSON string.
    String,
    Boolean,
    Integer,
    Number,
    /// Seconds since 1970.
    Timestamp,
    /// A long string that is not UTF-8, in Base64.
    Bytes,
    /// A byte array, in Base64.
    Binary,
    Table,
    Array,
    Void,
}

/// A header that AMQP cannot carry: which, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unfit {
    pub(crate) name: String,
    pub(crate) problem: &'static str,
}

// === from AMQP ===

/// The headers of a message that came with these properties. Nothing that AMQP can carry makes this fail: what no header may
/// hold is written otherwise.
pub(crate) fn headers_of(properties: &BasicProperties) -> Headers {
    let mut headers = Headers::new();
    let mut types = BTreeMap::new();
    fn short(text: &Option<ShortString>) -> Option<Cow<'_, str>> {
        text.as_ref().map(|text| text.as_str().into())
    }
    for (name, text) in [
        (CONTENT_TYPE, short(properties.content_type())),
        (CONTENT_ENCODING, short(properties.content_encoding())),
        ("amqp-delivery-mode", properties.delivery_mode().map(|mode| mode.to_string().into())),
        ("amqp-priority", properties.priority().map(|priority| priority.to_string().into())),
        ("amqp-correlation-id", short(properties.correlation_id())),
        ("amqp-reply-to", short(properties.reply_to())),
        ("amqp-expiration", short(properties.expiration())),
        ("amqp-message-id", short(properties.message_id())),
        ("amqp-timestamp", properties.timestamp().map(|seconds| seconds.to_string().into())),
        ("amqp-type", short(properties.kind())),
        ("amqp-user-id", short(properties.user_id())),
        ("amqp-app-id", short(properties.app_id())),
        ("amqp-cluster-id", short(properties.cluster_id())),
    ] {
        if let Some(text) = text
            && headers.append(name, &text).is_err()
        {
            put(&mut headers, name, &Json::String(text.into_owned()).to_string());
            types.insert(name.to_owned(), Entry { name: None, kind: Some(Kind::String) });
        }
    }
    if let Some(table) = properties.headers() {
        let mut taken = HashSet::new();
        for (name, value) in table.inner() {
            let header = header_name(name.as_str(), &mut taken);
            let (kind, text) = as_text(value);
            put(&mut headers, &header, &text);
            let name = (header != name.as_str()).then(|| name.as_str().to_owned());
            if name.is_some() || kind.is_some() {
                types.insert(header, Entry { name, kind });
            }
        }
    }
    if !types.is_empty()
        && let Ok(json) = serde_json::to_string(&types)
    {
        put(&mut headers, TYPES, &escape_controls(&json));
    }
    headers
}

/// Sets a header whose name and value are good by the way they were made.
fn put(headers: &mut Headers, name: &str, value: &str) {
    let set = headers.set(name, value);
    debug_assert!(set.is_ok(), "{name}: {set:?}");
}

/// The name of the header for an entry of the headers table: in lower case, what no name may hold percent-encoded, and no
/// other's.
fn header_name(name: &str, taken: &mut HashSet<String>) -> String {
    let mut plain = String::with_capacity(name.len());
    for byte in name.bytes() {
        match byte {
            b if b.is_ascii_graphic() && !matches!(b, b':' | b'%') => {
                plain.push(b.to_ascii_lowercase().into())
            }
            b => plain.push_str(&format!("%{b:02x}")),
        }
    }
    // The longest suffix of a number leaves room.
    plain.truncate(MAX_HEADER_NAME_BYTES - TAKEN.len() - 8);
    if plain.is_empty() || plain.starts_with(PREFIX) || plain == CONTENT_TYPE || plain == CONTENT_ENCODING {
        plain = format!("{TAKEN}{plain}");
    }
    let mut unique = plain.clone();
    let mut number = 2;
    while unique == TYPES || !taken.insert(unique.clone()) {
        unique = format!("{plain}-{number}");
        number += 1;
    }
    unique
}

/// A value as the text of a header, and what it was, when the text alone does not say it.
fn as_text(value: &AMQPValue) -> (Option<Kind>, String) {
    match value {
        AMQPValue::LongString(text) => match std::str::from_utf8(text.as_bytes()) {
            Ok(text) => plain_text(text),
            Err(_) => (Some(Kind::Bytes), BASE64.encode(text.as_bytes())),
        },
        AMQPValue::ShortString(text) => plain_text(text.as_str()),
        AMQPValue::ByteArray(bytes) => (Some(Kind::Binary), BASE64.encode(bytes.as_slice())),
        AMQPValue::Timestamp(seconds) => (Some(Kind::Timestamp), seconds.to_string()),
        AMQPValue::Void => (Some(Kind::Void), String::new()),
        AMQPValue::FieldTable(_) => (Some(Kind::Table), json_text(value)),
        AMQPValue::FieldArray(_) => (Some(Kind::Array), json_text(value)),
        AMQPValue::Boolean(is) => (Some(Kind::Boolean), is.to_string()),
        AMQPValue::Float(_) | AMQPValue::Double(_) | AMQPValue::DecimalValue(_) => {
            (Some(Kind::Number), double(value).map_or_else(|| "0".to_owned(), |number| number.to_string()))
        }
        _ => (Some(Kind::Integer), integer(value).unwrap_or_default().to_string()),
    }
}

fn plain_text(text: &str) -> (Option<Kind>, String) {
    if check_header("x", text).is_ok() {
        (None, text.to_owned())
    } else {
        (Some(Kind::String), escape_controls(&Json::String(text.to_owned()).to_string()))
    }
}

fn json_text(value: &AMQPValue) -> String {
    escape_controls(&as_json(value, 0).to_string())
}

/// JSON leaves U+007F to U+009F as they are, which no header may hold.
fn escape_controls(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if c.is_control() {
            escaped.push_str(&format!("\\u{:04x}", u32::from(c)));
        } else {
            escaped.push(c);
        }
    }
    escaped
}

fn integer(value: &AMQPValue) -> Option<i64> {
    Some(match value {
        AMQPValue::ShortShortInt(n) => i64::from(*n),
        AMQPValue::ShortShortUInt(n) => i64::from(*n),
        AMQPValue::ShortInt(n) => i64::from(*n),
        AMQPValue::ShortUInt(n) => i64::from(*n),
        AMQPValue::LongInt(n) => i64::from(*n),
        AMQPValue::LongUInt(n) => i64::from(*n),
        AMQPValue::LongLongInt(n) => *n,
        _ => return None,
    })
}

fn double(value: &AMQPValue) -> Option<f64> {
    Some(match value {
        AMQPValue::Float(x) => f64::from(*x),
        AMQPValue::Double(x) => *x,
        AMQPValue::DecimalValue(decimal) => f64::from(decimal.value) / 10_f64.powi(i32::from(decimal.scale)),
        _ => return None,
    })
}

/// A value inside a table or an array. What JSON has no word for is a map of one key that begins with `$`.
fn as_json(value: &AMQPValue, depth: usize) -> Json {
    let marked = |mark: &str, value: Json| Json::Object(Map::from_iter([(mark.to_owned(), value)]));
    match value {
        AMQPValue::Boolean(is) => Json::Bool(*is),
        AMQPValue::ShortString(text) => Json::String(text.as_str().to_owned()),
        AMQPValue::LongString(text) => match std::str::from_utf8(text.as_bytes()) {
            Ok(text) => Json::String(text.to_owned()),
            Err(_) => marked("$bytes", BASE64.encode(text.as_bytes()).into()),
        },
        AMQPValue::ByteArray(bytes) => marked("$binary", BASE64.encode(bytes.as_slice()).into()),
        AMQPValue::Timestamp(seconds) => marked("$timestamp", (*seconds).into()),
        AMQPValue::FieldTable(_) | AMQPValue::FieldArray(_) if depth >= MAX_NESTING => Json::Null,
        AMQPValue::FieldArray(items) => {
            items.as_slice().iter().map(|item| as_json(item, depth + 1)).collect()
        }
        AMQPValue::FieldTable(table) => {
            let entries = table.inner().iter().map(|(k, v)| (k.as_str().to_owned(), as_json(v, depth + 1)));
            let map: Map<String, Json> = entries.collect();
            // Else it would be read as one of the marks above.
            if is_marked(&map) { marked("$table", Json::Object(map)) } else { Json::Object(map) }
        }
        AMQPValue::Void => Json::Null,
        AMQPValue::Float(_) | AMQPValue::Double(_) | AMQPValue::DecimalValue(_) => match double(value) {
            Some(number) if number.is_finite() => number.into(),
            Some(number) => marked("$number", number.to_string().into()),
            None => Json::Null,
        },
        _ => integer(value).map_or(Json::Null, Json::from),
    }
}

fn is_marked(map: &Map<String, Json>) -> bool {
    map.len() == 1 && map.keys().all(|key| key.starts_with('$'))
}

// === to AMQP ===

/// Properties for a message with these headers, of those that are `forwarded`. A text that is not what
/// `amqp-header-types` says goes as a text: a step has changed it.
///
/// # Errors
/// The header that AMQP cannot carry.
pub(crate) fn properties_of(headers: &Headers, forwarded: &HeaderPatterns) -> Result<BasicProperties, Unfit> {
    let types: BTreeMap<String, Entry> =
        headers.get(TYPES).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let mut properties = BasicProperties::default();
    let mut table = BTreeMap::new();
    let mut seen = Seen::default();
    for (name, text) in headers.iter() {
        if name == TYPES || NEVER_SENT.contains(&name) || !forwarded.takes(name) {
            continue;
        }
        // Of a header that occurs more than once the first one counts: a table holds one.
        if !seen.is_first(name) {
            continue;
        }
        let entry = types.get(name);
        let kind = entry.and_then(|entry| entry.kind);
        let is_property = name == CONTENT_TYPE || name == CONTENT_ENCODING;
        if is_property || (name.starts_with(PREFIX) && !name.starts_with(TAKEN)) {
            let unescaped = kind.and_then(|_| serde_json::from_str::<String>(text).ok());
            properties = set_property(properties, name, unescaped.as_deref().unwrap_or(text))?;
            continue;
        }
        let own = entry.and_then(|entry| entry.name.as_deref());
        let key = own.unwrap_or_else(|| name.strip_prefix(TAKEN).unwrap_or(name));
        let value = kind.and_then(|kind| from_text(kind, text));
        let value = value.unwrap_or_else(|| AMQPValue::LongString(LongString::from(text)));
        table.insert(short_string(name, key)?, value);
    }
    if !table.is_empty() {
        properties = properties.with_headers(FieldTable::from(table));
    }
    Ok(properties)
}

/// The names that have been met. Of a few, to look at each costs less than to hash one.
#[derive(Default)]
struct Seen<'a> {
    few: SmallVec<[&'a str; 8]>,
    many: HashSet<&'a str>,
}

impl<'a> Seen<'a> {
    /// Whether this is the first of its name.
    fn is_first(&mut self, name: &'a str) -> bool {
        if self.few.contains(&name) {
            return false;
        }
        if self.few.len() < self.few.inline_size() {
            self.few.push(name);
            return true;
        }
        self.many.insert(name)
    }
}

/// Sets the property for which a header stands.
///
/// # Errors
/// The text is none that the property can have.
pub(crate) fn set_property(
    properties: BasicProperties,
    name: &str,
    text: &str,
) -> Result<BasicProperties, Unfit> {
    let short = || short_string(name, text);
    let unfit = |problem| Unfit { name: name.to_owned(), problem };
    Ok(match name.strip_prefix(PREFIX).unwrap_or(name) {
        "content-type" => properties.with_content_type(short()?),
        "content-encoding" => properties.with_content_encoding(short()?),
        "delivery-mode" => {
            let mode = text.parse().ok().filter(|mode| matches!(mode, 1 | 2));
            properties.with_delivery_mode(mode.ok_or_else(|| unfit("is 1 (transient) or 2 (persistent)"))?)
        }
        "priority" => {
            let priority = text.parse().map_err(|_| unfit("is a number from 0 to 255"))?;
            properties.with_priority(priority)
        }
        "correlation-id" => properties.with_correlation_id(short()?),
        "reply-to" => properties.with_reply_to(short()?),
        "expiration" => {
            let is_number = text.parse::<u32>().is_ok();
            properties.with_expiration(if is_number {
                short()?
            } else {
                return Err(unfit("is a number of milliseconds"));
            })
        }
        "message-id" => properties.with_message_id(short()?),
        "timestamp" => {
            let seconds = text.parse().map_err(|_| unfit("is a number of seconds since 1970"))?;
            properties.with_timestamp(seconds)
        }
        "type" => properties.with_type(short()?),
        "user-id" => properties.with_user_id(short()?),
        "app-id" => properties.with_app_id(short()?),
        "cluster-id" => properties.with_cluster_id(short()?),
        // Another protocol's header that happens to begin so is not AMQP's to send.
        _ => properties,
    })
}

/// A text of at most 255 bytes (AMQP 0-9-1, section 4.2.5.3).
pub(crate) fn short_string(name: &str, text: &str) -> Result<ShortString, Unfit> {
    ShortString::try_new(text).map_err(|_| Unfit {
        name: name.to_owned(),
        problem: "is longer than the 255 bytes that AMQP allows there",
    })
}

fn from_text(kind: Kind, text: &str) -> Option<AMQPValue> {
    let bytes = || BASE64.decode(text).ok();
    let json = || serde_json::from_str::<Json>(text).ok();
    Some(match kind {
        Kind::String => AMQPValue::LongString(serde_json::from_str::<String>(text).ok()?.into()),
        Kind::Boolean => AMQPValue::Boolean(text.parse().ok()?),
        Kind::Integer => AMQPValue::LongLongInt(text.parse().ok()?),
        Kind::Number => AMQPValue::Double(text.parse().ok()?),
        Kind::Timestamp => AMQPValue::Timestamp(text.parse().ok()?),
        Kind::Bytes => AMQPValue::LongString(LongString::from(bytes()?)),
        Kind::Binary => AMQPValue::ByteArray(bytes()?.into()),
        Kind::Void if text.is_empty() => AMQPValue::Void,
        Kind::Void => return None,
        Kind::Table => from_json(&json().filter(Json::is_object)?)?,
        Kind::Array => from_json(&json().filter(Json::is_array)?)?,
    })
}

/// The way back from [`as_json`]. The parser of JSON bounds the nesting.
fn from_json(json: &Json) -> Option<AMQPValue> {
    Some(match json {
        Json::Null => AMQPValue::Void,
        Json::Bool(is) => AMQPValue::Boolean(*is),
        Json::String(text) => AMQPValue::LongString(text.as_str().into()),
        Json::Number(number) => match number.as_i64() {
            Some(integer) => AMQPValue::LongLongInt(integer),
            None => AMQPValue::Double(number.as_f64()?),
        },
        Json::Array(items) => {
            AMQPValue::FieldArray(FieldArray::from(items.iter().map(from_json).collect::<Option<Vec<_>>>()?))
        }
        Json::Object(map) if is_marked(map) => {
            let (mark, value) = map.iter().next()?;
            let bytes = || BASE64.decode(value.as_str()?).ok();
            match mark.as_str() {
                "$timestamp" => AMQPValue::Timestamp(value.as_u64()?),
                "$bytes" => AMQPValue::LongString(LongString::from(bytes()?)),
                "$binary" => AMQPValue::ByteArray(bytes()?.into()),
                "$number" => AMQPValue::Double(value.as_str()?.parse().ok()?),
                "$table" => table_of(value.as_object()?)?,
                _ => table_of(map)?,
            }
        }
        Json::Object(map) => table_of(map)?,
    })
}

fn table_of(map: &Map<String, Json>) -> Option<AMQPValue> {
    let entries =
        map.iter().map(|(key, value)| Some((ShortString::try_new(key.as_str()).ok()?, from_json(value)?)));
    Some(AMQPValue::FieldTable(FieldTable::from(entries.collect::<Option<BTreeMap<_, _>>>()?)))
}

/// How many bytes the properties take in a frame, or a little more: what is larger than a frame would end the connection.
pub(crate) fn size_of(properties: &BasicProperties) -> usize {
    let short = |text: &Option<ShortString>| text.as_ref().map_or(0, |text| text.as_str().len() + 1);
    let texts = [
        properties.content_type(),
        properties.content_encoding(),
        properties.correlation_id(),
        properties.reply_to(),
        properties.expiration(),
        properties.message_id(),
        properties.kind(),
        properties.user_id(),
        properties.app_id(),
        properties.cluster_id(),
    ];
    let headers = properties.headers().as_ref().map_or(0, table_size);
    // Class, weight, body size, flags, mode, priority, timestamp, and the frame around them.
    64 + texts.into_iter().map(short).sum::<usize>() + headers
}

fn table_size(table: &FieldTable) -> usize {
    4 + table.inner().iter().map(|(name, value)| name.as_str().len() + 1 + value_size(value)).sum::<usize>()
}

fn value_size(value: &AMQPValue) -> usize {
    1 + match value {
        AMQPValue::LongString(text) => 4 + text.len(),
        AMQPValue::ShortString(text) => 1 + text.as_str().len(),
        AMQPValue::ByteArray(bytes) => 4 + bytes.len(),
        AMQPValue::FieldTable(table) => table_size(table),
        AMQPValue::FieldArray(items) => 4 + items.as_slice().iter().map(value_size).sum::<usize>(),
        _ => 8,
    }
}

#[cfg(test)]
mod tests;

//! The values of expressions. The body is parsed straight into them, once a scope; what is large is shared, so that
//! handing a value on costs a reference count, however large it is.

use std::{cell::Cell, fmt, io, sync::Arc};

use indexmap::IndexMap;
use jiff::{SignedDuration, Timestamp};
use serde::{
    Deserializer, Serialize, Serializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor},
    ser::{Error as _, SerializeMap, SerializeSeq},
};

use super::{
    budget::{Budget, MAX_BODY_VALUES},
    error::EvalError,
};

/// Members in the order in which they were written.
pub(crate) type Map = IndexMap<Arc<str>, Value>;

/// A value of an expression.
#[derive(Debug, Clone, Default)]
pub(crate) enum Value {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    /// In a body: an integer above the largest `i64`.
    Uint(u64),
    Double(f64),
    String(Arc<str>),
    List(Arc<Vec<Value>>),
    Map(Arc<Map>),
    Timestamp(Timestamp),
    Duration(SignedDuration),
    /// What `type(x)` gives.
    Type(Kind),
}

/// The type of a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Null,
    Bool,
    Int,
    Uint,
    Double,
    String,
    List,
    Map,
    Timestamp,
    Duration,
    Type,
}

/// Why a text is not JSON that an expression reads.
#[derive(Debug)]
pub(crate) enum JsonError {
    /// It is not JSON; in words, with line and column.
    Syntax(String),
    /// It has more than [`MAX_BODY_VALUES`] values.
    TooManyValues,
    /// Lists and maps in it nest deeper than the reader goes.
    TooDeep,
}

// === impl Kind ===

impl Kind {
    /// Every kind that has a name in expressions.
    pub(crate) const ALL: [Self; 11] = [
        Self::Null,
        Self::Bool,
        Self::Int,
        Self::Uint,
        Self::Double,
        Self::String,
        Self::List,
        Self::Map,
        Self::Timestamp,
        Self::Duration,
        Self::Type,
    ];

    /// The name in expressions, as in `type(x) == string`.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::List => "list",
            Self::Map => "map",
            Self::Timestamp => "timestamp",
            Self::Duration => "duration",
            Self::Type => "type",
        }
    }

    /// The name in a sentence, with its article.
    pub(crate) const fn noun(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "a bool",
            Self::Int => "an int",
            Self::Uint => "a uint",
            Self::Double => "a double",
            Self::String => "a string",
            Self::List => "a list",
            Self::Map => "a map",
            Self::Timestamp => "a timestamp",
            Self::Duration => "a duration",
            Self::Type => "a type",
        }
    }
}

// === impl Value ===

impl Value {
    /// Its type.
    pub(crate) const fn kind(&self) -> Kind {
        match self {
            Self::Null => Kind::Null,
            Self::Bool(_) => Kind::Bool,
            Self::Int(_) => Kind::Int,
            Self::Uint(_) => Kind::Uint,
            Self::Double(_) => Kind::Double,
            Self::String(_) => Kind::String,
            Self::List(_) => Kind::List,
            Self::Map(_) => Kind::Map,
            Self::Timestamp(_) => Kind::Timestamp,
            Self::Duration(_) => Kind::Duration,
            Self::Type(_) => Kind::Type,
        }
    }

    /// Its type in a sentence, with its article.
    pub(crate) const fn noun(&self) -> &'static str {
        self.kind().noun()
    }

    /// A text, paid for.
    pub(crate) fn text(text: &str, budget: &Budget) -> Result<Self, EvalError> {
        budget.make(text.len())?;
        Ok(Self::String(text.into()))
    }

    /// A list, paid for.
    pub(crate) fn list(items: Vec<Self>, budget: &Budget) -> Result<Self, EvalError> {
        budget.make(items.len() * size_of::<Self>())?;
        Ok(Self::List(Arc::new(items)))
    }

    /// From JSON text. Integers become `int` when they fit, else `uint`, else `double`, like every other number. Of two
    /// members of one name the last counts. Nesting above 128 is an error.
    pub(crate) fn from_json(json: &[u8]) -> Result<Self, JsonError> {
        let left = Cell::new(MAX_BODY_VALUES);
        let mut deserializer = serde_json::Deserializer::from_slice(json);
        let parsed = Seed { left: &left }
            .deserialize(&mut deserializer)
            .and_then(|value| deserializer.end().map(|()| value));
        parsed.map_err(|error| match left.get() {
            0 => JsonError::TooManyValues,
            // The reader has no other way to tell these two apart from a text that is not JSON.
            _ if error.to_string().starts_with("recursion limit") => JsonError::TooDeep,
            _ if error.to_string().starts_with("number out of range") => {
                let (line, column) = (error.line(), error.column());
                let text = format!("a number at line {line} column {column} is too large for a double");
                JsonError::Syntax(text)
            }
            _ => JsonError::Syntax(error.to_string()),
        })
    }

    /// As compact JSON, paid for as it is written. Times are RFC 3339 texts, durations are seconds as in `1.5s`.
    pub(crate) fn to_json(&self, budget: &Budget) -> Result<Vec<u8>, EvalError> {
        let mut writer = PaidWriter { bytes: Vec::new(), budget, refused: None };
        match (serde_json::to_writer(&mut writer, self), writer.refused) {
            (Ok(()), _) => Ok(writer.bytes),
            (Err(_), Some(limit)) => Err(limit),
            (Err(error), None) => Err(EvalError::unfit(error.to_string())),
        }
    }

    /// As a text: what `string(x)` gives and what stands in a template. `None` for null, lists, maps and types.
    pub(crate) fn scalar_text(&self, budget: &Budget) -> Result<Option<Arc<str>>, EvalError> {
        let text: Arc<str> = match self {
            Self::String(text) => return Ok(Some(text.clone())),
            Self::Bool(b) => if *b { "true" } else { "false" }.into(),
            Self::Int(i) => i.to_string().into(),
            Self::Uint(u) => u.to_string().into(),
            Self::Double(d) => d.to_string().into(),
            Self::Timestamp(time) => time.to_string().into(),
            Self::Duration(duration) => duration_text(*duration).into(),
            Self::Null | Self::List(_) | Self::Map(_) | Self::Type(_) => return Ok(None),
        };
        budget.make(text.len())?;
        Ok(Some(text))
    }

    /// What `serde_json` holds, for those who go on with it.
    pub(crate) fn into_serde_json(self, budget: &Budget) -> Result<serde_json::Value, EvalError> {
        budget.make(size_of::<serde_json::Value>())?;
        Ok(match self {
            Self::Null => serde_json::Value::Null,
            Self::Bool(b) => b.into(),
            Self::Int(i) => i.into(),
            Self::Uint(u) => u.into(),
            Self::Double(d) => serde_json::Number::from_f64(d)
                .map(serde_json::Value::Number)
                .ok_or_else(|| EvalError::unfit(NOT_FINITE))?,
            Self::String(text) => {
                budget.make(text.len())?;
                serde_json::Value::String((*text).to_owned())
            }
            Self::List(items) => {
                let items = items.iter().map(|item| item.clone().into_serde_json(budget));
                serde_json::Value::Array(items.collect::<Result<_, _>>()?)
            }
            Self::Map(map) => {
                let mut object = serde_json::Map::with_capacity(map.len());
                for (key, value) in map.iter() {
                    budget.make(key.len())?;
                    object.insert((**key).to_owned(), value.clone().into_serde_json(budget)?);
                }
                serde_json::Value::Object(object)
            }
            Self::Timestamp(time) => time.to_string().into(),
            Self::Duration(duration) => duration_text(duration).into(),
            Self::Type(kind) => kind.name().into(),
        })
    }
}

const NOT_FINITE: &str = "a number is infinite or not a number, which JSON cannot hold";

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.into())
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Self::Bool(b)
    }
}

/// Seconds with their fraction, as CEL writes durations: `5400s`, `-0.25s`.
fn duration_text(duration: SignedDuration) -> String {
    let sign = if duration.is_negative() { "-" } else { "" };
    let absolute = duration.unsigned_abs();
    let mut text = format!("{sign}{}", absolute.as_secs());
    if absolute.subsec_nanos() > 0 {
        let fraction = format!("{:09}", absolute.subsec_nanos());
        text.push('.');
        text.push_str(fraction.trim_end_matches('0'));
    }
    text.push('s');
    text
}

impl Serialize for Value {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(b) => serializer.serialize_bool(*b),
            Self::Int(i) => serializer.serialize_i64(*i),
            Self::Uint(u) => serializer.serialize_u64(*u),
            Self::Double(d) if d.is_finite() => serializer.serialize_f64(*d),
            Self::Double(_) => Err(S::Error::custom(NOT_FINITE)),
            Self::String(text) => serializer.serialize_str(text),
            Self::List(items) => {
                let mut list = serializer.serialize_seq(Some(items.len()))?;
                for item in items.iter() {
                    list.serialize_element(item)?;
                }
                list.end()
            }
            Self::Map(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (key, value) in members.iter() {
                    map.serialize_entry(&**key, value)?;
                }
                map.end()
            }
            Self::Timestamp(time) => serializer.collect_str(time),
            Self::Duration(duration) => serializer.serialize_str(&duration_text(*duration)),
            Self::Type(kind) => serializer.serialize_str(kind.name()),
        }
    }
}

/// Writes as long as it is paid for.
struct PaidWriter<'b> {
    bytes: Vec<u8>,
    budget: &'b Budget,
    refused: Option<EvalError>,
}

impl io::Write for PaidWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A step for each piece, because most pieces are smaller than what one step pays for.
        let paid = self.budget.steps(1).and_then(|()| self.budget.make(bytes.len()));
        match paid {
            Ok(()) => {
                self.bytes.extend_from_slice(bytes);
                Ok(bytes.len())
            }
            Err(limit) => {
                self.refused = Some(limit);
                Err(io::ErrorKind::OutOfMemory.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads one value and all in it, counting them down.
#[derive(Clone, Copy)]
struct Seed<'c> {
    left: &'c Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        let left = self.left.get().saturating_sub(1);
        self.left.set(left);
        if left == 0 {
            return Err(de::Error::custom("too many values"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, b: bool) -> Result<Value, E> {
        Ok(Value::Bool(b))
    }

    fn visit_i64<E>(self, i: i64) -> Result<Value, E> {
        Ok(Value::Int(i))
    }

    fn visit_u64<E>(self, u: u64) -> Result<Value, E> {
        Ok(i64::try_from(u).map_or(Value::Uint(u), Value::Int))
    }

    fn visit_f64<E>(self, d: f64) -> Result<Value, E> {
        Ok(Value::Double(d))
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::String(text.into()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(self)? {
            items.push(item);
        }
        items.shrink_to_fit();
        Ok(Value::List(Arc::new(items)))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut map = Map::new();
        while let Some(key) = access.next_key_seed(KeySeed)? {
            map.insert(key, access.next_value_seed(self)?);
        }
        Ok(Value::Map(Arc::new(map)))
    }
}

/// Reads a member's name.
struct KeySeed;

impl<'de> DeserializeSeed<'de> for KeySeed {
    type Value = Arc<str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Arc<str>, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for KeySeed {
    type Value = Arc<str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a member's name")
    }

    fn visit_str<E>(self, text: &str) -> Result<Arc<str>, E> {
        Ok(text.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip(json: &str) -> String {
        let value = Value::from_json(json.as_bytes()).unwrap();
        String::from_utf8(value.to_json(&Budget::new(0)).unwrap()).unwrap()
    }

    #[test]
    fn json_goes_in_and_comes_out_in_its_order() {
        let json = r#"{"b":1,"a":[true,null,-1,1.5,"ü\n"],"c":{"z":{},"y":[]}}"#;
        assert_eq!(round_trip(json), json);
        assert_eq!(round_trip(r#"{"a":1,"b":2,"a":3}"#), r#"{"a":3,"b":2}"#);
    }

    #[test]
    fn integers_are_int_then_uint_then_double() {
        let kinds = |json: &str| Value::from_json(json.as_bytes()).unwrap().kind();
        assert_eq!(kinds("9223372036854775807"), Kind::Int);
        assert_eq!(kinds("-9223372036854775808"), Kind::Int);
        assert_eq!(kinds("9223372036854775808"), Kind::Uint);
        assert_eq!(kinds("18446744073709551616"), Kind::Double);
        assert_eq!(kinds("1.0"), Kind::Double);
    }

    #[test]
    fn what_is_not_json_says_where() {
        let Err(JsonError::Syntax(text)) = Value::from_json(b"{\"a\": tru}") else { panic!("read") };
        assert!(text.contains("line 1 column"), "{text}");
        for bad in ["", "{} {}", "[1,]", "1e999", "\"\u{1}\"", "{1:2}"] {
            assert!(matches!(Value::from_json(bad.as_bytes()), Err(JsonError::Syntax(_))), "{bad}");
        }
        assert!(matches!(Value::from_json(b"\"\xff\""), Err(JsonError::Syntax(_))));
    }

    #[test]
    fn depth_and_number_of_values_are_limited() {
        let deep = "[".repeat(100_000);
        assert!(matches!(Value::from_json(deep.as_bytes()), Err(JsonError::TooDeep)));
        let Err(JsonError::Syntax(text)) = Value::from_json(b"[1e400]") else { panic!("read") };
        assert!(text.contains("too large for a double"), "{text}");
        let many = format!("[{}1]", "1,".repeat(MAX_BODY_VALUES));
        assert!(matches!(Value::from_json(many.as_bytes()), Err(JsonError::TooManyValues)));
    }

    #[test]
    fn durations_are_seconds() {
        for (millis, text) in [(0, "0s"), (5_400_000, "5400s"), (-250, "-0.25s"), (1_500, "1.5s")] {
            assert_eq!(duration_text(SignedDuration::from_millis(millis)), text);
        }
    }
}

//! The tree: values, objects that keep their order, numbers that keep their text.

use std::{borrow::Cow, cmp::Ordering};

/// A JSON value that borrows from the text it was parsed from.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Value<'a> {
    /// `null`
    #[default]
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A number, as it was written.
    Number(Number<'a>),
    /// A string; borrowed unless it had escapes.
    String(Cow<'a, str>),
    /// An array.
    Array(Vec<Value<'a>>),
    /// An object.
    Object(Object<'a>),
}

impl<'a> Value<'a> {
    /// A string.
    #[must_use]
    pub fn string(text: impl Into<Cow<'a, str>>) -> Self {
        Value::String(text.into())
    }

    /// What kind of value this is, with its article, for error texts: "an object", "null".
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        }
    }

    /// Whether this is `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        matches!(self, Value::Null)
    }

    /// The text of a scalar as a person would write it: a string without quotes, a number, `true`, `false`.
    /// `None` for null, arrays and objects.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Value::Bool(true) => Some("true"),
            Value::Bool(false) => Some("false"),
            Value::Number(number) => Some(number.as_str()),
            Value::String(text) => Some(text),
            Value::Null | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// The same value, free of the text it was parsed from.
    #[must_use]
    pub fn into_owned(self) -> Value<'static> {
        match self {
            Value::Null => Value::Null,
            Value::Bool(bool) => Value::Bool(bool),
            Value::Number(number) => Value::Number(number.into_owned()),
            Value::String(text) => Value::String(Cow::Owned(text.into_owned())),
            Value::Array(items) => Value::Array(items.into_iter().map(Value::into_owned).collect()),
            Value::Object(Object(members)) => Value::Object(Object(
                members
                    .into_iter()
                    .map(|(name, value)| (Cow::Owned(name.into_owned()), value.into_owned()))
                    .collect(),
            )),
        }
    }
}

/// From a configuration's constants.
impl From<serde_json::Value> for Value<'static> {
    fn from(value: serde_json::Value) -> Self {
        match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(bool) => Value::Bool(bool),
            serde_json::Value::Number(number) => Value::Number(Number(Cow::Owned(number.to_string()))),
            serde_json::Value::String(text) => Value::String(Cow::Owned(text)),
            serde_json::Value::Array(items) => Value::Array(items.into_iter().map(Value::from).collect()),
            serde_json::Value::Object(members) => Value::Object(Object(
                members.into_iter().map(|(name, value)| (Cow::Owned(name), Value::from(value))).collect(),
            )),
        }
    }
}

// === impl Number ===

/// A JSON number, kept as its text, which fits RFC 8259's grammar.
#[derive(Debug, Clone)]
pub struct Number<'a>(pub(crate) Cow<'a, str>);

impl<'a> Number<'a> {
    /// The number that this text is, if it is one by RFC 8259: no sign `+`, no leading zeros, no blanks.
    #[must_use]
    pub fn from_text(text: impl Into<Cow<'a, str>>) -> Option<Self> {
        let text = text.into();
        (crate::parse::number_length(text.as_bytes()) == Ok(text.len())).then_some(Number(text))
    }

    /// The same number, free of the text it was parsed from.
    #[must_use]
    pub fn into_owned(self) -> Number<'static> {
        Number(Cow::Owned(self.0.into_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// As a signed integer of 64 bits, if written as an integer that fits.
    #[must_use]
    pub fn as_i64(&self) -> Option<i64> {
        self.0.parse().ok()
    }

    /// As the nearest double.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        self.0.parse().ok()
    }

    /// The digits of an integer, whatever its size, without fraction or exponent: `120` for `1.20e2`.
    /// `None` when it is not an integer, or would have more than 400 digits.
    #[must_use]
    pub fn to_integer(&self) -> Option<Number<'a>> {
        const MAX_DIGITS: usize = 400;
        if !self.0.bytes().any(|byte| matches!(byte, b'.' | b'e' | b'E')) {
            let digits = if self.0 == "-0" { Cow::Borrowed("0") } else { self.0.clone() };
            return Some(Number(digits));
        }
        let (mantissa, exponent) = match self.0.split_once(['e', 'E']) {
            Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
            None => (&*self.0, 0),
        };
        let (sign, mantissa) = mantissa.strip_prefix('-').map_or(("", mantissa), |rest| ("-", rest));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let digits = format!("{whole}{fraction}");
        // Where the decimal point stands among the digits.
        let point = i64::try_from(whole.len()).ok()? + i64::from(exponent);
        let significant = digits.trim_end_matches('0');
        if significant.is_empty() {
            return Some(Number(Cow::Borrowed("0")));
        }
        let point = usize::try_from(point).ok().filter(|point| *point <= MAX_DIGITS)?;
        if significant.len() > point {
            return None;
        }
        let integer: String = digits.chars().chain(std::iter::repeat('0')).take(point).collect();
        Some(Number(Cow::Owned(format!("{sign}{}", integer.trim_start_matches('0')))))
    }
}

impl From<i64> for Number<'_> {
    fn from(number: i64) -> Self {
        Number(Cow::Owned(number.to_string()))
    }
}

/// By value: `1`, `1.0` and `1e0` are equal. Integers are compared exactly, everything else as doubles.
impl PartialEq for Number<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.partial_cmp(other) == Some(Ordering::Equal)
    }
}

impl PartialOrd for Number<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        if self.0 == other.0 {
            return Some(Ordering::Equal);
        }
        if let (Some(this), Some(that)) = (self.as_i64(), other.as_i64()) {
            return Some(this.cmp(&that));
        }
        match (self.to_integer(), other.to_integer()) {
            (Some(this), Some(that)) => Some(compare_digits(this.as_str(), that.as_str())),
            _ => self.as_f64().partial_cmp(&other.as_f64()),
        }
    }
}

/// Compares integers of any size: by sign, then by length, then by digits. Neither has leading zeros.
fn compare_digits(this: &str, that: &str) -> Ordering {
    let by_size = |a: &str, b: &str| a.len().cmp(&b.len()).then_with(|| a.cmp(b));
    match (this.strip_prefix('-'), that.strip_prefix('-')) {
        (None, None) => by_size(this, that),
        (Some(this), Some(that)) => by_size(that, this),
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
    }
}

// === impl Object ===

/// A JSON object in the order it was written. Look-ups are linear: objects are small, and their order matters more.
#[derive(Debug, Clone, Default)]
pub struct Object<'a>(pub(crate) Vec<(Cow<'a, str>, Value<'a>)>);

impl<'a> Object<'a> {
    /// An empty object.
    #[must_use]
    pub fn new() -> Self {
        Object::default()
    }

    /// From members whose names are known to be distinct, without looking for repeats.
    #[must_use]
    pub fn from_distinct(members: Vec<(Cow<'a, str>, Value<'a>)>) -> Self {
        Object(members)
    }

    /// The value of a member.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value<'a>> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, value)| value)
    }

    /// Sets a member: in its place when it is there, else at the end.
    pub fn set(&mut self, name: impl Into<Cow<'a, str>>, value: Value<'a>) {
        let name = name.into();
        match self.0.iter_mut().find(|(n, _)| *n == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name, value)),
        }
    }

    /// The members in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value<'a>)> {
        self.0.iter().map(|(name, value)| (&**name, value))
    }

    /// The values in order, to change them.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut Value<'a>> {
        self.0.iter_mut().map(|(_, value)| value)
    }

    /// How many members there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is no member.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<'a> IntoIterator for Object<'a> {
    type Item = (Cow<'a, str>, Value<'a>);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

/// Equal when the same names have equal values, in whatever order.
impl PartialEq for Object<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().all(|(name, value)| other.get(name) == Some(value))
    }
}

impl<'a> FromIterator<(Cow<'a, str>, Value<'a>)> for Object<'a> {
    fn from_iter<I: IntoIterator<Item = (Cow<'a, str>, Value<'a>)>>(members: I) -> Self {
        let mut object = Object::new();
        for (name, value) in members {
            object.set(name, value);
        }
        object
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_integer(text: &str, expected: Option<&str>) {
        let number = Number::from_text(text).unwrap();
        assert_eq!(number.to_integer().as_ref().map(Number::as_str), expected);
    }

    #[test]
    fn integers_are_found_in_every_way_of_writing() {
        check_integer("12", Some("12"));
        check_integer("-0", Some("0"));
        check_integer("0.0", Some("0"));
        check_integer("12.0", Some("12"));
        check_integer("-1.20e2", Some("-120"));
        check_integer("1e3", Some("1000"));
        check_integer("0.05e2", Some("5"));
        check_integer("1200e-2", Some("12"));
        check_integer("123456789012345678901234567890", Some("123456789012345678901234567890"));
        check_integer("1.5", None);
        check_integer("1e-1", None);
        check_integer("1e999999999", None);
        check_integer("1e99999999999999999999", None);
        check_integer("0e5", Some("0"));
    }

    #[test]
    fn numbers_are_equal_by_value_and_exactly() {
        let number = |text: &'static str| Number::from_text(text).unwrap();
        assert_eq!(number("1"), number("1.0"));
        assert_eq!(number("1e2"), number("100"));
        assert_eq!(number("0.5"), number("5e-1"));
        assert_ne!(number("9007199254740993"), number("9007199254740992"));
        assert_ne!(number("1"), number("1.5"));
        assert_ne!(number("12345678901234567890123"), number("12345678901234567890124"));
        assert!(number("12345678901234567890123") < number("12345678901234567890124"));
        assert!(number("-12345678901234567890124") < number("-12345678901234567890123"));
        assert!(number("-12345678901234567890124") < number("1.5"));
        assert!(number("99999999999999999999") < number("100000000000000000000"));
        assert!(number("1.5") < number("2"));
    }

    #[test]
    fn only_json_numbers_are_numbers() {
        for text in ["", "-", "01", "+1", "1.", ".5", "1e", "1e+", " 1", "1 ", "NaN", "0x1"] {
            assert!(Number::from_text(text).is_none(), "{text:?}");
        }
    }
}

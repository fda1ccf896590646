//! Conversions between types. They never guess and never lose digits: what does not fit is refused.

use std::{borrow::Cow, fmt};

use gristmill_json::{Number, Value};
use schemars::JsonSchema;
use serde::Deserialize;

/// What a value can be converted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Type {
    /// Numbers and booleans as they are written; arrays and objects as JSON text.
    String,
    /// Numbers without a fraction and texts of such, of any size; `12.0` becomes `12`.
    Integer,
    /// Numbers and texts of such, as they are written.
    Number,
    /// `true` and `false`, also as text, and 1 and 0.
    Boolean,
    /// A text that holds JSON becomes what it says.
    Json,
    /// What is no array becomes an array of one item.
    Array,
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Type::String => "a string",
            Type::Integer => "an integer",
            Type::Number => "a number",
            Type::Boolean => "a boolean",
            Type::Json => "JSON in a string",
            Type::Array => "an array",
        })
    }
}

/// Converts, or says that the value does not fit.
pub(crate) fn convert(value: Value<'_>, to: Type) -> Option<Value<'_>> {
    match to {
        Type::String => match value {
            Value::String(_) => Some(value),
            other => Some(Value::string(text(&other).into_owned())),
        },
        Type::Integer => number(value)?.to_integer().map(Value::Number),
        Type::Number => number(value).map(Value::Number),
        Type::Boolean => match value.as_text()? {
            "1" => Some(Value::Bool(true)),
            "0" => Some(Value::Bool(false)),
            text if text.eq_ignore_ascii_case("true") => Some(Value::Bool(true)),
            text if text.eq_ignore_ascii_case("false") => Some(Value::Bool(false)),
            _ => None,
        },
        Type::Json => match value {
            Value::String(text) => gristmill_json::parse(text.as_bytes()).ok().map(Value::into_owned),
            _ => None,
        },
        Type::Array => match value {
            Value::Array(_) => Some(value),
            other => Some(Value::Array(vec![other])),
        },
    }
}

/// A number, or one in a text, with blanks around it.
fn number(value: Value<'_>) -> Option<Number<'_>> {
    match value {
        Value::Number(number) => Some(number),
        Value::String(Cow::Borrowed(text)) => Number::from_text(text.trim()),
        Value::String(Cow::Owned(text)) => Number::from_text(text.trim().to_owned()),
        _ => None,
    }
}

/// The text of a value: a scalar as a person writes it, null as nothing, anything else as JSON.
pub(crate) fn text<'v>(value: &'v Value<'_>) -> Cow<'v, str> {
    match value {
        Value::Null => Cow::Borrowed(""),
        Value::Array(_) | Value::Object(_) => {
            Cow::Owned(String::from_utf8_lossy(&value.to_vec()).into_owned())
        }
        scalar => Cow::Borrowed(scalar.as_text().unwrap_or_default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(json: &str, to: Type, expected: Option<&str>) {
        let converted = convert(gristmill_json::parse(json.as_bytes()).unwrap(), to);
        let written = converted.map(|value| String::from_utf8(value.to_vec()).unwrap());
        assert_eq!(written.as_deref(), expected, "{json} to {to}");
    }

    #[test]
    fn to_string() {
        check("12345678901234567890.10", Type::String, Some("\"12345678901234567890.10\""));
        check("true", Type::String, Some("\"true\""));
        check("[1,{\"a\":null}]", Type::String, Some(r#""[1,{\"a\":null}]""#));
    }

    #[test]
    fn to_integer() {
        check("\" 42 \"", Type::Integer, Some("42"));
        check("\"123456789012345678901234567890\"", Type::Integer, Some("123456789012345678901234567890"));
        check("12.00", Type::Integer, Some("12"));
        check("1.5", Type::Integer, None);
        check("\"007\"", Type::Integer, None);
        check("\"abc\"", Type::Integer, None);
        check("true", Type::Integer, None);
        check("[1]", Type::Integer, None);
    }

    #[test]
    fn to_number() {
        check("\"1.50\"", Type::Number, Some("1.50"));
        check("\"NaN\"", Type::Number, None);
        check("{}", Type::Number, None);
    }

    #[test]
    fn to_boolean() {
        check("\"TRUE\"", Type::Boolean, Some("true"));
        check("0", Type::Boolean, Some("false"));
        check("\"yes\"", Type::Boolean, None);
        check("2", Type::Boolean, None);
    }

    #[test]
    fn to_json_and_array() {
        check(r#""{\"a\":\"\\u0041\"}""#, Type::Json, Some(r#"{"a":"A"}"#));
        check("\"{\"", Type::Json, None);
        check("1", Type::Json, None);
        check("1", Type::Array, Some("[1]"));
        check("[1]", Type::Array, Some("[1]"));
    }
}

//! The functions of expressions: those of CEL, and a few that messages need. Each is one row of [`FUNCTIONS`] and
//! depends on its arguments alone; there is no clock and no randomness, so that a retry decides as the first attempt did.
//! What takes a literal (a pattern, a path, a format) is compiled with the expression and is a node of its own.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose};

use super::{
    budget::{Budget, MAX_JSON_NESTING},
    error::EvalError,
    time::{self, Part},
    value::{JsonError, Kind, Value},
};

/// The most arguments that a function takes, the value before the dot included.
pub(crate) const MAX_ARGUMENTS: usize = 3;

/// How a function is called.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Style {
    /// `name(a, b)`
    Global,
    /// `a.name(b)`
    Member,
    /// Either.
    Both,
}

/// A function.
#[derive(Debug)]
pub(crate) struct Function {
    /// The name, with its namespace if it has one: `base64.encode`.
    pub(crate) name: &'static str,
    pub(crate) style: Style,
    /// The fewest and the most arguments, the value before the dot included.
    pub(crate) arguments: (usize, usize),
    /// The type of the result, where it is always the same.
    pub(crate) result: Option<Kind>,
    pub(crate) implementation: fn(&[Value], &Budget) -> Result<Value, EvalError>,
}

/// What must be written as a literal, because it is compiled with the expression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LiteralFunction {
    /// `text.matches(r"…")`, `matches(text, r"…")`
    Matches,
    /// `jsonpath(value, "$…")`
    JsonPath,
    /// `strftime(time, "%Y-%m-%d")`
    Strftime,
}

/// Words that other languages use, and what to write instead.
pub(crate) const ELSEWHERE: &[(&str, &str)] = &[
    ("len", "size"),
    ("length", "size"),
    ("count", "size"),
    ("lower", "lowerAscii"),
    ("toLowerCase", "lowerAscii"),
    ("to_lower", "lowerAscii"),
    ("upper", "upperAscii"),
    ("toUpperCase", "upperAscii"),
    ("to_upper", "upperAscii"),
    ("strip", "trim"),
    ("includes", "contains"),
    ("starts_with", "startsWith"),
    ("ends_with", "endsWith"),
    ("match", "matches"),
    ("regex", "matches"),
    ("any", "exists"),
    ("some", "exists"),
    ("every", "all"),
    ("find", "filter"),
    ("select", "filter"),
    ("str", "string"),
    ("toString", "string"),
    ("float", "double"),
    ("number", "double"),
    ("parseInt", "int"),
    ("date", "timestamp"),
    ("json", "json.decode"),
    ("base64", "base64.encode"),
    ("slice", "substring"),
    ("defined", "has"),
];

/// The functions whose last argument is a literal: name, style, which.
pub(crate) const LITERAL_FUNCTIONS: &[(&str, Style, LiteralFunction)] = &[
    ("matches", Style::Both, LiteralFunction::Matches),
    ("jsonpath", Style::Global, LiteralFunction::JsonPath),
    ("strftime", Style::Global, LiteralFunction::Strftime),
];

const fn function(
    name: &'static str,
    style: Style,
    arguments: (usize, usize),
    result: Option<Kind>,
    implementation: fn(&[Value], &Budget) -> Result<Value, EvalError>,
) -> Function {
    Function { name, style, arguments, result, implementation }
}

/// Every function whose arguments are all values.
#[rustfmt::skip]
pub(crate) const FUNCTIONS: &[Function] = &[
    function("size", Style::Both, (1, 1), Some(Kind::Int), size),
    function("contains", Style::Member, (2, 2), Some(Kind::Bool), contains),
    function("startsWith", Style::Member, (2, 2), Some(Kind::Bool), starts_with),
    function("endsWith", Style::Member, (2, 2), Some(Kind::Bool), ends_with),
    function("indexOf", Style::Member, (2, 2), Some(Kind::Int), index_of),
    function("substring", Style::Member, (2, 3), Some(Kind::String), substring),
    function("lowerAscii", Style::Member, (1, 1), Some(Kind::String), lower_ascii),
    function("upperAscii", Style::Member, (1, 1), Some(Kind::String), upper_ascii),
    function("trim", Style::Member, (1, 1), Some(Kind::String), trim),
    function("replace", Style::Member, (3, 3), Some(Kind::String), replace),
    function("split", Style::Member, (2, 2), Some(Kind::List), split),
    function("join", Style::Member, (1, 2), Some(Kind::String), join),
    function("string", Style::Global, (1, 1), Some(Kind::String), string),
    function("int", Style::Global, (1, 1), Some(Kind::Int), int),
    function("uint", Style::Global, (1, 1), Some(Kind::Uint), uint),
    function("double", Style::Global, (1, 1), Some(Kind::Double), double),
    function("bool", Style::Global, (1, 1), Some(Kind::Bool), bool_),
    function("type", Style::Global, (1, 1), Some(Kind::Type), type_),
    function("timestamp", Style::Global, (1, 1), Some(Kind::Timestamp), timestamp),
    function("duration", Style::Global, (1, 1), Some(Kind::Duration), duration),
    function("json.decode", Style::Global, (1, 1), None, json_decode),
    function("json.encode", Style::Global, (1, 1), Some(Kind::String), json_encode),
    function("base64.decode", Style::Global, (1, 1), Some(Kind::String), base64_decode),
    function("base64.encode", Style::Global, (1, 1), Some(Kind::String), base64_encode),
    function("getFullYear", Style::Member, (1, 1), Some(Kind::Int), |a, _| part("getFullYear", Part::FullYear, a)),
    function("getMonth", Style::Member, (1, 1), Some(Kind::Int), |a, _| part("getMonth", Part::Month, a)),
    function("getDate", Style::Member, (1, 1), Some(Kind::Int), |a, _| part("getDate", Part::Date, a)),
    function("getDayOfWeek", Style::Member, (1, 1), Some(Kind::Int), |a, _| part("getDayOfWeek", Part::DayOfWeek, a)),
    function("getDayOfYear", Style::Member, (1, 1), Some(Kind::Int), |a, _| part("getDayOfYear", Part::DayOfYear, a)),
    function("getHours", Style::Member, (1, 1), Some(Kind::Int), |a, _| part("getHours", Part::Hours, a)),
    function("getMinutes", Style::Member, (1, 1), Some(Kind::Int), |a, _| part("getMinutes", Part::Minutes, a)),
    function("getSeconds", Style::Member, (1, 1), Some(Kind::Int), |a, _| part("getSeconds", Part::Seconds, a)),
    function("getMilliseconds", Style::Member, (1, 1), Some(Kind::Int), |a, _| part("getMilliseconds", Part::Milliseconds, a)),
];

/// A call whose arguments have types that the function does not take.
fn misfit(name: &str, wants: &str, arguments: &[Value]) -> EvalError {
    let given: Vec<_> = arguments.iter().map(Value::noun).collect();
    EvalError::unfit(format!("`{name}` wants {wants}, not {}", given.join(" and ")))
}

fn count(n: usize) -> Value {
    Value::Int(i64::try_from(n).unwrap_or(i64::MAX))
}

fn size(arguments: &[Value], budget: &Budget) -> Result<Value, EvalError> {
    match arguments {
        [Value::String(text)] => {
            budget.read(text.len())?;
            Ok(count(text.chars().count()))
        }
        [Value::List(items)] => Ok(count(items.len())),
        [Value::Map(map)] => Ok(count(map.len())),
        _ => Err(misfit("size", "a string, a list or a map", arguments)),
    }
}

/// What works on a text and a part to look for.
fn text_and_part<'a>(
    name: &str,
    arguments: &'a [Value],
    budget: &Budget,
) -> Result<(&'a str, &'a str), EvalError> {
    match arguments {
        [Value::String(text), Value::String(part)] => {
            budget.read(text.len() + part.len())?;
            Ok((text, part))
        }
        _ => Err(misfit(name, "two strings", arguments)),
    }
}

fn contains(arguments: &[Value], budget: &Budget) -> Result<Value, EvalError> {
    if let [Value::List(_) | Value::Map(_), _] = arguments {
        return Err(EvalError::unfit(
            "`contains` searches in strings: for a list or a map write `x in list`",
        ));
    }
    text_and_part("contains", arguments, budget).map(|(text, part)| text.contains(part).into())
}

fn starts_with(arguments: &[Value], budget: &Budget) -> Result<Value, EvalError> {
    text_and_part("startsWith", arguments, budget).map(|(text, part)| text.starts_with(part).into())
}

fn ends_with(arguments: &[Value], budget: &Budget) -> Result<Value, EvalError> {
    text_and_part("endsWith", arguments, budget).map(|(text, part)| text.ends_with(part).into())
}

fn index_of(arguments: &[Value], budget: &Budget) -> Result<Value, EvalError> {
    let (text, part) = text_and_part("indexOf", arguments, budget)?;
    budget.read(text.len())?;
    let before = text.find(part).and_then(|at| text.get(..at));
    Ok(before.map_or(Value::Int(-1), |before| count(before.chars().count())))
}

fn substring(arguments: &[Value], budget: &Budget) -> Result<Value, EvalError> {
    let (text, start, end) = match arguments {
        [Value::String(text), Value::Int(start)] => (text, *start, None),
        [Value::String(text), Value::Int(start), Value::Int(end)] => (text, *start, Some(*end)),
        _ => return Err(misfit("substring", "a string and one or two ints", arguments)),
    };
    budget.read_slowly(text.len())?;
    // The byte at which the character of that number starts; one past the last character is the end of the text.
    let byte_at = |n: i64| {
        let n = usize::try_from(n).ok()?;
        text.char_indices().map(|(at, _)| at).chain([text.len()]).nth(n)
    };
    byte_at(start)
        .zip(end.map_or(Some(text.len()), byte_at))
        .and_then(|(start, end)| text.get(start..end))
        .ok_or_else(|| EvalError::unfit("`substring` asks for characters that the string does not have"))
        .and_then(|part| Value::text(part, budget))
}

fn one_text<'a>(name: &str, arguments: &'a [Value], budget: &Budget) -> Result<&'a str, EvalError> {
    match arguments {
        [Value::String(text)] => {
            budget.read(text.len())?;
            Ok(text)
        }
        _ => Err(misfit(name, "a string", arguments)),
    }
}

fn lower_ascii(arguments: &[Value], budget: &Budget) -> Result<Value, EvalError> {
    let text = one_text("lowerAscii", arguments, budget)?;
    budget.make(text.len())?;
    Ok(Value::String(text.to_ascii_lowercase().into()))
}

fn upper_ascii(arguments: &[Value], budget: &Budget) -> Result<Value, EvalError> {
    let text = one_text("upperAscii", arguments, budget)?;
    budget.make(text.len())?;
    Ok(Value::String(text.to_ascii_uppercase().into()))
}

fn trim(arguments: &[Value], budget: &Budget) -> Result<Value, EvalError> {
    Value::text(one_text("trim", arguments, budget)?.trim(), budget)
}

fn replace(arguments: &[Value], budget: &Budget) -> Result<Value, EvalError> {
    let [Value::String(text), Value::String(from), Value::String(to)] = arguments else {
        return Err(misfit("replace", "three strings", arguments));
    };
    if from.is_empty() {
        return Err(EvalError::unfit("`replace` is given nothing to look for"));
    }
    budget.read_slowly(text.len())?;
    let occurrences = text.matches(&**from).count();
    // Some bytes for each, so that very many very short ones are paid for too.
    budget.make(text.len() + occurrences * (to.len() + 8))?;
    Ok(Value::String(text.replace(&**from, to).into()))
}

/// What an element of a list costs beside its own bytes: its place in the list and its allocation.
const ITEM_BYTES: usize = size_of::<Value>() + 32;

fn split(arguments: &[Value], budget: &Budget) -> Result<Value, EvalError> {
    let (text, separator) = text_and_part("split", arguments, budget)?;
    if separator.is_empty() {
        return Err(EvalError::unfit("`split` is given nothing to split at"));
    }
    let mut parts = Vec::new();
    for part in text.split(separator) {
        budget.steps(2)?;
        budget.make(ITEM_BYTES + part.len())?;
        parts.push(part.into());
    }
    Ok(Value::List(Arc::new(parts)))
}

fn join(arguments: &[Value], budget: &Budget) -> Result<Value, EvalError> {
    let (items, separator) = match arguments {
        [Value::List(items)] => (items, ""),
        [Value::List(items), Value::String(separator)] => (items, &**separator),
        _ => return Err(misfit("join", "a list and a string", arguments)),
    };
    let mut joined = String::new();
    for (index, item) in items.iter().enumerate() {
        let Value::String(item) = item else {
            return Err(EvalError::unfit(format!(
                "`join` wants a list of strings, and its element {index} is {}: convert with `.map(x, string(x))`",
                item.noun()
            )));
        };
        let separator = if index == 0 { "" } else { separator };
        budget.steps(1)?;
        budget.make(separator.len() + item.len())?;
        joined.push_str(separator);
        joined.push_str(item);
    }
    Ok(Value::String(joined.into()))
}

fn string(arguments: &[Value], budget: &Budget) -> Result<Value, EvalError> {
    let [value] = arguments else { return Err(misfit("string", "one value", arguments)) };
    match value.scalar_text(budget)? {
        Some(text) => Ok(Value::String(text)),
        None => match value {
            Value::List(_) | Value::Map(_) => Err(EvalError::unfit(format!(
                "`string` does not take {}: use `json.encode(…)`",
                value.noun()
            ))),
            _ => Err(misfit("string", "a value", arguments)),
        },
    }
}

/// Doubles at and above this are no `i64`.
const TWO_TO_63: f64 = 9_223_372_036_854_775_808.0;
/// Doubles at and above this are no `u64`.
const TWO_TO_64: f64 = 18_446_744_073_709_551_616.0;

fn int(arguments: &[Value], _: &Budget) -> Result<Value, EvalError> {
    let too_large = || EvalError::unfit("`int` is given a number that is too large");
    match arguments {
        [Value::Int(i)] => Ok(Value::Int(*i)),
        [Value::Uint(u)] => i64::try_from(*u).map(Value::Int).map_err(|_| too_large()),
        [Value::Double(d)] if *d > -TWO_TO_63 && *d < TWO_TO_63 => Ok(Value::Int(d.trunc() as i64)),
        [Value::Double(_)] => Err(too_large()),
        [Value::Timestamp(time)] => Ok(Value::Int(time.as_second())),
        [Value::String(text)] => text
            .parse()
            .map(Value::Int)
            .map_err(|_| EvalError::unfit("`int` is given a string that is no whole number")),
        _ => Err(misfit("int", "a number, a string or a timestamp", arguments)),
    }
}

fn uint(arguments: &[Value], _: &Budget) -> Result<Value, EvalError> {
    let out_of_range = || EvalError::unfit("`uint` is given a number that is negative or too large");
    match arguments {
        [Value::Uint(u)] => Ok(Value::Uint(*u)),
        [Value::Int(i)] => u64::try_from(*i).map(Value::Uint).map_err(|_| out_of_range()),
        [Value::Double(d)] if *d > -1.0 && *d < TWO_TO_64 => Ok(Value::Uint(d.trunc() as u64)),
        [Value::Double(_)] => Err(out_of_range()),
        [Value::String(text)] => text
            .parse()
            .map(Value::Uint)
            .map_err(|_| EvalError::unfit("`uint` is given a string that is no whole number from 0")),
        _ => Err(misfit("uint", "a number or a string", arguments)),
    }
}

fn double(arguments: &[Value], _: &Budget) -> Result<Value, EvalError> {
    match arguments {
        [Value::Double(d)] => Ok(Value::Double(*d)),
        [Value::Int(i)] => Ok(Value::Double(*i as f64)),
        [Value::Uint(u)] => Ok(Value::Double(*u as f64)),
        // Longer texts of numbers exist, but none that says more.
        [Value::String(text)] if text.len() <= 512 => text
            .parse()
            .map(Value::Double)
            .map_err(|_| EvalError::unfit("`double` is given a string that is no number")),
        [Value::String(_)] => Err(EvalError::unfit("`double` is given a string that is no number")),
        _ => Err(misfit("double", "a number or a string", arguments)),
    }
}

fn bool_(arguments: &[Value], _: &Budget) -> Result<Value, EvalError> {
    match arguments {
        [Value::Bool(b)] => Ok(Value::Bool(*b)),
        [Value::String(text)] => match &**text {
            "true" | "True" | "TRUE" | "t" | "1" => Ok(true.into()),
            "false" | "False" | "FALSE" | "f" | "0" => Ok(false.into()),
            _ => Err(EvalError::unfit("`bool` is given a string that is neither true nor false")),
        },
        _ => Err(misfit("bool", "a bool or a string", arguments)),
    }
}

fn type_(arguments: &[Value], _: &Budget) -> Result<Value, EvalError> {
    match arguments {
        [value] => Ok(Value::Type(value.kind())),
        _ => Err(misfit("type", "one value", arguments)),
    }
}

fn timestamp(arguments: &[Value], _: &Budget) -> Result<Value, EvalError> {
    match arguments {
        [Value::Timestamp(time)] => Ok(Value::Timestamp(*time)),
        [Value::String(text)] => time::timestamp_from(text),
        [Value::Int(seconds)] => time::timestamp_from_seconds(*seconds),
        _ => Err(misfit("timestamp", "a string as of RFC 3339 or seconds since 1970", arguments)),
    }
}

fn duration(arguments: &[Value], _: &Budget) -> Result<Value, EvalError> {
    match arguments {
        [Value::Duration(duration)] => Ok(Value::Duration(*duration)),
        [Value::String(text)] => time::duration_from(text),
        _ => Err(misfit("duration", "a string", arguments)),
    }
}

fn json_decode(arguments: &[Value], budget: &Budget) -> Result<Value, EvalError> {
    let text = one_text("json.decode", arguments, budget)?;
    // A value of two bytes may take an allocation of many times that.
    budget.steps(8 + text.len() as u64 / 2)?;
    budget.make(text.len().saturating_mul(8))?;
    Value::from_json(text.as_bytes()).map_err(|error| match error {
        JsonError::Syntax(text) => EvalError::unfit(format!("`json.decode` is given no JSON: {text}")),
        JsonError::TooDeep => {
            EvalError::Limit(format!("decodes JSON that nests deeper than {MAX_JSON_NESTING} levels"))
        }
        JsonError::TooManyValues => EvalError::Limit("decodes JSON with too many values".to_owned()),
    })
}

fn json_encode(arguments: &[Value], budget: &Budget) -> Result<Value, EvalError> {
    let [value] = arguments else { return Err(misfit("json.encode", "one value", arguments)) };
    let json = value.to_json(budget)?;
    String::from_utf8(json)
        .map(|text| Value::String(text.into()))
        .map_err(|_| EvalError::unfit("`json.encode` made what is not UTF-8"))
}

fn base64_encode(arguments: &[Value], budget: &Budget) -> Result<Value, EvalError> {
    let text = one_text("base64.encode", arguments, budget)?;
    budget.make(text.len() + text.len() / 3)?;
    Ok(Value::String(general_purpose::STANDARD.encode(text).into()))
}

fn base64_decode(arguments: &[Value], budget: &Budget) -> Result<Value, EvalError> {
    let text = one_text("base64.decode", arguments, budget)?;
    budget.make(text.len())?;
    let unpadded = text.trim_end_matches('=');
    let bytes = general_purpose::STANDARD_NO_PAD
        .decode(unpadded)
        .map_err(|_| EvalError::unfit("`base64.decode` is given a string that is not Base64"))?;
    String::from_utf8(bytes)
        .map(|text| Value::String(text.into()))
        .map_err(|_| EvalError::unfit("`base64.decode` found bytes that are not UTF-8 text"))
}

fn part(name: &str, part: Part, arguments: &[Value]) -> Result<Value, EvalError> {
    match arguments {
        [value @ (Value::Timestamp(_) | Value::Duration(_))] => part.of(value),
        _ => Err(misfit(name, "a timestamp", arguments)),
    }
}

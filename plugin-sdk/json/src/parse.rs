//! From bytes to a tree (RFC 8259), strictly, with the place of the first mistake.

use std::{borrow::Cow, collections::HashSet, fmt};

use crate::{Number, Object, Value};

/// How deep arrays and objects may nest; the same limit as `serde_json`'s, and safe for a guest's small stack.
pub const MAX_DEPTH: usize = 128;

/// Up to this many members an object's repeated names are found by comparing all pairs, above it by hashing.
const SMALL_OBJECT: usize = 16;

/// Why a text is not JSON, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ParseError {
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
    /// What was expected or found.
    pub reason: &'static str,
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at line {}, column {}", self.reason, self.line, self.column)
    }
}

impl std::error::Error for ParseError {}

/// Parses one JSON value; only white space may surround it.
///
/// # Errors
/// When the bytes are not UTF-8 or not JSON, or nest deeper than [`MAX_DEPTH`].
pub fn parse(bytes: &[u8]) -> Result<Value<'_>, ParseError> {
    let text = match str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let valid = bytes.get(..error.valid_up_to()).unwrap_or_default();
            return Err(locate(valid, valid.len(), "invalid UTF-8"));
        }
    };
    let mut parser = Parser { text, bytes, at: 0, depth: 0 };
    parser.document().map_err(|reason| locate(bytes, parser.at, reason))
}

/// Turns an offset into line and column.
fn locate(bytes: &[u8], at: usize, reason: &'static str) -> ParseError {
    let before = bytes.get(..at).unwrap_or(bytes);
    let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |newline| newline + 1);
    let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
    // Bytes that continue a character are not columns.
    let column = before.iter().skip(line_start).filter(|byte| **byte & 0xC0 != 0x80).count() + 1;
    ParseError { line, column, reason }
}

/// The length of the number at the start of these bytes, or how many bytes of it are good and what should follow.
pub(crate) fn number_length(bytes: &[u8]) -> Result<usize, (usize, &'static str)> {
    let digits = |from: usize| bytes.iter().skip(from).take_while(|byte| byte.is_ascii_digit()).count();
    let mut at = usize::from(bytes.first() == Some(&b'-'));
    match digits(at) {
        0 => return Err((at, "expected a digit")),
        many if many > 1 && bytes.get(at) == Some(&b'0') => {
            return Err((at + 1, "a number has a leading zero"));
        }
        many => at += many,
    }
    if bytes.get(at) == Some(&b'.') {
        match digits(at + 1) {
            0 => return Err((at + 1, "expected a digit after the decimal point")),
            many => at += 1 + many,
        }
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        at += 1 + usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        match digits(at) {
            0 => return Err((at, "expected a digit in the exponent")),
            many => at += many,
        }
    }
    Ok(at)
}

/// The text and how far it is read. `bytes` is the same text, for looking at single bytes.
struct Parser<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

type Parsed<T> = Result<T, &'static str>;

impl<'a> Parser<'a> {
    fn document(&mut self) -> Parsed<Value<'a>> {
        self.blanks();
        if self.peek().is_none() {
            return Err("the body is empty");
        }
        let value = self.value()?;
        self.blanks();
        if self.peek().is_some() { Err("expected the end after the JSON value") } else { Ok(value) }
    }

    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn blanks(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    fn value(&mut self) -> Parsed<Value<'a>> {
        match self.peek() {
            Some(b'{') => self.nested(Self::object),
            Some(b'[') => self.nested(Self::array),
            Some(b'"') => Ok(Value::String(self.string()?)),
            Some(b't') => self.word("true", Value::Bool(true)),
            Some(b'f') => self.word("false", Value::Bool(false)),
            Some(b'n') => self.word("null", Value::Null),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(_) => Err("expected a JSON value"),
            None => Err("the JSON ends too early"),
        }
    }

    fn nested(&mut self, parse: fn(&mut Self) -> Parsed<Value<'a>>) -> Parsed<Value<'a>> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err("arrays and objects nest deeper than 128");
        }
        self.at += 1;
        self.blanks();
        let value = parse(self)?;
        self.depth -= 1;
        Ok(value)
    }

    fn array(&mut self) -> Parsed<Value<'a>> {
        let mut items = Vec::new();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Value::Array(items));
        }
        loop {
            items.push(self.value()?);
            if self.ends(b']', "expected `,` or `]`")? {
                return Ok(Value::Array(items));
            }
        }
    }

    fn object(&mut self) -> Parsed<Value<'a>> {
        let mut members = Vec::new();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(Value::Object(Object(members)));
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(if self.peek().is_some() {
                    "expected a name in quotes"
                } else {
                    "the JSON ends too early"
                });
            }
            let name = self.string()?;
            self.blanks();
            match self.peek() {
                Some(b':') => self.at += 1,
                Some(_) => return Err("expected `:`"),
                None => return Err("the JSON ends too early"),
            }
            self.blanks();
            let value = self.value()?;
            members.push((name, value));
            if self.ends(b'}', "expected `,` or `}`")? {
                return Ok(Value::Object(Object(without_repeats(members))));
            }
        }
    }

    /// After an item: whether the container ends here, or goes on after a comma.
    fn ends(&mut self, close: u8, expected: &'static str) -> Parsed<bool> {
        self.blanks();
        match self.peek() {
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(true)
            }
            Some(b',') => {
                self.at += 1;
                self.blanks();
                Ok(false)
            }
            Some(_) => Err(expected),
            None => Err("the JSON ends too early"),
        }
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Parsed<Value<'a>> {
        if self.bytes.get(self.at..).is_some_and(|rest| rest.starts_with(word.as_bytes())) {
            self.at += word.len();
            Ok(value)
        } else {
            Err("expected a JSON value")
        }
    }

    fn number(&mut self) -> Parsed<Value<'a>> {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        match number_length(rest) {
            Ok(length) => {
                let text = self.slice(self.at, self.at + length);
                self.at += length;
                Ok(Value::Number(Number(Cow::Borrowed(text))))
            }
            Err((good, reason)) => {
                self.at += good;
                Err(reason)
            }
        }
    }

    fn slice(&self, from: usize, to: usize) -> &'a str {
        self.text.get(from..to).unwrap_or_default()
    }

    /// At the opening quote.
    fn string(&mut self) -> Parsed<Cow<'a, str>> {
        self.at += 1;
        let start = self.at;
        self.plain();
        if self.peek() == Some(b'"') {
            let text = self.slice(start, self.at);
            self.at += 1;
            return Ok(Cow::Borrowed(text));
        }
        let mut text = self.slice(start, self.at).to_owned();
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(Cow::Owned(text));
                }
                Some(b'\\') => text.push(self.escape()?),
                Some(_) => return Err("a control character in a string must be escaped"),
                None => return Err("a string is not closed"),
            }
            let start = self.at;
            self.plain();
            text.push_str(self.slice(start, self.at));
        }
    }

    /// Skips what stands for itself inside a string.
    fn plain(&mut self) {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let length = rest.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20));
        self.at += length.unwrap_or(rest.len());
    }

    /// At the backslash.
    fn escape(&mut self) -> Parsed<char> {
        self.at += 1;
        let character = match self.peek() {
            Some(b'"') => '"',
            Some(b'\\') => '\\',
            Some(b'/') => '/',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'n') => '\n',
            Some(b'r') => '\r',
            Some(b't') => '\t',
            Some(b'u') => {
                self.at += 1;
                return self.unicode();
            }
            Some(_) => return Err("unknown escape in a string"),
            None => return Err("a string is not closed"),
        };
        self.at += 1;
        Ok(character)
    }

    /// After `\u`: one character, which may take a pair of escapes.
    fn unicode(&mut self) -> Parsed<char> {
        const LONE: &str = "half of a surrogate pair in a string";
        let first = self.hex4()?;
        let code = match first {
            0xD800..=0xDBFF => {
                if self.bytes.get(self.at..self.at + 2) != Some(b"\\u") {
                    return Err(LONE);
                }
                self.at += 2;
                match self.hex4()? {
                    second @ 0xDC00..=0xDFFF => 0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00),
                    _ => return Err(LONE),
                }
            }
            code => code,
        };
        char::from_u32(code).ok_or(LONE)
    }

    fn hex4(&mut self) -> Parsed<u32> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            code = code * 16 + digit.ok_or("expected four hexadecimal digits after `\\u`")?;
            self.at += 1;
        }
        Ok(code)
    }
}

/// Of members with the same name the last one wins, in the place of the first, as in JavaScript.
fn without_repeats<'a>(members: Vec<(Cow<'a, str>, Value<'a>)>) -> Vec<(Cow<'a, str>, Value<'a>)> {
    let repeats = if members.len() <= SMALL_OBJECT {
        members
            .iter()
            .enumerate()
            .any(|(i, (name, _))| members.iter().take(i).any(|(other, _)| other == name))
    } else {
        let mut names = HashSet::with_capacity(members.len());
        !members.iter().all(|(name, _)| names.insert(&**name))
    };
    if !repeats {
        return members;
    }
    let mut places = std::collections::HashMap::with_capacity(members.len());
    let mut kept: Vec<(Cow<'a, str>, Value<'a>)> = Vec::with_capacity(members.len());
    for (name, value) in members {
        match places.get(&name).and_then(|place: &usize| kept.get_mut(*place)) {
            Some(member) => member.1 = value,
            None => {
                places.insert(name.clone(), kept.len());
                kept.push((name, value));
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let value = parse(text.as_bytes()).unwrap();
        assert_eq!(String::from_utf8(value.to_vec()).unwrap(), expected);
    }

    #[track_caller]
    fn check_refused(text: impl AsRef<[u8]>, expected: &str) {
        assert_eq!(parse(text.as_ref()).unwrap_err().to_string(), expected);
    }

    #[test]
    fn what_is_written_is_kept() {
        check(
            r#" {"a":[1,-2.50,1E+3,true,false,null,""],"b":{}} "#,
            r#"{"a":[1,-2.50,1E+3,true,false,null,""],"b":{}}"#,
        );
        check("12345678901234567890123.10", "12345678901234567890123.10");
        check(r#""\u0041\n\"\\\/\ud83d\ude00é""#, "\"A\\n\\\"\\\\/😀é\"");
        check("[]", "[]");
    }

    #[test]
    fn of_repeated_names_the_last_wins_in_small_and_large_objects() {
        check(r#"{"a":1,"b":2,"a":3}"#, r#"{"a":3,"b":2}"#);
        let many: Vec<String> = (0..40).map(|i| format!("\"n{}\":{i}", i % 20)).collect();
        let parsed = format!("{{{}}}", many.join(","));
        let expected: Vec<String> = (0..20).map(|i| format!("\"n{i}\":{}", i + 20)).collect();
        check(&parsed, &format!("{{{}}}", expected.join(",")));
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        check_refused("", "the body is empty at line 1, column 1");
        check_refused("{\n \"a\" 1}", "expected `:` at line 2, column 6");
        check_refused("[1 2]", "expected `,` or `]` at line 1, column 4");
        check_refused("{\"é\":tru}", "expected a JSON value at line 1, column 6");
        check_refused("[1,]", "expected a JSON value at line 1, column 4");
        check_refused("{\"a\":1,}", "expected a name in quotes at line 1, column 8");
        check_refused("[", "the JSON ends too early at line 1, column 2");
        check_refused("{\"a\"", "the JSON ends too early at line 1, column 5");
        check_refused("{} {}", "expected the end after the JSON value at line 1, column 4");
        check_refused("01", "a number has a leading zero at line 1, column 2");
        check_refused("-", "expected a digit at line 1, column 2");
        check_refused("\"a", "a string is not closed at line 1, column 3");
        check_refused("\"a\nb\"", "a control character in a string must be escaped at line 1, column 3");
        check_refused("\"\\x\"", "unknown escape in a string at line 1, column 3");
        check_refused("\"\\ud800\"", "half of a surrogate pair in a string at line 1, column 8");
        check_refused("\"\\ud800\\u0041\"", "half of a surrogate pair in a string at line 1, column 14");
        check_refused("\"\\u12\"", "expected four hexadecimal digits after `\\u` at line 1, column 6");
        check_refused(b"\"ab\xff\"", "invalid UTF-8 at line 1, column 4");
        check_refused("<a/>", "expected a JSON value at line 1, column 1");
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert!(parse(nested(MAX_DEPTH).as_bytes()).is_ok());
        let refused = parse("[".repeat(1_000_000).as_bytes()).unwrap_err();
        assert_eq!(refused.reason, "arrays and objects nest deeper than 128");
    }
}

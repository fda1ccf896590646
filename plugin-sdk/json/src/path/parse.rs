//! From text to a query: the grammar of RFC 9535, strictly, by recursive descent.

use super::ast::{Comparison, Logical, Operand, Pattern, Query, Segment, Selector};
use crate::{Number, Value};

/// How deep filters and parentheses may nest.
const MAX_NESTING: usize = 32;

/// The largest integer in a path: RFC 9535 wants those that a double holds exactly.
const MAX_INTEGER: i64 = (1 << 53) - 1;

/// What is wrong, and at which byte.
#[derive(Debug)]
pub(super) struct Mistake {
    pub(super) at: usize,
    pub(super) reason: &'static str,
}

type Parsed<T> = Result<T, Mistake>;

/// Parses a whole path.
pub(super) fn parse(text: &str) -> Parsed<Query> {
    let mut parser = Parser { text, at: 0, nesting: 0 };
    if !parser.take("$") {
        return parser.fail("expected `$`");
    }
    let segments = parser.segments()?;
    if parser.at < text.len() {
        return parser.fail("expected `.`, `..`, `[` or the end");
    }
    Ok(Query { from_root: true, segments })
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
    nesting: usize,
}

impl Parser<'_> {
    fn rest(&self) -> &str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    /// Takes this text, if it comes next.
    fn take(&mut self, expected: &str) -> bool {
        let found = self.rest().starts_with(expected);
        if found {
            self.at += expected.len();
        }
        found
    }

    fn blanks(&mut self) {
        let rest = self.rest();
        self.at += rest.len() - rest.trim_start_matches([' ', '\t', '\n', '\r']).len();
    }

    fn fail<T>(&self, reason: &'static str) -> Parsed<T> {
        Err(Mistake { at: self.at, reason })
    }

    fn nested<T>(&mut self, parse: impl FnOnce(&mut Self) -> Parsed<T>) -> Parsed<T> {
        self.nesting += 1;
        if self.nesting > MAX_NESTING {
            return self.fail("filters and parentheses nest deeper than 32");
        }
        let parsed = parse(self)?;
        self.nesting -= 1;
        Ok(parsed)
    }

    // === segments and selectors ===

    fn segments(&mut self) -> Parsed<Vec<Segment>> {
        let mut segments = Vec::new();
        loop {
            let before = self.at;
            self.blanks();
            let descendant = self.rest().starts_with("..");
            if descendant {
                self.at += 2;
            }
            let selectors = if self.rest().starts_with('[') {
                self.bracketed()?
            } else if descendant || self.take(".") {
                vec![self.shorthand()?]
            } else {
                // Blanks belong to a segment that follows, and to nobody otherwise.
                self.at = before;
                return Ok(segments);
            };
            segments.push(Segment { descendant, selectors });
        }
    }

    /// After a dot: `*` or a bare name.
    fn shorthand(&mut self) -> Parsed<Selector> {
        if self.take("*") {
            return Ok(Selector::Wildcard);
        }
        let first = |c: char| c.is_ascii_alphabetic() || c == '_' || !c.is_ascii();
        let rest = self.rest();
        let end = rest.find(|c: char| !(first(c) || c.is_ascii_digit())).unwrap_or(rest.len());
        let name = rest.get(..end).unwrap_or_default().to_owned();
        if !name.starts_with(first) {
            return self.fail("expected a name or `*`; other names stand in brackets and quotes: ['a-b']");
        }
        self.at += end;
        Ok(Selector::Name(name))
    }

    fn bracketed(&mut self) -> Parsed<Vec<Selector>> {
        self.at += 1;
        let mut selectors = Vec::new();
        loop {
            self.blanks();
            selectors.push(self.selector()?);
            self.blanks();
            if self.take("]") {
                return Ok(selectors);
            }
            if !self.take(",") {
                return self.fail("expected `,` or `]`");
            }
        }
    }

    fn selector(&mut self) -> Parsed<Selector> {
        match self.peek() {
            Some('\'' | '"') => Ok(Selector::Name(self.string()?)),
            Some('*') => {
                self.at += 1;
                Ok(Selector::Wildcard)
            }
            Some('?') => {
                self.at += 1;
                self.blanks();
                Ok(Selector::Filter(self.nested(Self::or)?))
            }
            Some('-' | '0'..='9' | ':') => self.index_or_slice(),
            _ => self.fail("expected a name in quotes, a number, `*`, `:` or `?`"),
        }
    }

    fn index_or_slice(&mut self) -> Parsed<Selector> {
        let start = self.optional_integer()?;
        let after_start = self.at;
        self.blanks();
        if !self.take(":") {
            self.at = after_start;
            return match start {
                Some(index) => Ok(Selector::Index(index)),
                None => self.fail("expected an index"),
            };
        }
        self.blanks();
        let end = self.optional_integer()?;
        self.blanks();
        let mut step = None;
        if self.take(":") {
            self.blanks();
            step = self.optional_integer()?;
        }
        Ok(Selector::Slice { start, end, step: step.unwrap_or(1) })
    }

    fn optional_integer(&mut self) -> Parsed<Option<i64>> {
        match self.peek() {
            Some('-' | '0'..='9') => {}
            _ => return Ok(None),
        }
        let rest = self.rest();
        let digits = rest.strip_prefix('-').unwrap_or(rest);
        let count = digits.bytes().take_while(u8::is_ascii_digit).count();
        let length = rest.len() - digits.len() + count;
        let written = rest.get(..length).unwrap_or_default();
        let zeros = written == "-0" || (count > 1 && digits.starts_with('0'));
        match written.parse::<i64>() {
            Ok(integer) if !zeros && integer.abs() <= MAX_INTEGER => {
                self.at += length;
                Ok(Some(integer))
            }
            _ => self.fail("expected an integer without leading zeros, up to 9007199254740991"),
        }
    }

    /// A string in single or double quotes.
    fn string(&mut self) -> Parsed<String> {
        let Some(quote) = self.peek() else { return self.fail("expected a string") };
        self.at += 1;
        let mut string = String::new();
        loop {
            let Some(character) = self.peek() else { return self.fail("a string is not closed") };
            match character {
                _ if character == quote => {
                    self.at += 1;
                    return Ok(string);
                }
                '\\' => {
                    self.at += 1;
                    string.push(self.escape(quote)?);
                }
                '\0'..='\u{1f}' => return self.fail("a control character in a string must be escaped"),
                _ => {
                    self.at += character.len_utf8();
                    string.push(character);
                }
            }
        }
    }

    fn escape(&mut self, quote: char) -> Parsed<char> {
        let character = match self.peek() {
            Some('b') => '\u{8}',
            Some('f') => '\u{c}',
            Some('n') => '\n',
            Some('r') => '\r',
            Some('t') => '\t',
            Some(character @ ('/' | '\\')) => character,
            Some(character) if character == quote => character,
            Some('u') => {
                self.at += 1;
                return self.unicode();
            }
            _ => return self.fail("unknown escape in a string"),
        };
        self.at += 1;
        Ok(character)
    }

    fn unicode(&mut self) -> Parsed<char> {
        let first = self.hex4()?;
        let code = if (0xD800..0xDC00).contains(&first) {
            if !self.take("\\u") {
                return self.fail("half of a surrogate pair in a string");
            }
            let second = self.hex4()?;
            if !(0xDC00..0xE000).contains(&second) {
                return self.fail("half of a surrogate pair in a string");
            }
            0x1_0000 + ((first - 0xD800) << 10) + (second - 0xDC00)
        } else {
            first
        };
        match char::from_u32(code) {
            Some(character) => Ok(character),
            None => self.fail("half of a surrogate pair in a string"),
        }
    }

    fn hex4(&mut self) -> Parsed<u32> {
        let digits =
            self.rest().get(..4).filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match digits.and_then(|digits| u32::from_str_radix(digits, 16).ok()) {
            Some(code) => {
                self.at += 4;
                Ok(code)
            }
            None => self.fail("expected four hexadecimal digits after `\\u`"),
        }
    }

    // === filters ===

    fn or(&mut self) -> Parsed<Logical> {
        let mut terms = vec![self.and()?];
        while self.operator("||") {
            terms.push(self.and()?);
        }
        Ok(single(terms, Logical::Or))
    }

    fn and(&mut self) -> Parsed<Logical> {
        let mut terms = vec![self.basic()?];
        while self.operator("&&") {
            terms.push(self.basic()?);
        }
        Ok(single(terms, Logical::And))
    }

    /// Takes an operator with the blanks around it.
    fn operator(&mut self, operator: &str) -> bool {
        let before = self.at;
        self.blanks();
        if self.take(operator) {
            self.blanks();
            return true;
        }
        self.at = before;
        false
    }

    fn basic(&mut self) -> Parsed<Logical> {
        if self.take("!") {
            self.blanks();
            let negated = if self.rest().starts_with('(') { self.parentheses()? } else { self.test()? };
            return Ok(Logical::Not(Box::new(negated)));
        }
        if self.rest().starts_with('(') {
            return self.parentheses();
        }
        self.test()
    }

    fn parentheses(&mut self) -> Parsed<Logical> {
        self.at += 1;
        self.blanks();
        let inner = self.nested(Self::or)?;
        self.blanks();
        if self.take(")") { Ok(inner) } else { self.fail("expected `)`") }
    }

    /// A comparison, or something that is true or false by itself.
    fn test(&mut self) -> Parsed<Logical> {
        let start = self.at;
        let term = self.term()?;
        let before = self.at;
        self.blanks();
        let Some(comparison) = self.comparison() else {
            self.at = before;
            return match term {
                Term::Query(query) => Ok(Logical::Exists(query)),
                Term::Logical(logical) => Ok(logical),
                Term::Operand(_) => {
                    self.fail("expected a comparison: a value by itself is neither true nor false")
                }
            };
        };
        self.blanks();
        let left = self.operand(term, start)?;
        let start = self.at;
        let right = self.term()?;
        let right = self.operand(right, start)?;
        Ok(Logical::Compare(left, comparison, right))
    }

    fn comparison(&mut self) -> Option<Comparison> {
        let operators = [
            ("==", Comparison::Equal),
            ("!=", Comparison::NotEqual),
            ("<=", Comparison::LessOrEqual),
            (">=", Comparison::GreaterOrEqual),
            ("<", Comparison::Less),
            (">", Comparison::Greater),
        ];
        operators.into_iter().find(|(text, _)| self.take(text)).map(|(_, comparison)| comparison)
    }

    /// What may stand on one side of a comparison.
    fn operand(&self, term: Term, at: usize) -> Parsed<Operand> {
        match term {
            Term::Operand(operand) => Ok(operand),
            Term::Query(query) if query.is_singular() => Ok(Operand::Query(query)),
            Term::Query(_) => Err(Mistake { at, reason: "only a path to a single value can be compared" }),
            Term::Logical(_) => {
                Err(Mistake { at, reason: "`match` and `search` are true or false and cannot be compared" })
            }
        }
    }

    fn term(&mut self) -> Parsed<Term> {
        match self.peek() {
            Some(root @ ('$' | '@')) => {
                self.at += 1;
                Ok(Term::Query(Query { from_root: root == '$', segments: self.segments()? }))
            }
            Some('\'' | '"') => Ok(Term::Operand(Operand::Literal(Value::string(self.string()?)))),
            Some('-' | '0'..='9') => self.number(),
            Some('a'..='z') => self.word(),
            _ => self.fail("expected `@`, `$`, a literal or a function"),
        }
    }

    fn number(&mut self) -> Parsed<Term> {
        match crate::parse::number_length(self.rest().as_bytes()) {
            Ok(length) => {
                let text = self.rest().get(..length).unwrap_or_default().to_owned();
                self.at += length;
                Ok(Term::Operand(Operand::Literal(
                    Number::from_text(text).map_or(Value::Null, Value::Number),
                )))
            }
            Err((good, reason)) => {
                self.at += good;
                self.fail(reason)
            }
        }
    }

    /// `true`, `false`, `null` or a function.
    fn word(&mut self) -> Parsed<Term> {
        let start = self.at;
        let rest = self.rest();
        let end = rest
            .find(|c: char| !(c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_'))
            .unwrap_or(rest.len());
        let word = rest.get(..end).unwrap_or_default().to_owned();
        self.at += end;
        if self.take("(") {
            return self.function(&word, start);
        }
        let literal = match word.as_str() {
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            "null" => Value::Null,
            _ => return Err(Mistake { at: start, reason: "expected `true`, `false`, `null` or a function" }),
        };
        Ok(Term::Operand(Operand::Literal(literal)))
    }

    /// After the opening parenthesis.
    fn function(&mut self, name: &str, start: usize) -> Parsed<Term> {
        let known = matches!(name, "length" | "count" | "value" | "match" | "search");
        if !known {
            return Err(Mistake {
                at: start,
                reason: "unknown function; there are length, count, value, match and search",
            });
        }
        let at = self.argument_start();
        let first = self.nested(Self::term)?;
        let term = match name {
            "length" => Term::Operand(Operand::Length(Box::new(self.operand(first, at)?))),
            "count" => Term::Operand(Operand::Count(query(first, at)?)),
            "value" => Term::Operand(Operand::Value(query(first, at)?)),
            _ => {
                let subject = self.operand(first, at)?;
                self.blanks();
                if !self.take(",") {
                    return self.fail("expected `,` and a regular expression");
                }
                let at = self.argument_start();
                let second = self.nested(Self::term)?;
                let whole = name == "match";
                let pattern = match self.operand(second, at)? {
                    Operand::Literal(Value::String(text)) => Pattern::compile(&text, whole),
                    pattern => Pattern::Computed { pattern, whole },
                };
                Term::Logical(Logical::Matches { subject, pattern })
            }
        };
        self.blanks();
        if self.take(")") { Ok(term) } else { self.fail("expected `)`") }
    }

    fn argument_start(&mut self) -> usize {
        self.blanks();
        self.at
    }
}

/// A part of a filter before it is known where it stands.
enum Term {
    Query(Query),
    Operand(Operand),
    Logical(Logical),
}

fn query(term: Term, at: usize) -> Parsed<Query> {
    match term {
        Term::Query(query) => Ok(query),
        Term::Operand(_) | Term::Logical(_) => Err(Mistake { at, reason: "expected a path" }),
    }
}

fn single(mut terms: Vec<Logical>, many: fn(Vec<Logical>) -> Logical) -> Logical {
    match terms.pop() {
        Some(only) if terms.is_empty() => only,
        Some(last) => {
            terms.push(last);
            many(terms)
        }
        None => many(terms),
    }
}

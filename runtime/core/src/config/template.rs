//! Where the expressions of a text stand: for an adapter that treats what they give apart from what was written, as a URL
//! does.
//!
//! Only their bounds are found here; what is between `${` and `}` is for the engine, which also says what is wrong with it.

/// A part of a text that may hold expressions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Piece<'a> {
    /// As written.
    Literal(&'a str),
    /// An expression, with its `${` and `}`.
    Expression(&'a str),
}

/// Takes a text apart. `None` when an expression does not end. `$${` is a literal `${`, and stays as it is written.
pub fn split_expressions(text: &str) -> Option<Vec<Piece<'_>>> {
    let mut pieces = Vec::new();
    let (mut written, mut from) = (0, 0);
    while let Some(found) = text.get(from..)?.find("${") {
        let start = from + found;
        from = start + 2;
        if text.get(..start)?.ends_with('$') {
            continue;
        }
        let expression = text.get(start..)?;
        let end = start + length(expression)?;
        if written < start {
            pieces.push(Piece::Literal(text.get(written..start)?));
        }
        pieces.push(Piece::Expression(text.get(start..end)?));
        (written, from) = (end, end);
    }
    if written < text.len() {
        pieces.push(Piece::Literal(text.get(written..)?));
    }
    Some(pieces)
}

/// Whether what follows this beginning of an expression stands in a string or a comment of it.
pub fn ends_in_string(beginning: &str) -> bool {
    let mut lexer = Lexer { text: beginning, at: 0, word_start: 0 };
    while lexer.at < beginning.len() {
        if lexer.next().is_none() {
            return true;
        }
    }
    false
}

/// How long the expression at the start of `text` is.
fn length(text: &str) -> Option<usize> {
    let mut lexer = Lexer { text, at: 0, word_start: 0 };
    let mut depth = 0_usize;
    loop {
        match lexer.next()? {
            '{' => depth += 1,
            '}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(lexer.at);
                }
            }
            _ => {}
        }
    }
}

/// Goes over an expression as far as its strings and comments want. Braces in strings and comments do not count: CEL has
/// strings in single and double quotes, in three of them, and raw ones, where a backslash is only a backslash.
struct Lexer<'t> {
    text: &'t str,
    at: usize,
    word_start: usize,
}

impl Lexer<'_> {
    /// The next character, strings and comments taken as a whole and known by their first. `None` at the end, and when a
    /// string or a comment does not end.
    fn next(&mut self) -> Option<char> {
        let rest = self.text.get(self.at..)?;
        let c = rest.chars().next()?;
        match c {
            '\'' | '"' => {
                let word = self.text.get(self.word_start..self.at)?.to_ascii_lowercase();
                self.at += string_length(rest, c, matches!(word.as_str(), "r" | "br" | "rb"))?;
                self.word_start = self.at;
            }
            '/' if rest.starts_with("//") => {
                self.at += rest.find('\n')?;
                self.word_start = self.at;
            }
            _ => {
                self.at += c.len_utf8();
                if !c.is_alphanumeric() && c != '_' {
                    self.word_start = self.at;
                }
            }
        }
        Some(c)
    }
}

/// How long the string at the start of `text` is, quotes included.
fn string_length(text: &str, quote: char, is_raw: bool) -> Option<usize> {
    let triple: String = std::iter::repeat_n(quote, 3).collect();
    let quotes = if text.starts_with(&triple) { triple.as_str() } else { text.get(..1)? };
    let mut at = quotes.len();
    loop {
        let rest = text.get(at..)?;
        if rest.starts_with(quotes) {
            return Some(at + quotes.len());
        }
        let c = rest.chars().next()?;
        at += c.len_utf8();
        if c == '\\' && !is_raw {
            at += text.get(at..)?.chars().next()?.len_utf8();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Piece::*, *};

    #[test]
    fn the_bounds_are_those_of_the_language() {
        for (text, expected) in [
            ("", vec![]),
            ("plain $ {}", vec![Literal("plain $ {}")]),
            ("${a}", vec![Expression("${a}")]),
            ("x${a}${b}/y", vec![Literal("x"), Expression("${a}"), Expression("${b}"), Literal("/y")]),
            ("${ {'a': {'b': 1}}.a.b }!", vec![Expression("${ {'a': {'b': 1}}.a.b }"), Literal("!")]),
            (r#"${'}' + "}\"}"}z"#, vec![Expression(r#"${'}' + "}\"}"}"#), Literal("z")]),
            (r"${r'\'}z", vec![Expression(r"${r'\'}"), Literal("z")]),
            (r"${bR'\'}z", vec![Expression(r"${bR'\'}"), Literal("z")]),
            (r"${xr'\'}'}z", vec![Expression(r"${xr'\'}'}"), Literal("z")]),
            ("${a // '}\n}z", vec![Expression("${a // '}\n}"), Literal("z")]),
            ("${'''it's }'''}z", vec![Expression("${'''it's }'''}"), Literal("z")]),
            ("${''}z", vec![Expression("${''}"), Literal("z")]),
            ("a$${b}${c}$${", vec![Literal("a$${b}"), Expression("${c}"), Literal("$${")]),
            ("${'ü}'}ü", vec![Expression("${'ü}'}"), Literal("ü")]),
        ] {
            assert_eq!(split_expressions(text).as_deref(), Some(&*expected), "{text}");
        }
        for open in ["${", "${a", "${'}", "a${b}${{}", "${'\\"] {
            assert_eq!(split_expressions(open), None, "{open}");
        }
    }

    #[test]
    fn a_string_that_is_open_is_known() {
        for text in ["a == '", "a == \"x", r"r'\' + '", r#""""a"b""#, "a // it", "'''it's "] {
            assert!(ends_in_string(text), "{text}");
        }
        for text in ["", "a == ", "'x' + ", r"r'\' + ", r#""""a"b""" + "#, "a // it\n + "] {
            assert!(!ends_in_string(text), "{text}");
        }
    }
}

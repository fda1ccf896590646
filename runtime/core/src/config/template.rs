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

/// How long the expression at the start of `text` is. Braces in strings and comments do not count: CEL has strings in
/// single and double quotes, in three of them, and raw ones, where a backslash is only a backslash.
fn length(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut word_start = 0;
    let mut at = 0;
    loop {
        let rest = text.get(at..)?;
        let c = rest.chars().next()?;
        match c {
            '{' => depth += 1,
            '}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at + 1);
                }
            }
            '\'' | '"' => {
                let is_raw =
                    matches!(text.get(word_start..at)?.to_ascii_lowercase().as_str(), "r" | "br" | "rb");
                at += string_length(rest, c, is_raw)?;
                word_start = at;
                continue;
            }
            '/' if rest.starts_with("//") => {
                at += rest.find('\n')?;
                word_start = at;
                continue;
            }
            _ => {}
        }
        at += c.len_utf8();
        if !c.is_alphanumeric() && c != '_' {
            word_start = at;
        }
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
}

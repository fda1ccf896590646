//! Which headers of a message go along to another protocol: what stands under `forward_headers` of a sink.

use crate::message::check_header;

/// Names of headers, and beginnings of names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HeaderPatterns(Vec<HeaderPattern>);

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderPattern {
    /// This header.
    Name(Box<str>),
    /// All whose names begin so.
    Begins(Box<str>),
}

// === impl HeaderPatterns ===

impl HeaderPatterns {
    /// From names, of which a `*` may stand at the end. `allowed` says of each name, or beginning of one, why the protocol does not take
    /// it.
    ///
    /// # Errors
    /// The index of each text that is none, with what is wrong, to follow the text.
    pub fn parse(
        texts: &[String],
        allowed: impl Fn(&str) -> Result<(), &'static str>,
    ) -> Result<Self, Vec<(usize, &'static str)>> {
        let (mut patterns, mut problems) = (Vec::with_capacity(texts.len()), Vec::new());
        for (index, text) in texts.iter().enumerate() {
            let pattern = HeaderPattern::parse(text);
            match pattern.and_then(|pattern| allowed(pattern.text()).map(|()| pattern)) {
                Ok(pattern) => patterns.push(pattern),
                Err(problem) => problems.push((index, problem)),
            }
        }
        if problems.is_empty() { Ok(Self(patterns)) } else { Err(problems) }
    }

    /// Whether a header of this name is one of them.
    pub fn takes(&self, name: &str) -> bool {
        self.0.iter().any(|pattern| match pattern {
            HeaderPattern::Name(wanted) => **wanted == *name,
            HeaderPattern::Begins(prefix) => name.starts_with(&**prefix),
        })
    }
}

// === impl HeaderPattern ===

impl HeaderPattern {
    fn parse(text: &str) -> Result<Self, &'static str> {
        let (name, begins) = text.strip_suffix('*').map_or((text, false), |name| (name, true));
        let probe = if begins { format!("{name}x") } else { name.to_owned() };
        if name.contains('*') {
            Err("has a `*` that is not at its end")
        } else if check_header(&probe, "").is_err() {
            Err("is no name of a header, which is in lower case, without spaces and colons")
        } else if begins {
            Ok(Self::Begins(name.into()))
        } else {
            Ok(Self::Name(name.into()))
        }
    }

    /// The name, or its beginning.
    pub fn text(&self) -> &str {
        match self {
            Self::Name(text) | Self::Begins(text) => text,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Result<HeaderPatterns, Vec<(usize, &'static str)>> {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        HeaderPatterns::parse(&texts, |name| if name == "mine" { Err("is taken") } else { Ok(()) })
    }

    #[test]
    fn a_name_is_itself_and_a_star_stands_for_what_follows() {
        let all = ["order-id", "order-line", "trace"];
        for (texts, taken) in [
            (&["*"][..], &all[..]),
            (&["order-*"], &all[..2]),
            (&["trace", "order-id"], &["order-id", "trace"]),
            (&["order"], &[]),
            (&[], &[]),
        ] {
            let patterns = patterns(texts).unwrap();
            let got: Vec<_> = all.into_iter().filter(|name| patterns.takes(name)).collect();
            assert_eq!(got, taken, "{texts:?}");
        }
    }

    #[test]
    fn what_is_no_pattern_or_not_allowed_is_named() {
        let problems = patterns(&["good", "a*b", "**", "A*", "", "mine"]).unwrap_err();
        assert_eq!(problems.iter().map(|(index, _)| *index).collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
        assert_eq!(problems.last().unwrap().1, "is taken");
    }
}
